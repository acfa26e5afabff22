r"""The chips file: the images, their bands, and what is known about each of them.

.. code-block:: yaml

    images: photographs.zip        # a folder, zip, HDF5 file, .npy or .npz, relative to this file
    modalities:
      - modality: rgb              # a new modality, defined here
        path: "*/*.jpg"            # images in the folder or zip; ** crosses folders
        bands: [red, green, blue]  # channels of a file in its order; null skips one
        define: {long_name: Photographs, dtype: uint8}
    labels:
      land_use: {folder: true, content: class}
    splits: {shares: [70, 0, 30], stratify: land_use}

Several modalities per chip, stored values of a catalog modality, and facts from a table:

.. code-block:: yaml

    images: chips
    size_px: 64                    # with crop: the centre of larger images
    crop: centre
    level: L2A
    modalities:
      - modality: sentinel2        # from the catalog, with these bands only
        path: "s2/{chip}.tif"      # {chip} is the name that the files of one chip share
        bands: [B2, B3, B4, B8]
        scale: 1                   # stored = file * scale + offset
        offset: -1000
        nodata: 0                  # no-data value of the file
      - modality: sentinel1
        path: "s1/{chip}_vv_vh.tif"
        bands: [asc_VV, asc_VH]
    table: {file: chips.csv, image: name}
    lon: {column: x}
    lat: {column: y}
    date: {column: day}
    labels:
      soil_ph: {column: pH, content: value, units: "1"}
    splits: {column: split}

Arrays have one image per entry of their first axis, in ``axes`` NCHW, NHWC or NHW:

.. code-block:: yaml

    images: patches.h5
    modalities:
      - modality: sentinel2
        dataset: /sen2
        axes: NHWC
        bands: [B2, B3, B4, B5, B6, B7, B8, B8A, B11, B12]
        scale: 10000
    labels:
      zone: {dataset: /label, content: class, classes: [compact, open, water]}
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, field_validator
from pydantic import model_validator as whole_validator

from mmearth_data.catalog.entries import ClassEntry, DisplayEntry, DTypeName, LicenceEntry, Pair, WavelengthEntry
from mmearth_data.errors import FileInputError
from mmearth_data.files.yamlfiles import YamlFile, read_yaml
from mmearth_data.rasterfile import Marks, as_marks
from mmearth_data.recipes import Content

CHIP = "{chip}"
ORIGINS = ("folder", "filename", "column", "dataset", "file")
SPLITS = ("train", "val", "test")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Origin(_Strict):
    """The origin of a fact about each chip: exactly one of these fields."""

    folder: Literal[True] | None = None
    """Name of the folder that contains the image."""
    filename: str | None = None
    """Regular expression for the name of the image; its first capturing group is the fact."""
    column: str | None = None
    """Column of the table."""
    dataset: str | None = None
    """Dataset of the HDF5 file, or array of the .npz file, with one entry per image."""
    file: str | None = None
    """A .npy file with one entry per image, relative to this file."""

    @whole_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [name for name in ORIGINS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of {', '.join(ORIGINS)}, got {' and '.join(given) or 'none'}")
        if self.filename is not None:
            try:
                groups = re.compile(self.filename).groups
            except re.error as error:
                raise ValueError(f"filename is not a regular expression: {error}") from None
            if groups == 0:
                raise ValueError("filename needs a capturing group around the fact, such as '_(\\d{8})_'")
        return self


class LabelEntry(Origin):
    """A label of each chip."""

    content: Content
    """``class`` for one class, ``value`` for a number, ``multi`` for any number of classes."""
    classes: list[str] | None = None
    """Names of the classes in the order of their codes. Required for numbers; by default the sorted names of a text."""
    separator: str = ";"
    """For ``multi``: the separator between names in a text."""
    long_name: str = ""
    """Display name."""
    units: str = "1"
    """Unit of a value, in UDUNITS notation."""
    pretext: bool = False
    """Whether it is a pretext task."""


class Definition(_Strict):
    """A modality that the catalog lacks."""

    long_name: str = ""
    """Display name; by default the name."""
    kind: Literal["raster/continuous", "raster/categorical", "raster/mask"] = "raster/continuous"
    """Kind of the modality: continuous values, class codes or masks."""
    dtype: DTypeName = "uint8"
    """Data type of the stored values."""
    nodata: int | float | Literal["NaN"] | None = None
    """Stored no-data value. By default the largest value of an unsigned type, the smallest of a signed type, and NaN
    for floats; observed values equal to it are then replaced by the adjacent value (255 becomes 254).
    """
    units: str = "1"
    """Unit of the physical values, in UDUNITS notation."""
    scale: float = 1.0
    """Physical value = stored value * scale + offset."""
    offset: float = 0.0
    """See ``scale``."""
    range: Pair | None = None
    """Range of stored values within which percentiles are computed; required except for 8-bit types."""
    wavelengths: dict[str, WavelengthEntry] = {}
    """Optical bands: central wavelength and bandwidth, micrometres."""
    classes: list[ClassEntry] = []
    """Class codes of ``raster/categorical``."""
    input: bool | None = None
    """Whether it can be an input of the encoder; by default only continuous modalities can."""
    pretext: bool | None = None
    """Whether it is a pretext task; by default all modalities except masks are."""
    pretext_norm: Literal["patch", "none"] | None = None
    """Whether targets are normalised per patch; by default only for continuous modalities."""
    display: DisplayEntry | None = None
    """How it is displayed; by default its first three bands, or its first."""
    doi: str = ""
    """DOI of the publication to cite."""
    source: str = ""
    """Page that describes the data."""
    licence: LicenceEntry = LicenceEntry(name="not stated", url="", attribution="")
    """Terms of use."""


class ImagesEntry(_Strict):
    """The images of one modality."""

    modality: str
    """Name of the modality: one of the catalog, or a new one with ``define``."""
    define: Definition | None = None
    """Definition of a new modality."""
    images: str | None = None
    """Folder or file of these images, if not that of the whole chips file."""
    path: str = "**"
    """Images in a folder or zip: ``*`` matches a part of a name, ``**`` also folders, ``{chip}`` the part of the name
    that all files of a chip share.
    """
    dataset: str | None = None
    """Dataset of an HDF5 file, or array of a .npz file."""
    axes: Literal["NCHW", "NHWC", "NHW"] | None = None
    """Axes of an array, without the first for the .npy files of a folder; by default inferred from the bands."""
    bands: Annotated[list[str | None], Field(min_length=1)]
    """Band of the modality for each channel of an image, in the order of the image; null skips a channel."""
    scale: float | None = None
    """Stored value = file value * scale + offset."""
    offset: float | None = None
    """See ``scale``."""
    clip: Pair | None = None
    """Lowest and highest stored value; without it, an image with a value that does not fit the data type is skipped."""
    nodata: Annotated[Marks, PlainValidator(as_marks)] = None
    """No-data value or values of the file."""
    codes: dict[int, int] | None = None
    """Code in the file -> code of the modality; by default the files contain the codes of the modality."""
    notes: list[str] = []
    """Notes for users of the modality; recorded in the store."""

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        parts = PurePosixPath(value).parts
        if not parts or value.startswith(("/", "~")) or ".." in parts or "\\" in value or "\0" in value:
            raise ValueError("expected a path within the images, with forward slashes and without '..'")
        if value.count("{") != value.count(CHIP) or value.count(CHIP) > 1:
            raise ValueError("expected no placeholder but *, ** and one {chip}")
        return value

    @field_validator("bands")
    @classmethod
    def _bands_differ(cls, value: list[str | None]) -> list[str | None]:
        names = [band for band in value if band is not None]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"expected different bands, at least one, got {value}")
        return value

    @property
    def planes(self) -> tuple[int, ...]:
        """Positions of the planes that are read."""
        return tuple(at for at, band in enumerate(self.bands) if band is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """Bands that are read, in the file's order."""
        return tuple(band for band in self.bands if band is not None)


class TableEntry(_Strict):
    """A table with one row per chip."""

    file: str
    """CSV or Parquet, relative to this file."""
    image: str | None = "image"
    """Column with the name of the image: its path, its file name, or either without its suffix. ``null``: rows are in the
    order of the images.
    """


class SplitEntry(_Strict):
    """Splits: shares, lists of names, or a fact about each chip (train, val, test or 0, 1, 2)."""

    shares: Annotated[list[float], Field(min_length=3, max_length=3)] | None = None
    """Percentages of train, val and test, assigned at random with the seed of the build."""
    stratify: str | None = None
    """With ``shares``: label (content ``class``) by which the splits are stratified."""
    train: str | None = None
    """File with the names of the training images, one per line."""
    val: str | None = None
    """File with the names of the validation images."""
    test: str | None = None
    """File with the names of the test images."""
    folder: Literal[True] | None = None
    """Name of the folder that contains the image."""
    filename: str | None = None
    """Regular expression for the name of the image; its first capturing group is the split."""
    column: str | None = None
    """Column of the table."""
    dataset: str | None = None
    """Dataset of the HDF5 file, or array of the .npz file."""
    file: str | None = None
    """A .npy file with one entry per image."""

    @whole_validator(mode="after")
    def _one_form(self) -> Self:
        lists = any(getattr(self, name) is not None for name in SPLITS)
        facts = any(getattr(self, name) is not None for name in ORIGINS)
        if [self.shares is not None, lists, facts].count(True) != 1:
            raise ValueError(f"expected shares, lists (train, val, test) or one of {', '.join(ORIGINS)}")
        if self.shares is not None and (min(self.shares) < 0 or abs(sum(self.shares) - 100) > 1e-6):
            raise ValueError(f"expected three shares that add up to 100, got {self.shares}")
        if self.stratify is not None and self.shares is None:
            raise ValueError("stratify needs shares")
        if facts:
            self.origin()
        return self

    def origin(self) -> Origin | None:
        """Where the split of each chip comes from, if it is a fact."""
        given = {name: getattr(self, name) for name in ORIGINS if getattr(self, name) is not None}
        return Origin(**given) if given else None

    def lists(self) -> dict[str, str]:
        """Split -> file of names, if lists are given."""
        return {name: getattr(self, name) for name in SPLITS if getattr(self, name) is not None}


def _as_origin(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


OriginOrColumn = Annotated[Origin, BeforeValidator(_as_origin)]


def _as_text(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value


class ChipsFile(_Strict):
    """A chips file; the module's docstring describes its fields."""

    images: str
    """Folder, zip, HDF5 file (.h5, .hdf5), .npy or .npz, relative to this file."""
    modalities: Annotated[list[ImagesEntry], Field(min_length=1)]
    """One entry per modality; the images of the first are the chips."""
    size_px: int | None = None
    """Side of the tiles; by default that of the first image."""
    crop: Literal["centre"] | None = None
    """``centre``: larger images are cropped to their centre; otherwise they are skipped."""
    level: Literal["L1C", "L2A"] | None = None
    """Sentinel-2 processing level of all chips."""
    table: TableEntry | None = None
    """Table with one row per chip, for the fields with ``column``."""
    lon: OriginOrColumn | None = None
    """Longitude of the centre of each chip, degrees; text is the name of a column."""
    lat: OriginOrColumn | None = None
    """Latitude of the centre of each chip, degrees."""
    date: OriginOrColumn | None = None
    """Date of each chip: ISO 8601, or eight digits."""
    labels: dict[str, LabelEntry] = {}
    """Name of a label modality: where the label of each chip comes from."""
    splits: SplitEntry | None = None
    """Splits of the chips; by default those of the options ``--split-shares`` and ``--seed``."""
    notes: list[str] = []
    """Notes for users of the store; recorded in the store."""

    @whole_validator(mode="after")
    def _consistent(self) -> Self:
        names = [layer.modality for layer in self.modalities]
        twice = sorted({name for name in (*names, *self.labels) if [*names, *self.labels].count(name) > 1})
        if twice:
            raise ValueError(f"expected every modality and label once, got {twice[0]} twice")
        if (self.lon is None) != (self.lat is None):
            raise ValueError("expected lon and lat both or neither; add the other")
        uses_table = any(origin.column is not None for origin in self._origins())
        if uses_table != (self.table is not None):
            raise ValueError("expected table if a column is named, and only then; add table, or remove it")
        stratify = self.splits.stratify if self.splits else None
        if stratify is not None and (stratify not in self.labels or self.labels[stratify].content != "class"):
            raise ValueError(f"stratify: expected a label of content class, got {stratify!r}")
        return self

    def _origins(self) -> list[Origin]:
        """Origins of all facts that are read for each chip."""
        splits = self.splits.origin() if self.splits else None
        return [
            origin for origin in (self.lon, self.lat, self.date, splits, *self.labels.values()) if origin is not None
        ]


class Described:
    """A chips file with its path and the lines of its fields."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._yaml: YamlFile = read_yaml(self.path, "a chips file")
        try:
            self.file = ChipsFile.model_validate(self._yaml.values)
        except ValidationError as error:
            raise self._yaml.refusal(error, ChipsFile, "chips file") from None

    def refusal(self, problem: str, *keys: str | int) -> FileInputError:
        """Error about a field of the file."""
        return FileInputError(self.path, problem, self._yaml.line_of(keys) if keys else None)

    def beside(self, name: str) -> Path:
        """Path of a file that the chips file names."""
        return self.path.parent / Path(name).expanduser()
