"""GEO-Bench 2: samples in tortilla files, each with the rasters of several sensors, labels, and a published split.

Simumba et al., *GEO-Bench-2: From Performance to Capability, Rethinking Evaluation in Geospatial AI*, arXiv 2511.15658;
https://github.com/The-AI-Alliance/GEO-Bench-2. Images are read as stored, in the order of the published data sets
(by name within each part of the split); resizing and normalisation belong to the protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError, InputError, is_data
from mmearth_model.tasks.files import FileImages, labelled
from mmearth_model.tasks.labelled import LabelledSet, Parts, TaskKind, class_notes, listed, meant
from mmearth_model.tasks.layout import PART_NAMES
from mmearth_model.tasks.rasters import MaskFiles
from mmearth_model.tasks.tortilla import CONTAINER, Member, TortillaRasters, members

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_model.tasks.spec import TaskSpec

SUFFIX = ".tortilla"
SPLIT = "tortilla:data_split"
UNUSED = 3
"""Code of samples that are in no split, such as the additional test samples of some data sets."""


def open_geobench2(spec: TaskSpec, root: Path) -> LabelledSet:
    """Open the tortilla files of a data set: a file, or a folder of them.

    Raises `InputError` if there are none, a file is incomplete, or labels are not of the classes of the task file.
    """
    samples = _samples(root)
    names = tuple(sorted(samples))
    rows = [samples[name] for name in names]
    parts = Parts.of(np.array([_part(row) for row in rows]))
    images = FileImages(spec, TortillaRasters(root, samples, len(spec.file_bands)), _items(names, spec.path), root)
    notes: tuple[str, ...] = ()
    masks = None
    if spec.kind.per_pixel:
        labels: NDArray[Any] = np.zeros((len(rows), 0))
        first = FileImages(spec, TortillaRasters(root, samples, 1), images.items, root)
        masks = MaskFiles(spec, first, _items(names, str(spec.mask)))
    else:
        labels = np.array([_label(spec, row) for row in rows])
        notes = class_notes(spec.classes, labels, parts, names.__getitem__) if labels.ndim == 1 else ()
    classes = spec.classes or spec.label_columns[:1]
    return labelled(
        spec,
        images,
        classes,
        notes,
        parts=parts,
        labels=labels,
        masks=masks,
        ids=names,
        remedy="copy all files of the data set",
    )


def _items(names: Sequence[str], member: str) -> tuple[str, ...]:
    return tuple(f"{name}/{member}" for name in names)


def _samples(root: Path) -> dict[str, Member]:
    """Name -> sample, of all files."""
    files = sorted(path for path in root.glob(f"*{SUFFIX}") if is_data(path.name)) if root.is_dir() else [root]
    if not files or not root.exists():
        got = listed(sorted(path.name for path in root.iterdir()), 3) if root.is_dir() else "nothing there"
        raise InputError(f"{root}: expected a {SUFFIX} file of GEO-Bench 2 or a folder of them, got {got}.")
    found: dict[str, Member] = {}
    for sample in (sample for file in files for sample in members(file)):
        if sample.format != CONTAINER:
            raise FileInputError(
                sample.file, f"expected samples that are tortilla containers, got {sample.name} ({sample.format})."
            )
        if sample.name in found:
            raise FileInputError(
                sample.file, f"expected each sample once, got {sample.name} twice; remove one of the files."
            )
        found[sample.name] = sample
    return found


def _part(sample: Member) -> int:
    return PART_NAMES.get(str(sample.row.get(SPLIT)).lower(), UNUSED)


def _label(spec: TaskSpec, sample: Member) -> Any:  # noqa: ANN401 - a class index, or (K,) 0 or 1
    """Label of a sample, written as names of classes or their indices."""
    column = spec.label_columns[0]
    cell = sample.row.get(column)
    if spec.kind is TaskKind.SINGLE_LABEL:
        return _index(spec, sample, column, cell)
    if not isinstance(cell, list):
        raise FileInputError(sample.file, f"expected a list of classes in {column} of {sample.name}, got {cell!r:.60}.")
    flags = np.zeros(len(spec.classes), dtype=np.int64)
    flags[[_index(spec, sample, column, name) for name in cell]] = 1
    return flags


def _index(spec: TaskSpec, sample: Member, column: str, cell: object) -> int:
    if isinstance(cell, str) and cell in spec.classes:
        return spec.classes.index(cell)
    if isinstance(cell, int) and 0 <= cell < len(spec.classes):
        return cell
    close = meant(cell, spec.classes) if isinstance(cell, str) else ""
    raise FileInputError(
        sample.file,
        f"expected one of the {len(spec.classes)} classes of the task file in {column} of {sample.name}, got {cell!r:.60}."
        f"{close}",
    )
