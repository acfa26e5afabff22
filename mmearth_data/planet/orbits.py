"""Sun-synchronous repeat orbits: which overpasses see a point, and when.

The track of a circular orbit follows from its inclination and the Earth's rotation; the pattern repeats after a cycle
of `orbits` revolutions in `days` days. Swaths are bands of constant width around the track.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]

DAY_MS = 86_400_000
KM_PER_DEG = 111.195
LAST_LAT = 81.0
"""Latitude near which tracks turn back."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Orbit:
    """One direction (ascending or descending) of a mission's repeat orbit."""

    days: int
    orbits: int
    inclination_deg: float
    """Above 90: against the Earth's rotation, as sun-synchronous orbits are."""
    node_hour: float
    """Local solar time at which the swath crosses the equator."""
    northward: bool
    half_swath_km: float
    platforms: dict[str, tuple[int, int, float]]
    """Name -> (first day of service, last day, offset within the cycle in days); days since 1970."""

    def _angle(self, lat: Float64) -> Float64:
        """Angle travelled since the node, radians."""
        limit = np.sin(np.radians(self.inclination_deg))
        angle: Float64 = np.arcsin(np.clip(np.sin(np.radians(lat)) / limit, -0.9999, 0.9999))
        return angle if self.northward else -angle

    def drift_deg(self, lat: Float64) -> Float64:
        """Longitude of the track at a latitude, relative to its node."""
        angle = self._angle(lat)
        inertial = np.degrees(np.arctan2(np.cos(np.radians(self.inclination_deg)) * np.sin(angle), np.cos(angle)))
        turning = 360.0 * self.days / self.orbits * angle / (2 * np.pi)
        found: Float64 = inertial - turning
        return found

    def km_per_degree(self, lat: Float64) -> Float64:
        """Distance from the track per degree of longitude, perpendicular to the track."""
        step = 0.05
        lean = (self.drift_deg(lat + step) - self.drift_deg(lat - step)) / (2 * step)
        shrink = np.cos(np.radians(lat))
        return KM_PER_DEG * shrink / np.sqrt(1 + (lean * shrink) ** 2)

    def node_deg(self, track: int) -> float:
        """Longitude of a track's node."""
        return self.node_hour * 15.0 + track * 360.0 / self.orbits

    def across_km(self, track: NDArray[np.int64], lon: Float64, lat: Float64) -> Float64:
        """Distance of points from the centre line of the swath, positive to the east."""
        return self.away_km(track, lon - self.drift_deg(lat), self.km_per_degree(lat))

    def away_km(self, track: NDArray[np.int64] | int, from_drift: Float64, km_per_degree: Float64) -> Float64:
        """Return `across_km` of points whose longitude relative to the drift and km per degree are known."""
        node = self.node_hour * 15.0 + track * (360.0 / self.orbits)
        return ((from_drift - node + 180.0) % 360.0 - 180.0) * km_per_degree

    def tracks(self, lon: float, lat: float) -> NDArray[np.int64]:
        """Tracks whose swath contains a point, or nearly does."""
        drift, km_per_degree = self._at(round(lat, 3))
        reach = self.half_swath_km / km_per_degree + 0.05
        node = (lon - drift - self.node_hour * 15.0) * self.orbits / 360.0
        spread = reach * self.orbits / 360.0
        return np.arange(math.ceil(node - spread), math.floor(node + spread) + 1, dtype=np.int64) % self.orbits

    @lru_cache(maxsize=4096)  # noqa: B019 - the orbits are module constants, never freed
    def _at(self, lat: float) -> tuple[float, float]:
        place = np.array([lat])
        return float(self.drift_deg(place)[0]), float(self.km_per_degree(place)[0])

    def outline(self, track: int, south: float, north: float) -> Float64:
        """Degrees of a track's swath between two latitudes, (point, 2), counter-clockwise; may exceed 180 degrees."""
        lat = np.linspace(max(south, -LAST_LAT), min(north, LAST_LAT), 9)
        middle = self.node_deg(track) + self.drift_deg(lat)
        reach = self.half_swath_km / self.km_per_degree(lat)
        east, west = np.stack([middle + reach, lat], axis=1), np.stack([middle - reach, lat], axis=1)
        return np.concatenate([east, west[::-1]])

    def cycles(self, track: int, lat: float, start_ms: int, end_ms: int, platform: str) -> NDArray[np.int64]:
        """Numbers of the cycles in which a platform passes a latitude on a track within [start, end)."""
        first_day, last_day, _ = self.platforms[platform]
        start, end = max(start_ms, first_day * DAY_MS), min(end_ms, last_day * DAY_MS)
        phase, cycle = self._phase_ms(track, lat, platform), self.days * DAY_MS
        return np.arange(-((phase - start) // cycle), -((phase - end) // cycle), dtype=np.int64)

    def times_ms(self, track: int, lat: float, platform: str, cycles: NDArray[np.int64]) -> NDArray[np.int64]:
        """UTC milliseconds at which a platform passes a latitude on a track."""
        return self._phase_ms(track, lat, platform) + cycles * (self.days * DAY_MS)

    def below(self, platform: str, time_ms: int) -> tuple[int, float]:
        """(track, latitude) that a platform passes at a time: inverse of `times_ms`."""
        days = time_ms / DAY_MS - self.platforms[platform][2]
        revolutions = days * self.orbits / self.days
        whole = round(revolutions)
        angle = (revolutions - whole) * math.tau if self.northward else (whole - revolutions) * math.tau
        limit = math.sin(math.radians(self.inclination_deg))
        return -whole * self.days % self.orbits, math.degrees(math.asin(math.sin(angle) * limit))

    @lru_cache(maxsize=16384)  # noqa: B019 - as above
    def _phase_ms(self, track: int, lat: float, platform: str) -> int:
        """Time from the start of a cycle to the passage of a latitude; whole, since periods are compared with it."""
        revolution = -track * pow(self.days, -1, self.orbits) % self.orbits
        reach = math.sin(math.radians(min(max(lat, -LAST_LAT), LAST_LAT))) / math.sin(
            math.radians(self.inclination_deg)
        )
        angle = math.asin(reach) if self.northward else -math.asin(reach)
        return round((self.platforms[platform][2] + (revolution + angle / math.tau) * self.days / self.orbits) * DAY_MS)


def days_since_1970(date: str) -> int:
    """Days since 1970 of a date such as 2015-06-23."""
    return int(np.datetime64(date, "D").astype(np.int64))


FOREVER = days_since_1970("2100-01-01")
SENTINEL2 = Orbit(
    days=10,
    orbits=143,
    inclination_deg=98.62,
    node_hour=10.5,
    northward=False,
    half_swath_km=145.0,
    platforms={
        "S2A": (days_since_1970("2015-07-04"), FOREVER, 0.0),
        "S2B": (days_since_1970("2017-07-01"), FOREVER, 5.0),
    },
)
"""ESA's Sentinel-2 handbook: 143 orbits in 10 days, 290 km, descending at 10:30."""
_ASCENDING = Orbit(
    days=12,
    orbits=175,
    inclination_deg=98.18,
    node_hour=18.4,
    northward=True,
    half_swath_km=125.0,
    platforms={
        "S1A": (days_since_1970("2014-10-10"), FOREVER, 0.0),
        "S1B": (days_since_1970("2016-09-28"), days_since_1970("2021-12-23"), 6.0),
    },
)
SENTINEL1 = {"ASCENDING": _ASCENDING, "DESCENDING": replace(_ASCENDING, node_hour=5.7, northward=False)}
"""ESA's Sentinel-1 handbook: 175 orbits in 12 days, 250 km (IW); the hours are those of the swath's centre line."""
