"""Locations given by the user: checked, labelled, split and sorted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import MAX_LAT, MIN_LAT, WGS84, format_tile_id, round_lonlat, tile_ids
from mmearth_data.errors import FileInputError, InputError
from mmearth_data.geography.ecoregions import NO_BIOME, NO_ECO_REGION, label_points
from mmearth_data.sampling.blocks import NO_SPLIT, SPLIT_NAMES
from mmearth_data.sampling.dates import DATE_FORMS, day_ms
from mmearth_data.sampling.grouping import groups_of_points, split_at_random, split_by_blocks
from mmearth_data.sampling.options import Sample, SampleReport, SamplingOptions, sample_frame
from mmearth_data.sampling.quotas import split_totals
from mmearth_data.sampling.spacing import Placed, Spacing
from mmearth_data.words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import geopandas as gpd
    import pandas as pd
    from numpy.typing import NDArray

    from mmearth_data.geography.equal_area import Floats, Ints

LON_NAMES = ("lon", "longitude", "lng", "long")
LAT_NAMES = ("lat", "latitude")
USUAL_SPLIT = "split"
"""Default name of the column with the splits."""
SHOWN = 3
"""Maximum number of rows in a message."""


@dataclass(frozen=True, slots=True)
class PlaceColumns:
    """Names of the columns of a table that have splits and dates.

    Attributes
    ----------
    split
        None: ``split``, if the table has it.
    date
        Dates of the locations; None: they have none.
    keeps_sea
        Keep locations outside all ecoregions, without a biome, so that the source rejects them; otherwise they are
        refused.
    second_split
        Options that ask for splits of another kind, which a table with splits refuses.
    """

    split: str | None = None
    date: str | None = None
    keeps_sea: bool = False
    second_split: tuple[str, ...] = ()

    def split_in(self, table: pd.DataFrame) -> str | None:
        """Name of the column of splits, if the table has one or must have it."""
        return USUAL_SPLIT if self.split is None and USUAL_SPLIT in table.columns else self.split

    def refuse_second_split(self, path: Path, column: str) -> None:
        """Raise InputError if an option asks for other splits than those of the table."""
        if self.second_split:
            raise InputError(
                f"{self.second_split[0]}: expected none with {path}, whose column {column} is kept; leave it out, or remove "
                "the column."
            )


def sample_of_places(
    path: Path,
    table: pd.DataFrame,
    ecoregions: gpd.GeoDataFrame | None,
    options: SamplingOptions,
    names: PlaceColumns = PlaceColumns(),
) -> Sample:
    """Make a sample of given locations: all primaries, no reserves.

    ``table`` has one row per location (see `mmearth_data.sampling.files.read_sample`), and row numbers in its index;
    ``path``, its file, is for messages. ``ecoregions`` label locations without labels. Dates become the column ``date_ms``
    of the sample.

    Raises FileInputError for missing columns, and locations that occur twice (on the same day, if they have dates), are
    outside the UTM zones or in no ecoregion.
    """
    if not len(table):
        raise FileInputError(path, "expected locations, got a table without rows; add some.")
    lon, lat = coordinates_of(path, table)
    dates = None if names.date is None else days_of(path, table, names.date)
    check_unique(path, tile_ids(lon, lat, options.size_px), dates, table.index.tolist())
    biome, eco_region = _labels(path, table, ecoregions, lon, lat, refuse_sea=not names.keeps_sea)
    split, width = _splits(path, table, names, lon, lat, options)
    shuffled = np.random.default_rng(options.seed).permutation(len(lon))
    if dates is not None:
        shuffled = _by_location(shuffled, lon, lat, options.size_px)
    order = shuffled[np.argsort(split[shuffled], kind="stable")]
    columns: list[NDArray[Any]] = [lon, lat, biome, eco_region, split]
    frame = sample_frame(options.size_px, len(order), *(column[order] for column in columns))
    if dates is not None:
        frame["date_ms"] = dates[order]
    return Sample(frame, report_of_places(path.name, frame, options, width))


def _by_location(order: NDArray[np.intp], lon: Floats, lat: Floats, size_px: int) -> NDArray[np.intp]:
    """Order of rows in which those of a location follow its first row, so that a source surveys them together."""
    _, first, location = np.unique(tile_ids(lon, lat, size_px)[order], return_index=True, return_inverse=True)
    return order[np.argsort(first[location], kind="stable")]


def column_of(path: Path, table: pd.DataFrame, name: str, option: str) -> pd.Series[Any]:
    """Column of a table that an option names; FileInputError with the closest name if there is none."""
    if name not in table.columns:
        found = [str(column) for column in table.columns]
        meant = did_you_mean(name, found)
        raise FileInputError(path, f"expected the column {name!r} ({option}), got {', '.join(found)}; {meant}")
    return table[name]


def days_of(path: Path, table: pd.DataFrame, name: str) -> NDArray[np.int64]:
    """Start of the day of each row, UTC milliseconds since 1970 (n,), from dates or times (`day_ms` has the forms).

    Raises FileInputError for rows without a date, or with one in another form.
    """
    column = column_of(path, table, name, "--date-column")
    days = [day_ms(value) for value in column]
    rows = [row for row, day in enumerate(days) if day is None]
    if rows:
        shown = "; ".join(f"row {column.index[row]}: {_text_of(column.iloc[row])}" for row in rows[:SHOWN])
        raise FileInputError(
            path,
            f"expected dates such as {DATE_FORMS} in {name}, {len(rows)} of {len(column)} are not ({shown}); "
            "correct them.",
        )
    return np.array(days, dtype=np.int64)


def _text_of(value: object) -> str:
    """Value of a table for a message."""
    import pandas as pd

    return "empty" if pd.isna(value) else repr(str(value))  # type: ignore[call-overload]


def report_of_places(
    name: str, frame: pd.DataFrame, options: SamplingOptions | None = None, width_m: float | None = None
) -> SampleReport:
    """Report on locations without a sampling run."""
    close, asked = 0, dict[str, Any]()
    if options is not None:
        asked = {key: getattr(options, key) for key in ("size_px", "seed", "split")}
        close = _overlapping(frame, options.size_px)
    return SampleReport.of(
        frame,
        frame["biome"],
        region=name,
        reserves_wanted=int(frame["slot"].isna().sum()),
        area_km2=0.0,
        options=asked,
        cell_width_m=width_m,
        cells={},
        guard_m=0.0,
        notes=[f"{close} of {len(frame)} tiles overlap another one."] if close else [],
    )


def _overlapping(frame: pd.DataFrame, size_px: int) -> int:
    lon, lat = frame["lon"].to_numpy(np.float64), frame["lat"].to_numpy(np.float64)
    return int((~Placed(Spacing(size_px)).choose(lon, lat)).sum())


def check_unique(
    path: Path, tile_id: NDArray[np.uint64], days: NDArray[np.int64] | None = None, rows: Sequence[int] | None = None
) -> None:
    """Refuse locations that occur twice, on the same day if they have dates: FileInputError with the first id and its rows.

    ``rows`` are the numbers of the rows in the file; by default they are counted from 1.
    """
    numbers = range(1, len(tile_id) + 1) if rows is None else rows
    keys = tile_id[:, None] if days is None else np.stack([tile_id, days.view(np.uint64)], axis=1)
    ids, inverse, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    twice = np.flatnonzero(counts > 1)
    if len(twice):
        first, group = twice[0], inverse.reshape(-1)
        where = ", ".join(str(numbers[row]) for row in np.flatnonzero(group == first)[:SHOWN])
        once = "every location once" if days is None else "every location once per date"
        raise FileInputError(
            path,
            f"expected {once}, got {len(twice)} of {len(ids)} ids more than once, first "
            f"{format_tile_id(int(ids[first][0]))} in rows {where}; remove the copies, or merge them.",
        )


def coordinates_of(path: Path, table: pd.DataFrame) -> tuple[Floats, Floats]:
    """Longitudes and latitudes, rounded to 1e-6 degree and checked."""
    import geopandas as gpd
    import pandas as pd

    columns = {str(name).casefold(): name for name in table.columns}
    lon_name = next((columns[name] for name in LON_NAMES if name in columns), None)
    lat_name = next((columns[name] for name in LAT_NAMES if name in columns), None)
    if lon_name is not None and lat_name is not None:
        lon = pd.to_numeric(table[lon_name], errors="coerce").to_numpy(np.float64)
        lat = pd.to_numeric(table[lat_name], errors="coerce").to_numpy(np.float64)
    elif isinstance(table, gpd.GeoDataFrame) and bool((table.geom_type == "Point").all()):
        points = table.geometry if table.crs is None else table.to_crs(WGS84).geometry
        lon, lat = points.x.to_numpy(np.float64), points.y.to_numpy(np.float64)
    else:
        found = ", ".join(str(name) for name in table.columns)
        raise FileInputError(path, f"expected columns lon and lat in degrees, or points; got the columns {found}.")
    lon, lat = round_lonlat(lon), round_lonlat(lat)
    given = _Given(path, table.index.tolist(), lon, lat)
    given.refuse(~((np.abs(lon) <= 180) & (np.abs(lat) <= 90)), "have no longitude and latitude in range")
    given.refuse((lat < MIN_LAT) | (lat > MAX_LAT), "are beyond 84 N or 80 S, where UTM ends")
    return lon, lat


@dataclass(frozen=True, slots=True)
class _Given:
    """Locations of a file, and their row numbers, for messages."""

    path: Path
    rows: Sequence[int]
    lon: Floats
    lat: Floats

    def refuse(self, bad: NDArray[np.bool_], what: str) -> None:
        wrong = np.flatnonzero(bad)
        if len(wrong):
            shown = "; ".join(f"row {self.rows[k]}: {self.lon[k]:g}, {self.lat[k]:g}" for k in wrong[:SHOWN])
            problem = f"{len(wrong)} of {len(bad)} locations {what} ({shown}); correct or remove them."
            raise FileInputError(self.path, problem)


def _labels(
    path: Path,
    table: pd.DataFrame,
    ecoregions: gpd.GeoDataFrame | None,
    lon: Floats,
    lat: Floats,
    *,
    refuse_sea: bool,
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    given = _Given(path, table.index.tolist(), lon, lat)
    if "biome" in table.columns and "eco_region" in table.columns:
        biome, eco_region = (table[name].to_numpy() for name in ("biome", "eco_region"))
        if all(np.issubdtype(column.dtype, np.integer) for column in (biome, eco_region)):
            outside = (biome < 0) | (biome > NO_BIOME) | (eco_region < 0) | (eco_region > NO_ECO_REGION)
            given.refuse(outside, f"have a biome above {NO_BIOME} or an eco_region above {NO_ECO_REGION}")
            return biome.astype(np.uint8), eco_region.astype(np.uint16)
    if ecoregions is None:
        raise FileInputError(path, "has no columns biome and eco_region; give --ecoregions FILE to look them up.")
    found, eco = label_points(ecoregions, lon, lat)
    sea = found == NO_BIOME
    if refuse_sea or sea.all():
        given.refuse(sea, "are in no ecoregion (sea, ice or outside the ecoregion file)")
    return found, eco


def _splits(
    path: Path, table: pd.DataFrame, names: PlaceColumns, lon: Floats, lat: Floats, options: SamplingOptions
) -> tuple[NDArray[np.uint8], float | None]:
    """Split of each location, and the width of the blocks that determined it."""
    name = names.split_in(table)
    if name is not None:
        column = column_of(path, table, name, "--split-column")
        names.refuse_second_split(path, name)
        return given_splits(path, column), None
    groups = groups_of_points(lon, lat, options.size_px)
    if options.split == "random":
        totals = split_totals(len(lon), options.split_shares)
        order = np.argsort(np.random.default_rng([options.seed, 1]).permutation(len(lon)))
        return split_at_random(order, groups, totals), None
    return split_by_blocks(lon, lat, groups, options.split_shares, options.seed)


def given_splits(path: Path, column: pd.Series[Any]) -> NDArray[np.uint8]:
    """Return the splits of a column of names (train, val, test) or codes (0, 1, 2); FileInputError with the row of another value."""
    codes: dict[str, int] = {name: code for code, name in SPLIT_NAMES.items()}
    codes |= {str(code): code for code in SPLIT_NAMES}
    split = np.array([codes.get(str(value).strip().lower(), NO_SPLIT) for value in column], dtype=np.uint8)
    bad: Ints = np.flatnonzero(split == NO_SPLIT)
    if len(bad):
        value = column.iloc[int(bad[0])]
        raise FileInputError(
            path,
            f"expected splits train, val, test or 0, 1, 2; got {value!r} in row {column.index[bad[0]]}, and {len(bad)} "
            "such rows in all; correct them.",
        )
    return split
