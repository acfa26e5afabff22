"""Read and check recipes, the options of a build or a training run, from a file and the command line.

The fields of a build recipe are declared in `mmearth_data.build_fields`; this module has the checks beyond their types.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, field_validator, model_validator

from mmearth_data.build_fields import BuildFields, SourceFields
from mmearth_data.catalog.tile import check_tile_size
from mmearth_data.errors import FileInputError, InputError
from mmearth_data.fields import documented, fields_of
from mmearth_data.files.listing import is_data
from mmearth_data.files.yamlfiles import YamlFile, read_yaml
from mmearth_data.findings import describe_validation
from mmearth_data.resources import resource_path
from mmearth_data.words import closest, did_you_mean, is_there, os_problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

FILES = ("ecoregions", "tiles_file", "polygons")
"""Fields that name a file; a store records the digest of the file's content, never its path."""
SAMPLING = frozenset({"tiles", "balance", "oversample", "split_guard_m", "min_distance_m"})
"""Fields that only have an effect if the locations are sampled."""
REGION = frozenset({"region", "mainland"})
"""Fields that determine the region to sample or to cover."""
PLACING = REGION | SAMPLING
"""Fields that have no effect if the locations are given."""
LABELLED = frozenset({"labels", "labels_file", "burn", "date_column", "days", "split_column", "polygons"})
"""Fields of labelled locations; stores without them do not record them."""
COVERED = SAMPLING | LABELLED | {"tiles_file", "split", "split_shares", "years"}
"""Fields that have no effect if a region is covered: its tiles are neither sampled nor split, and have one period."""
COVERING = frozenset({"overlap_px", "date_range"})
"""Fields that only have an effect if a region is covered."""
COVER_DATES = (date(2020, 1, 1), date(2020, 12, 31))
"""Default period of the scenes of a cover: the year of ESA WorldCover v100 and of the canopy height model."""
SCENES = frozenset({"years", "levels", "cloud_percent", "date_range"})
"""Fields that have no effect if the scenes are given too."""
SERVICE = frozenset(fields_of(SourceFields)) - {"source"}
"""Fields that have no effect for a source that sends no requests to Earth Engine."""
WHY_UNUSED: tuple[tuple[frozenset[str], str, str], ...] = (
    (PLACING, "brings its own locations", "leave it out, or select some of them with --tiles-file"),
    (SCENES, "brings its own scenes", "leave it out"),
    (SERVICE | {"assets", "era5_window"}, "asks nothing of Earth Engine", "leave it out, or use --source earthengine"),
    (frozenset({"level"}), "has no files of both levels", "leave it out, or name the levels to choose from: --levels"),
    (
        frozenset({"cover", "overlap_px", "ecoregions"}),
        "has images without a location",
        "leave it out",
    ),
    (
        LABELLED | {"tiles_file"},
        "has its own labels, dates and splits",
        "leave it out, and describe them in the file given by --source",
    ),
    (frozenset({"seed"}), "covers a region without random choices", "leave it out"),
)
"""Fields, why a source does not use them, and what to do."""
SOURCE_FORMS = ("earthengine", "synthetic", "rasters:FILE.yaml", "chips:FILE.yaml")
"""Values of the field ``source``."""
NOT_IDENTITY = SERVICE | {"source", "threads"}
"""Fields that a store does not record: it records `Source.identity` instead, and speed does not change its bytes."""
ASSET_ID = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class RecipeFolder:
    """Files of one kind: shipped files are identified by name, users' files by path.

    Attributes
    ----------
    name
        Folder in ``pipelines`` that contains the shipped files.
    kind
        What a file is called in messages.
    """

    name: str
    kind: str = "a recipe"

    @property
    def path(self) -> Path:
        """Folder of the shipped files."""
        return resource_path("pipelines") / self.name

    def names(self) -> tuple[str, ...]:
        """Names of the shipped files."""
        return tuple(sorted(path.stem for path in self.path.glob("*.yaml") if is_data(path.name)))

    def read(self, name_or_file: str) -> YamlFile:
        """Read a shipped file by name, or any file by path.

        Raises
        ------
        InputError
            If there is no such name or file (the message suggests the closest name), or the file is not a mapping of
            fields.
        """
        known = self.names()
        if name_or_file in known:
            return read_yaml(self.path / f"{name_or_file}.yaml", self.kind)
        if name_or_file and is_there(Path(name_or_file)):
            return read_yaml(Path(name_or_file), self.kind)
        meant = closest(name_or_file, known)
        remedy = f"did you mean {meant[0]!r}?" if meant else "no such file; correct the path."
        raise InputError(f"expected {self.kind} ({', '.join(known)}) or a YAML file, got {name_or_file!r}; {remedy}")

    def descriptions(self) -> dict[str, str]:
        """Describe the shipped files in a line each: by their field ``description``, or by their first comment."""
        return {name: self._description(name) for name in self.names()}

    def _description(self, name: str) -> str:
        given = self.read(name).values.get("description")
        return str(given) if given else self.text(name).split("\n", 1)[0].removeprefix("#").strip()

    def text(self, name_or_file: str) -> str:
        """Return the content of a file, with its comments; raises like `read`."""
        self.read(name_or_file)
        shipped = self.path / f"{name_or_file}.yaml"
        return (shipped if name_or_file in self.names() else Path(name_or_file)).read_text(encoding="utf-8")


BUILD_RECIPES = RecipeFolder("build")


class Recipe(BaseModel):
    """Base class of the recipes of builds and of training."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def combined(
        cls, file: YamlFile | None, overrides: Mapping[str, Any], replaces: Mapping[str, Collection[str]]
    ) -> Self:
        """Combine the fields of a file with options that override them.

        Parameters
        ----------
        file
            The file, if there is one.
        overrides
            Field -> value.
        replaces
            Option -> other fields of the file that it also replaces, because they would contradict it.

        Raises
        ------
        InputError
            If a field is invalid: names it, what was expected and what was found. A `FileInputError` with the line if
            it is in the file.
        """
        replaced = {field for option in overrides for field in replaces.get(option, ())}
        written = {} if file is None else file.values
        values = {field: value for field, value in written.items() if field not in replaced} | dict(overrides)
        try:
            return cls(**values)
        except ValidationError as error:
            if file is not None and not any(item["loc"] and item["loc"][0] in overrides for item in error.errors()):
                raise file.refusal(error, cls, "recipe") from None
            raise InputError(describe_validation(error, cls, values, "recipe")) from None


Content = Literal["class", "value", "multi"]
CONTENTS: tuple[Content, ...] = get_args(Content)
"""Contents of a column of labels."""


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """A column of a table that is stored as a label.

    Attributes
    ----------
    column
        Its name.
    content
        ``class``, ``value`` or ``multi``; None if the values decide.
    """

    column: str
    content: Content | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``COLUMN`` or ``COLUMN:class``, ``:value``, ``:multi``. Raises `InputError` without a column."""
        for content in CONTENTS:
            column = text.strip().removesuffix(f":{content}").strip()
            if column and text.strip().endswith(f":{content}"):
                return cls(column, content)
        if not text.strip() or text.strip().startswith(":"):
            raise InputError(f"labels (--label): expected COLUMN, or COLUMN:class, :value or :multi, got {text!r}.")
        return cls(text.strip())


@documented
class BuildRecipe(BuildFields, Recipe):
    """Recipe of a build; the same recipe and source always give the same bytes."""

    _given: frozenset[str] | None = PrivateAttr(default=None)

    @property
    def given(self) -> frozenset[str]:
        """Names of the fields that the user set, as opposed to defaults and values of a shipped recipe."""
        return frozenset(self.model_fields_set) if self._given is None else self._given

    @property
    def asked_splits(self) -> tuple[str, ...]:
        """Fields of splits that the user set, with their options."""
        return tuple(f"{name} ({_flag(name)})" for name in sorted(self.given & {"split", "split_shares"}))

    def with_given(self, fields: Iterable[str]) -> Self:
        """Return a copy of the recipe whose `given` fields are these."""
        recipe = self.model_copy()
        recipe._given = frozenset(fields)
        return recipe

    def refuse_unused(self, used: frozenset[str]) -> None:
        """Refuse fields that the user set but the source does not use.

        Parameters
        ----------
        used
            Names of the fields that the source declares to use.

        Raises
        ------
        InputError
            Names the first such field, the reason and the remedy.
        """
        if self.cover:
            used = (used | (REGION if self.source_file is not None else frozenset())) - self._without_effect_on_cover
        for fields, why, remedy in WHY_UNUSED:
            unused = sorted((self.given & fields) - used)
            if unused:
                name = f"{unused[0]} ({_flag(unused[0])})"
                remedy = remedy if "tiles_file" in used else remedy.partition(",")[0]
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
    def _cover_is_no_sample(self) -> Self:
        unused = sorted(self.model_fields_set & (COVERED if self.cover else COVERING))
        given = [name for name in unused if getattr(self, name) is not None]
        if given:
            where = "with" if self.cover else "without"
            why = "whose tiles are neither sampled nor split" if self.cover else "which covers a region"
            raise InputError(f"{given[0]} ({_flag(given[0])}): expected none {where} --cover, {why}; leave it out.")
        return self

    @model_validator(mode="after")
    def _cover_has_one_kind_of_scene(self) -> Self:
        if not self.cover:
            return self
        if self.overlap_px >= self.tile_size:
            raise InputError(
                f"overlap_px (--overlap): expected an overlap of less than a tile ({self.tile_size} px), got "
                f"{self.overlap_px} px; "
                "reduce it."
            )
        defaults = {"levels": ("L2A",), "cloud_percent": 100.0, "date_range": COVER_DATES}
        for name in defaults.keys() - self.model_fields_set:
            object.__setattr__(self, name, defaults[name])
        if len(self.levels) != 1:
            raise InputError(
                f"levels (--levels): expected a single level for all tiles with --cover, got {', '.join(self.levels)}; "
                "choose one of them."
            )
        return self

    @model_validator(mode="after")
    def _split_fits_source(self) -> Self:
        if self.split is None and not self.cover:
            object.__setattr__(self, "split", "block" if self.source_file is None else "random")
        return self

    @model_validator(mode="after")
    def _locations_are_given_once(self) -> Self:
        unused = sorted(PLACING & self.model_fields_set)
        if self.table is not None and unused:
            option = "--tiles-file" if self.tiles_file is not None else "--polygons"
            raise InputError(
                f"{unused[0]} ({_flag(unused[0])}): expected none with {option}, whose "
                "locations are used unchanged; leave it out."
            )
        return self

    @model_validator(mode="after")
    def _labels_have_a_table(self) -> Self:
        given = self.model_fields_set
        if self.tiles_file is not None and self.polygons is not None:
            raise InputError("polygons (--polygons): expected none with --tiles-file, got both; leave one of them out.")
        needs = (
            (
                {"labels", "date_column", "split_column"},
                self.table is not None,
                "a table of locations",
                "give --tiles-file or --polygons",
            ),
            ({"labels_file"}, bool(self.labels), "labels", "name their columns with --label"),
            ({"burn"}, self.polygons is not None, "polygons", "give --polygons"),
            ({"days"}, self.date_column is not None, "dates", "name their column with --date-column"),
        )
        for names, present, expected, remedy in needs:
            unused = sorted(name for name in names & given if getattr(self, name))
            if unused and not present:
                raise InputError(f"{unused[0]} ({_flag(unused[0])}): expected {expected}, got none; {remedy}.")
        if self.polygons is not None and self.source_file is not None:
            raise InputError(
                f"polygons (--polygons): expected the source earthengine or synthetic, which can cover polygons with tiles, got "
                f"{self.source}, which defines its own tiles; leave one of them out."
            )
        if self.polygons is not None and not self.labels:
            raise InputError("polygons (--polygons): expected --label with the column to rasterise, got none; add it.")
        if self.date_column is not None and "years" in given:
            raise InputError(
                "years (--years): expected none with --date-column, whose dates determine the scenes; leave it out."
            )
        return self

    @field_validator("labels")
    @classmethod
    def _labels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = [LabelColumn.parse(text).column for text in value]
        if len(set(names)) != len(names):
            raise InputError(f"labels (--label): expected different columns, got {', '.join(names)}; name each once.")
        return value

    @field_validator("source")
    @classmethod
    def _source(cls, value: str) -> str:
        if re.fullmatch(r"earthengine|synthetic|(rasters|chips):.+", value) is None:
            meant = did_you_mean(value, SOURCE_FORMS)
            raise InputError(f"source: expected one of {', '.join(SOURCE_FORMS)}, got {value!r}; {meant}")
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

    @field_validator("date_range", mode="before")
    @classmethod
    def _dates(cls, value: Any) -> Any:  # noqa: ANN401 - as given
        if value is None:
            return None
        days = [str(day) for day in value] if isinstance(value, list | tuple) else [str(value)]
        try:
            first, last = map(date.fromisoformat, days)
        except ValueError:
            raise InputError(
                "date_range (--date-range): expected the first and the last day, such as 2020-06-01,2020-08-31, got "
                f"{','.join(days)!r}; correct them."
            ) from None
        if first > last:
            raise InputError(f"date_range (--date-range): expected START not after END, got {first},{last}; swap them.")
        return first, last

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
        """Name of the source without its file."""
        return self.source.partition(":")[0]

    @property
    def source_file(self) -> Path | None:
        """File of the source (``rasters:FILE``, ``chips:FILE``), if it has one."""
        _, colon, file = self.source.partition(":")
        return Path(file) if colon else None

    @property
    def table(self) -> Path | None:
        """File whose rows are the locations: ``tiles_file`` or ``polygons``."""
        return self.tiles_file or self.polygons

    @property
    def _effective_labels(self) -> frozenset[str]:
        """Fields of labelled locations that determine the bytes of a store; names in ``labels_file`` are in the labels."""
        needed = {
            "labels": bool(self.labels),
            "polygons": self.polygons is not None,
            "burn": self.polygons is not None,
            "date_column": self.date_column is not None,
            "days": self.date_column is not None,
            "split_column": self.split_column is not None,
        }
        return frozenset(name for name, has_effect in needed.items() if has_effect)

    @property
    def covers_region(self) -> bool:
        """Whether tiles cover the region of the recipe, rather than the area of a source's own files."""
        return self.cover and (self.source_file is None or bool(REGION & self.model_fields_set))

    @property
    def _without_effect_on_cover(self) -> frozenset[str]:
        """Nothing is random about a cover; only the synthetic planet has a seed."""
        return frozenset() if self.source == "synthetic" else frozenset({"seed"})

    def identity(self) -> dict[str, Any]:
        """Return the part that a store records and compares, JSON-ready; files are represented by their digests.

        Raises
        ------
        FileInputError
            If a file cannot be read.
        """
        without = NOT_IDENTITY | ((COVERED | self._without_effect_on_cover) if self.cover else {"cover"} | COVERING)
        if self.source_file is not None or self.table is not None:
            without |= SAMPLING if self.covers_region else PLACING
        if self.source_file is not None:
            without |= SCENES
        if not self.assets:
            without |= {"assets"}  # stores started before this field existed lack it
        without |= {name for name in LABELLED if name not in self._effective_labels}
        if self.date_column is not None:
            without |= {"years"}
        digests = {name: file_digest(file) for name in FILES if (file := getattr(self, name)) is not None}
        return self.model_dump(mode="json", exclude=set(without)) | digests


def _flag(name: str) -> str:
    """Option of the command line that sets a field."""
    return fields_of(BuildFields)[name].flag


def make_recipe(base: str | None, overrides: dict[str, Any]) -> BuildRecipe:
    """Combine a recipe, given by name or path, with options that override it.

    Parameters
    ----------
    base
        Name of a recipe in ``pipelines/build``, path of a YAML file, or None.
    overrides
        Field -> value. ``tiles_file`` and ``cover`` replace the fields that sample locations; assets are added to those
        of the recipe.

    Raises
    ------
    InputError
        Names the field, what was expected and what was found.
    """
    file = None if base is None else BUILD_RECIPES.read(base)
    if file is not None and "assets" in overrides and isinstance(file.values.get("assets"), dict):
        overrides = {**overrides, "assets": {**file.values["assets"], **overrides["assets"]}}
    replaces = {
        "tiles_file": PLACING,
        "polygons": PLACING,
        "date_column": {"years"},
        **({"cover": COVERED} if overrides.get("cover") else {}),
    }
    recipe = BuildRecipe.combined(file, overrides, replaces)
    return recipe.with_given(overrides) if base in BUILD_RECIPES.names() else recipe


def file_digest(path: Path) -> str:
    """Compute the BLAKE2b digest of a file's content, as 32 hex digits.

    Raises
    ------
    FileInputError
        If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise FileInputError(path, f"expected a file that can be read, got none; {os_problem(error)}.") from None


def differences(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """List the fields in which two recipes differ, as ``field: stored -> wanted``."""
    lines: list[str] = []
    for key in sorted(stored.keys() | wanted.keys()):
        old, new = stored.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += [f"{key}.{line}" for line in differences(old, new)]
        elif old != new:
            lines.append(f"{key}: {old!r} -> {new!r}")
    return lines
