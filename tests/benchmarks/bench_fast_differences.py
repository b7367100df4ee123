"""How far fused training is from training alone.

Measured: the largest difference between the losses of eight classroom CNNs (rates) in one group and of the same eight alone,
after one step and after ten with Adam on the same batch of 100, in float32 and in float64.
Device: one core and one thread (on a GPU: that). Once each: the figures have no noise.
"""

from fast import run_rows

run_rows("differences")
