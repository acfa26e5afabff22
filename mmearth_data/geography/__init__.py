"""Regions, ecoregions and equal-area cells."""
