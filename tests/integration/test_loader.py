"""The loader on a real store: complete, seeded, and the same values that the store holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_making import empty_positions, make_store, small_layout

from mmearth_data import InputError, Store, StoreDamaged, open_store

LAYOUT = small_layout(tiles=61, tiles_per_shard=8)
TILES = 61 - sum(len(empty_positions(LAYOUT, shard)) for shard in range(LAYOUT.shards))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("loader") / "s.zarr"
    make_store(path, LAYOUT)
    return open_store(path)


def ids(store: Store, **options: object) -> list[int]:
    return [int(i) for batch in store.loader(**options) for i in batch["tile"]["tile_id"]]


@pytest.mark.parametrize("batch_size", [1, 7, 16, 61, 500])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_tile_comes_once_and_empty_slots_never(store: Store, batch_size: int, shuffle: bool) -> None:
    got = ids(store, batch_size=batch_size, shuffle=shuffle, block_tiles=3, window_blocks=4)
    assert len(got) == TILES < 61
    assert 0 not in got
    assert sorted(got) == sorted(store.coords["tile_id"].tolist())
    if not shuffle:
        assert got == store.coords["tile_id"].tolist()


def test_a_batch_holds_what_the_store_holds_in_the_stored_types(store: Store) -> None:
    position = {int(tile_id): i for i, tile_id in enumerate(store.coords["tile_id"])}
    for batch in store.loader(batch_size=16, seed=3, block_tiles=5):
        for i, tile_id in enumerate(batch["tile"]["tile_id"]):
            tile = store[position[int(tile_id)]]
            for name, values in tile.items():
                if name != "tile":
                    assert batch[name].dtype == store.modalities[name].dtype
                    np.testing.assert_array_equal(batch[name][i], values)
            assert batch["tile"]["lon"][i] == tile["tile"]["lon"]
            assert batch["tile"]["time"][i] == tile["tile"]["time"] or np.isnat(tile["tile"]["time"])


def test_order_follows_seed_and_epoch_and_nothing_else(store: Store) -> None:
    first = ids(store, seed=1)
    assert ids(store, seed=1, threads=4) == first
    assert ids(store, seed=1, batch_size=5) == first
    assert ids(store, seed=2) != first
    loader = store.loader(seed=1)
    loader.set_epoch(1)
    assert [int(i) for batch in loader for i in batch["tile"]["tile_id"]] != first


def test_length_and_the_last_batch(store: Store) -> None:
    loader = store.loader(batch_size=16)
    assert [len(b["tile"]["tile_id"]) for b in loader] == [16, 16, 16, TILES - 48]
    assert len(loader) == 4
    whole = store.loader(batch_size=16, drop_last=True)
    assert [len(b["tile"]["tile_id"]) for b in whole] == [16, 16, 16]
    assert len(whole) == 3


def test_a_selection_delivers_its_tiles_and_modalities_only(store: Store) -> None:
    chosen = store.select(split="val", modalities=["optical", "lat"])
    (batch,) = chosen.loader(batch_size=100)
    assert set(batch) == {"optical", "tile"}
    assert set(batch["tile"]["split"]) == {1}
    assert len(batch["optical"]) == len(chosen)
    (batch,) = store.loader(batch_size=100, modalities=["zone"])
    assert set(batch) == {"zone", "tile"}


def test_stopping_early_leaves_nothing_running(store: Store) -> None:
    import threading

    for _ in store.loader(batch_size=4, block_tiles=2, window_blocks=2):
        break
    assert not [t for t in threading.enumerate() if t.name.startswith("mmearth-prefetch")]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 100, "drop_last": True}, "lower the batch size"),
        ({"modalities": ["sonar"]}, "sonar"),
        ({"modalities": ["lat"]}, "lat"),
    ],
)
def test_impossible_wishes_are_refused(store: Store, options: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        store.loader(**options)


def test_an_empty_selection_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="got none"):
        store.select(where=lambda c: c["lat"] > 100).loader()


def test_damage_met_while_loading_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    make_store(path, small_layout(tiles=24, tiles_per_shard=8))
    shard = path / "optical" / "c" / "1" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0x10
    shard.write_bytes(data)
    with pytest.raises(StoreDamaged, match="optical"):
        list(open_store(path).loader(batch_size=8))
