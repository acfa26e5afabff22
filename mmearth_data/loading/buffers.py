"""Memory of batches, used again as soon as nobody holds the batch any more.

Fresh memory costs: the system clears every page of it, which for normalised batches took as long as a quarter of their
decoding. Pinned memory costs far more.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Allocate: TypeAlias = Callable[[int], NDArray[np.uint8]]

KEPT = 32
"""Free buffers of one size that are kept."""


def plain_memory(size: int) -> NDArray[np.uint8]:
    """``size`` bytes, not cleared."""
    return np.empty(size, dtype=np.uint8)


class BufferPool:
    """Hands out arrays whose memory comes back when they, and all views of them, are gone.

    Parameters
    ----------
    allocate
        Gets memory for a number of bytes; it decides whether that is pinned.
    """

    def __init__(self, allocate: Allocate = plain_memory) -> None:
        self._allocate = allocate
        self._free: defaultdict[int, list[NDArray[np.uint8]]] = defaultdict(list)

    def __reduce__(self) -> tuple[Any, ...]:
        # Memory stays in its process.
        return (BufferPool, (self._allocate,))

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """Array of any content."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        try:
            memory = self._free[size].pop()
        except IndexError:
            memory = self._allocate(size)
        # The memoryview is what keeps numpy from making `memory` itself the base of every view.
        array = np.frombuffer(memory.data, dtype=dtype).reshape(shape)
        owner = array if array.base is None or not isinstance(array.base, np.ndarray) else array.base
        weakref.finalize(owner, self._take_back, memory).atexit = False
        return array

    def _take_back(self, memory: NDArray[np.uint8]) -> None:
        free = self._free[len(memory)]
        if len(free) < KEPT:
            free.append(memory)
