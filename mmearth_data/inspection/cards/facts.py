"""Facts about a store that its cards share, as plain values."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.entries import biomes, eco_regions
from mmearth_data.catalog.tile import PIXEL_M
from mmearth_data.inspection.cards.wording import WHOLE_EARTH
from mmearth_data.inspection.report.facts import nearest_train
from mmearth_data.inspection.summary import summarise
from mmearth_data.store.about import extents, licences
from mmearth_data.store.overlaps import overlapping_splits
from mmearth_data.store.root import collection_id
from mmearth_data.store.schema import SPATIAL_KEY, TILES_KEY
from mmearth_data.store.storage import storage_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.inspection.summary import LabelSummary, Summary
    from mmearth_data.store import Store
    from mmearth_data.store.about import Extents, LicenceUse
NOWHERE = "no continent"
"""Tiles at sea, or on islands that the outlines of continents do not contain."""


@dataclass(frozen=True, slots=True)
class Links:
    """Paths from the folder of the cards to the objects of a store.

    Attributes
    ----------
    base
        ``""`` if the cards are in the store, else a relative path or a URL that ends with a slash.
    """

    base: str

    @classmethod
    def between(cls, folder: Path, store: Store) -> Links:
        """Links from a folder to a store: relative to a local one, absolute to a bucket."""
        if not isinstance(store.path, Path):
            return cls(f"{store.path}/")
        relative = Path(os.path.relpath(store.path.resolve(), folder.resolve())).as_posix()
        return cls("" if relative == "." else f"{relative}/")

    def to(self, key: str = "") -> str:
        """Link to an object, or to the store itself; relative ones begin with a dot."""
        found = self.base + key
        return found if "://" in found or found.startswith("../") else f"./{found}"

    def plain(self, key: str) -> str:
        """Link to an object, without the leading dot."""
        return self.to(key).removeprefix("./")


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Tiles in one part of the land.

    Attributes
    ----------
    name
        Biome or continent.
    tiles
        Number of tiles.
    of_tiles, of_land
        Share of the tiles, and share of the land area of all rows of the table together; None if the area is not known.
    """

    name: str
    tiles: int
    of_tiles: float
    of_land: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """Share of the pixels (or tiles) of one band that have a value."""

    modality: str
    band: str
    observed: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TileFile:
    """The table of tiles.

    Attributes
    ----------
    schema
        Its columns.
    size, sha256
        Bytes of the file, and their digest in hex.
    spatial
        Whether the store has a second table, in spatial order.
    """

    schema: pa.Schema
    size: int
    sha256: str
    spatial: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """All facts that the cards of a store contain.

    Attributes
    ----------
    identifier, name
        Identifier as a data set, and name of the store without its suffix.
    extents
        None if no tile has a known location.
    codes
        EPSG codes of the tiles, ascending; empty if none is known.
    biomes, continents
        Tiles and land area; empty if the store lacks the published biomes, or if no tile has a location.
    labels
        Tiles by the classes of other labels of few classes.
    gaps
        Bands that lack some values, in stored order.
    nearest_m
        Other split -> distances of the centres of its tiles to the nearest train tile's, metres; of at most 1,000 tiles.
    overlap
        Whether two tiles of different splits overlap.
    radar_days
        Median and maximum of the days between the radar scenes and the optical ones; None without radar scenes.
    unplaced
        Tiles whose pixel grid is not known.
    """

    store: Store
    summary: Summary
    links: Links
    identifier: str
    name: str
    extents: Extents | None
    codes: tuple[int, ...]
    licences: tuple[LicenceUse, ...]
    years: Mapping[int, int]
    biomes: tuple[Share, ...]
    continents: tuple[Share, ...]
    labels: tuple[LabelSummary, ...]
    gaps: tuple[Gap, ...]
    nearest_m: Mapping[str, NDArray[np.float64]]
    overlap: bool
    radar_days: tuple[float, float] | None
    unplaced: int
    tiles: TileFile

    @property
    def stored(self) -> tuple[Modality, ...]:
        """Modalities with an array."""
        return self.store.layout.stored

    @property
    def rasters(self) -> tuple[Modality, ...]:
        """Modalities with a value per pixel."""
        return self.store.layout.rasters

    @property
    def side_m(self) -> int:
        """Side of a tile, metres."""
        return self.summary.size_px * PIXEL_M

    @property
    def folder(self) -> str:
        """Name of the store's folder."""
        return self.store.path.name


def read_facts(store: Store, folder: Path) -> CardFacts:
    """Read the facts of a finished store for cards in a folder; no pixel is read.

    Raises
    ------
    StoreDamaged
        If a table of the store cannot be read.
    """
    summary, coords = summarise(store), store.coords
    known = np.isfinite(coords["lon"]) & np.isfinite(coords["lat"])
    lon, lat, split = (coords[name][known] for name in ("lon", "lat", "split"))
    as_published = [label for label in summary.labels if _is_biome(store.modalities[label.name])]
    return CardFacts(
        store=store,
        summary=summary,
        links=Links.between(folder, store),
        identifier=collection_id(store.attributes),
        name=store.path.stem,
        extents=extents(coords, store.layout.size_px),
        codes=tuple(int(code) for code in np.unique(coords["epsg"]) if code),
        licences=licences(store.layout.stored),
        years=_years(coords["time"]),
        biomes=_by_biome(as_published[0], store) if as_published else (),
        continents=_by_continent(lon, lat, worldwide(store)),
        labels=tuple(label for label in summary.labels if label not in as_published),
        gaps=tuple(_gaps(store)),
        nearest_m=nearest_train(lon, lat, split),
        overlap=overlapping_splits(lon, lat, split, store.layout.size_px) is not None,
        radar_days=_radar_days(coords),
        unplaced=int(np.count_nonzero(np.isnan(coords["ulx"]))),
        tiles=_tile_file(store),
    )


def worldwide(store: Store) -> bool:
    """Whether the tiles can be anywhere on land, so that they can be compared with all land."""
    part = store.recipe.get("subset", {})
    return store.recipe.get("region", WHOLE_EARTH) == WHOLE_EARTH and not (part.get("region") or part.get("biome"))


def _is_biome(m: Modality) -> bool:
    return [label.name for label in m.classes] == [label.name for label in biomes()]


def _by_biome(label: LabelSummary, store: Store) -> tuple[Share, ...]:
    areas: Counter[int] = Counter()
    if worldwide(store) and not store.synthetic:  # the biomes of the synthetic planet have other areas
        for region in eco_regions():
            areas[region.biome] += region.area_km2  # type: ignore[assignment]
    counts = {entry.code: entry.total for entry in label.classes}
    rows = {entry.name: (counts.get(entry.code, 0), areas[entry.code]) for entry in biomes()}
    return _shares({name: row for name, row in rows.items() if row[0] or areas})


def _by_continent(lon: NDArray[np.float64], lat: NDArray[np.float64], compared: bool) -> tuple[Share, ...]:
    from mmearth_data.geography.regions import continents
    from mmearth_data.store.selection import inside

    free = np.ones(len(lon), dtype=bool)
    rows: dict[str, tuple[int, float]] = {}
    for continent in continents():
        here = free.copy()
        here[free] = inside(continent, lon[free], lat[free])
        free &= ~here
        area = continent.area_km2 or 0.0
        rows[continent.name] = (int(np.count_nonzero(here)), area if compared else 0.0)
    rows[NOWHERE] = (int(np.count_nonzero(free)), 0.0)
    return _shares({name: row for name, row in rows.items() if row[0] or (compared and name != NOWHERE)})


def _shares(rows: Mapping[str, tuple[int, float]]) -> tuple[Share, ...]:
    tiles, land = sum(count for count, _ in rows.values()), sum(area for _, area in rows.values())
    if not tiles:
        return ()
    return tuple(
        Share(name=name, tiles=count, of_tiles=count / tiles, of_land=area / land if area else None)
        for name, (count, area) in rows.items()
    )


def _years(time: NDArray[np.datetime64]) -> dict[int, int]:
    known = time[~np.isnat(time)].astype("datetime64[Y]").astype(np.int64) + 1970
    return {int(year): int(count) for year, count in zip(*np.unique(known, return_counts=True), strict=True)}


def _gaps(store: Store) -> Iterator[Gap]:
    """Bands whose statistics, or class counts, do not cover all pixels of the store."""
    tiles = len(store)
    for m in store.layout.stored:
        whole = tiles * (store.layout.size_px**2 if m.kind.is_raster else 1)
        for band, seen in _counts(store, m).items():
            if whole and seen < whole:
                yield Gap(modality=m.name, band=band, observed=seen / whole)


def _counts(store: Store, m: Modality) -> dict[str, int]:
    """Observed values of each band over the whole store; empty for masks without classes, which are not counted."""
    if m.kind.is_continuous:
        counts: Counter[str] = Counter()
        for bands in store.statistics["all"].get(m.name, {}).values():
            counts.update({band: int(figures["count"]) for band, figures in bands.items()})
        return {band: counts[band] for band in m.bands}
    if m.kind.is_multi_label:
        bit = np.uint32(store.layout.stored.index(m))
        return {m.name: int(np.count_nonzero(store.coords["valid"] >> bit & np.uint32(1)))}
    found = store.class_histograms["all"].get(m.name)
    if not found:
        return {}
    unit = "pixels" if m.kind.is_raster else "tiles"
    return {m.bands[0] if m.bands else m.name: sum(int(entry[unit]) for entry in found.values())}


def _radar_days(coords: Mapping[str, NDArray[Any]]) -> tuple[float, float] | None:
    days = np.abs(np.concatenate([coords["s1_asc_days"], coords["s1_desc_days"]]))
    days = days[np.isfinite(days)]
    return (float(np.median(days)), float(days.max())) if len(days) else None


def _tile_file(store: Store) -> TileFile:
    import pyarrow.parquet as pq

    objects = storage_at(store.path)
    with store.content.open_checked(TILES_KEY) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        stream.seek(0)
        schema = pq.ParquetFile(stream, pre_buffer=False).schema_arrow
    spatial = objects.size(SPATIAL_KEY) is not None
    return TileFile(schema=schema, size=objects.size(TILES_KEY) or 0, sha256=digest, spatial=spatial)
