"""Earth Engine's REST interface on loopback, over the synthetic planet."""
