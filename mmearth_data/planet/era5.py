"""Monthly weather on the 0.1-degree grid of ERA5-Land, masked over sea."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.planet.climate import LAPSE_K_PER_M, anomalies, climate_at, middle_of, smoothstep
from mmearth_data.planet.ecology import CLIMATE_FIELDS
from mmearth_data.planet.noise import chart_of, unit_vectors
from mmearth_data.planet.terrain import COARSE_FIELDS, mean_height

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmearth_data.planet.grids import Grid, Window
    from mmearth_data.planet.noise import Float32
    from mmearth_data.planet.world import World

BANDS = ("temperature_2m", "temperature_2m_min", "temperature_2m_max", "total_precipitation_sum")
KELVIN = 273.15


def monthly_weather(world: World, grid: Grid, window: Window, months: Sequence[int]) -> Float32:
    """Weather of months (counted from January 1970), float32 (band, month, row, column) in the order of `BANDS`.

    Kelvin (mean, coldest and warmest hour) and metres of rain; NaN over sea.
    """
    lon, lat = np.meshgrid(
        grid.x(window.column + np.arange(window.width) + 0.5), grid.y(window.row + np.arange(window.height) + 0.5)
    )
    xyz = unit_vectors(lon, lat)
    chart = chart_of(xyz)
    noise = world.smooth.sample(chart, [*COARSE_FIELDS, *CLIMATE_FIELDS])
    inland = world.land.inland(lon, lat)
    climate = climate_at(lat, inland, noise["warm"], noise["rain"], noise["season"])
    height = mean_height(noise, inland)
    warm, wet = anomalies(world.seed, chart, months)
    dry = 1 - smoothstep(0.4, 1.6, climate.wetness(height))
    day = np.array([middle_of(month) for month in months])[:, None, None]
    mean = climate.temperature_c(day) + warm - LAPSE_K_PER_M * height + np.float32(KELVIN)
    reach = 6 + 7 * dry + np.float32(0.22) * climate.swing_k
    coldest = mean - reach * (np.float32(1.15) - np.float32(0.1) * warm)
    warmest = mean + reach * (1 + np.float32(0.08) * warm)
    rain = climate.rain_mm_month(day) * np.exp(wet) * np.float32(0.001)
    out = np.stack([mean, coldest, warmest, rain]).astype(np.float32)
    out[..., world.land.distance(lon, lat, xyz) <= 0] = np.nan
    return out
