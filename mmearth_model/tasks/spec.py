"""A task file: the content and layout of a labelled data set on disk, read strictly."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from mmearth_data import (
    FileInputError,
    InputError,
    Marks,
    as_marks,
    did_you_mean,
    is_data,
    load_catalog,
    read_yaml,
    resource_path,
)
from mmearth_model.tasks.labelled import TaskKind, meant

if TYPE_CHECKING:
    from collections.abc import Sequence

Layout = Literal["geobench", "geobench2", "folder", "table", "mmearth-bench"]
BENCH_LAYOUT = "mmearth-bench"
BENCH_KINDS = (TaskKind.REGRESSION, TaskKind.PIXEL_REGRESSION, TaskKind.MULTI_LABEL)
OF_BENCH = frozenset(
    {"name", "long_name", "layout", "kind", "bands", "level", "normalise", "label", "test", "augment", "source", "doi", "licence", "notes"}
)  # fmt: skip
"""Fields that have an effect for MMEarth-Bench, whose format determines all others."""
TESTS = ("random", "geographic")
MEAN = "mean"
"""Fill a missing band with its mean, since its values are unknown."""
SWAPPED = {"B8": "B8A", "B8A": "B8"}
"""Bands that ``band_order: paper`` exchanges: the paper's benchmarks fed B8 to encoders that had learned B8A."""


class Splits(BaseModel):
    """How the samples are divided.

    Attributes
    ----------
    shares
        Shares of train, validation and test, chosen at random with ``seed`` and stratified by class. Folders named
        ``train``, ``val`` (or ``valid``, ``validation``) and ``test`` are used as they are.
    seed
        Seed of the random choice.
    column
        Table: column with train, val (or valid) or test.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    shares: tuple[float, float, float] = (70, 15, 15)
    seed: int = Field(default=0, ge=0)
    column: str | None = None

    @model_validator(mode="after")
    def _can_be_divided(self) -> Splits:
        train, validation, test = self.shares
        if not (train > 0 and validation >= 0 and test > 0 and math.isfinite(sum(self.shares))):
            raise InputError(
                "splits.shares: expected shares of train, validation and test, of which only that of validation may be 0, "
                f"got {', '.join(f'{share:g}' for share in self.shares)}; [70, 15, 15] is usual."
            )
        return self


class TaskSpec(BaseModel):
    """One task file.

    Attributes
    ----------
    name
        Name used to refer to the task.
    long_name
        Display name of the data set.
    layout
        ``geobench``: HDF5 samples with partitions; ``folder``: ``class/*.tif`` or a zip of it; ``table``: CSV or
        GeoParquet with a column of raster paths and a label column or mask files; ``mmearth-bench``: one HDF5 file with
        all modalities, named as ``label``, and its split file.
    kind
        See `mmearth_model.tasks.labelled.TaskKind`.
    modality
        Modality of the catalog that the bands belong to.
    bands
        Band name in the files -> band name in the catalog; in the files' order if their bands are not named. ``null``
        in place of the catalog's name skips a band of the files: ``[B4, B3, B2, null]`` for a picture with an alpha
        band.
    band_order
        ``catalog``: every band is used as itself; ``paper``: B8 and B8A are exchanged, as in the paper's own figures
        for GEO-Bench, to compare with them.
    level
        Processing level (``L1C``, ``L2A``), if the modality's statistics depend on it.
    scale, offset
        Value in the catalog's units = file's value * scale + offset (-1000 for Sentinel-2 baselines from 04.00 on).
        Without both, scale and offset tags of the files are applied; with them, the tags are ignored.
    nodata
        Number or numbers in the files that mean missing, instead of their no-data tags; ``null``: none. Pixels that are
        NaN, or hidden by a mask or an alpha band of the file, are missing in any case.
    fill
        Band that the files lack -> the band of the files that replaces it, or ``mean``. Bands not listed use ``mean``.
        With ``band_order: paper``, the names are still those of the files' own bands.
    size_px
        Side length to which images are resampled (bilinear; masks nearest); without it, they keep their size.
    normalise
        ``task``: with the training samples' own mean and deviation; ``checkpoint``: with those of the pretraining.
    classes
        Names in order of their index; if empty, they are read from the data.
    colours
        Display colour of each class in maps, ``"#rrggbb"``, in the order of ``classes``.
    path
        Table: column of the raster files, or a pattern of columns: ``"{patch_id}/{patch_id}.tif"``. ``{band}`` in a
        path, here or in the table, is replaced by the files' names of ``bands``, with one file per band:
        ``path: "{patch_id}/{patch_id}_{band}.tif"`` and ``bands: {B02: B2, B11: B11}`` read BigEarthNet. Coarser
        bands are resampled to the finest grid (bilinear); pixels next to missing ones become missing.
        GEO-Bench 2: member of a sample with the image: its position, its name, or its modality (the first one).
    label
        Table: column of the label; a list of columns for several quantities, or for multi-label tasks with a column of
        zeros and ones per label. GEO-Bench 2: column of names of classes or lists of them. MMEarth-Bench: array of the labels.
    mask
        Table: column of the mask files, or a pattern of columns, as for ``path``. GEO-Bench 2: member of a sample with the
        mask, as for ``path``.
    ids
        Table: column of the samples' names.
    separator
        Table, multi-label in one column: the separator between labels.
    ignore
        Mask value that means unlabelled.
    date
        GEO-Bench samples with several dates: the date to use.
    test
        MMEarth-Bench: samples to test on, ``random`` or ``geographic`` (``NAME@geographic`` on the command line).
    augment
        Augmentations allowed in fine-tuning.
    source, doi, licence
        Where the data come from, what to cite, and their terms of use.
    notes
        Notes on the data for users of the results; printed with every result.
    splits
        See `Splits`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(pattern=r"^[\w.-]+$")
    long_name: str = ""
    layout: Layout
    kind: TaskKind
    modality: str = "sentinel2"
    bands: dict[str, str | None] | list[str | None]
    band_order: Literal["catalog", "paper"] = "catalog"
    level: Literal["L1C", "L2A"] | None = None
    scale: float | None = None
    offset: float | None = None
    nodata: Annotated[Marks, PlainValidator(as_marks), PlainSerializer(list, list, "unless-none")] = None
    fill: dict[str, str] = {}
    size_px: int | None = Field(default=None, ge=8, le=1024)
    normalise: Literal["task", "checkpoint"] = "task"
    classes: tuple[str, ...] = ()
    colours: tuple[Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")], ...] = ()
    path: str = "path"
    label: str | tuple[str, ...] = "label"
    mask: str | None = None
    ids: str | None = None
    separator: str = ","
    ignore: int | None = None
    date: Literal["first", "last"] = "first"
    splits: Splits = Splits()
    test: Literal["random", "geographic"] | None = None
    augment: tuple[Literal["flip", "crop"], ...] = ("flip", "crop")
    source: str = ""
    doi: str = ""
    licence: str = ""
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits_the_catalog(self) -> TaskSpec:
        known = load_catalog().modalities
        if self.modality not in known:
            raise InputError(
                f"modality: expected one of the catalog, got {self.modality!r}; {did_you_mean(self.modality, known)}"
            )
        bands = known[self.modality].bands
        twice = [band for band in self.catalog_bands if self.catalog_bands.count(band) > 1]
        if twice or not self.catalog_bands:
            got = f"{twice[0]} twice" if twice else "none"
            raise InputError(
                f"bands: expected every band once, got {got}; write null for those to skip, see fill for copies."
            )
        fills = [*self.fill, *(band for band in self.fill.values() if band != MEAN)]
        unknown = [band for band in (*self.catalog_bands, *fills) if band not in bands]
        if unknown:
            raise InputError(
                f"bands: expected bands of {self.modality} ({', '.join(bands)}), got {unknown[0]!r}; {did_you_mean(unknown[0], bands)}"
            )
        lacking = [band for band in SWAPPED if band not in self.catalog_bands]
        if self.band_order == "paper" and lacking:
            raise InputError(f"band_order: paper exchanges B8 and B8A; expected both in bands, got no {lacking[0]}.")
        if self.kind.per_pixel and self.layout in ("table", "geobench2") and self.mask is None:
            raise InputError(
                "mask: expected the column of the mask files (GEO-Bench 2: the member), got none; name it."
            )
        if self.layout == "geobench2" and self.kind is TaskKind.REGRESSION:
            raise InputError("kind: layout geobench2 does not support regression of whole images; use layout table.")
        if self.layout == "geobench2" and not self.kind.continuous and not self.classes:
            raise InputError("classes: expected the names of the classes for layout geobench2, got none; list them.")
        if self.kind.per_pixel and self.layout == "folder":
            raise InputError(
                "layout: expected table or geobench for masks, got folder; list rasters and masks in a CSV."
            )
        self._check_layout()
        self._check_labels()
        return self

    def _check_layout(self) -> None:
        """Refuse fields without an effect on MMEarth-Bench, and its own fields elsewhere."""
        if self.layout != BENCH_LAYOUT:
            if self.test is not None:
                raise InputError(
                    f"test: expected none with layout {self.layout}, which has a single test split, got {self.test}; leave it out."
                )
            return
        unused = sorted(self.model_fields_set - OF_BENCH)
        if unused:
            raise InputError(
                f"{unused[0]}: expected none with layout {BENCH_LAYOUT}, whose format determines it; leave it out."
            )
        if self.kind not in BENCH_KINDS or len(self.label_columns) != 1:
            raise InputError(
                f"kind: expected {', '.join(BENCH_KINDS)} and one label with layout {BENCH_LAYOUT}, got {self.kind} and "
                f"{len(self.label_columns)}; correct them."
            )

    def _check_labels(self) -> None:
        """Refuse classes and label columns that do not match the kind or each other."""
        blank = [name for name in self.classes if name != name.strip() or not name]
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if blank or twice:
            problem = f"{blank[0]!r}, which is blank or padded" if blank else f"{twice[0]!r} twice"
            raise InputError(f"classes: expected different names, got {problem}; correct the name.")
        if self.colours and (self.kind.continuous or len(self.colours) != len(self.classes)):
            raise InputError(
                f"colours: expected a colour for each of the {len(self.classes)} classes of a {self.kind} task, got "
                f"{len(self.colours)}; list one per class, or leave colours out."
            )
        columns = len(self.label_columns)
        if self.kind is TaskKind.SINGLE_LABEL and columns != 1:
            raise InputError(f"label: expected one column for {self.kind}, got {columns}; use kind: multi-label.")
        if len(set(self.label_columns)) < columns or not columns:
            raise InputError(f"label: expected different columns, got {', '.join(self.label_columns) or 'none'}.")
        if (
            self.kind is TaskKind.MULTI_LABEL
            and not isinstance(self.label, str)
            and len(self.classes) not in (0, columns)
        ):
            raise InputError(
                f"classes: expected {columns} classes, one per column of label, got {len(self.classes)}; "
                "leave classes out to name them as the columns."
            )

    @property
    def catalog_bands(self) -> tuple[str, ...]:
        """Bands of the catalog to which the files' bands are fed, in the files' order."""
        swapped = SWAPPED if self.band_order == "paper" else {}
        return tuple(swapped.get(band, band) for band in self.file_bands if band is not None)

    @property
    def file_bands(self) -> tuple[str | None, ...]:
        """Catalog name of each band of the files, in their order; None for a skipped band."""
        return tuple(self.bands.values() if isinstance(self.bands, dict) else self.bands)

    @property
    def band_names(self) -> tuple[str, ...]:
        """The files' own names of bands that are not skipped; the catalog's if `bands` is a list."""
        pairs = self.bands.items() if isinstance(self.bands, dict) else zip(self.bands, self.bands, strict=True)
        return tuple(str(name) for name, band in pairs if band is not None)

    def named_bands(self, names: Sequence[str | None], *, by_name: bool = False) -> list[int] | None:
        """Positions of the bands in a file whose bands have these names; None if they are read by position.

        The names are the files' own, if `bands` lists these, or those of the catalog. A list of bands is compared with the
        names, unless ``by_name`` identifies its bands by them too.

        Raises
        ------
        InputError
            If a band is absent, or `bands` lists the bands in a different order from the names.
        """
        by_name = by_name or isinstance(self.bands, dict)
        absent = [band for band in self.band_names if band not in names]
        if by_name and not absent:
            return [names.index(band) for band in self.band_names]
        if not names or not all(names):
            return None
        got, plain = ", ".join(map(str, names)), [plain_band(name) for name in names]
        if by_name:
            wanted = [plain_band(band) for band in self.file_bands if band is not None]
            if not set(wanted) <= set(plain):
                raise InputError(f"expected the band {absent[0]!r}, got {got}; correct bands in the task file.")
            return [plain.index(band) for band in wanted]
        if len(names) == len(self.file_bands):
            kept = [
                (name, plain_band(band)) for name, band in zip(plain, self.file_bands, strict=True) if band is not None
            ]
            found, listed = zip(*kept, strict=True)
            if found != listed and sorted(found) == sorted(listed):
                order = ", ".join(band or "null" for band in self.file_bands)
                raise InputError(f"expected the bands in the order {order}, got {got}; correct bands in the task file.")
        return None

    @property
    def stand_ins(self) -> dict[str, str]:
        """Missing band -> catalog band that replaces it; without bands filled with the mean."""
        swapped = SWAPPED if self.band_order == "paper" else {}
        return {band: swapped.get(source, source) for band, source in self.fill.items() if source != MEAN}

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Label columns of a table."""
        return (self.label,) if isinstance(self.label, str) else self.label


def plain_band(text: str | None) -> str:
    """Name of a band in a common form: ``b2`` for ``B2``, ``B02`` and ``B2, central wavelength 490 nm``."""
    return re.sub(r"(?<=[A-Za-z])0+(?=\d)", "", (text or "").partition(",")[0].strip()).lower()


def task_names() -> tuple[str, ...]:
    """Names of the task files that ship with the package."""
    return tuple(
        sorted(path.stem for path in (resource_path("catalog") / "tasks").glob("*.yaml") if is_data(path.name))
    )


def named_spec(text: str) -> TaskSpec:
    """Read a task file, given as ``NAME``, ``FILE.yaml``, ``NAME@random`` or ``NAME@geographic``; see `read_spec`.

    Raises `InputError` also when the task has no such test.
    """
    name, at, test = text.rpartition("@")
    if not at or (test not in TESTS and name not in task_names()):
        return read_spec(text)
    spec = read_spec(name)
    known = TESTS if spec.layout == BENCH_LAYOUT else ()
    if test not in known:
        tests = " or ".join(f"{name}@{test}" for test in known) or f"{name}, which has a single test split"
        raise InputError(f"--task: expected {tests}, got {text!r}; correct the name.")
    return spec.model_copy(update={"test": test})


def read_spec(name_or_file: str) -> TaskSpec:
    """Read a task file: a name in ``catalog/tasks``, or a path.

    Raises `FileInputError` if there is none, or it is invalid; with the field, what was expected and what was found.
    """
    shipped, known = resource_path("catalog") / "tasks", task_names()
    path = shipped / f"{name_or_file}.yaml" if name_or_file in known else Path(name_or_file)
    if not path.suffix:
        raise InputError(
            f"--task: expected store:MODALITY, NAME=FOLDER with NAME of {', '.join(known)}, or FILE.yaml=FOLDER, "
            f"got {name_or_file!r}.{meant(name_or_file, known)}"
        )
    file = read_yaml(path, "a task file")
    try:
        return TaskSpec(**file.values)
    except ValidationError as error:
        raise file.refusal(error, TaskSpec, "task") from None
    except InputError as error:
        raise FileInputError(path, str(error)) from None
