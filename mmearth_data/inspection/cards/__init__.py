"""Cards of a store: a dataset card, Croissant metadata and a STAC collection, all made of facts that are in the store."""
