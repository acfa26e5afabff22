"""State of the surface at a time of the year: temperature, snow, green leaves, crops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.planet.climate import LAPSE_K_PER_M, anomalies, day_of_year, month_index, smoothstep
from mmearth_data.planet.grids import PixelFields
from mmearth_data.planet.lazy import lazy
from mmearth_data.planet.tables import covers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_data.planet.ground import Ground
    from mmearth_data.planet.noise import Float32

SNOW_LAG_DAYS, LEAF_LAG_DAYS = 12.0, 17.0
WINTER_CROP_PHASE, SUMMER_CROP_PHASE = -1.05, 0.5
"""Time at which crops are greenest, as an angle of the year from its warmest day."""
WARM_ENOUGH_K = 9.0
"""Normal temperature above which there is no snow, even in unusual months and at cold spots."""
CALENDARS = 16
"""Number of different sowing times."""


class Season:
    """State of a surface at one time (UTC milliseconds). Arrays have the shape of its window."""

    def __init__(self, ground: Ground, time_ms: int) -> None:
        self.ground = ground
        self.time_ms = time_ms
        self.day = day_of_year(time_ms)
        self.month = month_index(time_ms)

    @lazy
    def _nodes(self) -> dict[str, Float32]:
        lattice, day = self.ground.lattice, self.day
        climate = lattice.climate
        warm, rain = anomalies(self.ground.world.seed, self.ground.lattice.nodes.chart, [self.month])
        leaf_c = climate.temperature_c(day - LEAF_LAG_DAYS) + np.float32(0.5) * warm[0]
        region = LAPSE_K_PER_M * lattice.shape["low"]
        thirst = np.float32(10) + np.float32(4.2) * np.maximum(leaf_c - region, 0)
        moist = climate.rain_mm_month(day - LEAF_LAG_DAYS) * np.exp(rain[0]) / thirst
        phase = climate.phase(day)
        return {
            "now": climate.temperature_c(day) + warm[0],
            "snow": climate.temperature_c(day - SNOW_LAG_DAYS) + warm[0],
            "leaf": leaf_c,
            "moist": np.minimum(moist, np.float32(3)),
            "cosine": np.cos(phase),
            "sine": np.sin(phase),
        }

    @lazy
    def _field(self) -> PixelFields:
        nodes = self._nodes
        return PixelFields(self.ground.patch, tuple(nodes), np.stack(list(nodes.values())))

    @lazy
    def _cooling(self) -> Float32:
        return LAPSE_K_PER_M * self.ground.height_m

    @lazy
    def temperature_c(self) -> Float32:
        """Air temperature."""
        return self._field["now"] - self._cooling

    @lazy
    def moisture(self) -> Float32:
        """Soil moisture, 0-1."""
        return smoothstep(0.1, 1.0, self._field["moist"])

    @lazy
    def snow(self) -> Float32:
        """Snow-covered fraction of open land."""
        broad, medium, small, _ = self.ground.woods
        patchy = np.float32(0.5) * broad + np.float32(0.5) * medium + np.float32(0.5) * small
        cold = self._field["snow"] - self._cooling + patchy
        return 1 - smoothstep(-6.0, -1.2, cold)

    @lazy
    def frozen(self) -> Float32:
        """Ice-covered fraction of open water."""
        return 1 - smoothstep(-7, -3.5, self._field["snow"] - self._cooling)

    @lazy
    def green(self) -> Float32:
        """Greenness of leaves that follow warmth and rain, and of crops, 0-1."""
        kind = self.ground.trait("season")
        warm = smoothstep(1.5, 11.5, self._field["leaf"] - self._cooling)
        natural = warm * smoothstep(0.12, 0.72, self._field["moist"])
        if (kind >= 2).any():
            sown = np.where(kind == 3, self._crop(SUMMER_CROP_PHASE, 0.1), self._crop(WINTER_CROP_PHASE, 0.25))
            natural = np.where(kind >= 2, sown * np.maximum(warm, np.float32(0.3)), natural)
        return natural

    def _crop(self, peak: float, idle: float) -> Float32:
        """Greenness of fields that peak at an angle of the year, some early, some late."""
        calendar = (self.ground.parcels.key >> np.uint32(28)).astype(np.int8)
        angles = peak + (np.arange(CALENDARS) - (CALENDARS - 1) / 2) * (0.8 / CALENDARS)
        cosine, sine = np.cos(angles).astype(np.float32)[calendar], np.sin(angles).astype(np.float32)[calendar]
        near = self._field["cosine"] * cosine + self._field["sine"] * sine
        return np.float32(idle) * smoothstep(-0.9, -0.3, near) + np.float32(1 - idle) * smoothstep(0.15, 0.85, near)

    def covered_by_snow(self) -> NDArray[np.bool_] | None:
        """Whether a land-cover map of the day shows snow or ice; None if it is too warm everywhere."""
        climate = self.ground.lattice.climate
        warmer = float(climate.temperature_c(self.day - SNOW_LAG_DAYS).min()) - float(self._cooling.max())
        if warmer > WARM_ENOUGH_K:
            return None
        caps = self.ground.trait("snow")
        return (self.snow * caps > 0.55) | ((self.frozen > 0.6) & (self.snow > 0.6) & self.is_lake)

    @lazy
    def is_lake(self) -> NDArray[np.bool_]:
        """Inland water."""
        found: NDArray[np.bool_] = self.ground.cover == covers().code("water")
        return found
