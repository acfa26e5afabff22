"""Earth Engine's algorithms."""
