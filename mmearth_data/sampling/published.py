"""Splits that came with a data set: a table that assigns sites or tiles to train, val and test, and selects them.

The table is CSV, Parquet or GeoParquet. A row names a site (column ``site``), a tile (``tile_id``, 16 hex digits or
decimal) or the tile that a point is in (``lon`` and ``lat``, degrees). A column ``split`` gives train, val (also valid,
validation, dev) or test, or 0, 1, 2. Without it the table only selects. What has no row is not built.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.errors import FileInputError
from mmearth_data.sampling.blocks import NO_SPLIT, SPLIT_NAMES, TEST, TRAIN, VAL
from mmearth_data.sampling.grouping import footprints
from mmearth_data.tile import format_tile_id
from mmearth_data.words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data.tile import TileGrid

SPLIT_WORDS = {"train": TRAIN, "training": TRAIN, "0": TRAIN, "test": TEST, "testing": TEST, "2": TEST} | dict.fromkeys(
    ("val", "valid", "validation", "dev", "1"), VAL
)
Row = tuple[int, dict[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnTiles:
    """Tiles that a source brings.

    Attributes
    ----------
    tile_id
        (n,) uint64.
    site
        Name of the site of each.
    grid
        Grid of each.
    """

    tile_id: NDArray[np.uint64]
    site: Sequence[str]
    grid: Sequence[TileGrid]

    def name(self, position: int) -> str:
        """Name a tile for people."""
        return f"{self.site[position]} (tile {format_tile_id(int(self.tile_id[position]))})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What a table says of the tiles of a source.

    Attributes
    ----------
    kept
        (k,) positions of the tiles that have a row, rising.
    split
        (k,) their splits, None where the table has no column for them.
    """

    kept: NDArray[np.intp]
    split: NDArray[np.uint8] | None


def read_published(path: Path, tiles: OwnTiles) -> Published:
    """Match a table with the tiles of a source.

    Raises
    ------
    FileInputError
        When it cannot be read, lacks columns, has a row of an unknown site or tile, two rows for one, or an unknown
        split; with the line.
    """
    columns, rows = _rows(path)
    _check_columns(path, columns)
    if not rows:
        raise FileInputError(path, "expected rows that name sites or tiles, got none; add the ones to build.")
    line_of: dict[int, int] = {}
    split = np.full(len(tiles.site), NO_SPLIT, dtype=np.uint8)
    for (line, row), found_at in zip(rows, _positions(path, rows, columns, tiles), strict=True):
        kind = _split_of(path, line, row["split"]) if "split" in columns else TRAIN
        for position in found_at:
            if line_of.setdefault(position, line) != line:
                twice = f"{tiles.name(position)} is in line {line_of[position]} too"
                raise FileInputError(path, f"expected every tile once, {twice}; keep one row.", line)
            split[position] = kind
    kept = np.array(sorted(line_of), dtype=np.intp)
    return Published(kept=kept, split=split[kept] if "split" in columns else None)


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    """Refuse a table that names neither sites nor tiles."""
    if not {"site", "tile_id"} & set(columns) and not {"lon", "lat"} <= set(columns):
        found = ", ".join(columns)[:200] or "none"
        raise FileInputError(
            path,
            f"expected a column site, tile_id, or lon and lat (and one for split), got the columns {found}; add one.",
            1,
        )


def _rows(path: Path) -> tuple[list[str], list[Row]]:
    """Names of the columns in lower case; rows with their 1-based lines, values as text without blanks around them."""
    if path.suffix.lower() in {".parquet", ".geoparquet"}:
        table = _parquet(path)
        names = [str(name) for name in table if name != "geometry"]
        values = table[names].itertuples(index=False)
        records = [dict(zip(names, map(str, row), strict=True)) for row in values]
        return [name.casefold() for name in names], [(k, _tidy(record)) for k, record in enumerate(records, 1)]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not in UTF-8"
        raise FileInputError(path, f"expected a table (CSV or GeoParquet) of sites, got none: {reason}.") from None
    header = text.partition("\n")[0]
    reader = csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=header.count))
    rows = []
    for record in reader:
        if None in record or None in record.values():
            problem = f"expected {len(reader.fieldnames or ())} values as in the first line; correct the row."
            raise FileInputError(path, problem, reader.line_num)
        if any(record.values()):
            rows.append((reader.line_num, _tidy(record)))
    return [name.strip().casefold() for name in reader.fieldnames or ()], rows


def _tidy(record: dict[str, str]) -> dict[str, str]:
    return {name.strip().casefold(): value.strip() for name, value in record.items()}


def _parquet(path: Path) -> Any:  # noqa: ANN401 - a data frame, whose library is loaded here only
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise FileInputError(path, f"expected a Parquet or GeoParquet table, could not read it: {reason}.") from None


def _positions(path: Path, rows: Sequence[Row], columns: Sequence[str], tiles: OwnTiles) -> Iterator[Sequence[int]]:
    """Positions of the tiles that each row names."""
    if "tile_id" in columns:
        of_id = {int(tile_id): [position] for position, tile_id in enumerate(tiles.tile_id)}
        for line, row in rows:
            yield _known(path, line, row["tile_id"], of_id.get(_tile_id(row["tile_id"])), map(format_tile_id, of_id))
    elif "site" in columns:
        of_site: dict[str, list[int]] = {}
        for position, site in enumerate(tiles.site):
            of_site.setdefault(site, []).append(position)
        for line, row in rows:
            yield _known(path, line, row["site"], of_site.get(row["site"]), of_site)
    else:
        yield from _containing(path, rows, tiles)


def _tile_id(text: str) -> int:
    try:
        return int(text, 16 if len(text) == 16 else 10)
    except ValueError:
        return -1


def _known(path: Path, line: int, name: str, found: list[int] | None, known: Any) -> list[int]:  # noqa: ANN401
    if found is None:
        names = list(known)
        some = did_you_mean(name, names if len(names) <= 20 else names[:20])
        raise FileInputError(path, f"expected a site or tile of the source, got {name!r}; {some}", line)
    return found


def _containing(path: Path, rows: Sequence[Row], tiles: OwnTiles) -> Iterator[Sequence[int]]:
    """Tile that each point is in; where tiles overlap, the one whose centre is nearest."""
    points = shapely.points([_degrees(path, line, row) for line, row in rows])
    squares = footprints(tiles.grid)
    centres = shapely.centroid(squares)
    inside: dict[int, list[int]] = {}
    for point, square in zip(*shapely.STRtree(squares).query(points, predicate="intersects").tolist(), strict=True):
        inside.setdefault(point, []).append(square)
    for number, (line, row) in enumerate(rows):
        if number not in inside:
            where = f"{row['lon']}, {row['lat']}"
            raise FileInputError(path, f"expected a point in a tile of the source, got {where}; remove the row.", line)
        yield [min(inside[number], key=lambda square: float(shapely.distance(points[number], centres[square])))]


def _degrees(path: Path, line: int, row: dict[str, str]) -> tuple[float, float]:
    try:
        lon, lat = float(row["lon"]), float(row["lat"])
    except ValueError:
        lon = lat = np.nan
    if not (abs(lon) <= 180 and abs(lat) <= 90):
        got = f"{row['lon']!r}, {row['lat']!r}"
        raise FileInputError(path, f"expected lon and lat in degrees, got {got}; correct the row.", line)
    return lon, lat


def _split_of(path: Path, line: int, text: str) -> int:
    kind = SPLIT_WORDS.get(text.lower())
    if kind is None:
        names = ", ".join(SPLIT_NAMES.values())
        raise FileInputError(path, f"expected a split ({names}), got {text!r}; correct or remove the row.", line)
    return kind
