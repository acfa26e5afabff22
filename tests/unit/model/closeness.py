"""How near two tensors must be: by the largest value of the tensor (DESIGN 10), not element by element.

Arithmetic in another order (another slice, kernel or number of threads) rounds otherwise; what an element near zero
is off by depends on the terms that cancelled in it, not on the element.
"""

from __future__ import annotations

import torch
from torch import Tensor

FORWARD = {torch.float64: 1e-10, torch.float32: 1e-5}
"""max|a-b| / max|b| of activations."""
GRADIENT = {torch.float64: 1e-10, torch.float32: 1e-4}
"""The same of gradients."""


def distance(got: Tensor, expected: Tensor) -> float:
    """max|a-b| / max|b|; infinite where shapes or types differ or something is no number."""
    if got.shape != expected.shape or got.dtype != expected.dtype or not torch.isfinite(got).all():
        return float("inf")
    apart = float((got.detach() - expected.detach()).abs().max())
    return apart / float(expected.detach().abs().max()) if apart else 0.0


def assert_near(got: Tensor, expected: Tensor, name: str = "", *, gradient: bool = False) -> None:
    bound = (GRADIENT if gradient else FORWARD)[expected.dtype]
    apart = distance(got, expected)
    assert apart <= bound, f"{name}: max|a-b| is {apart:.3g} of max|b|, more than {bound:g}"
