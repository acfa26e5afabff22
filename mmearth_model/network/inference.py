"""Faster layers for inference on a CPU; their results are equal up to rounding.

Measured on one core of an AMD EPYC with AVX-512, for the layers of an atto encoder: oneDNN's matrix product takes 0.4 times
as long as the one that `torch.nn.Linear` calls, and a sum of squares a sixth of `torch.linalg.vector_norm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from mmearth_model.network.encoder import GRN
from mmearth_model.network.positions import EVERYWHERE

if TYPE_CHECKING:
    from torch import Tensor

    from mmearth_model.network.positions import Positions


class QuickLinear(nn.Module):
    """`torch.nn.Linear` by oneDNN, without gradients."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        answer: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return answer


class QuickGRN(nn.Module):
    """`GRN` over each sample, without gradients or masks."""

    def __init__(self, layer: GRN) -> None:
        super().__init__()
        self.gamma, self.beta, self.eps = layer.gamma.detach(), layer.beta.detach(), layer.eps

    def forward(self, x: Tensor, where: Positions = EVERYWHERE) -> Tensor:
        """(B, h, w, C) features of all positions to the same shape."""
        norm = where.mask(x).square().sum(dim=(1, 2), keepdim=True).sqrt()
        response = norm / (norm.mean(dim=-1, keepdim=True) + self.eps)
        return torch.addcmul(self.beta, x, 1 + self.gamma * response)


def quicken(module: nn.Module) -> nn.Module:
    """Replace layers of a network on a CPU by faster ones; the network cannot be trained or saved afterwards.

    If PyTorch was built without oneDNN, linear layers are unchanged.
    """
    known: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    linear = known and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    for name, layer in module.named_children():
        if isinstance(layer, GRN) and layer.over == "sample":
            setattr(module, name, QuickGRN(layer))
        elif type(layer) is nn.Linear and linear and layer.weight.dtype == torch.float32:
            setattr(module, name, QuickLinear(layer))
        else:
            quicken(layer)
    return module
