"""Scenes nearest to the dates of locations: the rule for every source.

Locations of a table may have dates, those of its labels. Among the scenes from N days before the date to N days after
it (``--days``; whole UTC days, the last one included) that fulfil the other conditions (cloud cover, one of the levels,
a footprint that contains the tile), a tile has

1. the scene on the nearest day, counted in whole days: 0 for any scene on the day itself;
2. of several, the one of the level that is listed first: with ``L2A,L1C`` an acquisition is used at Level 2A if it exists
   at this level, but never instead of a nearer acquisition;
3. of several, the least cloudy one;
4. of several, the earliest one;
5. of several, the first one by ``system:index``.

Sentinel-1 is the pass nearest to this scene in time, up to a year before or after the window. Other modalities follow the
time of the scene, as in any build.

Several dates of one location can have the same nearest scene, but a store has each scene of a location once. It is
assigned to the date nearest to it, and to the earlier one in a tie; the other rows are rejected. It is enough to
compare neighbouring dates, since the dates that share a scene are consecutive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.errors import TileUnavailable
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.sources.draws import FIRST_DAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mmearth_data.catalog.tile import Place

DAY_MS = 86_400_000
YEAR_MS = 366 * DAY_MS
NO_SCENE, OUTSIDE_ARCHIVE, SAME_SCENE = "no_scene", "date_outside_archive", "same_scene"
"""Reasons for rejecting a location with a date."""


def days_from(time_ms: int, date_ms: int) -> int:
    """Whole UTC days from a date to a time, negative if the time is before the date; 0 on the same day."""
    return (time_ms - date_ms) // DAY_MS


def day_text(time_ms: int) -> str:
    """UTC day of a time, such as ``2020-05-31``."""
    return str(np.datetime64(time_ms, "ms").astype("datetime64[D]"))


@dataclass(frozen=True, kw_only=True, slots=True)
class NearDates:
    """Choice of scenes by the dates of their locations; all methods expect locations with dates, unless they say so."""

    days: int
    """Maximum number of days between date and scene."""

    def window_ms(self, place: Place) -> tuple[int, int]:
        """[start, end) of the eligible scenes, UTC milliseconds since 1970."""
        date_ms = date_of(place)
        return date_ms - self.days * DAY_MS, date_ms + (self.days + 1) * DAY_MS

    def years_ms(self, place: Place) -> tuple[int, int]:
        """[start, end) of scenes of other collections: a year more on both sides."""
        start, end = self.window_ms(place)
        return start - YEAR_MS, end + YEAR_MS

    def words(self, place: Place) -> str:
        """Days searched, as text for messages."""
        unit = "day" if self.days == 1 else "days"
        near = f"within {self.days} {unit} of" if self.days else "on"
        return f"{near} {day_text(date_of(place))}"

    def require_archive(self, place: Place, levels: Sequence[str]) -> None:
        """Reject a date near which no scene of the levels exists.

        Raises
        ------
        TileUnavailable
            ``date_outside_archive``: all scenes are after its window, or the window is in the future.
        """
        start, end = self.window_ms(place)
        first = min(FIRST_DAYS[level] for level in levels)
        now = round(datetime.now(UTC).timestamp() * 1000)
        if end <= int(np.datetime64(first, "ms").astype(np.int64)) or start > now:
            names = " or ".join(levels)
            raise TileUnavailable(
                OUTSIDE_ARCHIVE, f"Sentinel-2 {names} scenes exist from {first} to today, none {self.words(place)}"
            )

    def no_scene(self, place: Place, levels: Sequence[str], cloud_percent: float) -> TileUnavailable:
        """Rejection of a location without a scene near its date."""
        names, near = " or ".join(levels), self.words(place)
        return TileUnavailable(
            NO_SCENE, f"no Sentinel-2 {names} scene {near} with less than {cloud_percent:g} % clouds"
        )

    def survey(
        self, places: Sequence[Place], ask: Callable[[Sequence[Place]], list[Survey | Rejection]]
    ) -> list[Survey | Rejection]:
        """Survey locations, and reject those whose scene is assigned to another date of the same location.

        Parameters
        ----------
        places
            Locations; those without a date are surveyed as they are.
        ask
            Surveys locations without regard to other dates.

        Returns
        -------
        list
            One answer per location, in order. Facts of surveys have the date, and the days from it to the scene.
        """
        answers = ask([*places, *self._rivals(places)])
        times = {
            (found.place.tile_id, found.place.date_ms): found.time_ms for found in answers if isinstance(found, Survey)
        }
        return [self._settled(answer, times) for answer in answers[: len(places)]]

    def _rivals(self, places: Sequence[Place]) -> list[Place]:
        """Other dates of the locations that may share a scene with them and are not surveyed already."""
        known = {(place.tile_id, place.date_ms) for place in places}
        found: dict[tuple[int, int | None], Place] = {}
        for place in places:
            for date_ms in self._near_dates(place):
                if (place.tile_id, date_ms) not in known:
                    found[place.tile_id, date_ms] = replace(place, date_ms=date_ms, other_dates_ms=())
        return list(found.values())

    def _near_dates(self, place: Place) -> list[int]:
        """Other dates whose window overlaps that of the location."""
        if place.date_ms is None:
            return []
        return [other for other in place.other_dates_ms if abs(other - place.date_ms) <= 2 * self.days * DAY_MS]

    def _settled(self, answer: Survey | Rejection, times: Mapping[tuple[int, int | None], int]) -> Survey | Rejection:
        place, date_ms = answer.place, answer.place.date_ms
        if isinstance(answer, Rejection) or date_ms is None:
            return answer
        own = days_from(answer.time_ms, date_ms)
        for other in self._near_dates(place):
            shared = times.get((place.tile_id, other)) == answer.time_ms
            if shared and (abs(days_from(answer.time_ms, other)), other) < (abs(own), date_ms):
                scene = f"the nearest scene to {day_text(date_ms)}, of {day_text(answer.time_ms)},"
                detail = f"{scene} is used for the same location with the nearer date {day_text(other)}"
                return Rejection(place=place, reason=SAME_SCENE, detail=detail)
        return replace(answer, facts={**answer.facts, **_facts(date_ms, own)})


def _facts(date_ms: int, days: int) -> dict[str, Any]:
    return {"label_date": day_text(date_ms), "label_days": days}


def date_of(place: Place) -> int:
    """Start of the day of a location's date, UTC milliseconds since 1970."""
    assert place.date_ms is not None
    return place.date_ms
