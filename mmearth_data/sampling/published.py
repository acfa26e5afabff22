"""Published splits: a table that selects sites or tiles and assigns them to train, val and test.

The table is CSV, Parquet or GeoParquet. A row names a site (column ``site``), a tile (``tile_id``, 16 hex digits or
decimal) or the tile that a point is in (``lon`` and ``lat``, degrees). A column ``split`` gives train, val (also valid,
validation, dev) or test, or 0, 1, 2; without it, the table only selects. Tiles without a row are not built. Another
column can contain the date of each row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.catalog.tile import format_tile_id
from mmearth_data.errors import FileInputError
from mmearth_data.files.tables import read_table
from mmearth_data.sampling.blocks import NO_SPLIT, SPLIT_NAMES, TEST, TRAIN, VAL
from mmearth_data.sampling.dates import DATE_FORMS, day_ms
from mmearth_data.sampling.grouping import footprints
from mmearth_data.words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data.catalog.tile import TileGrid
    from mmearth_data.files.tables import Table

SPLIT_WORDS = {"train": TRAIN, "training": TRAIN, "0": TRAIN, "test": TEST, "testing": TEST, "2": TEST} | dict.fromkeys(
    ("val", "valid", "validation", "dev", "1"), VAL
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnTiles:
    """Tiles of a source."""

    tile_id: NDArray[np.uint64]
    site: Sequence[str]
    grid: Sequence[TileGrid]

    def name(self, position: int) -> str:
        """Name of a tile in messages."""
        return f"{self.site[position]} (tile {format_tile_id(int(self.tile_id[position]))})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Selection and splits of a source's tiles, from a table."""

    kept: NDArray[np.intp]
    """(k,) positions of the tiles that have a row, ascending."""
    split: NDArray[np.uint8] | None
    """(k,) their splits; None if the table has no such column."""
    lines: NDArray[np.int64]
    """(k,) line of each in the table."""
    date_ms: NDArray[np.int64] | None = None
    """(k,) start of their days, UTC milliseconds since 1970; None without a column of dates."""


def read_published(
    path: Path, tiles: OwnTiles, split_column: str | None = None, date_column: str | None = None
) -> Published:
    """Match a table with the tiles of a source.

    ``split_column`` and ``date_column`` are the columns of splits, by default ``split``, and of dates, if the table has one. Raises FileInputError if it cannot be read, lacks columns, or
    has a row of an unknown site or tile, two rows for one, an unknown split or no date; with the line.
    """
    table = _rows(path, split_column)
    _check_columns(table)
    days = None if date_column is None else _days_of(table, date_column)
    if not len(table):
        raise FileInputError(path, "expected rows that name sites or tiles, got none; add the ones to build.")
    line_of: dict[int, int] = {}
    split = np.full(len(tiles.site), NO_SPLIT, dtype=np.uint8)
    row_of = np.zeros(len(tiles.site), dtype=np.intp)
    for number, ((line, row), found_at) in enumerate(zip(table.rows(), _positions(table, tiles), strict=True)):
        kind = _split_of(path, line, row["split"]) if "split" in row else TRAIN
        for position in found_at:
            if line_of.setdefault(position, line) != line:
                twice = f"{tiles.name(position)} is also in line {line_of[position]}"
                raise FileInputError(path, f"expected every tile once, {twice}; keep one row.", line)
            split[position], row_of[position] = kind, number
    kept = np.array(sorted(line_of), dtype=np.intp)
    lines = np.array([line_of[position] for position in kept.tolist()], dtype=np.int64)
    splits = split[kept] if "split" in table.columns else None
    return Published(kept=kept, split=splits, lines=lines, date_ms=None if days is None else days[row_of[kept]])


def _days_of(table: Table, date: str) -> NDArray[np.int64]:
    """Start of the day of each row, UTC milliseconds since 1970; FileInputError with the line if one is not a date."""
    name = date.strip().casefold()
    if name not in table.columns:
        found = ", ".join(table.columns)[:200]
        hint = did_you_mean(name, table.columns)
        raise FileInputError(table.path, f"expected the column {date!r} (--date-column), got {found}; {hint}")
    days = np.empty(len(table), dtype=np.int64)
    for k, (line, value) in enumerate(zip(table.lines, table.columns[name], strict=True)):
        day = day_ms(value)
        if day is None:
            got = repr(value) if value else "none"
            raise FileInputError(
                table.path, f"expected a date such as {DATE_FORMS} in {date}, got {got}; correct it.", line
            )
        days[k] = day
    return days


def _check_columns(table: Table) -> None:
    """Refuse a table that names neither sites nor tiles."""
    if not {"site", "tile_id"} & set(table.columns) and not {"lon", "lat"} <= set(table.columns):
        found = ", ".join(table.columns)[:200] or "none"
        problem = (
            f"expected a column site, tile_id, or lon and lat (and one for split), got the columns {found}; add one."
        )
        raise FileInputError(table.path, problem, table.header_line)


def _rows(path: Path, split_column: str | None) -> Table:
    """Read the table: column names in lower case, values as text without blanks around them.

    The column of splits, if it is given, is renamed to ``split``.
    """
    table = read_table(path)
    if split_column is not None:
        table.require([split_column])
        given = {name: table.columns[name] for name in table.columns if name.strip().casefold() != "split"}
        table = replace(table, columns={**given, "split": table.columns[split_column]})
    columns = {
        name.strip().casefold(): ["" if value is None else str(value).strip() for value in table.columns[name]]
        for name in table.columns
        if name != "geometry"
    }
    return replace(table, columns=columns)


def _positions(table: Table, tiles: OwnTiles) -> Iterator[Sequence[int]]:
    if "tile_id" in table.columns:
        of_id = {int(tile_id): [position] for position, tile_id in enumerate(tiles.tile_id)}
        for line, tile_id in zip(table.lines, table.tile_ids("tile_id").tolist(), strict=True):
            yield _known(table.path, line, format_tile_id(tile_id), of_id.get(tile_id), map(format_tile_id, of_id))
    elif "site" in table.columns:
        of_site: dict[str, list[int]] = {}
        for position, site in enumerate(tiles.site):
            of_site.setdefault(site, []).append(position)
        for line, site in zip(table.lines, table.columns["site"], strict=True):
            yield _known(table.path, line, site, of_site.get(site), of_site)
    else:
        yield from _containing(table, tiles)


def _known(path: Path, line: int, name: str, found: list[int] | None, known: Any) -> list[int]:  # noqa: ANN401
    if found is None:
        names = list(known)
        some = did_you_mean(name, names if len(names) <= 20 else names[:20])
        raise FileInputError(path, f"expected a site or tile of the source, got {name!r}; {some}", line)
    return found


def _containing(table: Table, tiles: OwnTiles) -> Iterator[Sequence[int]]:
    """Tile that contains each point; of overlapping tiles, the one with the nearest centre."""
    points = list(map(shapely.Point, _degrees(table)))
    squares = footprints(tiles.grid)
    centres = shapely.centroid(squares)
    inside: dict[int, list[int]] = {}
    for point, square in zip(*shapely.STRtree(squares).query(points, predicate="intersects").tolist(), strict=True):
        inside.setdefault(point, []).append(square)
    for number, (line, row) in enumerate(table.rows()):
        if number not in inside:
            got = f"{row['lon']}, {row['lat']}"
            problem = f"expected a point in a tile of the source, got {got}; remove the row."
            raise FileInputError(table.path, problem, line)
        yield [min(inside[number], key=lambda square: float(shapely.distance(points[number], centres[square])))]


def _degrees(table: Table) -> NDArray[np.float64]:
    points = np.stack([table.numbers("lon"), table.numbers("lat")], axis=1)
    wrong = np.flatnonzero(~(np.abs(points) <= (180, 90)).all(axis=1))
    if wrong.size:
        got = ", ".join(repr(table.columns[name][wrong[0]]) for name in ("lon", "lat"))
        problem = f"expected lon and lat in degrees, got {got}; correct the row."
        raise FileInputError(table.path, problem, table.lines[wrong[0]])
    return points


def _split_of(path: Path, line: int, text: str) -> int:
    kind = SPLIT_WORDS.get(text.lower())
    if kind is None:
        names = ", ".join(SPLIT_NAMES.values())
        raise FileInputError(path, f"expected a split ({names}), got {text!r}; correct or remove the row.", line)
    return kind
