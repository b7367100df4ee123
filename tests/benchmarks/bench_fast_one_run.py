"""One run on one core, against the classroom's loop.

Measured: the run, from its begin to its end, of `runmanager launch --workers 1` on full Fashion-MNIST: the classroom's network,
Adam, 3 epochs, 0.1 of the images held out for validation, batches of 100 and of 1,000; TensorBoard, tables and a saved state
after each epoch. The whole command, which imports torch and reads the images first, is given too.
Against: runmanager/launching/classroom.py on the same sweep, which does the same work with a DataLoader, `.item()` at each step,
SummaryWriter and a pandas table, and has to reach the same losses to the last bit.
Device: one core and one thread for both (on a GPU: that). 5 rounds, interleaved, each side a fresh process in a fresh project;
median and p10..p90 of the ratios round by round.
"""

from fast import run_rows

run_rows("one-100", "one-1000")
