"""Networks for a task: an encoder with a head, their folders, and their predictions."""
