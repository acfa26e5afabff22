"""Checkpoints, and the weights of other programs."""
