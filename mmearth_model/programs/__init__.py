"""Programs: an encoder or a network with its normalisation, exported to run without this package."""
