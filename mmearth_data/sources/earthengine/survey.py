"""The survey request: scenes, dates, grids, bands and values for each candidate of a batch.

One expression maps one function over a list of candidates, which is its only varying part. An element that may be
missing is never accessed directly: it is a list of zero or one elements, over which a function is mapped. (A single
null argument would fail the request for the whole batch.)

Some candidates need more: a scene of the other processing level, or the nearest scenes of other collections over all
years if there are none within a few weeks. A second survey requests these only for the candidates that need them. (The
service's own conditional, ``Algorithms.If``, may evaluate both of its branches.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ee

from mmearth_data.catalog.tile import LEVEL_NAMES, MAX_LAT, MIN_LAT, utm_epsg
from mmearth_data.errors import InputError, TileUnavailable
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.sources.draws import draw, draw_bits, year_window_ms
from mmearth_data.sources.earthengine.expressions import Template, holds, hole, polygon, touches
from mmearth_data.sources.earthengine.recipes import RECIPES, Found, Scene
from mmearth_data.sources.earthengine.recipes.kinds import parameters, ring
from mmearth_data.sources.earthengine.recipes.nearest import closest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.catalog.tile import Place
    from mmearth_data.sources.dated import NearDates
    from mmearth_data.sources.period import Period

CLEARANCE_M = 200.0
"""Margin around the tile that a footprint must also contain."""
GRANULE_DEG = 1.15
"""Distance that scenes extend beyond their zone: the side of a Sentinel-2 granule."""
NEVER = (0, 1)
"""A time window without scenes."""
FALLBACK = "L1C"
"""Level that exists for every scene, searched if the chosen level has none."""
HALF_BITS = 2**32
DAY_MS = 86_400_000
CLOUDS = "CLOUDY_PIXEL_PERCENTAGE"
TIME, INDEX = "system:time_start", "system:index"
AWAY = "milliseconds_from_middle"
"""Property of scenes during a survey of a cover: distance from the middle of the period."""
RANK = "rank_by_day_and_level"
"""Property of scenes during a survey by dates: distance in days times the number of levels, plus position of the level."""
OWN_INDEX = "own_index"
"""Property that stores the index of a scene, since merging collections changes it."""
LEVEL_CODES = {name: code for code, name in LEVEL_NAMES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneRules:
    """Which scenes are eligible, and how one is chosen."""

    seed: int  # Seed of every random choice
    years: tuple[int, ...]  # One is chosen at random for each tile
    levels: tuple[str, ...]  # Likewise; Level 2A falls back to 1C
    cloud_percent: float  # Scenes must have fewer clouds
    period: Period | None = None  # For a cover, whose tiles have its least cloudy scene instead of a random one
    near: NearDates | None = None  # For locations with dates, whose tiles have the nearest scene instead
    grids: bool = False  # Whether locations have pixel grids, to which scenes in another CRS are resampled

    def year(self, place: Place) -> int:
        """Year of a location's scene."""
        return self.years[draw(self.seed, place.tile_id, "year", len(self.years))]

    @property
    def searched(self) -> tuple[str, ...]:
        """Levels of which scenes may be used."""
        drawn = self.period is None and self.near is None
        return tuple(dict.fromkeys([*self.levels, FALLBACK])) if drawn else self.levels

    def rounds(self, place: Place) -> tuple[tuple[str, ...], ...]:
        """Levels to search together, in rounds: a round is searched only if the previous ones found no scene."""
        if self.period is not None or self.near is not None:
            return (self.levels,)
        level = self.levels[draw(self.seed, place.tile_id, "level", len(self.levels))]
        return tuple((name,) for name in dict.fromkeys((level, FALLBACK)))

    def window_ms(self, place: Place) -> tuple[int, int]:
        """[start, end) of a location's scenes."""
        if self.near is not None:
            return self.near.window_ms(place)
        return year_window_ms(self.year(place)) if self.period is None else self.period.window_ms

    def years_ms(self, place: Place) -> tuple[int, int]:
        """[start, end) of scenes of other collections: from the first year to the last, or around the location's date."""
        if self.near is not None:
            return self.near.years_ms(place)
        if self.period is not None:
            return self.period.years_ms
        return year_window_ms(min(self.years))[0], year_window_ms(max(self.years))[1]

    def no_scene(self, place: Place) -> TileUnavailable:
        """Refusal of a location without a scene."""
        if self.near is not None:
            return self.near.no_scene(place, self.levels, self.cloud_percent)
        when = f"of {self.year(place)}" if self.period is None else self.period.words()
        levels = " or ".join(self.rounds(place)[-1])
        detail = f"no {levels} scene {when} with less than {self.cloud_percent:g} % clouds"
        return TileUnavailable("sentinel2_missing", detail)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One entry of a survey request."""

    place: Place  # Candidate that the question is about
    given: Mapping[str, Any]  # What the expression receives about it, JSON-ready
    # Scene found by the first survey, if scenes of other collections are missing; None searches for a scene
    scene: Mapping[str, Any] | None = None


def candidate(place: Place, rules: SceneRules, levels: Sequence[str], wanted: Sequence[str]) -> dict[str, Any]:
    """Return what the survey receives about a candidate, JSON-ready.

    ``levels`` are those of the expression, in its order, and ``wanted`` those to search. Raises `TileUnavailable` for
    locations beyond 84 N or 80 S, and dates outside the archive.
    """
    own = place.own_grid.epsg
    bits = draw_bits(rules.seed, place.tile_id, "scene")
    grids = {f"EPSG:{epsg}": place.grid_in(epsg) for epsg in possible_zones(place)}
    return {
        "crs": f"EPSG:{own}",
        "windows": [list(rules.window_ms(place) if level in wanted else NEVER) for level in levels],
        "years": list(rules.years_ms(place)),
        **({} if rules.near is None else {"date": place.date_ms}),
        # The random number has 64 bits, the service's numbers have 53: it is multiplied by the number of scenes in two
        # halves.
        "high": bits // HALF_BITS,
        "low": bits % HALF_BITS,
        "tiles": {crs: ring(grid, 0.0) for crs, grid in grids.items()},
        "boxes": {crs: ring(grid, CLEARANCE_M) for crs, grid in grids.items()},
    }


def possible_zones(place: Place) -> list[int]:
    """EPSG codes that the grid of a location's tile may have: that of its given grid, or those of the scenes there."""
    return near_zones(place) if place.grid is None else [place.grid.epsg]


def near_zones(place: Place) -> list[int]:
    """EPSG codes of the zones whose scenes may reach a location, its own first."""
    reach = GRANULE_DEG / math.cos(math.radians(place.lat))
    steps = [(0.0, 0.0)] + [(x, y) for x in (0.0, -reach, reach) for y in (0.0, -1.0, 1.0)]
    found = [
        utm_epsg((place.lon + x + 180) % 360 - 180, place.lat + y)
        for x, y in steps
        if MIN_LAT <= place.lat + y <= MAX_LAT
    ]
    return list(dict.fromkeys(found))


class SurveyPlan:
    """The survey of one build: its expression, and the reader of its answers.

    The scene of ``base`` (see `base_modality`) defines grid and time; ``modalities`` are those to deliver.
    """

    def __init__(self, base: Modality, modalities: Sequence[Modality], rules: SceneRules) -> None:
        self.base = base
        self.rules = rules
        self.modalities = tuple(m for m in modalities if RECIPES[m.recipe["name"]].survey is not None)
        self.levels = scene_levels(base, rules)
        # The client would count `self` of a bound method among the arguments.
        function = lambda element: self._candidate(element, again=False)  # noqa: E731
        self._first = Template(ee.List(hole("candidates")).map(function))

    @cached_property
    def _second(self) -> Template:
        """Template of the second survey: candidates at the other level, and scenes without matches."""
        candidates = ee.List(hole("candidates")).map(lambda element: self._candidate(element, again=True))
        scenes = ee.List(hole("scenes")).map(lambda element: self._further(element))
        return Template(ee.List([candidates, scenes]))

    def rounds(self, place: Place) -> list[tuple[str, ...]]:
        """Levels to search for a scene, in rounds."""
        return [levels for levels in self.rules.rounds(place) if not set(levels).isdisjoint(self.levels)]

    def question(self, place: Place) -> Question:
        """First request about a location.

        Raises `TileUnavailable` for locations beyond 84 N or 80 S, and dates outside the archive.
        """
        if self.rules.near is not None:
            self.rules.near.require_archive(place, self.rules.levels)
        return Question(place=place, given=candidate(place, self.rules, self.levels, self.rounds(place)[0]))

    def further(self, question: Question, scene: Mapping[str, Any] | None) -> Question | None:
        """Second question, about a candidate whose first answer is incomplete; None if it is complete."""
        place = question.place
        if scene is None:
            others = self.rounds(place)[1:]
            return Question(place=place, given=candidate(place, self.rules, self.levels, others[0])) if others else None
        years = self.rules.years_ms(place)
        windows = {m.name: _open(scene["answers"][m.name], years) for m in self._searched}
        epsg = epsg_of(scene)
        if not any(any(window != NEVER for window in of.values()) for of in windows.values()) or (
            epsg not in possible_zones(place)
        ):
            return None
        grid = place.grid_in(epsg)
        given = {"time": scene["time"], "crs": scene["crs"], "box": ring(grid, CLEARANCE_M), "windows": windows}
        given["years"] = list(years)
        return Question(place=place, given=given, scene=scene)

    @property
    def _searched(self) -> list[Modality]:
        return [m for m in self.modalities if RECIPES[m.recipe["name"]].search is not None]

    def expression(self, questions: Sequence[Question], *, again: bool) -> str:
        """Encode the expression for a batch of questions of the first or the second survey."""
        candidates = [dict(question.given) for question in questions if question.scene is None]
        if not again:
            return self._first.fill({"candidates": candidates})
        scenes = [dict(question.given) for question in questions if question.scene is not None]
        return self._second.fill({"candidates": candidates, "scenes": scenes})

    def answers(self, questions: Sequence[Question], result: Any, *, again: bool) -> list[Mapping[str, Any] | None]:  # noqa: ANN401 - JSON
        """Scene of each question with everything known about it; None if no scene was found.

        Raises an exception if the result does not answer all questions, or a scene cannot be read.
        """
        candidates, scenes = (_listed(part) for part in (result if again else (result, [])))
        searched = [question for question in questions if question.scene is None]
        if (len(candidates), len(scenes)) != (len(searched), len(questions) - len(searched)):
            raise ValueError(f"expected answers to {len(questions)} questions, got {len(candidates) + len(scenes)}")
        left, further = map(iter, (candidates, scenes))
        out: list[Mapping[str, Any] | None] = []
        for question in questions:
            known = question.scene
            scene = next(iter(_listed(next(left))), None) if known is None else _completed(known, next(further))
            self._require_readable(question, scene, again=again)
            out.append(scene)
        return out

    def _require_readable(self, question: Question, scene: Mapping[str, Any] | None, *, again: bool) -> None:
        """Read a scene as it will be read later, to detect problems while the request can still be repeated."""
        if scene is not None:
            self.read(question.place, scene)
            if not again:
                self.further(question, scene)

    def _candidate(self, element: ee.ComputedObject, *, again: bool) -> ee.List:
        """List of zero or one: everything known about the candidate's scene."""
        given = ee.Dictionary(element)
        scenes = self._chosen(given)
        return scenes.map(lambda scene: self._describe(given, ee.Image(scene), again=again))

    def _chosen(self, given: ee.Dictionary) -> ee.List:
        """Scene of a candidate: a list of zero or one."""
        if self.rules.near is not None:
            return self._nearest(given)
        choose = self._drawn if self.rules.period is None else self._least_cloudy
        scenes = choose(given, 0, self.levels[0])
        for position, level in enumerate(self.levels[1:], 1):  # only one level has a window
            scenes = scenes.cat(choose(given, position, level))
        return scenes

    def _eligible(self, given: ee.Dictionary, position: int, level: str) -> ee.ImageCollection:
        """Scenes of a level that a candidate may have."""
        crs = given.get("crs")
        box = polygon(ee.Dictionary(given.get("boxes")).get(crs), crs)
        window = ee.List(ee.List(given.get("windows")).get(position))
        return (
            ee.ImageCollection(self.base.asset[level])
            .filterDate(window.get(0), window.get(1))
            .filter(touches(box))
            .filter(ee.Filter.lt(CLOUDS, self.rules.cloud_percent))
            .filter(holds(box))
        )

    def _least_cloudy(self, given: ee.Dictionary, position: int, level: str) -> ee.List:
        """Least cloudy scene of the period, among several the one nearest to its middle: a list of zero or one."""
        assert self.rules.period is not None
        middle = self.rules.period.middle_ms
        scenes = self._eligible(given, position, level).map(
            lambda scene: scene.set(AWAY, ee.Number(scene.get(TIME)).subtract(middle).abs())
        )
        return least(scenes, (CLOUDS, AWAY, INDEX)).map(lambda scene: ee.Image(scene).set("level", level))

    def _nearest(self, given: ee.Dictionary) -> ee.List:
        """Scene nearest to the candidate's date, by the rule in `mmearth_data.sources.dated`: a list of zero or one."""
        found = [self._ranked(given, position, level) for position, level in enumerate(self.levels)]
        scenes = found[0]
        for others in found[1:]:
            scenes = scenes.merge(others)
        return least(scenes, (RANK, CLOUDS, TIME, OWN_INDEX))

    def _ranked(self, given: ee.Dictionary, position: int, level: str) -> ee.ImageCollection:
        """Eligible scenes of a level with their rank by day and level."""

        def ranked(scene: ee.Image) -> ee.Image:
            days = ee.Number(scene.get(TIME)).subtract(given.get("date")).divide(DAY_MS).floor().abs()
            rank = days.multiply(len(self.levels)).add(position)
            return ee.Image(scene.set({RANK: rank, "level": level, OWN_INDEX: scene.get(INDEX)}))

        return self._eligible(given, position, level).map(ranked)

    def _drawn(self, given: ee.Dictionary, position: int, level: str) -> ee.List:
        """Scene chosen among the eligible scenes of a level: a list of zero or one."""
        scenes = self._eligible(given, position, level)
        count = scenes.size()
        low = ee.Number(given.get("low")).multiply(count).divide(HALF_BITS).floor()
        index = ee.Number(given.get("high")).multiply(count).add(low).divide(HALF_BITS).floor()
        return scenes.sort(INDEX).toList(1, index.toInt()).map(lambda scene: ee.Image(scene).set("level", level))

    def _further(self, element: ee.ComputedObject) -> ee.Dictionary:
        given = ee.Dictionary(element)
        crs = given.get("crs")
        box = polygon(given.get("box"), crs)
        scene = Scene(
            time=ee.Number(given.get("time")), crs=ee.String(crs), tile=box, box=box, years=_pair(given.get("years"))
        )
        windows = ee.Dictionary(given.get("windows"))
        return ee.Dictionary(
            {
                m.name: RECIPES[m.recipe["name"]].search(m, scene, ee.Dictionary(windows.get(m.name)))  # type: ignore[misc]
                for m in self._searched
            }
        )

    def _describe(self, given: ee.Dictionary, image: ee.Image, *, again: bool) -> ee.Dictionary:
        native = parameters(self.base)["native"][0]
        scene_crs = image.select(self.base.asset_bands.get(native, native)).projection().crs()
        own = given.get("crs")
        fixed = self.rules.grids or self.rules.period is not None
        crs = ee.String(own) if fixed else scene_crs
        tiles, boxes = ee.Dictionary(given.get("tiles")), ee.Dictionary(given.get("boxes"))
        time = ee.Number(image.get(TIME))
        scene = Scene(
            time=time,
            crs=crs,
            tile=polygon(tiles.get(crs, tiles.get(own)), crs),
            box=polygon(boxes.get(crs, boxes.get(own)), crs),
            years=_pair(given.get("years")),
        )
        known = {
            "level": image.get("level"),
            "index": image.get(INDEX if self.rules.near is None else OWN_INDEX),
            "time": time,
            "crs": crs,
            **({"scene_crs": scene_crs} if fixed else {}),
            "bands": image.bandNames(),
            "clouds": image.get(CLOUDS),
        }
        answers = {m.name: self._answer(m, scene, again=again) for m in self.modalities}
        asked = {name: answer for name, answer in answers.items() if answer is not None}
        return ee.Dictionary({**known, "answers": ee.Dictionary(asked)} if asked else known)

    def _answer(self, m: Modality, scene: Scene, *, again: bool) -> Any:  # noqa: ANN401 - whatever the recipe computes
        """Request what a modality needs. There is no third survey, so the second one searches all years at once."""
        kind = RECIPES[m.recipe["name"]]
        if again and kind.search is not None:
            return kind.search(m, scene, None)
        return None if kind.survey is None else kind.survey(m, scene)

    def read(self, place: Place, scene: Mapping[str, Any] | None) -> Survey | Rejection:
        """Convert the answer for one candidate to the build's types."""
        if scene is None:
            return outside(place, self.rules.no_scene(place))
        epsg = epsg_of(scene)
        if epsg not in possible_zones(place):
            return Rejection(place=place, reason="sentinel2_grid", detail=f"scene {scene['index']} is in EPSG:{epsg}")
        found = Found(
            level=scene["level"],
            scene=f"{self.base.asset[scene['level']]}/{scene['index']}",
            bands=frozenset(scene["bands"]),
            time_ms=int(scene["time"]),
            grid=place.grid_in(epsg),
            resampled=scene.get("scene_crs", scene["crs"]) != scene["crs"],
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


def scene_levels(base: Modality, rules: SceneRules) -> list[str]:
    """List the processing levels that are searched for scenes."""
    return [level for level in rules.searched if level in base.asset]


def least(scenes: ee.ImageCollection, properties: Sequence[str]) -> ee.List:
    """First scene in the order of several properties: a list of zero or one.

    Each step keeps the scenes whose property equals that of the first one, since `ImageCollection.sort` sorts by one
    property, and the order of scenes with equal values is not documented.
    """

    def first(_: ee.ComputedObject) -> ee.Image:
        kept = scenes
        for name in properties[:-1]:
            kept = kept.filter(ee.Filter.eq(name, ee.Image(kept.sort(name).first()).get(name)))
        return ee.Image(kept.sort(properties[-1]).first())

    return scenes.toList(1).map(first)


def _pair(window: ee.ComputedObject) -> tuple[ee.ComputedObject, ee.ComputedObject]:
    """Start and end of a window of time."""
    both = ee.List(window)
    return both.get(0), both.get(1)


def _open(found: Mapping[str, Any], years: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Group of a modality's scenes -> window to search: all years if the first survey found none."""
    return {name: NEVER if scenes else years for name, scenes in found.items()}


def _listed(part: Any) -> list[Any]:  # noqa: ANN401 - JSON
    """Check that a part of an answer is a list."""
    if not isinstance(part, list):
        raise ValueError(f"expected a list, got {str(part)[:80]!r}")  # noqa: TRY004 - as for any other answer
    return part


def epsg_of(scene: Mapping[str, Any]) -> int:
    """EPSG code of a scene's CRS."""
    return int(str(scene["crs"]).removeprefix("EPSG:"))


def _completed(scene: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Add what the second survey found to a scene where the first one found nothing."""
    answers = dict(scene["answers"])
    for name, groups in found.items():
        answers[name] = {group: scenes or groups[group] for group, scenes in answers[name].items()}
    return {**scene, "answers": answers}


def base_modality(modalities: Sequence[Modality]) -> Modality:
    """Entry of the catalog whose scene defines a tile's grid and time. Raises `InputError` when there is none."""
    for m in modalities:
        if m.recipe.get("name") == "base-scene" and parameters(m).get("native"):
            return m
    raise InputError(
        "Expected a modality in the catalog with the recipe base-scene and native bands, found none; "
        "without a base scene a tile has neither grid nor date."
    )


def outside(place: Place, refusal: TileUnavailable) -> Rejection:
    """Rejection of a location that was refused."""
    return Rejection(place=place, reason=refusal.reason, detail=refusal.detail)
