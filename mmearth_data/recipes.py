"""A build, as data: everything that decides what ends up in a store."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from mmearth_data.catalog.tile import check_tile_size
from mmearth_data.errors import FileInputError, InputError
from mmearth_data.files.listing import is_data
from mmearth_data.files.yamlfiles import YamlFile, named_file, read_yaml, validated
from mmearth_data.resources import resource_path
from mmearth_data.words import did_you_mean, os_problem

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_TILES = 10**10
"""More than fit on the land, even of 16 px."""
MAX_SEED = 2**64 - 1
"""Seeds enter the draws as 8 bytes."""
FILES = ("ecoregions", "tiles_file")
"""Fields that name a file; a store records the digest of its content, never a path."""
PLACING = frozenset({"region", "mainland", "tiles", "balance", "oversample", "split_guard_m", "min_distance_m"})
"""Fields without meaning where the places are given."""
SCENES = frozenset({"years", "levels", "cloud_percent"})
"""Fields without meaning for a source whose scenes are given too."""


ASSET_ID = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)


class ServiceOptions(BaseModel):
    """How a build reaches Earth Engine, and what it expects of it; nothing here decides a byte of the store.

    Attributes
    ----------
    ee_project
        Cloud project to charge; None takes ``EARTHENGINE_PROJECT`` or ``GOOGLE_CLOUD_PROJECT``.
    ee_endpoint
        The service's own: many small requests at once, or few large ones.
    ee_url
        Another server that speaks the same protocol, such as ``mmearth-data emulate``.
    service_account
        Key file of a service account.
    in_flight, per_second
        Requests at once, and starts a second.
    restricted_in_flight
        Requests at once when the service announces restricted mode.
    request_timeout_s
        Deadline of one request; the service itself allows 300 s.
    latency_s, eecu_per_tile
        Seconds of one request and EECU-seconds of one tile, as measured, for the estimates of a dry run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    ee_project: str | None = None
    ee_endpoint: Literal["high-volume", "standard"] = "high-volume"
    ee_url: str | None = None
    service_account: Path | None = None
    in_flight: int = Field(default=40, ge=1, le=1000)
    per_second: float = Field(default=100.0, gt=0, le=10_000)
    restricted_in_flight: int = Field(default=1, ge=1, le=1000)
    request_timeout_s: float = Field(default=330.0, gt=0, le=3600)
    latency_s: float | None = Field(default=None, gt=0)
    eecu_per_tile: float | None = Field(default=None, gt=0)


SERVICE = frozenset(ServiceOptions.model_fields)
"""Fields without meaning for a source that asks nothing of Earth Engine."""
WHY_UNUSED: tuple[tuple[frozenset[str], str, str], ...] = (
    (PLACING, "brings its own locations", "leave it out, or select some of them with --tiles-file"),
    (SCENES, "brings its own scenes", "leave it out"),
    (SERVICE | {"assets", "era5_window"}, "asks nothing of Earth Engine", "leave it out, or use --source earthengine"),
    (frozenset({"level"}), "has no files of both levels", "leave it out, or name the levels to choose from: --levels"),
)
"""Fields, why a source does not use them, and what to do."""
FLAGS = {
    "split_guard_m": "--split-guard",
    "min_distance_m": "--min-distance",
    "cloud_percent": "--cloud",
    "request_timeout_s": "--request-timeout",
    "latency_s": "--latency",
    "assets": "--asset",
}
"""Options of the command line that are not named as their field is."""
NOT_IDENTITY = frozenset({"source", "threads", *ServiceOptions.model_fields})
"""Fields that a store does not record: the source describes itself, and speed decides no byte."""


class BuildRecipe(ServiceOptions):
    """Options of one build; the same recipe and source always give the same bytes.

    Attributes
    ----------
    source
        ``earthengine``, ``synthetic`` or ``rasters:FILE.yaml``.
    region
        ``global``, a country, continent or ISO code, ``bbox:W,S,E,N`` or a vector file.
    mainland
        Keep only the largest part of the region.
    tiles
        Number of tiles N.
    tile_size
        Pixels per side, 10 m each.
    seed
        Seed of locations, splits and random choices.
    modalities
        Names of the modalities to store; None selects all that are enabled in the catalog.
    ecoregions
        Vector file of ecoregions; None uses those of the source.
    tiles_file
        File of locations to use instead of sampling; for raster files, a table that selects sites or tiles and may give
        their splits (`mmearth_data.sampling.published`).
    balance, oversample, split, split_shares, split_guard_m, min_distance_m
        See `mmearth_data.sampling`.
        ``split`` None means ``block``, or ``random`` if the source brings its own locations. Tiles that overlap fall
        into one split.
    level
        Sentinel-2 level to use if a raster mapping offers both.
    years, levels, cloud_percent
        Years of the scenes, processing levels to choose from, and the cloud limit in per cent.
    era5_window
        Months of the longest climate window, including the scene's; 13 is the span of the code published with MMEarth.
    tiles_per_shard
        Rows per shard; None lets the store decide.
    threads
        Threads that read tiles; the result does not depend on it.
    assets
        ``MODALITY`` or ``MODALITY.KEY`` -> id of the Earth Engine asset to read instead of the catalog's.
    """

    source: str = "earthengine"
    region: str = "global"
    mainland: bool = False
    tiles: int = Field(default=1000, ge=1, le=MAX_TILES)
    tile_size: int = 128
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    modalities: tuple[str, ...] | None = None
    ecoregions: Path | None = None
    tiles_file: Path | None = None
    balance: Literal["biome", "biome-ecoregion", "ecoregion", "area"] = "biome"
    oversample: float = Field(default=1.3, ge=1, le=10)
    split: Literal["block", "random"] | None = None
    split_shares: tuple[float, float, float] = (90.0, 5.0, 5.0)
    split_guard_m: float = Field(default=2000.0, ge=0)
    min_distance_m: float = Field(default=0.0, ge=0)
    level: Literal["L1C", "L2A"] | None = None
    years: tuple[int, ...] = (2017, 2018, 2019, 2020)
    levels: tuple[Literal["L2A", "L1C"], ...] = ("L2A", "L1C")
    cloud_percent: float = Field(default=10.0, gt=0, le=100)
    era5_window: Literal[12, 13] = 12
    tiles_per_shard: int | None = Field(default=None, ge=1, le=65536)
    threads: int = Field(default=2, ge=1, le=256)
    assets: dict[str, str] = {}
    _given: frozenset[str] | None = PrivateAttr(default=None)

    @property
    def given(self) -> frozenset[str]:
        """Fields that the user set: neither defaults nor values of a recipe that ships with the package."""
        return frozenset(self.model_fields_set) if self._given is None else self._given

    def with_given(self, fields: Iterable[str]) -> Self:
        """Return the same recipe, of which the user set these fields."""
        recipe = self.model_copy()
        recipe._given = frozenset(fields)
        return recipe

    def refuse_unused(self, used: frozenset[str]) -> None:
        """Refuse fields that were given and that the source does not use.

        Parameters
        ----------
        used
            Fields that the source uses, as it declares them.

        Raises
        ------
        InputError
            With the first such field, the reason and what to do.
        """
        for fields, why, remedy in WHY_UNUSED:
            unused = sorted((self.given & fields) - used)
            if unused:
                name = f"{unused[0]} ({_flag(unused[0])})"
                raise InputError(f"{name}: expected none with the source {self.source}, which {why}; {remedy}.")

    @model_validator(mode="after")
    def _assets_fit_source(self) -> Self:
        if self.assets and self.source != "earthengine":
            raise InputError(
                f"assets (--asset): expected source earthengine, whose assets have ids, got {self.source!r}."
            )
        return self

    @field_validator("assets")
    @classmethod
    def _assets(cls, value: dict[str, str]) -> dict[str, str]:
        for name, asset in value.items():
            if not name or ASSET_ID.fullmatch(asset) is None:
                raise InputError(
                    "assets (--asset): expected MODALITY=ID with an id such as users/NAME/ASSET or "
                    f"projects/PROJECT/assets/ASSET, got {f'{name}={asset}'!r}."
                )
        return value

    @model_validator(mode="after")
    def _split_fits_source(self) -> Self:
        if self.split is None:
            object.__setattr__(self, "split", "block" if self.source_file is None else "random")
        return self

    @model_validator(mode="after")
    def _locations_are_given_once(self) -> Self:
        unused = sorted(PLACING & self.model_fields_set)
        if self.tiles_file is not None and unused:
            raise InputError(
                f"{unused[0]} ({_flag(unused[0])}): expected none with --tiles-file, whose "
                "locations are taken as they are; leave it out."
            )
        return self

    @field_validator("source")
    @classmethod
    def _source(cls, value: str) -> str:
        if re.fullmatch(r"earthengine|synthetic|rasters:.+", value) is None:
            meant = did_you_mean(value, ("earthengine", "synthetic", "rasters:FILE.yaml"))
            raise InputError(f"source: expected earthengine, synthetic or rasters:FILE.yaml, got {value!r}; {meant}")
        return value

    @field_validator("tile_size")
    @classmethod
    def _size(cls, value: int) -> int:
        return check_tile_size(value)

    @field_validator("split_shares")
    @classmethod
    def _shares(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or abs(sum(value) - 100) > 1e-6:
            raise InputError(f"split_shares: expected three shares that add up to 100, got {list(value)}; try 90,5,5.")
        return value

    @field_validator("years")
    @classmethod
    def _years(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 2015 or max(value) > 2100:
            raise InputError(
                f"years (--years): expected years of Sentinel-2 scenes (2015 to now), got {list(value)}; correct them."
            )
        return tuple(sorted(set(value)))

    @field_validator("levels")
    @classmethod
    def _levels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise InputError(f"levels: expected L2A, L1C or both, once each, got {list(value)}.")
        return value

    @property
    def source_name(self) -> str:
        """Name of the source, without its file."""
        return self.source.partition(":")[0]

    @property
    def source_file(self) -> Path | None:
        """File of the source (``rasters:FILE``), if it has one."""
        _, colon, file = self.source.partition(":")
        return Path(file) if colon else None

    def identity(self) -> dict[str, Any]:
        """JSON-ready part that a store records and compares; files stand in it by digest.

        Raises
        ------
        FileInputError
            When a file cannot be read.
        """
        without = NOT_IDENTITY
        if self.source_file is not None or self.tiles_file is not None:
            without |= PLACING
        if self.source_file is not None:
            without |= SCENES
        if not self.assets:
            without |= {"assets"}  # stores started before this field existed lack it
        digests = {name: file_digest(file) for name in FILES if (file := getattr(self, name)) is not None}
        return self.model_dump(mode="json", exclude=set(without)) | digests


def _flag(name: str) -> str:
    """Option of the command line that sets a field."""
    return FLAGS.get(name, f"--{name.replace('_', '-')}")


def make_recipe(base: str | None, overrides: dict[str, Any]) -> BuildRecipe:
    """Combine a named or written recipe with options that override it.

    Parameters
    ----------
    base
        Name of a recipe in ``pipelines/build``, path of a YAML file, or None.
    overrides
        Field -> value.

    Raises
    ------
    InputError
        With the field, what was expected and what came.
    """
    file = None if base is None else _recipe_file(base)
    values: dict[str, Any] = {} if file is None else dict(file.values)
    if "assets" in overrides and isinstance(values.get("assets"), dict):
        overrides = {**overrides, "assets": {**values["assets"], **overrides["assets"]}}
    if "tiles_file" in overrides:
        values = {field: value for field, value in values.items() if field not in PLACING}
    values.update(overrides)
    recipe = validated(BuildRecipe, values, file, overrides, "recipe")
    return recipe.with_given(overrides if base is None or _ships(base) else values)


def read_recipe(name_or_file: str) -> dict[str, Any]:
    """Fields of a recipe: a name in ``pipelines/build`` or a YAML file.

    Raises
    ------
    InputError
        When there is no such recipe, or it is not a mapping of fields.
    """
    return _recipe_file(name_or_file).values


def _recipe_file(name_or_file: str) -> YamlFile:
    shipped = resource_path("pipelines") / "build"
    return read_yaml(named_file(name_or_file, shipped, recipe_names(), "a recipe"), "a recipe")


def _ships(name_or_file: str) -> bool:
    """Whether a name is that of a recipe of the package."""
    return re.fullmatch(r"[\w-]+", name_or_file) is not None and _shipped_file(name_or_file).is_file()


def _shipped_file(name: str) -> Path:
    return resource_path("pipelines") / "build" / f"{name}.yaml"


def recipe_names() -> list[str]:
    """Names of the shipped recipes; ``pipelines/build`` also holds mappings of raster files, which are none."""
    shipped = sorted(path for path in (resource_path("pipelines") / "build").glob("*.yaml") if is_data(path.name))
    return [
        path.stem for path in shipped if set(yaml.safe_load(path.read_text("utf-8"))) <= set(BuildRecipe.model_fields)
    ]


def file_digest(path: Path) -> str:
    """BLAKE2b of a file's content, 32 hex digits.

    Raises
    ------
    FileInputError
        When it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise FileInputError(path, f"expected a file that can be read, got none; {os_problem(error)}.") from None


def one_line(error: BaseException) -> str:
    """Text of an exception without line breaks."""
    return " ".join(str(error).split())


def differences(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Say which fields of two recipes differ, as ``field: stored -> wanted``."""
    lines: list[str] = []
    for key in sorted(stored.keys() | wanted.keys()):
        old, new = stored.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += [f"{key}.{line}" for line in differences(old, new)]
        elif old != new:
            lines.append(f"{key}: {old!r} -> {new!r}")
    return lines
