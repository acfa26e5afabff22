from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmearth_data import InputError
from mmearth_model.network import feature_maps
from mmearth_model.network.encoder import (
    GRN,
    SIZES,
    Block,
    Classifier,
    ConvNeXtV2,
    DropPath,
    EncoderConfig,
)
from mmearth_model.network.feature_maps import FeatureMaps
from mmearth_model.network.masking import random_mask, upsample_mask
from mmearth_model.network.positions import ENGINES
from tests.unit.model import submanifold

PUBLISHED_PARAMETERS = {
    # ConvNeXt V2 for 1,000 classes, arXiv 2301.00808 (3.7 M, 5.2 M, ...), exact as timm's tables count them.
    "atto": 3_708_400,
    "femto": 5_233_240,
    "pico": 9_066_280,
    "nano": 15_623_800,
    "tiny": 28_635_496,
    "base": 88_717_800,
    "large": 197_956_840,
    "huge": 660_289_640,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def tiny(engine: str = "auto", **changes: Any) -> ConvNeXtV2:
    """Small, in float64, all of its parameters away from 0."""
    config: dict[str, Any] = {
        "patch_size": 8, "image_size": 24, "in_channels": 3, "depths": (1, 1, 2, 1), "widths": (4, 6, 6, 8), **changes,
    }  # fmt: skip
    encoder = ConvNeXtV2(EncoderConfig(**config), ENGINES[engine]).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder.eval()


def images(encoder: ConvNeXtV2, batch: int = 2, rows: int = 3, columns: int = 3) -> tuple[Tensor, Tensor]:
    patch = encoder.config.patch_size
    x = torch.randn(batch, encoder.config.in_channels, rows * patch, columns * patch, dtype=torch.float64)
    return x, random_mask(batch, rows * columns, 0.5)


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts_are_the_published_ones(size: str) -> None:
    config = EncoderConfig(size=size, patch_size=32, image_size=224, in_channels=3, stem="original")
    with torch.device("meta"):
        model = Classifier(ConvNeXtV2(config), 1000)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED_PARAMETERS[size]


def test_shapes_are_those_of_the_released_weights(test_data: Path) -> None:
    released = json.loads((test_data / "checkpoints" / "released_keys_atto_56-8.json").read_text())["dense"]
    model = Classifier(ConvNeXtV2(EncoderConfig()), 1000)
    ours = sorted(tuple(p.shape) for p in model.parameters())
    theirs = [
        tuple(n for n in shape if n != 1 or len(shape) != 4 or "grn" not in name) for name, shape in released.items()
    ]
    kept = [shape for shape, name in zip(theirs, released, strict=True) if name.startswith("encoder.")]
    assert ours == sorted(kept)


@pytest.mark.parametrize("padding", ["same", "reference"])
@pytest.mark.parametrize(("size_px", "patch"), [(56, 8), (64, 8), (112, 16)])
def test_stages_halve_the_grid(padding: Any, size_px: int, patch: int) -> None:
    config = EncoderConfig(
        patch_size=patch, image_size=size_px, in_channels=2, padding=padding, depths=(1,) * 4, widths=(4, 4, 6, 8)
    )
    sides = [f.shape[-1] for f in ConvNeXtV2(config).forward_features(torch.zeros(1, 2, size_px, size_px))]
    # Unpadded: 56 -> 54 -> 27 -> 13 -> 6; at patch 16, 112 -> 110, padded by 1 and halved: 56 -> 28 -> 14 -> 7.
    first = size_px * 8 // patch if padding == "same" or patch == 16 else size_px - 2
    assert sides == [first >> stage for stage in range(4)]


def test_reference_padding_is_the_interior_of_the_padded_convolution() -> None:
    same = tiny()
    reference = tiny(padding="reference")
    reference.load_state_dict(same.state_dict())
    x = torch.randn(1, 16, 16, 3, dtype=torch.float64)
    torch.testing.assert_close(reference.stem(x), same.stem(x)[:, 1:-1, 1:-1])


@pytest.mark.parametrize("over", ["sample", "batch"])
@pytest.mark.parametrize(("patch", "stem"), [(8, "modified"), (16, "modified"), (8, "original"), (16, "original")])
def test_masked_features_are_those_of_a_sparse_network(patch: int, stem: Any, over: Any) -> None:
    encoder = tiny(patch_size=patch, image_size=patch * 3, stem=stem, grn=over, grn_eps=0.01)
    rows = 16 // patch
    x, mask = images(encoder, rows=rows)
    pixels = torch.rand(x.shape[0], *x.shape[2:]) < 0.7
    pixels[1, :patch, :patch] = False
    for engines, exists in ((("masked", "gathered"), None), (("auto",), pixels)):
        there = ~upsample_mask(mask, (rows, 3), patch)
        there = there if exists is None else there & exists
        slow = submanifold.encode(encoder, x.numpy(), there.numpy())
        for engine in engines:
            encoder.engine = ENGINES[engine]
            for stage, fast in zip(slow, encoder.forward_features(x, mask, exists), strict=True):
                expected = np.zeros(tuple(fast.shape))
                for sample, values in enumerate(stage):
                    for (row, column), value in values.items():
                        expected[sample, :, row, column] = value
                np.testing.assert_allclose(fast.detach().numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("engine", ["masked", "gathered"])
def test_hidden_pixels_change_no_output_bit(engine: Any) -> None:
    encoder = tiny(engine).float()
    x, mask = images(encoder)
    x = x.float()
    hidden = upsample_mask(mask, (3, 3), 8)[:, None].expand_as(x)
    expected = encoder.forward_features(x, mask)
    for other in (torch.randn_like(x), torch.full_like(x, 1e30), torch.full_like(x, float("nan"))):
        changed = encoder.forward_features(torch.where(hidden, other, x), mask)
        assert all(torch.equal(a, b) for a, b in zip(changed, expected, strict=True))
    x.requires_grad_()
    encoder(x, mask).square().sum().backward()
    assert x.grad is not None
    assert not x.grad[hidden].any()
    assert (x.grad[~hidden] != 0).double().mean() > 0.99


@pytest.mark.parametrize("engine", ["masked", "gathered"])
def test_nothing_hidden_is_the_dense_network(engine: Any) -> None:
    encoder = tiny(engine)
    x, mask = images(encoder)
    nothing = torch.zeros_like(mask)
    for dense, masked in zip(encoder.forward_features(x), encoder.forward_features(x, nothing), strict=True):
        torch.testing.assert_close(masked, dense)


def test_a_sample_of_which_nothing_exists_gives_zeros_and_finite_gradients() -> None:
    encoder = tiny()
    x, mask = images(encoder)
    pixels = torch.ones(2, 24, 24, dtype=torch.bool)
    pixels[0] = False
    features = encoder(x, mask, pixels)
    features.square().sum().backward()
    assert not features[0].any()
    assert features[1].any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("engine", ["masked", "gathered"])
def test_gradients_are_those_of_finite_differences(engine: Any) -> None:
    encoder = tiny(engine, depths=(1, 1, 1, 1), widths=(2, 2, 2, 2), image_size=16)
    x, mask = images(encoder, batch=1, rows=2, columns=2)
    names = [name for name, _ in encoder.named_parameters()]

    def output(*parameters: Tensor) -> Tensor:
        values = dict(zip(names, parameters, strict=True))
        features: Tensor = torch.func.functional_call(encoder, values, (x, mask))
        return features

    assert torch.autograd.gradcheck(output, tuple(encoder.parameters()), fast_mode=True)


@pytest.mark.parametrize("over", ["sample", "batch"])
@pytest.mark.parametrize(("patch", "ratio", "batch"), [(8, 0.0, 2), (8, 0.6, 3), (16, 0.6, 1), (8, 0.9, 2)])
def test_engines_agree(patch: int, ratio: float, batch: int, over: Any) -> None:
    encoder = tiny(patch_size=patch, image_size=5 * patch, grn=over)
    x = torch.randn(batch, 3, 5 * patch, 5 * patch, dtype=torch.float64)
    mask = random_mask(batch, 25, ratio)
    results: dict[Any, tuple[Tensor, ...]] = {}
    for engine in ("masked", "gathered"):
        encoder.engine = ENGINES[engine]
        inputs = x.clone().requires_grad_()
        maps = encoder.forward_features(inputs, mask)
        loss = torch.stack([feature.square().mean() for feature in maps]).sum()
        gradients = torch.autograd.grad(loss, (inputs, *encoder.parameters()))
        results[engine] = (*maps, *gradients)
    for one, other in zip(results["masked"], results["gathered"], strict=True):
        assert float((one - other).abs().max().detach()) <= 1e-10 * float(one.abs().max().detach())


def test_missing_pixels_under_hidden_patches_change_no_output_bit() -> None:
    encoder = tiny().float()
    x, mask = images(encoder)
    hidden = upsample_mask(mask, (3, 3), 8)
    expected = encoder(x.float(), mask)
    assert torch.equal(encoder(x.float(), mask, ~hidden), expected)
    assert torch.equal(encoder(x.float(), mask, torch.ones_like(hidden)), expected)


def test_what_cannot_be_gathered_is_masked() -> None:
    encoder = tiny()
    x, mask = images(encoder)
    uneven = mask.clone()
    uneven[0] = True
    uneven[0, 3] = False
    expected = tiny("masked")
    expected.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder(x, uneven), expected(x, uneven))
    everything_hidden = torch.ones_like(mask)
    assert not encoder(x, everything_hidden).any()
    encoder.engine = ENGINES["gathered"]
    with pytest.raises(InputError, match="equally many visible patches"):
        encoder(x, uneven)
    with pytest.raises(InputError, match="no missing pixels"):
        encoder(x, mask, torch.zeros_like(x[:, 0], dtype=torch.bool))


def test_grn_is_its_definition() -> None:
    grn = GRN(5, eps=0.1).double()
    with torch.no_grad():
        grn.gamma.normal_()
        grn.beta.normal_()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    for sample in range(2):
        norms = [sum(float(v) ** 2 for v in x[sample, :, :, c].flatten()) ** 0.5 for c in range(5)]
        for c in range(5):
            response = norms[c] / (sum(norms) / 5 + 0.1)
            expected = grn.gamma[c] * (x[sample, :, :, c] * response) + grn.beta[c] + x[sample, :, :, c]
            torch.testing.assert_close(grn(x)[sample, :, :, c], expected)


def test_a_batch_of_one_is_normalised_as_a_sample() -> None:
    over_sample, over_batch = tiny(grn="sample"), tiny(grn="batch")
    over_batch.load_state_dict(over_sample.state_dict())
    x, mask = images(over_sample)
    torch.testing.assert_close(over_batch(x[:1], mask[:1]), over_sample(x[:1], mask[:1]))
    assert not torch.allclose(over_batch(x, mask), over_sample(x, mask))
    torch.testing.assert_close(over_batch(x), over_sample(x))


def test_drop_path_drops_samples_and_keeps_the_mean() -> None:
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 2, 3)
    out = drop(x)
    per_sample = out.flatten(1)
    assert torch.equal(per_sample.amax(dim=1), per_sample.amin(dim=1))
    assert sorted(set(per_sample[:, 0].tolist())) == pytest.approx([0, 1 / 0.75])
    assert float(out.mean()) == pytest.approx(1, abs=0.05)
    assert drop.eval()(x) is x


def test_drop_path_grows_linearly_to_the_last_block() -> None:
    encoder = ConvNeXtV2(EncoderConfig(drop_path=0.11))
    rates = [module.drop_path.rate for module in encoder.modules() if isinstance(module, Block)]
    assert rates == pytest.approx([0.11 * k / 11 for k in range(12)])


def test_weights_start_from_a_cut_normal_distribution() -> None:
    for name, parameter in Classifier(ConvNeXtV2(EncoderConfig()), 10).state_dict().items():
        if name.endswith("bias") or "grn" in name:
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert float(parameter.abs().max()) <= 0.04, name
            # A standard normal cut at 2 has the standard deviation 0.8796.
            if parameter.numel() > 1000:
                assert float(parameter.std()) == pytest.approx(0.02 * 0.8796, rel=0.1), name


def test_features_are_channels_last() -> None:
    for feature in tiny().float().forward_features(torch.randn(2, 3, 24, 24)):
        assert feature.is_contiguous(memory_format=torch.channels_last)


def test_depthwise_layers_are_depthwise() -> None:
    encoder = ConvNeXtV2(EncoderConfig())
    grouped = [m.groups for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert grouped == [40] + [40] * 2 + [80] * 2 + [160] * 6 + [320] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": "giant"}, "encoder size of atto, femto"),
        ({"patch_size": 12}, "multiple of 8 px, got 12"),
        ({"patch_size": 0}, "multiple of 8 px, got 0"),
        ({"image_size": 60}, "multiple of the 8 px patch, got 60"),
        ({"stem": "tall"}, "stem modified or original"),
        ({"padding": "valid"}, "padding same or reference"),
        ({"grn": "layer"}, "grn sample or batch"),
        ({"depths": (2, 2)}, "four stages"),
        ({"in_channels": 0}, "at least one band"),
    ],
)
def test_shapes_that_cannot_be_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        EncoderConfig(**change)


@pytest.mark.parametrize(
    ("x", "mask", "said"),
    [
        (torch.zeros(2, 4, 24, 24), None, "images with 3 bands"),
        (torch.zeros(2, 3, 24, 20), None, "multiples of 8 px"),
        (torch.zeros(2, 3, 24, 24), torch.zeros(2, 8, dtype=torch.bool), r"shape \(2, 9\)"),
        (torch.zeros(2, 3, 24, 24), torch.zeros(2, 9), "boolean mask"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x: Tensor, mask: Tensor | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        tiny().float()(x, mask)


@pytest.mark.parametrize(
    ("visible", "said"), [(0, "between 1 and 9"), (10, "between 1 and 9"), (4, "leaves 4 .* got 3")]
)
def test_a_wrong_number_of_visible_patches_is_refused(visible: int, said: str) -> None:
    encoder, images, mask = tiny(), torch.randn(2, 3, 24, 24).double(), random_mask(2, 9, 0.6)
    with pytest.raises(InputError, match=said):
        encoder(images, mask, visible=visible)
    assert torch.equal(encoder(images, mask, visible=3), encoder(images, mask))


def test_the_released_padding_takes_no_mask() -> None:
    with pytest.raises(InputError, match="takes no mask"):
        tiny(padding="reference")(torch.zeros(1, 3, 24, 24).double(), torch.zeros(1, 9, dtype=torch.bool))


# ---------------------------------------------------------------- feature maps for decoders


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ({"patch_size": 8}, (1, 2, 4, 8)),
        ({"patch_size": 16, "image_size": 48}, (2, 4, 8, 16)),
        ({"patch_size": 32, "image_size": 64, "stem": "original"}, (4, 8, 16, 32)),
        ({"patch_size": 32, "image_size": 64, "stem": "halved"}, (4, 8, 16, 32)),
        ({"patch_size": 64, "image_size": 64, "stem": "original", "max_stride": 32}, (8, 16, 32, 32)),
        ({"patch_size": 96, "image_size": 96, "stem": "original", "max_stride": 32}, (12, 24, 48, 48)),
    ],
)
def test_it_says_what_its_maps_are(shape: dict[str, Any], strides: tuple[int, ...]) -> None:
    """Channels and strides, directly and in timm's format, match the returned maps."""
    network = tiny(**shape)
    info = network.feature_info
    assert (network.strides, network.channels) == (strides, (4, 6, 6, 8))
    assert info.reduction() == list(strides)
    assert info.channels(idx=[0, -1]) == [4, 8]
    assert info[1] == {"num_chs": 6, "reduction": strides[1], "module": "stages.1", "index": 1}
    assert info.get_dicts(["num_chs"], idx=2) == {"num_chs": 6}
    assert [dict(network.named_modules())[name] for name in info.module_name()] == list(network.stages)
    side = 2 * strides[-1]
    x = torch.randn(1, 3, side, side, dtype=torch.float64)
    maps = FeatureMaps(network, image=True)(x)
    assert [m.shape for m in maps[1:]] == [(1, c, side // s, side // s) for c, s in zip(info.channels(), strides, strict=True)]  # fmt: skip
    assert FeatureMaps(network, image=True).out_channels == (3, 4, 6, 6, 8)
    assert torch.equal(maps[-1], network(x))


def test_the_examples_run() -> None:
    found = doctest.testmod(feature_maps, optionflags=doctest.ELLIPSIS)
    assert found.attempted >= 6
    assert not found.failed
