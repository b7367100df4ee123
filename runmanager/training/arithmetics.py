"""The names of the ways in which runs are trained together or alone. Imports nothing."""

VMAP, LOOPED = "vmap", "looped convolutions"
"""torch.func's own arithmetic for every layer, or with each network's convolutions one after another."""

ARITHMETICS = (VMAP, LOOPED)
ALONE = "one by one"
