"""Random numbers that depend only on (seed, position in the stream, purpose).

An interrupted run can resume anywhere, because no generator has to be advanced to its previous state.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Position:
    """A position in the stream of micro-batches."""

    epoch: int = 0  # pass over the store, from 0
    batch: int = 0  # micro-batch within it, from 0


def derive_seed(seed: int, position: Position, purpose: str) -> int:
    """Seed of 63 bits for one purpose at one position."""
    entropy = [seed, position.epoch, position.batch, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, position: Position, purpose: str) -> torch.Generator:
    """Make a generator for one purpose at one position, on the CPU."""
    return torch.Generator().manual_seed(derive_seed(seed, position, purpose))


@contextmanager
def seeded(seed: int, position: Position | None = None, purpose: str = "weights") -> Iterator[None]:
    """Seed torch's default generators within the block, and restore their state after it."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, position or Position(), purpose))
        yield
