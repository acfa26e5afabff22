"""Folders, zips and tables of raster files: anything that GDAL reads (GeoTIFF, JPEG, PNG, ...)."""

from __future__ import annotations

import csv
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmearth_data import FileInputError, InputError, is_data
from mmearth_model.tasks.files import FileImages, listed
from mmearth_model.tasks.labelled import IGNORED, LabelledSet, Parts, TaskKind, stratified_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_model.tasks.spec import TaskSpec

SUFFIXES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".jp2"})
PART_NAMES = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}


@dataclass(frozen=True, slots=True)
class DiskRasters:
    """Raster files below a folder."""

    root: Path

    def read(self, item: str) -> tuple[NDArray[Any], tuple[str, ...]]:
        """(C, H, W) values and the band names that the file gives."""
        path = self.root / item
        if not path.is_file():
            raise FileInputError(path, "expected a raster file, got nothing there.")
        return _read(str(path), str(path))

    def stamp(self, item: str) -> str:
        """Size and time of change."""
        try:
            status = (self.root / item).stat()
        except OSError:
            return "absent"
        return f"{status.st_size} {status.st_mtime_ns}"


@dataclass(frozen=True, slots=True)
class ZippedRasters:
    """Raster files in a zip, which is never unpacked."""

    path: Path
    _archives: ClassVar[dict[Path, zipfile.ZipFile]] = {}
    _lock: ClassVar[Lock] = Lock()

    @property
    def archive(self) -> zipfile.ZipFile:
        """The open zip."""
        with self._lock:
            if self.path not in self._archives:
                self._archives[self.path] = _open_zip(self.path)
            return self._archives[self.path]

    def read(self, item: str) -> tuple[NDArray[Any], tuple[str, ...]]:
        """(C, H, W) values and the band names that the file gives."""
        from rasterio.io import MemoryFile

        try:
            data = self.archive.read(item)
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise FileInputError(f"{self.path}/{item}", f"expected a raster file, got: {error}.") from None
        with MemoryFile(data) as memory:
            return _read(memory.name, f"{self.path}/{item}")

    def stamp(self, item: str) -> str:
        """Size and checksum, as the zip has them."""
        info = self.archive.getinfo(item)
        return f"{info.file_size} {info.CRC}"


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise FileInputError(path, f"expected a folder or a zip of rasters, got: {error}.") from None


def _read(source: str, name: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(source) as file:
                values: NDArray[Any] = file.read()
                given = file.descriptions
                nodata = file.nodata
    except RasterioIOError as error:
        raise FileInputError(name, f"expected a raster that GDAL reads, got: {' '.join(str(error).split())}.") from None
    if nodata is not None and not np.isnan(nodata):
        hidden = values == nodata
        values = np.where(hidden, np.nan, values) if hidden.any() else values
    return values, tuple(given) if all(given) else ()


def open_folder(spec: TaskSpec, root: Path) -> LabelledSet:
    """Open ``class/*.tif``, a folder or a zip of one.

    Raises
    ------
    InputError
        When there is no such layout, or classes and task file disagree.
    """
    zipped = root.is_file()
    names = _zip_members(root) if zipped else _folder_members(root)
    items = sorted(name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES)
    if not items:
        raise InputError(f"{root}: expected class/*.tif, a folder for each class, got no raster in any; see layout.")
    labels_of = [PurePosixPath(item).parent.name for item in items]
    classes = check_classes(spec, labels_of, root)
    labels = np.array([classes.index(label) for label in labels_of])
    reader = ZippedRasters(root) if zipped else DiskRasters(root)
    return LabelledSet(
        name=spec.name,
        kind=spec.kind,
        classes=classes,
        images=FileImages(spec, reader, tuple(items), root),
        parts=stratified_parts(labels, spec.splits.shares, spec.splits.seed),
        labels=labels,
        ids=tuple(items),
        augment=spec.augment,
    )


def _zip_members(path: Path) -> Iterable[str]:
    return [name for name in ZippedRasters(path).archive.namelist() if is_data(name)]


def _folder_members(root: Path) -> Iterable[str]:
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder or a zip of rasters, got nothing there; correct the path.")
    names = [path.relative_to(root).as_posix() for path in root.glob("*/*") if path.is_file()]
    return [name for name in names if is_data(name)]


def check_classes(spec: TaskSpec, found: Sequence[str], where: Path) -> tuple[str, ...]:
    """Names of the classes, those of the task file where it has them.

    Raises
    ------
    InputError
        When data hold a class that the task file does not know.
    """
    names = tuple(sorted(set(found)))
    if not spec.classes:
        return names
    unknown = [name for name in names if name not in spec.classes]
    if unknown:
        raise InputError(
            f"{where}: expected the classes {listed(spec.classes)}, got {unknown[0]!r}; correct classes in the task file."
        )
    return spec.classes


def open_table(spec: TaskSpec, path: Path) -> LabelledSet:
    """Open a CSV or GeoParquet file that lists rasters with labels or masks; paths are relative to it.

    Raises
    ------
    InputError
        When a column is missing, or values do not fit the task.
    """
    columns = _read_table(path)
    wanted = [spec.path, *([spec.mask] if spec.mask and spec.kind.per_pixel else []), *([] if spec.kind.per_pixel else spec.label_columns)]  # fmt: skip
    wanted += [name for name in (spec.splits.column, spec.ids) if name is not None]
    absent = [name for name in wanted if name not in columns]
    if absent:
        raise FileInputError(
            path, f"expected the column {absent[0]!r}, got {listed(list(columns), 12)}; correct the task file."
        )
    items = tuple(map(str, columns[spec.path]))
    if not items:
        raise FileInputError(path, "expected samples, got a table without rows.")
    classes, labels = _labels(spec, columns, path)
    images = FileImages(spec, DiskRasters(path.parent), items, path)
    return LabelledSet(
        name=spec.name,
        kind=spec.kind,
        classes=classes,
        images=images,
        parts=_parts(spec, columns, labels, path),
        labels=labels,
        masks=_masks(spec, columns, images) if spec.kind.per_pixel else None,
        ids=tuple(map(str, columns[spec.ids])) if spec.ids else items,
        augment=spec.augment,
    )


def _read_table(path: Path) -> dict[str, Sequence[Any]]:
    try:
        if path.suffix.lower() in (".parquet", ".geoparquet"):
            from pyarrow import parquet

            table = parquet.read_table(path)
            return {name: table.column(name).to_pylist() for name in table.column_names if name != "geometry"}
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            return {name: [row[name] for row in rows] for name in reader.fieldnames or ()}
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise FileInputError(
            path, f"expected a CSV or GeoParquet table, got: {' '.join(str(error).split())}."
        ) from None


def _labels(spec: TaskSpec, columns: Mapping[str, Sequence[Any]], path: Path) -> tuple[tuple[str, ...], NDArray[Any]]:
    """Class names and labels, as `LabelledSet` has them."""
    texts = [columns[name] for name in spec.label_columns if name in columns]
    if spec.kind.per_pixel:
        return spec.classes or (spec.label_columns[0],), np.zeros((len(columns[spec.path]), 0))
    if spec.kind is TaskKind.REGRESSION:
        return spec.label_columns, np.stack([_numbers(column, path) for column in texts], axis=1)
    if spec.kind is TaskKind.MULTI_LABEL and len(texts) > 1:
        return spec.label_columns, np.stack([_numbers(column, path) for column in texts], axis=1).astype(np.int64)
    if spec.kind is TaskKind.MULTI_LABEL:
        sets = [{part.strip() for part in str(text).split(spec.separator) if part.strip()} for text in texts[0]]
        classes = check_classes(spec, sorted(set().union(*sets)), path)
        return classes, np.array([[name in present for name in classes] for present in sets], dtype=np.int64)
    names = [str(text) for text in texts[0]]
    classes = check_classes(spec, names, path)
    return classes, np.array([classes.index(name) for name in names])


def _numbers(column: Sequence[Any], path: Path) -> NDArray[np.float64]:
    try:
        values = np.array([float(value) for value in column])
    except (TypeError, ValueError) as error:
        raise FileInputError(path, f"expected numbers as labels, got: {error}.") from None
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise FileInputError(path, f"expected finite numbers as labels, got {values[row]} in row {row + 1}; drop it.")
    return values


def _parts(spec: TaskSpec, columns: Mapping[str, Sequence[Any]], labels: NDArray[Any], path: Path) -> Parts:
    if spec.splits.column is None:
        strata = labels if spec.kind is TaskKind.SINGLE_LABEL else np.zeros(len(columns[spec.path]))
        return stratified_parts(strata, spec.splits.shares, spec.splits.seed)
    words = [str(word).strip().lower() for word in columns[spec.splits.column]]
    unknown = [word for word in words if word not in PART_NAMES]
    if unknown:
        raise FileInputError(path, f"expected train, val or test in {spec.splits.column}, got {unknown[0]!r}.")
    codes = np.array([PART_NAMES[word] for word in words])
    return Parts(*(np.flatnonzero(codes == code) for code in range(3)))


def _masks(
    spec: TaskSpec, columns: Mapping[str, Sequence[Any]], images: FileImages
) -> Callable[[NDArray[np.intp]], NDArray[Any]]:
    assert spec.mask is not None
    return MaskFiles(spec, images, tuple(map(str, columns[spec.mask])))


@dataclass(frozen=True)
class MaskFiles:
    """Masks in files beside the rasters, one band each.

    Attributes
    ----------
    spec
        Says which value means unlabelled.
    images
        The rasters, which have the same number of pixels.
    files
        (N) paths, relative as those of the rasters.
    """

    spec: TaskSpec
    images: FileImages
    files: tuple[str, ...]
    _sizes: dict[int, tuple[int, ...]] = field(default_factory=dict, compare=False)

    def __call__(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """(B) positions to (B, H, W): class indices, or float64 values."""
        return np.stack([self.one(int(row)) for row in rows])

    def one(self, row: int) -> NDArray[Any]:
        """Mask of a sample.

        Raises
        ------
        FileInputError
            When its size is not the image's, or it holds a class that the task does not know.
        """
        values, _ = self.images.reader.read(self.files[row])
        item = self.files[row]
        if row not in self._sizes:
            self._sizes[row] = self.images.reader.read(self.images.items[row])[0].shape[1:]
        if len(values) != 1 or values.shape[1:] != self._sizes[row]:
            raise FileInputError(
                item, f"expected a mask of one band and {self._sizes[row]} px, as its image, got shape {values.shape}."
            )
        return check_mask(self.spec, values[0], item)


def check_mask(spec: TaskSpec, mask: NDArray[Any], item: str) -> NDArray[Any]:
    """(H, W) values of a file to class indices (`IGNORED` where unlabelled), or to float64 quantities (NaN there)."""
    unlabelled = np.isnan(mask) if mask.dtype.kind == "f" else np.zeros(mask.shape, bool)
    if spec.ignore is not None:
        unlabelled |= mask == spec.ignore
    if spec.kind is TaskKind.PIXEL_REGRESSION:
        return _nearest(np.where(unlabelled, np.nan, mask).astype(np.float64), spec.size_px)
    indices = np.where(unlabelled, 0, mask).astype(np.int64)  # signed first: an unsigned mask has no room for IGNORED
    indices[unlabelled] = IGNORED
    if spec.classes and (indices.max() >= len(spec.classes) or indices.min() < IGNORED):
        wrong = indices.max() if indices.max() >= len(spec.classes) else indices.min()
        raise FileInputError(
            item,
            f"expected classes 0 to {len(spec.classes) - 1} in the mask, got {wrong}; give ignore or more classes.",
        )
    return _nearest(indices, spec.size_px)


def _nearest(mask: NDArray[Any], size_px: int | None) -> NDArray[Any]:
    if size_px is None or mask.shape == (size_px, size_px):
        return mask
    rows, columns = (((np.arange(size_px) + 0.5) * side / size_px).astype(int) for side in mask.shape)
    return mask[np.ix_(rows, columns)]
