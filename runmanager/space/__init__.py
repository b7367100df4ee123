"""What to try."""
