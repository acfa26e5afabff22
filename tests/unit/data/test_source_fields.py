"""Each source uses the fields of a recipe that it declares, and refuses the others when they are given."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from chips_world import folder_of
from click.testing import CliRunner
from sites_world import many_sites

from mmearth_data import BuildRecipe, make_recipe
from mmearth_data.building.prepare import PreparedBuild, prepare
from mmearth_data.building.preview import preview
from mmearth_data.catalog.entries import load_catalog
from mmearth_data.cli import cli
from mmearth_data.errors import InputError
from mmearth_data.recipes import BUILD_RECIPES, COVERING
from mmearth_data.sources.base import FIELDS_OF_ALL
from mmearth_data.sources.chips import ChipSource
from mmearth_data.sources.earthengine.source import EarthEngineSource
from mmearth_data.sources.opening import make_source
from mmearth_data.sources.rasters import RasterSource
from mmearth_data.sources.synthetic import SyntheticSource

SOURCES: dict[str, Any] = {
    "rasters:absent.yaml": RasterSource,
    "synthetic": SyntheticSource,
    "earthengine": EarthEngineSource,
}
VALUES: dict[str, Any] = {
    "region": "Denmark",
    "mainland": True,
    "tiles": 1000,
    "balance": "area",
    "oversample": 1.3,
    "split_guard_m": 1,
    "min_distance_m": 100_000,
    "years": [2020],
    "levels": ["L2A"],
    "cloud_percent": 5,
    "date_range": ["2020-06-01", "2020-08-31"],
    "era5_window": 13,
    "level": "L1C",
    "assets": {"aster": "users/me/dem"},
    "ee_project": "mine",
    "ee_endpoint": "standard",
    "ee_url": "http://127.0.0.1:1",
    "service_account": "key.json",
    "in_flight": 2,
    "per_second": 5,
    "restricted_in_flight": 2,
    "request_timeout_s": 5,
    "latency_s": 1,
    "eecu_per_tile": 1,
}
"""A value of each field that some source does not use; the default where it is given all the same."""
UNUSED = [(name, field) for name, source in SOURCES.items() for field in sorted({*VALUES} - source.recipe_fields)]


def test_every_field_is_used_by_a_source_and_known_here() -> None:
    fields = set(BuildRecipe.model_fields)
    assert set().union(*(source.recipe_fields for source in SOURCES.values())) == fields
    assert fields - set.intersection(*(set(source.recipe_fields) for source in SOURCES.values())) == set(VALUES)


def refused(call: Callable[[], object], *words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert "leave it out" in message or "expected source" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(("source", "field"), UNUSED)
def test_a_field_that_a_source_does_not_use_is_refused(source: str, field: str, tmp_path: Path) -> None:
    given = {"source": source, field: VALUES[field]} | ({"cover": True} if field in COVERING else {})
    refused(lambda: prepare(make_recipe(None, given)), field, source)
    refused(lambda: preview(BuildRecipe(**given)), field, source)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(given))
    refused(lambda: make_source(make_recipe(str(tmp_path / "mine.yaml"), {}), load_catalog(), None), field, source)


@pytest.mark.parametrize(
    "given",
    [
        {"cover": True},
        {"cover": True, "overlap_px": 8},
        {"ecoregions": "eco.gpkg"},
        {"tiles_file": "t.csv"},
        {"tiles_file": "t.csv", "labels": ["crop"], "labels_file": "l.yaml"},
        {"tiles_file": "t.csv", "date_column": "day", "days": 9, "split_column": "part"},
        {"polygons": "p.gpkg", "labels": ["crop"], "burn": "touched"},
    ],
    ids=lambda given: "+".join(given),
)
def test_fields_of_places_are_refused_with_images_that_have_none(given: dict[str, Any], tmp_path: Path) -> None:
    for name in ("eco.gpkg", "t.csv", "l.yaml", "p.gpkg"):
        (tmp_path / name).write_text("")
    files = {key: tmp_path / str(value) for key, value in given.items() if "." in str(value)}
    values = {**folder_of(tmp_path).recipe, **given, **files}
    with pytest.raises(InputError, match=r"(expected none with the source|got) chips:.*; leave"):
        make_source(make_recipe(None, values), load_catalog(), None)


def test_images_take_all_fields_but_those_of_places() -> None:
    assert ChipSource.recipe_fields < FIELDS_OF_ALL
    assert {"split", "split_shares", "seed", "tile_size", "modalities"} <= ChipSource.recipe_fields


OPTIONS = [
    pytest.param(command, source, option, id=f"{command} {source} {option.opts[0]}")
    for command, source in (("build", "rasters:absent.yaml"), ("build", "synthetic"), ("sample", "synthetic"))
    for option in cli.commands[command].params
    if option.name in VALUES and option.name not in SOURCES[source].recipe_fields
]


@pytest.mark.parametrize(("command", "source", "option"), OPTIONS)
def test_the_command_names_the_option(command: str, source: str, option: Any, tmp_path: Path) -> None:
    texts = {
        "years": "2020",
        "levels": "L2A",
        "assets": "aster=users/me/dem",
        "date_range": "2020-06-01,2020-08-31",
    }
    value = texts.get(option.name, str(VALUES[option.name]))
    words = [option.opts[0], *([] if option.is_flag else [value])]
    out = tmp_path / ("out.parquet" if command == "sample" else "out")
    more = ["--dry-run"] if option.name in {"latency_s", "eecu_per_tile"} else []
    more += ["--cover"] if option.name in COVERING else []
    done = CliRunner().invoke(cli, [command, "--source", source, *words, *more, "--out", str(out)])
    assert done.exit_code == 2
    assert option.opts[0] in done.output
    assert "Traceback" not in done.output
    assert not out.exists()


@pytest.mark.parametrize("name", BUILD_RECIPES.names())
def test_what_a_shipped_recipe_sets_was_not_given(name: str, tmp_path: Path) -> None:
    world = many_sites(tmp_path, 3)
    given = {"source": f"rasters:{world.file}", "tile_size": 64, "modalities": ("sentinel2",)}
    assert prepare(make_recipe(name, given)).plan.layout.tiles == 3
    refused(lambda: prepare(make_recipe(name, given | {"region": "global"})), "region (--region)")


def test_locations_of_files_are_not_sampled(tmp_path: Path) -> None:
    world = many_sites(tmp_path, 3)
    words = ["sample", "--source", f"rasters:{world.file}", "--tiles", "2", "--out", str(tmp_path / "s.parquet")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "which has its own" in done.output


def test_every_field_that_rasters_declare_has_an_effect(tmp_path: Path) -> None:
    world = many_sites(tmp_path, 12)
    (tmp_path / "some.csv").write_text("site\ns00\ns05\n")
    (tmp_path / "eco.geojson").write_text(ECOREGION)
    base = {"source": f"rasters:{world.file}", "tile_size": 64, "split_shares": (50, 25, 25)}
    changes = {
        "source": f"rasters:{many_sites(tmp_path / 'other', 11).file}",
        "tile_size": 32,
        "seed": 1,
        "modalities": ("sentinel2",),
        "ecoregions": tmp_path / "eco.geojson",
        "tiles_file": tmp_path / "some.csv",
        "split": "block",
        "split_shares": (60, 20, 20),
        "tiles_per_shard": 4,
        "level": "L1C",
    }
    (tmp_path / "labelled.csv").write_text("site,ph,part\ns00,5,train\ns05,6,test\n")
    (tmp_path / "described.yaml").write_text("labels: {ph: {range: [0, 14]}}\n")
    labelled = {"source": base["source"], "tile_size": 64, "tiles_file": tmp_path / "labelled.csv", "labels": ("ph",)}
    of_labels = {"labels": (), "labels_file": tmp_path / "described.yaml", "split_column": "part"}
    of_others = {"date_column", "days", "polygons", "burn"}  # files with dates: test_dates; polygons: test_burning
    assert {*changes, *of_labels, *of_others, "threads", "cover", "overlap_px"} == RasterSource.recipe_fields
    before = effect(prepare(make_recipe(None, labelled)))
    for field, value in of_labels.items():
        assert effect(prepare(make_recipe(None, labelled | {field: value}))) != before, field
    before = effect(prepare(make_recipe(None, base)))
    for field, value in changes.items():
        assert effect(prepare(make_recipe(None, base | {field: value}))) != before, field
    cover = {"source": base["source"], "tile_size": 64, "cover": True}
    covers = [
        effect(prepare(make_recipe(None, cover | more)))
        for more in ({}, {"overlap_px": 16}, {"region": "bbox:9,47.8,9.1,47.9"})
    ]
    assert all(one != other for one, other in combinations([before, *covers], 2))


def effect(prepared: PreparedBuild) -> Any:
    """Everything that decides the store, but the recipe that it records."""
    places = {name: column.tolist() for name, column in prepared.plan.columns(slice(None)).items()}
    layout = prepared.plan.layout
    names = [m.name for m in layout.modalities]
    return places, names, layout.tiles_per_shard, prepared.source.identity()


ECOREGION = """{"type": "FeatureCollection", "features": [{"type": "Feature",
"properties": {"ECO_NAME": "Alps conifer and mixed forests"}, "geometry": {"type": "Polygon",
"coordinates": [[[5, 40], [15, 40], [15, 55], [5, 55], [5, 40]]]}}]}"""
