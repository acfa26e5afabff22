"""Loggers in addition to the run's own ``log.csv``."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from mmearth_data import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch.loggers import Logger

    from mmearth_model.training.runs import Run


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers whose library, no dependency of the package, is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"--logger {name}: expected the library {name}, got none installed; pip install {name}.")


def open_loggers(names: Sequence[str], run: Run, first_step: int) -> list[Logger]:
    """Open loggers of a run that continues after a step; W&B follows its own environment (``WANDB_MODE=offline``).

    W&B ignores steps that it already has; a resumed run computes the same values for them.
    """
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    opened: list[Logger] = []
    for name in dict.fromkeys(names):
        folder = str(run.folder)
        if name == "tensorboard":
            opened.append(TensorBoardLogger(folder, name, version="", purge_step=first_step + 1))
        else:
            opened.append(WandbLogger(run.folder.name, folder, project="mmearth", id=run.id, resume="allow"))
    return opened


def close_loggers(loggers: Sequence[Logger]) -> None:
    """Flush loggers, and finish W&B's run, which the next run of this process would otherwise continue."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
