"""The loader on a real store: complete, seeded, and the same values that the store holds."""

from __future__ import annotations

import gc
import itertools
import json
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from store_making import begin_store, empty_positions, make_store, small_layout, write_shard

from mmearth_data import Batch, InputError, Loader, RetryLater, Store, StoreDamaged, open_store

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
    for _ in store.loader(batch_size=4, block_tiles=2, window_blocks=2):
        break
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name.startswith("mmearth-")]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 100, "drop_last": True}, "lower the batch size"),
        ({"modalities": ["sonar"]}, "sonar"),
        ({"modalities": ["lat"]}, "lat"),
        ({"bands": {"sonar": ["a"]}}, "sonar"),
        ({"bands": {"optical": ["swir"]}}, "swir"),
        ({"bands": {"optical": []}}, "red"),
        ({"bands": {"zone": ["x"]}}, "zone"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"world_size": 99, "rank": 0}, "rank"),
        ({"threads": 0}, "threads"),
        ({"batch_size": 1.5}, "batch size that is an integer, got 1.5"),
        ({"batch_size": None}, "batch size that is an integer, got None"),
        ({"prefetch": "4"}, "prefetch that is an integer, got '4'"),
        ({"rank": "0"}, "rank from 0 to 0"),
        ({"seed": "x"}, "seed that is an integer, got 'x'"),
        ({"seed": -1}, "seed of at least 0"),
        ({"modalities": 5}, "modalities: expected names, got 5"),
        ({"modalities": [["zone"]]}, "zone"),
        ({"bands": ["red"]}, "bands: expected modalities with their bands"),
        ({"bands": {"optical": 1}}, "optical: bands: expected names, got 1"),
    ],
)
def test_impossible_wishes_are_refused(store: Store, options: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        store.loader(**options)


def test_one_name_needs_no_list(store: Store) -> None:
    (batch,) = store.loader(batch_size=100, modalities="optical", bands={"optical": "nir"}, shuffle=False)
    assert set(batch) == {"optical", "tile"}
    (both,) = store.loader(batch_size=100, modalities=["optical"], shuffle=False)
    np.testing.assert_array_equal(batch["optical"][:, 0], both["optical"][:, 1])


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


def ids_of(batches: Any) -> list[list[int]]:
    return [batch["tile"]["tile_id"].tolist() for batch in batches]


def flat(lists: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.keys() == b.keys()
    for name, values in a.items():
        if isinstance(values, dict):
            assert_equal(values, b[name])
        else:
            np.testing.assert_array_equal(values, b[name])


SMALL: dict[str, Any] = {"batch_size": 7, "block_tiles": 3, "window_blocks": 4, "seed": 5}


@pytest.mark.parametrize("done", [0, 1, 4, 8])
def test_resuming_within_an_epoch_is_exact(store: Store, done: int) -> None:
    first = store.loader(**SMALL)
    batches = [*itertools.islice(first, done)]
    state = json.loads(json.dumps(first.state_dict()))
    whole = [*store.loader(**SMALL)]
    second = store.loader(**SMALL)
    second.load_state_dict(state)
    rest = [*second]
    assert len(batches) + len(rest) == len(whole)
    for a, b in zip([*batches, *rest], whole, strict=True):
        assert_equal(a, b)


def test_resuming_between_epochs_is_exact(store: Store) -> None:
    first = store.loader(**SMALL, infinite=True)
    got = ids_of(itertools.islice(first, 2 * len(first) + 3))
    assert first.state_dict()["epoch"] == 2
    second = store.loader(**SMALL, infinite=True)
    second.load_state_dict(first.state_dict())
    fresh = store.loader(**SMALL, infinite=True)
    assert got + ids_of(itertools.islice(second, 20)) == ids_of(itertools.islice(fresh, len(got) + 20))


def test_epochs_go_on_by_themselves_and_differ(store: Store) -> None:
    loader = store.loader(**SMALL)
    first, second = ids_of(loader), ids_of(loader)
    assert first != second
    assert sorted(flat(first)) == sorted(flat(second))
    loader.set_epoch(0)
    assert ids_of(loader) == first


def test_the_state_of_another_loader_is_refused(store: Store) -> None:
    state = store.loader(**SMALL).state_dict()
    with pytest.raises(InputError, match=r"seed 5 \(here 6\)"):
        store.loader(**{**SMALL, "seed": 6}).load_state_dict(state)
    with pytest.raises(InputError, match=r"without a position|seed"):
        store.loader(**SMALL).load_state_dict({})


@pytest.mark.parametrize(
    ("tiles", "blocks", "message"),
    [
        (slice(20), 4, r"block_tiles 3 \(here 4\)"),
        (slice(19), 3, r"tiles 20 \(here 19\), rows \w+"),
        (slice(1, 21), 3, r"rows \w+ \(here \w+\)"),
    ],
)
def test_the_state_of_other_blocks_or_tiles_is_refused(store: Store, tiles: slice, blocks: int, message: str) -> None:
    """With it, tiles would be delivered twice or never."""
    state = store[:20].loader(**SMALL).state_dict()
    with pytest.raises(InputError, match=message):
        store[tiles].loader(**{**SMALL, "block_tiles": blocks}).load_state_dict(state)


@pytest.mark.parametrize(("epoch", "batch"), [(1.5, 0), ("1", 0), (None, 0), (True, 0), (0, 0.5), (0, 99), (-1, 0)])
def test_a_position_that_is_none_is_refused(store: Store, epoch: Any, batch: Any) -> None:
    loader = store.loader(**SMALL)
    with pytest.raises(InputError, match="Expected an epoch from 0 and a batch from 0 to"):
        loader.set_epoch(epoch, batch)
    with pytest.raises(InputError, match="Expected an epoch from 0 and a batch from 0 to"):
        loader.load_state_dict({**loader.state_dict(), "epoch": epoch, "batch": batch})
    with pytest.raises(InputError, match="Expected the dictionary that state_dict returned"):
        loader.load_state_dict(None)  # type: ignore[arg-type]
    assert (loader.epoch, loader.state_dict()["batch"]) == (0, 0)


def test_the_state_is_json_whatever_integers_are_given(store: Store) -> None:
    given = {name: np.int64(value) for name, value in SMALL.items()}
    loader = store.loader(**given, rank=np.int32(0), world_size=np.int64(2), shuffle=np.bool_(True))
    state = store.loader(**SMALL, world_size=2).state_dict()
    assert json.loads(json.dumps(loader.state_dict())) == state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ["zone"], "bands": {"optical": ["red"]}}, r"modalities to read \(zone\), got some of optical"),
        ({"modalities": {"optical": ["red"]}}, "modalities: expected names"),
        ({"shuffle": "no"}, "shuffle: expected True or False, got 'no'"),
        ({"normalise": {"optical": True}}, "normalise: expected True or False"),
        ({"client": "tcp://127.0.0.1:1"}, r"client: expected a distributed\.Client, got 'tcp"),
    ],
)
def test_options_that_would_be_ignored_are_refused(store: Store, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        store.loader(**options)


def test_ranks_share_an_epoch(store: Store) -> None:
    parts = [flat(ids_of(store.loader(**SMALL, rank=rank, world_size=3))) for rank in range(3)]
    assert sorted(flat(parts)) == sorted(store.coords["tile_id"].tolist())
    lengths = {len(ids_of(store.loader(**SMALL, rank=rank, world_size=3, drop_last=True))) for rank in range(3)}
    assert lengths == {TILES // 3 // 7}


def test_rows_foretell_the_order(store: Store) -> None:
    loader = store.loader(**SMALL)
    assert store.tile_columns["tile_id"][loader.rows()].tolist() == flat(ids_of(loader))


def test_bands_come_in_the_order_asked_for(store: Store) -> None:
    (plain,) = store.loader(batch_size=100)
    (some,) = store.loader(batch_size=100, modalities=["optical", "weather"], bands={"optical": ["nir", "red"]})
    np.testing.assert_array_equal(some["optical"], plain["optical"][:, [1, 0]])
    np.testing.assert_array_equal(some["weather"], plain["weather"])


def test_normalised_batches_are_what_the_statistics_say(store: Store) -> None:
    """Against xarray's own reading, in double precision; statistics by level where the modality has them."""
    dataset = xr.open_zarr(store.path, mask_and_scale=True)
    order = {int(tile): row for row, tile in enumerate(dataset["tile_id"].values)}
    (batch,) = store.loader(batch_size=100, normalise=True)
    rows = [order[int(tile)] for tile in batch["tile"]["tile_id"]]
    for name, m in store.modalities.items():
        if not m.stored:
            continue
        if not m.kind.is_continuous:
            assert batch[name].dtype == m.dtype
            continue
        assert batch[name].dtype == np.float32
        physical = dataset[name].values.astype(np.float64)
        for i, row in enumerate(rows):
            level = {0: "L1C", 1: "L2A"}[int(batch["tile"]["s2_level"][i])] if m.statistics_by == "s2_level" else "-"
            bands = [store.statistics["train"][name][level][band] for band in m.bands]
            shape = (-1, *(1,) * (batch[name].ndim - 2))
            mean = np.array([np.nan if not b["count"] else b["mean"] for b in bands]).reshape(shape)
            std = np.array([b["std"] or 1.0 for b in bands]).reshape(shape)
            truth = (physical[row] - mean) / std
            np.testing.assert_allclose(batch[name][i], truth, rtol=1e-4, atol=1e-5)


def test_bytes_of_other_modalities_are_not_touched(tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", small_layout(tiles=24, tiles_per_shard=8))
    for name in ("optical", "radar", "flags"):
        shutil.rmtree(tmp_path / "s.zarr" / name)
    (batch,) = open_store(tmp_path / "s.zarr").loader(batch_size=100, modalities=["height", "zone"])
    assert set(batch) == {"height", "zone", "tile"}


def test_memory_of_a_batch_is_not_used_again_while_anybody_holds_a_part_of_it(store: Store) -> None:
    loader = store.loader(**SMALL)
    kept = [(batch["optical"][1:3, 0], batch["optical"][1:3, 0].copy()) for batch in loader]
    for _ in range(3):
        for _ in loader:
            pass
    for view, copy in kept:
        np.testing.assert_array_equal(view, copy)


def test_memory_of_batches_that_are_gone_is_used_again(store: Store) -> None:
    seen: list[int] = []
    loader = store.loader(**SMALL, drop_last=True, allocate=_counting(seen))
    rasters = len(store.layout.rasters)
    for _ in range(5):
        for _ in loader:
            pass
    # At most eight batches are there at a time: decoded, being decoded, in use. Without reuse it would be all of them.
    assert len(seen) <= 8 * rasters < 5 * len(loader) * rasters


def _counting(seen: list[int]) -> Any:
    def allocate(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        seen.append(size)
        return np.empty(size, dtype=np.uint8)

    return allocate


def test_a_store_and_a_loader_can_be_pickled(store: Store) -> None:
    chosen = store.select(split=["train", "val"])
    loader: Loader = pickle.loads(pickle.dumps(chosen.loader(**SMALL)))
    assert ids_of(loader) == ids_of(chosen.loader(**SMALL))
    assert len(pickle.dumps(store)) < 1000


def test_a_store_that_became_another_one_is_not_read_on(tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", small_layout(tiles=24, tiles_per_shard=8))
    sent = pickle.dumps(open_store(tmp_path / "s.zarr").loader(batch_size=8))
    shutil.rmtree(tmp_path / "s.zarr")
    make_store(tmp_path / "s.zarr", small_layout(tiles=16, tiles_per_shard=8))
    with pytest.raises(InputError, match="open it again"):
        pickle.loads(sent)


def test_a_shard_that_changes_while_it_is_loaded_is_an_error(tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", small_layout(tiles=24, tiles_per_shard=8))
    loader = open_store(tmp_path / "s.zarr").loader(batch_size=8, shuffle=False)
    assert len(list(loader)) == 3
    one, two = (tmp_path / "s.zarr" / "optical" / "c" / k / "0" / "0" / "0" for k in "01")
    one.write_bytes(two.read_bytes())
    with pytest.raises(StoreDamaged, match="optical/c/0"):
        list(loader)
    one.unlink()
    with pytest.raises(StoreDamaged, match="optical/c/0"):
        list(loader)


def test_an_unfinished_store_delivers_what_is_committed(tmp_path: Path) -> None:
    layout = small_layout(tiles=24, tiles_per_shard=8)
    writer = begin_store(tmp_path / "s.zarr", layout)
    write_shard(writer, 1)
    (batch,) = open_store(tmp_path / "s.zarr").loader(batch_size=100)
    assert len(batch["tile"]["tile_id"]) == 8 - len(empty_positions(layout, 1))


@pytest.fixture(scope="module")
def cluster() -> Any:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as local,
        Client(local) as client,
    ):
        yield client


def test_a_cluster_delivers_the_same_batches(store: Store, cluster: Any) -> None:
    for ours, theirs in zip(store.loader(**SMALL), store.loader(**SMALL, client=cluster), strict=True):
        assert_equal(ours, theirs)


def test_damage_met_on_a_cluster_is_raised(tmp_path: Path, cluster: Any) -> None:
    make_store(tmp_path / "s.zarr", small_layout(tiles=24, tiles_per_shard=8))
    loader = open_store(tmp_path / "s.zarr").loader(batch_size=8, client=cluster)
    (tmp_path / "s.zarr" / "radar" / "c" / "1" / "0" / "0" / "0").unlink()
    with pytest.raises(StoreDamaged, match="radar/c/1"):
        list(loader)


def test_a_cluster_without_workers_is_an_error_and_no_hang(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client, LocalCluster

    monkeypatch.setattr("mmearth_data.loading.pipeline.HEARTBEAT_S", 0.2)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as local,
        Client(local) as client,
    ):
        batches = iter(store.loader(**{**SMALL, "batch_size": 2}, prefetch=1, client=client))
        next(batches)
        local.scale(0)
        with pytest.raises(RetryLater, match=r"without any|died"):
            list(batches)


def test_selections_by_place_and_date(store: Store) -> None:
    lon, lat, time = (store.coords[name] for name in ("lon", "lat", "time"))
    east = store.select(region="bbox:0,-90,180,90")
    assert east.rows.tolist() == store.rows[lon >= 0].tolist()
    across = store.select(region="bbox:150,-90,-150,90")
    assert across.rows.tolist() == store.rows[(lon >= 150) | (lon <= -150)].tolist()
    year = store.select(date="2018")
    assert set(year.coords["time"].astype("datetime64[Y]").astype(str)) == {"2018"}
    halves = [store.select(date=(None, "2018-06")), store.select(date=("2018-07-01", None))]
    known = ~np.isnat(time)
    assert sorted([*halves[0].rows, *halves[1].rows]) == store.rows[known].tolist()
    both = store.select(date="2018", region="bbox:0,-90,180,90", split="train")
    assert set(both.rows) == set(year.rows) & set(east.rows) & set(store.select(split="train").rows)
    assert len(store.select(region="global")) == len(store)
    assert lat.shape == lon.shape


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"region": "atlantis"}, "atlantis"),
        ({"date": "yesterday"}, "2019-06"),
        ({"date": "2019-06-01T12"}, "2019-06"),
        ({"date": ("2019", "2018")}, "not to be after"),
        ({"date": 2019.5}, "2019-06"),
        ({"date": ""}, "2019-06"),
        ({"date": "NaT"}, "2019-06"),
        ({"date": "now"}, "2019-06"),
        ({"date": "2019-13"}, "2019-06"),
    ],
)
def test_impossible_selections_are_refused(store: Store, options: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        store.select(**options)
