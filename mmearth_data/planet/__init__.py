"""An Earth of our own: every modality as a function of place and time. Never measured."""
