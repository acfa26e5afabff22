"""Tiles as torch data sets, with a `DataLoader`, its workers, other samplers and Lightning."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from store_making import make_store, small_layout
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

from mmearth_data import InputError, Store, TensorBatch, TileSamples, format_tile_id, open_store, to_tensors
from mmearth_model import TileDataset

ROWS, TILES, SHARD = 37, 34, 8  # some rows hold no tile
TIMEOUT_S = 60
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("torch") / "s.zarr"
    make_store(path, small_layout(tiles=ROWS, tiles_per_shard=SHARD))
    return open_store(path)


def check_equal(sample: dict[str, Any], tile: dict[str, Any]) -> None:
    """Assert that a sample has all values of a tile as the store returns it, in types that hold them exactly."""
    assert sample.keys() == tile.keys()
    for name, values in tile.items():
        if name != "tile":
            np.testing.assert_array_equal(sample[name].numpy(), values)
    coordinates = {name: value for name, value in tile["tile"].items() if name != "id"}
    assert sample["tile"].keys() == coordinates.keys()
    assert sample["tile"]["tile_id"] == f"{int(coordinates['tile_id']):016x}"
    assert sample["tile"]["time"] == coordinates["time"].astype(np.int64)
    for name in coordinates.keys() - {"tile_id", "time"}:
        np.testing.assert_array_equal(sample["tile"][name].numpy(), coordinates[name])


def ids(batches: Any) -> list[list[str]]:
    return [batch["tile"]["tile_id"] for batch in batches]


def all_ids(store: Store) -> list[str]:
    return [format_tile_id(int(number)) for number in store.coords["tile_id"]]


def test_a_sample_is_the_tile_at_that_position(store: Store) -> None:
    samples = store.torch()
    assert isinstance(samples, Dataset)
    assert len(samples) == len(store) == TILES
    for position in (0, 7, 8, -1, np.int64(20), np.uint8(3), torch.tensor(5)):
        check_equal(samples[position], store[int(position)])


def test_torch_supports_arithmetic_with_every_value(store: Store) -> None:
    """uint16, uint32 and uint64 lack arithmetic, comparison or indexing in torch."""
    types = {name: value.dtype for name, value in store.torch()[0].items() if name != "tile"}
    assert types == {
        "optical": torch.int32,
        "radar": torch.float32,
        "height": torch.int16,
        "cover": torch.uint8,
        "flags": torch.int32,
        "weather": torch.float32,
        "zone": torch.int32,
    }
    coordinates = store.torch()[0]["tile"]
    assert {coordinates[name].dtype for name in ("valid", "time")} == {torch.int64}
    for value in (*(v for n, v in store.torch()[0].items() if n != "tile"), coordinates["valid"], coordinates["split"]):
        assert (value + value - value == value)[value == value].all()
        assert value.sort().values.numel() == value.numel()


def test_the_largest_values_survive(store: Store) -> None:
    """Wider types, not reinterpreted ones."""
    top = {
        "a": np.array([65535, 0], np.uint16),
        "b": np.array([2**32 - 1], np.uint32),
        "c": np.array([2**62], np.uint64),
    }
    found = to_tensors({**top, "tile": {"tile_id": np.array([2**64 - 1, 1], np.uint64)}})
    assert [found[name].tolist() for name in "abc"] == [[65535, 0], [2**32 - 1], [2**62]]
    assert found["tile"]["tile_id"] == ["f" * 16, "0" * 15 + "1"]


def test_positions_that_do_not_exist_are_index_errors(store: Store) -> None:
    samples = store.torch()
    for position in (TILES, -TILES - 1, 10**9):
        with pytest.raises(IndexError, match=f"from 0 to {TILES - 1}, got"):
            samples[position]
    for position in ("a", 1.5, slice(3)):
        with pytest.raises(InputError, match="Expected an integer position, got"):
            samples[position]  # type: ignore[index]


@pytest.mark.parametrize(("count", "method"), [(0, None), (2, "fork"), (1, "spawn")])
@FORKS
def test_a_data_loader_collates_shuffled_samples(store: Store, count: int, method: str | None) -> None:
    loader = DataLoader(
        store.torch(), batch_size=8, shuffle=True, num_workers=count, multiprocessing_context=method, timeout=TIMEOUT_S * (count > 0)
    )  # fmt: skip
    batches = list(loader)
    found = [name for batch in batches for name in batch["tile"]["tile_id"]]
    assert found != all_ids(store)
    assert sorted(found) == sorted(all_ids(store))
    assert batches[0]["optical"].shape == (8, 3, 16, 16)
    positions = {name: i for i, name in enumerate(all_ids(store))}
    for batch in batches:
        for i, name in enumerate(batch["tile"]["tile_id"]):
            tile = store[positions[name]]
            for modality in ("optical", "radar", "zone"):
                np.testing.assert_array_equal(batch[modality][i].numpy(), tile[modality])


def test_both_data_sets_deliver_batches_of_one_form(store: Store) -> None:
    one = next(iter(DataLoader(store.torch(), batch_size=5)))
    other = next(iter(DataLoader(TileDataset(store, batch_size=5, shuffle=False), batch_size=None)))

    def described(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: described(v) for name, v in value.items()}
        return (value.dtype, tuple(value.shape)) if isinstance(value, torch.Tensor) else value

    assert described(one) == described(other)
    torch.testing.assert_close(one["optical"], other["optical"], rtol=0, atol=0)


@pytest.mark.parametrize(
    "sampler",
    [
        lambda n: {"sampler": RandomSampler(range(n), replacement=True, num_samples=20), "batch_size": 4},
        lambda n: {"sampler": WeightedRandomSampler([1.0] * n, 20), "batch_size": 4},
        lambda n: {"batch_sampler": BatchSampler(RandomSampler(range(n)), 6, drop_last=True)},
        lambda _n: {"batch_size": None},
    ],
    ids=["replacement", "weights", "batches", "single"],
)
def test_other_samplers_work(store: Store, sampler: Any) -> None:
    found = list(DataLoader(store.torch(modalities=["height"]), **sampler(TILES)))
    assert found
    assert all(batch["height"].dtype == torch.int16 for batch in found)


def test_subsets_and_concatenated_data_sets_work(store: Store) -> None:
    samples = store.torch(modalities=["zone"])
    first, second = random_split(samples, [30, 4], generator=torch.Generator().manual_seed(0))
    assert sorted(ids([first[i] for i in range(30)]) + ids([second[i] for i in range(4)])) == sorted(all_ids(store))
    assert len(ConcatDataset([samples, Subset(samples, [3, 4])])) == len(samples + Subset(samples, [3, 4])) == TILES + 2


def test_a_transform_is_applied_to_each_sample(store: Store) -> None:
    samples = store.torch(transform=lambda sample: (sample["optical"].float() / 10_000, int(sample["zone"])))
    images, zones = next(iter(DataLoader(samples, batch_size=6)))
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(zones.numpy(), [store[i]["zone"] for i in range(6)])


def test_options_are_those_of_the_loader(store: Store) -> None:
    options: dict[str, Any] = {"modalities": ["optical", "weather"], "bands": {"optical": ["nir", "red"]}, "normalise": True}  # fmt: skip
    expected = next(iter(store.loader(batch_size=TILES, shuffle=False, **options)))
    batch = next(iter(DataLoader(store.torch(**options), batch_size=TILES)))
    assert batch.keys() == expected.keys()
    for name in ("optical", "weather"):
        np.testing.assert_array_equal(batch[name].numpy(), expected[name])
    with pytest.raises(InputError, match="got sonar"):
        store.torch(modalities=["sonar"])
    with pytest.raises(InputError, match="transform: expected a function of a sample, got 5"):
        store.torch(transform=5)
    with pytest.raises(InputError, match="expected tiles to load, got none"):
        store.select(where=np.zeros(TILES, bool)).torch()


def test_a_selection_has_its_own_positions(store: Store) -> None:
    chosen = store.select(where=lambda c: np.arange(len(c["lon"])) % 5 == 2)
    check_equal(chosen.torch()[1], store[7])


def test_a_data_set_is_small_when_pickled(store: Store) -> None:
    samples = store.torch()
    samples[0]
    size = len(pickle.dumps(samples))
    assert size < len(pickle.dumps(store.modalities)) + 10_000
    check_equal(pickle.loads(pickle.dumps(samples))[3], store[3])


def test_without_torch_one_line_says_what_to_install(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mmearth_data.loading.tensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError) as error:
        store.torch()
    assert str(error.value).endswith('; run: pip install "mmearth[model]"')
    assert "torch" in str(error.value)


@pytest.mark.parametrize("options", [{}, {"batch_size": 8}, {"batch_size": 2, "num_workers": 1}])
@FORKS
def test_a_batch_of_batches_is_an_error_that_says_what_to_write(store: Store, options: dict[str, Any]) -> None:
    context = {"multiprocessing_context": "spawn", "timeout": TIMEOUT_S} if options.get("num_workers") else {}
    with pytest.raises(InputError, match="add batch_size=None"):
        next(iter(DataLoader(TileDataset(store, batch_size=4), **options, **context)))


def test_a_batch_passes_through_what_training_does_to_it(store: Store) -> None:
    """Its own class ends at the `DataLoader`; before, it is a dict for Lightning, pinning and pickling."""
    dataset = TileDataset(store, batch_size=4)
    raw = next(iter(dataset))
    assert type(raw) is TensorBatch
    assert type(next(iter(DataLoader(dataset, batch_size=None)))) is dict
    moved = move_data_to_device(raw, torch.device("meta"))
    assert moved["optical"].device.type == moved["tile"]["lon"].device.type == "meta"
    assert moved["tile"]["tile_id"] == raw["tile"]["tile_id"]
    assert pickle.loads(pickle.dumps(raw)).keys() == raw.keys()
    kept = next(
        iter(DataLoader(dataset, batch_size=2, collate_fn=lambda batches: [len(b["optical"]) for b in batches]))
    )
    assert kept == [4, 4]
    assert default_collate([dict(raw), dict(raw)])["optical"].shape == (2, 4, 3, 16, 16)


def test_memory_of_converted_values_is_reused_once_a_batch_is_deleted(store: Store) -> None:
    """And never before: the values of a batch that is kept do not change."""
    kept = list(TileDataset(store, batch_size=4, shuffle=False))
    for batch, arrays in zip(kept, store.loader(batch_size=4, shuffle=False), strict=True):
        np.testing.assert_array_equal(batch["optical"].numpy(), arrays["optical"])


def test_a_sample_reads_every_row_of_every_shard(store: Store, tmp_path: Path) -> None:
    """In one call, in the order that was asked for."""
    order = np.random.default_rng(0).permutation(TILES).tolist()
    samples: TileSamples = store.torch(modalities=["radar"])
    for position, sample in zip(order, samples.__getitems__(order), strict=True):
        np.testing.assert_array_equal(sample["radar"].numpy(), store[position]["radar"])
