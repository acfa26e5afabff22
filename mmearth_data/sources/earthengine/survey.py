"""The first kind of request: for a batch of candidates, which scenes, dates, grids, bands and numbers would each get?

One expression maps one function over a list of candidates, which are its only varying part. An element that may be
missing is never touched: it is a list of none or one, over which a function is mapped. (One null argument would fail
the request for the whole batch.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ee

from mmearth_data.errors import InputError, TileUnavailable
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.sources.draws import draw, draw_bits, year_window_ms
from mmearth_data.sources.earthengine.expressions import Template, hole, polygon
from mmearth_data.sources.earthengine.recipes import RECIPES, Found, Scene
from mmearth_data.sources.earthengine.recipes.kinds import parameters, ring
from mmearth_data.sources.earthengine.recipes.nearest import closest
from mmearth_data.tile import LEVEL_NAMES, MAX_LAT, MIN_LAT, TileGrid, utm_epsg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmearth_data.modality import Modality
    from mmearth_data.tile import Place

CLEARANCE_M = 200.0
"""A footprint must contain the tile and so much around it."""
GRANULE_DEG = 1.15
"""Scenes reach so far beyond their zone: the side of a Sentinel-2 granule."""
NEVER = (0, 1)
"""A window without scenes."""
FALLBACK = "L1C"
"""Level that exists wherever any does."""
HALF_BITS = 2**32
DAY_MS = 86_400_000
CLOUDS = "CLOUDY_PIXEL_PERCENTAGE"
LEVEL_CODES = {name: code for code, name in LEVEL_NAMES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneRules:
    """Which scenes count, and how one is drawn.

    Attributes
    ----------
    seed
        Enters every draw.
    years
        One is drawn for each tile.
    levels
        Likewise; Level 2A falls back to 1C.
    cloud_percent
        Only scenes with fewer clouds.
    """

    seed: int
    years: tuple[int, ...]
    levels: tuple[str, ...]
    cloud_percent: float

    def year(self, place: Place) -> int:
        """Year of a place's scene."""
        return self.years[draw(self.seed, place.tile_id, "year", len(self.years))]

    def tried(self, place: Place) -> tuple[str, ...]:
        """Levels to look in, in order."""
        level = self.levels[draw(self.seed, place.tile_id, "level", len(self.levels))]
        return tuple(dict.fromkeys((level, FALLBACK)))

    @property
    def all_years_ms(self) -> tuple[int, int]:
        """[start, end) from the first year to the last."""
        return year_window_ms(min(self.years))[0], year_window_ms(max(self.years))[1]


def candidate(place: Place, rules: SceneRules, levels: Sequence[str]) -> dict[str, Any]:
    """Return what the survey is told about a place, JSON-ready.

    Raises
    ------
    TileUnavailable
        Beyond 84 N or 80 S.
    """
    own = utm_epsg(place.lon, place.lat)
    tried, bits = rules.tried(place), draw_bits(rules.seed, place.tile_id, "scene")
    window = year_window_ms(rules.year(place))
    grids = {f"EPSG:{epsg}": TileGrid.around(place.lon, place.lat, epsg, place.size_px) for epsg in near_zones(place)}
    return {
        "crs": f"EPSG:{own}",
        "windows": [list(window if level in tried else NEVER) for level in levels],
        # The draw has 64 bits and the service's numbers 53: the product with the number of scenes is taken in halves.
        "high": bits // HALF_BITS,
        "low": bits % HALF_BITS,
        "tiles": {crs: ring(grid, 0.0) for crs, grid in grids.items()},
        "boxes": {crs: ring(grid, CLEARANCE_M) for crs, grid in grids.items()},
    }


def near_zones(place: Place) -> list[int]:
    """EPSG codes of the zones whose scenes may reach a place, its own first."""
    reach = GRANULE_DEG / math.cos(math.radians(place.lat))
    steps = [(0.0, 0.0)] + [(x, y) for x in (0.0, -reach, reach) for y in (0.0, -1.0, 1.0)]
    found = [
        utm_epsg((place.lon + x + 180) % 360 - 180, place.lat + y)
        for x, y in steps
        if MIN_LAT <= place.lat + y <= MAX_LAT
    ]
    return list(dict.fromkeys(found))


class SurveyPlan:
    """The survey of one build: its expression, and how its answers are read.

    Parameters
    ----------
    base
        Entry whose scene decides grid and time (`base_modality`).
    modalities
        What is to be delivered.
    rules
        Which scenes count.
    """

    def __init__(self, base: Modality, modalities: Sequence[Modality], rules: SceneRules) -> None:
        self.base = base
        self.rules = rules
        self.modalities = tuple(m for m in modalities if RECIPES[m.recipe["name"]].survey is not None)
        order = [*rules.levels, FALLBACK]
        self.levels = [level for level in dict.fromkeys(order) if level in base.asset]
        # A bound method would count `self` among the arguments.
        function = lambda element: self._candidate(element)  # noqa: E731
        self.template = Template(ee.List(hole("candidates")).map(function))

    def candidate(self, place: Place) -> dict[str, Any]:
        """Return what the survey is told about a place."""
        return candidate(place, self.rules, self.levels)

    def expression(self, candidates: Sequence[Mapping[str, Any]]) -> str:
        """Encode the expression for a batch of candidates."""
        return self.template.fill({"candidates": list(candidates)})

    def _candidate(self, element: ee.ComputedObject) -> ee.List:
        """List of none or one: all that is known of the candidate's scene."""
        given = ee.Dictionary(element)
        drawn = [self._drawn(given, position, level) for position, level in enumerate(self.levels)]
        scenes = drawn[-1]
        for preferred in drawn[-2::-1]:
            scenes = ee.List(ee.Algorithms.If(preferred.size().gt(0), preferred, scenes))
        return scenes.map(lambda scene: self._describe(given, ee.Image(scene)))

    def _drawn(self, given: ee.Dictionary, position: int, level: str) -> ee.List:
        """Scene drawn among those of a level that count: a list of none or one."""
        crs = given.get("crs")
        box = polygon(ee.Dictionary(given.get("boxes")).get(crs), crs)
        window = ee.List(ee.List(given.get("windows")).get(position))
        scenes = (
            ee.ImageCollection(self.base.asset[level])
            .filterDate(window.get(0), window.get(1))
            .filterBounds(box)
            .filter(ee.Filter.lt(CLOUDS, self.rules.cloud_percent))
            .filter(ee.Filter.contains(leftField=".geo", rightValue=box))
        )
        count = scenes.size()
        low = ee.Number(given.get("low")).multiply(count).divide(HALF_BITS).floor()
        index = ee.Number(given.get("high")).multiply(count).add(low).divide(HALF_BITS).floor()
        return (
            scenes.sort("system:index").toList(1, index.toInt()).map(lambda scene: ee.Image(scene).set("level", level))
        )

    def _describe(self, given: ee.Dictionary, image: ee.Image) -> ee.Dictionary:
        native = parameters(self.base)["native"][0]
        crs = image.select(self.base.asset_bands.get(native, native)).projection().crs()
        own = given.get("crs")
        tiles, boxes = ee.Dictionary(given.get("tiles")), ee.Dictionary(given.get("boxes"))
        time = ee.Number(image.get("system:time_start"))
        scene = Scene(
            time=time,
            crs=crs,
            tile=polygon(tiles.get(crs, tiles.get(own)), crs),
            box=polygon(boxes.get(crs, boxes.get(own)), crs),
            years=self.rules.all_years_ms,
        )
        known = {
            "level": image.get("level"),
            "index": image.get("system:index"),
            "time": time,
            "crs": crs,
            "bands": image.bandNames(),
            "clouds": image.get(CLOUDS),
        }
        answers = {m.name: RECIPES[m.recipe["name"]].survey(m, scene) for m in self.modalities}  # type: ignore[misc]
        asked = {name: answer for name, answer in answers.items() if answer is not None}
        return ee.Dictionary({**known, "answers": ee.Dictionary(asked)} if asked else known)

    def read(self, place: Place, answer: Sequence[Mapping[str, Any]]) -> Survey | Rejection:
        """Answer for one candidate, as the build wants it."""
        if not answer:
            detail = (
                f"no {self.rules.tried(place)[-1]} scene of {self.rules.year(place)} "
                f"with less than {self.rules.cloud_percent:g} % clouds"
            )
            return Rejection(place=place, reason="sentinel2_missing", detail=detail)
        scene = answer[0]
        epsg = int(str(scene["crs"]).removeprefix("EPSG:"))
        if epsg not in near_zones(place):
            return Rejection(place=place, reason="sentinel2_grid", detail=f"scene {scene['index']} lies in EPSG:{epsg}")
        found = Found(
            level=scene["level"],
            scene=f"{self.base.asset[scene['level']]}/{scene['index']}",
            bands=frozenset(scene["bands"]),
            time_ms=int(scene["time"]),
            grid=TileGrid.around(place.lon, place.lat, epsg, place.size_px),
            answers=scene.get("answers", {}),
        )
        return self._survey(place, found, scene)

    def _survey(self, place: Place, found: Found, scene: Mapping[str, Any]) -> Survey:
        facts: dict[str, Any] = {self.base.name: found.scene, "cloud_percent": scene["clouds"]}
        values, days = {}, {}
        for m in self.modalities:
            kind, answer = RECIPES[m.recipe["name"]], found.answers.get(m.name)
            if kind.values is not None:
                values[m.name] = kind.values(m, answer)
            elif isinstance(answer, dict):
                for way, other in closest(answer, found.time_ms).items():
                    facts["_".join(filter(None, (m.name, way.lower())))] = other["index"]
                    days[way] = (other["time"] - found.time_ms) / DAY_MS
        return Survey(
            place=place,
            grid=found.grid,
            time_ms=found.time_ms,
            s2_level=LEVEL_CODES[found.level],
            s1_asc_days=days.get("ASCENDING", math.nan),
            s1_desc_days=days.get("DESCENDING", math.nan),
            values=values,
            facts=facts,
            request=found,
        )


def base_modality(modalities: Sequence[Modality]) -> Modality:
    """Entry of the catalog whose scene decides a tile's grid and time.

    Raises
    ------
    InputError
        When there is none.
    """
    for m in modalities:
        if m.recipe.get("name") == "base-scene" and parameters(m).get("native"):
            return m
    raise InputError(
        "Expected a modality in the catalog with the recipe base-scene and native bands, found none; "
        "without a base scene a tile has neither grid nor date."
    )


def outside(place: Place, refusal: TileUnavailable) -> Rejection:
    """Rejection of a place that was refused."""
    return Rejection(place=place, reason=refusal.reason, detail=refusal.detail)
