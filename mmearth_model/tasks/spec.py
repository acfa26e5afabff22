"""A task file: what a labelled data set on disk holds, and where; read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmearth_data import FileInputError, InputError, did_you_mean, load_catalog, read_yaml, resource_path
from mmearth_model.tasks.labelled import TaskKind

Layout = Literal["geobench", "folder", "table"]
MEAN = "mean"
"""Fill a missing band with its mean: nothing is known of it."""
SWAPPED = {"B8": "B8A", "B8A": "B8"}
"""What ``band_order: paper`` exchanges: the paper's benchmark files fed B8 where its encoders had learned B8A."""


class Splits(BaseModel):
    """How the samples are divided.

    Attributes
    ----------
    shares
        Of train, validation and test, drawn with ``seed`` and balanced over the classes.
    column
        Table: column that says train, val (or valid) or test.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    shares: tuple[float, float, float] = (70, 15, 15)
    seed: int = 0
    column: str | None = None


class TaskSpec(BaseModel):
    """One task file.

    Attributes
    ----------
    name
        Name used to refer to the task.
    layout
        ``geobench``: HDF5 samples with partitions; ``folder``: ``class/*.tif`` or a zip of it; ``table``: CSV or
        GeoParquet with a column of raster paths and a label column or mask files.
    kind
        See `mmearth_model.tasks.labelled.TaskKind`.
    modality
        Modality of the catalog that the bands belong to.
    bands
        Band name in the files -> band name in the catalog; in the files' order if their bands are not named.
    band_order
        ``catalog``: every band is used as itself; ``paper``: B8 and B8A are exchanged, as in the paper's own figures
        for GEO-Bench, to compare with them.
    level
        Processing level (``L1C``, ``L2A``), if the modality's statistics depend on it.
    scale, offset
        Value in the catalog's units = file's value * scale + offset (-1000 for Sentinel-2 baselines from 04.00 on).
    nodata
        Value in the files that means missing; NaN always does.
    fill
        Band that the files lack -> the band of the files that replaces it, or ``mean``. Bands not listed use ``mean``.
        With ``band_order: paper``, the names are still those of the files' own bands.
    size_px
        Side length to which images are resampled (bilinear; masks nearest); None keeps their size.
    normalise
        ``task``: with the training samples' own mean and deviation; ``checkpoint``: with those of the pretraining.
    classes
        Names in order of their index; if empty, they are read from the data.
    path, label, mask, ids
        Table: columns of the raster, the label (several for multi-label and regression) and the mask file, and of
        the sample's name.
    separator
        Table, multi-label in one column: the separator between labels.
    ignore
        Mask value that means unlabelled.
    date
        GEO-Bench samples with several dates: the date to use.
    augment
        Augmentations allowed in fine-tuning.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(pattern=r"^[\w.-]+$")
    long_name: str = ""
    layout: Layout
    kind: TaskKind
    modality: str = "sentinel2"
    bands: dict[str, str] | list[str]
    band_order: Literal["catalog", "paper"] = "catalog"
    level: Literal["L1C", "L2A"] | None = None
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    fill: dict[str, str] = {}
    size_px: int | None = Field(default=None, ge=8, le=1024)
    normalise: Literal["task", "checkpoint"] = "task"
    classes: tuple[str, ...] = ()
    path: str = "path"
    label: str | tuple[str, ...] = "label"
    mask: str | None = None
    ids: str | None = None
    separator: str = ","
    ignore: int | None = None
    date: Literal["first", "last"] = "first"
    splits: Splits = Splits()
    augment: tuple[Literal["flip", "crop"], ...] = ("flip", "crop")
    source: str = ""
    doi: str = ""
    licence: str = ""

    @model_validator(mode="after")
    def _fits_the_catalog(self) -> TaskSpec:
        known = load_catalog().modalities
        if self.modality not in known:
            raise InputError(
                f"modality: expected one of the catalog, got {self.modality!r}; {did_you_mean(self.modality, known)}"
            )
        bands = known[self.modality].bands
        fills = [*self.fill, *(band for band in self.fill.values() if band != MEAN)]
        unknown = [band for band in (*self.catalog_bands, *fills) if band not in bands]
        if unknown:
            raise InputError(
                f"bands: expected bands of {self.modality} ({', '.join(bands)}), got {unknown[0]!r}; {did_you_mean(unknown[0], bands)}"
            )
        lacking = [band for band in SWAPPED if band not in self.catalog_bands]
        if self.band_order == "paper" and lacking:
            raise InputError(f"band_order: paper exchanges B8 and B8A; expected both in bands, got no {lacking[0]}.")
        if self.kind.per_pixel and self.layout == "table" and self.mask is None:
            raise InputError("mask: expected the column of the mask files, got none; name it.")
        if self.kind.per_pixel and self.layout == "folder":
            raise InputError(
                "layout: expected table or geobench for masks, got folder; list rasters and masks in a CSV."
            )
        return self

    @property
    def catalog_bands(self) -> tuple[str, ...]:
        """Bands of the catalog as which the files' bands are fed, in the files' order."""
        named = self.bands.values() if isinstance(self.bands, dict) else self.bands
        return tuple(SWAPPED.get(band, band) if self.band_order == "paper" else band for band in named)

    @property
    def stand_ins(self) -> dict[str, str]:
        """Band that the files lack -> the catalog band whose values it takes, without bands filled with the mean."""
        swapped = SWAPPED if self.band_order == "paper" else {}
        return {band: swapped.get(source, source) for band, source in self.fill.items() if source != MEAN}

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Columns of a table that hold the label."""
        return (self.label,) if isinstance(self.label, str) else self.label


def task_names() -> tuple[str, ...]:
    """Names of the task files that ship with the package."""
    return tuple(sorted(path.stem for path in (resource_path("catalog") / "tasks").glob("*.yaml")))


def read_spec(name_or_file: str) -> TaskSpec:
    """Read a task file: a name in ``catalog/tasks``, or a path.

    Raises
    ------
    FileInputError
        When there is none, or it says what it may not; with the field, what was expected and what came.
    """
    shipped = resource_path("catalog") / "tasks"
    path = shipped / f"{name_or_file}.yaml" if name_or_file in task_names() else Path(name_or_file)
    if not path.suffix:
        raise InputError(_unknown(name_or_file))
    file = read_yaml(path, "a task file")
    try:
        return TaskSpec(**file.values)
    except ValidationError as error:
        raise file.refusal(error, TaskSpec, "task") from None
    except InputError as error:
        raise FileInputError(path, str(error)) from None


def _unknown(name: str) -> str:
    known = task_names()
    meant = did_you_mean(name, known)
    hint = f" {meant[:1].upper()}{meant[1:]}" if meant.endswith("?") else ""
    return (
        f"--task: expected store:MODALITY, NAME=FOLDER with NAME of {', '.join(known)}, or FILE.yaml=FOLDER, "
        f"got {name!r}.{hint}"
    )
