"""Append rows to a finished store: wherever it is interrupted, no reader gets a wrong tile, and the result is the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from store_making import digests, make_columns, make_rasters, make_store, small_layout
from test_store_building import FullDisk

from mmearth_data.building.append import begin_append, is_begun
from mmearth_data.errors import InputError, StoreDamaged
from mmearth_data.store import StoreWriter, open_store, verify
from mmearth_data.store.encoding import cut_shard, encode_shard, encode_tiles, extend_shard
from mmearth_data.store.reader import Store

MORE = 14
LAYOUT = small_layout()
HALF_FULL = LAYOUT.tiles // LAYOUT.tiles_per_shard


def grow(path: Path | str) -> None:
    """Append rows, or resume an append, as a build does."""
    begun = is_begun(open_store(path), MORE)
    writer = StoreWriter.resume(path) if begun else begin_append(path, MORE)
    for shard in sorted(set(range(writer.layout.shards)) - writer.committed()):
        new = len(writer.rows(shard))
        columns = {name: values[-new:] for name, values in make_columns(writer.layout, shard).items()}
        writer.write_shard(shard, columns, {k: v[-new:] for k, v in make_rasters(writer.layout, shard).items()})
    writer.finish()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store (``first``), and the same store grown (``grown``)."""
    path = tmp_path_factory.mktemp("growth")
    make_store(path / "first.zarr")
    shutil.copytree(path / "first.zarr", path / "grown.zarr")
    grow(path / "grown.zarr")
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder / "first.zarr", tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


@pytest.mark.slow
@pytest.mark.parametrize("start", [5, 12])
def test_wherever_it_is_broken_off_it_goes_on(start: int, folder: Path, copy: Path) -> None:
    """The disk is full after some flushes, and after more of them where that led nowhere."""
    names = ["radar", "zone", "valid"]
    first, whole = (xr.open_zarr(folder / f"{name}.zarr", chunks=None)[names].load() for name in ("first", "grown"))
    grown = open_store(folder / "grown.zarr")
    flushes, known, shown = start, _standing(copy), set()
    factor, afresh = (1.5, 13) if start == 5 else (4, 20)
    while not _grown_within(int(flushes), copy):
        now = _standing(copy)
        flushes, known = (flushes * factor if now == known else afresh), now
        assert {problem.part for problem in verify(copy).problems} <= {"_manifest.json", *_metadata(copy)}
        shown.add(_compared(open_store(copy), grown))
        plain = xr.open_zarr(copy, chunks=None)[names]
        kept = np.flatnonzero(plain["valid"].to_numpy())
        assert len(kept) in {int((ds["valid"] > 0).sum()) for ds in (first, whole)}, "all old ones, or all"
        xr.testing.assert_equal(plain.isel(tile=kept).load(), whole.isel(tile=kept))
    assert min(shown) == 18
    assert start == 12 or max(shown) > 18, "some were cut off between shards"
    assert digests(copy) == digests(folder / "grown.zarr")


def test_an_append_cut_off_at_once_is_not_taken_for_the_one_before_of_its_size(folder: Path, copy: Path) -> None:
    grown = open_store(folder / "grown.zarr")
    assert not _grown_within(20, copy)
    assert verify(copy).problems != (), "its seal is gone"
    assert _compared(open_store(copy), grown) == 18
    grow(copy)
    assert digests(copy) == digests(grown.path)
    assert not _grown_within(20, copy)
    assert not open_store(copy).finished
    assert StoreWriter.resume(copy).stages == (21, 35)
    assert _compared(open_store(copy), grown) == 32
    grow(copy)
    assert StoreWriter.resume(copy).stages == (21, 35, 49)


def _grown_within(flushes: int, path: Path) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(flushes))
        try:
            grow(path)
        except OSError:
            return False
    return True


def _standing(path: Path) -> tuple[tuple[int, ...], frozenset[int]]:
    writer = StoreWriter.resume(path)
    return writer.stages, writer.committed()


def _metadata(store: Path) -> set[str]:
    return {path.relative_to(store).as_posix() for path in store.rglob("zarr.json")}


def _compared(store: Store, grown: Store) -> int:
    """Compare all tiles that a store shows with those of the grown one; how many there are."""
    assert set(store.rows.tolist()) <= set(grown.rows.tolist())
    for m in LAYOUT.rasters:
        values = store.read(m.name, slice(0, store.layout.tiles))
        np.testing.assert_array_equal(values[store.rows], grown.read(m.name, slice(0, 35))[store.rows])
    for name, column in store.tile_columns.items():
        np.testing.assert_array_equal(column[store.rows], grown.tile_columns[name][store.rows])
    return len(store)


def test_the_half_full_shard_is_longer_before_its_record_is(folder: Path, copy: Path) -> None:
    """Of all moments the one in which objects and commit record are of different times."""
    stale, early = open_store(copy), open_store(copy)
    stale.read("radar", slice(0, 1))
    begin_append(copy, MORE)
    early = open_store(copy)
    for m in LAYOUT.rasters:
        key = f"{m.name}/c/{HALF_FULL}/0/0/0"
        shutil.copy(folder / "grown.zarr" / key, copy / key)
    assert verify(copy).problems == ()
    grown = open_store(folder / "grown.zarr")
    for store in (early, open_store(copy)):
        assert _compared(store, grown) == 18
        packed = store.content.reader("radar").encoded(np.arange(16, 19))
        assert packed == grown.content.reader("radar").encoded(np.arange(16, 19))
    np.testing.assert_array_equal(stale.read("radar", slice(16, 21)), grown.read("radar", slice(16, 21)))
    assert np.isnan(early.read("radar", slice(21, 24))).all(), "what is not committed holds no data"
    grow(copy)
    assert digests(copy) == digests(folder / "grown.zarr")
    for read in (lambda: stale.read("height", slice(0, 1)), lambda: stale.tiles):
        with pytest.raises(InputError, match="has grown since; open it again"):
            read()


def test_older_rows_that_are_broken_stop_the_append(copy: Path) -> None:
    path = copy / "radar" / "c" / str(HALF_FULL) / "0" / "0" / "0"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreDamaged, match=rf"radar/c/{HALF_FULL}/0/0/0 is damaged: its first 5 rows are not those"):
        grow(copy)
    assert {problem.part for problem in verify(copy).problems} == {f"radar/c/{HALF_FULL}/0/0/0"}


def test_appended_rows_that_do_not_add_up_are_damage(folder: Path, tmp_path: Path) -> None:
    for wrong in (b'"appended":"[99]"', b'"appended":"[-14]"', b'"appended":"[null]"', b'"appended":"["'):
        store = tmp_path / wrong.hex()
        shutil.copytree(folder / "grown.zarr", store)
        (store / "_manifest.json").unlink()
        data = (store / "zarr.json").read_bytes()
        (store / "zarr.json").write_bytes(data.replace(b'"appended":"[14]"', wrong))
        with pytest.raises(StoreDamaged, match="contradict themselves"):
            open_store(store)


@pytest.mark.parametrize("held", [1, 5, 8])
def test_a_longer_shard_is_the_shard_of_all_rows_and_cut_it_is_the_shorter_one(held: int) -> None:
    values = np.random.default_rng(3).integers(0, 99, (8, 2, 16, 16)).astype(np.uint16)
    whole, first = encode_shard(values, 8), encode_shard(values[:held], 8)
    assert extend_shard(first, 8, held, encode_tiles(values[held:])) == whole
    assert extend_shard(whole, 8, held, encode_tiles(values[held:])) == whole, "begun again after it was cut off"
    assert cut_shard(whole, 8, held) == first
    for broken in (first[:-1], first[:50], b"", encode_shard(values[: held - 1], 8)):
        with pytest.raises(ValueError, match=r"rows|checksum"):
            cut_shard(broken, 8, held)
