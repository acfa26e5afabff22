"""States of a tile that compiled loops decode."""

DONE, FOREIGN, BROKEN = 0, 1, 2
"""Foreign: a frame that Blosc may write but this project does not; it is left to Blosc."""
