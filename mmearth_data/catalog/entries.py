"""The catalog: each modality is described once, in a YAML file, and all parts of the toolkit read it there.

An entry is checked twice: field names and types by `ModalityEntry`, consistency between fields by `Modality`. An
invalid entry is refused with the file, the line and the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmearth_data.catalog.modality import ClassLabel, Modality, PretextNorm, Resampling, StatisticsBy
from mmearth_data.errors import CatalogError, FileInputError
from mmearth_data.files.listing import is_data
from mmearth_data.files.tables import read_table
from mmearth_data.files.yamlfiles import read_yaml
from mmearth_data.resources import resource_path
from mmearth_data.words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


DTypeName = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
Colour = Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]


class _Entry(BaseModel):
    """Base of the file schemas: no type conversions, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LicenceEntry(_Entry):
    """Terms of use, as written in a catalog file."""

    name: str
    url: str
    attribution: str


class DisplayEntry(_Entry):
    """Display settings, as written in a catalog file."""

    bands: list[str] = []
    false_colour: list[str] = []
    range: Pair | None = None
    colormap: str = "viridis"


class WavelengthEntry(_Entry):
    """Part of the spectrum, as written in a catalog file."""

    centre_um: float
    width_um: float


class ClassEntry(_Entry):
    """One class, as written in a catalog file."""

    code: int
    name: str
    colour: Colour | None = None


class RecipeEntry(_Entry):
    """How a source obtains the modality, as written in a catalog file."""

    name: str
    """Name of one of the recipes below."""
    parameters: dict[str, Any] = {}
    """Parameters of the recipe."""


class ModalityEntry(_Entry):
    """Schema of one file of ``catalog/modalities``; `Modality` documents the fields."""

    name: str
    kind: Literal[
        "raster/continuous",
        "raster/categorical",
        "raster/mask",
        "tile/continuous",
        "tile/categorical",
        "tile/multi-label",
    ]
    long_name: str
    bands: list[str] = []
    dtype: DTypeName
    nodata: int | float | Literal["NaN"]
    order: int = 1000
    enabled: bool = True
    units: str = "1"
    band_units: dict[str, str] = {}
    wavelengths: dict[str, WavelengthEntry] = {}
    frequency_ghz: Annotated[float, Field(gt=0)] | None = None
    native_m: dict[str, Annotated[float, Field(gt=0)]] = {}
    scale: float = 1.0
    offset: float = 0.0
    resampling: Resampling = "nearest"
    asset: dict[str, str] = {}
    asset_bands: dict[str, str] = {}
    bands_by_level: dict[Literal["L1C", "L2A"], list[str]] = {}
    recipe: RecipeEntry | None = None
    derived_from: list[str] = []
    statistics_by: StatisticsBy = "none"
    histogram_range: Pair | None = None
    histogram_ranges: dict[str, Pair] = {}
    histogram_bins: int = 2048
    input: bool = False
    model_bands: list[str] = []
    pretext: bool = False
    pretext_norm: PretextNorm = "none"
    classes: list[ClassEntry] = []
    """A file may give the path of a CSV table instead, relative to its own folder."""
    display: DisplayEntry = DisplayEntry()
    doi: str = ""
    source: str = ""
    licence: LicenceEntry


@dataclass(frozen=True, slots=True)
class EcoRegion:
    """One terrestrial ecoregion, with the ids that MMEarth published."""

    id: int
    """Class id of the modality ``eco_region``."""
    name: str
    """``ECO_NAME`` of RESOLVE Ecoregions 2017."""
    biome: int
    realm: str
    area_km2: float
    """Area as published, km2."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """All known modalities, in catalog order."""

    modalities: Mapping[str, Modality]
    """Name -> modality, including those that are not enabled."""

    def find(self, name: str) -> Modality:
        """Return the modality of that name; CatalogError if there is none, with the closest name."""
        if name not in self.modalities:
            hint = did_you_mean(name, self.modalities)
            raise CatalogError(f"Expected the name of a modality in the catalog, got {name!r}; {hint}")
        return self.modalities[name]

    def extended(self, modalities: Sequence[Modality]) -> Catalog:
        """Return the catalog with these modalities as well; they replace those of the same name."""
        merged = {**self.modalities, **{m.name: m for m in modalities}}
        return Catalog(dict(sorted(merged.items(), key=lambda item: item[1].order))) if modalities else self

    def select(self, names: Sequence[str] | None = None) -> tuple[Modality, ...]:
        """Modalities by name, each once and in catalog order; without names, the enabled ones.

        CatalogError if a name is unknown.
        """
        if names is None:
            return tuple(modality for modality in self.modalities.values() if modality.enabled)
        wanted = {self.find(name).name for name in names}
        return tuple(modality for modality in self.modalities.values() if modality.name in wanted)


def load_catalog(extra: str | Path | None = None) -> Catalog:
    """Read the catalog that ships with the package and add the user's own entries.

    ``extra`` is a folder with files ``*.yaml``, one modality each; an entry with the name of a shipped one replaces it
    completely. Raises FileInputError if the folder is missing or empty, or an entry is broken (with the line and the
    reason).

    Examples
    --------
    >>> [modality.name for modality in load_catalog().select(["sentinel1", "sentinel2"])]
    ['sentinel2', 'sentinel1']
    """
    entries = dict(_shipped())
    if extra is not None:
        entries |= _read_folder(Path(extra))
    ordered = sorted(entries.values(), key=lambda modality: (modality.order, modality.name))
    return Catalog(modalities={modality.name: modality for modality in ordered})


@lru_cache(maxsize=1)
def eco_regions() -> tuple[EcoRegion, ...]:
    """Return the 846 ecoregions of RESOLVE 2017 (without "Rock and Ice"); the index is the published class id."""
    path, columns = resource_path("catalog") / "ecoregions.csv", ("code", "name", "biome", "realm", "area_km2")
    return tuple(
        EcoRegion(int(row["code"]), row["name"], int(row["biome"]), row["realm"], float(row["area_km2"]))
        for _, row in read_table(path, comments=True).require(columns).rows()
    )


@lru_cache(maxsize=1)
def biomes() -> tuple[ClassLabel, ...]:
    """Return the 14 biomes of RESOLVE 2017; the index is the published class id."""
    return read_classes(resource_path("catalog") / "classes" / "biome.csv")


def read_classes(path: Path) -> tuple[ClassLabel, ...]:
    """Read a table of classes.

    The file is CSV in UTF-8 with the columns ``code``, ``name`` and optionally ``colour`` (``#rrggbb``); other columns,
    and lines that start with ``#``, are ignored. Raises FileInputError if it cannot be read, with the line and the
    reason.
    """
    labels: dict[int, ClassLabel] = {}
    for line, row in read_table(path, comments=True).require(("code", "name")).rows():
        try:
            entry = ClassEntry(code=int(row["code"]), name=row["name"], colour=row.get("colour") or None)
        except ValueError:
            problem = f"expected an integer code and a colour like #00ff7f, got {row['code']!r}, {row.get('colour')!r}."
            raise FileInputError(path, problem, line) from None
        if entry.code in labels:
            problem = f"class code {entry.code} is taken by {labels[entry.code].name!r}; give each class its own."
            raise FileInputError(path, problem, line)
        labels[entry.code] = ClassLabel(entry.code, entry.name, entry.colour)
    return tuple(labels.values())


def describe_modality(modality: Modality) -> dict[str, Any]:
    """Everything that the catalog says about one modality, JSON-ready."""
    return modality.to_dict() | {"stored": modality.stored}


@lru_cache(maxsize=1)
def _shipped() -> Mapping[str, Modality]:
    """Entries that ship with the package; cached, because reading them takes a third of a second."""
    return _read_folder(resource_path("catalog") / "modalities")


def _read_folder(folder: Path) -> dict[str, Modality]:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise FileInputError(folder, f"expected a folder of catalog entries (*.yaml), found {found}; name the folder.")
    there = sorted(path for path in folder.iterdir() if is_data(path.name))
    paths = [path for path in there if path.suffix in {".yaml", ".yml"} and path.is_file()]
    if not paths:
        others = ", ".join([path.name for path in there][:3]) or "nothing"
        problem = (
            f"expected catalog entries (*.yaml, one modality each), found {others}; add one or name another folder."
        )
        raise FileInputError(folder, problem)
    entries: dict[str, Modality] = {}
    homes: dict[str, Path] = {}
    for path in paths:
        modality = read_modality(path)
        if modality.name in entries:
            problem = f"the modality {modality.name!r} is described in {homes[modality.name].name} too; keep one."
            raise FileInputError(path, problem)
        entries[modality.name], homes[modality.name] = modality, path
    return entries


def read_modality(path: Path) -> Modality:
    """Read one catalog entry; FileInputError if it is not YAML, does not match `ModalityEntry`, or is inconsistent."""
    file = read_yaml(path, "one modality")
    values = dict(file.values)
    if isinstance(values.get("classes"), str):
        values["classes"] = _table_of(path, values["classes"], file.line_of(("classes",)))
    try:
        entry = ModalityEntry.model_validate(values).model_dump()
    except ValidationError as error:
        raise file.refusal(error, ModalityEntry, "modality") from None
    entry["recipe"] = entry["recipe"] or {}
    try:
        return Modality.from_dict(entry)
    except CatalogError as error:
        keys = tuple((error.field or "name").split("."))
        raise FileInputError(path, error.message, file.line_of(keys)) from None


def _table_of(entry: Path, name: str, line: int) -> list[dict[str, Any]]:
    table = entry.parent / name
    if not table.is_file():
        raise FileInputError(entry, f"expected a table of classes at {table}, found none; correct the path.", line)
    return [{"code": label.code, "name": label.name, "colour": label.colour} for label in read_classes(table)]
