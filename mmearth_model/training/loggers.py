"""Where losses are told beside the run's own ``log.csv``."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Literal, get_args

from mmearth_data import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lightning.pytorch.loggers import Logger

LoggerName = Literal["tensorboard", "wandb"]
NEEDED = {"tensorboard": "tensorboard", "wandb": "wandb"}
"""Logger -> the library that it needs, which is no dependency of the package."""


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that cannot be."""
    for name in names:
        if name not in get_args(LoggerName):
            raise InputError(f"--logger: expected {' or '.join(get_args(LoggerName))}, got {name!r}.")
        if importlib.util.find_spec(NEEDED[name]) is None:
            raise InputError(
                f"--logger {name}: expected the library {NEEDED[name]}, got a Python without; pip install {NEEDED[name]}."
            )


def open_loggers(names: Sequence[str], run: Path) -> list[Logger]:
    """Open loggers that write below a run's folder; W&B follows its own environment (``WANDB_MODE=offline``)."""
    check_loggers(names)
    opened: list[Logger] = []
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            from lightning.pytorch.loggers import TensorBoardLogger

            opened.append(TensorBoardLogger(save_dir=str(run), name="tensorboard", version=""))
        else:
            from lightning.pytorch.loggers import WandbLogger

            opened.append(WandbLogger(project="mmearth", name=run.name, save_dir=str(run), id=run.name, resume="allow"))
    return opened


def close_loggers(loggers: Sequence[Logger]) -> None:
    """Write what is left, and end W&B's run: the next one in this process would go on with it."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
