"""A local web page to browse the tiles of a store of any size."""
