"""The network: encoder, MP-MAE, masks and losses."""
