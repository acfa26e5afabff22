"""Random choice of the year, level and scene of a tile, which depends only on the tile and the seed."""

from __future__ import annotations

from datetime import UTC, date, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPECIAL_YEARS = {2018: ("2018-01-01", "2018-12-01"), 2019: ("2018-12-01", "2020-01-01")}
"""MMEarth's years: December 2018, the first month in which Level 2A covers the whole Earth, counts as 2019."""


FIRST_DAYS = {"L1C": date(2015, 6, 27), "L2A": date(2017, 3, 28)}
"""First days of the collections of each level (Earth Engine data catalog: COPERNICUS/S2_HARMONIZED,
COPERNICUS/S2_SR_HARMONIZED); the synthetic planet's scenes begin in the same years."""


def check_years(years: Sequence[int], levels: Sequence[str], source: str, given: str = "years (--years)") -> None:
    """Refuse years in which a source has no scenes of any of the levels: InputError with the years that it has.

    ``given`` is the field with the years.
    """
    first, last = min(FIRST_DAYS[level] for level in levels).year, datetime.now(UTC).year
    wrong = [year for year in years if not first <= year <= last]
    if wrong:
        raise InputError(
            f"{given}: expected years from {first} to {last}, for which {source} has Sentinel-2 scenes of level "
            f"{' or '.join(levels)}, got {', '.join(map(str, wrong))}; leave out the other years."
        )


def draw_bits(seed: int, tile_id: int, label: str) -> int:
    """64 pseudorandom bits of a tile: blake2b keyed with the seed, of the tile's id and an ASCII label.

    Examples
    --------
    >>> draw_bits(0, 1, "year") == draw_bits(0, 1, "year") != draw_bits(1, 1, "year")
    True
    """
    key = int(seed).to_bytes(8, "little")
    data = int(tile_id).to_bytes(8, "little") + label.encode("ascii")
    return int.from_bytes(blake2b(data, digest_size=8, key=key).digest(), "big")


def draw(seed: int, tile_id: int, label: str, n: int) -> int:
    """Pseudorandom integer from 0 to n - 1 for a tile and a label."""
    return (draw_bits(seed, tile_id, label) * n) >> 64


def year_window_ms(year: int) -> tuple[int, int]:
    """[start, end) of the scenes that count as a year, UTC milliseconds since 1970."""
    start, end = _SPECIAL_YEARS.get(year, (f"{year}-01-01", f"{year + 1}-01-01"))
    return _milliseconds(start), _milliseconds(end)


def _milliseconds(day: str) -> int:
    return int(np.datetime64(day, "ms").astype(np.int64))
