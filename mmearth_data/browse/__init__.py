"""A local page on which to look at the tiles of a store, however many."""
