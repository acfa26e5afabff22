"""The block plan: every tile exactly once, in an order that the seed decides."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmearth_data.loading.pipeline import spans_of
from mmearth_data.loading.plan import Share, cut_blocks, plan_epoch


def delivered(
    rows: np.ndarray, tiles_per_shard: int, block: int, window: int, *, shuffle: bool, epoch: int = 0
) -> list[int]:
    blocks = cut_blocks(rows, tiles_per_shard, block)
    out: list[int] = []
    for w in plan_epoch(blocks, shuffle=shuffle, window_blocks=window, seed=7, epoch=epoch):
        tiles = np.concatenate([b.start + b.keep for b in w.blocks])
        out += tiles[w.order].tolist()
    return out


@given(
    rows=st.lists(st.integers(0, 400), unique=True, min_size=1).map(sorted),
    tiles_per_shard=st.integers(1, 64),
    block=st.integers(1, 64),
    window=st.integers(1, 8),
    shuffle=st.booleans(),
)
def test_every_selected_tile_comes_exactly_once(
    rows: list[int], tiles_per_shard: int, block: int, window: int, shuffle: bool
) -> None:
    got = delivered(np.array(rows), tiles_per_shard, block, window, shuffle=shuffle)
    assert sorted(got) == rows
    if not shuffle:
        assert got == rows


@given(
    rows=st.lists(st.integers(0, 400), unique=True, min_size=1).map(sorted),
    tiles_per_shard=st.integers(1, 64),
    block=st.integers(1, 64),
)
def test_blocks_stay_within_a_shard_and_within_their_size(rows: list[int], tiles_per_shard: int, block: int) -> None:
    for b in cut_blocks(np.array(rows), tiles_per_shard, block):
        assert b.start // tiles_per_shard == (b.stop - 1) // tiles_per_shard
        assert 0 < b.stop - b.start <= block


def test_order_follows_seed_and_epoch() -> None:
    rows = np.arange(512)
    first = delivered(rows, 64, 16, 4, shuffle=True)
    assert first == delivered(rows, 64, 16, 4, shuffle=True)
    second = delivered(rows, 64, 16, 4, shuffle=True, epoch=1)
    assert sorted(first) == sorted(second)
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 20, "two epochs must not repeat an order"


def test_no_rows_make_no_blocks() -> None:
    assert cut_blocks(np.array([], dtype=np.intp), 16, 8) == []


def shared_pairs(order: list[int], batch: int, block: int) -> float:
    """Share of the pairs of a batch that are in the same block of the store."""
    same = pairs = 0
    for first in range(0, len(order) - batch + 1, batch):
        counts = Counter(row // block for row in order[first : first + batch])
        same += sum(n * (n - 1) for n in counts.values())
        pairs += batch * (batch - 1)
    return same / pairs


def batch_pairs(order: list[int], batch: int) -> set[tuple[int, int]]:
    """Pairs of tiles that come in one batch."""
    found: set[tuple[int, int]] = set()
    for first in range(0, len(order), batch):
        found.update(combinations(sorted(order[first : first + batch]), 2))
    return found


@pytest.mark.parametrize("tiles", [4096, 4096 + 16 * 31, 4096 + 7])
def test_few_tiles_of_a_batch_are_neighbours_in_the_store(tiles: int) -> None:
    for epoch in range(3):
        order = delivered(np.arange(tiles), 256, 16, 32, shuffle=True, epoch=epoch)
        assert shared_pairs(order, 64, 16) <= 1.2 / 32


def test_no_window_is_smaller_than_asked_for() -> None:
    blocks = cut_blocks(np.arange(16 * 63), 256, 16)
    (window,) = plan_epoch(blocks, shuffle=True, window_blocks=32, seed=0, epoch=0)
    assert len(window.blocks) == 63
    sizes = [len(w.blocks) for w in plan_epoch(blocks, shuffle=True, window_blocks=10, seed=0, epoch=0)]
    assert sum(sizes) == 63
    assert min(sizes) >= 10
    assert max(sizes) - min(sizes) <= 1


def test_two_epochs_share_few_pairs_of_a_batch() -> None:
    rows = np.arange(8192)
    first = batch_pairs(delivered(rows, 256, 16, 32, shuffle=True, epoch=0), 64)
    second = batch_pairs(delivered(rows, 256, 16, 32, shuffle=True, epoch=1), 64)
    assert len(first & second) < 0.02 * len(first)


def test_a_store_sorted_by_biome_is_mixed() -> None:
    """14 biomes one after the other: a batch should look as if drawn from all of them."""
    tiles = 14 * 512
    order = np.array(delivered(np.arange(tiles), 256, 16, 32, shuffle=True))
    biomes = np.stack([np.bincount(batch // 512, minlength=14) for batch in order.reshape(-1, 64)])
    assert (biomes > 0).sum(axis=1).mean() > 12
    # Tiles drawn one by one have counts that deviate by 2.06 from 64 / 14; a window of 32 blocks adds 2.9 to that.
    assert biomes.std(axis=0).mean() < 1.1 * np.hypot(2.06, 2.92)


@given(
    rows=st.lists(st.integers(0, 400), unique=True, min_size=5).map(sorted),
    block=st.integers(1, 64),
    world=st.integers(1, 5),
    shuffle=st.booleans(),
)
def test_ranks_are_disjoint_complete_and_even(rows: list[int], block: int, world: int, shuffle: bool) -> None:
    blocks = cut_blocks(np.array(rows), 64, block)
    parts = [
        np.concatenate(
            [
                w.rows
                for w in plan_epoch(
                    blocks, shuffle=shuffle, window_blocks=3, seed=1, epoch=2, share=Share(rank=rank, world_size=world)
                )
            ]
        )
        for rank in range(world)
    ]
    assert sorted(np.concatenate(parts).tolist()) == rows
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    if not shuffle:
        assert np.concatenate(parts).tolist() == rows


@given(sizes=st.lists(st.integers(1, 40), max_size=8), batch=st.integers(1, 50), drop_last=st.booleans())
def test_batches_follow_each_other_through_the_windows(sizes: list[int], batch: int, drop_last: bool) -> None:
    spans = spans_of(sizes, batch, drop_last=drop_last)
    places = [[(w, p) for w, first, end in span for p in range(first, end)] for span in spans]
    everything = [(w, p) for w, size in enumerate(sizes) for p in range(size)]
    got = [place for some in places for place in some]
    assert got == everything[: len(everything) - len(everything) % batch if drop_last else len(everything)]
    assert all(len(some) == batch for some in places[:-1])
