"""Loggers in addition to the run's own ``log.csv``."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from mmearth_data import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lightning.pytorch.loggers import Logger


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers whose library, no dependency of the package, is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"--logger {name}: expected the library {name}, got none installed; pip install {name}.")


def open_loggers(names: Sequence[str], run: Path) -> list[Logger]:
    """Open loggers that write into a run's folder; W&B follows its own environment (``WANDB_MODE=offline``)."""
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    opened: list[Logger] = []
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            opened.append(TensorBoardLogger(save_dir=str(run), name="tensorboard", version=""))
        else:
            opened.append(WandbLogger(project="mmearth", name=run.name, save_dir=str(run), id=run.name, resume="allow"))
    return opened


def close_loggers(loggers: Sequence[Logger]) -> None:
    """Flush loggers, and finish W&B's run, which the next run of this process would otherwise continue."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
