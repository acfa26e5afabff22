"""The raster source: tiles from raster files that users bring."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import rasterio

from mmearth_data.catalog.tile import (
    LEVEL_NAMES,
    LEVEL_NONE,
    NO_TIME,
    WGS84,
    Place,
    as_datetime64_ms,
    check_tile_size,
    round_lonlat,
    tile_ids,
)
from mmearth_data.errors import FileInputError, InputError, TileUnavailable
from mmearth_data.rasterfile import Siblings
from mmearth_data.sources.base import FIELDS_OF_ALL, OfCatalog, Rejection, Survey
from mmearth_data.sources.dated import NO_SCENE, day_text, days_from
from mmearth_data.sources.rasters.covering import SitesBelow, area_of_sites
from mmearth_data.sources.rasters.files import scale_problem
from mmearth_data.sources.rasters.georeferencing import transform_points
from mmearth_data.sources.rasters.layers import Selection, select_layers
from mmearth_data.sources.rasters.mapping import read_mapping, root_folder
from mmearth_data.sources.rasters.meeting import check_meeting
from mmearth_data.sources.rasters.pixels import read_stored
from mmearth_data.sources.rasters.sites import Site, find_sites

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from geopandas import GeoDataFrame

    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.catalog.modality import Modality
    from mmearth_data.catalog.tile import TileGrid
    from mmearth_data.geography.zones import ZonePart
    from mmearth_data.sources.base import Source
    from mmearth_data.sources.dated import NearDates
    from mmearth_data.sources.rasters.files import SiteFile
    from mmearth_data.sources.rasters.mapping import RasterMapping

DAY_MS = 86_400_000
NOT_IN_SOURCE = "not_in_source"
"""Reason for rejecting a location without files."""


@dataclass(frozen=True, slots=True)
class TileRef:
    """Position of a tile: a site, and the row and column of its upper-left pixel there."""

    site: int
    row: int
    col: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Where the pixels of a tile are read."""

    sites: tuple[int, ...]
    """Later sites fill what is missing in earlier ones; only tiles of covers have several."""
    grid: TileGrid
    facts: Mapping[str, Any]
    """Position within the sites, for the record."""


class RasterSource(OfCatalog):
    """Delivers tiles cut from raster files, as a mapping file describes them (`mmearth_data.sources.rasters.mapping`).

    ``level`` (``L1C``, ``L2A``) is the one to use if the mapping has both. Locations get their biome and ecoregion from
    ``ecoregions``; without them they have none. The files of a site have one date; with ``near``, a location whose date is
    too far from it is rejected. The constructor reads nothing; the first method call reads the mapping
    and the headers of all files, and every method raises InputError if one of them cannot be used.
    """

    name = "rasters"
    recipe_fields: ClassVar[frozenset[str]] = FIELDS_OF_ALL | {"level"}

    def __init__(
        self,
        mapping: Path,
        *,
        level: str | None = None,
        catalog: Catalog,
        ecoregions: GeoDataFrame | None = None,
        near: NearDates | None = None,
    ) -> None:
        self._path = Path(mapping)
        self._level = level
        self._catalog = catalog
        self._ecoregions = ecoregions
        self._near = near
        self._cut: dict[int, tuple[list[Place], dict[int, TileRef]]] = {}

    @cached_property
    def mapping(self) -> RasterMapping:
        """The mapping, as read from its file."""
        return read_mapping(self._path)

    @cached_property
    def selection(self) -> Selection:
        """Layers of the chosen level, checked against the catalog."""
        return select_layers(self.mapping, self._path, self._catalog, self._level)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """All sites with their inspected files."""
        return find_sites(self.mapping, self._path, self.selection, root_folder(self.mapping, self._path))

    @property
    def synthetic(self) -> bool:
        """Whether tags mark any file as synthetic, as in exports of synthetic stores."""
        return any(file.synthetic for site in self.sites for file in site.files)

    def identity(self) -> dict[str, Any]:
        """Everything that determines the pixels: mapping, level, content of all files and sidecars; no paths."""
        sites = [site.name for site in self.sites]
        return {
            "name": self.name,
            "mapping": _digest(self._path),
            "level": self.selection.level,
            "sites": sites,
            "files": self._file_digests,
            "notes": self.notes,
            **({} if self._near is None else {"days": self._near.days}),
        }

    @property
    def notes(self) -> list[str]:
        """What a user of the store should know about the files."""
        layers = [f"{m.modality.name}: {note}" for m in self.selection.layers for note in m.layer.notes]
        return [*self.mapping.notes, *layers, *self._ignored_tags]

    @cached_property
    def _ignored_tags(self) -> list[str]:
        """One line per modality and file tags that the mapping's scale, offset or codes override."""
        found: dict[str, set[str]] = defaultdict(set)
        for file in (file for site in self.sites for file in site.files if file.calibration.ignored):
            found[f"{file.modality.name}: {file.calibration.ignored} are ignored for the mapping's numbers"].add(
                file.name
            )
        return [f"{words} ({min(names)}, {len(names)} in all)" for words, names in sorted(found.items())]

    @cached_property
    def _sites_below(self) -> SitesBelow:
        check_meeting(self.sites, 1)
        return SitesBelow(self.sites)

    def area(self) -> tuple[ZonePart, ...]:
        """Area of the files of the base layer."""
        return area_of_sites(self.sites)

    def modalities(self, wanted: Sequence[Modality]) -> tuple[Modality, ...]:
        """Return those of the requested modalities that a layer of the mapping fills."""
        filled = {mapped.modality.name for mapped in self.selection.layers}
        return tuple(modality for modality in wanted if modality.name in filled)

    def places(self, size_px: int) -> list[Place]:
        """Full tiles of all sites, row by row; sites by name."""
        return list(self._tiles(size_px)[0])

    def ecoregions(self) -> GeoDataFrame:
        """Refuse: the locations are those of the files."""
        raise InputError(f"{self.name}: expected a source whose locations are sampled, got one with its own locations.")

    def survey(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        """One result per location; locations from elsewhere are rejected."""
        return self._surveys(places) if self._near is None else self._near.survey(places, self._surveys)

    def _surveys(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        return [self._survey(place) for place in places]

    def read(self, survey: Survey, modalities: Sequence[Modality]) -> dict[str, np.ndarray[Any, Any]]:
        """Arrays of one tile; modalities without a file at this site are left out.

        Raises TileUnavailable if a tile of a cover has no values, since files may have borders without data.
        """
        sites = [self.sites[number] for number in survey.request.sites]
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for modality in modalities:
            # A file that serves several sites is one object.
            files = {id(file): file for site in sites for file in site.files if file.modality.name == modality.name}
            if files:
                arrays[modality.name] = _assemble(files.values(), survey.grid, modality)
        if survey.place.grid is not None and not any(
            m.observed(arrays[m.name]).any() for m in modalities if m.name in arrays
        ):
            raise TileUnavailable(NOT_IN_SOURCE, "the files have no values for this tile")
        return arrays

    @cached_property
    def _file_digests(self) -> dict[str, dict[str, Any]]:
        by_modality: dict[str, dict[str, Path]] = defaultdict(dict)
        siblings = cache(Siblings.of)
        for site in self.sites:
            for file in site.files:
                beside = siblings(file.path.parent).sidecars(file.path.name)
                for name in (file.path.name, *beside):
                    by_modality[file.modality.name][(PurePosixPath(file.name).parent / name).as_posix()] = (
                        file.path.with_name(name)
                    )
        with ThreadPoolExecutor() as pool:
            return {name: _digest_all(files, pool) for name, files in by_modality.items()}

    def _tiles(self, size_px: int) -> tuple[list[Place], dict[int, TileRef]]:
        if size_px not in self._cut:
            self._cut[size_px] = self._cut_tiles(check_tile_size(size_px))
        return self._cut[size_px]

    def _cut_tiles(self, size_px: int) -> tuple[list[Place], dict[int, TileRef]]:
        refs = [
            TileRef(number, row, col) for number, site in enumerate(self.sites) for row, col in site.windows(size_px)
        ]
        centres = [self.sites[ref.site].base.grid.tile(ref.row, ref.col, size_px).centre_lonlat for ref in refs]
        lost = next((ref for ref, centre in zip(refs, centres, strict=True) if not math.isfinite(sum(centre))), None)
        if lost is not None:
            base = self.sites[lost.site].base
            problem = f"expected a site on the Earth, got coordinates outside the domain of EPSG:{base.grid.epsg}; correct them."
            raise FileInputError(base.path, problem)
        for site in self.sites:
            scaled = scale_problem(site.base)
            if scaled is not None:
                raise FileInputError(site.base.path, scaled)
            _check_poles(site.base, [site.base.grid.tile(*window, size_px) for window in site.windows(size_px)])
        lonlat = round_lonlat(centres)
        ids = tile_ids(lonlat[:, 0], lonlat[:, 1], size_px).tolist()
        by_id: dict[int, TileRef] = {}
        for tile_id, ref in zip(ids, refs, strict=True):
            if tile_id in by_id:
                one, two = self.sites[by_id[tile_id].site].base, self.sites[ref.site].base
                raise FileInputError(
                    two.path, f"expected sites at different locations, got that of {one.name}; keep one."
                )
            by_id[tile_id] = ref
        check_meeting(self.sites, size_px)
        labels = self._labels(lonlat)
        places = [
            Place(tile_id=tile_id, lon=lon, lat=lat, size_px=size_px, biome=biome, eco_region=eco_region)
            for tile_id, (lon, lat), (biome, eco_region) in zip(ids, lonlat.tolist(), labels, strict=True)
        ]
        return places, by_id

    def _labels(self, lonlat: np.ndarray[Any, Any]) -> list[tuple[int | None, int | None]]:
        if self._ecoregions is None:
            return [(None, None)] * len(lonlat)
        from mmearth_data.geography.ecoregions import NO_BIOME, NO_ECO_REGION, label_points

        biome, eco_region = label_points(self._ecoregions, lonlat[:, 0], lonlat[:, 1])
        return [
            (None if b == NO_BIOME else b, None if e == NO_ECO_REGION else e)
            for b, e in zip(biome.tolist(), eco_region.tolist(), strict=True)
        ]

    def _survey(self, place: Place) -> Survey | Rejection:
        reading = self._reading(place)
        if reading is None:
            return Rejection(place=place, reason=NOT_IN_SOURCE, detail="no site of the mapping covers this tile")
        site = self.sites[reading.sites[0]]
        late = None if self._near is None else _far_from_date(site, place, self._near)
        if late is not None:
            return Rejection(place=place, reason=NO_SCENE, detail=late)
        levels = {name: code for code, name in LEVEL_NAMES.items()}
        level = site.base.layer.level or self.selection.level
        days = _day_differences(site)
        return Survey(
            place=place,
            grid=reading.grid,
            time_ms=site.time_ms,
            s2_level=levels.get(level or "", LEVEL_NONE),
            s1_asc_days=days["asc"],
            s1_desc_days=days["desc"],
            facts=_facts(site, reading),
            request=reading,
        )

    def _reading(self, place: Place) -> Reading | None:
        """Where a location is read; None if no file covers it."""
        if place.grid is not None:
            numbers = tuple(self._sites_below(place.grid))
            names = [self.sites[number].name for number in numbers]
            return Reading(numbers, place.grid, {"sites": names} if len(names) > 1 else {}) if numbers else None
        ref = self._tiles(place.size_px)[1].get(place.tile_id)
        if ref is None:
            return None
        grid = self.sites[ref.site].base.grid.tile(ref.row, ref.col, place.size_px)
        return Reading((ref.site,), grid, {"row": ref.row, "col": ref.col})


def _assemble(files: Iterable[SiteFile], grid: TileGrid, modality: Modality) -> np.ndarray[Any, Any]:
    array = modality.empty(modality.array_shape(grid.size_px))
    for file in files:
        for band, values in read_stored(file, grid).items():
            before = array[modality.bands.index(band)]
            np.copyto(before, values, where=~modality.observed(before))
    return array


def _day_differences(site: Site) -> dict[str, float]:
    """Days from the scene to the layer of each orbit pass; NaN if either time is unknown."""
    days = {"asc": math.nan, "desc": math.nan}
    for file in site.files:
        orbit_pass = file.layer.day_difference
        if orbit_pass and NO_TIME not in {file.time_ms, site.time_ms}:
            days[orbit_pass] = (file.time_ms - site.time_ms) / DAY_MS
    return days


def _check_poles(base: SiteFile, tiles: Sequence[TileGrid]) -> None:
    """Refuse a tile that contains a pole: it has no outline in degrees."""
    degrees = np.zeros(2), np.array([90.0, -90.0])
    poles = transform_points(rasterio.CRS.from_epsg(WGS84), rasterio.CRS.from_epsg(base.grid.epsg), *degrees)
    for x, y in zip(*poles, strict=True):
        for tile in tiles:
            west, south, east, north = tile.bounds
            if west <= x <= east and south <= y <= north:
                raise FileInputError(
                    base.path, "expected tiles without a pole, got a tile that contains one; crop the file."
                )


def _far_from_date(site: Site, place: Place, near: NearDates) -> str | None:
    """Reason why the scene of a site is too far from the date of a location; None if it is near, or there is no date."""
    if place.date_ms is None:
        return None
    if site.time_ms == NO_TIME:
        return f"the files of the site {site.name} have no date, expected one {near.words(place)}"
    days = days_from(site.time_ms, place.date_ms)
    if abs(days) <= near.days:
        return None
    apart = f"{abs(days)} days {'after' if days > 0 else 'before'} {day_text(place.date_ms)}"
    return f"the scene of the site {site.name} is of {day_text(site.time_ms)}, {apart}; expected at most {near.days}"


def _facts(site: Site, reading: Reading) -> dict[str, Any]:
    dates = {file.modality.name: str(as_datetime64_ms(file.time_ms)) for file in site.files if file.time_ms != NO_TIME}
    orbits = {file.modality.name: file.layer.orbit.text(file.path.name) for file in site.files if file.layer.orbit}
    facts = {"site": site.name, **reading.facts, "dates": dates}
    return facts | {"orbits": orbits} if orbits else facts


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _digest_all(files: Mapping[str, Path], pool: ThreadPoolExecutor) -> dict[str, Any]:
    """Return number, size and one digest over names, sizes and contents."""
    sizes = [path.stat().st_size for path in files.values()]
    total = hashlib.blake2b(digest_size=16)
    for name, size, digest in zip(files, sizes, pool.map(_digest, files.values()), strict=True):
        total.update(f"{name}\0{size}\0{digest}\n".encode())
    return {"files": len(files), "bytes": sum(sizes), "blake2b": total.hexdigest()}


if TYPE_CHECKING:
    _: type[Source] = RasterSource
