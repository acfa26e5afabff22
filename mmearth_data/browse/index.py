"""Properties of each tile for the page, as one compact array per quantity."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import NO_TIME, format_tile_id, parse_tile_id
from mmearth_data.errors import InputError
from mmearth_data.inspection.maps import coloured_label
from mmearth_data.store.schema import SPLIT_NONE
from mmearth_data.store.selection import distinct_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store import Store

EARTH_RADIUS_M = 6_378_137.0
"""Of the sphere of Web Mercator, EPSG:3857."""
MAX_LATITUDE = 85.051129
"""Maximum latitude of Web Mercator; latitudes beyond it are clipped."""
MS_PER_DAY = 86_400_000
NO_DAY = int(np.iinfo(np.int32).min)
NO_LABEL = 255
LATITUDE_STEP_DEG = 5
MOST_BARS = 60
"""Bars of the histogram of dates, which are months, quarters or years of the scenes."""
MONTHS_PER_BAR = (1, 3, 12, 60, 120)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Bars of a histogram, and the bar of each tile."""

    edges: NDArray[np.floating[Any]]
    """(k + 1,) ascending."""
    names: tuple[str, ...]
    """(k,) text of each bar."""
    of_tile: NDArray[np.uint8]
    """(n,) number of each tile's bar; k if it is in none."""

    def counts(self, mask: NDArray[np.bool_]) -> NDArray[np.intp]:
        """(k,) tiles of a mask (n,) in each bar."""
        found: NDArray[np.intp] = np.bincount(self.of_tile[mask], minlength=len(self.names) + 1)
        return found[: len(self.names)]


@dataclass(frozen=True, kw_only=True)
class TileIndex:
    """Quantities of all tiles of a store, n in number, in the order of its rows."""

    rows: NDArray[np.intp]
    """(n,) store rows."""
    tile_id: NDArray[np.uint64]
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    """Degrees."""
    time_ms: NDArray[np.int64] = field(repr=False)
    """Milliseconds since 1970, `NO_TIME` if unknown."""
    split: NDArray[np.uint8]
    level: NDArray[np.uint8]
    valid: NDArray[np.uint32]
    """Bit k is set if the k-th stored modality has an observed value."""
    label: NDArray[np.uint8]
    """Code of the class by which tiles are filtered and coloured, `NO_LABEL` if none."""
    label_of: Modality | None
    """Modality of that class, None if the store has none with few enough classes."""
    stored: tuple[str, ...]
    """Names of the stored modalities, in the order of the bits."""

    @classmethod
    def of(cls, store: Store) -> TileIndex:
        """Read the 1-D arrays of a store, or of the committed part of an unfinished one.

        Raises
        ------
        StoreDamaged
            If one of the arrays does not match the records of the store.
        """
        column = store.content.column
        rows = store.rows
        label_of = coloured_label(store.modalities.values())
        label = np.full(len(rows), NO_LABEL, dtype=np.uint8)
        if label_of is not None:
            codes = column(label_of.name)[rows]
            label = np.where(label_of.observed(codes), codes, NO_LABEL).astype(np.uint8)
        return cls(
            rows=rows,
            tile_id=column("tile_id")[rows],
            lon=column("lon")[rows],
            lat=column("lat")[rows],
            time_ms=column("time")[rows],
            split=column("split")[rows],
            level=column("s2_level")[rows],
            valid=column("valid")[rows],
            label=label,
            label_of=label_of,
            stored=tuple(m.name for m in store.layout.stored),
        )

    def __len__(self) -> int:
        return len(self.rows)

    # ------------------------------------------------------------ derived arrays

    @cached_property
    def x(self) -> NDArray[np.float32]:
        """(n,) metres east in Web Mercator; float32 is exact to two metres."""
        return np.asarray(mercator_x(self.lon), dtype=np.float32)

    @cached_property
    def y(self) -> NDArray[np.float32]:
        """(n,) metres north in Web Mercator."""
        return np.asarray(mercator_y(self.lat), dtype=np.float32)

    @cached_property
    def day(self) -> NDArray[np.int32]:
        """(n,) UTC days since 1970, `NO_DAY` if unknown."""
        return np.where(self.time_ms == NO_TIME, NO_DAY, self.time_ms // MS_PER_DAY).astype(np.int32)

    @cached_property
    def observed(self) -> NDArray[np.uint8]:
        """(n,) number of stored modalities with an observed value."""
        return np.bitwise_count(self.valid)

    @cached_property
    def combinations(self) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
        """Values of `valid` that occur, and (n,) which of them each tile has."""
        values, of_tile = np.unique(self.valid, return_inverse=True)
        return values, of_tile

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """(n,) positions by ascending tile id, and by time for tiles with the same id."""
        return np.lexsort((self.time_ms, self.tile_id))

    @cached_property
    def period(self) -> tuple[int, int] | None:
        """First and last day with a scene; None if no day is known."""
        known = self.day[self.day != NO_DAY]
        return (int(known.min()), int(known.max())) if len(known) else None

    @cached_property
    def ids_are_unique(self) -> bool:
        """False if a location occurs with several dates."""
        ids = self.tile_id[self.order]
        return not bool((ids[1:] == ids[:-1]).any())

    def with_id(self, tile_id: int) -> NDArray[np.intp]:
        """Positions of the tiles with an id, by time."""
        wanted = np.uint64(tile_id)
        first, last = (np.searchsorted(self.tile_id, wanted, side, sorter=self.order) for side in ("left", "right"))
        return self.order[int(first) : int(last)]

    def name(self, position: int) -> str:
        """Id of a tile as shown on the page; tiles with the same id are numbered by time, from ``ID.1``."""
        same = self.with_id(int(self.tile_id[position]))
        number = f".{int(np.flatnonzero(same == position)[0]) + 1}" if len(same) > 1 else ""
        return f"{format_tile_id(int(self.tile_id[position]))}{number}"

    def matching(self, tile_ids: NDArray[np.uint64], time_ms: NDArray[np.int64]) -> NDArray[np.intp]:
        """(m,) position of the tile with each id and time, -1 if there is none."""
        known = {key: at for at, key in enumerate(zip(self.tile_id.tolist(), self.time_ms.tolist(), strict=True))}
        found = [known.get(key, -1) for key in zip(tile_ids.tolist(), time_ms.tolist(), strict=True)]
        return np.array(found, dtype=np.intp)

    def positions(self, tile_ids: NDArray[np.uint64]) -> NDArray[np.intp]:
        """(m,) position of the tile with each id, -1 if there is none; the earliest if several tiles have the same id."""
        if not len(self):
            return np.full(len(tile_ids), -1, dtype=np.intp)
        at = np.searchsorted(self.tile_id, tile_ids, sorter=self.order)
        found = self.order[np.minimum(at, len(self) - 1)]
        return np.where(self.tile_id[found] == tile_ids, found, -1)

    def position(self, text: str) -> int:
        """Position of a tile id of 16 hex digits, or of one of several tiles with an id (see `name`).

        Raises
        ------
        InputError
            If the text is not an id, or there is no such tile.
        """
        identity, dot, number = text.strip().partition(".")
        found = self.with_id(parse_tile_id(identity))
        at = int(number) if number.isascii() and number.isdigit() else 0 if dot else 1
        if not 1 <= at <= len(found):
            raise InputError(f"Expected the id of a tile of this store, got {text.strip()}; copy one from ids.txt.")
        return int(found[at - 1])

    # ------------------------------------------------------------ histograms

    @cached_property
    def date_bars(self) -> Bars:
        """Months, quarters or years of the scenes; edges in milliseconds since 1970."""
        first, last = self.period or (0, 0)
        begin, end = (int(np.datetime64(day, "D").astype("datetime64[M]").astype(int)) for day in (first, last))
        step = next((m for m in MONTHS_PER_BAR if end // m - begin // m < MOST_BARS), MONTHS_PER_BAR[-1])
        months = np.arange(begin // step, end // step + 2) * step
        starts = months.astype("datetime64[M]")
        days = starts.astype("datetime64[D]").astype(np.int64)
        bar = np.searchsorted(days, self.day, side="right") - 1
        names = tuple(_period_name(int(month), step) for month in months[:-1])
        return Bars(
            edges=days * float(MS_PER_DAY), names=names, of_tile=np.where(bar < 0, len(names), bar).astype(np.uint8)
        )

    @cached_property
    def latitude_bars(self) -> Bars:
        """Bands of latitude; edges in degrees."""
        edges = np.arange(-90, 90 + LATITUDE_STEP_DEG, LATITUDE_STEP_DEG, dtype=np.float64)
        unknown = float(len(edges) - 1)
        band = np.clip((self.lat + 90) // LATITUDE_STEP_DEG, 0, unknown - 1)
        bar = np.where(np.isnan(band), unknown, band).astype(np.uint8)
        names = tuple(f"{_latitude(south)} to {_latitude(north)}" for south, north in itertools.pairwise(edges))
        return Bars(edges=edges, names=names, of_tile=bar)

    @cached_property
    def share_bars(self) -> Bars:
        """Number of observed modalities, from none to all."""
        count = len(self.stored)
        names = tuple(f"{number} of {count}" for number in range(count + 1))
        return Bars(edges=np.arange(count + 2) - 0.5, names=names, of_tile=self.observed)

    @cached_property
    def label_bars(self) -> Bars:
        """Classes in the order of their modality; tiles without one come last."""
        classes = () if self.label_of is None else self.label_of.classes
        bar_of_code = np.full(256, len(classes), dtype=np.uint8)
        for number, label in enumerate(classes):
            bar_of_code[label.code] = number
        names = (*distinct_names({label.code: label.name for label in classes}).values(), "not labelled")
        return Bars(edges=np.arange(len(names) + 1) - 0.5, names=names, of_tile=bar_of_code[self.label])


def mercator_x(lon: NDArray[np.float64] | float) -> Any:  # noqa: ANN401 - an array, or a number
    """Metres east of Greenwich in Web Mercator."""
    return np.radians(lon) * EARTH_RADIUS_M


def mercator_y(lat: NDArray[np.float64] | float) -> Any:  # noqa: ANN401 - an array, or a number
    """Metres north of the equator in Web Mercator."""
    return np.arctanh(np.sin(np.radians(np.clip(lat, -MAX_LATITUDE, MAX_LATITUDE)))) * EARTH_RADIUS_M


def split_codes(index: TileIndex) -> list[int]:
    """Codes of the splits that have tiles, tiles without a split last."""
    return sorted(set(np.unique(index.split).tolist()), key=lambda code: (code == SPLIT_NONE, code))


def _period_name(month: int, months: int) -> str:
    """Name of a period that begins with a month, counted from January 1970."""
    year = 1970 + month // 12
    if months == 1:
        return f"{year}-{month % 12 + 1:02d}"
    if months == 3:
        return f"{year}, quarter {month % 12 // 3 + 1}"
    return str(year) if months == 12 else f"{year} to {year + months // 12 - 1}"


def _latitude(degrees: float) -> str:
    return f"{abs(degrees):.0f}°{'' if degrees == 0 else ' N' if degrees > 0 else ' S'}"
