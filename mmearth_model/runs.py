"""A run folder: what was asked, what was logged, and checkpoints that are whole or not there.

::

    RUN/run.json                 recipe and store: what must not change when the run is continued
    RUN/log.csv                  losses and learning rate, one row per stretch of steps
    RUN/step-00001200/           the checkpoint (see `mmearth_model.checkpoints`); state/ in it continues the run
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from mmearth_data import FileInputError, InputError, reason_of
from mmearth_model.recipe import TrainRecipe, differences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

RUN_FILE = "run.json"
LOG_FILE = "log.csv"
STEP_PREFIX = "step-"
PARTIAL_PREFIX = ".partial-"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder on disk.

    Attributes
    ----------
    folder
        Holds one run and nothing else.
    """

    folder: Path

    @classmethod
    def check(cls, folder: Path, identity: Mapping[str, Any]) -> Self:
        """Look whether a run can start, or be continued, in this folder; touch nothing.

        Raises
        ------
        InputError
            When something else lies there, or a run with another recipe or store (says what differs).
        """
        if not folder.exists():
            return cls(folder)
        if not folder.is_dir() or not (folder / RUN_FILE).is_file():
            if folder.is_dir() and not any(folder.iterdir()):
                return cls(folder)
            raise InputError(f"{folder}: expected a new folder or a run, got something else; choose another --out.")
        recorded = _read_record(folder / RUN_FILE)
        defaults = TrainRecipe().identity()  # of fields that were added since
        recipes = (defaults | dict(part) for part in (recorded["recipe"], identity["recipe"]))
        stores = (dict(part) | {"path": ""} for part in (recorded["store"], identity["store"]))  # it may move
        different = [*differences(*recipes), *differences(*stores)]
        if different:
            raise InputError(
                f"{folder}: expected the run that stands there, got another one ({'; '.join(different)}); "
                "continue it with the same options, or choose another --out."
            )
        return cls(folder)

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Create the folder, and clear what an interrupted write has left.

        Raises
        ------
        InputError
            When the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / RUN_FILE).exists():
                write_text(self.folder / RUN_FILE, json.dumps({"format": FORMAT, **identity}, indent=2) + "\n")
        except OSError as error:
            raise InputError(
                f"{self.folder}: expected a folder that can be written, got: {reason_of(error)}; choose another --out."
            ) from None
        for left in self.folder.glob(f"{PARTIAL_PREFIX}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(self.folder.glob(f"{STEP_PREFIX}*"), key=lambda path: int(path.name.removeprefix(STEP_PREFIX)))

    def latest(self) -> Path | None:
        """Find the last whole checkpoint, if there is one."""
        found = self.checkpoints()
        return found[-1] if found else None

    def publish(self, step: int, write: Callable[[Path], None], *, keep: int) -> Path:
        """Let ``write`` fill a folder and make it the checkpoint of this step; drop all but the last ``keep``."""
        folder = publish_folder(self.folder / f"{STEP_PREFIX}{step:08d}", write)
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old)
        return folder

    def log(self, columns: Iterable[str]) -> Log:
        """Open the run's table of losses."""
        return Log(self.folder / LOG_FILE, tuple(columns))


@dataclass(frozen=True, slots=True)
class Log:
    """A CSV table that grows by one row per stretch of steps; the column ``step`` rises."""

    path: Path
    columns: tuple[str, ...]

    def rewind(self, step: int) -> None:
        """Drop rows after this step: they will be written again."""
        rows = [row for row in read_log(self.path) if int(row["step"]) <= step] if self.path.exists() else []
        partial = self.path.with_name(PARTIAL_PREFIX + self.path.name)
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path)

    def append(self, row: Mapping[str, float]) -> None:
        """Add one row."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)


def read_log(path: Path) -> list[dict[str, str]]:
    """Rows of a run's ``log.csv``."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def publish_folder(target: Path, write: Callable[[Path], None]) -> Path:
    """Write a folder beside its place, then move it there: whole or not at all.

    Parameters
    ----------
    target
        Final place; what stands there is replaced.
    write
        Fills the folder that it is given.
    """
    partial = target.with_name(f"{PARTIAL_PREFIX}{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        for path in partial.rglob("*"):
            if path.is_file():
                _sync(path)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync(target.parent)
    return target


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    partial = path.with_name(PARTIAL_PREFIX + path.name)
    partial.write_text(text, encoding="utf-8")
    _sync(partial)
    partial.replace(path)


def _sync(path: Path) -> None:
    """Have the disk hold it before anything refers to it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_record(path: Path) -> dict[str, Any]:
    """Read what a run wrote of its recipe and its store."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileInputError(
            path, f"expected the record of a run, got: {reason_of(error)}; choose another --out."
        ) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in ("recipe", "store")):
        raise FileInputError(path, "expected the record of a run, with its recipe and store, got something else; choose another --out.")  # fmt: skip
    return content
