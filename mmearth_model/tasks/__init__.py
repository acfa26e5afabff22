"""Labelled tasks for evaluating encoders: data sets on disk, and labels from a store's own modalities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmearth_data import InputError
from mmearth_model.tasks.labelled import IGNORED, WHOLE, ImageSource, LabelledSet, LabelShare, Parts, TaskKind
from mmearth_model.tasks.spec import TaskSpec, named_spec, read_spec, task_names
from mmearth_model.tasks.store import PREFIX, StoreImages, StoreTask, open_store_task, parse_task

if TYPE_CHECKING:
    from mmearth_data import Store

__all__ = [
    "IGNORED",
    "PREFIX",
    "WHOLE",
    "ImageSource",
    "LabelShare",
    "LabelledSet",
    "Parts",
    "StoreImages",
    "StoreTask",
    "TaskKind",
    "TaskSpec",
    "open_files",
    "open_task",
    "parse_task",
    "read_spec",
    "task_names",
]


def open_task(text: str, store: Store | StoreImages | None = None) -> LabelledSet:
    """Open a labelled task.

    Parameters
    ----------
    text
        ``store:MODALITY`` (see `parse_task`), or ``NAME=PATH``: a task of ``catalog/tasks``, or a task file, and the
        folder, zip or table with the data. ``NAME@random`` and ``NAME@geographic`` select the test split of
        MMEarth-Bench.
    store
        Store of store tasks.

    Raises
    ------
    InputError
        If there is no such task, or its data do not match it.
    """
    if text.startswith(PREFIX) or ("=" not in text and store is not None):
        if store is None:
            raise InputError(f"{text}: expected a store for the task, got none; give --store.")
        images = store if isinstance(store, StoreImages) else StoreImages(store)
        return open_store_task(images, parse_task(text, images.modalities))
    name, _, path = text.partition("=")
    spec = named_spec(name)
    if not path:
        raise InputError(f"--task {name}: expected the folder, zip or table with its data; write {name}=PATH.")
    return open_files(spec, Path(path).absolute())


def open_files(spec: TaskSpec, path: Path) -> LabelledSet:
    """Open the data of a task file; see `open_task`."""
    from mmearth_model.tasks.geobench import open_geobench
    from mmearth_model.tasks.geobench2 import open_geobench2
    from mmearth_model.tasks.mmearth_bench import open_mmearth_bench
    from mmearth_model.tasks.rasters import open_folder, open_table

    openers = {
        "geobench": open_geobench,
        "geobench2": open_geobench2,
        "folder": open_folder,
        "table": open_table,
        "mmearth-bench": open_mmearth_bench,
    }
    return openers[spec.layout](spec, path)
