"""Whether `--fuse auto` finds the better of fused and unfused.

Measured: the training, from the first run's begin to the last run's end, of 16 runs (rates) at batch 100, 2 epochs of 45 steps,
without TensorBoard and saved states, for six families of networks: two CNNs, an MLP, with BatchNorm, with dropout, a small
transformer. Choosing comes before the first run begins; what it adds, by the difference of the leads, is told apart.
Against: the faster of `--fuse off` and all in one group.
Device: one core and one thread (on a GPU: that). 5 rounds, interleaved, each side a fresh process in a fresh project; median and
p10..p90 of the ratios round by round.
"""

from fast import run_rows

run_rows("auto")
