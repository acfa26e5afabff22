"""A synthetic Earth: every modality as a function of location and time. Never measured."""
