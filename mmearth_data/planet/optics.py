"""Optical images: spectra mixed from surface materials, illumination, atmosphere, clouds.

Every pixel is a mixture of materials. Shares are computed once, at 10 m; a band of 20 or 60 m has the mean over the
pixels that it covers. Reflectance is the spectrum of the mixture times the illumination of the slope; Level 1C adds
atmospheric scattering and absorption.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmearth_data.planet.climate import clamp, smoothstep
from mmearth_data.planet.kernels import mixture
from mmearth_data.planet.lazy import lazy
from mmearth_data.planet.noise import (
    EARTH_RADIUS_M,
    NoiseBank,
    Octaves,
    chart_of,
    hash_pixels,
    mix,
    octaves_of,
    salt_of,
    unit_float,
)
from mmearth_data.planet.tables import covers, spectra

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_data.planet.grids import Patch
    from mmearth_data.planet.ground import Ground
    from mmearth_data.planet.noise import Chart, Float32, Float64
    from mmearth_data.planet.season import Season

AIR = ("path", "transmission", "resolution")
KM = 1000.0
CLOUD_OCTAVES = Octaves((38 * KM, 14 * KM, 5.1 * KM, 1.9 * KM), (1, 0.9, 0.75, 0.5))
CLOUD_DETAIL_M = (720.0, 330.0, 160.0)
CLOUD_FRINGE = 0.62
"""Upper bound of what the detail adds."""
CIRRUS_OCTAVES = Octaves((60 * KM, 17 * KM), (1, 0.5))
CLOUD_HEIGHT_M = 1_500.0
NOISE_FLOOR, NOISE_SHARE = 0.001, 0.008
BRIGHTEST = 2.0


class Light(NamedTuple):
    """Illumination and atmosphere of a whole scene."""

    zenith_deg: float
    azimuth_deg: float
    haze: float
    """Factor of the light that the air scatters, 1 for clear air."""
    cloud_percent: float
    cirrus: bool
    key: str
    """Name of the overpass, on which everything random in the air and the instrument depends."""


def materials() -> tuple[str, ...]:
    """Names of the materials, in the order of their shares."""
    return tuple(name for name in spectra() if name not in AIR)


def resolution_px(band: str) -> int:
    """Side of a band's pixels in pixels of 10 m."""
    return round(spectra()["resolution"][band] / 10)


def _kinds(column: str, present: frozenset[str]) -> dict[str, Float32]:
    """Entries of a column of ``covers.csv`` that occur, and which land covers have each (1 or 0)."""
    table = covers()
    entries = table.text[column]
    found = sorted({entry for entry, name in zip(entries, table.names, strict=True) if name in present})
    return {entry: np.array([other == entry for other in entries], np.float32) for entry in found}


class Clouds(NamedTuple):
    """Clouds at pixels, each 0-1 or None where there are none."""

    opaque: Float32 | None
    shadow: Float32 | None
    cirrus: Float32 | None


def clouds_over(seed: int, patch: Patch, light: Light) -> Clouds:
    """Clouds of a scene over a patch, and their shadows."""
    zenith, azimuth = np.radians(light.zenith_deg), np.radians(light.azimuth_deg)
    away = CLOUD_HEIGHT_M * float(np.tan(zenith)) / EARTH_RADIUS_M
    x, y, z = patch.nodes.xyz
    level = 1 / np.sqrt(np.maximum(x * x + y * y, 1e-12))
    east = np.stack([-y * level, x * level, np.zeros_like(z)])
    north = np.stack([-z * east[1], z * east[0], x * east[1] - y * east[0]])
    toward_sun = patch.nodes.xyz + away * (float(np.sin(azimuth)) * east + float(np.cos(azimuth)) * north)
    cirrus = None
    if light.cirrus:
        veil = _field(patch.nodes.chart, seed, f"cirrus/{light.key}", CIRRUS_OCTAVES)
        cirrus = np.float32(0.12) * smoothstep(0.4, 2.0, patch.linear(veil))
    return Clouds(
        opaque_clouds(seed, patch, light), _opaque(seed, patch, toward_sun, chart_of(toward_sun), light), cirrus
    )


def opaque_clouds(seed: int, patch: Patch, light: Light) -> Float32 | None:
    """Optical thickness of clouds, 0-1; None where there are none."""
    return _opaque(seed, patch, patch.nodes.xyz, patch.nodes.chart, light)


def _opaque(seed: int, patch: Patch, xyz: Float64, chart: Chart, light: Light) -> Float32 | None:
    share = min(max(light.cloud_percent / 100, 0.0005), 0.98)
    level = np.float32(np.log((1 - share) / share) * 0.6)
    name = f"cloud/{light.key}"
    field = _field(chart, seed, name, CLOUD_OCTAVES)
    if float(field.max()) < level - np.float32(CLOUD_FRINGE):
        return None
    wide, medium, small = patch.from_sub(octaves_of(patch.sub_chart(xyz), CLOUD_DETAIL_M, seed, name))
    detail = np.float32(0.12) * wide + np.float32(0.09) * medium + np.float32(0.06) * small
    return smoothstep(-0.02, 0.5, patch.spline(field) - level + detail)


def _field(chart: Chart, seed: int, name: str, octaves: Octaves) -> Float32:
    return NoiseBank(seed, {name: octaves}).sample(chart)[name]


class OpticalView:
    """One overpass over the pixels of a window.

    The surface is one pixel larger on each side than the window, whose edges must be multiples of 6 pixels, so that it
    consists of whole pixels of 60 m. ``season`` is the state of the surface at the time of the overpass. ``toa`` is
    true for top-of-atmosphere reflectance (Level 1C) and false for surface reflectance (Level 2A).
    """

    def __init__(self, ground: Ground, season: Season, light: Light, *, toa: bool) -> None:
        self.ground = ground
        self.epsg = ground.grid.epsg
        self.window = ground.window.padded(-1)
        self.season = season
        self.time_ms = season.time_ms
        self.light = light
        self.toa = toa
        self.whole = False
        """True once the whole window is known to be within the swath."""

    @lazy
    def clouds(self) -> Clouds:
        """Clouds over the window, including its margin."""
        return clouds_over(self.ground.world.seed, self.ground.patch, self.light)

    @lazy
    def sunlight(self) -> Float32:
        """Illumination of the slope relative to a plain, including shade within rough covers."""
        zenith, azimuth = np.radians(self.light.zenith_deg), np.radians(self.light.azimuth_deg)
        east, north = self.ground.gradient
        toward = east * np.float32(np.sin(azimuth)) + north * np.float32(np.cos(azimuth))
        upright = 1 / np.sqrt(1 + east * east + north * north)
        direct = (np.float32(np.cos(zenith)) - np.float32(np.sin(zenith)) * toward) * upright
        lit = (np.maximum(direct, 0) + np.float32(0.3)) * np.float32(1 / (np.cos(zenith) + 0.3))
        rough = self.ground.trait("rough")
        tall = np.minimum(self.ground.canopy_m * np.float32(1 / 30), np.float32(1.2))
        crowns = self.ground.woods[3] * np.float32(0.05) + self._speckle * np.float32(0.09)
        result: Float32 = np.minimum(lit, np.float32(1.8)) * (1 + rough * (crowns - np.float32(0.2) * tall))
        return np.maximum(result, np.float32(0.12))

    @lazy
    def _speckle(self) -> Float32:
        """Texture of crowns and roofs, the same in every scene: -1 to 1, pixel by pixel."""
        return unit_float(hash_pixels(self.ground.window, salt_of(self.ground.world.seed, "texture"))) * 2 - 1

    @lazy
    def leaves(self) -> Float32:
        """Fraction of the area under green leaves."""
        g = self.ground
        full, dormant = g.trait("full"), g.trait("dormant")
        lean = np.float32(0.42) + np.float32(0.58) * smoothstep(0.25, 1.2, g.field["wet"])
        sown = g.trait("season") >= 2
        crowd = np.where(g.is_tree, clamp(np.float32(0.82) + np.float32(0.14) * g.growth, 0.6, 1), lean)
        if sown.any():
            crowd = np.where(sown, np.float32(0.75) + np.float32(0.25) * g.parcel_share, crowd)
        mottled = 1 + np.float32(0.07) * g.patches + np.float32(0.05) * self._speckle
        shares: Float32 = (dormant + (full - dormant) * self.season.green) * crowd * mottled
        return clamp(shares, 0, 1)

    @lazy
    def shares(self) -> Float32:
        """Fraction of each material in each pixel, times its illumination: (material, row, column)."""
        g = self.ground
        index = {name: k for k, name in enumerate(materials())}
        out = np.zeros((len(index), *g.window.shape), np.float32)
        leaves = self.leaves
        for name, owners in _kinds("leaf", g.present).items():
            out[index[name]] = leaves * g.per_cover(owners)
        dead = (1 - leaves) * g.trait("litter")
        for name, owners in _kinds("dead", g.present).items():
            out[index[name]] += dead * g.per_cover(owners)
        bare = 1 - leaves - dead
        for name, owners in _kinds("ground", g.present).items():
            self._ground(out, index, name, bare * g.per_cover(owners))
        out *= self.sunlight
        self._snow(out, index)
        self._clouds(out, index)
        return np.ascontiguousarray(out[:, 1:-1, 1:-1])

    def _ground(self, out: Float32, index: dict[str, int], name: str, share: Float32) -> None:
        """Add what is below the leaves; soil, water and roofs are mixtures themselves."""
        f = self.ground.field
        if name in {"soil", "tilled"}:
            tone = 1 + np.float32(0.1) * f["bright"] + np.float32(0.06) * self.ground.patches
            tone -= np.float32(0.22) * self.season.moisture
            share = share * (clamp(tone, 0.5, 1.5) if name == "soil" else clamp(tone - np.float32(0.34), 0.4, 1.0))
            sand = np.minimum(f["sand"], 1)
            red = f["red"] * (1 - sand)
            out[index["sand"]] += share * sand
            out[index["red_soil"]] += share * red
            share, name = share * (1 - sand - red), "soil"
        elif name == "clear_water":
            murk = clamp(np.float32(0.35) + np.float32(0.3) * f["murk"], 0, 1)
            out[index["murky_water"]] += share * murk
            share = share * (1 - murk)
        elif name == "roof":
            tiles = unit_float(mix(self.ground.blocks[0] ^ np.uint32(0x68BC21EB)))
            tiles = clamp(tiles + np.float32(0.35) * self._speckle, 0, 1)
            out[index["asphalt"]] += share * (1 - tiles)
            share = share * tiles
        out[index[name]] += share

    def _snow(self, out: Float32, index: dict[str, int]) -> None:
        season = self.season
        snow = season.snow * self.ground.trait("snow")
        frozen = season.frozen * season.is_lake
        if frozen.any():
            out *= 1 - frozen
            out[index["ice"]] += frozen * (1 - np.float32(0.75) * season.snow)
            out[index["snow"]] += frozen * np.float32(0.75) * season.snow
        if snow.any():
            out *= 1 - snow
            out[index["snow"]] += snow * np.minimum(self.sunlight, np.float32(1.1))

    def _clouds(self, out: Float32, index: dict[str, int]) -> None:
        opaque, shadow, cirrus = self.clouds
        if shadow is not None:
            out *= 1 - np.float32(0.62) * shadow
        if opaque is not None:
            out *= 1 - opaque
            out[index["cloud"]] += opaque * (np.float32(0.85) + np.float32(0.3) * opaque)
        if cirrus is not None:
            out *= 1 - cirrus
            out[index["cloud"]] += cirrus

    @lazy
    def _present(self) -> list[tuple[int, str]]:
        """Materials that occur; the others add exactly nothing."""
        return [(k, name) for k, name in enumerate(materials()) if self.shares[k].any()]

    @lazy
    def _coarse(self) -> dict[int, Float32]:
        return {1: self.shares}

    def shares_at(self, pixels: int) -> Float32:
        """Shares averaged over blocks of pixels, (material, row, column)."""
        if pixels not in self._coarse:
            finer = self.shares_at(2) if pixels % 2 == 0 and pixels > 2 else self.shares
            side = pixels // 2 if finer is not self.shares else pixels
            self._coarse[pixels] = block_mean(finer, side)
        return self._coarse[pixels]

    def reflectance(self, band: str) -> Float32:
        """Reflectance of a band on its own pixels, with the instrument's noise."""
        pixels = resolution_px(band)
        value, air = self._mixed(pixels, band), spectra()
        if self.toa:
            long_way = 0.6 + 0.4 / float(np.cos(np.radians(self.light.zenith_deg)))
            value *= np.float32(air["transmission"][band])
            value += np.float32(air["path"][band] * self.light.haze * long_way)
            if self.clouds.cirrus is not None:
                value += np.float32(0.09 if air["transmission"][band] < 0.01 else 0) * self._cirrus_at(pixels)
        value += (np.float32(NOISE_FLOOR) + np.float32(NOISE_SHARE) * value) * self._noise(band, pixels)
        return clamp(value, np.float32(1e-4), np.float32(BRIGHTEST))

    def digital_numbers(self, band: str) -> NDArray[np.uint16]:
        """Reflectance x 10,000, as assets store it."""
        found: NDArray[np.uint16] = np.floor(self.reflectance(band) * np.float32(10_000) + np.float32(0.5)).astype(
            np.uint16
        )
        return found

    def _mixed(self, pixels: int, band: str) -> Float32:
        shares, table = self.shares_at(pixels), spectra()
        weights = np.array([table[name][band] for _, name in self._present], np.float32)
        kept = np.array([k for k, _ in self._present], np.intp)
        return mixture(shares.reshape(len(shares), -1), kept, weights).reshape(shares.shape[1:])

    def _noise(self, band: str, pixels: int) -> Float32:
        """Triangular noise in -1 to 1, by overpass, band and pixel."""
        salt = salt_of(self.ground.world.seed, "noise", self.light.key, band)
        bits = hash_pixels(self.window.coarser(pixels), salt)
        low = (bits & np.uint32(0xFFFF)).astype(np.float32)
        high = (bits >> np.uint32(16)).astype(np.float32)
        return (low + high) * np.float32(1 / 65536) - 1

    def _cirrus_at(self, pixels: int) -> Float32:
        return self._cloud_at(self.clouds.cirrus, pixels)

    def _cloud_at(self, field: Float32 | None, pixels: int) -> Float32:
        if field is None:
            return np.zeros(self.window.coarser(pixels).shape, np.float32)
        found: Float32 = block_mean(np.ascontiguousarray(field[1:-1, 1:-1])[None], pixels)[0]
        return found

    def cloud_mask(self) -> NDArray[np.uint16]:
        """QA60: bit 10 for opaque clouds, bit 11 for cirrus; pixels of 60 m."""
        opaque = self._cloud_at(self.clouds.opaque, 6) > 0.4
        cirrus = (self._cirrus_at(6) > 0.05) & ~opaque
        return (opaque * np.uint16(1 << 10) + cirrus * np.uint16(1 << 11)).astype(np.uint16)

    def cloud_probability(self) -> NDArray[np.uint8]:
        """MSK_CLDPRB in per cent; pixels of 20 m."""
        opaque, cirrus = self._cloud_at(self.clouds.opaque, 2), self._cirrus_at(2)
        doubt = self.shares_at(2)[materials().index("roof")] * np.float32(6) * np.maximum(self._noise("doubt", 2), 0)
        percent = 100 * clamp(opaque * np.float32(1.15) + cirrus * np.float32(2.2), 0, 1) + doubt
        return clamp(percent, 0, 100).astype(np.uint8)

    def scene_classes(self) -> NDArray[np.uint8]:
        """SCL, the Level-2A classification, by thresholds on the spectra; pixels of 20 m."""
        blue, green, red, nir, swir = (self._mixed(2, band) for band in ("B2", "B3", "B4", "B8A", "B11"))
        ndvi = (nir - red) / (nir + red + np.float32(1e-4))
        ndsi = (green - swir) / (green + swir + np.float32(1e-4))
        probability = self.cloud_probability()
        cirrus, shadow = self._cirrus_at(2), self._cloud_at(self.clouds.shadow, 2)
        rules = [
            (probability >= 65, 9),
            (probability >= 35, 8),
            (cirrus > 0.05, 10),
            ((ndsi > 0.4) & (blue > 0.22), 11),
            ((nir < 0.08) & (green > nir) & (ndvi < 0.05), 6),
            (shadow > 0.4, 3),
            (ndvi > 0.38, 4),
            (nir < 0.09, 2),
            (ndvi < 0.28, 5),
        ]
        conditions, classes = zip(*rules, strict=True)
        found: NDArray[np.uint8] = np.select(conditions, classes, default=7).astype(np.uint8)
        return found


def block_mean(values: Float32, pixels: int) -> Float32:
    """Mean over square blocks: (n, row, column) to (n, row / pixels, column / pixels)."""
    total = np.array(values[:, ::pixels])
    for k in range(1, pixels):
        total += values[:, k::pixels]
    out = np.array(total[:, :, ::pixels])
    for k in range(1, pixels):
        out += total[:, :, k::pixels]
    out *= np.float32(1 / pixels**2)
    return out
