"""The order in which a loader delivers tiles, as plain values.

The rows of a store are cut into blocks of consecutive tiles, because neighbours in one shard are cheapest to read
together. Blocks are shuffled by seed; several of them form a window, whose tiles are shuffled. Every tile occurs
exactly once per epoch, for any number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Block:
    """Tiles that are read together.

    Attributes
    ----------
    start, stop
        Half-open range of store rows, all in one shard.
    keep
        (k,) selected positions within the range.
    """

    start: int
    stop: int
    keep: NDArray[np.intp]

    @property
    def rows(self) -> NDArray[np.intp]:
        """(k,) store rows of its tiles."""
        return self.start + self.keep

    @classmethod
    def of(cls, rows: NDArray[np.intp]) -> Block:
        """Block from ascending store rows."""
        return cls(start=int(rows[0]), stop=int(rows[-1]) + 1, keep=rows - rows[0])


@dataclass(frozen=True, slots=True)
class Window:
    """Blocks whose tiles are shuffled together.

    Attributes
    ----------
    blocks
        Read in parallel.
    order
        (tiles,) permutation of the blocks' concatenated selected tiles.
    """

    blocks: tuple[Block, ...]
    order: NDArray[np.intp]

    @property
    def rows(self) -> NDArray[np.intp]:
        """(tiles,) store rows in order of delivery."""
        return np.concatenate([block.rows for block in self.blocks])[self.order]


@dataclass(frozen=True, slots=True)
class Share:
    """The part of an epoch that one process delivers.

    Attributes
    ----------
    rank, world_size
        Index and number of the parts, whose sizes differ by at most one tile.
    """

    rank: int = 0
    world_size: int = 1

    def bounds(self, tiles: int) -> tuple[int, int]:
        """First tile and end of this part, among all tiles in block order."""
        return self.rank * tiles // self.world_size, (self.rank + 1) * tiles // self.world_size


def cut_blocks(rows: NDArray[np.intp], tiles_per_shard: int, block_tiles: int) -> list[Block]:
    """Cut selected store rows into blocks that never cross a shard.

    Parameters
    ----------
    rows
        (n,) store rows, ascending.
    tiles_per_shard
        Rows of one shard of the store.
    block_tiles
        Maximum number of rows per block.
    """
    step = min(block_tiles, tiles_per_shard)
    per_shard = -(-tiles_per_shard // step)
    shard, within = np.divmod(rows, tiles_per_shard)
    key = shard * per_shard + within // step
    cuts = np.flatnonzero(np.diff(key)) + 1
    parts: Sequence[NDArray[np.intp]] = np.split(rows, cuts) if len(rows) else []
    return [Block.of(part) for part in parts]


def plan_epoch(
    blocks: Sequence[Block],
    *,
    shuffle: bool,
    window_blocks: int,
    seed: int,
    epoch: int,
    share: Share = Share(),
) -> list[Window]:
    """Windows of one epoch, in order.

    The order depends only on seed, epoch, rank and world size, not on time, threads or batch size. Ranks get parts of
    one order of blocks; a block at the border of two parts is cut there.

    Parameters
    ----------
    blocks
        Result of `cut_blocks`.
    shuffle
        Shuffle blocks, and the tiles of each window; False keeps the order of the store.
    window_blocks
        Minimum number of blocks per window, if there are as many. A remainder is spread over all windows, since the
        tiles of a short last window would be poorly shuffled.
    seed, epoch
        Determine the order.
    share
        The part to plan.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(blocks)) if shuffle else np.arange(len(blocks))
    ours = _part([blocks[i] for i in order], share)
    rng = np.random.default_rng([seed, epoch, share.rank, share.world_size])
    windows = []
    for chosen in _even_runs(ours, window_blocks):
        tiles = sum(len(block.keep) for block in chosen)
        windows.append(Window(blocks=chosen, order=rng.permutation(tiles) if shuffle else np.arange(tiles)))
    return windows


def _part(blocks: Sequence[Block], share: Share) -> list[Block]:
    """Blocks of one rank; those at its borders are cut."""
    ends = np.cumsum([len(block.keep) for block in blocks]) if blocks else np.zeros(0, dtype=np.intp)
    first, stop = share.bounds(int(ends[-1]) if len(ends) else 0)
    part = []
    for index in range(int(np.searchsorted(ends, first, side="right")), len(blocks)):
        block, begin = blocks[index], int(ends[index]) - len(blocks[index].keep)
        if begin >= stop:
            break
        whole = first <= begin and int(ends[index]) <= stop
        part.append(block if whole else Block.of(block.rows[max(0, first - begin) : stop - begin]))
    return part


def _even_runs(blocks: Sequence[Block], length: int) -> Iterator[tuple[Block, ...]]:
    """Consecutive runs of at least ``length`` blocks, as even as possible; one run if there are fewer."""
    runs = max(1, len(blocks) // length) if blocks else 0
    for run in range(runs):
        yield tuple(blocks[run * len(blocks) // runs : (run + 1) * len(blocks) // runs])
