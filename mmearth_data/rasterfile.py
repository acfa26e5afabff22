"""Read raster files, for builds and for labelled tasks.

A pixel is missing if the file marks it (no-data tag, internal mask, ``.msk``, alpha band) or if it is NaN or infinite.
No-data numbers from a mapping or a task file replace the file's tag; they are compared in the file's own type, so
-9999.9 marks the nearest float32. Scale and offset tags are returned with the values; `calibrate` uses them to convert
to stored units. GDAL's raster data model: https://gdal.org/user/raster_data_model.html.
"""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mmearth_data.errors import FileInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.catalog.modality import Modality

Marks = tuple[float, ...] | None
"""No-data numbers that replace the file's tag. An empty tuple means that no number is missing; None keeps the tag."""

Factors = tuple[tuple[float, float], ...]
"""Scale and offset of each band."""
SAME = (1.0, 0.0)
NEAR_LARGEST = 1e-5
"""Relative distance to a type's limit at which a number counts as the limit, which is printed with six digits
(-3.40282e+38).
"""
SIDECAR_ENDINGS = (".msk", ".aux.xml", ".ovr", ".aux", ".msk.ovr")
"""Suffixes appended to the name of a raster file for files that GDAL reads with it: ``x.tif.msk``."""
SIDECAR_SUFFIXES = ("wld", "aux", "rrd")
"""Suffixes that replace that of the raster file, in addition to world files: ``x.wld``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Raster:
    """Bands of a file, or of a window of it.

    Attributes
    ----------
    values
        (C, H, W) numbers as stored in the file, in its own type.
    missing
        (C, H, W) bool.
    names
        (C) descriptions of the bands; empty unless every band has one.
    tags
        (C) scale and offset tags of the file: physical value = number * scale + offset.
    alpha
        Position of the alpha band among ``values``, None without one.
    corners
        x and y of the upper-left and of the lower-right corner in the file's CRS; None without a geotransform.
    """

    values: NDArray[Any]
    missing: NDArray[np.bool_]
    names: tuple[str, ...] = ()
    tags: Factors = ()
    alpha: int | None = None
    corners: tuple[float, float, float, float] | None = None

    @classmethod
    def of(cls, values: NDArray[Any], names: tuple[str, ...] = (), marks: Marks = None) -> Self:
        """Raster from (C, H, W) numbers of another format, without tags."""
        return cls(values=values, missing=marked(values, marks or ()), names=names, tags=(SAME,) * len(values))

    def select(self, bands: Sequence[int]) -> Self:
        """Select bands by position; an alpha band that is not selected hides pixels of the others."""
        missing = self.missing[list(bands)]
        alpha = self.alpha
        if alpha is not None and alpha not in bands:
            missing = missing | (self.values[alpha] == 0)
        return replace(
            self,
            values=self.values[list(bands)],
            missing=missing,
            names=tuple(self.names[band] for band in bands) if self.names else (),
            tags=tuple(self.tags[band] for band in bands),
            alpha=None if alpha is None or alpha not in bands else list(bands).index(alpha),
        )

    def window(self, row: int, col: int, size_px: int) -> Self:
        """Square part of the raster, by its upper-left pixel; without corners."""
        part = (slice(None), slice(row, row + size_px), slice(col, col + size_px))
        return replace(self, values=self.values[part], missing=self.missing[part], corners=None)


def marked(values: NDArray[Any], marks: Sequence[float]) -> NDArray[np.bool_]:
    """Elementwise: NaN, infinite, or equal to one of the marks in the array's type."""
    missing: NDArray[np.bool_] = np.zeros(values.shape, bool) if values.dtype.kind in "iub" else ~np.isfinite(values)
    for mark in marks:
        for number in in_type(mark, values.dtype):
            missing |= values == number
    return missing


def as_marks(value: object) -> Marks:
    """Read a field ``nodata`` of a mapping or a task file: a number, a list of numbers, or null for none.

    Raises
    ------
    ValueError
        When it is something else.
    """
    given = [] if value is None else value if isinstance(value, list | tuple) else [value]
    for number in given:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(  # noqa: TRY004 - pydantic catches it
                f"expected a number, a list of numbers or null, got {number!r}; YAML needs a point and a sign in 1.0e+20"
            )
    return tuple(given)


def in_type(number: float, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Convert a number to a type: one value, or none if the type cannot represent it.

    Examples
    --------
    >>> in_type(-9999, np.dtype("uint8")), in_type(255, np.dtype("uint8"))
    ((), (np.uint8(255),))
    >>> in_type(-9999.9, np.dtype("float32"))
    (np.float32(-9999.9),)
    """
    if not math.isfinite(number):
        return ()  # NaN and infinities are missing anyway
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        whole = int(number)
        return (dtype.type(whole),) if whole == number and limits.min <= whole <= limits.max else ()
    largest = float(np.finfo(dtype).max)
    near = (dtype.type(math.copysign(largest, number)),) if abs(abs(number) / largest - 1) < NEAR_LARGEST else ()
    return (*near, *((dtype.type(number),) if abs(number) <= largest else ()))


def check_marks(marks: Marks, dtypes: Collection[str], name: Path | str) -> None:
    """Refuse no-data numbers if the file's types can represent none of them: they would mark nothing.

    Raises
    ------
    FileInputError
        With the number and the type.
    """
    finite = [mark for mark in marks or () if math.isfinite(mark)]
    if finite and not any(in_type(mark, np.dtype(dtype)) for mark in finite for dtype in dtypes):
        raise FileInputError(
            name,
            f"nodata: expected a number that {' and '.join(sorted(set(dtypes)))} can hold, got "
            f"{', '.join(f'{mark:g}' for mark in finite)}, which marks nothing; correct it, or write nodata: null.",
        )


@contextmanager
def open_raster(source: Path | str, name: Path | str) -> Iterator[Any]:
    """Open a raster file with rasterio, for use by one thread.

    Parameters
    ----------
    source
        Path that GDAL opens.
    name
        Name used in messages.

    Raises
    ------
    FileInputError
        If it cannot be opened, or a read within the context fails.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(source) as dataset:
            yield dataset
    except RasterioError as error:
        words = " ".join(str(error.__cause__ or error).split())
        raise FileInputError(
            name, f"expected a complete GeoTIFF or other raster, got one that cannot be read ({words}); copy it again."
        ) from None


def read_raster(source: Path | str, name: Path | str, marks: Marks = None) -> Raster:
    """Read all bands of a file; see `open_raster` and `read_raster_window`.

    Raises
    ------
    FileInputError
        If it cannot be read, or its type can represent none of the marks.
    """
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with open_raster(source, name) as dataset:
            check_marks(marks, dataset.dtypes, name)
            return read_raster_window(dataset, marks)


def raster_outline(source: Path | str, name: Path | str) -> BaseGeometry | None:
    """Outline of a file in EPSG:4326, a polygon through its four corners; None if it has no georeference.

    Only the header is read; see `open_raster` for the parameters and errors.
    """
    import shapely
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.warp import transform

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with open_raster(source, name) as dataset:
            if dataset.crs is None or dataset.transform.is_identity:
                return None
            columns, rows = np.array([[0, dataset.width, dataset.width, 0], [dataset.height, dataset.height, 0, 0]])
            a, b, c, d, e, f = tuple(dataset.transform)[:6]
            x, y = a * columns + b * rows + c, d * columns + e * rows + f
            lon, lat = transform(dataset.crs, "EPSG:4326", x.tolist(), y.tolist())
    found: BaseGeometry = shapely.Polygon(zip(lon, lat, strict=True))
    return found if np.isfinite(found.bounds).all() else None


def read_raster_window(dataset: Any, marks: Marks = None, bands: Sequence[int] = (), window: Any = None) -> Raster:  # noqa: ANN401 - rasterio has no types
    """Read bands of an open file.

    Parameters
    ----------
    dataset
        From `open_raster`.
    marks
        Numbers that mean missing, instead of the file's no-data tag.
    bands
        1-based; empty means all.
    window
        rasterio's, within the file; None means all of it.
    """
    wanted = list(bands or dataset.indexes)
    values = _values(dataset, wanted, window)
    missing = np.stack([_missing(dataset, band, plane, marks) for band, plane in zip(wanted, values, strict=True)])
    _hide(dataset, wanted, window, marks, missing)
    names = tuple(dataset.descriptions[band - 1] or "" for band in wanted)
    alpha = _alpha(dataset)
    return Raster(
        values=values,
        missing=missing,
        names=names if all(names) else (),
        tags=tags_of(dataset, wanted),
        alpha=wanted.index(alpha) if alpha in wanted else None,
        corners=_corners(dataset),
    )


def _corners(dataset: Any) -> tuple[float, float, float, float] | None:  # noqa: ANN401
    transform = dataset.transform
    if transform.is_identity:
        return None
    a, b, c, d, e, f = tuple(transform)[:6]
    return c, f, c + a * dataset.width + b * dataset.height, f + d * dataset.width + e * dataset.height


def tags_of(dataset: Any, bands: Sequence[int]) -> Factors:  # noqa: ANN401
    """Scale and offset tags of bands (1-based) of an open file."""
    return tuple((float(dataset.scales[band - 1]), float(dataset.offsets[band - 1])) for band in bands)


def marks_synthetic(tags: Mapping[str, Any]) -> bool:
    """Whether the tags of a file mark its pixels as synthetic, as exports and maps do.

    Examples
    --------
    >>> marks_synthetic({"synthetic": "yes"}), marks_synthetic({"synthetic": "no"}), marks_synthetic({})
    (True, False, False)
    """
    return str(tags.get("synthetic", "no")).lower() in ("yes", "true")


def _values(dataset: Any, wanted: list[int], window: Any) -> NDArray[Any]:  # noqa: ANN401
    """(C, H, W) values; bands of different types (possible in a VRT) are promoted to a common type."""
    if len(set(dataset.dtypes)) == 1:
        values: NDArray[Any] = dataset.read(wanted, window=window)
        return values
    return np.stack([dataset.read(band, window=window) for band in wanted])


def _missing(dataset: Any, band: int, plane: NDArray[Any], marks: Marks) -> NDArray[np.bool_]:  # noqa: ANN401
    tag = dataset.nodatavals[band - 1]
    own = () if tag is None else (tag,)
    numbers = own if marks is None else marks
    return marked(plane.astype(dataset.dtypes[band - 1], copy=False), numbers)


def _hide(dataset: Any, wanted: list[int], window: Any, marks: Marks, missing: NDArray[np.bool_]) -> None:  # noqa: ANN401
    """Mark pixels hidden by masks. An alpha band hides pixels unless it is requested itself; then it is data."""
    from rasterio.enums import MaskFlags

    for position, band in enumerate(wanted):
        flags = set(dataset.mask_flag_enums[band - 1])
        by_value = MaskFlags.nodata in flags and (marks is not None or MaskFlags.per_dataset not in flags)
        as_data = MaskFlags.alpha in flags and _alpha(dataset) in wanted
        if MaskFlags.all_valid not in flags and not by_value and not as_data:
            missing[position] |= dataset.read_masks(band, window=window) == 0


def _alpha(dataset: Any) -> int | None:  # noqa: ANN401
    """1-based position of the alpha band."""
    from rasterio.enums import ColorInterp

    roles = list(dataset.colorinterp)
    return roles.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in roles else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How a file's numbers become stored numbers.

    Attributes
    ----------
    factors
        (C) scale and offset: stored = number * scale + offset.
    ignored
        The file's tags, as text, if the caller's numbers override them; otherwise empty.
    """

    factors: Factors
    ignored: str = ""


def calibrate(
    tags: Factors, modality: Modality, scale: float | None, offset: float | None, name: Path | str
) -> Calibration:
    """Choose between the caller's scale and offset and the file's tags.

    Parameters
    ----------
    tags
        (C) scale and offset tags of the file; they convert to physical units.
    modality
        Defines the conversion of physical to stored units; class codes are never scaled.
    scale, offset
        From a mapping or a task file; they convert to stored units and replace the tags. None if not given.
    name
        The file, for messages.

    Raises
    ------
    FileInputError
        If only one of scale and offset is given, and the file has a tag for the other.
    """
    tagged = any(own != SAME for own in tags)
    by_tags = tuple((own / modality.scale, (shift - modality.offset) / modality.scale) for own, shift in tags)
    given = scale is not None or offset is not None
    if tagged and not given and not modality.kind.is_categorical:
        return Calibration(factors=by_tags)
    lacking = _lacking(tags, scale, offset) if given else None
    if lacking:
        problem = f"expected scale and offset both or neither, since the file has {_words(tags)}; add {lacking}."
        raise FileInputError(name, problem)
    factors = ((1.0 if scale is None else scale, 0.0 if offset is None else offset),) * len(tags)
    return Calibration(factors=factors, ignored=_words(tags) if tagged and factors != by_tags else "")


def _lacking(tags: Factors, scale: float | None, offset: float | None) -> str | None:
    """Name the field that is missing to override the file's tags, and the value that means "ignore the tag"."""
    if scale is None and any(own != 1 for own, _ in tags):
        return "scale (1 leaves the file's numbers as they are)"
    if offset is None and any(own != 0 for _, own in tags):
        return "offset (0 leaves the file's numbers as they are)"
    return None


def _words(tags: Factors) -> str:
    """Describe the tags; a number that all bands share appears once."""
    scales, offsets = ([f"{value:g}" for value in values] for values in zip(*tags, strict=True))
    texts = (", ".join(values[:1] if len(set(values)) == 1 else values) for values in (scales, offsets))
    return "the tags scale {} and offset {}".format(*texts)


def sidecar_names(name: str) -> tuple[str, ...]:
    """Names of the files that GDAL reads with a raster file: masks, statistics, overviews, world files.

    Examples
    --------
    >>> sidecar_names("a.tif")[:3]
    ('a.tif.msk', 'a.tif.aux.xml', 'a.tif.ovr')
    >>> "a.tfw" in sidecar_names("a.tif"), "a.pgw" in sidecar_names("a.png")
    (True, True)
    """
    stem, _, suffix = name.rpartition(".")
    worlds = (f"{suffix[:1]}{suffix[-1:]}w", f"{suffix}w")
    beside = [f"{stem}.{ending}" for ending in (*SIDECAR_SUFFIXES, *worlds)] if stem else []
    return (*(f"{name}{ending}" for ending in SIDECAR_ENDINGS), *beside)


class Siblings:
    """Names of the files of one folder, to find the sidecars of a raster file.

    Parameters
    ----------
    names
        Names of all files, without the folder.

    Examples
    --------
    >>> Siblings(["a.tif", "a.tif.msk", "a.TFW", "b.tfw"]).sidecars("a.tif")
    ('a.TFW', 'a.tif.msk')
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._spelled: dict[str, list[str]] = {}
        for name in names:
            self._spelled.setdefault(name.lower(), []).append(name)

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Names of the files of a folder on disk.

        Raises
        ------
        OSError
            When it cannot be listed.
        """
        return cls(path.name for path in folder.iterdir())

    def sidecars(self, name: str) -> tuple[str, ...]:
        """Sorted names of the sidecars that GDAL reads with a raster file; case does not matter."""
        wanted = {beside.lower() for beside in sidecar_names(name)} - {name.lower()}
        return tuple(sorted(found for beside in wanted for found in self._spelled.get(beside, ())))
