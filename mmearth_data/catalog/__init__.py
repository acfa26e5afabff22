"""Modalities and tiles as values, and the catalog that describes them."""
