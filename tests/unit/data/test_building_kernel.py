"""Filling a shard: reserves replace refused locations by the rules, whatever the threads do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from mmearth_data.building.kernel import fill_shard
from mmearth_data.building.plan import Reserve, ShardPlan, Slot, random_slots
from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.modality import Modality
from mmearth_data.catalog.tile import Place, TileGrid
from mmearth_data.errors import TileUnavailable
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.store.schema import StoreLayout

SIZE = 16
MODALITIES = load_catalog().select(["sentinel2", "era5", "biome", "eco_region"])
LAYOUT = StoreLayout(modalities=MODALITIES, tiles=8, size_px=SIZE, tiles_per_shard=8)


class NumberedSource:
    """Delivers a location's id as its pixels; refuses the given ids, slower ones first."""

    name = "numbered"
    synthetic = True

    def __init__(self, refused_at_survey: set[int], refused_at_read: set[int]) -> None:
        self.refused_at_survey = refused_at_survey
        self.refused_at_read = refused_at_read
        self.surveys: list[list[int]] = []

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def modalities(self, wanted: Sequence[Modality]) -> tuple[Modality, ...]:
        return tuple(wanted)

    def survey(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        self.surveys.append([p.tile_id for p in places])
        return [
            Rejection(place=p, reason="no_scene", detail="none in the window")
            if p.tile_id in self.refused_at_survey
            else Survey(place=p, grid=TileGrid(epsg=32632, ulx=0.0, uly=0.0, size_px=SIZE), time_ms=1)
            for p in places
        ]

    def read(self, survey: Survey, modalities: Sequence[Modality]) -> dict[str, np.ndarray[Any, Any]]:
        time.sleep(0.001 * (survey.place.tile_id % 3))
        if survey.place.tile_id in self.refused_at_read:
            raise TileUnavailable("sentinel2_nodata", "4 % masked")
        return {m.name: np.full(m.array_shape(SIZE), survey.place.tile_id, m.dtype) for m in modalities}


def place(tile_id: int, biome: int, eco_region: int) -> Place:
    return Place(tile_id=tile_id, lon=tile_id / 10, lat=1.0, size_px=SIZE, biome=biome, eco_region=eco_region)


def plan() -> ShardPlan:
    slots = tuple(Slot(row=i, split=i // 6, place=place(i + 1, i % 2, i % 4)) for i in range(8))
    reserves = (
        Reserve(split=1, place=place(101, 0, 0)),
        Reserve(split=0, place=place(102, 1, 3)),
        Reserve(split=0, place=place(103, 0, 2)),
        Reserve(split=0, place=place(104, 5, 9)),
        Reserve(split=0, place=place(105, 0, 0)),
    )
    return ShardPlan(shard=0, slots=slots, reserves=reserves)


def fill(source: NumberedSource, threads: int = 4) -> tuple[list[int], Any]:
    with ThreadPoolExecutor(threads) as pool:
        shard = fill_shard(plan(), source.survey, source, LAYOUT, pool)
    return shard.columns["tile_id"].tolist(), shard


def test_without_refusals_every_slot_gets_its_primary() -> None:
    ids, shard = fill(NumberedSource(set(), set()))
    assert ids == [1, 2, 3, 4, 5, 6, 7, 8]
    assert shard.filled == 8
    assert shard.rejected == []
    for row in range(8):
        assert np.all(shard.rasters["sentinel2"][row] == row + 1)
        assert np.all(shard.columns["era5"][row] == row + 1)
    assert shard.columns["biome"].tolist() == [0, 1] * 4


def test_a_refused_slot_takes_its_ecoregion_then_biome_then_split() -> None:
    # slot 0: ecoregion 0 -> 105; slot 1: ecoregion 1 has no reserve, biome 1 -> 102;
    # slot 4: ecoregion 0 used up, biome 0 -> 103; slot 5: nothing of its own, split -> 104
    ids, shard = fill(NumberedSource({1, 5}, {2, 6}))
    assert ids == [105, 102, 3, 4, 103, 104, 7, 8]
    reasons = {row["tile_id"]: (row["reason"], row["slot"]) for row in shard.rejected}
    assert reasons == {
        1: ("no_scene", 0),
        5: ("no_scene", 4),
        2: ("sentinel2_nodata", 1),
        6: ("sentinel2_nodata", 5),
    }


def test_reserves_of_another_split_are_never_taken_and_a_slot_may_stay_empty() -> None:
    ids, shard = fill(NumberedSource({1, 2, 3, 4, 5}, set()))
    assert 101 not in ids
    empty = [row for row, tile_id in enumerate(ids) if tile_id == 0]
    assert len(empty) == 1
    (row,) = empty
    assert shard.columns["split"][row] == 255
    assert np.all(shard.rasters["sentinel2"][row] == 0)
    assert np.isnan(shard.columns["lon"][row])
    assert shard.columns["biome"][row] == 255


def test_a_refused_reserve_is_replaced_in_the_next_round() -> None:
    source = NumberedSource({1, 105}, set())
    ids, _ = fill(source)
    assert ids[0] == 103
    assert source.surveys == [[1, 2, 3, 4, 5, 6, 7, 8], [105], [103]]


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_threads_change_nothing(threads: int) -> None:
    ids, shard = fill(NumberedSource({1, 5}, {2, 6}), threads)
    reference_ids, reference = fill(NumberedSource({1, 5}, {2, 6}), 1)
    assert ids == reference_ids
    assert shard.rejected == reference.rejected
    for name, array in reference.rasters.items():
        np.testing.assert_array_equal(shard.rasters[name], array)


def test_random_slots_meet_the_shares_exactly_and_permute() -> None:
    order, split = random_slots(45, (90, 5, 5), seed=3)
    assert sorted(order.tolist()) == list(range(45))
    assert np.bincount(split, minlength=3).tolist() in ([41, 2, 2], [40, 3, 2], [40, 2, 3])
    assert np.all(np.diff(split.astype(int)) >= 0)
    again, _ = random_slots(45, (90, 5, 5), seed=3)
    np.testing.assert_array_equal(order, again)
