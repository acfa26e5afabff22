"""Rank of this process among those that ``torchrun`` started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

from mmearth_data import InputError


@dataclass(frozen=True, slots=True)
class Ranks:
    """A process among those that train one model."""

    rank: int = 0
    world: int = 1
    local: int = 1  # processes on this machine

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world or self.local < 1 or self.world % self.local:
            raise InputError(
                f"expected the environment of torchrun, got RANK={self.rank}, WORLD_SIZE={self.world}, "
                f"LOCAL_WORLD_SIZE={self.local}; start with torchrun."
            )

    @classmethod
    def here(cls) -> Self:
        """Ranks in the environment of torchrun; without it, a single process."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        return cls(int(os.environ.get("RANK", "0")), world, local)

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    @property
    def nodes(self) -> int:
        """Machines."""
        return self.world // self.local
