"""How a group of runs takes steps."""
