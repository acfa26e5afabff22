"""Names in a run folder, for programs that read one without PyTorch; `mmearth_model.training.runs` shows the layout."""

from __future__ import annotations

RUN_FILE = "run.json"
LOG_FILE = "log.csv"
STEP_PREFIX = "step-"
"""Name of a checkpoint in a run folder, without its step."""
CONFIG_FILE = "config.json"
"""Configuration of a checkpoint or of a fine-tuned network, in its folder."""
MODEL_FILE = "model.safetensors"
"""Weights of a checkpoint."""
CARD_FILE, ITEM_FILE = "README.md", "item.json"
"""Cards of a checkpoint (`mmearth_model.weights.cards`)."""
FIGURES = "figures"
"""Folder of the pictures of reconstructions, one per step at which they were drawn."""
WEIGHT_PREFIX = "weight:"
"""Column of the log with the weight of a task, without the task's name."""
