"""Cards of a store: a dataset card, Croissant metadata and a STAC collection, made from what the store records."""
