"""Our Triton kernels: equal to plain PyTorch, and compiled to machine code of GPUs.

Without a GPU they run in Triton's interpreter, on one as they are. Whether they are faster there is for
`mmearth-train bench` to show.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from closeness import assert_near, distance
from test_engines import encoder_of, results
from torch import Tensor

import mmearth_model.kernels
from mmearth_model.kernels import usable
from mmearth_model.network.encoder import Block
from mmearth_model.network.masking import random_mask
from mmearth_model.network.positions import Fused, Gathered

if not sys.platform.startswith("linux"):
    pytest.skip("Triton is for Linux only", allow_module_level=True)

SHARED_MEMORY = 99 * 1024
"""Bytes that a program may have on every GPU since Ampere (CUDA C++ Programming Guide, compute capability 8.6)."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRET = "TRITON_INTERPRET"
HALVES = (torch.float16, torch.bfloat16)[: 1 + torch.cuda.is_available()]  # the interpreter has no products in bfloat16
KERNELS = {"_sum_squares", "_contract", "_sum_products", "_spread_gradient", "_correlate", "_correlate_gradient"}

with pytest.MonkeyPatch.context() as patched:
    if DEVICE == "cpu":
        # Triton decides at its import what its own functions are. PyTorch may have imported it; nothing here needs that one.
        patched.setenv(INTERPRET, "1")
        for loaded in [name for name in sys.modules if re.match(r"triton\b(?!\._C)", name)]:
            del sys.modules[loaded]
    from mmearth_model.kernels import depthwise, mlp


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        monkeypatch.setenv(INTERPRET, "1")


def counted(operation: Callable[..., Tensor], name: str, called: list[str]) -> Callable[..., Tensor]:
    """The operation, which notes its name when it is called."""

    def call(*arguments: Any) -> Tensor:
        called.append(name)
        return operation(*arguments)

    return call


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of our operations in the order of their calls."""
    called: list[str] = []
    for module, name in ((depthwise, "depthwise"), (mlp, "mlp")):
        monkeypatch.setattr(module, name, counted(getattr(module, name), name, called))
    return called


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def block_of(channels: int, over: str = "sample") -> Block:
    """Weights, norms, biases and GRN away from where they start; one channel between is 0 everywhere."""
    block = Block(channels, grn_over=over)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        block.pwconv1.weight[0] = 0
        block.pwconv1.bias[0] = 0
    return block.to(DEVICE)


def strip_of(mask: Tensor, grid: int, side: int, channels: int) -> tuple[Fused, Gathered, Tensor, Tensor]:
    """Where the patches lie, in both forms; features, channels last but not next to each other; and a gradient."""
    fused, plain = Fused.of(mask.to(DEVICE), (grid, grid)), Gathered.of(mask.to(DEVICE), (grid, grid))
    assert fused is not None
    assert plain is not None
    x, upstream = torch.randn(2, len(mask), channels, fused.rows.shape[1] * side, side).permute(0, 1, 3, 4, 2)
    return fused, plain, x.to(DEVICE), upstream.to(DEVICE)


def gradients(block: Block, x: Tensor, where: Gathered, upstream: Tensor) -> dict[str, Tensor]:
    """What comes out, and the gradients of the input and of every parameter."""
    inputs = x.clone().requires_grad_()
    out = block(inputs, where)
    names, parameters = zip(*block.named_parameters(), strict=True)
    found = torch.autograd.grad(out, (inputs, *parameters), upstream.to(out.dtype))
    return {"out": out.detach(), **dict(zip(("input", *names), found, strict=True))}


@pytest.mark.parametrize(
    ("channels", "side", "grid", "ratio", "over"),
    [
        (8, 4, 2, 0.5, "sample"), (40, 1, 4, 0.6, "batch"),
        pytest.param(24, 2, 3, 0.0, "sample", marks=pytest.mark.slow),
        pytest.param(160, 2, 7, 0.6, "sample", marks=pytest.mark.slow),
        pytest.param(256, 1, 7, 0.3, "sample", marks=pytest.mark.slow),
        pytest.param(40, 8, 4, 0.9, "sample", marks=pytest.mark.slow),
        pytest.param(16, 8, 3, 0.3, "batch", marks=pytest.mark.slow),
        pytest.param(8, 3, 3, 0.6, "sample", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_fused_block_is_the_block(
    channels: int, side: int, grid: int, ratio: float, over: str, launches: list[str]
) -> None:
    """The oracle computes in float64."""
    fused, plain, x, upstream = strip_of(random_mask(2, grid**2, ratio), grid, side, channels)
    block = block_of(channels, over)
    oracle = gradients(copy.deepcopy(block).double(), x.double(), plain, upstream.double())
    found = gradients(block, x, fused, upstream)
    assert launches == ["depthwise", "mlp"]
    for name, tensor in found.items():
        assert_near(tensor, oracle[name].float(), name, gradient=name != "out")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES)
def test_under_autocast_it_rounds_as_the_type_does(dtype: torch.dtype, launches: list[str]) -> None:
    """11 bits of mantissa in float16, eight in bfloat16."""
    fused, _, x, upstream = strip_of(random_mask(2, 9, 0.6), grid=3, side=2, channels=16)
    block = block_of(16)
    oracle = gradients(block, x, fused, upstream)
    with torch.autocast(DEVICE, dtype):
        found = gradients(block, x, fused, upstream)
    assert launches == ["depthwise", "mlp"] * 2
    for name, tensor in found.items():
        assert tensor.dtype == oracle[name].dtype, name
        assert 0 < distance(tensor, oracle[name]) < 8 * torch.finfo(dtype).eps, name


@pytest.mark.slow
@pytest.mark.parametrize("patch", [8, 16])
def test_a_fused_encoder_is_the_masked_one(patch: int, launches: list[str]) -> None:
    shape = {"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "in_channels": 2}
    encoder = encoder_of(torch.float32, patch_size=patch, image_size=2 * patch, **shape)
    images, mask = torch.randn(1, 2, 2 * patch, 2 * patch), random_mask(1, 4, 0.5)
    oracle = results(encoder, "masked", images, mask)
    assert not launches
    for name, tensor in results(encoder.to(DEVICE), "fused", images.to(DEVICE), mask.to(DEVICE)).items():
        assert_near(tensor.cpu(), oracle[name], name, gradient=name.startswith("gradient"))
    assert launches == ["depthwise", "mlp"] * 4


def test_where_kernels_do_not_run_it_gathers(launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, for what is wider than the registers, without Triton, on a CPU."""
    encoder = encoder_of(torch.float64, depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    images, mask = torch.randn(1, 12, 16, 16, dtype=torch.float64), random_mask(1, 4, 0.5)
    assert torch.equal(*(encoder.to(torch.float64)(images, mask) for encoder.engine in ("fused", "gathered")))
    assert not launches
    where, _, x, _ = strip_of(mask, grid=2, side=1, channels=260)
    block_of(260)(x, where)
    assert launches == ["depthwise"]
    with monkeypatch.context() as patch:
        patch.setattr(mmearth_model.kernels, "_installed", lambda: False)
        block_of(260)(x, where)
    monkeypatch.delenv(INTERPRET, raising=False)
    assert not usable(torch.zeros(1))
    assert launches == ["depthwise"]


@pytest.mark.parametrize(
    ("capability", "dtype", "channels"),
    [
        (90, "bfloat16", (40,)),
        pytest.param(80, "float32", (40, 80, 96, 128, 160, 256), marks=pytest.mark.slow),
        pytest.param(90, "bfloat16", (48, 64, 80, 96, 128, 160, 192, 256), marks=pytest.mark.slow),
        pytest.param(80, "float16", (40, 160), marks=pytest.mark.slow),
        pytest.param(120, "bfloat16", (40, 160), marks=pytest.mark.slow),
        pytest.param(90, "tf32", (40, 256), marks=pytest.mark.slow),
    ],
)
def test_every_kernel_compiles_for_a_gpu(
    capability: int, dtype: str, channels: tuple[int, ...], tmp_path: Path
) -> None:
    """To machine code, by the assembler that Triton brings, within the shared memory that there is."""
    program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("_compile_kernels.py"))]
    environment = {k: v for k, v in os.environ.items() if k != INTERPRET} | {"TRITON_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run(
        [*program, str(capability), dtype, *map(str, channels)], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {entry["kernel"] for entry in found} == KERNELS
    for entry in found:
        assert entry["shared"] <= SHARED_MEMORY, entry
        assert entry["bytes"] > 0
