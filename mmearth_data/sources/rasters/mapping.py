r"""The mapping file: which raster files contain which modality, and how to read their numbers.

.. code-block:: yaml

    root: {env: MMEARTH_TEST_DATA, default: ../shared/data}   # environment variable first, then the default
    base: sentinel2          # its grid is the grid of the tiles
    scene_time: io_lulc      # its date is the time of the scene (default: the base)
    level: L2A               # used if layers of both levels are mapped and --level is not given
    sites: [a, b]            # default: all sites that the base layer's pattern finds
    notes: [what users of the store need to know]
    layers:
      - modality: sentinel1  # name in the catalog
        path: radar/{site}_*.tif
        bands: ["{pass}_VV", "{pass}_VH", null]   # one per band of the file, in its order; null skips one
        pass: asc            # orbit pass, for the day difference; default: the bands' common prefix
        level: null          # L1C or L2A if the layer is only for scenes of that level
        orbit: {filename: '_R(\d{3})_'}   # kept as text in the tile's facts
        scale: 1             # stored = file * scale + offset; without both, the file's own tags are applied
        offset: 0
        clip: [1, 65535]     # limits of the stored numbers; without it, a number that does not fit is an error
        nodata: 0            # replaces the file's tag; a number, a list, or null (no number means missing)
        codes: {10: 1}       # file code -> catalog code; without it, the file has the catalog's codes
        derive: {slope: elevation}   # stored band: the band of which it is the slope in degrees
        date: {tag: datetime}        # or {filename: '_(\d{8})_'} or {constant: 2020-05-01}; format: strptime
        notes: [terrain-corrected]
        sites:               # settings of single sites: scale, offset, clip, nodata, pass, date
          b: {offset: -1000}

**One file per band.** If the path contains ``{band}``, every band has its own file, and ``bands`` is a list of catalog
names, or maps names in file names to catalog names. Each file keeps its own grid (10, 20 and 60 m). The base grid is
that of the first file of the base modality with pixels of 10 m.

**Facts in file names.** ``date``, ``pass``, ``level`` and ``orbit`` may be read from the name of the file (without its
folders) by a regular expression with a group around the fact: ``{filename: '_(ASC|DESC)_'}`` for a pass (also A and D,
ascending and descending, in any case), ``{filename: '_MSI(L1C|L2A)_'}`` for a level. If names do not contain the pass,
each pass may have its own expression: ``{asc: 'T1[4-9]', desc: 'T0[3-9]'}`` finds it by the hour. If the pass is read
from file names, a site may have files of both passes. If the level is read from file names, every tile has the level of
its base file; ``--level`` or ``level`` selects the files of one level. A name that an expression does not match is
refused.

A mapping for BigEarthNet, with one file per band:

.. code-block:: yaml

    root: bigearthnet
    base: sentinel2
    layers:
      - modality: sentinel2
        path: "S2/*/*_T{site}/*_{band}.tif"
        bands: {B01: B1, B02: B2, B03: B3, B04: B4, B05: B5, B06: B6, B07: B7, B08: B8, B8A: B8A, B09: B9, B11: B11, B12: B12}
        date: {filename: '_(\d{8}T\d{6})_'}
        level: {filename: 'MSI(L1C|L2A)'}
      - modality: sentinel1
        path: "S1/*/*_{site}/*_{band}.tif"
        bands: {VV: "{pass}_VV", VH: "{pass}_VH"}
        pass: {asc: 'T1[4-9]', desc: 'T0[3-9]'}
        date: {filename: '_(\d{8}T\d{6})_'}
"""

from __future__ import annotations

import os
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from mmearth_data.errors import FileInputError
from mmearth_data.files.yamlfiles import read_yaml
from mmearth_data.rasterfile import Marks, as_marks
from mmearth_data.resources import PACKAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


Level = Literal["L1C", "L2A"]
Pass = Literal["asc", "desc"]
PASSES: tuple[Pass, ...] = ("asc", "desc")
SITE = "{site}"
BAND = "{band}"
PASS = "{pass}"
PASS_WORDS: dict[str, Pass] = {
    "a": "asc",
    "asc": "asc",
    "ascending": "asc",
    "d": "desc",
    "desc": "desc",
    "descending": "desc",
}
LEVEL_WORDS: dict[str, Level] = {"l1c": "L1C", "1c": "L1C", "l2a": "L2A", "2a": "L2A"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _as_text(value: object) -> object:
    """Convert the date objects that YAML makes of plain dates back to text."""
    return value.isoformat() if isinstance(value, date) else value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _check_expression(text: str, field: str, example: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"{field} is not a regular expression: {error}") from None
    if groups == 0:
        raise ValueError(f"{field} needs a group around the {example}")
    return text


def _group_of(expression: str, file_name: str, group: str) -> str:
    match = re.search(expression, file_name)
    if match is None:
        raise ValueError(f"expected a file name that matches {expression!r}, got {file_name!r}")
    text = match[group] if group in match.groupdict() else match[1]
    return text or ""


class NameRule(_Strict):
    """A fact read from the name of a file."""

    filename: str
    """Regular expression for the file's name; its first group is the fact."""

    @field_validator("filename")
    @classmethod
    def _has_group(cls, value: str) -> str:
        return _check_expression(value, "filename", "fact, such as '_R([0-9]{3})_'")

    def text(self, file_name: str) -> str:
        """Text of the fact; ValueError if the name does not match."""
        return _group_of(self.filename, file_name, "fact")

    def level(self, file_name: str) -> Level:
        """Sentinel-2 level in the name of a file; ValueError if there is none."""
        found = self.text(file_name)
        level = LEVEL_WORDS.get(found.lower())
        if level is None:
            raise ValueError(f"expected L1C or L2A at {self.filename!r} in the file name {file_name!r}, got {found!r}")
        return level


class PassRule(_Strict):
    """An orbit pass read from the name of a file: by ``filename``, or by ``asc`` and ``desc``."""

    filename: str | None = None
    """Regular expression for the file's name; its first group is the pass."""
    asc: str | None = None
    """Regular expression that matches only the names of files of the ascending pass."""
    desc: str | None = None
    """Regular expression that matches only the names of files of the descending pass."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.filename is None) == (self.asc is None) or (self.asc is None) != (self.desc is None):
            raise ValueError("expected filename (an expression around the pass), or asc and desc (one for each)")
        if self.filename is not None:
            _check_expression(self.filename, "filename", "pass, such as '_(ASC|DESC)_'")
        for name in PASSES:
            _check_expression(f"({getattr(self, name) or ''})", name, "pass")
        return self

    def of(self, file_name: str) -> Pass:
        """Orbit pass in the name of a file; ValueError if there is none, or both match."""
        if self.filename is not None:
            found = _group_of(self.filename, file_name, "pass")
            if found.lower() not in PASS_WORDS:
                raise ValueError(
                    f"expected ASC or DESC at {self.filename!r} in the file name {file_name!r}, got {found!r}"
                )
            return PASS_WORDS[found.lower()]
        matching = [name for name in PASSES if re.search(getattr(self, name), file_name)]
        if len(matching) != 1:
            both = f"{self.asc!r} (asc) or {self.desc!r} (desc)"
            raise ValueError(f"expected a file name that matches either {both}, got {file_name!r}")
        return matching[0]


def _form_of(value: object) -> str:
    return "rule" if isinstance(value, (dict, BaseModel)) else "word"


PassOrRule = Annotated[Annotated[Pass, Tag("word")] | Annotated[PassRule, Tag("rule")], Discriminator(_form_of)]
BandsOrNames = Annotated[
    Annotated[list[str | None], Field(min_length=1), Tag("list")]
    | Annotated[dict[str, str | None], Field(min_length=1), Tag("names")],
    Discriminator(lambda value: "names" if isinstance(value, dict) else "list"),
]
LevelOrRule = Annotated[Annotated[Level, Tag("word")] | Annotated[NameRule, Tag("rule")], Discriminator(_form_of)]


class DateRule(_Strict):
    """Where the date of a file comes from: exactly one of ``tag``, ``filename`` and ``constant``."""

    tag: str | None = None
    """Name of a metadata tag of the file."""
    filename: str | None = None
    """Regular expression for the file's name; its group ``date``, else its first group, is the date."""
    constant: Annotated[str | None, BeforeValidator(_as_text)] = None
    """Constant date of all files."""
    format: str | None = None
    """Format for `datetime.strptime`; without it, dates are ISO 8601. A date without a time zone is UTC."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [name for name in ("tag", "filename", "constant") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of tag, filename and constant, got {' and '.join(given) or 'none'}")
        if self.filename is not None:
            _check_expression(self.filename, "filename", "date, such as '_([0-9]{8})_'")
        if self.constant is not None:
            self.time_ms("", {})
        return self

    def time_ms(self, file_name: str, tags: Mapping[str, str]) -> int:
        """Date of a file, UTC milliseconds since 1970; ValueError if there is none, or it cannot be parsed."""
        text = self.constant
        if self.tag is not None:
            text = tags.get(self.tag)
            if text is None:
                raise ValueError(
                    f"expected the date in the tag {self.tag!r}, got the tags {', '.join(tags) or '(none)'}"
                )
        if self.filename is not None:
            text = _group_of(self.filename, file_name, "date")
        return _parse_ms(str(text), self.format)


def _parse_ms(text: str, form: str | None) -> int:
    try:
        moment = datetime.fromisoformat(text) if form is None else datetime.strptime(text, form)
    except ValueError:
        wanted = "an ISO 8601 date such as 2021-07-23T13:22:41" if form is None else f"a date like {form!r}"
        raise ValueError(f"expected {wanted}, got {text!r}") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (moment - EPOCH) // timedelta(milliseconds=1)


class _Reading(_Strict):
    """How the numbers of a file are converted to stored numbers; may differ between sites."""

    scale: float | None = None
    """Stored value = value in the file x scale + offset. Without both, scale and offset tags of the file apply."""
    offset: float | None = None
    """See ``scale``."""
    clip: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """Lowest and highest stored value; without it, a value that does not fit the stored type is an error."""
    nodata: Annotated[Marks, PlainValidator(as_marks)] = None
    """Value or list of values that mean missing, instead of the file's tag; ``null`` means that no value does."""
    date: DateRule | None = None
    """Origin of the date of each file."""

    @field_validator("clip")
    @classmethod
    def _rises(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and not value[0] <= value[1]:
            raise ValueError(f"expected [low, high], got {value}")
        return value


class SiteReading(_Reading):
    """Settings of one site; fields that are not given keep the layer's value."""

    orbit_pass: Pass | None = Field(default=None, alias="pass")
    """Orbit pass of the site's files."""


class _LayerFields(_Reading):
    """Fields that `LayerEntry` and `Layer` share."""

    modality: str
    """Name of the modality in the catalog."""
    path: str
    """Path relative to ``root``, with ``{site}``, ``{band}`` if each band has its own file, and ``*``."""
    orbit: NameRule | None = None
    """Rule for the orbit in file names, which is kept as text in the tile's facts."""
    codes: dict[int, int] | None = None
    """Code in the file -> code in the catalog; without it, the files have the catalog's codes."""
    derive: dict[str, str] = {}
    """Stored band -> band of the file from which its slope in degrees is computed."""
    notes: list[str] = []
    """Notes for users of the modality; recorded in the store."""
    sites: dict[str, SiteReading] = {}
    """Site -> settings that differ there."""

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        parts = PurePosixPath(value).parts
        if not parts or value.startswith(("/", "~")) or re.match(r"[A-Za-z]:", value) or "\\" in value:
            raise ValueError("expected a path relative to root, with forward slashes")
        if ".." in parts or "\0" in value:
            raise ValueError("expected a path that stays inside root, without '..'")
        if "**" in value or value.replace(SITE, "").replace(BAND, "").count("{"):
            raise ValueError("expected no placeholder but {site}, {band} and *")
        return value


class Layer(_LayerFields):
    """Files of one kind, one per site, with the same bands in the same order."""

    bands: tuple[str | None, ...]
    orbit_pass: Pass | None = None
    level: Level | None = None
    pass_rule: PassRule | None = None
    """Rule that selects the files of the layer's pass."""
    level_rule: NameRule | None = None
    """Rule that finds the level of each file, if the layer has none."""

    @property
    def stored_bands(self) -> tuple[str | None, ...]:
        """Catalog name of each band of the file, None for a skipped band."""
        return tuple(None if b is None else b.replace(PASS, self.orbit_pass or "") for b in self.bands)

    @property
    def band_numbers(self) -> tuple[int, ...]:
        """1-based positions in the file of the bands that are not skipped."""
        return tuple(number for number, band in enumerate(self.bands, 1) if band is not None)

    @property
    def targets(self) -> tuple[str, ...]:
        """Stored bands that this layer fills: those of the file, then the derived ones."""
        return (*(band for band in self.stored_bands if band is not None), *self.derive)

    @property
    def day_difference(self) -> Pass | None:
        """Orbit pass whose day difference the layer's date defines: as given, or the common prefix of its bands."""
        if self.orbit_pass is not None:
            return self.orbit_pass
        return next((p for p in PASSES if all(band.startswith(f"{p}_") for band in self.targets)), None)

    def at(self, site: str) -> Layer:
        """Return the layer with the settings of one site."""
        own = self.sites.get(site)
        return (
            self if own is None else self.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
        )

    def has(self, file_name: str, level: str | None) -> bool:
        """Whether a file that matches the path belongs to the layer, judged by the pass and level in its name.

        ``level`` is that of the files to read; None for any. Raises ValueError if the name does not contain the
        expected pass or level.
        """
        if self.orbit is not None:
            self.orbit.text(file_name)
        passes = self.pass_rule is None or self.pass_rule.of(file_name) == self.orbit_pass
        return passes and (self.level_rule is None or level in {None, self.level_rule.level(file_name)})

    def of_file(self, file_name: str) -> Layer:
        """Return the layer with the level from the name of a file."""
        if self.level_rule is None:
            return self
        return self.model_copy(update={"level": self.level_rule.level(file_name)})


class LayerEntry(_LayerFields):
    """A layer as the mapping file describes it: one file per site, or one per site and band."""

    bands: BandsOrNames
    """Band of the catalog for each band of the file, in the file's order, ``null`` to skip one; with ``{band}`` in the
    path, a list of bands, or names in file names -> bands. ``{pass}`` in a band is replaced by the pass.
    """
    orbit_pass: PassOrRule | None = Field(default=None, alias="pass")
    """Orbit pass of all files, or a rule that reads it from their names; by default the common prefix of the bands."""
    level: LevelOrRule | None = None
    """Sentinel-2 level of the scenes that use the layer, or a rule that reads it from file names; by default any."""

    @model_validator(mode="after")
    def _says_its_pass(self) -> Self:
        names = self.bands.values() if isinstance(self.bands, dict) else self.bands
        if self.orbit_pass is None and any(PASS in (band or "") for band in names):
            raise ValueError("bands are written with {pass}, but the layer has no pass; write pass: asc or pass: desc")
        twice = [name for name, site in self.sites.items() if site.orbit_pass is not None]
        if isinstance(self.orbit_pass, PassRule) and twice:
            raise ValueError(f"the pass comes from file names, and site {twice[0]} gives one too; keep one of them")
        return self

    @model_validator(mode="after")
    def _spells_its_bands(self) -> Self:
        if BAND not in self.path:
            if isinstance(self.bands, dict):
                raise ValueError("bands maps names in file names to bands, but the path has no {band}; add it, or list")
            return self
        for name, band in self._names().items():
            if band is None:
                raise ValueError(f"the path has {{band}}, so that a band is skipped by leaving it out; remove {name!r}")
            if re.search(r"[/\\*{}\0]", name.replace(PASS, "")) or not name:
                raise ValueError(f"expected names of bands as they are in file names, got {name!r}")
        return self

    def _names(self) -> dict[str, str | None]:
        """Name in the file name -> band, if each band has its own file."""
        return self.bands if isinstance(self.bands, dict) else {str(band): band for band in self.bands}

    def layers(self) -> tuple[Layer, ...]:
        """Layers of single files: one per band for ``{band}`` in the path, and one per pass if a rule finds it."""
        rule: PassRule | None = None
        passes: tuple[Pass | None, ...]
        if isinstance(self.orbit_pass, PassRule):
            rule, passes = self.orbit_pass, PASSES
        else:
            passes = (self.orbit_pass,)
        return tuple(
            self._layer(path, bands, orbit_pass, rule, first=position == 0)
            for orbit_pass in passes
            for position, (path, bands) in enumerate(self._files(orbit_pass))
        )

    def _files(self, orbit_pass: str | None) -> Iterator[tuple[str, tuple[str | None, ...]]]:
        if BAND not in self.path:
            yield self.path, tuple(self.bands)
            return
        for name, band in self._names().items():
            yield self.path.replace(BAND, name.replace(PASS, orbit_pass or "")), (band,)

    def _layer(
        self, path: str, bands: tuple[str | None, ...], orbit_pass: Pass | None, rule: PassRule | None, *, first: bool
    ) -> Layer:
        by_rule = isinstance(self.level, NameRule)
        derive = {
            new: origin for new, origin in self.derive.items() if origin in bands or (first and BAND not in self.path)
        }
        return Layer.model_construct(
            **{name: getattr(self, name) for name in _LayerFields.model_fields}
            | {
                "path": path,
                "bands": bands,
                "derive": derive,
                "notes": self.notes if first else [],
                "orbit_pass": orbit_pass,
                "pass_rule": rule,
                "level": None if by_rule else self.level,
                "level_rule": self.level if by_rule else None,
            }
        )


class Root(_Strict):
    """Folder that all paths start from: an environment variable, then a default."""

    env: str | None = None
    """Environment variable that holds the folder."""
    default: str | None = None
    """Folder to use if the variable is not set, relative to the mapping file, the current folder or the checkout."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.env or self.default):
            raise ValueError("expected env (an environment variable), default (a folder) or both")
        return self


def _as_root(value: object) -> object:
    return {"default": value} if isinstance(value, str) else value


class RasterMapping(_Strict):
    """A mapping file; the module's docstring describes its fields."""

    root: Annotated[Root, BeforeValidator(_as_root)]
    """Folder that all paths are relative to: a path, or an environment variable and a default."""
    base: str
    """Modality whose files define the sites and the grid of the tiles."""
    layers: Annotated[list[LayerEntry], Field(min_length=1)]
    """One entry for each kind of file."""
    scene_time: str | None = None
    """Modality whose date is the time of the scene; by default the base."""
    level: Level | None = None
    """Sentinel-2 level to use if layers of both are mapped and ``--level`` is not given."""
    sites: Annotated[list[str], Field(min_length=1)] | None = None
    """Sites to use; by default all that the base layer's path matches."""
    notes: list[str] = []
    """Notes for users of the store; recorded in the store."""

    @property
    def file_layers(self) -> tuple[Layer, ...]:
        """Layers of single files, in the mapping's order."""
        return tuple(layer for entry in self.layers for layer in entry.layers())

    @field_validator("sites")
    @classmethod
    def _plain_names(cls, value: list[str] | None) -> list[str] | None:
        for site in value or ():
            if site in {"", ".", ".."} or re.search(r"[/\\\0]", site):
                raise ValueError(f"expected names without slashes, got {site!r}")
        if value is not None and len(set(value)) != len(value):
            raise ValueError("expected every site once")
        return value


def read_mapping(path: Path) -> RasterMapping:
    """Read a mapping file and check its shape.

    Raises FileInputError if it is missing, not YAML, or has missing, unknown or ill-typed fields; with the line.
    """
    file = read_yaml(path, "a mapping file")
    try:
        return RasterMapping.model_validate(file.values)
    except ValidationError as error:
        raise file.refusal(error, RasterMapping, "mapping") from None


def root_folder(mapping: RasterMapping, path: Path) -> Path:
    """Folder that the mapping's paths start from; FileInputError if there is none.

    A relative default is searched relative to the mapping file, the current folder and the checkout of the package.
    """
    env = mapping.root.env
    value = os.environ.get(env, "") if env else ""
    if value:
        if not Path(value).is_dir():
            raise FileInputError(path, f"expected the folder of the data in {env}, got {value!r}; set it to a folder.")
        return Path(value).absolute()
    fix = f"set the environment variable {env} to the folder of the data" if env else "correct root"
    default = mapping.root.default
    if default is None:
        raise FileInputError(path, f"the environment variable {env} is not set; {fix}.")
    for start in (path.parent, Path(), PACKAGE.parent):
        if (start / default).is_dir():
            return (start / default).absolute()
    raise FileInputError(path, f"expected the folder of the data at {default!r}, found none; {fix}.")
