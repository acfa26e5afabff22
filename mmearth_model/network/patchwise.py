"""Gather patches of an image into a strip and scatter them back, with cheap gradients.

An image is (B, h, w, C). A strip is (B, V * s, s, C): V patches of s x s positions of each sample, one below the
other. ``rows`` and ``columns``, (B, V) integers, are the location of each patch on the grid of patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.nn.grad import conv2d_weight

if TYPE_CHECKING:
    from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns of patches."""

GRAM_SIDE = 4
"""Positions along a side of a patch from which on `weight_gradient` beats oneDNN's (measured: 2.7 times at 8, 1.8 at 4)."""


def gather(x: Tensor, rows: Tensor, columns: Tensor, grid: Grid) -> Tensor:
    """Take patches out of images: (B, h, w, C) to (B, V * s, s, C)."""
    strip: Tensor = _Gather.apply(x, rows, columns, *grid)  # type: ignore[no-untyped-call]
    return strip


def scatter(x: Tensor, rows: Tensor, columns: Tensor, grid: Grid) -> Tensor:
    """Put patches into images of zeros: (B, V * s, s, C) to (B, h, w, C)."""
    image: Tensor = _Scatter.apply(x, rows, columns, *grid)  # type: ignore[no-untyped-call]
    return image


def depthwise(x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, columns: Tensor, grid: Grid) -> Tensor:
    """Convolve the patches, each channel by itself, with zeros between them.

    Parameters
    ----------
    x
        Strip.
    weight
        (C, 1, k, k), k odd.
    bias
        (C,).
    rows, columns, grid
        Location of the patches.

    Returns
    -------
    Tensor
        Strip.
    """
    strip: Tensor = _Depthwise.apply(x, weight, bias, rows, columns, *grid)  # type: ignore[no-untyped-call]
    return strip


def weight_gradient(image: Tensor, gradient: Tensor, rows: Tensor, columns: Tensor, grid: Grid, size: int) -> Tensor:
    """Gradient of a depthwise kernel from the patches alone.

    For each channel, all products of a position of a patch with a position of its neighbourhood are one matrix product
    over the patches; products of positions equally far apart belong to the same entry of the kernel.

    Parameters
    ----------
    image
        What was convolved, (B, h, w, C).
    gradient
        Of the outputs, a strip.
    rows, columns, grid
        Location of the patches.
    size
        Of the kernel.

    Returns
    -------
    Tensor
        (C, 1, size, size).
    """
    batch, channels = image.shape[0], image.shape[-1]
    side = gradient.shape[2]
    reach = side + size - 1
    padded = functional.pad(image, (0, 0, *(size // 2,) * 4))
    sample, row, column, channel = padded.stride()
    windows = padded.as_strided(
        (batch, *grid, reach, reach, channels), (sample, row * side, column * side, row, column, channel)
    )
    near = windows[_samples(rows), rows, columns].reshape(-1, reach**2, channels).permute(2, 1, 0).contiguous()
    own = gradient.reshape(-1, side**2, channels).permute(2, 0, 1).contiguous()
    products = torch.bmm(near, own)
    cells = side**2
    apart = products.as_strided(
        (channels, size, size, side, side),
        (reach**2 * cells, reach * cells, cells, reach * cells + side, cells + 1),
    )
    return apart.sum(dim=(3, 4))[:, None]


def _take(x: Tensor, rows: Tensor, columns: Tensor, grid: Grid) -> Tensor:
    batch, _, width, channels = x.shape
    side = width // grid[1]
    blocks = x.reshape(batch, grid[0], side, grid[1], side, channels)
    return blocks[_samples(rows), rows, :, columns].reshape(batch, -1, side, channels)


def _put(x: Tensor, rows: Tensor, columns: Tensor, grid: Grid) -> Tensor:
    batch, _, side, channels = x.shape
    blocks = x.new_zeros(batch, grid[0], side, grid[1], side, channels)
    blocks[_samples(rows), rows, :, columns] = x.reshape(batch, -1, side, side, channels)
    return blocks.reshape(batch, grid[0] * side, grid[1] * side, channels)


def _samples(rows: Tensor) -> Tensor:
    return torch.arange(len(rows), device=rows.device)[:, None]


def _convolve(image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    channels_first = functional.conv2d(
        image.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=len(weight)
    )
    return channels_first.permute(0, 2, 3, 1)


class _Gather(torch.autograd.Function):
    """Gathering and scattering are each other's gradient: each patch is taken once, so nothing accumulates."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, columns: Tensor, down: int, across: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(rows, columns)
        ctx.grid = (down, across)
        return _take(x, rows, columns, ctx.grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        rows, columns = ctx.saved_tensors
        return _put(gradient, rows, columns, ctx.grid), None, None, None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, columns: Tensor, down: int, across: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(rows, columns)
        ctx.grid = (down, across)
        return _put(x, rows, columns, ctx.grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        rows, columns = ctx.saved_tensors
        return _take(gradient, rows, columns, ctx.grid), None, None, None, None


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        rows: Tensor,
        columns: Tensor,
        down: int,
        across: int,
    ) -> Tensor:
        image = _put(x, rows, columns, (down, across))
        ctx.save_for_backward(image, weight, rows, columns)
        ctx.grid = (down, across)
        return _take(_convolve(image, weight, bias), rows, columns, ctx.grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        image, weight, rows, columns = ctx.saved_tensors
        size, side = weight.shape[-1], gradient.shape[2]
        whole = _put(gradient, rows, columns, ctx.grid)
        back = _take(_convolve(whole, weight.flip(2, 3), None), rows, columns, ctx.grid)
        if side >= GRAM_SIDE:
            kernel = weight_gradient(image, gradient, rows, columns, ctx.grid, size)
        else:
            kernel = conv2d_weight(  # type: ignore[no-untyped-call]
                image.permute(0, 3, 1, 2),
                weight.shape,
                whole.permute(0, 3, 1, 2),
                padding=size // 2,
                groups=len(weight),
            )
        return back, kernel, gradient.sum(dim=(0, 1, 2)), None, None, None, None
