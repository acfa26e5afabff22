"""Radar images: backscatter of land covers, foreshortening of slopes, speckle."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmearth_data.planet.climate import clamp, smoothstep
from mmearth_data.planet.lazy import lazy
from mmearth_data.planet.noise import hash_pixels, mix, salt_of, unit_float
from mmearth_data.planet.tables import covers

if TYPE_CHECKING:
    from mmearth_data.planet.grids import Window
    from mmearth_data.planet.ground import Ground
    from mmearth_data.planet.noise import Float32
    from mmearth_data.planet.season import Season

LOOKS = 4
"""Independent views averaged in a pixel (Sentinel-1 GRD, IW: equivalent number of looks 4.4)."""
DB_PER_SLOPE = 15.0
DB_PER_DEGREE = 0.12
REFERENCE_INCIDENCE_DEG = 38.0
OPEN_WATER = frozenset({"sea", "water"})
NOISE_FLOOR_DB = {"co": -27.0, "cross": -31.0}


class Look(NamedTuple):
    """Acquisition geometry and conditions of a scene."""

    azimuth_deg: float
    """Look direction, clockwise from north."""
    wind: float
    """0-1: roughness of open water."""
    key: str


class RadarView:
    """One overpass over the pixels of a surface, of which the outermost are not usable."""

    def __init__(self, ground: Ground, season: Season, look: Look, incidence_deg: Float32) -> None:
        self.ground = ground
        self.season = season
        self.look = look
        self.incidence_deg = incidence_deg

    def backscatter_db(self, polarisation: str, window: Window) -> Float32:
        """Backscatter in dB at the pixels of a window inside the surface; ``VV VH HH HV``."""
        cross = polarisation[0] != polarisation[1]
        mean = np.ascontiguousarray(self._mean_db(cross=cross)[self.ground.window.slices_of(window)])
        if polarisation in {"HH", "HV"}:
            mean += np.float32(0.4)
        floor = np.float32(10 ** (NOISE_FLOOR_DB["cross" if cross else "co"] / 10))
        power = np.exp(mean * np.float32(np.log(10) / 10))
        power *= _speckle(window, salt_of(self.ground.world.seed, "speckle", self.look.key, polarisation))
        power += floor
        found: Float32 = np.log(power) * np.float32(10 / np.log(10))
        return found

    def _mean_db(self, *, cross: bool) -> Float32:
        column = "vh" if cross else "vv"
        value: Float32 = self.ground.trait(column) + self.ground.trait(f"leaf_{column}") * self._leaves
        value += self._tall * np.float32(0.075 if cross else 0.045)
        value += self._common
        return value

    @lazy
    def _leaves(self) -> Float32:
        return self.season.green * self.ground.trait("full")

    @lazy
    def _tall(self) -> Float32:
        """Canopy height above normal, metres; more volume scatters more."""
        return np.where(self.ground.is_tree, np.minimum(self.ground.canopy_m, np.float32(32)) - 14, np.float32(0))

    @lazy
    def _common(self) -> Float32:
        """Sum of what all polarisations share: moisture, thaw, wind, texture, corners of houses, slope and angle."""
        g, season = self.ground, self.season
        open_ground = 1 - g.trait("rough")
        value: Float32 = (np.float32(1.8) * season.moisture - np.float32(0.72)) * open_ground
        value += np.float32(0.35) * g.patches * open_ground + np.float32(0.3) * g.woods[2]
        if season.snow.any():
            thaw = season.snow * smoothstep(-2.5, 1.0, season.temperature_c)
            value -= np.float32(3.5) * thaw * g.trait("snow")
        if g.present & OPEN_WATER:
            windy = [np.float32(8 * (self.look.wind - 0.4)) * (name in OPEN_WATER) for name in covers().names]
            value += g.per_cover(np.array(windy, np.float32))
        if "built" in g.present:
            corner = unit_float(mix(g.blocks[0] ^ np.uint32(salt_of(0, "corner", round(self.look.azimuth_deg)))))
            value += np.where(
                g.cover == covers().code("built"), np.float32(7) * corner - np.float32(3.5), np.float32(0)
            )
        value += _terrain_db(g, self.look)
        angle = (self.incidence_deg - np.float32(REFERENCE_INCIDENCE_DEG)) * np.float32(DB_PER_DEGREE)
        return value - angle * (1 + open_ground)


def _terrain_db(ground: Ground, look: Look) -> Float32:
    """Effect of slopes: those that rise away from the radar face it and are brighter."""
    east, north = ground.gradient
    azimuth = np.radians(look.azimuth_deg)
    facing = east * np.float32(np.sin(azimuth)) + north * np.float32(np.cos(azimuth))
    return clamp(facing * np.float32(DB_PER_SLOPE), np.float32(-6.5), np.float32(6.5))


def _speckle(w: Window, salt: int) -> Float32:
    """Gamma noise of mean 1: the mean of `LOOKS` exponential variables is minus the logarithm of their product."""
    bits = hash_pixels(w, salt)
    product = np.ones(w.shape, np.float32)
    for _ in range(LOOKS // 2):
        product *= ((bits & np.uint32(0xFFFF)).astype(np.float32) + np.float32(0.5)) * np.float32(1 / 65536)
        product *= ((bits >> np.uint32(16)).astype(np.float32) + np.float32(0.5)) * np.float32(1 / 65536)
        bits = mix(bits + np.uint32(0x9E3779B9))
    return np.log(product) * np.float32(-1 / LOOKS)
