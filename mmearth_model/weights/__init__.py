"""Checkpoints, and conversion of third-party weights."""
