"""A run folder: what was asked, what was logged, and checkpoints that are whole or not there.

::

    RUN/run.json                 recipe and store: what must not change when the run is continued
    RUN/log.csv                  losses and learning rate, one row per stretch of steps
    RUN/step-00001200/           the checkpoint (see `mmearth_model.weights.checkpoints`); state/ in it continues the run
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mmearth_data import (
    FileInputError,
    InputError,
    append_text,
    check_output,
    differences,
    is_data,
    open_store,
    reason_of,
    remove_partial,
    staged_folder,
    write_text,
)
from mmearth_model.network.positions import ENGINES
from mmearth_model.training.recipe import TrainRecipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mmearth_data import Store

RUN_FILE = "run.json"
LOG_FILE = "log.csv"
STEP_PREFIX = "step-"
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
                f"{folder}: expected the run that stands there, got another one ({'; '.join(different)}); "
                "continue it with the same options, or choose another --out."
            )
        return cls(folder)

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Create the folder, and clear what an interrupted write has left.

        Raises
        ------
        WriteFailed, InputError
            When the folder cannot be written.
        """
        check_output(self.folder, folder=True)
        if not (self.folder / RUN_FILE).exists():
            write_text(self.folder / RUN_FILE, json.dumps({"format": FORMAT, **identity}, indent=2) + "\n")
        remove_partial(self.folder)

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(self.folder.glob(f"{STEP_PREFIX}*"), key=lambda path: int(path.name.removeprefix(STEP_PREFIX)))

    def latest(self) -> Path | None:
        """Find the last whole checkpoint, if there is one."""
        found = self.checkpoints()
        return found[-1] if found else None

    def publish(self, step: int, write: Callable[[Path], None], *, keep: int) -> Path:
        """Let ``write`` fill a folder and make it the checkpoint of this step; drop all but the last ``keep``."""
        folder = self.folder / f"{STEP_PREFIX}{step:08d}"
        with staged_folder(folder) as staged:
            write(staged)
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
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())

    def append(self, row: Mapping[str, float]) -> None:
        """Add one row."""
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.columns).writerow(row)
        append_text(self.path, text.getvalue())


def read_log(path: Path) -> list[dict[str, str]]:
    """Rows of a run's ``log.csv``."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def where_store_is(store: Store, folder: Path) -> dict[str, str]:
    """Record where a store is: its URL, or its folder, absolutely and relative to a run's folder."""
    if not isinstance(store.path, Path):
        return {"path": str(store.path)}
    try:
        relative = Path(os.path.relpath(store.path, folder))
    except ValueError:  # another drive of Windows
        return {"path": str(store.path)}
    return {"path": str(store.path), "relative": relative.as_posix()}


def find_store(record: Mapping[str, Any], folder: Path) -> Store:
    """Open the store that a run recorded, where it was or where it is beside the run now.

    Parameters
    ----------
    record
        As `where_store_is` made it; with ``digest``, the store of that digest goes first.
    folder
        The run's folder today.

    Raises
    ------
    InputError
        When it is in neither place.
    """
    places = [str(record["path"])]
    if "relative" in record:
        places.append(os.path.normpath(folder / record["relative"]))
    found: list[Store] = []
    for place in dict.fromkeys(places):
        try:
            found.append(open_store(place))
        except InputError:
            continue
    if not found:
        raise InputError(
            f"{folder}: expected the store that it was trained on at {' or '.join(dict.fromkeys(places))}, found none "
            "there; say where it is with --store STORE."
        )
    return next((store for store in found if store.digest == record.get("digest")), found[0])


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
