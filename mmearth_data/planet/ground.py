"""Terrain and land cover at the pixels of a window.

Everything follows from one terrain and one climate, down to single fields and streets: water fills valleys and hollows,
trees stop where summers are too cold, fields are on gentle slopes near settlements. Nothing here depends on the season
(see `season`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.planet.climate import LAPSE_K_PER_M, Climate, clamp, climate_at, smoothstep
from mmearth_data.planet.grids import Grid, Nodes, Patch, PixelFields, Window
from mmearth_data.planet.lazy import lazy
from mmearth_data.planet.noise import chart_of, octaves_of, unit_float
from mmearth_data.planet.orbits import SENTINEL2
from mmearth_data.planet.parcels import Parcels, parcels_at, town_density
from mmearth_data.planet.tables import covers
from mmearth_data.planet.terrain import (
    BROOK_M,
    COAST_WIGGLE_M,
    FINE_M,
    VALLEY_FIELDS,
    VALLEY_M,
    at_the_coast,
    lowland_and_relief,
    mean_height,
    relief,
    warped,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data.planet.noise import Chart, Float32, Float64
    from mmearth_data.planet.world import World

BROAD_M = (520.0, 172.0, 310.0)
SMALL_M = (61.0, 25.0, 57.0)
FIELDS = (
    "coast", "warmest", "mean", "wet", "trees", "grain", "conifers", "deciduous", "shrubs", "stones", "moss", "damp", "tidal",
    "pools", "farms", "pasture", "stands", "canopy", "towns", "people", "red", "sand", "bright", "murk",
)  # fmt: skip
SHAPE_FIELDS = ("low", "high", *VALLEY_FIELDS)


def spread(share: Float32) -> Float32:
    """Level that a normal field exceeds with a given probability, roughly (logistic curve)."""
    p = clamp(share, np.float32(1e-4), np.float32(1 - 1e-4))
    found: Float32 = np.log((1 - p) / p) * np.float32(0.6)
    return found


class Lattice:
    """Smooth fields at the nodes of a lattice."""

    def __init__(self, world: World, nodes: Nodes) -> None:
        self.world = world
        self.nodes = nodes

    @lazy
    def noise(self) -> dict[str, Float32]:
        """All smooth fields of noise."""
        return self.world.smooth.sample(self.nodes.chart)

    @lazy
    def inland_m(self) -> Float32:
        """Distance to the sea at the scale of continents."""
        return self.world.land.inland(*self.nodes.lonlat)

    @lazy
    def coast_m(self) -> Float32:
        """Signed distance to the coast, with more detail than the polygons have."""
        distance = self.world.land.distance(*self.nodes.lonlat, self.nodes.xyz)
        return distance + np.float32(COAST_WIGGLE_M) * self.noise["coast"]

    @lazy
    def _swath(self) -> tuple[Float64, Float64]:
        lon, lat = self.nodes.lonlat
        return lon - SENTINEL2.drift_deg(lat), SENTINEL2.km_per_degree(lat)

    def across_km(self, track: int) -> Float64:
        """Distance from the centre line of a track's swath (Sentinel-2)."""
        return SENTINEL2.away_km(track, *self._swath)

    @lazy
    def climate(self) -> Climate:
        """Climate at sea level."""
        n = self.noise
        return climate_at(self.nodes.lonlat[1], self.inland_m, n["warm"], n["rain"], n["season"])

    @lazy
    def wetness(self) -> Float32:
        """Regional wetness (`Climate.wetness`)."""
        return self.climate.wetness(mean_height(self.noise, self.inland_m))

    @lazy
    def traits(self) -> dict[str, Float32]:
        """Columns of ``biomes.csv`` (vegetation), blended."""
        return self.world.ecology.traits(*self.nodes.lonlat)

    @lazy
    def shape(self) -> dict[str, Float32]:
        """Fields of the relief, by `SHAPE_FIELDS`."""
        low, high = lowland_and_relief(self.noise, self.inland_m)
        return {"low": low, "high": high, **self.world.lines.sample(chart_of(self.warped_xyz))}

    @lazy
    def warped_xyz(self) -> NDArray[np.float64]:
        """Nodes displaced by the warp."""
        return warped(self.nodes.xyz, self.noise)

    @lazy
    def people(self) -> Float32:
        """0-1: suitability for settlement."""
        trait, n = self.traits, self.noise
        coast = 1 - smoothstep(0, 8000, self.coast_m)
        valley = 1 - smoothstep(0, 0.35, np.abs(self.shape["valley"]))
        high = smoothstep(1200, 3200, self.shape["low"])
        wish = trait["built"] * (np.float32(0.65) + np.float32(0.5) * n["people"] + np.float32(0.5) * valley)
        wish += np.float32(0.12) * coast * (trait["built"] > 0.02) - np.float32(0.4) * high
        return clamp(wish, 0, 1)

    @lazy
    def limits(self) -> dict[str, Float32]:
        """Levels above which normal fields have a land cover, from its share of the area."""
        t, n = self.traits, self.noise
        open_share = (1 / np.maximum(1 - t["tree"], np.float32(0.05))).astype(np.float32)
        crop = clamp(t["crop"] + np.float32(0.1) * n["people"], 0, 0.97) * smoothstep(0.02, 0.08, t["crop"])
        shares: dict[str, Float32] = {
            "tree": t["tree"],
            "conifer": t["conifer"],
            "shrub": t["shrub"] * open_share,
            "bare": t["bare"] * open_share,
            "moss": t["moss"] * np.float32(1.6),
            "wetland": t["wetland"],
            "mangrove": t["mangrove"],
            "lake": t["lake"],
            "crop": crop,
        }
        levels: Float32 = spread(np.stack(list(shares.values())))
        return dict(zip(shares, levels, strict=True))

    @lazy
    def fields(self) -> Float32:
        """Fields that determine the land cover of pixels, in the order of `FIELDS`."""
        t, n, c, limit = self.traits, self.noise, self.climate, self.limits
        return np.stack(
            [
                self.coast_m,
                c.mean_c + c.swing_k,
                c.mean_c,
                self.wetness,
                (1 - np.float32(0.75) * t["grain"]) * n["woods"] - limit["tree"],
                t["grain"],
                n["conifers"] - limit["conifer"],
                t["deciduous"],
                np.float32(0.7) * n["patches"] - limit["shrub"],
                np.float32(-0.7) * n["patches"] - limit["bare"],
                np.float32(0.6) * n["stands"] - limit["moss"],
                np.float32(0.8) * n["damp"] - limit["wetland"],
                np.float32(0.9) * n["pools"] - limit["mangrove"],
                n["pools"] - limit["lake"],
                n["farms"] - limit["crop"],
                t["pasture"],
                n["stands"],
                t["canopy_m"],
                town_density(self.nodes.chart, self.people, self.world.seed),
                self.people,
                clamp(t["red"] * (1 + np.float32(0.5) * n["red"]), 0, 1),
                clamp(t["sand"] * (1 + np.float32(0.8) * n["sand"]), 0, 1),
                n["bright"],
                n["murk"],
            ]
        )


class Ground:
    """Terrain and land cover at the pixels of a window. Arrays have the shape of the window.

    ``lattice`` may give smooth fields on the grid's lattice, which are reused if they extend far enough.
    """

    def __init__(self, world: World, grid: Grid, window: Window, lattice: Lattice | None = None) -> None:
        self.world = world
        self.grid = grid
        self.window = window
        self.patch = Patch(grid, window, None if lattice is None else lattice.nodes)
        self._traits: dict[str, Float32] = {}
        at_hand = lattice is not None and lattice.nodes is self.patch.nodes
        self.lattice = lattice if lattice is not None and at_hand else Lattice(world, self.patch.nodes)

    @lazy
    def field(self) -> PixelFields:
        """Fields of the lattice, at pixels."""
        return PixelFields(self.patch, FIELDS, self.lattice.fields)

    @lazy
    def shape(self) -> dict[str, Float32]:
        """Fields of the relief, at pixels."""
        nodes = self.lattice.shape
        return dict(zip(SHAPE_FIELDS, self.patch.spline(np.stack([nodes[k] for k in SHAPE_FIELDS])), strict=True))

    @lazy
    def warped_chart(self) -> Chart:
        """Chart of the pixels, displaced by the warp."""
        return self.patch.pixel_chart(self.lattice.warped_xyz)

    @lazy
    def _sub_chart(self) -> Chart:
        return self.patch.sub_chart(self.lattice.warped_xyz)

    def broad_octaves(self, name: str, wavelengths_m: Sequence[float]) -> Float32:
        """Octaves that are smooth enough for the finer lattice, at pixels: (octave, row, column)."""
        return self.patch.from_sub(octaves_of(self._sub_chart, wavelengths_m, self.world.seed, "pixel", name))

    def octaves(self, name: str, wavelengths_m: Sequence[float]) -> Float32:
        """Octaves that are evaluated at the pixels themselves: (octave, row, column)."""
        return octaves_of(self.warped_chart, wavelengths_m, self.world.seed, "pixel", name)

    @lazy
    def fine(self) -> tuple[Float32, ...]:
        """Octaves of the relief, by `FINE_M`."""
        return (*self.broad_octaves("relief", FINE_M[:2]), *self.octaves("relief", FINE_M[2:]))

    @lazy
    def coast_m(self) -> Float32:
        """Signed distance to the sea, positive on land."""
        result: Float32 = self.patch.linear(self.lattice.coast_m)
        result += np.float32(190) * self.fine[0] + np.float32(80) * self.fine[1] + np.float32(35) * self.fine[2]
        return result

    @lazy
    def height_m(self) -> Float32:
        """Height above sea level."""
        s = self.shape
        return at_the_coast(relief(s["low"], s["high"], s, self.fine), self.coast_m)

    @lazy
    def steepness(self) -> Float32:
        """Typical slope of the surroundings, from the relief and the flanks of valleys (m/m)."""
        s = self.shape
        flank = np.minimum(np.abs(s["valley"]) * np.float32(4), 1)
        rough = np.float32(0.7) + np.float32(0.3) * np.abs(s["ridge"])
        return s["high"] * np.float32(1 / 5200) * flank * rough

    @lazy
    def warmest_c(self) -> Float32:
        """Mean temperature of the warmest month at the pixel's height."""
        return self.field["warmest"] - LAPSE_K_PER_M * self.height_m

    @lazy
    def _mosaic(self) -> tuple[Float32, Float32]:
        return self.broad_octaves("mosaic", BROAD_M), self.octaves("mosaic", SMALL_M)

    @lazy
    def woods(self) -> tuple[Float32, ...]:
        """Octaves of the forest edge: 520, 172, 61 and 25 m, from clearings to crowns."""
        (wide, medium, _), (small, crowns, _) = self._mosaic
        return wide, medium, small, crowns

    @lazy
    def patches(self) -> Float32:
        """Fine mosaic of open land."""
        result: Float32 = np.float32(0.6) * self._mosaic[0][2] + np.float32(0.42) * self._mosaic[1][2]
        result += np.float32(0.28) * self.fine[2]
        return result

    @lazy
    def parcels(self) -> Parcels:
        """Fields, communes and streets."""
        return parcels_at(self.warped_chart, self.world.seed, self.world.ecology)

    @lazy
    def blocks(self) -> tuple[NDArray[np.uint32], Float32]:
        """Blocks of towns: key, and distance to the street."""
        return self.parcels.blocks()

    @lazy
    def parcel_share(self) -> Float32:
        """Random number of each parcel, 0-1."""
        return unit_float(self.parcels.key)

    @lazy
    def river_m(self) -> tuple[Float32, Float32]:
        """Distance to the banks of rivers and of brooks, negative in the water."""
        s, f = self.shape, self.field
        wiggle = np.float32(16) * self.fine[1] + np.float32(9) * self.fine[2]
        flow = smoothstep(0.3, 1.6, f["wet"]) * (np.float32(1.15) + np.float32(0.6) * f["murk"])
        river = np.abs(s["valley"]) * np.float32(VALLEY_M) - (np.float32(70) * flow - 4) + wiggle
        brook = (
            np.abs(s["brook"]) * np.float32(BROOK_M)
            - (np.float32(9) * flow + np.float32(-2.5))
            + wiggle * np.float32(0.3)
        )
        return river, brook

    @lazy
    def growth(self) -> Float32:
        """Positive where there are trees; larger where they are denser."""
        f = self.field
        broad, medium, small, crowns = self.woods
        g = f["grain"]
        fine = (1 - g) * (np.float32(0.5) * broad + np.float32(0.33) * medium + np.float32(0.2) * small)
        fine += g * (
            np.float32(0.3) * broad + np.float32(0.45) * medium + np.float32(0.65) * small + np.float32(0.55) * crowns
        )
        gallery = (
            smoothstep(-260, -20, -self.river_m[0])
            * (1 - smoothstep(0.9, 1.8, f["wet"]))
            * smoothstep(0.3, 0.6, f["wet"])
        )
        cold = 1 - smoothstep(7.5, 10.5, self.warmest_c + np.float32(0.9) * medium)
        steep = smoothstep(0.55, 0.9, self.steepness)
        found: Float32 = f["trees"] + fine + np.float32(1.3) * gallery - 6 * cold - np.float32(2) * steep
        return found

    @lazy
    def cover(self) -> NDArray[np.int8]:
        """Land cover: index into the rows of ``covers.csv``."""
        out = self._natural()
        self._farm(out)
        self._settle(out)
        self._flood(out)
        return out

    @lazy
    def _index(self) -> NDArray[np.intp]:
        return self.cover.astype(np.intp)

    @lazy
    def present(self) -> frozenset[str]:
        """Names of the land covers that occur."""
        names = covers().names
        counts = np.bincount(self._index.ravel(), minlength=len(names))
        return frozenset(name for name, count in zip(names, counts.tolist(), strict=True) if count)

    def trait(self, column: str) -> Float32:
        """Column of ``covers.csv`` at pixels."""
        if column not in self._traits:
            self._traits[column] = self.per_cover(covers().number[column])
        return self._traits[column]

    def per_cover(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of each land cover, at pixels."""
        return values.take(self._index)

    @lazy
    def confused_with(self) -> NDArray[np.int8]:
        """Land cover that each pixel is most easily confused with."""
        return self.per_cover(covers().confused_with)

    def _natural(self) -> NDArray[np.int8]:
        code, f = covers().code, self.field
        broad, medium, small, _ = self.woods
        out = np.full(self.window.shape, code("grass"))
        out[f["moss"] + np.float32(0.6) * medium + np.float32(0.5) * small > 0] = code("moss")
        out[f["shrubs"] + self.patches > 0] = code("shrub")
        cold = 1 - smoothstep(0.5, 6.5, self.warmest_c)
        steep = smoothstep(0.35, 0.7, self.steepness)
        stony = f["stones"] - self.patches + np.float32(2.2) * cold + np.float32(2) * steep
        rocky = (self.steepness + np.float32(0.08) * small > 0.3) | (f["sand"] + np.float32(0.03) * small < 0.02)
        out[stony > 0] = np.where(rocky, code("rock"), code("bare"))[stony > 0]
        wet = f["damp"] + np.float32(0.5) * medium - np.float32(9) * self.steepness
        wet += smoothstep(-420, -40, -self.river_m[0]) * np.float32(0.8) + smoothstep(-1.2, 0, f["pools"]) * np.float32(
            0.7
        )
        trees = self.growth > 0
        needle = f["conifers"] + np.float32(0.35) * broad + np.float32(0.3) * small > 0
        leafy = np.where(self.deciduous, code("broadleaf"), code("evergreen"))
        out[trees] = np.where(needle, code("conifer"), leafy)[trees]
        out[(wet > 0) & (self.warmest_c > 4) & ~((self.growth > 0.9) & (wet < 0.8))] = code("wetland")
        shore = (self.coast_m < 1400 + 500 * broad) & (f["wet"] > 0.55) & (self.growth + np.float32(0.4) > 0)
        tidal = (f["tidal"] + np.float32(0.3) * medium + np.float32(0.2) * small > 0) & (self.warmest_c > 20)
        out[(shore | tidal) & (f["mean"] > 18) & (self.height_m < np.where(shore, 14, 60))] = code("mangrove")
        out[self.warmest_c + np.float32(0.5) * medium < 0.3] = code("ice")
        return out

    @lazy
    def deciduous(self) -> NDArray[np.bool_]:
        """Whether broad-leaved trees shed their leaves here."""
        return self.field["deciduous"] + np.float32(0.22) * self.woods[0] > 0.5

    def _farm(self, out: NDArray[np.int8]) -> None:
        code, f = covers().code, self.field
        farmed = (self.steepness < 0.16) & (self.warmest_c > 12.5) & (f["farms"] > -0.55)
        farmed &= (out != code("wetland")) & (out != code("mangrove"))
        if not farmed.any():
            return
        farmed &= (f["farms"] + np.float32(1.1) * self.parcel_share > 0.55) & (self.parcel_share > 0.05)
        kind = unit_float(self.parcels.key * np.uint32(0x2C1B3C6D))
        warm = smoothstep(19, 25, self.warmest_c)
        pasture, summer = f["pasture"], np.float32(0.3) + np.float32(0.35) * warm
        rest = (kind - pasture) / (1 - pasture)
        crops = np.select(
            [kind < pasture, rest < 0.08, rest < 0.08 + 0.12 * warm, rest < 0.2 + summer * np.float32(0.8)],
            [code("pasture"), code("fallow"), code("orchard"), code("summer_crop")],
            default=code("winter_crop"),
        ).astype(np.int8)
        hedged = unit_float(self.parcels.key * np.uint32(0x297A2D39)) < np.float32(0.5) * f["pasture"]
        margin = self.parcels.edge_m < 4.5
        crops[margin] = np.where(hedged, code("broadleaf"), code("grass"))[margin]
        out[farmed] = crops[farmed]

    def _settle(self, out: NDArray[np.int8]) -> None:
        code, f = covers().code, self.field
        open_to_all = (f["people"] > 0.12) & (self.steepness < 0.35)
        if open_to_all.any():
            out[open_to_all & (self.parcels.border_m < 7.5)] = code("road")
        density = f["towns"] + np.float32(0.12) * self.woods[1] * (f["towns"] > 0.02)
        town = (density > 0.22) & (self.steepness < 0.3)
        if not town.any():
            return
        block, street_m = self.blocks
        use = unit_float(block)
        built = np.where(use < np.float32(0.3) + density * np.float32(0.75), code("built"), code("park"))
        built[self.growth * np.float32(0.4) + self.woods[3] > 1.25 + density] = code("broadleaf")
        built[street_m < 5.5] = code("road")
        out[town] = built[town]

    def _flood(self, out: NDArray[np.int8]) -> None:
        code, f = covers().code, self.field
        river, brook = self.river_m
        sandy = f["wet"] < 0.4
        out[(river < 30) & sandy & (out != code("ice"))] = code("bare")
        wet = (river < 0) | ((brook < 0) & (f["wet"] > 0.7))
        shore = np.float32(0.1) * self.woods[1] + np.float32(0.05) * self.woods[2]
        wet |= (f["pools"] + shore > 0) & (self.steepness < 0.25)
        out[wet & ~sandy & (self.warmest_c > 1.5)] = code("water")
        out[self.coast_m <= 0] = code("sea")

    @lazy
    def is_tree(self) -> NDArray[np.bool_]:
        """Whether pixels are covered by trees."""
        table = covers()
        tall = np.array([name in {"broadleaf", "evergreen", "conifer", "mangrove"} for name in table.names])
        return self.per_cover(tall)

    @lazy
    def canopy_m(self) -> Float32:
        """Height of the canopy; 0 without trees."""
        f = self.field
        broad, _, small, crowns = self.woods
        managed = smoothstep(0.05, 0.3, f["people"])
        stand = np.float32(0.5) + np.float32(0.27) * (f["stands"] + np.float32(0.5) * broad)
        if managed.any():
            stand += managed * (np.float32(0.55) * self.parcel_share - np.float32(0.25))
        age = clamp(stand, 0.05, 1.15)
        dense = clamp(np.float32(0.75) + np.float32(0.25) * self.growth, 0.45, 1.1)
        grown = f["canopy"] * (np.float32(0.3) + np.float32(0.7) * age) * dense
        grown = grown * (1 + np.float32(0.1) * small + np.float32(0.08) * crowns) * smoothstep(5, 15, self.warmest_c)
        out = np.where(self.is_tree, np.maximum(grown, np.float32(2.5)), np.float32(0))
        orchard = self.cover == covers().code("orchard")
        if orchard.any():
            out[orchard] = (3 + 2 * self.parcel_share)[orchard]
        return out

    @lazy
    def gradient(self) -> tuple[Float32, Float32]:
        """Rise per metre towards grid east and grid north (metric grids). The outermost pixels have no gradient."""
        step = np.float32(self.grid.step[1] / (2 * self.grid.step[0]))
        height = self.height_m
        east, north = np.zeros_like(height), np.zeros_like(height)
        east[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * step
        north[1:-1] = (height[:-2] - height[2:]) * step
        return east, north
