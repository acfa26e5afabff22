"""Compiles every kernel as it is launched, for a GPU that need not be there: prints JSON lines.

    python _compile_kernels.py CAPABILITY DTYPE CHANNELS [CHANNELS ...]

DTYPE is one of torch, or tf32: float32 whose products may be rounded. The arguments of each launch are taken from the real call, forward and backward; only running them is left out.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmearth_model.kernels import depthwise, mlp
from mmearth_model.network.masking import random_mask
from mmearth_model.network.positions import Fused

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int32: "i32"}
OPTIONS = ("num_warps", "num_stages")
LAUNCHED = {
    mlp: ("_sum_squares", "_contract", "_sum_products", "_spread_gradient"),
    depthwise: ("_correlate", "_correlate_gradient"),
}


class Compiling:
    """Stands where a kernel is launched."""

    def __init__(self, kernel: triton.JITFunction, capability: int) -> None:
        self.kernel, self.capability = kernel, capability

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self

    def __call__(self, *arguments: Any, **named: Any) -> None:
        names = self.kernel.arg_names
        given = dict(zip(names, arguments, strict=False)) | {k: v for k, v in named.items() if k not in OPTIONS}
        assert set(given) == set(names)
        fixed = {name: value for name, value in given.items() if name.isupper()}
        signature = {name: "constexpr" if name in fixed else kind(value) for name, value in given.items()}
        aligned = {
            (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if isinstance(given[name], torch.Tensor)
        }
        source = ASTSource(
            self.kernel, signature, {(names.index(name),): value for name, value in fixed.items()}, aligned
        )
        options = {name: named[name] for name in OPTIONS if name in named}
        binary = triton.compile(source, target=GPUTarget("cuda", self.capability, 32), options=options)
        name, shared, size = self.kernel.fn.__name__, binary.metadata.shared, len(binary.asm["cubin"])
        sys.stdout.write(json.dumps({"kernel": name, "shared": shared, "bytes": size}) + "\n")


def kind(value: Any) -> str:
    """Type of an argument, as Triton writes it."""
    if isinstance(value, torch.Tensor):
        return f"*{TYPES[value.dtype]}"
    return "i32" if isinstance(value, int) else "fp32"


def launch(channels: int, dtype: torch.dtype) -> None:
    """Call both kernels and their gradients on a batch of two samples."""
    where = Fused.of(random_mask(2, 16, 0.5), (4, 4))
    assert where is not None
    side = 2
    x = torch.zeros(2, where.rows.shape[1] * side, side, channels, dtype=dtype, requires_grad=True)
    single = torch.zeros(channels, requires_grad=True)
    fourfold = torch.zeros(4 * channels, requires_grad=True)
    wide = torch.zeros(4 * channels, channels, requires_grad=True)
    narrow = torch.zeros(channels, 4 * channels, requires_grad=True)
    weight = torch.zeros(channels, 1, 7, 7, requires_grad=True)
    if mlp.fits(channels):
        settings = mlp.Settings(1e-6, 1e-6, over_batch=False)
        mlp.mlp(
            x, (single, single), (wide, fourfold), (fourfold, fourfold), (narrow, single), settings
        ).sum().backward()
    depthwise.depthwise(x, weight, single, where.rows, where.columns, where.table).sum().backward()


def main() -> None:
    """See the module."""
    capability, dtype, *channels = sys.argv[1:]
    for module, names in LAUNCHED.items():
        for name in names:
            setattr(module, name, Compiling(getattr(module, name), int(capability)))
    if dtype == "tf32":
        torch.set_float32_matmul_precision("high")
    for width in channels:
        launch(int(width), torch.float32 if dtype == "tf32" else getattr(torch, dtype))


if __name__ == "__main__":
    main()
