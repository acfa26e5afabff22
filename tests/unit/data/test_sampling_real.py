"""The sampler on the real ecoregion polygons: quotas, locations and regions of the Earth."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from sampling_world import cells_of, draw, overlapping_pairs

from mmearth_data.catalog.entries import eco_regions
from mmearth_data.errors import InputError
from mmearth_data.geography.ecoregions import label_points, read_ecoregions
from mmearth_data.geography.regions import resolve_region
from mmearth_data.sampling import largest_remainder


@pytest.fixture(scope="module")
def ecoregions(test_data: Path) -> gpd.GeoDataFrame:
    return read_ecoregions(test_data / "ecoregions" / "resolve2017_simplified.gpkg")


def test_real_file_matches_every_name(ecoregions: gpd.GeoDataFrame) -> None:
    frame = ecoregions
    assert len(frame) == 822
    assert frame.attrs["unmatched"] == []
    assert frame["biome"].nunique() == 14
    assert frame.geometry.is_valid.all()
    assert set(frame.geom_type) == {"Polygon", "MultiPolygon"} or set(frame.geom_type) == {"MultiPolygon"}
    published = {region.id: region.area_km2 for region in eco_regions()}
    large = frame[frame["area_km2"] > 50_000]
    ratio = large["area_km2"] / [published[code] for code in large["eco_region"]]
    assert ratio.between(0.9, 1.1).mean() > 0.97


def test_global_sample_by_biome(ecoregions: gpd.GeoDataFrame) -> None:
    sampled = draw(ecoregions, 10_000, oversample=1.3, threads=2)
    frame = sampled.frame
    primary = frame[frame["slot"].notna()]
    counts = primary["biome"].value_counts()
    assert len(counts) == 14
    assert counts.max() - counts.min() <= 1
    assert primary["split"].value_counts().tolist() == [9000, 500, 500]
    by_code = ecoregions.set_index("eco_region")
    for biome, rows in primary.groupby("biome"):
        regions = by_code[by_code["biome"] == biome]
        plane = regions.to_crs(6933).area
        expected = largest_remainder(plane.to_numpy(), int(counts[biome]))
        placed = rows["eco_region"].value_counts().reindex(regions.index, fill_value=0).to_numpy()
        assert np.abs(placed - expected).max() <= 1  # corners alone are carried into the plane here
    for code, rows in frame.groupby("eco_region"):
        polygon = by_code.geometry[code]
        shapely.prepare(polygon)
        assert shapely.contains_xy(polygon, rows["lon"], rows["lat"]).all()


@pytest.mark.slow
def test_million_tiles_by_biome(ecoregions: gpd.GeoDataFrame) -> None:
    """The paper's number: every point in its polygon, no two squares meet, in their own or a neighbouring zone."""
    sampled = draw(ecoregions, 1_200_000, oversample=1.3, threads=2)
    frame = sampled.frame
    counts = frame["biome"][frame["slot"].notna()].value_counts()
    assert counts.max() - counts.min() <= 1
    assert sampled.report.splits == {"train": 1_080_000, "val": 60_000, "test": 60_000}
    by_code = ecoregions.set_index("eco_region").geometry
    for code, rows in frame.groupby("eco_region"):
        polygon = by_code[code]
        shapely.prepare(polygon)
        assert shapely.contains_xy(polygon, rows["lon"], rows["lat"]).all()
    lon, lat = frame["lon"].to_numpy(), frame["lat"].to_numpy()
    assert overlapping_pairs(lon, lat, 128, 100_000) == []


def test_crowded_mangroves_keep_apart(ecoregions: gpd.GeoDataFrame) -> None:
    """The narrowest biome at about the density of 1.2 million tiles; squares in the zones on either side."""
    mangroves = ecoregions[ecoregions["biome"] == 9]
    region = resolve_region("bbox:88,20,98,24")  # the Ganges delta and Burma, across the border of zones 45 and 46
    frame = draw(mangroves.reset_index(drop=True), 2500, region, oversample=1.1).frame
    assert overlapping_pairs(frame["lon"].to_numpy(), frame["lat"].to_numpy(), 128, 100_000) == []


@pytest.mark.parametrize(
    ("text", "mainland", "tiles"),
    [
        ("France", False, 300),
        ("France", True, 300),
        ("Fiji", False, 200),
        ("Russia", False, 300),
        ("bbox:170,-20,-170,0", False, 200),
        ("Luxembourg", False, 200),
    ],
)
def test_regions_of_the_earth(ecoregions: gpd.GeoDataFrame, text: str, mainland: bool, tiles: int) -> None:
    region = resolve_region(text, mainland=mainland)
    sampled = draw(ecoregions, tiles, region, size_px=64)
    frame = sampled.frame
    assert shapely.contains_xy(region.geometry, frame["lon"], frame["lat"]).all()
    assert sampled.report.splits == dict(
        zip(("train", "val", "test"), largest_remainder([90, 5, 5], tiles), strict=True)
    )
    assert frame["tile_id"].is_unique
    biome, eco_region = label_points(ecoregions, frame["lon"], frame["lat"])
    agree = eco_region == frame["eco_region"].to_numpy()
    assert agree.mean() > 0.99  # simplified polygons overlap in slivers
    assert (biome == frame["biome"].to_numpy())[agree].all()
    counts = frame["biome"].value_counts()
    if text == "France" and not mainland:
        assert {1, 9} <= set(counts.index)  # rain forest and mangroves of Guiana
        assert (frame["lon"] < -50).any()
    if text == "France" and mainland:
        assert {1, 9}.isdisjoint(counts.index)
    if text in ("Fiji", "Russia", "bbox:170,-20,-170,0"):
        assert (frame["lon"] < 0).any()
        assert (frame["lon"] > 0).any()


def test_land_is_uniform_by_area_with_blocks(ecoregions: gpd.GeoDataFrame) -> None:
    """Tropical Africa, chi-square over cells of 1,000 km, five seeds at 1 %: 0.05 rejections are expected."""
    africa = ecoregions[ecoregions["realm"] == "Afrotropic"].reset_index(drop=True)
    width = 1_000_000.0
    share = {key: part for key, part in _shares_by_cell(africa.geometry, width).items() if part * 3000 >= 5}
    expected = 3000 * np.array([*share.values(), 1 - sum(share.values())])
    freedom = len(expected) - 1
    limit = freedom * (1 - 2 / (9 * freedom) + 2.326348 * (2 / (9 * freedom)) ** 0.5) ** 3  # Wilson & Hilferty 1931
    rejections = 0
    for seed in range(5):
        frame = draw(africa, 3000, seed=seed, balance="area", size_px=64).frame
        cell = cells_of(frame["lon"].to_numpy(), frame["lat"].to_numpy(), width)
        observed = np.array([*((cell == key).sum() for key in share), (~np.isin(cell, list(share))).sum()])
        rejections += ((observed - expected) ** 2 / expected).sum() > limit
    assert rejections <= 1


def _shares_by_cell(polygons: gpd.GeoSeries, width: float) -> dict[int, float]:
    """Share of the area in each square of the plane, measured in the plane itself."""
    plane = polygons.to_crs(6933)
    west, south, east, north = plane.total_bounds
    x0, y0 = -17367530.445161372, -7342230.136498678
    shares: dict[int, float] = {}
    for column in range(int((west - x0) // width), int((east - x0) // width) + 1):
        strip = plane.clip_by_rect(x0 + column * width, south, x0 + (column + 1) * width, north)
        for row in range(int((south - y0) // width), int((north - y0) // width) + 1):
            area = strip.clip_by_rect(west, y0 + row * width, east, y0 + (row + 1) * width).area.sum()
            if area:
                shares[column * 10**7 + row] = area
    total = sum(shares.values())
    return {key: area / total for key, area in shares.items()}


def test_antarctica_is_not_in_this_file(ecoregions: gpd.GeoDataFrame) -> None:
    with pytest.raises(InputError, match=r"inside the region 'Antarctica'.*found none"):
        draw(ecoregions, 10, resolve_region("Antarctica"))


def test_more_than_fit_names_a_number(ecoregions: gpd.GeoDataFrame) -> None:
    with pytest.raises(InputError, match=r"got 5000: about \d+ tiles of 128 px fit") as refusal:
        draw(ecoregions, 5000, resolve_region("Luxembourg"))
    fits = int(str(refusal.value).split("about ")[1].split()[0])
    sampled = draw(ecoregions, fits, resolve_region("Luxembourg"))
    assert sampled.report.tiles == fits
    assert min(sampled.report.splits.values()) > 0
