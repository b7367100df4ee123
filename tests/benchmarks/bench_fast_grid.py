"""The classroom's eight runs, whole command against whole command.

Measured: `runmanager launch --workers 2`, lr x batch_size x shuffle on full Fashion-MNIST, 3 epochs each, from the command's
start to its end: imports, reading, training, validation, TensorBoard, tables, saved states.
Against: `python -m runmanager.launching.classroom` on the same sweep, one process with one thread (with two it is slower).
Device: 2 cores (on a GPU: one worker, fused as the tool chooses). 5 rounds, interleaved, each side a fresh process in a fresh
project; median and p10..p90 of the ratios round by round.
"""

from fast import run_rows

run_rows("grid")
