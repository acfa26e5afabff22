"""GEO-Bench: HDF5 samples, one data set per band, with partitions and pickled specifications.

Lacoste et al., *GEO-Bench: Toward Foundation Models for Earth Monitoring*, NeurIPS 2023. Two layouts are read: the
published one (``m-eurosat/id_*.hdf5``, ``0.01x_train_partition.json``, ``task_specs.pkl``), and an older one
(``brick_kiln_v1.0/examples_*.hdf5``, ``default_partition.json``, no specifications).
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError, InputError, Raster, is_data, reason_of
from mmearth_model.tasks.files import FileImages, labelled, nearest
from mmearth_model.tasks.labelled import LabelledSet, Parts, TaskKind, class_notes, classes_in_masks, listed
from mmearth_model.tasks.pickles import Bag, loads
from mmearth_model.tasks.rasters import check_mask
from mmearth_model.weights.checkpoints import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

    from mmearth_data import Marks
    from mmearth_model.tasks.spec import TaskSpec

SPECIFICATIONS = "task_specs.pkl"
SUFFIX = ".hdf5"
LABEL = "label"
PARTITION = re.compile(r"(?:(?P<share>\d+(?:\.\d+)?)x_train|default)_partition\.json")
WHOLE_NAMES = ("1.00x_train_partition.json", "default_partition.json")


@dataclass(frozen=True, slots=True)
class Samples:
    """HDF5 samples in a folder."""

    root: Path
    date: str = "first"

    def read(self, item: str, marks: Marks = None) -> Raster:
        """Read bands, resampled to the size of the largest (nearest)."""
        with self.open(item) as file:
            names = self.bands(file)
            planes = {short: np.asarray(file[name]) for short, name in names.items()}
        if any(plane.ndim != 2 for plane in planes.values()):
            raise FileInputError(self.path(item), "expected bands of two dimensions, got another number.")
        rows, columns = (max(plane.shape[axis] for plane in planes.values()) for axis in (0, 1))
        return Raster.of(np.stack([nearest(plane, rows, columns) for plane in planes.values()]), tuple(planes), marks)

    def bands(self, file: h5py.File) -> dict[str, str]:
        """Band name without its date -> name of the data set, for the selected date."""
        found: dict[str, str] = {}
        for name in sorted(file.keys(), reverse=self.date == "last"):
            if not name.startswith(LABEL):
                found.setdefault(re.sub(r"_\d{4}-\d{2}-\d{2}.*$", "", name), name)
        if not found:
            raise FileInputError(file.filename, "expected bands, got a file without data sets.")
        return dict(sorted(found.items()))

    def label(self, item: str) -> Any:  # noqa: ANN401 - a number, an array, or a Bag
        """Label of a sample: a class index, a multi-hot array, or an (H, W) mask."""
        with self.open(item) as file:
            masks = [name for name in file if name.startswith(LABEL)]
            if masks:
                return np.asarray(file[masks[0]])
            text = file.attrs.get("pickle")
        path = self.path(item)
        if not isinstance(text, str):
            raise FileInputError(path, "expected the attribute 'pickle' with the label, got a file without.")
        try:
            data = ast.literal_eval(text)
            attributes = loads(data) if isinstance(data, bytes) else None
        except (ValueError, SyntaxError):
            raise FileInputError(path, "expected bytes in the attribute 'pickle', got something else.") from None
        except InputError as error:
            raise FileInputError(path, str(error)) from None
        if not isinstance(attributes, dict) or LABEL not in attributes:
            raise FileInputError(path, "expected a label in the attribute 'pickle', got none.")
        return attributes[LABEL]

    def open(self, item: str) -> h5py.File:
        """Open a sample's file."""
        import h5py

        try:
            return h5py.File(self.path(item))
        except OSError as error:
            raise FileInputError(self.path(item), f"expected an HDF5 sample, got: {reason_of(error)}.") from None

    def path(self, item: str) -> Path:
        """File of a sample."""
        return self.root / f"{item}{SUFFIX}"

    def outline(self, item: str) -> None:
        """Return None: the samples are not georeferenced."""

    def stamp(self, item: str) -> str:
        """Size and modification time."""
        try:
            status = self.path(item).stat()
        except OSError:
            return "absent"
        return f"{status.st_size} {status.st_mtime_ns}"


def open_geobench(spec: TaskSpec, root: Path) -> LabelledSet:
    """Open a folder of GEO-Bench, either layout. Samples of a partition that the folder lacks are left out.

    Raises `InputError` if there are no partitions or samples, a pickle contains anything not allowed, or labels are
    outside the classes.
    """
    partitions = _partitions(root)
    reader = Samples(root, spec.date)
    items = tuple(sorted(path.stem for path in root.glob(f"*{SUFFIX}") if is_data(path.name)))
    whole = next((partitions[name] for name in WHOLE_NAMES if name in partitions), None) or next(
        iter(partitions.values())
    )
    position = {item: row for row, item in enumerate(items)}
    used = {item for part in whole.values() for item in part}
    if not used & position.keys():
        raise InputError(f"{root}: expected the samples of its partition (such as {listed(sorted(used), 1)}), got {listed(items, 3)}.")  # fmt: skip
    parts = Parts(*(_rows(whole, part, position) for part in ("train", "valid", "test")))
    classes = _classes(spec, root)
    images = FileImages(spec, reader, items, root)
    masks = Masks(spec.model_copy(update={"classes": classes}), reader, items) if spec.kind.per_pixel else None
    if masks is not None and spec.kind is TaskKind.SEGMENTATION and not classes:
        classes = classes_in_masks(masks, len(items), root)
    labels = np.zeros((len(items), 0)) if spec.kind.per_pixel else _labels(spec, reader, items, classes)
    notes = _partition_notes(whole, position)
    if spec.kind is TaskKind.SINGLE_LABEL:
        notes += class_notes(classes, labels, parts, items.__getitem__)
    return labelled(
        spec,
        images,
        classes,
        notes,
        parts=parts,
        labels=labels,
        masks=masks,
        partitions=_shares(partitions, position),
        ids=items,
        remedy="add the samples that the partition names",
    )


def _partitions(root: Path) -> dict[str, dict[str, list[str]]]:
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder of GEO-Bench, got nothing there; correct the path.")
    found = {}
    for path in sorted(root.glob("*_partition.json")):
        if PARTITION.fullmatch(path.name) is None or not is_data(path.name):
            continue
        content = read_json(path, "a partition")
        if not isinstance(content, dict) or not all(isinstance(part, list) for part in content.values()):
            raise FileInputError(path, "expected lists of samples by train, valid and test, got something else.")
        found[path.name] = content
    if not found:
        raise InputError(
            f"{root}: expected *_partition.json next to the samples, got {listed(sorted(p.name for p in root.iterdir()))}."
        )
    return found


def _partition_notes(whole: Mapping[str, list[str]], position: Mapping[str, int]) -> tuple[str, ...]:
    """Report missing samples, and samples in several parts."""
    counts = Counter(item for part in whole.values() for item in set(part))
    absent = [item for item in counts if item not in position]
    shared = [item for item, count in counts.items() if count > 1 and item in position]
    notes = []
    if absent:
        notes.append(f"left out {len(absent)} of {len(counts)} samples of the partition, which the folder lacks ({listed(absent, 3)}).")  # fmt: skip
    if shared:
        notes.append(f"{len(shared)} samples are in several parts of the partition ({listed(shared, 3)}), so test samples were trained on.")  # fmt: skip
    return tuple(notes)


def _rows(partition: Mapping[str, list[str]], part: str, position: Mapping[str, int]) -> NDArray[np.intp]:
    return np.array([position[item] for item in partition.get(part, []) if item in position], dtype=np.intp)


def _shares(
    partitions: Mapping[str, Mapping[str, list[str]]], position: Mapping[str, int]
) -> dict[float, NDArray[np.intp]]:
    """Label share -> training samples of the published partitions."""
    named = {name: PARTITION.fullmatch(name) for name in partitions}
    return {
        float(match["share"]): _rows(partitions[name], "train", position)
        for name, match in named.items()
        if match is not None and match["share"] is not None
    }


def _classes(spec: TaskSpec, root: Path) -> tuple[str, ...]:
    """Names of the classes: those of the pickled specifications, else the task file's, else none."""
    path = root / SPECIFICATIONS
    if not path.is_file():
        return spec.classes
    try:
        specifications = loads(path.read_bytes())
    except InputError as error:
        raise FileInputError(path, str(error)) from None
    label_type = specifications.get("label_type") if isinstance(specifications, Bag) else None
    if not isinstance(label_type, Bag):
        raise FileInputError(path, "expected the specifications of a task, got something else.")
    names = label_type.get("_class_names") or label_type.get("class_names") or spec.classes
    count = int(label_type.get("n_classes", len(names)))
    if names and len(names) != count:
        raise FileInputError(
            path, f"expected names of {count} classes, got {len(names)}; correct classes in the task file."
        )
    return tuple(map(str, names)) if names else tuple(str(index) for index in range(count))


def _labels(spec: TaskSpec, reader: Samples, items: tuple[str, ...], classes: tuple[str, ...]) -> NDArray[Any]:
    found = [reader.label(item) for item in items]
    try:
        labels = np.array(found, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{reader.root}: expected labels of one shape, got several; is kind right?") from None
    if labels.ndim != (1 if spec.kind is TaskKind.SINGLE_LABEL else 2):
        if spec.kind is not TaskKind.REGRESSION:
            raise InputError(
                f"{reader.root}: expected {spec.kind} labels, got {labels.ndim - 1} dimensions per sample."
            )
        labels = labels.reshape(len(items), -1)
    wrong, expected = _outside(spec.kind, labels, classes)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        more = f" and {int(wrong.sum()) - 1} more" if wrong.sum() > 1 else ""
        raise InputError(
            f"{reader.root}: expected {expected}, got {listed([f'{value:g}' for value in np.atleast_1d(labels[row])], 12)} in {items[row]}{more}; "
            "correct classes or the samples."
        )
    return labels if spec.kind is TaskKind.REGRESSION else labels.astype(np.int64)


def _outside(kind: TaskKind, labels: NDArray[np.float64], classes: tuple[str, ...]) -> tuple[NDArray[np.bool_], str]:
    """(N,) whether a label is invalid for its kind, and a description of valid ones."""
    wrong: NDArray[np.bool_]
    if kind is TaskKind.REGRESSION:
        wrong = np.asarray(~np.isfinite(labels).all(axis=1))
        return wrong, "finite numbers as labels"
    if kind is TaskKind.MULTI_LABEL:
        wrong = np.asarray(~np.isin(labels, (0, 1)).all(axis=1))
        if classes and labels.shape[1] != len(classes):
            return np.ones(len(labels), bool), f"0 or 1 for each of {len(classes)} classes"
        return wrong, "0 or 1 for each class"
    highest = len(classes) - 1 if classes else np.inf
    wrong = ~(np.isfinite(labels) & (labels == np.floor(labels)) & (labels >= 0) & (labels <= highest))
    return wrong, f"classes 0 to {highest}" if classes else "classes from 0"


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks in the samples' own files."""

    spec: TaskSpec
    reader: Samples
    items: tuple[str, ...]

    def __call__(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """(B) positions to (B, H, W): class indices, or float64 values."""
        return np.stack([self.one(self.items[int(row)]) for row in rows])

    def one(self, item: str) -> NDArray[Any]:
        """Mask of a sample; refused if its size is not that of the image."""
        mask = self.reader.label(item)
        with self.reader.open(item) as file:
            sizes = {file[name].shape for name in self.reader.bands(file).values()}
        largest = tuple(max(size[axis] for size in sizes) for axis in (0, 1))
        if not isinstance(mask, np.ndarray) or mask.shape != largest:
            raise FileInputError(self.reader.path(item), f"expected a mask of {largest} px, got {np.shape(mask)}.")
        return check_mask(self.spec, mask, item)
