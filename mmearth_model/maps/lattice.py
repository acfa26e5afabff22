"""Positions of dense embeddings in the pixels of a scene, and the vectors of a block of them.

The last map of an encoder has one vector per patch. At a stride of one patch, positions are the patches. At a finer
stride, which divides the patch, the encoder sees the scene again at shifts of a stride, so that every position has the
vector of the patch around it. At a coarser one, a multiple of the patch, a position has the mean of its patches, in
proportion to their observed pixels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmearth_data import InputError
from mmearth_model.maps.jobs import batches
from mmearth_model.maps.windows import Blend, plan_axis, step_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mmearth_model.maps.blocks import Block
    from mmearth_model.maps.strips import Strip, StripReader
    from mmearth_model.maps.windows import Axis, Blending
    from mmearth_model.network.encoder import ConvNeXtV2

LEAST_OBSERVED = 0.5
"""Share of the pixels of a position that must be observed, by any band, for it to have a vector."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lattice:
    """Positions and windows; all sizes are pixels along a side.

    Attributes
    ----------
    stride
        Of a position.
    patch
        Of a position of the encoder's last map.
    window, step
        Of a window, and between the beginnings of two.
    blend
        How windows share a position.
    """

    stride: int
    patch: int
    window: int
    step: int
    blend: Blending = "smooth"

    @property
    def shifts(self) -> int:
        """Shifts of the windows along each axis."""
        return max(1, self.patch // self.stride)

    @property
    def merged(self) -> int:
        """Patches along a side of a position."""
        return max(1, self.stride // self.patch)

    def positions(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of positions of a scene of (rows, columns) pixels; the last ones may reach beyond it."""
        return -(-size[0] // self.stride), -(-size[1] // self.stride)

    def axis(self, positions: int, shift: int) -> tuple[Axis, int]:
        """Windows along an axis of fine positions, and the pixel at which the first one begins.

        ``shift`` selects every n-th position, beginning with this one; the axis counts them in patches.
        """
        length = -(-(positions - shift) // self.shifts)
        fine = min(self.stride, self.patch)
        axis = plan_axis(length, self.window // self.patch, self.step // self.patch, blend=self.blend)
        return axis, shift * fine - (self.patch - fine) // 2


def make_lattice(
    encoder: ConvNeXtV2, stride: int | None = None, overlap: int | None = None, blend: Blending = "smooth"
) -> Lattice:
    """Choose positions and windows for an encoder.

    Parameters
    ----------
    encoder
        The encoder; windows have the size of its training images.
    stride
        Pixels between positions; by default those of a patch.
    overlap
        Pixels of overlap of two windows; by default half a window.
    blend
        ``smooth``, or ``centre``: the window whose centre is nearest, alone.

    Raises
    ------
    InputError
        If the stride neither divides the patch nor is a multiple of it, if the overlap leaves no whole patches, or if
        the positions of the encoder's last map are not its patches.
    """
    patch, window = encoder.strides[-1], encoder.config.image_size
    stride = patch if stride is None else stride
    if stride % patch and patch % stride:
        raise InputError(
            f"--stride: expected a divisor or a multiple of the encoder's patch of {patch} px, got {stride}."
        )
    if encoder.config.padding == "reference":
        raise InputError(
            "expected an encoder whose last map has a position per patch, got one with padding reference; use --padding same."
        )
    return Lattice(stride=stride, patch=patch, window=window, step=step_of(window, overlap, patch), blend=blend)


def block_vectors(
    encoder: ConvNeXtV2, reader: StripReader, lattice: Lattice, size: tuple[int, int], block: Block
) -> NDArray[np.float32]:
    """(D, height, width) vectors of a block of positions, NaN where less than half of the pixels were observed.

    Parameters
    ----------
    encoder
        In evaluation mode, on its device.
    reader
        Scene.
    lattice
        Positions and windows.
    size
        Rows and columns of the scene in pixels.
    block
        Which positions.
    """
    if lattice.merged > 1:
        return _merged(encoder, reader, lattice, size, block)
    found = np.full((encoder.out_channels, block.height, block.width), np.nan, dtype=np.float32)
    shape, step = lattice.positions(size), lattice.shifts
    for down, across in itertools.product(range(step), repeat=2):
        rows = _of_shift(block.row, block.height, down, step)
        columns = _of_shift(block.column, block.width, across, step)
        if rows[0] == rows[1] or columns[0] == columns[1]:
            continue
        top, left = rows[0] * step + down - block.row, columns[0] * step + across - block.column
        for row, values, share in _patches(encoder, reader, lattice, shape, (down, across), rows, columns):
            place = top + (row - rows[0]) * step
            found[:, place : place + step * values.shape[1] : step, left::step] = np.where(
                share >= LEAST_OBSERVED, values, np.nan
            )
    return found


def _of_shift(start: int, length: int, shift: int, step: int) -> tuple[int, int]:
    """Count the positions of a shift along an axis: those before ``start``, and before the end of ``length`` more."""
    return max(0, -(-(start - shift) // step)), max(0, -(-(start + length - shift) // step))


def _merged(
    encoder: ConvNeXtV2, reader: StripReader, lattice: Lattice, size: tuple[int, int], block: Block
) -> NDArray[np.float32]:
    """Vectors of positions of several patches; see `block_vectors`."""
    merged = lattice.merged
    total = np.zeros((encoder.out_channels, block.height, block.width), dtype=np.float32)
    weight = np.zeros((block.height, block.width), dtype=np.float32)
    patches = replace(lattice, stride=lattice.patch).positions(size)
    rows, columns = (
        (start * merged, min((start + length) * merged, end))
        for start, length, end in ((block.row, block.height, patches[0]), (block.column, block.width, patches[1]))
    )
    for row, values, share in _patches(encoder, reader, lattice, patches, (0, 0), rows, columns):
        into = (row + np.arange(values.shape[1])) // merged - block.row
        for line, sums, shares in zip(
            into, np.moveaxis(_sums(values * share, merged), 1, 0), _sums(share, merged), strict=True
        ):
            total[:, line] += sums
            weight[line] += shares
    enough = weight >= LEAST_OBSERVED * merged**2
    return np.where(enough, total / np.where(enough, weight, 1), np.float32(np.nan))


def _sums(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Sum every ``count`` columns; the last sum may be of fewer."""
    found: NDArray[np.float32] = np.add.reduceat(values, np.arange(0, values.shape[-1], count), axis=-1)
    return found


def _patches(
    encoder: ConvNeXtV2,
    reader: StripReader,
    lattice: Lattice,
    shape: tuple[int, int],
    shift: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    """Yield the vectors of patches, some rows at a time, from top to bottom.

    Parameters
    ----------
    encoder, reader, lattice
        As of `block_vectors`.
    shape
        Rows and columns of all positions; of patches, if a position is several.
    shift
        First fine position along rows and columns.
    rows, columns
        First patch of this shift, and the one after its last.

    Yields
    ------
    tuple
        First row; (D, n, columns) vectors; (n, columns) share of the pixels of the position that were observed.
    """
    (down, top), (across, left) = (lattice.axis(length, by) for length, by in zip(shape, shift, strict=True))
    down, across = down.within(*rows), across.within(*columns)
    blend = Blend(across, encoder.out_channels, *columns)
    shares = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), dtype=np.float32)
    offsets = [int(offset) for offset in down.offsets]
    strips = reader.strips(
        [top + offset * lattice.patch for offset in offsets],
        [left + int(offset) * lattice.patch for offset in across.offsets],
        lattice.window,
    )
    for offset, weights, strip in zip(offsets, down.weights, strips, strict=True):
        finished = blend.advance(offset)
        _copy(shares, _observed(strip, lattice), offset - rows[0], int(across.offsets[0]) - columns[0])
        _add(blend, encoder, lattice, strip, across, weights)
        yield from _within(*finished, shares, rows)
    yield from _within(*blend.rest(rows[1]), shares, rows)


def _within(
    first: int, values: NDArray[np.float32], shares: NDArray[np.float32], rows: tuple[int, int]
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    """Yield the part of finished rows that is asked for, if there is any."""
    start, end = max(first, rows[0]), min(first + values.shape[1], rows[1])
    if start < end:
        yield start, values[:, start - first : end - first], shares[start - rows[0] : end - rows[0]]


def _add(
    blend: Blend, encoder: ConvNeXtV2, lattice: Lattice, strip: Strip, across: Axis, weights: NDArray[np.float32]
) -> None:
    """Add the maps of a strip's windows; those without any observed pixel have no vectors."""
    columns = [strip.left + (offset - int(across.offsets[0])) * lattice.patch for offset in across.offsets.tolist()]
    device = next(encoder.parameters()).device
    for some in batches(strip, columns, lattice.window, device):
        images = strip.windows([columns[n] for n in some], lattice.window)
        with torch.inference_mode():
            maps = encoder(images.to(device)).float().cpu().numpy()
        for column, values in zip(some, maps, strict=True):
            blend.add(column, weights, values)


def _observed(strip: Strip, lattice: Lattice) -> NDArray[np.float32]:
    """(window / patch, n) share of the pixels of each position of a strip that were observed."""
    patch, side = lattice.patch, min(lattice.patch, lattice.stride)
    middle = slice((patch - side) // 2, (patch - side) // 2 + side)
    rows, columns = (length // patch for length in strip.observed.shape)
    cells = strip.observed.reshape(rows, patch, columns, patch)[:, middle, :, middle]
    return cells.float().mean(dim=(1, 3)).numpy()


def _copy(into: NDArray[np.float32], values: NDArray[np.float32], top: int, left: int) -> None:
    """Copy values into an array, beyond which they may reach."""
    rows, columns = (
        slice(max(0, first), max(0, first + length)) for first, length in zip((top, left), values.shape, strict=True)
    )
    part = into[rows, columns]
    part[:] = values[rows.start - top :, columns.start - left :][: part.shape[0], : part.shape[1]]
