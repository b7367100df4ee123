"""How a run is measured and remembered."""
