"""The sampler: exact quotas, points inside their polygons, uniform on the Earth, deterministic."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from sampling_world import GLOBAL, cells_of, draw, of_biome, one_per_biome, overlapping_pairs, world

from mmearth_data.catalog.tile import tile_ids
from mmearth_data.errors import InputError
from mmearth_data.geography.regions import Region, resolve_region
from mmearth_data.sampling import SamplingOptions, deal_reserves, largest_remainder, sample, write_sample
from mmearth_data.sampling.quotas import fit_table, round_table, split_totals

TO_PLANE = Transformer.from_crs(4326, 6933, always_xy=True)
CHI2_99_DF_1_PERCENT = 134.642
"""99 % quantile of chi-square with 99 degrees of freedom (any table)."""


def area_m2(polygon: shapely.Geometry) -> float:
    """Area in EPSG:6933 with edges that stay straight in degrees."""
    return float(gpd.GeoSeries([shapely.segmentize(polygon, 0.01)], crs=4326).to_crs(6933).area.iloc[0])


# ------------------------------------------------------------------------------------------------ whole numbers


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30).filter(any), st.integers(0, 10_000))
def test_largest_remainder_follows_its_definition(weights: list[int], total: int) -> None:
    got = largest_remainder(weights, total)
    exact = [Fraction(total * weight, sum(weights)) for weight in weights]
    floors = [int(share) for share in exact]
    order = sorted(range(len(weights)), key=lambda i: (floors[i] - exact[i], i))
    for i in order[: total - sum(floors)]:
        floors[i] += 1
    assert got.tolist() == floors


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 50)), min_size=1, max_size=20), st.integers(0, 500))
def test_limits_hold_and_the_rest_goes_to_others(entries: list[tuple[int, int]], total: int) -> None:
    weights, limit = zip(*entries, strict=True)
    got = largest_remainder(weights, total, limit)
    usable = sum(most for weight, most in entries if weight)
    assert got.sum() == min(total, usable)
    assert all(0 <= n <= most for n, most in zip(got, limit, strict=True))


def test_tables_keep_both_margins() -> None:
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 40, 60)
    area = rng.random((60, 3)) * [90, 5, 5] * (rng.random((60, 3)) < [1, 0.7, 0.7])
    columns = split_totals(int(rows.sum()), (90, 5, 5))
    free = np.where(area > 0, 2**40, 0)
    table = fit_table(rows, columns, area, free)
    whole = round_table(table, rows, columns, free)
    assert np.array_equal(whole.sum(axis=0), columns)
    assert np.array_equal(whole.sum(axis=1), rows)
    assert (whole[area == 0] == 0).all()
    assert np.abs(whole - table).max() < 2


@pytest.mark.parametrize(
    ("tiles", "expected"), [(1, [1, 0, 0]), (3, [1, 1, 1]), (10, [8, 1, 1]), (1000, [900, 50, 50])]
)
def test_split_totals(tiles: int, expected: list[int]) -> None:
    assert split_totals(tiles, (90, 5, 5)).tolist() == expected


# ------------------------------------------------------------------------------------------------------ balances

SIDES = [shapely.box(10 * k, 10, 10 * k + 9, 10 + 2 * (k + 1)) for k in range(4)]


def test_biomes_get_equal_numbers_whatever_their_size() -> None:
    frame = draw(world(*SIDES), 1001).frame
    counts = frame["biome"].value_counts()
    assert len(counts) == 4
    assert counts.max() - counts.min() <= 1
    assert counts.sum() == 1001


def test_within_a_biome_ecoregions_get_their_share_of_area() -> None:
    codes = [*of_biome(5)[:3], *of_biome(12)[:1]]
    triangle = shapely.Polygon([(0, 40), (20, 45), (10, 70)])
    polygons = [triangle, shapely.box(-30, 50, -20, 60), shapely.box(40, -10, 45, 0), shapely.box(60, 0, 61, 1)]
    frame = draw(world(*polygons, codes=codes), 2000).frame
    areas = [area_m2(polygon) for polygon in polygons[:3]]
    expected = largest_remainder(areas, 1000)
    counts = frame["eco_region"].value_counts()
    assert [int(counts[code]) for code in codes] == [*expected, 1000]


def test_equal_per_biome_then_per_ecoregion() -> None:
    codes = [*of_biome(5)[:3], *of_biome(12)[:1]]
    frame = draw(world(*SIDES, codes=codes), 1200, balance="biome-ecoregion").frame
    counts = frame["eco_region"].value_counts()
    assert [int(counts[code]) for code in codes] == [200, 200, 200, 600]


def test_equal_per_ecoregion() -> None:
    codes = [*of_biome(5)[:3], *of_biome(12)[:1]]
    frame = draw(world(*SIDES, codes=codes), 1200, balance="ecoregion").frame
    assert frame["eco_region"].value_counts().tolist() == [300] * 4


def test_equal_remainders_are_not_served_in_order_of_ids() -> None:
    codes = of_biome(7)[:40]
    polygons = [shapely.box(3 * k - 60, 20, 3 * k - 58, 22) for k in range(40)]
    ecoregions = world(*polygons, codes=codes)
    chosen = [set(draw(ecoregions, 10, balance="ecoregion", seed=seed).frame["eco_region"]) for seed in range(8)]
    assert all(len(codes_of_seed) == 10 for codes_of_seed in chosen)
    assert len(set.union(*chosen)) > 25


def test_small_ecoregions_are_met_where_land_is_sampled_by_area() -> None:
    codes = of_biome(7)[:40]
    polygons = [shapely.box(3 * k - 60, 20, 3 * k - 58, 22) for k in range(40)]
    ecoregions = world(*polygons, codes=codes)
    met = [set(draw(ecoregions, 10, balance="area", seed=seed).frame["eco_region"]) for seed in range(12)]
    assert len(set.union(*met)) > 32


def test_what_a_stratum_cannot_hold_goes_to_its_biome_first_and_is_reported() -> None:
    small, wide, other = of_biome(5)[0], of_biome(5)[1], of_biome(12)[0]
    polygons = [shapely.box(0, 50, 0.03, 50.03), shapely.box(10, 50, 12, 52), shapely.box(30, 50, 32, 52)]
    ecoregions = world(*polygons, codes=[small, wide, other])
    sampled = draw(ecoregions, 400, balance="biome-ecoregion")
    counts = sampled.frame["eco_region"].value_counts()
    assert counts[small] < 15
    assert counts[small] + counts[wide] == 200
    assert counts[other] == 200
    moved = {entry["eco_region"]: entry for entry in sampled.report.moved}
    assert moved[small] == {"biome": 5, "eco_region": small, "wanted": 100, "placed": counts[small]}
    assert moved[wide]["placed"] == counts[wide]
    assert any("did not fit" in note for note in sampled.report.notes)


def test_a_biome_that_is_full_leaves_the_rest_to_the_others() -> None:
    polygons = [shapely.box(0, 50, 0.1, 50.1), shapely.box(10, 50, 12, 52), shapely.box(30, 50, 32, 52)]
    sampled = draw(world(*polygons), 900)
    counts = sampled.frame["biome"].value_counts()
    first = one_per_biome_ids()[0]
    assert counts[first] < 60
    assert counts.sum() == 900
    assert sampled.report.biomes[first]["wanted"] == 300
    assert sampled.report.biomes[first]["placed"] == counts[first]


def one_per_biome_ids() -> list[int]:
    return list(range(len(one_per_biome())))


# ------------------------------------------------------------------------------------------------------- points


def test_points_lie_inside_their_polygon_and_the_region() -> None:
    holed = shapely.Polygon([(0, 40), (20, 42), (15, 60), (3, 57)], holes=[[(8, 46), (12, 46), (11, 52)]])
    comb = shapely.union_all(
        [shapely.box(30 + k, 40, 30.1 + k, 60) for k in range(10)] + [shapely.box(30, 40, 40, 40.2)]
    )
    region = Region("disc", shapely.Point(15, 50).buffer(16))
    ecoregions = world(holed, comb)
    frame = draw(ecoregions, 1500, region, oversample=1.3).frame
    by_code = dict(zip(ecoregions["eco_region"], ecoregions.geometry, strict=True))
    for code, rows in frame.groupby("eco_region"):
        assert shapely.contains_xy(by_code[code], rows["lon"], rows["lat"]).all()
    assert shapely.contains_xy(region.geometry, frame["lon"], frame["lat"]).all()


def test_coordinates_ids_and_columns_are_those_of_the_contract() -> None:
    frame = draw(world(*SIDES), 300, oversample=1.5, size_px=64).frame
    assert list(frame.columns) == [
        "tile_id", "lon", "lat", "biome", "eco_region", "split", "slot", "rank", "geometry",
    ]  # fmt: skip
    types = {name: str(frame[name].dtype) for name in frame.columns if name != "geometry"}
    assert types == {
        "tile_id": "uint64", "lon": "float64", "lat": "float64", "biome": "uint8", "eco_region": "uint16",
        "split": "uint8", "slot": "Int64", "rank": "uint8",
    }  # fmt: skip
    assert frame.crs.to_epsg() == 4326
    for name in ("lon", "lat"):
        values = frame[name].to_numpy()
        assert np.array_equal(values, [float(f"{value:.6f}") for value in values])
    assert np.array_equal(frame.geometry.x, frame["lon"])
    assert np.array_equal(frame["tile_id"], tile_ids(frame["lon"], frame["lat"], 64))
    assert frame["tile_id"].is_unique
    primary = frame["slot"].notna()
    assert frame["slot"][primary].tolist() == list(range(300))
    assert frame["rank"].tolist() == [0] * 300 + [1] * (135 + 8 + 8)
    assert (frame["split"][primary].diff().dropna() >= 0).all()


def test_any_run_of_consecutive_slots_is_a_fair_sample() -> None:
    """Also where one biome is so crowded that its last tiles are found long after all others."""
    crowded = shapely.box(-30, 50, -29.2, 50.5)
    frame = draw(world(*SIDES[:3], crowded), 3200, split="random").frame
    train = frame[frame["split"] == 0]
    for start in range(0, len(train) - 400, 400):
        share = train["biome"].iloc[start : start + 400].value_counts(normalize=True)
        assert share.between(0.25 - 0.09, 0.25 + 0.09).all()  # four standard deviations


def _chi_square(lon: np.ndarray, lat: np.ndarray, polygon: shapely.Geometry) -> float:
    """Chi-square over 10 x 10 cells of the plane that each hold a hundredth of the box around the polygon."""
    west, south, east, north = polygon.bounds
    (x0, x1), (y0, y1) = TO_PLANE.transform([west, east], [south, north])
    x, y = TO_PLANE.transform(lon, lat)
    column, row = ((x - x0) / (x1 - x0) * 10).astype(int), ((y - y0) / (y1 - y0) * 10).astype(int)
    counts = np.bincount(column * 10 + row, minlength=100)
    return float(((counts - len(lon) / 100) ** 2 / (len(lon) / 100)).sum())


@pytest.mark.parametrize("balance", ["area", "biome"])
def test_points_are_uniform_on_the_sphere(balance: str) -> None:
    """Ten seeds at the 1 % level: 0.1 rejections are expected, two or more have a probability of 0.4 %."""
    polygon = shapely.box(-180, -80, 180, 84)
    ecoregions = world(polygon)
    rejections = 0
    for seed in range(10):
        frame = draw(ecoregions, 5000, seed=seed, balance=balance, size_px=16, split="random").frame
        rejections += _chi_square(frame["lon"].to_numpy(), frame["lat"].to_numpy(), polygon) > CHI2_99_DF_1_PERCENT
    assert rejections <= 1


def test_points_are_uniform_within_the_tall_cells_near_the_poles() -> None:
    """Twenty strips of equal area between 78 and 84 N, where a cell spans two degrees; five seeds at 1 %."""
    polygon = shapely.box(0, 78, 180, 84)
    edges = TO_PLANE.transform(0, 78)[1] + np.linspace(0, 1, 21) * np.ptp(TO_PLANE.transform([0, 0], [78, 84])[1])
    rejections = 0
    for seed in range(5):
        lat = draw(world(polygon), 10_000, seed=seed, size_px=16, split="random").frame["lat"].to_numpy()
        counts, _ = np.histogram(TO_PLANE.transform(np.zeros_like(lat), lat)[1], edges)
        rejections += ((counts - 500) ** 2 / 500).sum() > _chi2_quantile_99(19)
    assert rejections <= 1


def test_points_are_uniform_in_a_ragged_polygon_with_blocks() -> None:
    """Against exact areas of the parts of the polygon, ten seeds at 1 %, as above."""
    outline = shapely.Polygon([(0, -30), (50, -35), (70, 20), (40, 65), (10, 50), (25, 10)])
    lake = shapely.Point(35, 10).buffer(9)
    polygon = shapely.difference(outline, lake)
    strips = [shapely.box(10 * i, -40 + 10 * j, 10 * i + 10, -30 + 10 * j) for i in range(8) for j in range(11)]
    areas = np.array([area_m2(part) if not (part := shapely.intersection(polygon, s)).is_empty else 0 for s in strips])
    share = areas[areas > 0] / areas.sum()
    rejections = 0
    for seed in range(10):
        frame = draw(world(polygon), 3000, seed=seed, balance="area", size_px=16).frame
        inside = np.array([shapely.contains_xy(s, frame["lon"], frame["lat"]).sum() for s in strips])[areas > 0]
        statistic = ((inside - 3000 * share) ** 2 / (3000 * share)).sum()
        rejections += statistic > _chi2_quantile_99(len(share) - 1)
    assert rejections <= 1


def _chi2_quantile_99(freedom: int) -> float:
    """Wilson & Hilferty (1931): within 0.1 % for this many degrees of freedom."""
    return freedom * (1 - 2 / (9 * freedom) + 2.326348 * (2 / (9 * freedom)) ** 0.5) ** 3


# -------------------------------------------------------------------------------------------------- determinism


def test_the_same_file_with_one_and_with_several_threads(tmp_path: Path) -> None:
    polygons = [shapely.Point(20 * k, 10 * k).buffer(8, quad_segs=200) for k in range(-3, 4)]
    files = []
    for threads in (1, 2, 5):
        path = tmp_path / f"{threads}.parquet"
        write_sample(draw(world(*polygons), 30_000, oversample=1.3, threads=threads), path)
        files.append(path.read_bytes())
    assert files[0] == files[1] == files[2]


def test_the_seed_decides() -> None:
    ecoregions = world(*SIDES)
    first, again, other = (draw(ecoregions, 200, seed=seed).frame for seed in (7, 7, 8))
    pd.testing.assert_frame_equal(pd.DataFrame(first), pd.DataFrame(again))
    assert not set(first["tile_id"]) & set(other["tile_id"])


def test_more_tiles_can_be_added_to_those_that_are_there() -> None:
    ecoregions = world(shapely.box(5, 44, 7, 46))
    first = draw(ecoregions, 600).frame
    options = SamplingOptions(tiles=400, oversample=1.2)
    more = sample(ecoregions, GLOBAL, options, existing=first).frame
    both = pd.concat([first, more])
    assert overlapping_pairs(both["lon"].to_numpy(), both["lat"].to_numpy(), 128) == []
    assert more["slot"].notna().sum() == 400
    width = np.sqrt(area_m2(shapely.box(5, 44, 7, 46)) / 200)
    cell = cells_of(both["lon"].to_numpy(), both["lat"].to_numpy(), float(width))
    by_cell = pd.Series(both["split"].to_numpy()).groupby(cell)
    assert (by_cell.min() == by_cell.max()).all()


def test_blocks_without_a_tile_keep_their_split_too() -> None:
    """A few tiles settle a few blocks; the others stay as they were drawn, though blocks hold more here than there."""
    boxes = [shapely.box(5, 44, 7, 46), shapely.box(8, 44, 8.5, 44.5)]
    ecoregions, seed = world(*boxes), 4
    whole, few = draw(ecoregions, 1000, seed=seed).frame, draw(ecoregions, 20, seed=seed).frame
    options = SamplingOptions(tiles=900, oversample=1.0, seed=seed)
    more = sample(ecoregions, GLOBAL, options, existing=few).frame
    width = float(np.sqrt(sum(map(area_m2, boxes)) / 200))
    by_block = [
        pd.Series(frame["split"].to_numpy()).groupby(cells_of(frame["lon"].to_numpy(), frame["lat"].to_numpy(), width))
        for frame in (whole, more)
    ]
    both = pd.concat([group.max() for group in by_block], axis=1, keys=["whole", "more"]).dropna()
    assert len(both) > 150
    assert (both["whole"] == both["more"]).all()


# ------------------------------------------------------------------------------------------------------ reserves


def test_reserves_follow_the_tiles_and_obey_the_same_rules() -> None:
    frame = draw(world(*SIDES), 2000, oversample=1.3).frame
    reserve = frame["slot"].isna()
    assert reserve.sum() == 600
    assert (frame["split"][reserve].value_counts() == [540, 30, 30]).all()
    assert frame["biome"][reserve].value_counts().between(147, 153).all()
    assert overlapping_pairs(frame["lon"].to_numpy(), frame["lat"].to_numpy(), 128) == []


def test_tiles_have_priority_over_reserves_where_room_is_short() -> None:
    sampled = draw(world(shapely.box(10, 50, 10.4, 50.3)), 240, oversample=2.0)
    assert sampled.report.tiles == 240
    assert 10 < sampled.report.reserves < 120
    assert sampled.report.reserves_wanted == 240
    assert any("did not fit" in note for note in sampled.report.notes)


@pytest.mark.parametrize("tiles_per_shard", [16, 48, 256])
def test_reserves_are_dealt_within_a_split_in_proportion(tiles_per_shard: int) -> None:
    frame = draw(world(*SIDES), 3000, oversample=1.3).frame
    pools = deal_reserves(frame, tiles_per_shard)
    assert len(pools) == -(-3000 // tiles_per_shard)
    assert sorted(np.concatenate(pools)) == list(range(900))
    reserves = frame[frame["slot"].isna()]
    for shard, pool in enumerate(pools):
        held = frame.iloc[shard * tiles_per_shard : min((shard + 1) * tiles_per_shard, 3000)]
        assert set(reserves["split"].iloc[pool]) <= set(held["split"])
        assert (np.diff(pool) > 0).all()
        assert abs(len(pool) - 0.3 * len(held)) <= 5


def test_pools_leave_hardly_a_row_empty_at_ten_per_cent_rejections() -> None:
    frame = draw(world(*SIDES), 12_000, oversample=1.3, size_px=64).frame
    split = frame["split"].to_numpy()
    rng = np.random.default_rng(0)
    empty = 0
    for shard, pool in enumerate(deal_reserves(frame, 256)):
        left = {code: int((split[12_000:][pool] == code).sum()) for code in range(3)}
        for row in range(shard * 256, min((shard + 1) * 256, 12_000)):
            while rng.random() < 0.1:
                if left[split[row]] == 0:
                    empty += 1
                    break
                left[split[row]] -= 1
    assert empty <= 1


def test_no_reserves_are_asked_for() -> None:
    frame = draw(world(*SIDES), 100, oversample=1.0).frame
    assert len(frame) == 100
    assert [len(pool) for pool in deal_reserves(frame, 16)] == [0] * 7


# ------------------------------------------------------------------------------------------------- ends of the Earth


def test_antarctica_ends_at_80_south() -> None:
    region = resolve_region("Antarctica")
    sampled = draw(world(shapely.box(-180, -90, 180, -60)), 300, region, size_px=64)
    frame = sampled.frame
    assert shapely.contains_xy(region.geometry, frame["lon"], frame["lat"]).all()
    assert frame["lat"].min() >= -80
    assert (frame["lon"] < -90).any()
    assert (frame["lon"] > 90).any()
    assert any("80 S are left out" in note for note in sampled.report.notes)


def test_names_that_match_no_ecoregion_are_reported() -> None:
    ecoregions = world(*SIDES)
    ecoregions.attrs["unmatched"] = ["Mordor ash plains"]
    assert any("left out: Mordor ash plains" in note for note in draw(ecoregions, 10).report.notes)


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tiles": 0}, "at least one tile, got 0"),
        ({"tiles": -5}, "at least one tile, got -5"),
        ({"tiles": 5, "size_px": 100}, "multiple of 16"),
        ({"tiles": 5, "oversample": 0.9}, "oversampling factor"),
        ({"tiles": 5, "balance": "continent"}, "balance out of biome"),
        ({"tiles": 5, "split": "temporal"}, "block, random"),
        ({"tiles": 5, "split_shares": (90, 5)}, "add up to 100"),
        ({"tiles": 5, "split_shares": (90, 5, 6)}, "add up to 100"),
        ({"tiles": 5, "split_shares": (105, -5, 0)}, "add up to 100"),
        ({"tiles": 5, "split_guard_m": -1}, "guard"),
        ({"tiles": 5, "min_distance_m": float("nan")}, "minimum distance"),
        ({"tiles": 5, "seed": -1}, "seed"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        SamplingOptions(**options)  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


def test_a_region_without_ecoregions_is_refused() -> None:
    with pytest.raises(InputError, match="found none"):
        draw(world(*SIDES), 10, Region("nowhere", shapely.box(-100, -60, -90, -50)))


def test_columns_that_lack_are_named() -> None:
    with pytest.raises(InputError, match="lacks biome"):
        draw(world(*SIDES).drop(columns="biome"), 10)
