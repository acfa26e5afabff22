"""A run folder: recipe and store, log, and checkpoints, which are written atomically.

::

    RUN/run.json                 recipe and store, which must not change when the run is continued
    RUN/.claim                   the process that trains it, until it ends
    RUN/log.csv                  losses and learning rate, one row per 50 steps or epoch
    RUN/step-00001200/           the checkpoint (see `mmearth_model.weights.checkpoints`); state/ in it continues the run
"""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from mmearth_data import (
    FileInputError,
    InputError,
    RetryLater,
    check_output,
    differences,
    is_data,
    remove_partial,
    staged_folder,
    write_text,
)
from mmearth_model.claims import claim
from mmearth_model.network.positions import ENGINES
from mmearth_model.training.layout import LOG_FILE, RUN_FILE, STEP_PREFIX
from mmearth_model.training.log import Log
from mmearth_model.training.recipe import TrainRecipe
from mmearth_model.weights.checkpoints import checkpoints_of, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path


FORMAT = 1
CLAIM = ".claim"


class RunTaken(RetryLater):
    """Another process trains the run, or died less than `mmearth_model.claims.STALE_S` ago on another machine."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder on disk."""

    folder: Path  # holds one run and nothing else

    @classmethod
    def check(cls, folder: Path, identity: Mapping[str, Any]) -> Self:
        """Check, without writing, that a run can start or continue in this folder.

        Raises `InputError` when it has other files, or a run with another recipe or store (with the differences).
        """
        folder = folder.absolute()
        if not folder.exists():
            return cls(folder)
        if not folder.is_dir() or not (folder / RUN_FILE).is_file():
            if folder.is_dir() and not any(is_data(path.name) for path in folder.iterdir()):
                return cls(folder)
            raise InputError(f"{folder}: expected a new folder or a run, got something else; choose another --out.")
        recorded = _read_record(folder / RUN_FILE)
        _check_engine(folder / RUN_FILE, recorded["recipe"])
        defaults = TrainRecipe().identity()  # of fields that were added since
        recipes = (defaults | dict(part) for part in (recorded["recipe"], identity["recipe"]))
        stores = (
            dict(part) | {"path": "", "relative": ""} for part in (recorded["store"], identity["store"])
        )  # it may move
        different = [*differences(*recipes), *differences(*stores)]
        if different:
            raise InputError(
                f"{folder}: expected the recipe and store of the run in it, got others ({'; '.join(different)}); "
                "continue it with the same options, or choose another --out."
            )
        return cls(folder)

    @contextmanager
    def hold(self, identity: Mapping[str, Any], latest: Path | None) -> Iterator[None]:
        """Create the folder, or continue after the checkpoint ``latest``, for one process at a time.

        Raises
        ------
        RunTaken
            If another process trains the run, or has trained it since ``latest`` was read.
        WriteFailed, InputError
            If the folder cannot be written, or another process has started another run in it.
        """
        check_output(self.folder, folder=True)
        with claim(self.folder / CLAIM) as ours:
            self.check(self.folder, identity)
            if not ours or self.latest() != latest:
                raise RunTaken(
                    f"{self.folder}: another process is training this run; wait until it ends and run the same command "
                    "again, or choose another --out."
                )
            if not (self.folder / RUN_FILE).exists():
                write_text(self.folder / RUN_FILE, json.dumps({"format": FORMAT, **identity}, indent=2) + "\n")
            remove_partial(self.folder)
            yield

    def latest(self) -> Path | None:
        """Find the last complete checkpoint, if there is one."""
        return next(reversed(checkpoints_of(self.folder)), None)

    def publish(self, step: int, write: Callable[[Path], None], *, keep: int) -> Path:
        """Publish the folder that ``write`` fills as the checkpoint of a step; delete all but the last ``keep``."""
        folder = self.folder / f"{STEP_PREFIX}{step:08d}"
        with staged_folder(folder) as staged:
            write(staged)
        for old in checkpoints_of(self.folder)[:-keep]:
            shutil.rmtree(old)
        return folder

    def log(self, columns: Iterable[str]) -> Log:
        """Open the run's table of losses."""
        return Log(self.folder / LOG_FILE, tuple(columns))


def _check_engine(path: Path, recipe: Mapping[str, Any]) -> None:
    """Refuse to continue a run whose engine no longer exists."""
    engine = recipe.get("engine", "auto")
    if engine not in ENGINES:
        raise FileInputError(
            path,
            f"expected engine {', '.join(ENGINES)}, got {engine!r}, which this version does not have; write "
            "gathered (equal up to rounding) there and add --engine gathered to continue, or choose another --out.",
        )


def _read_record(path: Path) -> dict[str, Any]:
    """Read the recipe and store of a run."""
    content: dict[str, Any] = read_json(path, "the record of a run", "; choose another --out")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in ("recipe", "store")):
        raise FileInputError(path, "expected the record of a run, with its recipe and store, got something else; choose another --out.")  # fmt: skip
    return content
