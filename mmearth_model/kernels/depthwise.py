"""A depthwise convolution over the visible patches alone, read from and written to their strip.

What lies next to a position is looked up in a table of the patches; where there is none, there is nothing to add. No
image is put together, and nothing is computed where nothing exists.

Axes: B samples, V patches of a sample, s x s positions of a patch, C channels. A strip is (B, V * s, s, C): all positions
of a patch, patch after patch, sample after sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from torch import Tensor


ROWS = 64
"""Positions of a program."""
TILES = 8
"""Times that many positions, at most, add up to one part of the kernel's gradient."""
WIDEST = 64
"""Channels of a program."""


def depthwise(x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, columns: Tensor, table: Tensor) -> Tensor:
    """Convolve the patches, each channel by itself, with zeros wherever no patch is.

    Parameters
    ----------
    x
        Strip.
    weight
        (C, 1, k, k), k odd.
    bias
        (C,).
    rows, columns
        (B, V) int32, contiguous, where each patch lies on the grid.
    table
        (B, rows, columns) of patches, int32, contiguous: which of the sample's patches lies there; -1: none.

    Returns
    -------
    Tensor
        Strip; under autocast of its type, else of that of ``x``.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    out: Tensor = _Depthwise.apply(x.to(dtype), weight.to(dtype), bias.to(dtype), rows, columns, table)
    return out


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        rows: Tensor,
        columns: Tensor,
        table: Tensor,
    ) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight, rows, columns, table)
        return _convolve(x, weight, bias, rows, columns, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight, rows, columns, table = ctx.saved_tensors
        upstream = gradient.contiguous()
        back = _convolve(upstream, weight.flip(2, 3), None, rows, columns, table)
        kernel = _kernel_gradient(x, upstream, weight, rows, columns, table)
        return back, kernel, upstream.sum(dim=(0, 1, 2)), None, None, None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor, columns: Tensor, table: Tensor) -> Tensor:
    channels, size, width = _shape(weight)
    out = torch.empty_like(x)
    positions = x.numel() // channels
    shift = x.new_zeros(channels) if bias is None else bias
    with torch.cuda.device_of(x):
        _correlate[(triton.cdiv(positions, ROWS), triton.cdiv(channels, width))](
            x, _taps(weight), shift, rows, columns, table, out, positions, rows.shape[1], *table.shape[1:],
            CHANNELS=channels, SIDE=x.shape[2], SIZE=size, ROWS=ROWS, WIDTH=width,
        )  # fmt: skip
    return out


def _kernel_gradient(
    x: Tensor, upstream: Tensor, weight: Tensor, rows: Tensor, columns: Tensor, table: Tensor
) -> Tensor:
    """(C, 1, k, k) of the type of the weight; parts are added in a fixed order."""
    channels, size, width = _shape(weight)
    positions = x.numel() // channels
    tiles = min(TILES, triton.cdiv(positions, ROWS))
    chunks = triton.cdiv(positions, ROWS * tiles)
    parts = torch.empty((chunks, size, size, channels), device=x.device, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _correlate_gradient[(chunks, triton.cdiv(channels, width), size * size)](
            x, upstream, rows, columns, table, parts, positions, rows.shape[1], *table.shape[1:],
            CHANNELS=channels, SIDE=x.shape[2], SIZE=size, ROWS=ROWS, WIDTH=width, TILES=tiles,
        )  # fmt: skip
    return parts.sum(dim=0).permute(2, 0, 1)[:, None].to(weight.dtype)


def _shape(weight: Tensor) -> tuple[int, int, int]:
    """Channels, positions along a side of the kernel, and channels of a program."""
    channels = len(weight)
    return channels, weight.shape[-1], min(WIDEST, triton.next_power_of_2(channels))


def _taps(weight: Tensor) -> Tensor:
    """(k, k, C): channels next to each other, as in a strip."""
    return weight[:, 0].permute(1, 2, 0).contiguous()


@triton.jit
def _place(
    position: tl.tensor, exists: tl.tensor, rows: tl.tensor, columns: tl.tensor, SIDE: tl.constexpr
) -> tl.tensor:
    """Row and column of positions on the whole image."""
    patch, inner = position // (SIDE * SIDE), position % (SIDE * SIDE)
    row = tl.load(rows + patch, mask=exists, other=0) * SIDE + inner // SIDE
    column = tl.load(columns + patch, mask=exists, other=0) * SIDE + inner % SIDE
    return row, column


@triton.jit
def _find(
    row: tl.tensor,
    column: tl.tensor,
    exists: tl.tensor,
    table: tl.tensor,
    sample: tl.tensor,
    patches: tl.tensor,
    down: tl.tensor,
    across: tl.tensor,
    SIDE: tl.constexpr,
) -> tl.tensor:
    """Where positions of a sample's image lie among all positions, and whether they do."""
    inside = exists & (row >= 0) & (row < down * SIDE) & (column >= 0) & (column < across * SIDE)
    patch = tl.load(table + (sample * down + row // SIDE) * across + column // SIDE, mask=inside, other=-1)
    there = inside & (patch >= 0)
    return (sample * patches + patch) * (SIDE * SIDE) + (row % SIDE) * SIDE + column % SIDE, there


@triton.jit
def _load(
    start: tl.tensor, position: tl.tensor, there: tl.tensor, channel: tl.tensor, CHANNELS: tl.constexpr
) -> tl.tensor:
    """Features of positions, 0 where they are not there."""
    place = start + position.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    return tl.load(place, mask=there[:, None] & (channel < CHANNELS)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _correlate(
    x: tl.tensor,
    taps: tl.tensor,
    bias: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    positions: tl.tensor,
    patches: tl.tensor,
    down: tl.tensor,
    across: tl.tensor,
    CHANNELS: tl.constexpr,
    SIDE: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    position = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    exists, known = position < positions, channel < CHANNELS
    sample = position // (patches * SIDE * SIDE)
    row, column = _place(position, exists, rows, columns, SIDE)
    total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    for down_by in range(SIZE):
        for right_by in tl.static_range(SIZE):
            beyond, beside = row + down_by - SIZE // 2, column + right_by - SIZE // 2
            near, there = _find(beyond, beside, exists, table, sample, patches, down, across, SIDE)
            tap = tl.load(taps + (down_by * SIZE + right_by) * CHANNELS + channel, mask=known, other=0.0)
            total += _load(x, near, there, channel, CHANNELS) * tap.to(tl.float32)[None, :]
    total += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    place = out + position.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=exists[:, None] & known[None, :])


@triton.jit
def _correlate_gradient(
    x: tl.tensor,
    upstream: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    table: tl.tensor,
    parts: tl.tensor,
    positions: tl.tensor,
    patches: tl.tensor,
    down: tl.tensor,
    across: tl.tensor,
    CHANNELS: tl.constexpr,
    SIDE: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TILES: tl.constexpr,
) -> None:
    """One entry of the kernel, from some of the positions."""
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    down_by, right_by = tl.program_id(2) // SIZE - SIZE // 2, tl.program_id(2) % SIZE - SIZE // 2
    total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    for tile in range(TILES):
        position = (tl.program_id(0) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        exists = position < positions
        sample = position // (patches * SIDE * SIDE)
        row, column = _place(position, exists, rows, columns, SIDE)
        near, there = _find(row + down_by, column + right_by, exists, table, sample, patches, down, across, SIDE)
        total += _load(upstream, position, exists, channel, CHANNELS) * _load(x, near, there, channel, CHANNELS)
    out = parts + (tl.program_id(0).to(tl.int64) * SIZE * SIZE + tl.program_id(2)) * CHANNELS
    tl.store(out + channel, tl.sum(total, axis=0), mask=channel < CHANNELS)
