"""Which run is trained where and when."""
