"""Files that users bring and that are written: listing, tables, YAML, rasters."""
