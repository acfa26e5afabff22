"""The block plan: every tile exactly once, in an order that the seed decides."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmearth_data.loading.plan import cut_blocks, plan_epoch


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
