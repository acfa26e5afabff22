"""Splits by spatial block: exact shares, cells of one split, the guard between them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import shapely
from pyproj import Geod
from sampling_world import bounds_of_cells, cells_of, draw, world

from mmearth_data.geography.equal_area import CellGrid
from mmearth_data.geography.regions import resolve_region
from mmearth_data.sampling import Sample
from mmearth_data.sampling.blocks import TEST, TRAIN, VAL, assign_blocks, hashed

GEOD = Geod(ellps="WGS84")
NAMES = ("train", "val", "test")


def shares(sample: Sample) -> list[float]:
    split = sample.frame["split"][sample.frame["slot"].notna()]
    return [float((split == code).mean() * 100) for code in range(3)]


def cells_by_split(sample: Sample) -> pd.Series:
    """Split of every cell that contains a location; fails where one cell contains two splits."""
    frame, width = sample.frame, sample.report.cell_width_m
    assert width is not None
    cell = cells_of(frame["lon"].to_numpy(), frame["lat"].to_numpy(), width)
    by_cell = pd.Series(frame["split"].to_numpy()).groupby(cell)
    assert (by_cell.min() == by_cell.max()).all()
    return by_cell.first()


def gap_m(lon: np.ndarray, lat: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Geodesic distance from points to a cell: to the nearest point of its rectangle in degrees."""
    middle = (box[0] + box[2]) / 2
    turned = (lon - middle + 180) % 360 - 180 + middle
    return GEOD.inv(turned, lat, np.clip(turned, box[0], box[2]), np.clip(lat, box[1], box[3]))[2]


def nearest_m(sample: Sample, of: int, to: tuple[int, ...]) -> float:
    """Least distance between locations of a split and cells that contain locations of others."""
    frame, split = sample.frame, cells_by_split(sample)
    ours = frame[frame["split"] == of]
    boxes = bounds_of_cells(split.index[split.isin(to)].to_numpy(), sample.report.cell_width_m or math.nan)
    return min(gap_m(ours["lon"].to_numpy(), ours["lat"].to_numpy(), box).min() for box in boxes)


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_what_was_asked_for(seed: int) -> None:
    polygons = [shapely.Point(10, 48).buffer(6), shapely.box(20, 40, 24, 41), shapely.box(-60, -10, -50, 0)]
    asked = [(90, 5, 5), (70, 15, 15), (80, 20, 0), (34, 33, 33)][seed % 4]
    sampled = draw(world(*polygons), 1000, seed=seed, split_shares=asked)
    assert shares(sampled) == pytest.approx(asked, abs=1e-9 if seed % 4 != 3 else 0.1)
    cells_by_split(sampled)


@pytest.mark.parametrize("seed", range(5))
def test_random_splits_have_exact_shares_too(seed: int) -> None:
    sampled = draw(world(shapely.box(0, 40, 10, 45)), 1000, seed=seed, split="random", oversample=1.3)
    assert shares(sampled) == [90, 5, 5]
    assert sampled.report.cell_width_m is None
    assert sampled.frame["split"][1000:].value_counts().tolist() == [270, 15, 15]
    train = sampled.frame[sampled.frame["split"] == 0]["lon"]
    assert 4.5 < train.mean() < 5.5


@pytest.mark.parametrize("seed", range(10))
def test_luxembourg_gets_no_empty_split(seed: int) -> None:
    ecoregions = world(shapely.box(5, 49, 7, 51))
    sampled = draw(ecoregions, 200, resolve_region("Luxembourg"), seed=seed, size_px=64)
    assert shares(sampled) == [90, 5, 5]
    assert sampled.report.cell_width_m == pytest.approx(math.sqrt(2.6225e9 / 200), rel=0.01)
    assert min(sampled.report.cells.values()) >= 5


@pytest.mark.parametrize("asked", [(90, 5, 5), (10, 80, 10), (10, 10, 80), (1, 98, 1)])
@pytest.mark.parametrize("expected", [(1, 1, 1), (98, 1, 1), (1, 98, 1)])
def test_three_cells_serve_three_splits(asked: tuple[float, float, float], expected: tuple[float, ...]) -> None:
    for seed in range(10):
        blocks = assign_blocks(CellGrid(100_000.0), np.array([7, 500, 90]), np.array(expected, float), asked, seed)
        assert sorted(blocks.split) == [TRAIN, VAL, TEST]
        assert blocks.cell.tolist() == [7, 90, 500]


def test_cells_go_to_val_then_to_test_until_their_share_is_met() -> None:
    cells, expected = np.arange(1000), np.random.default_rng(0).random(1000)
    blocks = assign_blocks(CellGrid(100_000.0), cells, expected, (90, 5, 5), seed=4)
    for split in (VAL, TEST):
        held = expected[blocks.split == split].sum() / expected.sum()
        assert 0.05 <= held < 0.05 + 1 / expected.sum()
    order = np.argsort(hashed(cells, 4))
    assert (np.diff(np.array([1, 2, 3])[[{VAL: 0, TEST: 1, TRAIN: 2}[s] for s in blocks.split[order]]]) >= 0).all()


@pytest.mark.parametrize(
    ("box", "asked"),
    [((0, 40, 20, 60), 2000.0), ((179, -20, 180, -10), 2000.0), ((10, 80, 40, 84), 2000.0), ((5, 45, 6, 46), 5000.0)],
)
def test_guard_keeps_earlier_splits_off_later_ones(box: tuple[float, ...], asked: float) -> None:
    polygon: shapely.Geometry = shapely.box(*box)
    if box[2] == 180:
        polygon = shapely.MultiPolygon([polygon, shapely.box(-180, box[1], -179, box[3])])
    sampled = draw(world(polygon), 4000, size_px=16, split_guard_m=asked, split_shares=(60, 20, 20), oversample=1.2)
    width = sampled.report.cell_width_m
    assert width is not None
    assert sampled.report.guard_m == min(asked, width / 8)
    assert nearest_m(sampled, TRAIN, (VAL, TEST)) >= sampled.report.guard_m * (1 - 2e-3)
    assert nearest_m(sampled, VAL, (TEST,)) >= sampled.report.guard_m * (1 - 2e-3)
    assert nearest_m(sampled, TEST, (TRAIN, VAL)) < sampled.report.guard_m / 2  # the later split does not give way
    assert nearest_m(sampled, VAL, (TRAIN,)) < sampled.report.guard_m / 2


def test_guard_can_be_switched_off() -> None:
    sampled = draw(world(shapely.box(0, 40, 10, 50)), 4000, size_px=16, split_guard_m=0, split_shares=(60, 20, 20))
    assert sampled.report.guard_m == 0
    assert nearest_m(sampled, TRAIN, (VAL, TEST)) < 500


def test_cells_are_100_km_wide_at_most_and_about_200_in_small_regions() -> None:
    large = draw(world(shapely.box(-100, 30, -60, 60)), 500)
    assert large.report.cell_width_m == 100_000
    small = draw(world(shapely.box(10, 45, 11, 46)), 100)
    assert small.report.area_km2 == pytest.approx(8_700, rel=0.02)
    assert small.report.cell_width_m == pytest.approx(math.sqrt(small.report.area_km2 * 1e6 / 200))
    assert 200 <= sum(small.report.cells.values()) <= 270


def test_no_split_goes_where_it_was_not_asked_for() -> None:
    sampled = draw(world(shapely.box(0, 40, 10, 50)), 300, split_shares=(0, 50, 50))
    assert shares(sampled) == [0, 50, 50]
    assert sampled.report.cells["train"] == 0


def test_expected_tiles_not_area_decide_how_many_cells_a_split_needs() -> None:
    """Half of the tiles are in one cell: a split with that cell needs few others, one without it needs many."""
    ecoregions = world(shapely.box(0.1, 0.1, 0.2, 0.2), shapely.box(20, 0, 40, 20))
    with_it = 0
    for seed in range(8):
        sampled = draw(ecoregions, 200, seed=seed, size_px=16, split_shares=(40, 30, 30))
        cells = sampled.report.cells
        share = cells["val"] / sum(cells.values())
        crowded = set(sampled.frame["split"][sampled.frame["biome"] == 0])
        if VAL in crowded:
            with_it += 1
            assert share < 0.6
        else:
            assert share == pytest.approx(0.6, abs=0.03)
    assert 0 < with_it < 8


def test_cells_are_ordered_by_a_hash_that_looks_random() -> None:
    cells = np.arange(20_000)
    bits = (hashed(cells, 1)[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.015  # 4.2 standard deviations
    assert len(np.unique(hashed(cells, 1))) == len(cells)
    assert np.abs(np.corrcoef(hashed(cells, 1).astype(float), hashed(cells, 2).astype(float))[0, 1]) < 0.03
