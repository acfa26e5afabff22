"""Memory of batches, reused as soon as a batch is no longer referenced.

New memory is expensive: the system clears every page, which for normalised batches took a quarter of the decoding time.
Pinned memory is far more expensive.
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
"""Maximum number of free buffers kept per size."""


def plain_memory(size: int) -> NDArray[np.uint8]:
    """Allocate ``size`` bytes without clearing them."""
    return np.empty(size, dtype=np.uint8)


class BufferPool:
    """Pool of arrays whose memory is reused once they, and all views of them, are deleted.

    Parameters
    ----------
    allocate
        Function that allocates a number of bytes, possibly pinned.
    """

    def __init__(self, allocate: Allocate = plain_memory) -> None:
        self._allocate = allocate
        self._free: defaultdict[int, list[NDArray[np.uint8]]] = defaultdict(list)

    def __reduce__(self) -> tuple[Any, ...]:
        # Buffers are not pickled: they stay in their process.
        return (BufferPool, (self._allocate,))

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """Array with arbitrary content."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        try:
            memory = self._free[size].pop()
        except IndexError:
            memory = self._allocate(size)
        # Because of the memoryview, numpy does not make `memory` itself the base of every view.
        array = np.frombuffer(memory.data, dtype=dtype).reshape(shape)
        owner = array if array.base is None or not isinstance(array.base, np.ndarray) else array.base
        weakref.finalize(owner, self._take_back, memory).atexit = False
        return array

    def _take_back(self, memory: NDArray[np.uint8]) -> None:
        free = self._free[len(memory)]
        if len(free) < KEPT:
            free.append(memory)
