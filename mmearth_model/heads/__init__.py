"""Networks for a task: an encoder with a head, the folder that stores them, and their answers."""
