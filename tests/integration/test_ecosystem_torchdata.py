"""torchdata's `StatefulDataLoader`, which saves and restores the position of data sets that its workers read ahead."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from store_making import make_store, small_layout

from mmearth_data import Store, open_store
from mmearth_model import TileDataset

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]
BEFORE, AFTER = 5, 9
"""Batches before and after the state: with `AFTER`, a loader without end continues into the next epoch."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("stateful") / "s.zarr"
    make_store(path, small_layout(tiles=61, tiles_per_shard=8))
    return open_store(path)


def loader(store: Store, workers: int, infinite: bool) -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    dataset = TileDataset(store, batch_size=7, block_tiles=3, window_blocks=4, seed=5, infinite=infinite)
    return StatefulDataLoader(dataset, batch_size=None, num_workers=workers)


def ids(batches: Iterable[Any], count: int | None = None) -> list[list[str]]:
    return [batch["tile"]["tile_id"] for batch in itertools.islice(batches, count)]


@pytest.mark.parametrize("infinite", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_it_continues_where_it_was(store: Store, workers: int, infinite: bool) -> None:
    first, second = loader(store, workers, infinite), loader(store, workers, infinite)
    begun = ids(first, BEFORE)
    second.load_state_dict(first.state_dict())
    after = AFTER if infinite else None
    whole = loader(store, workers, infinite)
    assert begun + ids(second, after) == ids(whole, BEFORE + AFTER if infinite else None)
