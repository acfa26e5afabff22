"""Whatever is broken in a store is found, and named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from store_making import (
    begin_store,
    make_columns,
    make_rasters,
    make_store,
    small_catalog,
    small_layout,
    write_shard,
)

from mmearth_data.errors import InputError, StoreDamaged
from mmearth_data.store import StoreLayout, StoreWriter, open_store, verify
from mmearth_data.store.commits import encode_commit, read_commit
from mmearth_data.store.encoding import encode_shard
from mmearth_data.store.manifest import encode_manifest, entry_of
from mmearth_data.store.storage.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store with a modality of every kind, as small as it can be."""
    path = tmp_path_factory.mktemp("sound") / "s.zarr"
    names = {"optical", "cover", "weather", "zone", "month"}
    chosen = tuple(m for m in small_catalog() if m.name in names)
    make_store(path, StoreLayout(modalities=chosen, tiles=10, size_px=16, tiles_per_shard=5))
    return path


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(sound, tmp_path / "s.zarr"))


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A store that is being built, two of three shards committed."""
    writer = begin_store(tmp_path / "u.zarr")
    write_shard(writer, 0)
    write_shard(writer, 1)
    return writer.path


def flip(file: Path, position: int, bit: int = 0) -> None:
    """Turn one bit of a file over."""
    data = bytearray(file.read_bytes())
    data[position] ^= 1 << bit
    file.write_bytes(data)


def truncate(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def test_a_sound_store_has_no_problems(sound: Path) -> None:
    report = verify(sound)
    files = [file for file in sound.rglob("*") if file.is_file()]
    assert report.problems == ()
    assert report.finished
    assert report.checked_files == len(files), "every file was read"
    assert report.checked_bytes == sum(file.stat().st_size for file in files)


def test_an_unfinished_store_has_no_problems(unfinished: Path) -> None:
    report = verify(unfinished)
    assert report.problems == ()
    assert not report.finished


def check_it_is_named(store: Path, files: list[Path], rng: np.random.Generator, flips: int = 1) -> None:
    """Turn over a bit of each file, then lose them all: each is named, and none of the damage is left."""
    names = {file.relative_to(store).as_posix() for file in files}
    before = {file: file.read_bytes() for file in files}
    for _ in range(flips):
        for file, data in before.items():
            flip(file, int(rng.integers(len(data))), int(rng.integers(8)))
        assert names <= {problem.part for problem in verify(store).problems}
        for file, data in before.items():
            file.write_bytes(data)
    for file in files:
        file.unlink()
    assert names <= {problem.part for problem in verify(store).problems}
    for file, data in before.items():
        file.write_bytes(data)


def test_flipped_bits_and_missing_files_are_found_and_named(store: Path) -> None:
    """In many files together: records and rasters apart, and apart what says which files there should be."""
    files = sorted(file for file in store.rglob("*") if file.is_file())
    alone = [store / "zarr.json", store / "_manifest.json"]
    records = [file for file in files if file.parent.name == "_commits"]
    others = [file for file in files if file not in (*alone, *records)]
    assert len(others) > 30
    for broken in (others, records, *([file] for file in alone)):
        check_it_is_named(store, broken, np.random.default_rng(0))
    assert verify(store).problems == ()


@pytest.mark.slow
def test_any_flipped_bit_and_any_missing_file_is_found_and_named(store: Path) -> None:
    rng = np.random.default_rng(0)
    for file in sorted(file for file in store.rglob("*") if file.is_file()):
        check_it_is_named(store, [file], rng, flips=8)
    assert verify(store).problems == ()


def reseal(store: Path, key: str, version: int = 2) -> None:
    """Make the manifest agree with a file that was changed: damage that digests cannot show."""
    files = json.loads((store / "_manifest.json").read_text())["files"]
    files[key] = entry_of((store / key).read_bytes())
    (store / "_manifest.json").write_bytes(encode_manifest(files, version))


def test_statistics_that_are_not_those_of_the_tiles_are_found(store: Path) -> None:
    root = json.loads((store / "zarr.json").read_text())
    statistics = json.loads(root["attributes"]["statistics"])
    statistics["all"]["optical"]["L2A"]["red"]["mean"] *= 1.001
    root["attributes"]["statistics"] = json.dumps(statistics)
    (store / "zarr.json").write_text(json.dumps(root, separators=(",", ":"), ensure_ascii=False))
    reseal(store, "zarr.json")
    (problem,) = verify(store).problems
    assert problem.part == "zarr.json"
    assert "statistics are not those of the commit records" in problem.problem


def test_a_column_that_differs_from_the_records_is_found(store: Path, tmp_path: Path) -> None:
    layout = open_store(store).layout
    other = begin_store(tmp_path / "other.zarr", layout)
    for shard in range(layout.shards):
        columns = make_columns(layout, shard)
        columns["weather"] = columns["weather"] + np.float32(1)
        other.write_shard(shard, columns, make_rasters(layout, shard), [])
    other.finish()
    shutil.copy(other.path / "weather" / "c" / "0" / "0", store / "weather" / "c" / "0" / "0")
    reseal(store, "weather/c/0/0")
    parts = {problem.part for problem in verify(store).problems}
    assert parts == {"weather/c/0/0", "tiles.parquet"}


def test_a_table_of_another_store_is_found(store: Path, tmp_path: Path) -> None:
    layout = open_store(store).layout
    other = begin_store(tmp_path / "other.zarr", layout)
    for shard in range(layout.shards):
        other.write_shard(shard, make_columns(layout, shard), make_rasters(layout, shard), [])
    other.finish()
    for key in ("tiles.parquet", "rejected.parquet"):
        shutil.copy(other.path / key, store / key)
        reseal(store, key)
    problems = {problem.part: problem.problem for problem in verify(store).problems}
    assert set(problems) == {"tiles.parquet", "rejected.parquet"}
    assert "0 rows for 2 rejected" in problems["rejected.parquet"]


@pytest.mark.parametrize(
    ("value", "part", "words"),
    [(3, "cover/c/0/0/0/0", "class codes that cover lacks: 3"), (0, "_commits/0.parquet", "bits of valid")],
    ids=["unknown class", "nothing observed"],
)
def test_values_that_no_build_would_have_written_are_found(value: int, part: str, words: str, tmp_path: Path) -> None:
    """Records and digests agree with each other here, but not with the values."""
    writer = begin_store(tmp_path / "s.zarr", small_layout(tiles=8))
    write_shard(writer, 0)
    objects, key = LocalStorage(writer.path), "cover/c/0/0/0/0"
    commit = read_commit(objects, writer.layout, 0)
    data = encode_shard(np.full((8, 1, 16, 16), value, dtype=np.uint8), 8)
    objects.put(key, data)
    changed = dataclasses.replace(commit, objects={**commit.objects, key: entry_of(data)})
    objects.put("_commits/0.parquet", encode_commit(changed, writer.layout.tabular))
    writer.finish()
    problems = {problem.part: problem.problem for problem in verify(writer.path).problems}
    assert words in problems[part]
    assert set(problems) <= {part, "_commits/0.parquet"}


@pytest.mark.parametrize("repeated", ["within a shard", "across shards"])
def test_a_tile_that_occurs_twice_is_found(repeated: str, tmp_path: Path) -> None:
    layout = small_layout(tiles=16)
    writer = begin_store(tmp_path / "s.zarr", layout)
    first = make_columns(layout, 0)
    ids = first["tile_id"].tolist()
    if repeated == "within a shard":
        for name in ("tile_id", "lon", "lat", "time"):
            first[name][5] = first[name][1]
        with pytest.raises(InputError, match="one twice"):
            writer.write_shard(0, first, make_rasters(layout, 0))
        return
    for shard in (0, 1):
        writer.write_shard(shard, first, make_rasters(layout, shard))
    writer.finish()
    (problem,) = verify(writer.path).problems
    assert problem.part == "_commits"
    assert any(f"the tile {tile_id:016x} and its time occur more than once" in problem.problem for tile_id in ids)


def test_an_id_that_is_not_that_of_its_place_is_found(tmp_path: Path) -> None:
    layout = small_layout(tiles=8)
    writer = begin_store(tmp_path / "s.zarr", layout)
    columns = make_columns(layout, 0)
    columns["lat"][3] += 0.5
    writer.write_shard(0, columns, make_rasters(layout, 0))
    writer.finish()
    (problem,) = verify(writer.path).problems
    assert problem.part == "_commits/0.parquet"
    assert "tile id" in problem.problem


def test_a_raster_of_another_shard_is_found(store: Path) -> None:
    first, second = (store / "cover" / "c" / str(shard) / "0" / "0" / "0" for shard in (0, 1))
    shutil.copy(first, second)
    (problem,) = verify(store).problems
    assert problem.part == "cover/c/1/0/0/0"


def test_what_is_no_store_is_an_input_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match="expected an MMEarth store"):
            verify(path)


class TestOpening:
    """Damage that `open_store` meets on the way, without looking for it."""

    @pytest.mark.parametrize(
        "damage",
        [
            lambda file: file.unlink(),
            lambda file: file.write_bytes(b""),
            lambda file: truncate(file, 60),
            lambda file: truncate(file, file.stat().st_size - 1),
            lambda file: flip(file, 60),
            lambda file: flip(file, 1300, 7),
            lambda file: flip(file, file.stat().st_size - 3),
            lambda file: flip(file, file.stat().st_size - 20),
        ],
        ids=["missing", "empty", "headless", "short", "a tile", "another tile", "checksum of index", "index"],
    )
    def test_a_broken_raster(self, store: Path, damage: Callable[[Path], Any]) -> None:
        damage(store / "optical" / "c" / "1" / "0" / "0" / "0")
        opened = open_store(store)
        assert opened.read("optical", slice(0, 5)).shape == (5, 3, 16, 16), "the other shard is sound"
        for rows in (slice(5, 9), slice(3, 9)):
            with pytest.raises(StoreDamaged, match=r"s\.zarr: optical/c/1/0/0/0 is damaged: ") as caught:
                opened.read("optical", rows)
            assert caught.value.part == "optical/c/1/0/0/0"
            assert caught.value.exit_code == 1
        with pytest.raises(StoreDamaged, match="optical/c/1"):
            opened.dataset["optical"].load()

    @pytest.mark.parametrize("key", ["tile_id/c/0", "tile_id/zarr.json", "zarr.json", "_manifest.json"])
    @pytest.mark.parametrize("position", [0, 40, -1])
    def test_a_broken_part_that_every_reader_needs(self, store: Path, key: str, position: int) -> None:
        flip(store / key, position)
        with pytest.raises(StoreDamaged) as caught:
            len(open_store(store))
        assert caught.value.part == key

    @pytest.mark.parametrize("key", ["weather/c/0/0", "zone/c/0", "lon/c/0", "cover/zarr.json", "zarr.json"])
    def test_a_missing_part(self, store: Path, key: str) -> None:
        (store / key).unlink()
        with pytest.raises(StoreDamaged, match=f"{key} is damaged: the file is missing"):
            open_store(store)[0]

    def test_a_broken_table(self, store: Path) -> None:
        flip(store / "tiles.parquet", 2000)
        opened = open_store(store)
        opened[0]
        with pytest.raises(StoreDamaged, match=r"tiles\.parquet is damaged: its digest"):
            _ = opened.tiles

    def test_a_finished_store_is_read_without_its_tables(self, store: Path) -> None:
        before = open_store(store)[0]["optical"]
        tables = ("tiles.parquet", "tiles_spatial.parquet", "rejected.parquet")
        for key in (*tables, *(f"_commits/{shard}.parquet" for shard in (0, 1))):
            (store / key).unlink()
        opened = open_store(store)
        np.testing.assert_array_equal(opened[0]["optical"], before)
        assert opened.statistics["all"]["optical"]

    @pytest.mark.parametrize("damage", ["missing", "short", "longer"])
    def test_a_committed_raster_of_an_unfinished_store(self, unfinished: Path, damage: str) -> None:
        file = unfinished / "radar" / "c" / "1" / "0" / "0" / "0"
        if damage == "missing":
            file.unlink()
        else:
            data = file.read_bytes()
            file.write_bytes(data[:-9] if damage == "short" else data + b"x")
        with pytest.raises(StoreDamaged, match="radar/c/1/0/0/0 is damaged"):
            open_store(unfinished).read("radar", slice(0, 16))
        assert [problem.part for problem in verify(unfinished).problems] == ["radar/c/1/0/0/0"]

    def test_a_broken_record_of_an_unfinished_store(self, unfinished: Path) -> None:
        flip(unfinished / "_commits" / "1.parquet", 2)
        truncate(unfinished / "_commits" / "1.parquet", 3000)
        with pytest.raises(StoreDamaged, match=r"_commits/1\.parquet is damaged"):
            len(open_store(unfinished))
        assert [problem.part for problem in verify(unfinished).problems] == ["_commits/1.parquet"]

    def test_a_broken_root_of_an_unfinished_store(self, unfinished: Path) -> None:
        root = unfinished / "zarr.json"
        truncate(root, 200)
        with pytest.raises(StoreDamaged, match=r"zarr\.json is damaged: it cannot be read"):
            open_store(unfinished)
        with pytest.raises(StoreDamaged):
            StoreWriter.resume(unfinished)

    def test_a_root_that_contradicts_itself(self, unfinished: Path) -> None:
        root = unfinished / "zarr.json"
        root.write_text(root.read_text().replace('"tiles":21,"size_px":16', '"tiles":22,"size_px":16'))
        with pytest.raises(StoreDamaged, match=r"zarr\.json is damaged: the shapes of its arrays"):
            open_store(unfinished)
