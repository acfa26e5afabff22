"""The record of an experiment: everything that all its runs must share, so that their results can be compared."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from mmearth_data import FileInputError, InputError, differences, is_data, open_store, reason_of, write_text
from mmearth_model.tasks import PREFIX
from mmearth_model.tasks.spec import named_spec
from mmearth_model.training.recipe import TrainRecipe, make_recipe
from mmearth_model.weights.checkpoints import read_json
from mmearth_model.weights.released import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmearth_model.experiments.run import Setting

EXPERIMENT_FILE = "experiment.json"
ABOUT_TASKS = frozenset({"long_name", "colours", "source", "doi", "licence", "notes"})
"""Fields of a task file that do not change results."""


def identity(setting: Setting) -> dict[str, Any]:
    """Describe by content what the results depend on, JSON-ready; paths and the device may differ between calls.

    Raises `InputError` if a file or a store cannot be read.
    """
    scale = setting.experiment.scale(setting.scale)
    tasks = [task for task in scale.tasks if not task.startswith(PREFIX)]
    return {
        "experiment": setting.experiment.model_dump(mode="json"),
        "scale": setting.scale,
        "recipe": make_recipe(scale.recipe, scale.train).identity(),
        "stores": {name: store_digest(path) for name, path in setting.stores.items()},
        "tasks": {task: json.loads(named_spec(task).model_dump_json(exclude=set(ABOUT_TASKS))) for task in tasks},
        "data": {task: _digest(path, f"--data {task}") for task, path in setting.data.items()},
        "convnext": None if setting.convnext is None else _digest(setting.convnext, "--convnext"),
    }


def record(out: Path, asked: Mapping[str, Any]) -> None:
    """Record an experiment in its folder. Raises `InputError` if the folder has other content or another experiment."""
    file = out / EXPERIMENT_FILE
    if out.exists() and not out.is_dir():
        raise InputError(f"--out: expected a folder, got the file {out}; choose another.")
    if not file.is_file() and _is_foreign(out):
        raise InputError(f"{out}: expected a new folder or an experiment, got something else; choose another --out.")
    recorded = _read(file) if file.is_file() else {}
    if isinstance(recorded.get("recipe"), dict):
        recorded["recipe"] = TrainRecipe().identity() | recorded["recipe"]  # fields that were added since
    common = recorded.keys() & asked.keys()  # earlier versions recorded less
    different = differences({key: recorded[key] for key in common}, {key: asked[key] for key in common})
    if different:
        raise InputError(
            f"{out}: expected the experiment of this folder, with the same recipe, stores, data and weights, got another "
            f"one ({'; '.join(different)}); repeat its options, or choose another --out."
        )
    if asked.keys() - common:
        write_text(file, json.dumps({**recorded, **asked}, indent=1) + "\n")


def store_digest(path: Path) -> str:
    """Digest of a store's content. Raises `InputError` if there is no finished store."""
    digest = open_store(path).digest
    if digest is None:
        raise InputError(f"{path}: expected a finished store, got one that is being built; finish the build first.")
    return digest


def _is_foreign(out: Path) -> bool:
    return out.exists() and any(is_data(path.name) for path in out.iterdir()) and not (out / "claims").is_dir()


def _read(file: Path) -> dict[str, Any]:
    expected, remedy = "the record of an experiment", "restore it, or choose another --out"
    found = read_json(file, expected, f"; {remedy}")
    if not isinstance(found, dict) or not isinstance(found.get("experiment"), dict):
        raise FileInputError(file, f"expected {expected}, got something else; {remedy}.")
    return found


def _digest(path: Path, option: str) -> str:
    """Digest of a file's content, or of the names and sizes of the files in a folder, which may be too many to read."""
    try:
        if not path.is_dir():
            return digest_of(path)
        files = sorted(file for file in path.rglob("*") if is_data(file.relative_to(path)) and file.is_file())
        sizes = [(file.relative_to(path).as_posix(), file.stat().st_size) for file in files]
    except OSError as error:
        raise FileInputError(path, f"expected the file or folder of {option}, got: {reason_of(error)}.") from None
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
