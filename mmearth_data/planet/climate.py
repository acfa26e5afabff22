"""Climate: temperature by latitude, height and season, precipitation by belts, and monthly anomalies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.planet import kernels
from mmearth_data.planet.noise import cells_across, salt_of, value_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmearth_data.planet.noise import Chart, Float32, Float64

LAPSE_K_PER_M = np.float32(0.006)
YEAR_DAYS = 365.2425
WARMEST_DAY_NORTH, WARMEST_DAY_SOUTH = 203.0, 20.6
"""Day of the year; half a year apart, so that seasons are opposite."""
LATITUDES = (0, 6, 12, 18, 25, 32, 40, 50, 60, 70, 80, 90)
SEA_LEVEL_C = (26.5, 26.4, 26.2, 25.2, 22.8, 19.0, 13.2, 6.8, 0.0, -8.0, -14.5, -19.0)
SWING_K = (0, 0.8, 2.0, 3.6, 6.0, 8.5, 11.0, 13.5, 16.0, 17.5, 17.5, 17.0)
RAIN_MM = (2400, 2150, 1400, 760, 420, 460, 780, 850, 620, 380, 240, 160)
"""Zonal means on land, rounded after climate atlases."""
ANOMALY_M = (3_000_000.0, 1_400_000.0)


def smoothstep(low: float, high: float, x: Float32) -> Float32:
    """0 below ``low``, 1 above ``high``, smooth between."""
    scale = 1 / (high - low)
    values = np.asarray(x, np.float32)
    flat = np.ascontiguousarray(values).reshape(-1)
    return kernels.smoothstep(flat, np.float32(scale), np.float32(low * scale)).reshape(values.shape)


def clamp(x: Float32, low: float | np.float32, high: float | np.float32) -> Float32:
    """Clip values at both ends; calling `numpy.clip` takes longer than its work."""
    return np.minimum(np.maximum(x, np.float32(low)), np.float32(high))


@dataclass(frozen=True, slots=True)
class Climate:
    """Climate at sea level; all fields have one shape."""

    mean_c: Float32
    """Annual mean, degree Celsius."""
    swing_k: Float32
    """Half the annual range."""
    warmest_day: Float32
    rain_mm: Float32
    rain_swing: Float32
    """-1 to 1: share by which the warmest month is wetter (or, negative, drier) than the mean."""

    def phase(self, day: float | Float64) -> Float32:
        """Time of the year as an angle, 0 at its warmest; ``day`` broadcasts."""
        return (np.asarray(day, np.float32) - self.warmest_day) * np.float32(2 * np.pi / YEAR_DAYS)

    def temperature_c(self, day: float | Float64) -> Float32:
        """Temperature at sea level that is normal for a day of the year."""
        return self.mean_c + self.swing_k * np.cos(self.phase(day))

    def rain_mm_month(self, day: float | Float64) -> Float32:
        """Rain that is normal for the month around a day."""
        return self.rain_mm * np.float32(1 / 12) * (1 + self.rain_swing * np.cos(self.phase(day)))

    def wetness(self, height_m: Float32 | float) -> Float32:
        """Annual rain relative to evaporation (after Koeppen): below 0.5 desert, 1 steppe, above 2 wet."""
        warm = np.maximum(self.mean_c - LAPSE_K_PER_M * height_m, np.float32(-4))
        return self.rain_mm / (np.float32(20) * (warm + np.float32(9)))


def climate_at(lat: Float64, inland_m: Float32, warm: Float32, rain: Float32, season: Float32) -> Climate:
    """Climate at latitudes in degrees.

    ``inland_m`` is the distance to the sea at the scale of continents; ``warm``, ``rain`` and ``season`` are noise
    fields (mean 0, standard deviation 1) by which regions differ.
    """
    away = np.abs(lat)
    continental = smoothstep(-100e3, 1_100e3, inland_m)
    mean = np.interp(away, LATITUDES, SEA_LEVEL_C).astype(np.float32) + np.float32(1.5) * warm
    mean -= smoothstep(60, 75, -lat.astype(np.float32)) * np.float32(9)
    swing = np.interp(away, LATITUDES, SWING_K).astype(np.float32) * (np.float32(0.6) + np.float32(0.65) * continental)
    belt = np.interp(away, LATITUDES, np.log(RAIN_MM)).astype(np.float32)
    dry_belt = smoothstep(12, 19, away.astype(np.float32)) * (1 - smoothstep(29, 37, away.astype(np.float32)))
    variety = np.float32(0.55) - np.float32(0.17) * dry_belt
    total = np.exp(
        belt + variety * rain - np.float32(0.75) * continental + np.float32(0.3) - np.float32(0.45) * dry_belt
    )
    tropical = smoothstep(2, 9, away.astype(np.float32)) * (1 - smoothstep(24, 34, away.astype(np.float32)))
    temperate = smoothstep(24, 34, away.astype(np.float32))
    mediterranean = temperate * (1 - smoothstep(40, 46, away.astype(np.float32))) * smoothstep(-0.4, 0.5, season)
    swing_rain = np.float32(0.85) * tropical + np.float32(0.3) * temperate - np.float32(1.05) * mediterranean
    warmest = np.where(lat >= 0, np.float32(WARMEST_DAY_NORTH), np.float32(WARMEST_DAY_SOUTH))
    return Climate(mean, swing, warmest, np.clip(total, 5, 7000), swing_rain)


def day_of_year(time_ms: int) -> float:
    """Days since the year began, UTC, with fraction."""
    time = np.datetime64(time_ms, "ms")
    return float((time - time.astype("datetime64[Y]")) / np.timedelta64(1, "D"))


def month_index(time_ms: int) -> int:
    """Months since January 1970, UTC."""
    return int(np.datetime64(time_ms, "ms").astype("datetime64[M]").astype(np.int64))


def middle_of(month: int) -> float:
    """Day of the year of the middle of a month (from `month_index`)."""
    return (month % 12 + 0.5) * YEAR_DAYS / 12


def anomalies(seed: int, chart: Chart, months: Sequence[int]) -> tuple[Float32, Float32]:
    """Departure of months (from `month_index`) from normal: K, and log of the factor of rain; each (month, ...)."""
    keys = [(kind, month, k) for kind in ("warm", "rain") for month in months for k in range(len(ANOMALY_M))]
    cells = np.array([cells_across(ANOMALY_M[k]) for _, _, k in keys], np.int64)
    salts = np.array([salt_of(seed, "anomaly", *key) for key in keys], np.uint32)
    octaves = value_noise(chart, cells, salts).reshape(2, len(months), len(ANOMALY_M), *chart.shape)
    both = (octaves[:, :, 0] + np.float32(0.7) * octaves[:, :, 1]) * np.float32(0.82)
    return both[0] * np.float32(1.3), both[1] * np.float32(0.35)
