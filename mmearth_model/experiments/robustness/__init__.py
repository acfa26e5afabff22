"""Robustness: how much a probe loses when its test images change in ways that occur in practice."""
