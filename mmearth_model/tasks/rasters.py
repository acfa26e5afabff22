"""Folders, zips and tables of raster files: anything that GDAL reads (GeoTIFF, JPEG, PNG, ...)."""

from __future__ import annotations

import hashlib
import re
import zipfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from mmearth_data import (  # fmt: skip
    FileInputError,
    InputError,
    Siblings,
    did_you_mean,
    raster_outline,
    read_raster,
    read_table,
    reason_of,
)
from mmearth_model.tasks.cells import (  # fmt: skip
    at_rows,
    check_names,
    check_repeats,
    flags,
    label_sets,
    numbers,
    positions,
    required,
    text_of,
)
from mmearth_model.tasks.files import BAND, FileImages, labelled, nearest
from mmearth_model.tasks.labelled import (  # fmt: skip
    IGNORED,
    LabelledSet,
    Parts,
    TaskKind,
    class_notes,
    classes_in_masks,
    listed,
    missing_parts,
    stratified_parts,
    working_shares,
)
from mmearth_model.tasks.layout import PART_NAMES, arrange, folder_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data import Marks, Raster
    from mmearth_model.tasks.spec import TaskSpec


@dataclass(frozen=True, slots=True)
class DiskRasters:
    """Raster files below a folder."""

    root: Path
    _siblings: dict[Path, Siblings] = field(default_factory=dict, compare=False, repr=False)

    def read(self, item: str, marks: Marks = None) -> Raster:
        """All bands as the file has them; `marks` mean missing instead of the file's no-data tag."""
        path = self._path(item)
        return read_raster(path, path, marks)

    def outline(self, item: str) -> BaseGeometry | None:
        """Outline in EPSG:4326, None without a georeference; only the header is read."""
        path = self._path(item)
        return raster_outline(path, path)

    def _path(self, item: str) -> Path:
        path = self.root / item
        if not path.is_file():
            raise FileInputError(path, "expected a raster file, got nothing there; correct the path.")
        return path

    def stamp(self, item: str) -> str:
        """Size and modification time of the file and of its sidecars."""
        path = self.root / item
        try:
            if path.parent not in self._siblings:
                self._siblings[path.parent] = Siblings.of(path.parent)
            beside = self._siblings[path.parent].sidecars(path.name)
            found = [(name, path.with_name(name).stat()) for name in beside]
            status = path.stat()
        except OSError:
            return "absent"
        own = f"{status.st_size} {status.st_mtime_ns}"
        return " ".join([own, *(f"{name} {other.st_size} {other.st_mtime_ns}" for name, other in found)])


@cache
def archive(path: Path) -> tuple[zipfile.ZipFile, dict[str, Siblings]]:
    """Open a zip once per process, with the files of each of its folders."""
    try:
        opened = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise FileInputError(path, f"expected a folder or a zip of rasters, got: {reason_of(error)}.") from None
    found: dict[str, list[str]] = {}
    for member in map(PurePosixPath, opened.namelist()):
        found.setdefault(str(member.parent), []).append(member.name)
    return opened, {folder: Siblings(files) for folder, files in found.items()}


@dataclass(frozen=True, slots=True)
class ZippedRasters:
    """Raster files in a zip, which is never unpacked."""

    path: Path

    def read(self, item: str, marks: Marks = None) -> Raster:
        """All bands as the file has them; `marks` mean missing instead of the file's no-data tag."""
        with self._opened(item) as (source, name):
            return read_raster(source, name, marks)

    def outline(self, item: str) -> BaseGeometry | None:
        """Outline in EPSG:4326, None without a georeference."""
        with self._opened(item) as (source, name):
            return raster_outline(source, name)

    @contextmanager
    def _opened(self, item: str) -> Iterator[tuple[str, str]]:
        """Hold a file and its sidecars in memory: the path that GDAL opens, and the name in messages."""
        from rasterio.io import MemoryFile

        name = f"{self.path}/{item}"
        folder = uuid4().hex
        try:
            contents = {member: archive(self.path)[0].read(member) for member in (item, *self._sidecars(item))}
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise FileInputError(name, f"expected a raster file, got: {reason_of(error)}; zip it again.") from None
        with ExitStack() as stack:
            files = [
                stack.enter_context(MemoryFile(data, dirname=folder, filename=PurePosixPath(member).name))
                for member, data in contents.items()
            ]
            yield files[0].name, name

    def stamp(self, item: str) -> str:
        """Size and checksum, from the zip, of the file and of its sidecars."""
        infos = [archive(self.path)[0].getinfo(member) for member in (item, *self._sidecars(item))]
        own = f"{infos[0].file_size} {infos[0].CRC}"
        return " ".join([own, *(f"{PurePosixPath(i.filename).name} {i.file_size} {i.CRC}" for i in infos[1:])])

    def _sidecars(self, item: str) -> tuple[str, ...]:
        """Members of the zip that GDAL reads with a raster file."""
        opened, folders = archive(self.path)
        path = PurePosixPath(item)
        if item not in opened.NameToInfo:
            return ()
        return tuple(str(path.with_name(name)) for name in folders[str(path.parent)].sidecars(path.name))


def open_folder(spec: TaskSpec, root: Path) -> LabelledSet:
    """Open ``class/*.tif``, or ``train/class/*.tif`` with ``val`` and ``test`` next to it; a folder, or a zip of one.

    Raises `InputError` if there is no such layout, classes and task file disagree, or a file is in two parts.
    """
    zipped = root.is_file()
    if not root.exists():
        raise InputError(f"{root}: expected a folder or a zip of rasters, got nothing there; correct the path.")
    layout = arrange(root, archive(root)[0].namelist() if zipped else folder_files(root))
    classes = check_names(spec.classes, positions(layout.labels), root, rows=False)
    labels = np.array([classes.index(label) for label in layout.labels])
    if layout.parts is None:
        parts = stratified_parts(labels, spec.splits.shares, spec.splits.seed)
    else:
        parts = Parts.of(np.array(layout.parts))
        _check_twins(root, layout.items, layout.parts, ZippedRasters(root) if zipped else None)
    reader = ZippedRasters(root) if zipped else DiskRasters(root)
    return labelled(
        spec,
        FileImages(spec, reader, layout.items, root),
        classes,
        (*layout.notes, *class_notes(classes, labels, parts, layout.items.__getitem__)),
        parts=parts,
        labels=labels,
        ids=layout.items,
        **_needed(spec, labels, parts, divided_by="the folders" if layout.parts is not None else None),
    )


def _check_twins(root: Path, items: Sequence[str], parts: Sequence[int], zipped: ZippedRasters | None) -> None:
    """Refuse the same file in two parts: in a zip by checksum, in a folder if name and size are equal."""
    found: dict[object, list[int]] = {}
    for row, item in enumerate(items):
        same = zipped.stamp(item) if zipped else (PurePosixPath(item).name, (root / item).stat().st_size)
        found.setdefault(same, []).append(row)
    for rows in found.values():
        if len({parts[row] for row in rows}) < 2:
            continue
        seen: dict[object, int] = {}
        for row in rows:
            content = zipped.stamp(items[row]) if zipped else hashlib.blake2b((root / items[row]).read_bytes()).digest()
            first = seen.setdefault(content, row)
            if parts[first] != parts[row]:
                raise InputError(
                    f"{root}: expected each file in one of train, val and test, got the same file as {items[first]} and "
                    f"{items[row]}; delete one."
                )


def _needed(spec: TaskSpec, labels: NDArray[Any], parts: Parts, divided_by: str | None) -> dict[str, Any]:
    """Fields of a `LabelledSet`: parts that must not be empty, and what to do if one is."""
    if divided_by is not None:
        return {"remedy": f"put samples of each part into {divided_by}, or leave the division to splits: {{shares: [70, 15, 15]}}"}  # fmt: skip
    shares = spec.splits.shares
    if not missing_parts(parts, shares):
        return {}
    strata = labels if spec.kind is TaskKind.SINGLE_LABEL else np.zeros(len(labels))
    return {
        "needed": tuple(name for name, share in zip(("train", "validation", "test"), shares, strict=True) if share > 0),
        "remedy": working_shares(strata, shares),
    }


def open_table(spec: TaskSpec, path: Path) -> LabelledSet:
    """Open a CSV or GeoParquet file that lists rasters with labels or masks; paths are relative to it.

    Raises `InputError` if a column is missing, or values do not match the task.
    """
    columns = _with_patterns(spec, read_table(path).columns, path)
    wanted = [spec.path, *([spec.mask] if spec.mask and spec.kind.per_pixel else []), *([] if spec.kind.per_pixel else spec.label_columns)]  # fmt: skip
    wanted += [name for name in (spec.splits.column, spec.ids) if name is not None]
    absent = [name for name in wanted if name not in columns]
    if absent:
        raise FileInputError(
            path, f"expected the column {absent[0]!r}, got {listed(list(columns), 12)}; correct the task file."
        )
    items = tuple(required(columns[spec.path], spec.path, path))
    if not items:
        raise FileInputError(path, "expected samples, got a table without rows.")
    classes, labels, notes = _labels(spec, columns, path)
    images = FileImages(spec, DiskRasters(path.parent), items, path)
    masks = None
    if spec.kind.per_pixel and spec.mask is not None:
        masks = MaskFiles(spec, images, tuple(required(columns[spec.mask], spec.mask, path)))
    if masks is not None and spec.kind is TaskKind.SEGMENTATION and not classes:
        classes = classes_in_masks(masks, len(items), path)
    parts = _parts(spec, columns, labels, path)
    answers = [row.tobytes() for row in labels] if masks is None else masks.files
    notes += check_repeats(items, answers, parts, path)
    if spec.kind is TaskKind.SINGLE_LABEL:
        notes += class_notes(classes, labels, parts, lambda row: at_rows([row]))
    return labelled(
        spec,
        images,
        classes,
        notes,
        parts=parts,
        labels=labels,
        masks=masks,
        ids=tuple(required(columns[spec.ids], spec.ids, path)) if spec.ids else items,
        **_needed(spec, labels, parts, divided_by=spec.splits.column and f"column {spec.splits.column}"),
    )


def _with_patterns(spec: TaskSpec, columns: Mapping[str, Sequence[Any]], path: Path) -> dict[str, Sequence[Any]]:
    """Add columns with the results of the patterns of ``path`` and ``mask`` for each row."""
    found = dict(columns)
    for pattern in (spec.path, spec.mask or ""):
        if "{" not in pattern or pattern in columns:
            continue
        names = [name for name in re.findall(r"\{([^{}]*)\}", pattern) if name != BAND[1:-1]]
        unknown = [name for name in names if name not in columns]
        if unknown:
            raise FileInputError(
                path,
                f"expected a column for each name in braces of {pattern!r}, got no {unknown[0]!r}; "
                + did_you_mean(unknown[0], columns),
            )
        found[pattern] = [
            _filled(pattern, names, columns, row, path) for row in range(len(next(iter(columns.values()), ())))
        ]
    return found


def _filled(pattern: str, names: Sequence[str], columns: Mapping[str, Sequence[Any]], row: int, path: Path) -> str:
    for name in names:
        cell = "" if columns[name][row] is None else str(columns[name][row]).strip()
        if not cell:
            raise FileInputError(
                path,
                f"expected {name} in every row, for {pattern!r}, got none in row {row + 1}; fill it or delete the row.",
            )
        pattern = pattern.replace(f"{{{name}}}", cell)
    return pattern


def _labels(
    spec: TaskSpec, columns: Mapping[str, Sequence[Any]], path: Path
) -> tuple[tuple[str, ...], NDArray[Any], tuple[str, ...]]:
    """Class names and labels in the form of `LabelledSet`, and notes about them."""
    if spec.kind.per_pixel:
        named = spec.classes or (() if spec.kind is TaskKind.SEGMENTATION else (spec.label_columns[0],))
        return named, np.zeros((len(columns[spec.path]), 0)), ()
    if spec.kind is TaskKind.REGRESSION:
        return spec.label_columns, np.stack([numbers(columns[n], n, path) for n in spec.label_columns], axis=1), ()
    if spec.kind is TaskKind.MULTI_LABEL and not isinstance(spec.label, str):
        table = np.stack([flags(columns[name], name, path) for name in spec.label_columns], axis=1)
        return spec.classes or spec.label_columns, table, ()
    (name,) = spec.label_columns
    if spec.kind is TaskKind.MULTI_LABEL:
        sets, notes = label_sets(columns[name], name, spec.separator, path)
        rows = {label: [row for row, has in enumerate(sets) if label in has] for label in set().union(*sets)}
        classes = check_names(spec.classes, rows, path)
        return classes, np.array([[label in has for label in classes] for has in sets], dtype=np.int64), notes
    texts = required(columns[name], name, path)
    classes = check_names(spec.classes, positions(texts), path)
    return classes, np.array([classes.index(text) for text in texts]), ()


def _parts(spec: TaskSpec, columns: Mapping[str, Sequence[Any]], labels: NDArray[Any], path: Path) -> Parts:
    if spec.splits.column is None:
        strata = labels if spec.kind is TaskKind.SINGLE_LABEL else np.zeros(len(columns[spec.path]))
        return stratified_parts(strata, spec.splits.shares, spec.splits.seed)
    words = [text_of(cell).lower() for cell in columns[spec.splits.column]]
    unknown = [row for row, word in enumerate(words) if word not in PART_NAMES]
    if unknown:
        got = words[unknown[0]] or "nothing"
        raise FileInputError(
            path,
            f"expected train, val or test in {spec.splits.column}, got {got} in {at_rows(unknown)}; correct or delete "
            "the rows.",
        )
    return Parts.of(np.array([PART_NAMES[word] for word in words]))


@dataclass(frozen=True)
class MaskFiles:
    """Masks in single-band files."""

    spec: TaskSpec  # task file, with the value that means unlabelled
    images: FileImages  # the rasters, of the same size as their masks
    files: tuple[str, ...]  # (N) paths, relative to the same folder as those of the rasters
    _sizes: dict[int, tuple[int, ...]] = field(default_factory=dict, compare=False)

    def __call__(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """(B) positions to (B, H, W): class indices, or float64 values."""
        return np.stack([self.one(int(row)) for row in rows])

    def one(self, row: int) -> NDArray[Any]:
        """Mask of a sample.

        Raises `FileInputError` if its size is not that of the image, or it has a class that the task lacks.
        """
        item = self.files[row]
        mask = self.images.reader.read(item)
        if row not in self._sizes:
            self._sizes[row] = self.images.read(row).values.shape[1:]
        if len(mask.values) != 1 or mask.values.shape[1:] != self._sizes[row]:
            raise FileInputError(
                item,
                f"expected a mask of one band and {self._sizes[row]} px, as its image, got shape {mask.values.shape}.",
            )
        scale, offset = mask.tags[0]
        values = mask.values[0] if (scale, offset) == (1, 0) else mask.values[0] * scale + offset
        return check_mask(self.spec, values, item, mask.missing[0])


def check_mask(spec: TaskSpec, mask: NDArray[Any], item: str, missing: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """Convert (H, W) values of a file to class indices or float64 quantities; unlabelled: `IGNORED` or NaN.

    Raises `FileInputError` if an id is not a whole number, or no class has it.
    """
    unlabelled = ~np.isfinite(mask) if mask.dtype.kind == "f" else np.zeros(mask.shape, bool)
    if missing is not None:
        unlabelled |= missing
    if spec.ignore is not None:
        unlabelled |= mask == spec.ignore
    size = (spec.size_px, spec.size_px) if spec.size_px else mask.shape
    if spec.kind is TaskKind.PIXEL_REGRESSION:
        return nearest(np.where(unlabelled, np.nan, mask).astype(np.float64), *size)
    ids = mask[~unlabelled]
    most = len(spec.classes) - 1 if spec.classes else np.iinfo(np.int64).max
    wrong = ids[~((ids >= 0) & (ids <= most) & (ids == np.rint(ids)))]
    if wrong.size:
        classes = f"0 to {most}" if spec.classes else "from 0"
        raise FileInputError(
            item,
            f"expected classes {classes} in the mask, got {wrong[0]:.12g}; give ignore or more classes, or correct the "
            "mask (whole numbers; resampled with nearest).",
        )
    indices = np.full(mask.shape, IGNORED, dtype=np.int64)
    indices[~unlabelled] = ids
    return nearest(indices, *size)
