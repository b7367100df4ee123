"""Recipes: what a run may do beside forward, loss, backward and step. Each is off unless a Trainer or a grid names it."""
