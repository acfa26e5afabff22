"""Engines: how a network computes on the visible positions of an image only.

Hidden positions do not exist: a convolution reads zeros there and has no output there, and statistics are computed over
the rest (the semantics of submanifold sparse convolutions; Graham and van der Maaten, 2017, arXiv 1706.01307). `Masked`
computes all positions and sets hidden ones to 0 before every convolution; `Gathered` computes the visible patches only,
which is faster. `Masked` also handles single missing pixels. Where both apply, the results are equal up to rounding.

Images of features are (B, h, w, C). Axes: B batch, L patches, h w positions, C channels, V visible patches,
s positions along a side of a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import nn
from torch.nn import functional

from mmearth_data import InputError
from mmearth_model.network.masking import upsample_mask
from mmearth_model.network.patchwise import depthwise, gather, scatter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Hidden:
    """Hidden patches and missing pixels of a batch of images."""

    grid: tuple[int, int]  # rows and columns of patches
    patch_size: int  # pixels along a side of a patch
    strides: tuple[int, ...]  # of the network, from pixels to its coarsest resolution
    mask: Tensor | None = None  # (B, L) bool, True where a patch is hidden; None: none is
    pixels: Tensor | None = None  # (B, H, W) bool, False where a pixel is missing; None: none is
    visible: int | None = None  # patches that the mask leaves in every sample, where that is known

    @property
    def patches_only(self) -> bool:
        """Whether every pixel of every visible patch exists."""
        if self.mask is None or self.pixels is None:
            return self.pixels is None
        return bool((self.pixels | upsample_mask(self.mask, self.grid, self.patch_size)).all())

    @property
    def existing(self) -> Tensor | None:
        """Pixels that exist, (B, H, W) bool; None: all."""
        if self.mask is None:
            return self.pixels
        shown = ~upsample_mask(self.mask, self.grid, self.patch_size)
        return shown if self.pixels is None else shown & self.pixels


class Positions:
    """Existing positions of the images of a batch, here all; the layout of the features there depends on the engine."""

    partial: ClassVar[bool] = False  # whether something may be missing

    def gather(self, image: Tensor) -> Tensor:
        """Features of the existing positions of (B, h, w, C); values at hidden positions have no effect."""
        return image

    def scatter(self, x: Tensor) -> Tensor:
        """Image (B, h, w, C) of features, 0 where hidden."""
        return x

    def mask(self, x: Tensor) -> Tensor:
        """Set features at hidden positions to 0."""
        return x

    def convolve(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        """Apply a layer that keeps the resolution: ``gather(layer(scatter(x)))``, where hidden values may be left."""
        return self.gather(layer(self.scatter(x)))


EVERYWHERE = Positions()
Engine = Callable[[Hidden], Positions]
"""How a network skips hidden positions; the results of all engines are equal up to rounding."""


@dataclass(frozen=True)
class Masked(Positions):
    """Images in which some positions do not exist; they are computed too, but the results are never used."""

    partial: ClassVar[bool] = True
    visible: dict[int, Tensor]  # rows of a resolution -> (B, h, w, 1), 1 where a position exists, else 0

    @classmethod
    def of(cls, pixels: Tensor, strides: tuple[int, ...]) -> Self:
        """Existing pixels (B, H, W) bool, and the strides between one resolution and the next.

        A position exists where any pixel below it does, as in a sparse convolution whose kernel is its stride.
        """
        level = pixels[:, None].float()
        visible = {level.shape[2]: level}
        for stride in strides:
            level = functional.max_pool2d(level, stride)
            visible[level.shape[2]] = level
        return cls({rows: level.permute(0, 2, 3, 1) for rows, level in visible.items()})

    def gather(self, image: Tensor) -> Tensor:
        """See `Positions`."""
        return torch.where(self.visible[image.shape[1]] > 0, image, 0.0)  # not a product: NaN times 0 is NaN

    def scatter(self, x: Tensor) -> Tensor:
        """See `Positions`."""
        return self.mask(x)

    def mask(self, x: Tensor) -> Tensor:
        """See `Positions`."""
        return x * self.visible[x.shape[1]].to(x.dtype)

    def convolve(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        """See `Positions`; hidden positions keep what the layer computes there."""
        y: Tensor = layer(self.mask(x))
        return y


@dataclass(frozen=True)
class Gathered(Positions):
    """The visible patches of each sample, stacked in a strip (B, V * s, s, C).

    Layers that do not mix patches (norms, linear layers, convolutions with kernel = stride) run on the strip as on an
    image. Convolutions that reach beyond a patch run on the whole grid.
    """

    partial: ClassVar[bool] = True
    # rows, columns: (B, V) integers, position of each patch on the grid
    rows: Tensor
    columns: Tensor
    grid: tuple[int, int]  # rows and columns of patches

    @classmethod
    def of(cls, mask: Tensor, grid: tuple[int, int], visible: int | None = None) -> Self | None:
        """Visible patches of a mask (B, L), ``visible`` in each sample; None if samples have unequally many, or none.

        Where ``visible`` is given they are not counted, as the host would have to wait for the device.

        Raises `InputError` when the mask leaves another number, where counting is cheap.
        """
        known = visible is not None and (mask.device.type != "cpu" or torch.compiler.is_compiling())
        if not known:
            counts = (~mask).sum(dim=1)
            expected, visible = visible, int(counts[0])
            if visible == 0 or bool((counts != visible).any()):
                return None
            if expected not in (None, visible):
                raise InputError(
                    f"expected a mask that leaves {expected} patches visible, got {visible}; omit the number."
                )
        order = mask.byte().argsort(dim=1, stable=True)[:, :visible]
        return cls(order // grid[1], order % grid[1], grid)

    def gather(self, image: Tensor) -> Tensor:
        """See `Positions`."""
        return gather(image, self.rows, self.columns, self.grid)

    def scatter(self, x: Tensor) -> Tensor:
        """See `Positions`."""
        return scatter(x, self.rows, self.columns, self.grid)

    def convolve(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        """See `Positions`."""
        if layer.bias is not None and _gradient_pays(layer, x):
            return depthwise(x, layer.weight, layer.bias, self.rows, self.columns, self.grid)
        return super().convolve(layer, x)


def _gradient_pays(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether `depthwise` beats the library's own gradients: on a CPU, outside of autocast and compilation."""
    return (
        layer.groups == layer.in_channels == layer.out_channels
        and x.device.type == "cpu"
        and x.dtype == layer.weight.dtype
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def masked(hidden: Hidden) -> Positions:
    """Compute everywhere, with zeros where hidden."""
    existing = hidden.existing
    return EVERYWHERE if existing is None else Masked.of(existing, hidden.strides)


def gathered(hidden: Hidden) -> Positions:
    """Compute the visible patches only. Raises `InputError` when samples have unequally many, or pixels are missing."""
    found = _visible_patches(hidden)
    if found is None:
        raise InputError(
            "engine gathered needs equally many visible patches in every sample and no missing pixels; use auto."
        )
    return found


def auto(hidden: Hidden) -> Positions:
    """Compute as `gathered` where that is possible, else as `masked`."""
    return _visible_patches(hidden) or masked(hidden)


def _visible_patches(hidden: Hidden) -> Gathered | None:
    if hidden.mask is None or not hidden.patches_only:
        return None
    return Gathered.of(hidden.mask, hidden.grid, hidden.visible)


ENGINES: dict[str, Engine] = {"auto": auto, "masked": masked, "gathered": gathered}
"""Name in recipes -> engine."""
