"""Robustness: how much a probe loses when its test images change in ways that happen in practice."""
