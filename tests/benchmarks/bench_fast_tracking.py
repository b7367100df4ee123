"""What tracking adds to a step, and what share of a bare step over tensors that is.

Measured: `track_loss(loss)` and `track_num_correct(preds, labels)` beyond the same sums written by hand on detached tensors, ten
classes, batches of 100 and of 1,000; on a GPU whatever waits for the device meanwhile is an error.
Against: a step of the classroom's network with Adam over a batch that is there already.
Device: one core and one thread (on a GPU: that). 5 fresh processes with 30 blocks of 300 steps each, the two taking turns;
median and p10..p90 of the processes.
"""

from fast import run_rows

run_rows("tracking")
