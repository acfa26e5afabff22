"""A block's linear layers in two passes: LayerNorm, linear, GELU, GRN, linear.

The four-fold wide features between the two linear layers never reach memory on the way forward: GRN needs the norm of
each channel over the positions before it can scale any of them, so the first pass only sums squares, and the second
computes the features again. The way back does the same, and writes what the two weight gradients need, which are
matrix products that the library does well.

Axes: B samples, P positions of a sample, C channels, K = 4 C channels between the linear layers, T tiles of a
sample's positions, one for each program. Sums over positions are written by tile and added in a fixed order: the same
input gives the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from torch import Tensor


WIDEST = 256
"""Channels up to which a tile's features fit the registers; beyond, the matrix products take most of the time anyway."""
HIDDEN_TILE = 32
"""Channels between the linear layers that a program holds at a time, half as many in float32."""
STAGES = 2
"""Tiles of weights on their way: with more, wide layers in float32 need more shared memory than most GPUs have."""


Pair = tuple["Tensor", "Tensor"]
"""Weight and bias."""


class Settings(NamedTuple):
    """What is not a tensor: epsilons of LayerNorm and GRN, and whether GRN's norm runs over the whole batch."""

    norm_eps: float
    grn_eps: float
    over_batch: bool


def fits(channels: int) -> bool:
    """Whether the kernels take features of that many channels."""
    return channels <= WIDEST and 4 * channels % HIDDEN_TILE == 0


def mlp(x: Tensor, norm: Pair, expand: Pair, grn: Pair, contract: Pair, settings: Settings) -> Tensor:
    """LayerNorm, linear, GELU, GRN, linear.

    Parameters
    ----------
    x
        (B, ..., C), C such that it `fits`.
    norm
        Weight and bias of the LayerNorm, (C,).
    expand
        Weight (K, C) and bias (K,) of the first linear layer.
    grn
        Gamma and beta, (K,).
    contract
        Weight (C, K) and bias (C,) of the second linear layer.
    settings
        What is not a tensor.

    Returns
    -------
    Tensor
        As ``x``; under autocast of its type, else of that of ``x``.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    tensors = (x, expand[0], expand[1], contract[0], contract[1])
    features, weight_1, bias_1, weight_2, bias_2 = (tensor.to(dtype) for tensor in tensors)
    flat = features.reshape(len(x), -1, x.shape[-1])
    out: Tensor = _Mlp.apply(flat, *norm, weight_1, bias_1, *grn, weight_2, bias_2, settings)
    return out.reshape(x.shape)


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight_1: Tensor,
        bias_1: Tensor,
        gamma: Tensor,
        beta: Tensor,
        weight_2: Tensor,
        bias_2: Tensor,
        settings: Settings,
    ) -> Tensor:
        launch = _Launch(x, weight_1)
        entry = (launch.x, norm_weight, norm_bias, launch.weight_1, bias_1)
        squares = launch.partial(1)
        launch(_sum_squares, *entry, squares, settings.norm_eps)
        norms = _pool(squares.sum(dim=1)[:, 0], settings).sqrt()
        response = norms / (norms.mean(dim=-1, keepdim=True) + settings.grn_eps)
        scale = torch.addcmul(torch.ones_like(response), gamma.float(), response).expand(len(x), -1).contiguous()
        out = torch.empty_like(launch.x)
        launch(_contract, *entry, scale, beta, weight_2.contiguous(), bias_2, out, settings.norm_eps)
        ctx.save_for_backward(
            launch.x, norm_weight, norm_bias, weight_1, bias_1, gamma, beta, weight_2, norms, response, scale
        )
        ctx.settings = settings
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, norm_weight, norm_bias, weight_1, bias_1, gamma, beta, weight_2, norms, response, scale = ctx.saved_tensors
        settings: Settings = ctx.settings
        launch = _Launch(x, weight_1)
        entry = (launch.x, norm_weight, norm_bias, launch.weight_1, bias_1)
        upstream, weight_2 = gradient.contiguous(), weight_2.contiguous()
        sums = launch.partial(2)
        launch(_sum_products, *entry, weight_2, upstream, sums, settings.norm_eps)
        products, totals = sums.sum(dim=1).unbind(dim=1)
        onto_response = _pool(products, settings)
        share = _through_response(onto_response * gamma.float(), norms, settings.grn_eps).expand(len(x), -1)
        hidden = x.new_empty(*x.shape[:2], len(weight_1))
        onto_hidden, normed, onto_x = torch.empty_like(hidden), torch.empty_like(x), torch.empty_like(x)
        parts = launch.partial(2, x.shape[-1])
        launch(
            _spread_gradient, *entry, scale, share.contiguous(), beta, weight_2, upstream,
            hidden, onto_hidden, normed, onto_x, parts, settings.norm_eps,
        )  # fmt: skip
        onto_norm = parts.sum(dim=(0, 1))
        flat = upstream.flatten(0, 1)
        return (
            onto_x,
            onto_norm[0].to(norm_weight.dtype),
            onto_norm[1].to(norm_bias.dtype),
            onto_hidden.flatten(0, 1).T @ normed.flatten(0, 1),
            onto_hidden.sum(dim=(0, 1)),
            (onto_response * response).sum(dim=0).to(gamma.dtype),
            totals.sum(dim=0).to(beta.dtype),
            flat.T @ hidden.flatten(0, 1),
            flat.sum(dim=0),
            None,
        )


def _pool(sums: Tensor, settings: Settings) -> Tensor:
    """(B, K) sums over each sample; (1, K) where the whole batch is one."""
    return sums.sum(dim=0, keepdim=True) if settings.over_batch else sums


def _through_response(onto_response: Tensor, norms: Tensor, eps: float) -> Tensor:
    """Gradient of GRN's response to what each feature gets, as a multiple of the feature itself."""
    mean = norms.mean(dim=-1, keepdim=True) + eps
    onto_norms = onto_response / mean - (onto_response * norms).mean(dim=-1, keepdim=True) / mean.square()
    return torch.where(norms > 0, onto_norms / norms, 0.0)  # a norm of zero has the gradient zero, as PyTorch's


class _Launch:
    """How the kernels are started over one batch: a program for each tile of each sample."""

    def __init__(self, x: Tensor, weight_1: Tensor) -> None:
        self.x, self.weight_1 = x.contiguous(), weight_1.contiguous()
        self.batch, self.positions, self.channels = x.shape
        self.hidden = len(weight_1)
        self.width = max(16, triton.next_power_of_2(self.channels))
        # Few rows read the weights often, many fill the registers: as compiled for compute capability 8.0 and 9.0, these
        # spill none and need no more shared memory than any GPU has.
        exact = x.dtype == torch.float32
        self.rows = 64 if self.width <= 64 else 16 if exact and self.width > 128 else 32
        self.warps = 8 if self.width > 128 and not exact else 4
        self.step = HIDDEN_TILE // 2 if exact else HIDDEN_TILE
        self.tiles = triton.cdiv(self.positions, self.rows)

    def partial(self, kinds: int, channels: int | None = None) -> Tensor:
        """Room for sums by tile, (B, T, kinds, K or ``channels``) float32."""
        shape = (self.batch, self.tiles, kinds, channels or self.hidden)
        return torch.empty(shape, device=self.x.device, dtype=torch.float32)

    def __call__(self, kernel: Any, *arguments: Any) -> None:  # noqa: ANN401
        with torch.cuda.device_of(self.x):
            kernel[(self.batch, self.tiles)](
                *arguments,
                self.positions,
                CHANNELS=self.channels,
                HIDDEN=self.hidden,
                ROWS=self.rows,
                WIDTH=self.width,
                STEP=self.step,
                PRECISION="ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
                num_warps=self.warps,
                num_stages=STAGES,
            )


@triton.jit
def _tile(
    positions: tl.tensor,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """Rows of this program's tile, its channels, and which of both there are."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    there = (row < positions)[:, None] & (column < CHANNELS)[None, :]
    return tl.program_id(0).to(tl.int64) * positions + row, row < positions, column, there


@triton.jit
def _normalise(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    there: tl.tensor,
    eps: tl.tensor,
    CHANNELS: tl.constexpr,
) -> tl.tensor:
    """Normalised features, one over their spread, and the LayerNorm's output; 0 outside of the channels."""
    values = tl.load(x + row[:, None] * CHANNELS + column[None, :], mask=there, other=0.0).to(tl.float32)
    mean = tl.sum(values, axis=1) / CHANNELS
    centred = tl.where(there, values - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / CHANNELS + eps)
    normal = centred * inverse[:, None]
    scale = tl.load(weight + column, mask=column < CHANNELS, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=column < CHANNELS, other=0.0).to(tl.float32)
    return normal, inverse, normal * scale[None, :] + shift[None, :]


@triton.jit
def _expand(
    normed: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    unit: tl.tensor,
    column: tl.tensor,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tl.tensor:
    """First linear layer, to some of the channels between."""
    rows = tl.load(weight + unit[None, :] * CHANNELS + column[:, None], mask=(column < CHANNELS)[:, None], other=0.0)
    return tl.dot(normed, rows, input_precision=PRECISION) + tl.load(bias + unit).to(tl.float32)[None, :]


@triton.jit
def _gelu(x: tl.tensor) -> tl.tensor:
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _gelu_slope(x: tl.tensor) -> tl.tensor:
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def _sum_squares(
    x: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    weight_1: tl.tensor,
    bias_1: tl.tensor,
    squares: tl.tensor,
    eps: tl.tensor,
    positions: tl.tensor,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    row, exists, column, there = _tile(positions, CHANNELS, ROWS, WIDTH)
    _, _, normed = _normalise(x, norm_weight, norm_bias, row, column, there, eps, CHANNELS)
    normed = normed.to(weight_1.dtype.element_ty)
    out = squares + (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * HIDDEN
    for start in range(0, HIDDEN, STEP):
        unit = start + tl.arange(0, STEP)
        hidden = _gelu(_expand(normed, weight_1, bias_1, unit, column, CHANNELS, PRECISION))
        hidden = tl.where(exists[:, None], hidden, 0.0)
        tl.store(out + unit, tl.sum(hidden * hidden, axis=0))


@triton.jit
def _contract(
    x: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    weight_1: tl.tensor,
    bias_1: tl.tensor,
    scale: tl.tensor,
    beta: tl.tensor,
    weight_2: tl.tensor,
    bias_2: tl.tensor,
    out: tl.tensor,
    eps: tl.tensor,
    positions: tl.tensor,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    row, _, column, there = _tile(positions, CHANNELS, ROWS, WIDTH)
    _, _, normed = _normalise(x, norm_weight, norm_bias, row, column, there, eps, CHANNELS)
    normed = normed.to(weight_1.dtype.element_ty)
    inside = column < CHANNELS
    total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    for start in range(0, HIDDEN, STEP):
        unit = start + tl.arange(0, STEP)
        hidden = _gelu(_expand(normed, weight_1, bias_1, unit, column, CHANNELS, PRECISION))
        factor = tl.load(scale + tl.program_id(0) * HIDDEN + unit)
        hidden = hidden * factor[None, :] + tl.load(beta + unit).to(tl.float32)[None, :]
        rows = tl.load(weight_2 + unit[:, None] + column[None, :] * HIDDEN, mask=inside[None, :], other=0.0)
        total += tl.dot(hidden.to(weight_2.dtype.element_ty), rows, input_precision=PRECISION)
    total += tl.load(bias_2 + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(out + row[:, None] * CHANNELS + column[None, :], total.to(out.dtype.element_ty), mask=there)


@triton.jit
def _sum_products(
    x: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    weight_1: tl.tensor,
    bias_1: tl.tensor,
    weight_2: tl.tensor,
    upstream: tl.tensor,
    sums: tl.tensor,
    eps: tl.tensor,
    positions: tl.tensor,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    row, exists, column, there = _tile(positions, CHANNELS, ROWS, WIDTH)
    _, _, normed = _normalise(x, norm_weight, norm_bias, row, column, there, eps, CHANNELS)
    normed = normed.to(weight_1.dtype.element_ty)
    inside = column < CHANNELS
    above = tl.load(upstream + row[:, None] * CHANNELS + column[None, :], mask=there, other=0.0)
    out = sums + (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * 2 * HIDDEN
    for start in range(0, HIDDEN, STEP):
        unit = start + tl.arange(0, STEP)
        hidden = _gelu(_expand(normed, weight_1, bias_1, unit, column, CHANNELS, PRECISION))
        rows = tl.load(weight_2 + unit[None, :] + column[:, None] * HIDDEN, mask=inside[:, None], other=0.0)
        onto = tl.where(exists[:, None], tl.dot(above, rows, input_precision=PRECISION), 0.0)
        tl.store(out + unit, tl.sum(onto * hidden, axis=0))
        tl.store(out + HIDDEN + unit, tl.sum(onto, axis=0))


@triton.jit
def _spread_gradient(
    x: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    weight_1: tl.tensor,
    bias_1: tl.tensor,
    scale: tl.tensor,
    share: tl.tensor,
    beta: tl.tensor,
    weight_2: tl.tensor,
    upstream: tl.tensor,
    hidden_out: tl.tensor,
    onto_hidden_out: tl.tensor,
    normed_out: tl.tensor,
    onto_x: tl.tensor,
    parts: tl.tensor,
    eps: tl.tensor,
    positions: tl.tensor,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    row, exists, column, there = _tile(positions, CHANNELS, ROWS, WIDTH)
    normal, inverse, normed = _normalise(x, norm_weight, norm_bias, row, column, there, eps, CHANNELS)
    normed = normed.to(weight_1.dtype.element_ty)
    inside = column < CHANNELS
    flat = row[:, None] * CHANNELS + column[None, :]
    tl.store(normed_out + flat, normed, mask=there)
    above = tl.load(upstream + flat, mask=there, other=0.0)
    onto_normed = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    for start in range(0, HIDDEN, STEP):
        unit = start + tl.arange(0, STEP)
        before = _expand(normed, weight_1, bias_1, unit, column, CHANNELS, PRECISION)
        hidden = _gelu(before)
        rows = tl.load(weight_2 + unit[None, :] + column[:, None] * HIDDEN, mask=inside[:, None], other=0.0)
        onto = tl.dot(above, rows, input_precision=PRECISION)
        factor = tl.load(scale + tl.program_id(0) * HIDDEN + unit)[None, :]
        of_norm = tl.load(share + tl.program_id(0) * HIDDEN + unit)[None, :]
        place = row[:, None] * HIDDEN + unit[None, :]
        after = hidden * factor + tl.load(beta + unit).to(tl.float32)[None, :]
        tl.store(hidden_out + place, after.to(hidden_out.dtype.element_ty), mask=exists[:, None])
        onto_before = ((onto * factor + hidden * of_norm) * _gelu_slope(before)).to(weight_1.dtype.element_ty)
        tl.store(onto_hidden_out + place, onto_before, mask=exists[:, None])
        rows = tl.load(weight_1 + unit[:, None] * CHANNELS + column[None, :], mask=inside[None, :], other=0.0)
        onto_normed += tl.dot(onto_before, rows, input_precision=PRECISION)
    onto_normed = tl.where(there, onto_normed, 0.0)
    out = parts + (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * 2 * CHANNELS + column
    tl.store(out, tl.sum(onto_normed * normal, axis=0), mask=inside)
    tl.store(out + CHANNELS, tl.sum(onto_normed, axis=0), mask=inside)
    onto_normal = onto_normed * tl.load(norm_weight + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    mean = tl.sum(onto_normal, axis=1) / CHANNELS
    along = tl.sum(onto_normal * normal, axis=1) / CHANNELS
    through = inverse[:, None] * (onto_normal - mean[:, None] - normal * along[:, None])
    tl.store(onto_x + flat, through.to(onto_x.dtype.element_ty), mask=there)
