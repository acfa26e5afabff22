"""Which positions of an image exist, and how a network computes on those alone.

Hidden positions do not exist: a convolution sees zeros there and has no outputs there, and statistics are
taken over the rest (the semantics of submanifold sparse convolutions; Graham and van der Maaten, 2017,
arXiv 1706.01307). Forms of one interface: `Everywhere` hides nothing; `Gathered` keeps the visible patches
only; `Masked` computes everywhere and puts zeros before every convolution. Where both apply, the latter two
compute the same; `Masked` is simpler and also knows single missing pixels, `Gathered` saves the work. `Fused` is
`Gathered` with kernels of our own.

Features are (B, h, w, C) outside. Axes: B batch, h w positions, C channels, V visible patches, s positions along
a side of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self, get_args

import torch
from torch import nn
from torch.nn import functional

from mmearth_data import InputError
from mmearth_model.kernels import usable
from mmearth_model.network.masking import upsample_mask
from mmearth_model.network.patchwise import depthwise, gather, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

Engine = Literal["auto", "masked", "gathered", "fused"]
"""How hidden patches are left out: ``auto`` gathers where it can; so does ``fused``, with Triton where that runs."""


class Positions(Protocol):
    """What exists of the images of a batch.

    Attributes
    ----------
    partial
        Whether something may be missing.
    """

    partial: ClassVar[bool]

    def enter(self, x: Tensor) -> Tensor:
        """Bring (B, h, w, C) into the inner form; whatever stood at hidden positions has no effect."""
        ...

    def leave(self, x: Tensor) -> Tensor:
        """Bring the inner form back to (B, h, w, C), 0 where hidden."""
        ...

    def hide(self, x: Tensor) -> Tensor:
        """Put zeros where nothing exists; same form."""
        ...

    def around(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply a layer that looks beyond its position and keeps the resolution; same form."""
        ...


class Everywhere:
    """All positions exist."""

    partial: ClassVar[bool] = False

    def enter(self, x: Tensor) -> Tensor:
        """See `Positions`."""
        return x

    def leave(self, x: Tensor) -> Tensor:
        """See `Positions`."""
        return x

    def hide(self, x: Tensor) -> Tensor:
        """See `Positions`."""
        return x

    def around(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """See `Positions`."""
        return layer(x)


@dataclass(frozen=True, slots=True)
class Masked:
    """Some positions do not exist, and are computed all the same; what comes out there is never read.

    Attributes
    ----------
    visible
        Rows of a resolution -> (B, h, w, 1), 1 where a position exists, else 0.
    """

    partial: ClassVar[bool] = True
    visible: dict[int, Tensor]

    @classmethod
    def of(cls, pixels: Tensor, strides: tuple[int, ...]) -> Self:
        """Existing pixels (B, H, W) bool, and the strides between one resolution and the next.

        A position exists where any of those under it does, as in a sparse convolution whose kernel is its stride.
        """
        level = pixels[:, None].float()
        visible = {level.shape[2]: level}
        for stride in strides:
            level = functional.max_pool2d(level, stride)
            visible[level.shape[2]] = level
        return cls({rows: level.permute(0, 2, 3, 1) for rows, level in visible.items()})

    def enter(self, x: Tensor) -> Tensor:
        """See `Positions`."""
        return torch.where(self.visible[x.shape[1]] > 0, x, 0.0)  # not a product: NaN times 0 is NaN

    def leave(self, x: Tensor) -> Tensor:
        """See `Positions`."""
        return self.hide(x)

    def hide(self, x: Tensor) -> Tensor:
        """See `Positions`."""
        return x * self.visible[x.shape[1]].to(x.dtype)

    def around(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """See `Positions`."""
        return layer(self.hide(x))


@dataclass(frozen=True, slots=True)
class Gathered:
    """The visible patches of each sample alone, one below the other in a strip (B, V * s, s, C).

    To whatever stays inside a patch (norms, linear layers, convolutions with kernel = stride) the strip is an
    image like any other. What looks around is computed on the whole grid.

    Attributes
    ----------
    rows, columns
        (B, V) integers, where each patch lies on the grid.
    grid
        Rows and columns of patches.
    """

    partial: ClassVar[bool] = True
    rows: Tensor
    columns: Tensor
    grid: tuple[int, int]

    @classmethod
    def of(cls, mask: Tensor, grid: tuple[int, int], visible: int | None = None) -> Self | None:
        """Visible patches of a mask (B, L), ``visible`` in each sample; None where samples have unequally many, or none.

        Where ``visible`` is given they are not counted, as the host would have to wait for the device.
        """
        known = visible is not None and (mask.device.type != "cpu" or torch.compiler.is_compiling())
        if not known:
            counts = (~mask).sum(dim=1)
            told, visible = visible, int(counts[0])
            if visible == 0 or bool((counts != visible).any()):
                return None
            if told not in (None, visible):
                raise InputError(f"expected a mask that leaves {told} patches visible, got {visible}; omit the number.")
        order = mask.byte().argsort(dim=1, stable=True)[:, :visible]
        return cls._at(order, grid)

    @classmethod
    def _at(cls, order: Tensor, grid: tuple[int, int]) -> Self:
        return cls(order // grid[1], order % grid[1], grid)

    def enter(self, x: Tensor) -> Tensor:
        """See `Positions`."""
        return gather(x, self.rows, self.columns, self.grid)

    def leave(self, x: Tensor) -> Tensor:
        """See `Positions`."""
        return spread(x, self.rows, self.columns, self.grid)

    def hide(self, x: Tensor) -> Tensor:
        """See `Positions`."""
        return x

    def around(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """See `Positions`."""
        if isinstance(layer, nn.Conv2d) and layer.bias is not None and _gradient_pays(layer, x):
            return depthwise(x, layer.weight, layer.bias, self.rows, self.columns, self.grid)
        return self.enter(layer(self.leave(x)))


@dataclass(frozen=True, slots=True)
class Fused(Gathered):
    """As `Gathered`, with what a block does in two kernels of our own, where they run.

    Attributes
    ----------
    table
        (B, rows, columns) of patches, int32: which of the visible patches lies there; -1: none.
    """

    table: Tensor

    @classmethod
    def _at(cls, order: Tensor, grid: tuple[int, int]) -> Self:
        number = torch.arange(order.shape[1], dtype=torch.int32, device=order.device).expand_as(order)
        table = number.new_full((len(order), grid[0] * grid[1]), -1).scatter_(1, order, number)
        return cls((order // grid[1]).int(), (order % grid[1]).int(), grid, table.view(-1, *grid))

    def around(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """See `Positions`."""
        if not (isinstance(layer, nn.Conv2d) and _is_depthwise(layer) and layer.bias is not None and usable(x)):
            return Gathered.around(self, layer, x)
        from mmearth_model.kernels.depthwise import depthwise

        return depthwise(x, layer.weight, layer.bias, self.rows, self.columns, self.table)


def _is_depthwise(layer: nn.Conv2d) -> bool:
    return layer.groups == layer.in_channels == layer.out_channels


def _gradient_pays(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether `depthwise` beats the library's own gradients: on a CPU, outside of autocast and compilation."""
    return (
        _is_depthwise(layer)
        and x.device.type == "cpu"
        and x.dtype == layer.weight.dtype
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def positions(
    size: Sequence[int],
    patch_size: int,
    mask: Tensor | None,
    pixels: Tensor | None,
    strides: tuple[int, ...],
    engine: Engine = "auto",
    visible: int | None = None,
) -> Positions:
    """Find out what exists.

    Parameters
    ----------
    size
        Rows and columns of pixels.
    patch_size
        Pixels along a side of a patch.
    mask
        (B, L) bool, True where a patch is hidden; None: none is.
    pixels
        (B, H, W) bool, False where a pixel is missing; None: none is.
    strides
        Of the network, from pixels to its coarsest resolution.
    engine
        How to leave them out.
    visible
        Patches that the mask leaves in every sample, where that is known.

    Raises
    ------
    InputError
        When the engine cannot do that.
    """
    if engine not in get_args(Engine):
        raise InputError(f"expected an engine of {', '.join(get_args(Engine))}, got {engine!r}.")
    if mask is None:
        return Everywhere() if pixels is None else Masked.of(pixels, strides)
    grid = (size[0] // patch_size, size[1] // patch_size)
    if engine != "masked" and (pixels is None or bool((pixels | upsample_mask(mask, grid, patch_size)).all())):
        form = Fused if engine == "fused" else Gathered
        gathered = form.of(mask, grid, visible)
        if gathered is not None:
            return gathered
    if engine == "gathered":
        raise InputError(
            "engine gathered needs equally many visible patches in every sample and no missing pixels; use auto."
        )
    shown = ~upsample_mask(mask, grid, patch_size)
    return Masked.of(shown if pixels is None else shown & pixels, strides)
