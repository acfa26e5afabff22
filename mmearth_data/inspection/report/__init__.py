"""Report of a store as one HTML page."""
