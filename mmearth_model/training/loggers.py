"""Loggers in addition to the run's own ``log.csv``."""

from __future__ import annotations

import importlib.util
import uuid
from typing import TYPE_CHECKING

from mmearth_data import InputError, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lightning.pytorch.loggers import Logger

WANDB_ID = "wandb-id.txt"


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers whose library, no dependency of the package, is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"--logger {name}: expected the library {name}, got none installed; pip install {name}.")


def open_loggers(names: Sequence[str], run: Path, first_step: int) -> list[Logger]:
    """Open loggers that write into the folder of a run that continues after a step.

    W&B follows its own environment (``WANDB_MODE=offline``). It ignores steps that it already has; a resumed run
    computes the same values for them.
    """
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    opened: list[Logger] = []
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            opened.append(TensorBoardLogger(str(run), name, version="", purge_step=first_step + 1))
        else:
            opened.append(WandbLogger(run.name, str(run), project="mmearth", id=wandb_id(run), resume="allow"))
    return opened


def wandb_id(run: Path) -> str:
    """Return the unique W&B id of a run; for runs started with earlier versions, the name of the run's folder."""
    file = run / WANDB_ID
    if not file.is_file():
        write_text(file, run.name if (run / "wandb").is_dir() else uuid.uuid4().hex)
    return file.read_text(encoding="utf-8")


def close_loggers(loggers: Sequence[Logger]) -> None:
    """Flush loggers, and finish W&B's run, which the next run of this process would otherwise continue."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
