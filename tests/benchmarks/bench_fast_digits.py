"""Networks so small that a step is all overhead: fused against one at a time.

Measured: the training, from the first run's begin to the last run's end, of 128 and of 32 runs (rates x decays) of a 64-32-10
network on scikit-learn's digits, or random ones of that shape where it is missing, at batch 32, 10 epochs of 51 steps, all in
one group; once without TensorBoard and saved states, once with both.
Against: the same with `--fuse off`.
Device: one core and one thread for both (on a GPU: that). 5 rounds, interleaved, each side a fresh process in a fresh project;
median and p10..p90 of the ratios round by round.
"""

from fast import run_rows

run_rows("digits-128", "digits-32")
