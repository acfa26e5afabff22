"""Inspect a store: a summary, a figure of one tile with all its modalities, and a map of its tiles."""
