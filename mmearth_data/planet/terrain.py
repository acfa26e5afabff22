"""Terrain: mountain belts, uplands, valleys with rivers, ridges, and an irregular coast.

Heights come from noise fields of decreasing wavelength. Those of 900 m and more are computed on the lattice of a patch,
the finest at pixels. Valleys are the zero lines of two fields; rivers follow the same lines, so they are at the bottom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.planet.climate import smoothstep
from mmearth_data.planet.noise import EARTH_RADIUS_M, Octaves

if TYPE_CHECKING:
    from mmearth_data.planet.noise import Float32, Float64

KM = 1000.0
COARSE_FIELDS = {
    "belt": Octaves((4300 * KM, 1900 * KM, 800 * KM), (1, 0.4, 0.16)),
    "massif": Octaves((2600 * KM, 1200 * KM, 500 * KM), (1, 0.7, 0.4)),
    "upland": Octaves((1700 * KM, 800 * KM, 380 * KM), (1, 0.7, 0.45)),
    "hill": Octaves((420 * KM, 190 * KM, 85 * KM), (1, 0.8, 0.6)),
}
"""Shape of the continents; smooth enough for the world map."""
WARP_FIELDS = {f"warp_{axis}": Octaves((60 * KM, 23 * KM, 9 * KM), (1, 0.42, 0.17)) for axis in "xyz"}
WARP_M = 3_400.0
VALLEY_FIELDS = {
    "valley": Octaves((24 * KM, 8.7 * KM, 3.3 * KM), (1, 0.22, 0.06)),
    "brook": Octaves((9.5 * KM, 3.9 * KM), (1, 0.25)),
    "ridge": Octaves((4.6 * KM,), (1,)),
    "spur": Octaves((2.1 * KM,), (1,)),
    "knoll": Octaves((0.93 * KM,), (1,)),
}
"""Evaluated at warped points, so that valleys meander and the lattice is invisible."""
COAST_FIELDS = {"coast": Octaves((6.3 * KM, 2.7 * KM, 1.15 * KM), (1, 0.55, 0.3))}
COAST_WIGGLE_M = 900.0
FINE_M = (430.0, 200.0, 92.0)
FINE_HEIGHTS_M = (4.6, 1.7, 0.62)
"""Amplitudes at a relief of 100 m; they grow with its square root."""
VALLEY_M = 12_000.0
BROOK_M = 4_600.0
"""Distance from the zero line at which the field reaches 1: about half its wavelength."""
MEAN_RELIEF = 0.52
"""Mean over a region of what `relief` adds, as a share of the amplitude."""


def lowland_and_relief(fields: dict[str, Float32], inland_m: Float32) -> tuple[Float32, Float32]:
    """Height of the valley floors, and amplitude of what rises above them, metres."""
    belt = smoothstep(-0.42, -0.06, -np.abs(fields["belt"]))
    massif = belt * smoothstep(-1.0, 0.5, fields["massif"])
    upland = np.maximum(fields["upland"] + np.float32(0.5), 0)
    hill = np.maximum(fields["hill"] + np.float32(0.5), 0)
    away = np.float32(0.2) + np.float32(0.8) * smoothstep(0, 300e3, inland_m)
    low = 25 + away * (200 * upland + 60 * hill * upland + 1500 * massif)
    relief = 32 + 90 * hill + 70 * upland * hill + 2300 * massif * (np.float32(0.4) + np.float32(0.6) * massif)
    return low.astype(np.float32), relief.astype(np.float32)


def mean_height(fields: dict[str, Float32], inland_m: Float32) -> Float32:
    """Height averaged over a region, metres, which determines the region's climate."""
    low, relief = lowland_and_relief(fields, inland_m)
    return low + np.float32(MEAN_RELIEF) * relief


def warped(xyz: Float64, fields: dict[str, Float32]) -> Float64:
    """Displaced points: the smooth displacement bends every pattern that is evaluated there."""
    shift = np.stack([fields[name] for name in WARP_FIELDS]).astype(np.float64)
    return xyz + shift * (WARP_M / EARTH_RADIUS_M)


def relief(low: Float32, high: Float32, lines: dict[str, Float32], fine: tuple[Float32, ...]) -> Float32:
    """Height in metres, without the effect of the coast.

    ``low`` and ``high`` are valley floors and amplitude (`lowland_and_relief`), ``lines`` the fields of
    `VALLEY_FIELDS`, ``fine`` the octaves of the wavelengths `FINE_M`.
    """
    valley, brook = np.abs(lines["valley"]), np.abs(lines["brook"])
    flank = np.minimum(valley * np.float32(4), 1)
    shape = np.float32(0.5) * np.minimum(valley, np.float32(1.3)) + np.float32(0.17) * brook * flank
    ridge = 1 - np.minimum(np.abs(lines["ridge"]), 1)
    spur = 1 - np.minimum(np.abs(lines["spur"]), 1)
    shape += (np.float32(0.19) * ridge + np.float32(0.075) * spur + np.float32(0.026) * lines["knoll"]) * flank
    a, b, c = FINE_HEIGHTS_M
    rough = (np.float32(a) * fine[0] + np.float32(b) * fine[1] + np.float32(c) * fine[2]) * np.sqrt(
        high * np.float32(0.01)
    )
    found: Float32 = low + high * shape + rough * (np.float32(0.25) + np.float32(0.75) * flank)
    return found


def at_the_coast(height: Float32, coast_m: Float32) -> Float32:
    """Lower the land towards the sea; 0 at sea, at least 1 m on land."""
    rise = np.float32(0.04) + np.float32(0.96) * smoothstep(0, 7000, coast_m)
    land = np.maximum(height * rise, 1 + np.minimum(coast_m, 500) * np.float32(0.004))
    return np.where(coast_m > 0, land, np.float32(0))
