"""A build of many tiles: right in every row, few objects, and records that stay small."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mmearth_data import open_store
from mmearth_data.building.executor import run
from mmearth_data.store import StoreWriter
from mmearth_data.store.schema import ROOT_KEY

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from _null_source import REFUSED, NullSource, plan_in_rows

TILES = 10_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scale") / "s.zarr"
    plan = plan_in_rows(TILES, 64)
    writer = StoreWriter.create(path, plan.layout, recipe={"seed": 0}, source={"name": "null"}, synthetic=True)
    run(plan, NullSource(64, "none"), writer, threads=2)
    writer.finish()
    return path


def test_every_row_holds_its_place(built: Path) -> None:
    store = open_store(built)
    plan = plan_in_rows(TILES, 64)
    number = plan.places["tile_id"] // 128
    filled = ~np.isin(number % REFUSED, (0, 1))
    np.testing.assert_array_equal(store.rows, np.flatnonzero(filled))
    for name in ("tile_id", "lon", "lat", "split"):
        np.testing.assert_array_equal(store.coords[name], plan.places[name][filled], err_msg=name)
    table = store.tiles
    assert len(table) == filled.sum()
    np.testing.assert_array_equal(table["row"], store.rows)
    inside = (table.geometry.bounds["minx"] < table["lon"]) & (table["lon"] < table.geometry.bounds["maxx"])
    assert inside.all(), "every outline is around its own point"
    counts = store.statistics["all"]["era5"]["-"]["year_avg_temp"]["count"]
    assert counts == filled.sum()


def test_rasters_that_no_tile_has_are_there_and_empty(built: Path) -> None:
    store = open_store(built)
    last = store.layout.tiles - 1
    for m in store.layout.rasters:
        assert not m.observed(store.read(m.name, slice(last, last + 1))).any(), m.name
        bit = 1 << store.layout.stored.index(m)
        assert not (store.coords["valid"] & np.uint32(bit)).any()


def test_objects_are_one_a_shard_and_modality_and_few_beside(built: Path) -> None:
    layout = open_store(built).layout
    files = [file.relative_to(built) for file in built.rglob("*") if file.is_file()]
    shards = [file for file in files if len(file.parts) == 6]
    assert len(shards) == layout.shards * len(layout.rasters)
    records = [file for file in files if file.parts[0] == "_commits"]
    assert len(records) == layout.shards
    beside = len(files) - len(shards) - len(records)
    metadata = 1 + len(layout.arrays)  # zarr.json of the root and of every array
    bands = sum(bool(m.bands) for m in layout.stored)
    assert beside == metadata + bands + len(layout.columns) + 4, "one chunk an array, three tables and the manifest"
    assert sum((built / file).stat().st_size for file in records) < 400 * TILES
    assert (built / ROOT_KEY).stat().st_size < 400_000
