"""Which tiles arrive when, as plain values.

The rows of a store are cut into blocks of consecutive tiles, because a run of neighbours in one shard is
the cheapest thing to read. Blocks come in a seeded order; several of them form a window, and the tiles of
a window are mixed. Every tile comes exactly once an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Block:
    """Tiles that are read together.

    Attributes
    ----------
    start, stop
        Half-open range of store rows to read.
    keep
        (k,) positions within the range that were selected.
    """

    start: int
    stop: int
    keep: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Window:
    """Blocks that are mixed with each other.

    Attributes
    ----------
    blocks
        Read in parallel.
    order
        (tiles,) permutation of the blocks' kept tiles, laid end to end.
    """

    blocks: tuple[Block, ...]
    order: NDArray[np.intp]


def cut_blocks(rows: NDArray[np.intp], tiles_per_shard: int, block_tiles: int) -> list[Block]:
    """Cut selected store rows into blocks that never cross a shard.

    Parameters
    ----------
    rows
        (n,) store rows, ascending.
    tiles_per_shard
        Rows of one shard of the store.
    block_tiles
        Rows of one block at most.
    """
    step = min(block_tiles, tiles_per_shard)
    per_shard = -(-tiles_per_shard // step)
    shard, within = np.divmod(rows, tiles_per_shard)
    key = shard * per_shard + within // step
    cuts = np.flatnonzero(np.diff(key)) + 1
    parts: Sequence[NDArray[np.intp]] = np.split(rows, cuts) if len(rows) else []
    return [Block(start=int(p[0]), stop=int(p[-1]) + 1, keep=p - p[0]) for p in parts]


def plan_epoch(blocks: Sequence[Block], *, shuffle: bool, window_blocks: int, seed: int, epoch: int) -> list[Window]:
    """Windows of one epoch, in order.

    The order depends on (seed, epoch) only: not on time, threads or batch size.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(blocks)) if shuffle else np.arange(len(blocks))
    windows = []
    for start in range(0, len(blocks), window_blocks):
        chosen = tuple(blocks[i] for i in order[start : start + window_blocks])
        tiles = sum(len(block.keep) for block in chosen)
        windows.append(Window(blocks=chosen, order=rng.permutation(tiles) if shuffle else np.arange(tiles)))
    return windows
