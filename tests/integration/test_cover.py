"""Stores that cover a region: pixels of one grid per zone, the least cloudy scene, empty cells, resuming."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import xarray as xr
from click.testing import CliRunner
from store_making import digests

from mmearth_data import InputError, build, make_recipe, merge, open_store, preview, profile, repair, subset, verify
from mmearth_data.catalog.tile import TileGrid
from mmearth_data.cli import cli
from mmearth_data.planet.scenes import Box, optical_scenes
from mmearth_data.sources.base import Survey
from mmearth_data.sources.period import Period
from mmearth_data.sources.synthetic import SyntheticSource

if TYPE_CHECKING:
    from mmearth_data import Store
    from mmearth_data.catalog.tile import Place

SIZE_PX, OVERLAP_PX = 32, 8
WHERE = {"region": "bbox:11.997,46.5,12.003,46.503"}
"""Some hundred metres on both sides of the border of zones 32 and 33."""
COVER = {"source": "synthetic", "seed": 3, "cover": True, "tile_size": SIZE_PX, "overlap_px": OVERLAP_PX}
RECIPE = {**COVER, **WHERE, "modalities": ["sentinel2", "aster", "esa_worldcover", "biome"], "tiles_per_shard": 5}
ALPS = {
    "type": "Feature",
    "properties": {"ECO_NAME": "Alps conifer and mixed forests"},
    "geometry": {"type": "Polygon", "coordinates": [[[5, 40], [11.999, 40], [11.999, 55], [5, 55], [5, 40]]]},
}
"""An ecoregion that ends within the region: the biome of the tiles beyond is not known."""
DATES = ("2020-01-01", "2020-12-31")
"""Period of scenes by default."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    ecoregions = tmp_path_factory.mktemp("ecoregions") / "alps.geojson"
    ecoregions.write_text(json.dumps({"type": "FeatureCollection", "features": [ALPS]}))
    return {**RECIPE, "ecoregions": str(ecoregions)}


@pytest.fixture(scope="module")
def path(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("cover") / "c.zarr"
    build(make_recipe(None, recipe), found)
    return found


@pytest.fixture(scope="module")
def store(path: Path) -> Store:
    return open_store(path)


def milliseconds(day: str) -> int:
    return int(np.datetime64(day, "ms").astype(np.int64))


def test_the_store_is_whole_and_says_what_it_covers(path: Path, store: Store) -> None:
    assert verify(path).problems == ()
    assert len(store) == store.layout.tiles
    assert store.overlap_px == OVERLAP_PX
    assert (store.coords["split"] == 255).all()
    assert (store.coords["s2_level"] == 1).all()
    assert set(store.coords["epsg"].tolist()) == {32632, 32633}
    assert {"cover", "overlap_px", "date_range"} <= store.recipe.keys()
    assert not {"tiles", "balance", "split", "split_shares", "oversample", "years"} & store.recipe.keys()
    table = pq.read_table(path / "tiles.parquet")
    assert table["split"].unique().to_pylist() == [255]
    assert store.tiles["split"].isna().all()
    known = store.tiles["biome"].notna().to_numpy()
    np.testing.assert_array_equal(known, store.coords["lon"] < 11.999)
    assert 0 < known.sum() < len(known)
    assert all(band["count"] == 0 for band in store.statistics["train"]["aster"]["-"].values())
    assert all(band["count"] > 0 for band in store.statistics["all"]["aster"]["-"].values())


def test_xarray_opens_it_without_a_warning(path: Path) -> None:
    opened = xr.open_zarr(path)
    assert (opened["valid"] > 0).all()
    assert opened.sizes["tile"] == len(open_store(path))


def test_pixels_are_those_of_one_grid_per_zone(store: Store) -> None:
    """Every tile is a window of one large read of the planet, so that neighbours agree where they overlap."""
    coords, source = store.coords, SyntheticSource(3, period=Period(first=date(DATES[0]), last=date(DATES[1])))
    modalities = store.layout.rasters
    for epsg in (32632, 32633):
        own = np.flatnonzero(coords["epsg"] == epsg)
        left, top = coords["ulx"][own].min(), coords["uly"][own].max()
        columns = ((coords["ulx"][own] - left) / 10).astype(int)
        rows = ((top - coords["uly"][own]) / 10).astype(int)
        side = -(-(max(rows.max(), columns.max()) + SIZE_PX) // 16) * 16
        whole = TileGrid(epsg=epsg, ulx=left, uly=top, size_px=int(side))
        for scene in np.unique([json.loads(store.tiles["facts"].iloc[k])["sentinel2"] for k in own]):
            tiles = [k for k in range(len(own)) if json.loads(store.tiles["facts"].iloc[own[k]])["sentinel2"] == scene]
            survey = next(survey for survey in surveys(source, store) if survey.facts["sentinel2"] == scene)
            arrays = source.read(dataclasses.replace(survey, grid=whole), modalities)
            for m in modalities:
                values = store.read(m.name, slice(0, store.layout.tiles))
                for k in tiles:
                    window = np.s_[:, rows[k] : rows[k] + SIZE_PX, columns[k] : columns[k] + SIZE_PX]
                    np.testing.assert_array_equal(
                        values[own[k]], arrays[m.name][window], err_msg=f"{m.name} {epsg} {k}"
                    )


def surveys(source: SyntheticSource, store: Store) -> list[Survey]:
    found = source.survey(places(store))
    return [survey for survey in found if isinstance(survey, Survey)]


def places(store: Store) -> list[Place]:
    from mmearth_data.catalog.tile import Place

    c = store.coords
    columns = (c[name].tolist() for name in ("tile_id", "lon", "lat", "epsg", "ulx", "uly"))
    return [
        Place(tile_id=i, lon=x, lat=y, size_px=SIZE_PX, grid=TileGrid(epsg=e, ulx=u, uly=v, size_px=SIZE_PX))
        for i, x, y, e, u, v in zip(*columns, strict=True)
    ]


def date(day: str) -> Any:
    from datetime import date

    return date.fromisoformat(day)


def best_scene(grid: TileGrid, first: str, last: str) -> tuple[str, int]:
    """(id, number of equally cloudy scenes) of the scene by the rule, from a list of all scenes of the planet."""
    west, south, east, north = grid.bounds
    box = Box(grid.epsg, west - 200, south - 200, east + 200, north + 200)
    start, end = milliseconds(first), milliseconds(last) + 86_400_000
    world = SyntheticSource(3).planet.views.world
    scenes = [scene for scene in optical_scenes(world, box, start, end) if scene.has_level_2a]
    least = min(scene.cloud_percent for scene in scenes)
    clearest = [scene for scene in scenes if scene.cloud_percent == least]
    clearest.sort(key=lambda scene: abs(scene.time_ms - (start + end) / 2))
    return clearest[0].index, len(clearest)


def test_the_scene_is_the_least_cloudy_one_of_the_period(store: Store) -> None:
    facts = [json.loads(text)["sentinel2"].rpartition("/")[2] for text in store.tiles["facts"]]
    for place, scene in list(zip(places(store), facts, strict=True))[::4]:
        assert place.grid is not None
        assert best_scene(place.grid, *DATES)[0] == scene


@pytest.mark.parametrize("at", [(9.994, 19.355), (0.167, 13.306), (2.846, 19.455)])
def test_of_equally_cloudy_scenes_the_nearest_to_the_middle_is_taken(at: tuple[float, float]) -> None:
    """In deserts, several scenes of a year have the same percentage of clouds."""
    lon, lat = at
    recipe = {**COVER, "region": f"bbox:{lon},{lat},{lon + 1e-4},{lat + 1e-4}", "modalities": ["sentinel2"]}
    from mmearth_data.building.prepare import prepare

    prepared = prepare(make_recipe(None, recipe))
    (place, *_) = (slot.place for slot in prepared.plan.shard(0).slots)
    (survey,) = prepared.source.survey([place])
    assert isinstance(survey, Survey)
    assert place.grid is not None
    scene, equal = best_scene(place.grid, *DATES)
    assert equal > 1
    assert survey.facts["sentinel2"].endswith(scene)


def test_cells_without_a_scene_are_empty_and_listed(tmp_path: Path) -> None:
    """In midwinter at 71 N the sun is too low: no scene of the period. One day has scenes for some cells only."""
    out = tmp_path / "dark.zarr"
    words = ["build", "--source", "synthetic", "--cover", "--region", "bbox:25,71,25.01,71.003", "--tile-size", "32"]
    words += ["--modalities", "sentinel2", "--date-range", "2020-12-10,2021-01-02", "--out", str(out)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 1
    assert "no tile was delivered" in done.output
    rejected = pq.read_table(out / "rejected.parquet").to_pylist()
    assert {row["reason"] for row in rejected} == {"sentinel2_missing"}
    assert sorted(row["slot"] for row in rejected) == list(range(open_store(out).layout.tiles))
    assert "no L2A scene from 2020-12-10 to 2021-01-02" in rejected[0]["detail"]
    assert verify(out).problems == ()


def test_a_tile_at_the_edge_of_a_swath_keeps_the_pixels_that_there_are(tmp_path: Path) -> None:
    """A sample would take another location; a map would have a hole."""
    recipe = {
        **COVER,
        "region": "bbox:10.0711,48.22,10.0787,48.25",
        "tile_size": 64,
        "seed": 0,
        "modalities": ["sentinel2"],
    }
    store = build(make_recipe(None, recipe), tmp_path / "edge.zarr")
    assert len(store) == store.layout.tiles > 0
    missing = (store.read("sentinel2", slice(0, len(store)))[:, 1] == 0).mean(axis=(1, 2))
    assert ((missing > 0.01) & (missing < 1)).any()


def test_some_cells_may_be_empty(tmp_path: Path) -> None:
    """The edge of a swath is between the two parts of the region: a few days have scenes of one of them only."""
    parts = [shapely.box(lon, 46, lon + 0.004, 46.004) for lon in (11.0, 13.4)]
    (tmp_path / "parts.geojson").write_text(shapely.to_geojson(shapely.MultiPolygon(parts)))
    recipe = {**COVER, "region": str(tmp_path / "parts.geojson"), "overlap_px": 0, "modalities": ["esa_worldcover"]}
    recipe |= {"date_range": ("2020-07-01", "2020-07-02")}
    store = build(make_recipe(None, recipe), tmp_path / "half.zarr")
    empty = store.layout.tiles - len(store)
    assert 0 < empty < store.layout.tiles
    assert pq.read_metadata(tmp_path / "half.zarr" / "rejected.parquet").num_rows == empty
    assert verify(tmp_path / "half.zarr").problems == ()
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "half.zarr")])
    assert f"{empty} rows without a tile" in shown.output
    assert "neighbouring tiles share 0 px" in shown.output
    assert f"{empty}" in shown.output.partition("Rejected candidates")[2]
    again = CliRunner().invoke(
        cli, ["build", "--source", "synthetic", *flags(recipe), "--out", str(tmp_path / "half.zarr")]
    )
    assert again.exit_code == 0, again.output
    assert f"{len(store)} synthetic tiles of {store.layout.tiles} cells" in again.output.replace("\n", " ")
    assert f"{empty} cells are empty; rejected.parquet lists the reasons" in again.output


def flags(recipe: dict[str, Any]) -> list[str]:
    return [
        *("--seed", str(recipe["seed"]), "--cover", "--region", recipe["region"]),
        *("--tile-size", str(recipe["tile_size"]), "--overlap", str(recipe["overlap_px"])),
        *("--modalities", ",".join(recipe["modalities"]), "--date-range", ",".join(recipe["date_range"])),
    ]


KILLED = """
import json, os, signal, sys
from mmearth_data import build, make_recipe
def report(progress):
    if progress.rows_done >= 5:
        os.kill(os.getpid(), signal.SIGKILL)
build(make_recipe(None, json.loads(sys.argv[1])), sys.argv[2], report=report)
"""


def test_a_killed_build_resumes_to_the_same_bytes(path: Path, recipe: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "k.zarr"
    done = subprocess.run([sys.executable, "-c", KILLED, json.dumps(recipe), str(out)], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not open_store(out).finished
    build(make_recipe(None, recipe), out)
    assert digests(out) == digests(path)


def test_copies_of_covers_are_covers(path: Path, store: Store, tmp_path: Path) -> None:
    left = subset(path, tmp_path / "l.zarr", region="bbox:11.99,46,12,47")
    right = subset(path, tmp_path / "r.zarr", region="bbox:12,46,12.01,47")
    assert 0 < len(left) < len(store)
    assert left.overlap_px == right.overlap_px == OVERLAP_PX
    both = merge([tmp_path / "l.zarr", tmp_path / "r.zarr"], tmp_path / "b.zarr")
    assert (both.overlap_px, len(both)) == (OVERLAP_PX, len(left) + len(right))
    assert verify(tmp_path / "b.zarr").problems == ()
    assert subset(path, tmp_path / "s.zarr", crop=SIZE_PX // 2).overlap_px is None, "cropped tiles leave gaps"


def test_a_cover_and_a_sample_merge_though_they_overlap(
    path: Path, store: Store, recipe: dict[str, Any], tmp_path: Path
) -> None:
    """A tile in no split cannot leak into one."""
    table = "lon,lat,split,biome,eco_region\n11.998,46.501,train,4,1\n11.998,46.505,test,4,1\n"
    (tmp_path / "places.csv").write_text(table)
    kept = {name: recipe[name] for name in ("source", "seed", "tile_size", "modalities", "ecoregions")}
    sample = build(make_recipe(None, {**kept, "tiles_file": str(tmp_path / "places.csv")}), tmp_path / "s.zarr")
    both = merge([path, tmp_path / "s.zarr"], tmp_path / "b.zarr")
    assert len(both) == len(store) + len(sample)
    assert both.overlap_px is None
    assert verify(tmp_path / "b.zarr").problems == ()


def test_what_reads_a_store_reads_a_cover(path: Path, store: Store, tmp_path: Path) -> None:
    batches = list(store.loader(batch_size=8, shuffle=False, normalise=True))
    assert sum(len(batch["tile"]["tile_id"]) for batch in batches) == len(store)
    assert np.isfinite(batches[0]["aster"]).all(), "normalised with the statistics of all tiles"
    assert len(store.select(split="train")) == 0
    for words in (
        ["inspect", str(path), "--map", str(tmp_path / "m.png"), "--html", str(tmp_path / "r.html")],
        ["describe", str(path), "--out", str(tmp_path / "cards")],
        ["export", str(path), "--format", "geotiff", "--out", str(tmp_path / "tifs")],
    ):
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
    card = (tmp_path / "cards" / "README.md").read_text()
    assert "cover the region bbox:11.997,46.5,12.003,46.503" in card
    assert "the least cloudy L2A scene from 2020-01-01 to 2020-12-31" in card
    assert "Locations were sampled" not in card


def test_it_is_repaired(path: Path, recipe: dict[str, Any], tmp_path: Path) -> None:
    import shutil

    broken = shutil.copytree(path, tmp_path / "b.zarr")
    (broken / "aster" / "c" / "1" / "0" / "0" / "0").unlink()
    assert verify(broken).problems
    assert repair(broken, ecoregions=recipe["ecoregions"]).problems == ()
    assert digests(broken) == digests(path)


def test_the_plan_counts_cells_and_requests() -> None:
    plan = preview(make_recipe(None, {"source": "earthengine", "cover": True, "region": "Denmark"}))
    cells = plan["cover"]["cells"]
    assert plan["tiles"] == sum(cells.values())
    assert set(cells) == {"EPSG:32632", "EPSG:32633"}
    requests = plan["estimate"]["requests"]
    assert requests["image:computePixels"] == plan["tiles"]
    assert plan["estimate"]["requests_at_most"]["image:computePixels"] == plan["tiles"], "there are no reserves"
    assert plan["raw_bytes"] == plan["tiles"] * sum(plan["raw_bytes_per_tile"].values())


def test_a_few_cells_are_measured() -> None:
    found = profile(make_recipe(None, {**RECIPE, "modalities": ["esa_worldcover"]}), 2)
    assert found["places"] == 2
    assert found["recipe"]["tiles"] > 10


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tiles": 5}, "tiles (--tiles): expected none with --cover"),
        ({"balance": "area"}, "balance (--balance)"),
        ({"oversample": 2}, "oversample (--oversample)"),
        ({"split": "random"}, "split (--split)"),
        ({"split_shares": (80, 10, 10)}, "split_shares (--split-shares)"),
        ({"split_guard_m": 5}, "split_guard_m (--split-guard)"),
        ({"min_distance_m": 5}, "min_distance_m (--min-distance)"),
        ({"years": (2020,)}, "years (--years)"),
        ({"tiles_file": "x.csv"}, "tiles_file (--tiles-file)"),
        ({"levels": ("L1C", "L2A")}, "expected a single level for all tiles with --cover"),
        ({"overlap_px": 32}, "expected an overlap of less than a tile (32 px)"),
        ({"date_range": ("2020-06-01",)}, "expected the first and the last day"),
        ({"date_range": ("2020-06-01", "2020-06-31")}, "expected the first and the last day"),
        ({"date_range": ("2020-06-02", "2020-06-01")}, "expected START not after END"),
        ({"date_range": ("2012-06-01", "2013-06-01")}, "date_range (--date-range): expected years from 2017"),
        ({"region": "global"}, "expected a region to cover, got the whole Earth"),
        ({"ecoregions": "e.gpkg", "modalities": ["aster"]}, "e.gpkg"),
        ({"source": "earthengine", "seed": 1}, "seed (--seed)"),
        ({"cover": False}, "overlap_px (--overlap): expected none without --cover"),
        ({"cover": False, "overlap_px": 0, "date_range": DATES}, "without --cover"),
    ],
)
def test_what_a_cover_does_not_use_is_refused(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        build(make_recipe(None, {**COVER, **WHERE, **more}), tmp_path / "s.zarr")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s.zarr").exists()


def test_a_cover_is_neither_appended_to_nor_sampled(path: Path, recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--append: expected a recipe that samples"):
        build(make_recipe(None, recipe), path, append=3)
    (tmp_path / "cover.yaml").write_text("source: synthetic\ncover: true\nregion: Monaco\n")
    done = CliRunner().invoke(
        cli, ["sample", "--recipe", str(tmp_path / "cover.yaml"), "--out", str(tmp_path / "s.parquet")]
    )
    assert done.exit_code == 2
    assert "expected a recipe that samples locations" in done.output


def test_the_option_replaces_what_a_recipe_samples(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("source: synthetic\ntiles: 9\nbalance: area\nregion: Monaco\nsplit: random\n")
    recipe = make_recipe(str(tmp_path / "r.yaml"), {"cover": True})
    assert (recipe.cover, recipe.region, recipe.levels, recipe.cloud_percent) == (True, "Monaco", ("L2A",), 100.0)
