"""Cards of a checkpoint or a network: a model card and a STAC item, made from what its folder records."""
