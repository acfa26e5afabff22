"""Deliver tiles in seeded, shuffled batches."""
