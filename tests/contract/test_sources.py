"""Properties of every source that a build relies on: synthetic planet, raster files, images without a georeference, Earth
Engine (emulator on loopback)."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from chips_world import folder_of
from ee_world import SEED
from rasters_world import small_world

from mmearth_data import BuildRecipe, load_catalog
from mmearth_data.building.quota import SharedLimiter
from mmearth_data.catalog.modality import Kind, Modality
from mmearth_data.catalog.tile import Place, tile_ids
from mmearth_data.sampling.files import read_rows
from mmearth_data.sources.base import Rejection, Source, Survey
from mmearth_data.sources.earthengine.session import SessionOptions
from mmearth_data.sources.earthengine.source import EarthEngineSource
from mmearth_data.sources.earthengine.survey import SceneRules
from mmearth_data.sources.labelled import LabelledSource
from mmearth_data.sources.labels.reading import read_labels
from mmearth_data.sources.labels.table import LabelTable
from mmearth_data.sources.opening import over_network
from mmearth_data.sources.synthetic import SyntheticSource

CATALOG = load_catalog()
STORED = tuple(m for m in CATALOG.select() if m.stored)
OF_FILES = ("rasters", "chips")
"""Sources with locations of their own."""
SIZE_PX = 16
LOCATIONS = ((9.5, 48.2), (-60.2, -3.1), (22.5, -19.5), (10.0, 85.0))
"""Longitude and latitude; the last one is outside of UTM."""


def place(lon: float, lat: float) -> Place:
    return Place(tile_id=int(tile_ids([lon], [lat], SIZE_PX)[0]), lon=lon, lat=lat, size_px=SIZE_PX)


class World(NamedTuple):
    """A source, the locations to survey, and its answers."""

    make: Callable[[], Source]
    source: Source
    places: list[Place]
    """Locations, of which the last one is rejected."""
    answers: list[Survey | Rejection]
    labels: tuple[Modality, ...] = ()
    """Modalities that the source adds to those of the catalog."""

    @property
    def surveys(self) -> list[Survey]:
        return [answer for answer in self.answers if isinstance(answer, Survey)]

    @property
    def stored(self) -> tuple[Modality, ...]:
        """Stored modalities of the catalog and of the source itself."""
        return tuple(m for m in CATALOG.extended(self.source.own_modalities()).select() if m.stored)

    @property
    def wanted(self) -> tuple[Modality, ...]:
        """Modalities that a build reads."""
        return self.source.modalities([m for m in self.stored if m.kind is not Kind.TILE_CATEGORICAL])

    @property
    def known(self) -> dict[str, Modality]:
        return {**CATALOG.extended(self.source.own_modalities()).modalities, **{m.name: m for m in self.labels}}


@pytest.fixture(scope="module", params=("synthetic", "rasters", "chips", "earthengine", "labelled"))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    places = [place(*lonlat) for lonlat in LOCATIONS]
    make: Callable[[], Source]
    labels: tuple[Modality, ...] = ()
    if request.param == "synthetic":
        make = lambda: SyntheticSource(SEED)  # noqa: E731
    elif request.param == "rasters":
        files = small_world(tmp_path_factory.mktemp("rasters"))
        make = files.source
        places = [*files.source().places(SIZE_PX)[:3], place(0.0, 0.0)]
    elif request.param == "chips":
        chips = folder_of(tmp_path_factory.mktemp("chips"))
        make = chips.source
        places = [*chips.source().places(SIZE_PX)[:3], place(0.0, 0.0)]
    elif request.param == "labelled":
        places = [replace(place, biome=3) for place in places]
        table = labelled_table(tmp_path_factory.mktemp("labelled") / "points.csv")
        labels = table.modalities
        make = lambda: LabelledSource(SyntheticSource(SEED), table)  # noqa: E731
    else:
        url = request.getfixturevalue("emulator_url")
        rules = SceneRules(seed=SEED, years=(2018, 2019), levels=("L2A", "L1C"), cloud_percent=10.0)
        options = SessionOptions(url=url, connections=4, timeout_s=120)
        make = lambda: EarthEngineSource(CATALOG, CATALOG.select(), rules, options)  # noqa: E731
    source = make()
    return World(make, source, places, source.survey(places), labels)


def labelled_table(path: Path) -> LabelTable:
    """Labels of the locations, from a table in another order."""
    cells = ["4.5,oak,a;b", ",beech,b", "7,,", "3,oak,c"]
    rows = [f"{lon},{lat},{text}" for (lon, lat), text in zip(LOCATIONS, cells, strict=True)]
    path.write_text("\n".join(["lon,lat,ph,tree,plants", *rows[::-1]]))
    frame = read_rows(path)
    ids = tile_ids(frame["lon"], frame["lat"], SIZE_PX)
    return LabelTable(ids, None, frame.index.to_numpy(), read_labels(path, frame, ("ph", "tree", "plants"), None, ()))


def arrays_of(source: Source, survey: Survey, wanted: tuple[Modality, ...]) -> dict[str, np.ndarray[Any, Any]]:
    return source.read(survey, [m for m in wanted if m.name not in survey.values])


def copied(source: Source) -> Source:
    """Copy of the source as another process gets it; a cluster replaces its limiter first."""
    remote = over_network(source)
    if remote is None:
        copy: Source = pickle.loads(pickle.dumps(source))
        return copy
    own, remote.limiter = remote.limiter, SharedLimiter()
    other: EarthEngineSource = pickle.loads(pickle.dumps(remote))
    other.limiter = own
    return other


def test_it_says_what_it_is(world: World) -> None:
    identity = world.source.identity()
    assert json.loads(json.dumps(identity)) == identity == world.make().identity()
    assert identity["name"] == world.source.name
    assert world.source.recipe_fields <= set(BuildRecipe.model_fields)
    assert world.source.synthetic == (world.source.name not in OF_FILES), "the emulator serves the synthetic planet"


def test_modalities_are_a_part_of_what_is_wanted_in_its_order(world: World) -> None:
    found = world.source.modalities(world.stored)
    assert found
    assert found == tuple(m for m in world.stored if m in found)
    assert world.source.modalities(world.stored[::-1]) == found[::-1]
    assert world.source.modalities([]) == ()


def test_locations_of_its_own_are_of_the_size_and_in_a_fixed_order(world: World) -> None:
    places = world.source.places(SIZE_PX)
    assert bool(places) == (world.source.name in OF_FILES)
    assert {place.size_px for place in places} <= {SIZE_PX}
    assert len({place.tile_id for place in places}) == len(places)
    assert repr(world.make().places(SIZE_PX)) == repr(places), "by their text, since NaN is not equal to itself"


def test_every_location_is_answered_in_order(world: World) -> None:
    assert [answer.place for answer in world.answers] == world.places
    assert len(world.surveys) >= 2
    last = world.answers[-1]
    assert isinstance(last, Rejection)
    assert last.reason
    assert world.source.survey([]) == []


def test_answers_depend_on_the_location_alone(world: World) -> None:
    other = world.make()
    one_by_one = [other.survey([place])[0] for place in world.places[::-1]]
    assert repr(one_by_one[::-1]) == repr(world.answers)


def test_surveys_have_a_grid_of_the_size_and_facts_for_the_record(world: World) -> None:
    for survey in world.surveys:
        assert survey.grid.size_px == SIZE_PX
        assert json.loads(json.dumps(survey.facts)) == survey.facts
        for name, values in survey.values.items():
            m = world.known[name]
            assert (np.shape(values), values.dtype) == (m.array_shape(SIZE_PX), m.dtype)


def test_labels_are_those_of_the_row_of_the_location(world: World) -> None:
    if world.labels:
        found = [survey.values for survey in world.surveys]
        assert [float(values["ph"][0]) for values in found[:1]] == [4.5]
        assert [int(values["tree"]) for values in found] == [1, 0, 255]
        assert [values["plants"].tolist() for values in found] == [[1, 1, 0], [0, 1, 0], [255, 255, 255]]
        assert [survey.facts["table_row"] for survey in world.surveys] == [5, 4, 3]
        (sea,) = world.source.survey([replace(world.places[0], biome=None)])
        assert isinstance(sea, Rejection)
        assert (sea.reason, sea.detail.partition(":")[0]) == ("at_sea", "row 5")
        assert world.source.modalities([*STORED, *world.labels])[-3:] == world.labels


def test_arrays_have_the_declared_shapes_and_types(world: World) -> None:
    for survey in world.surveys:
        arrays = arrays_of(world.source, survey, world.wanted)
        assert set(arrays) <= {m.name for m in world.wanted}
        assert any(world.known[name].kind.is_raster for name in arrays)
        for name, values in arrays.items():
            m = world.known[name]
            assert (values.shape, values.dtype) == (m.array_shape(SIZE_PX), m.dtype), name
            codes = {m.nodata, *(label.code for label in m.classes)}
            assert not m.classes or set(np.unique(values).tolist()) <= codes, name


def test_a_location_with_a_grid_gets_exactly_it_and_shares_pixels_with_its_neighbour(world: World) -> None:
    """As in a cover: the grid of the location is the grid of the tile, and overlapping tiles agree in every pixel."""
    if "cover" not in world.source.recipe_fields:
        assert "overlap_px" not in world.source.recipe_fields
        return
    first = world.surveys[0]
    shift = 3
    grid = replace(first.grid, ulx=first.grid.ulx + 10 * shift, uly=first.grid.uly - 10 * shift)
    (second,) = world.source.survey([replace(first.place, grid=grid)])
    assert isinstance(second, Survey)
    assert (second.grid, second.time_ms, second.s2_level) == (grid, first.time_ms, first.s2_level)
    ours, theirs = (arrays_of(world.source, survey, world.wanted) for survey in (first, second))
    rasters = [m.name for m in world.wanted if m.kind.is_raster and m.name in theirs]
    assert rasters
    for name in rasters:
        np.testing.assert_array_equal(theirs[name][:, :-shift, :-shift], ours[name][:, shift:, shift:], err_msg=name)


def test_pixels_depend_on_the_survey_alone(world: World) -> None:
    """Pixels are the same in another process, and whichever modalities are read together."""
    survey = world.surveys[0]
    whole = arrays_of(world.source, survey, world.wanted)
    source, request = copied(world.make()), pickle.loads(pickle.dumps(survey))
    again = arrays_of(source, request, world.wanted)
    assert again.keys() == whole.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(again[name], values)
    few = [m for m in world.wanted if m.name in whole][:2]
    for name, values in source.read(request, few).items():
        np.testing.assert_array_equal(values, whole[name])
