"""Names in a run folder, for programs that read one without PyTorch; `mmearth_model.training.runs` shows the layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

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
PROGRAM_DESCRIPTION = "mmearth"
"""Key of the description in the metadata of an exported ONNX file; with ``.json``, its name in a .pt2 file."""
LEVEL = "level"
"""Input of an exported program with the product level of each image, if its statistics depend on it."""


def numbered(folder: Path, suffix: str = "") -> list[Path]:
    """Entries ``step-N`` of a folder in order of N; other names, such as those of copies, are ignored."""
    found = [path for path in folder.glob(f"{STEP_PREFIX}*{suffix}") if path.suffix == suffix]
    return sorted((path for path in found if path.stem.removeprefix(STEP_PREFIX).isdecimal()), key=step_of)


def step_of(path: Path) -> int:
    """N of an entry ``step-N``."""
    return int(path.stem.removeprefix(STEP_PREFIX))
