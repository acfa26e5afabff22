"""Turn over any bit of any file, or lose the file: `verify` names it, and no reader gives a wrong value."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_making import build_known
from store_making import begin_store, digests, make_columns, make_rasters, small_layout

from mmearth_data import InputError, StoreDamaged, build, make_recipe, open_store, repair, verify
from mmearth_data.store import Store
from mmearth_data.store.overlaps import overlapping_splits
from mmearth_data.store.storage import storage_at
from mmearth_data.store.storage.lock import StoreTaken


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "s.zarr"
    build_known(path, path.parent / "log")
    return path


@pytest.fixture(scope="module")
def truth(sound: Path) -> dict[str, Any]:
    return everything(sound)


def everything(path: Path) -> dict[str, Any]:
    """All that a store gives: tables, arrays and batches."""
    store = open_store(path)
    whole = slice(0, store.layout.tiles)
    arrays = {name: store.read(name, whole) for name, m in store.modalities.items() if m.stored}
    parts = {f"{name} part": store.read(name, slice(2, 3)) for name, m in store.modalities.items() if m.stored}
    columns = {f"column {name}": values for name, values in store.tile_columns.items()}
    table = store.tiles
    for name in table.columns[table.dtypes == "category"]:
        table[name] = table[name].cat.codes
    frame = {f"table {name}": table[name].to_numpy() for name in table.columns if name != "geometry"}
    outline = {"table geometry": table.geometry.to_wkb().to_numpy()}
    facts = {
        "statistics": str(store.statistics),
        "histograms": str(store.class_histograms),
        "recipe": str(store.recipe),
    }
    batches = {
        f"batch {k} {name}": values
        for k, batch in enumerate(store.loader(batch_size=20, seed=1))
        for name, values in batch.items()
        if name != "tile"
    }
    return {**arrays, **parts, **columns, **frame, **outline, **facts, **batches}


def same(left: Any, right: Any) -> bool:
    if isinstance(left, str):
        return bool(left == right)
    left, right = np.asarray(left), np.asarray(right)
    return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind in "fM")


def kinds(path: Path) -> dict[str, list[Path]]:
    """Files by what they are, so that each kind is hit alike, however many there are of it."""
    found: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*")):
        key = file.relative_to(path)
        if file.is_file() and key.parts[0] != "_ledger":
            kind = key.name if len(key.parts) == 1 else key.parts[0] if key.parts[0] == "_commits" else ""
            if not kind:
                kind = "array metadata" if key.name == "zarr.json" else f"{len(key.parts)}-part array"
            found.setdefault(kind, []).append(file)
    return found


def break_and_look(sound: Path, truth: dict[str, Any], folder: Path, flips: int, seed: int) -> None:
    draw = random.Random(seed)
    path = Path(shutil.copytree(sound, folder / "s.zarr"))
    files = kinds(path)
    assert len(files) == 10, sorted(files)
    raised = 0
    for turn in range(flips):
        kind = sorted(files)[turn % len(files)]
        file = draw.choice(files[kind])
        data = file.read_bytes()
        part = file.relative_to(path).as_posix()
        if draw.random() < 0.1:
            file.unlink()
        else:
            changed = bytearray(data)
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            file.write_bytes(changed)
        named = {problem.part for problem in verify(path).problems}
        assert part in named, (turn, part, named)
        try:
            seen = everything(path)
        except (StoreDamaged, InputError):
            raised += 1
        else:
            wrong = [name for name in truth if not same(seen[name], truth[name])]
            assert not wrong, (turn, part, wrong)
        file.write_bytes(data)
    assert raised > flips / 3
    assert verify(path).problems == ()


def test_flips(sound: Path, truth: dict[str, Any], tmp_path: Path) -> None:
    break_and_look(sound, truth, tmp_path, 12, seed=1)


@pytest.mark.slow
def test_a_thousand_flips(sound: Path, truth: dict[str, Any], tmp_path: Path) -> None:
    break_and_look(sound, truth, tmp_path, 1000, seed=2)


@pytest.fixture(scope="module")
def planet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planet") / "s.zarr"
    options = {"source": "synthetic", "tiles": 24, "tile_size": 16, "tiles_per_shard": 8, "region": "Denmark"}
    build(make_recipe(None, options), path)
    return path


class TestRepair:
    @pytest.mark.parametrize("sealed", [True, False])
    def test_everything_but_the_root_comes_back(self, sealed: bool, planet: Path, tmp_path: Path) -> None:
        path = Path(shutil.copytree(planet, tmp_path / "s.zarr"))
        whole = digests(path)
        (path / "_commits" / "2.parquet").unlink()
        raster = path / "sentinel2" / "c" / "0" / "0" / "0" / "0"
        raster.write_bytes(raster.read_bytes()[:-9])
        (path / "sentinel1" / "zarr.json").write_text("{}")
        (path / "tiles.parquet").write_bytes(b"PAR1")
        (path / "tiles_spatial.parquet").unlink()
        expected = {"sentinel1/zarr.json", "sentinel2/c/0/0/0/0"}
        if sealed:
            expected |= {"_commits/2.parquet", "tiles.parquet", "tiles_spatial.parquet"}
        else:  # then it is an unfinished store, in which a record may be missing
            (path / "_manifest.json").unlink()
            expected |= {"_manifest.json"}
        assert {problem.part for problem in verify(path).problems} == expected
        assert repair(path).problems == ()
        assert digests(path) == whole

    def test_a_sound_store_is_left_alone(self, planet: Path) -> None:
        before = digests(planet)
        assert repair(planet).problems == ()
        assert digests(planet) == before

    def test_a_store_that_another_command_holds_is_refused_and_kept(self, planet: Path, tmp_path: Path) -> None:
        path = Path(shutil.copytree(planet, tmp_path / "s.zarr"))
        (path / "_commits" / "2.parquet").unlink()
        before = digests(path)
        with storage_at(path).hold(), pytest.raises(StoreTaken, match="is building"):
            repair(path)
        assert digests(path) == before
        assert repair(path).problems == ()

    def test_nothing_to_repair_is_said_and_nothing_made(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="found nothing there"):
            repair(tmp_path / "s.zarr")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"ee_project": "mine"}, "--ee-project, since the store was built from the source synthetic"),
            ({"ecoregions": "none.gpkg"}, "expected only files that the store was built with, got --ecoregions"),
            ({"source": "chip:x.yaml"}, "source"),
        ],
    )
    def test_what_does_not_belong_to_a_sound_store_is_refused_too(
        self, planet: Path, given: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            repair(planet, **given)

    def test_a_lost_recipe_is_said(self, planet: Path, tmp_path: Path) -> None:
        path = Path(shutil.copytree(planet, tmp_path / "s.zarr"))
        (path / "zarr.json").write_bytes((path / "zarr.json").read_bytes()[:-20])
        before = digests(path)
        with pytest.raises(StoreDamaged, match="it contains the recipe: restore the file from a backup"):
            repair(path)
        assert digests(path) == before


class TestSplits:
    def test_overlaps_are_found_by_distance(self) -> None:
        """Two squares of 160 m: 100 m apart they overlap, 200 m apart they do not."""
        metre = 1 / 111_195
        for east, north, shared in ((100, 0, True), (0, 0, True), (100, 100, True), (200, 0, False), (0, 200, False)):
            for at in (0.0, 60.0):
                lon = np.array([10.0, 10.0 + east * metre / np.cos(np.radians(at)), 50.0])
                lat = np.array([at, at + north * metre, at])
                pair = overlapping_splits(lon, lat, np.array([0, 2, 0], np.uint8), 16)
                assert (pair == (0, 1)) == shared, (east, north, at)
                assert overlapping_splits(lon, lat, np.array([1, 1, 0], np.uint8), 16) is None

    def test_verify_names_the_shard(self, tmp_path: Path) -> None:
        layout = small_layout()
        writer = begin_store(tmp_path / "s.zarr", layout)
        for shard in range(layout.shards):
            columns, rasters = make_columns(layout, shard), make_rasters(layout, shard)
            if shard == 2:  # a test tile where a training tile is, of another scene
                first = make_columns(layout, 0)
                for name in ("tile_id", "lon", "lat", "epsg", "ulx", "uly"):
                    columns[name][1] = first[name][0]
            writer.write_shard(shard, columns, rasters)
        writer.finish()
        (problem,) = verify(Store.open(writer.path).path).problems
        assert problem.part == "_commits/2.parquet"
        assert "belong to different splits" in problem.problem
