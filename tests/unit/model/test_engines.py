"""The sparse engine against its oracle, the masked dense form: every feature map and every gradient."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from closeness import assert_near
from torch import Tensor
from torch.nn import functional

from mmearth_model.network.encoder import ConvNeXtV2, Convolution, EncoderConfig
from mmearth_model.network.masking import random_mask, upsample_mask, visible_patches
from mmearth_model.network.patchwise import depthwise, gather, scatter, weight_gradient
from mmearth_model.network.positions import ENGINES, EVERYWHERE, Hidden
from mmearth_model.training.recipe import TrainRecipe

SIZES_TO_BASE = ("atto", "femto", "pico", "nano", "tiny", "base")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def encoder_of(dtype: torch.dtype, **config: Any) -> ConvNeXtV2:
    """Initial weights, and norms, biases and GRN away from where they start."""
    encoder = ConvNeXtV2(EncoderConfig(**config)).to(dtype)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder


def results(encoder: ConvNeXtV2, engine: Any, images: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Feature maps of all stages, and gradients of the input and of every parameter."""
    encoder.engine = ENGINES[engine]
    inputs = images.clone().requires_grad_()
    maps = encoder.forward_features(inputs, mask)
    generator = torch.Generator().manual_seed(1)
    loss = torch.stack([
        (m * torch.randn(m.shape, generator=generator, dtype=torch.float64).to(m)).sum() for m in maps
    ]).sum()  # fmt: skip
    names = [name for name, _ in encoder.named_parameters()]
    gradients = torch.autograd.grad(loss, (inputs, *encoder.parameters()))
    return {
        **{f"map {stage}": m.detach() for stage, m in enumerate(maps)},
        **dict(zip(["gradient input", *(f"gradient {n}" for n in names)], gradients, strict=True)),
    }


def assert_engines_agree(encoder: ConvNeXtV2, batch: int, grid: int, ratio: float, dtype: torch.dtype) -> None:
    side = grid * encoder.config.patch_size
    images = torch.randn(batch, encoder.config.in_channels, side, side, dtype=dtype)
    mask = random_mask(batch, grid**2, ratio)
    oracle = results(encoder, "masked", images, mask)
    for name, tensor in results(encoder, "gathered", images, mask).items():
        assert_near(tensor, oracle[name], name, gradient=name.startswith("gradient"))


@pytest.mark.parametrize(
    ("size", "dtype"), [*((size, torch.float64) for size in SIZES_TO_BASE), ("base", torch.float32)]
)
def test_sparse_is_masked_dense_for_every_width(size: str, dtype: torch.dtype) -> None:
    """All depths, on the paper's grid: the slow test below."""
    assert_engines_agree(encoder_of(dtype, size=size, depths=(1, 1, 1, 1)), batch=1, grid=2, ratio=0.5, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("patch", "ratio", "batch", "over"),
    [
        (8, 0.0, 2, "sample"), (8, 0.3, 1, "batch"), (8, 0.6, 3, "sample"), (8, 0.9, 2, "sample"),
        (16, 0.6, 1, "sample"), (16, 0.9, 2, "batch"), (16, 0.0, 1, "sample"),
    ],
)  # fmt: skip
def test_sparse_is_masked_dense_for_every_ratio_and_patch(
    patch: int, ratio: float, batch: int, over: Any, dtype: torch.dtype
) -> None:
    narrow: dict[str, Any] = {"depths": (2, 1, 1, 1), "widths": (8, 8, 16, 16)}
    encoder = encoder_of(dtype, **narrow, patch_size=patch, image_size=4 * patch, grn=over)
    assert_engines_agree(encoder, batch, 4, ratio, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("size", SIZES_TO_BASE)
def test_sparse_is_masked_dense_on_the_papers_grid(size: str, patch: int, dtype: torch.dtype) -> None:
    encoder = encoder_of(dtype, size=size, patch_size=patch, image_size=7 * patch)
    for ratio in (0.0, 0.3, 0.6, 0.9):
        for batch in (1, 2) if size == "atto" else (1,):
            assert_engines_agree(encoder, batch, 7, ratio, dtype)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_features_of_positions_are_gathered_scattered_and_convolved(engine: str) -> None:
    """The same contract for every engine, and for images of which nothing is hidden."""
    mask = random_mask(2, 9, 0.6)
    exists = ~upsample_mask(mask, (3, 3), 4)[..., None]
    hidden = Hidden((3, 3), 8, (2, 2, 2, 2), mask)
    image = torch.randn(2, 12, 12, 5, dtype=torch.float64)
    layer = Convolution(5, 5, 7, padding=3, groups=5).double()
    for where, shown in ((ENGINES[engine](hidden), exists), (EVERYWHERE, torch.ones_like(exists))):
        x = where.gather(torch.where(shown, image, torch.nan))
        assert torch.equal(where.scatter(x), image * shown)
        assert torch.equal(where.scatter(where.mask(x + 1)), (image + 1) * shown)
        assert_near(where.scatter(where.convolve(layer, x)), layer(image * shown) * shown)


def test_recipes_name_the_engines() -> None:
    assert get_args(TrainRecipe.model_fields["engine"].annotation) == tuple(ENGINES)


def strip(side: int, channels: int = 3, batch: int = 2, grid: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An image in which half of the patches exist, its mask of positions, and the positions of the patches."""
    mask = random_mask(batch, grid**2, 0.5)
    order = mask.byte().argsort(dim=1, stable=True)[:, : grid**2 // 2]
    exists = ~upsample_mask(mask, (grid, grid), side)[..., None]
    image = torch.randn(batch, grid * side, grid * side, channels, dtype=torch.float64) * exists
    return image, exists, order // grid, order % grid


@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_a_depthwise_convolution_of_patches_is_that_of_the_image(side: int) -> None:
    image, exists, rows, columns = strip(side)
    image.requires_grad_()
    weight = torch.randn(3, 1, 7, 7, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    dense = functional.conv2d(image.permute(0, 3, 1, 2), weight, bias, padding=3, groups=3).permute(0, 2, 3, 1) * exists
    patches = depthwise(gather(image, rows, columns, (4, 4)), weight, bias, rows, columns, (4, 4))
    sparse = scatter(patches, rows, columns, (4, 4))
    assert_near(sparse, dense)
    upstream = torch.randn_like(dense)
    wanted = torch.autograd.grad(dense, (image, weight, bias), upstream)
    found = torch.autograd.grad(sparse, (image, weight, bias), upstream)
    assert_near(found[0], wanted[0] * exists, "input")
    assert_near(found[1], wanted[1], "weight")
    assert_near(found[2], wanted[2], "bias")


@pytest.mark.parametrize("side", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_the_gradient_of_a_kernel_is_its_definition(side: int, size: int) -> None:
    """Entry (i, j) sums image[y + i - r, x + j - r] times gradient[y, x], over positions that exist."""
    image, exists, rows, columns = strip(side, channels=2)
    gradient = torch.randn_like(image) * exists
    found = weight_gradient(image, gather(gradient, rows, columns, (4, 4)), rows, columns, (4, 4), size)
    reach = size // 2
    around = functional.pad(image, (0, 0, reach, reach, reach, reach))
    for i in range(size):
        for j in range(size):
            moved = around[:, i : i + image.shape[1], j : j + image.shape[2]]
            assert_near(found[:, 0, i, j], (moved * gradient).sum(dim=(0, 1, 2)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_the_full_precision_to_that_of_the_type(dtype: torch.dtype) -> None:
    """Eight bits of mantissa (bfloat16) or eleven; both engines run the same layers in it."""
    encoder = encoder_of(torch.float32)
    images, mask = torch.randn(2, 12, 24, 24), random_mask(2, 9, 0.6)
    exact = encoder(images, mask)
    for engine in ("masked", "gathered"):
        encoder.engine = ENGINES[engine]
        encoder.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            features = encoder(images, mask)
        features.float().square().mean().backward()
        apart = (features.float() - exact).abs().max() / exact.abs().max()
        assert 0 < float(apart.detach()) < 8 * torch.finfo(dtype).eps, engine
        assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


torchs_own = pytest.mark.filterwarnings(
    "ignore:<class 'torch.autograd.function.Function'> should not:DeprecationWarning"
)


@torchs_own
def test_where_the_number_of_visible_patches_is_known_it_compiles_as_one_graph() -> None:
    """And is the same; the code generator is left out, which needs a compiler and minutes."""
    torch._dynamo.reset()
    encoder = encoder_of(torch.float32, depths=(1, 1, 1, 1), widths=(8, 8, 16, 16))
    images, mask = torch.randn(2, 12, 24, 24), random_mask(2, 9, 0.6)
    visible = visible_patches(9, 0.6)
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    oracle, found = encoder(images, mask), compiled(images, mask, visible=visible)
    assert_near(found, oracle)
    upstream = torch.randn_like(oracle)
    parameters = list(encoder.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(found, parameters, upstream), torch.autograd.grad(oracle, parameters, upstream), strict=True
    ):
        assert_near(ours, theirs, gradient=True)


@pytest.mark.slow
@torchs_own
@pytest.mark.parametrize("engine", ["masked", "gathered"])
def test_what_torch_compile_makes_of_it_is_the_same(engine: Any) -> None:
    """Traced forward and backward; the code generator is left out, which needs a compiler and minutes."""
    torch._dynamo.reset()
    encoder = encoder_of(torch.float32, depths=(1, 1, 1, 1), widths=(8, 8, 16, 16))
    images, mask = torch.randn(2, 12, 24, 24), random_mask(2, 9, 0.6)
    oracle = results(encoder, engine, images, mask)
    encoder.forward_features = torch.compile(encoder.forward_features, backend="aot_eager")  # type: ignore[method-assign]
    for name, tensor in results(encoder, engine, images, mask).items():
        assert_near(tensor, oracle[name], name, gradient=name.startswith("gradient"))
