"""64 runs of the classroom CNN, a few steps each: fused or not as the tool chooses, against unfused.

Measured: the training, from the first run's begin to the last run's end, of 4 rates x 4 decays x 4 seeds at batch 100, 2 epochs
of 18 steps on 1,800 images, without TensorBoard and saved states, with `--fuse auto`.
Against: `--fuse off` with as many workers (on a GPU also with four, whichever is faster); fused whatever the tool would choose;
on a GPU the classroom's loop.
Device: all cores, one worker each (on a GPU: one worker). 5 rounds, interleaved, each side a fresh process in a fresh project;
median and p10..p90 of the ratios round by round.
"""

from fast import run_rows

run_rows("cnn-64")
