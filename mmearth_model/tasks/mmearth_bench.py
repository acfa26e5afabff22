"""MMEarth-Bench: ``TASK.h5`` with all modalities and labels, and ``TASK_split_data.json``.

Gordon et al., *MMEarth-Bench: Global Model Adaptation via Multimodal Test-Time Training*, arXiv:2602.06285. A task has
two test splits with the same training and validation samples: ``random``, and ``geographic``, all tiles in Africa. Each
is a separate labelled set, named ``TASK@random`` or ``TASK@geographic``, so that their results are never mixed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError, InputError
from mmearth_model.tasks.hdf5_rows import RowFile
from mmearth_model.tasks.labelled import LabelledSet, Parts, TaskKind, meant
from mmearth_model.tasks.mmearth_bench_form import bench_form, bench_modalities, missing
from mmearth_model.tasks.mmearth_bench_images import BenchImages, texts
from mmearth_model.tasks.mmearth_bench_splits import REMEDY, WHOLE, Splits
from mmearth_model.weights.checkpoints import read_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_model.tasks.mmearth_bench_form import BenchArray
    from mmearth_model.tasks.spec import TaskSpec


def open_mmearth_bench(spec: TaskSpec, root: Path) -> LabelledSet:
    """Open a task of MMEarth-Bench; ``root`` is its folder, or the folder that contains it.

    Raises
    ------
    InputError
        If a file is missing or damaged, or files contradict each other.
    """
    name = spec.label_columns[0]
    folder = root / name if (root / name / f"{name}.h5").is_file() else root
    path = folder / f"{name}.h5"
    if not path.is_file():
        raise InputError(
            f"{root}: expected a folder with {name}.h5 and {name}_split_data.json, got no {name}.h5; correct the path."
        )
    bands = bench_form().arrays[0].bands
    if spec.file_bands != bands:
        raise InputError(
            f"{spec.name}: bands: expected {', '.join(bands)}, as in the files of {spec.layout}; correct them."
        )
    file = RowFile(path)
    arrays = _arrays(file)
    rows = file.shape(arrays[0].name)[0]
    splits = Splits(folder / f"{name}_split_data.json", rows, _object(folder / f"{name}_split_data.json"))
    images = BenchImages(spec, file, arrays, splits)
    test = spec.test or "random"
    images.statistics(WHOLE)  # refused before anything is read
    labels = LABELS[spec.kind](file, name, rows)
    parts, partitions = splits.parts(test), splits.partitions()
    unlabelled = np.setdiff1d(parts.used, labels.known)
    return LabelledSet(
        name=f"{spec.name}@{test}",
        kind=spec.kind,
        classes=labels.classes,
        images=images,
        parts=Parts(*(np.intersect1d(part, labels.known) for part in (parts.train, parts.validation, parts.test))),
        labels=labels.values,
        masks=labels.masks,
        partitions={share: np.intersect1d(part, labels.known) for share, part in partitions.items()},
        ids=tuple(map(str, images.coords["tile_id"].tolist())),
        augment=spec.augment,
        licence=spec.licence,
        notes=(
            *spec.notes,
            *((f"{len(unlabelled)} samples without a label were left out.",) if len(unlabelled) else ()),
        ),
        metric=labels.metric,
        remedy=REMEDY,
    )


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path, "a JSON file of MMEarth-Bench")
    if not isinstance(content, dict):
        raise FileInputError(path, f"expected an object, got {type(content).__name__}; download the file again.")
    return content


def _arrays(file: RowFile) -> tuple[BenchArray, ...]:
    """Arrays that the file has, the first of which it must have; their shapes are checked."""
    first, *others = bench_form().arrays
    found = (first, *(array for array in others if array.name in file))
    shape = file.shape(first.name)
    if len(shape) != 4 or 0 in shape or shape[2] != shape[3]:
        raise FileInputError(
            file.path, f"{first.name}: expected tiles of bands of as many rows as columns, got the shape {shape}."
        )
    for array in found:
        m = bench_modalities()[array.modality]
        wanted = (shape[0], *array.shape(m), *(shape[2:] if m.kind.is_raster else ()))
        got, dtype = file.shape(array.name), file.dtype(array.name)
        if got != wanted or dtype.kind not in "iuf":
            raise FileInputError(
                file.path,
                f"{array.name}: expected numbers of the shape {wanted}, got {dtype} of {got}; download the file again.",
            )
    return found


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of all rows."""

    values: NDArray[Any]  # (N, T) or (N, K), in the form of `LabelledSet.labels`; (N, 0) per pixel
    classes: tuple[str, ...]
    known: NDArray[np.intp]  # rows with a label
    masks: Callable[[NDArray[np.intp]], NDArray[np.float64]] | None = None
    metric: str = ""  # main metric, if not that of the kind


def _quantities(file: RowFile, name: str, rows: int) -> Labels:
    """(N, T) numbers of whole tiles."""
    if file.dtype(name).kind not in "iuf" or len(file.shape(name)) != 2 or file.shape(name)[0] != rows:
        raise _mismatch(file, name, f"({rows}, 1) numbers")
    raw = file.whole(name)
    values = np.where(missing(raw, bench_form().label_missing), np.nan, raw).astype(np.float64)
    targets = (name,) if values.shape[1] == 1 else tuple(f"{name}_{place}" for place in range(values.shape[1]))
    return Labels(values, targets, np.flatnonzero(np.isfinite(values).all(axis=1)))


def _pixels(file: RowFile, name: str, rows: int) -> Labels:
    """(N, H, W) numbers, most of which are missing."""
    shape = (rows, *file.shape(bench_form().arrays[0].name)[2:])
    if file.dtype(name).kind not in "iuf" or file.shape(name) != shape:
        raise _mismatch(file, name, f"numbers of the shape {shape}")

    def masks(chosen: NDArray[np.intp]) -> NDArray[np.float64]:
        raw = file.read(name, np.asarray(chosen))
        found: NDArray[np.float64] = np.where(missing(raw, bench_form().label_missing), np.nan, raw).astype(np.float64)
        return found

    return Labels(np.zeros((rows, 0)), (name,), np.arange(rows), masks)


def _names(file: RowFile, name: str, rows: int) -> Labels:
    """(N, K) 0 or 1, from a JSON list of names in each row; ``NAME_labels.json`` numbers the names."""
    path = file.path.with_name(f"{name}_labels.json")
    numbers = _object(path)
    if sorted(map(str, numbers.values())) != sorted(map(str, range(len(numbers)))) or not numbers:
        raise FileInputError(path, "expected names with the numbers 0, 1, 2, ..., got others; download the file again.")
    if file.shape(name) != (rows,) or file.dtype(name).kind not in "OS":
        raise _mismatch(file, name, f"{rows} JSON lists of names")
    values = np.zeros((rows, len(numbers)), dtype=np.int64)
    for row, text in enumerate(texts(file, name)):
        for label in _listed(file, name, row, text):
            if label not in numbers:
                raise FileInputError(
                    file.path, f"{name}: expected names of {path.name}, got {label!r} in row {row}; use files of the same download.{meant(label, numbers)}"
                )  # fmt: skip
            values[row, int(numbers[label])] = 1
    classes = tuple(sorted(numbers, key=lambda label: int(numbers[label])))
    return Labels(values, classes, np.arange(rows), metric="map_macro")


def _listed(file: RowFile, name: str, row: int, text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        raise FileInputError(
            file.path, f"{name}: expected a JSON list of names in each row, got {text[:40]!r} in row {row}; download the file again."
        )  # fmt: skip
    return found


def _mismatch(file: RowFile, name: str, expected: str) -> FileInputError:
    got = f"{file.dtype(name)} of the shape {file.shape(name)}"
    return FileInputError(file.path, f"{name}: expected {expected}, got {got}; correct kind or label in the task file.")


LABELS = {TaskKind.REGRESSION: _quantities, TaskKind.PIXEL_REGRESSION: _pixels, TaskKind.MULTI_LABEL: _names}
"""Reader of the labels for each kind of task."""
