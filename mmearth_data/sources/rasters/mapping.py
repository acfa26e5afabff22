r"""The mapping file: which raster files hold which modality, and how their numbers are to be read.

.. code-block:: yaml

    root: {env: MMEARTH_TEST_DATA, default: ../shared/data}   # environment variable first, then the default
    base: sentinel2          # its grid is the grid of the tiles
    scene_time: io_lulc      # its date is the time of the scene (default: the base)
    level: L2A               # taken where layers of both levels are mapped and nobody asks
    sites: [a, b]            # default: whatever the base layer's pattern finds
    notes: [what a user of the store should know]
    layers:
      - modality: sentinel1  # name in the catalog
        path: radar/{site}_*.tif
        bands: ["{pass}_VV", "{pass}_VH", null]   # one per band of the file, in its order; null skips one
        pass: asc            # orbit pass, for the day difference; default: the bands' common prefix
        level: null          # L1C or L2A where the layer is for scenes of that level only
        scale: 1             # stored = file * scale + offset; without both, the file's own tags are applied
        offset: 0
        clip: [1, 65535]     # limits of the stored numbers; without it a number that does not fit is an error
        nodata: 0            # replaces the file's tag; a number, a list, or null (no number means missing)
        codes: {10: 1}       # file code -> catalog code; without it the file holds the catalog's codes
        derive: {slope: elevation}   # stored band: the band whose slope in degrees it holds
        date: {tag: datetime}        # or {filename: '_(\d{8})_'} or {constant: 2020-05-01}; format: strptime
        notes: [terrain-corrected]
        sites:               # what differs at single sites: scale, offset, clip, nodata, pass, date
          b: {offset: -1000}
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
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)

from mmearth_data.errors import FileInputError
from mmearth_data.rasterfile import Marks, as_marks
from mmearth_data.resources import PACKAGE
from mmearth_data.yamlfiles import read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping


Level = Literal["L1C", "L2A"]
Pass = Literal["asc", "desc"]
PASSES: tuple[Pass, ...] = ("asc", "desc")
SITE = "{site}"
PASS = "{pass}"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _as_text(value: object) -> object:
    """YAML reads a plain date as a date object."""
    return value.isoformat() if isinstance(value, date) else value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DateRule(_Strict):
    """Where the date of a file comes from: exactly one of ``tag``, ``filename`` and ``constant``."""

    tag: str | None = None
    """Name of a metadata tag of the file."""
    filename: str | None = None
    """Regular expression for the file's name; its group ``date``, else its first group, is the date."""
    constant: Annotated[str | None, BeforeValidator(_as_text)] = None
    format: str | None = None
    """As `datetime.strptime` reads it; without it ISO 8601. A date without a zone is UTC."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [name for name in ("tag", "filename", "constant") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of tag, filename and constant, got {' and '.join(given) or 'none'}")
        if self.filename is not None:
            try:
                groups = re.compile(self.filename).groups
            except re.error as error:
                raise ValueError(f"filename is not a regular expression: {error}") from None
            if groups == 0:
                raise ValueError("filename needs a group around the date, such as '_([0-9]{8})_'")
        if self.constant is not None:
            self.time_ms("", {})
        return self

    def time_ms(self, file_name: str, tags: Mapping[str, str]) -> int:
        """Date of a file, UTC milliseconds since 1970.

        Raises
        ------
        ValueError
            When there is no date, or it cannot be read; says what was expected and what came.
        """
        text = self.constant
        if self.tag is not None:
            text = tags.get(self.tag)
            if text is None:
                raise ValueError(
                    f"expected the date in the tag {self.tag!r}, got the tags {', '.join(tags) or '(none)'}"
                )
        if self.filename is not None:
            match = re.search(self.filename, file_name)
            if match is None:
                raise ValueError(f"expected a file name that matches {self.filename!r}, got {file_name!r}")
            text = match["date"] if "date" in match.groupdict() else match[1]
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
    """How the numbers of a file become stored numbers; may differ from site to site."""

    scale: float | None = None
    offset: float | None = None
    clip: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    nodata: Annotated[Marks, PlainValidator(as_marks)] = None
    orbit_pass: Pass | None = Field(default=None, alias="pass")
    date: DateRule | None = None

    @field_validator("clip")
    @classmethod
    def _rises(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and not value[0] <= value[1]:
            raise ValueError(f"expected [low, high], got {value}")
        return value


class SiteReading(_Reading):
    """What differs at one site; fields that are not given keep the layer's value."""


class Layer(_Reading):
    """Files of one kind, one a site."""

    modality: str
    path: str
    bands: Annotated[list[str | None], Field(min_length=1)]
    level: Level | None = None
    codes: dict[int, int] | None = None
    derive: dict[str, str] = {}
    notes: list[str] = []
    sites: dict[str, SiteReading] = {}

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        parts = PurePosixPath(value).parts
        if not parts or value.startswith(("/", "~")) or re.match(r"[A-Za-z]:", value) or "\\" in value:
            raise ValueError("expected a path relative to root, with forward slashes")
        if ".." in parts or "\0" in value:
            raise ValueError("expected a path that stays inside root, without '..'")
        if "**" in value or re.sub(r"\{site\}", "", value).count("{"):
            raise ValueError("expected no placeholder but {site} and *")
        return value

    @model_validator(mode="after")
    def _says_its_pass(self) -> Self:
        if self.orbit_pass is None and any(PASS in (band or "") for band in self.bands):
            raise ValueError("bands are written with {pass}, but the layer has no pass; write pass: asc or pass: desc")
        return self

    @property
    def stored_bands(self) -> tuple[str | None, ...]:
        """Catalog's name of each band of the file, None for a band that is skipped."""
        return tuple(None if b is None else b.replace(PASS, self.orbit_pass or "") for b in self.bands)

    @property
    def band_numbers(self) -> tuple[int, ...]:
        """1-based position in the file of each band that is not skipped."""
        return tuple(number for number, band in enumerate(self.bands, 1) if band is not None)

    @property
    def targets(self) -> tuple[str, ...]:
        """Stored bands that this layer fills: those of the file, then the derived ones."""
        return (*(band for band in self.stored_bands if band is not None), *self.derive)

    @property
    def day_difference(self) -> Pass | None:
        """Orbit pass whose day difference the layer's date gives: said, or the prefix of all its bands."""
        if self.orbit_pass is not None:
            return self.orbit_pass
        return next((p for p in PASSES if all(band.startswith(f"{p}_") for band in self.targets)), None)

    def at(self, site: str) -> Layer:
        """Return the layer as it is read at one site."""
        own = self.sites.get(site)
        return (
            self if own is None else self.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
        )


class Root(_Strict):
    """Folder that all paths start from: an environment variable, then a default."""

    env: str | None = None
    default: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.env or self.default):
            raise ValueError("expected env (an environment variable), default (a folder) or both")
        return self


def _as_root(value: object) -> object:
    return {"default": value} if isinstance(value, str) else value


class RasterMapping(_Strict):
    """A mapping file. See the module's text for the fields."""

    root: Annotated[Root, BeforeValidator(_as_root)]
    base: str
    layers: Annotated[list[Layer], Field(min_length=1)]
    scene_time: str | None = None
    level: Level | None = None
    sites: Annotated[list[str], Field(min_length=1)] | None = None
    notes: list[str] = []

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

    Raises
    ------
    FileInputError
        When it is missing, not YAML, or has missing, unknown or ill-typed fields; with the line.
    """
    file = read_yaml(path, "a mapping file")
    try:
        return RasterMapping.model_validate(file.values)
    except ValidationError as error:
        raise file.refusal(error, RasterMapping, "mapping") from None


def root_folder(mapping: RasterMapping, path: Path) -> Path:
    """Folder that the mapping's paths start from.

    A relative default is looked for beside the mapping file, in the current folder and in the checkout that
    the package lies in.

    Raises
    ------
    FileInputError
        When there is no such folder.
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
