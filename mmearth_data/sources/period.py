"""Period of the scenes of a cover."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Period:
    """Period of the scenes of a cover; each tile has the least cloudy scene in it."""

    first: date
    last: date
    """First and last day, UTC."""

    @property
    def window_ms(self) -> tuple[int, int]:
        """[start, end) of the scenes, UTC milliseconds since 1970."""
        return _milliseconds(self.first), _milliseconds(self.last + timedelta(days=1))

    @property
    def middle_ms(self) -> int:
        """Middle of the period; among equally cloudy scenes, the nearest one is used."""
        return sum(self.window_ms) // 2

    @property
    def years(self) -> tuple[int, ...]:
        """Calendar years with a day of the period."""
        return tuple(range(self.first.year, self.last.year + 1))

    @property
    def years_ms(self) -> tuple[int, int]:
        """[start, end) of these years, from which scenes of other collections are taken."""
        return _milliseconds(date(self.first.year, 1, 1)), _milliseconds(date(self.last.year + 1, 1, 1))

    def identity(self) -> list[str]:
        """JSON-ready form."""
        return [self.first.isoformat(), self.last.isoformat()]

    def words(self) -> str:
        """Period as text, for messages."""
        return f"from {self.first} to {self.last}"


def _milliseconds(day: date) -> int:
    return int(np.datetime64(day, "ms").astype(np.int64))
