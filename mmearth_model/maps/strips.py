"""Windows of a scene, normalised: a strip of rows at a time, each pixel read and normalised once.

A thread reads the next rows while the network works on the last ones.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from mmearth_model.data.targets import Normaliser
    from mmearth_model.maps.scene import Scene

READ_ROWS = 256
"""Rows that are read together: half a tile of usual files, so that each of their tiles is decoded once or twice."""


@dataclass(frozen=True, slots=True, eq=False)
class Strip:
    """All windows with the same offset along rows.

    Attributes
    ----------
    images
        (C, S, W) float32 normalised pixels, from the first column of the first window to the last one of the last.
    observed
        (S, W) where any band was observed.
    left
        Column of the scene where the strip begins.
    """

    images: Tensor
    observed: Tensor
    left: int

    def seen(self, columns: Sequence[int], size_px: int) -> list[int]:
        """Select the windows with any observed pixel, by their positions among ``columns``."""
        any_row = self.observed.any(dim=0)
        return [
            n
            for n, column in enumerate(columns)
            if bool(any_row[column - self.left : column - self.left + size_px].any())
        ]

    def windows(self, columns: Sequence[int], size_px: int) -> Tensor:
        """(N, C, S, S) windows at the given columns of the scene."""
        return torch.stack([self.images[:, :, c - self.left : c - self.left + size_px] for c in columns])


@contextmanager
def open_strips(scene: Scene, normaliser: Normaliser) -> Iterator[StripReader]:
    """Open a scene for reading strips; raises as `Scene.open`."""
    with scene.open() as reader, ThreadPoolExecutor(1, thread_name_prefix="strips") as pool:
        yield StripReader(reader, normaliser, pool)


class PixelReader(Protocol):
    """Reads stored values of a scene or a tile."""

    def read(self, top: int, left: int, height: int, width: int) -> dict[str, NDArray[Any]]:
        """Read a window, which may extend beyond the scene: modality -> (bands of the catalog, height, width)."""
        ...

    def observed(self, numbers: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """(height, width) where any band that the network sees was observed, of what `read` returned."""
        ...

    def tiles(self, count: int) -> dict[str, Any]:
        """Coordinates of ``count`` windows, as in a batch of a store."""
        ...


class StripReader:
    """Reads strips of windows."""

    def __init__(self, reader: PixelReader, normaliser: Normaliser, pool: ThreadPoolExecutor) -> None:
        self._reader, self._normaliser, self._pool = reader, normaliser, pool

    def strips(self, rows: Sequence[int], columns: Sequence[int], size_px: int) -> Iterator[Strip]:
        """Yield a strip for each offset along rows.

        Parameters
        ----------
        rows, columns
            Offsets of windows in the scene, ascending; windows may extend beyond it, where pixels are missing.
        size_px
            Side of a window.
        """
        left, right = columns[0], columns[-1] + size_px
        first = rows[0]
        parts = self._parts(first, rows[-1] + size_px, left, right)
        images, observed = next(parts)
        for row in rows:
            pieces = [(images, observed)]
            end = first + len(observed)
            while end < row + size_px:
                pieces.append(next(parts))
                end += len(pieces[-1][1])
            if len(pieces) > 1:
                images = torch.cat([piece for piece, _ in pieces], dim=1)
                observed = torch.cat([where for _, where in pieces])
            images, observed, first = images[:, row - first :], observed[row - first :], row
            yield Strip(images[:, :size_px], observed[:size_px], left)

    def _parts(self, top: int, bottom: int, left: int, right: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows from ``top`` to ``bottom``, normalised; the next rows are read at the same time."""
        spans = [(row, min(READ_ROWS, bottom - row)) for row in range(top, bottom, READ_ROWS)]
        ahead = [self._pool.submit(self._read, *spans[0], left, right - left)]
        for number in range(len(spans)):
            if number + 1 < len(spans):
                ahead.append(self._pool.submit(self._read, *spans[number + 1], left, right - left))
            yield ahead.pop(0).result()

    def _read(self, row: int, rows: int, left: int, width: int) -> tuple[Tensor, Tensor]:
        numbers = self._reader.read(row, left, rows, width)
        observed = torch.from_numpy(self._reader.observed(numbers))
        batch = {name: values[None] for name, values in numbers.items()}
        return self._normaliser.images({**batch, "tile": self._reader.tiles(1)})[0], observed
