"""Which year, level and scene a tile gets: draws that depend on the tile and the seed alone."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

_SPECIAL_YEARS = {2018: ("2018-01-01", "2018-12-01"), 2019: ("2018-12-01", "2020-01-01")}
"""MMEarth's windows: Level 2A covers the whole Earth from December 2018 on, which is why that month counts as 2019."""


def draw_bits(seed: int, tile_id: int, label: str) -> int:
    """64 random bits of a tile: blake2b keyed with the seed, over the tile's id and an ASCII label.

    Examples
    --------
    >>> draw_bits(0, 1, "year") == draw_bits(0, 1, "year") != draw_bits(1, 1, "year")
    True
    """
    key = int(seed).to_bytes(8, "little")
    data = int(tile_id).to_bytes(8, "little") + label.encode("ascii")
    return int.from_bytes(blake2b(data, digest_size=8, key=key).digest(), "big")


def draw(seed: int, tile_id: int, label: str, n: int) -> int:
    """One of 0 ... n - 1."""
    return (draw_bits(seed, tile_id, label) * n) >> 64


def year_window_ms(year: int) -> tuple[int, int]:
    """[start, end) of the scenes that count as a year's, UTC milliseconds since 1970."""
    start, end = _SPECIAL_YEARS.get(year, (f"{year}-01-01", f"{year + 1}-01-01"))
    return _milliseconds(start), _milliseconds(end)


def _milliseconds(date: str) -> int:
    return int(np.datetime64(date, "ms").astype(np.int64))
