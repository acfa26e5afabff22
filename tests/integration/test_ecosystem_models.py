"""Third-party model libraries with our encoders: timm, segmentation_models_pytorch, torchvision.

They have many dependencies that nothing else needs, so ``make prove-ecosystem`` runs this file in a separate
environment.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmearth_model import ConvNeXtV2, EncoderConfig, convert, load_encoder
from mmearth_model.network.feature_maps import FeatureMaps
from mmearth_model.weights.checkpoints import ENCODER_ONLY, write_checkpoint

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore:.*weights_only.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:timm.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:timm.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:huggingface_hub.*"),
]


@pytest.fixture(scope="module")
def timm() -> Any:
    return importlib.import_module("timm")


@pytest.fixture(scope="module")
def smp() -> Any:
    return importlib.import_module("segmentation_models_pytorch")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def drawn(network: Any) -> Any:
    """Give every parameter its own random numbers, GRN's too."""
    with torch.no_grad():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def checkpoint(folder: Path, **shape: Any) -> Path:
    """A checkpoint with only an encoder, all of whose parameters are random."""
    encoder = drawn(ConvNeXtV2(EncoderConfig(**shape)))
    config = {"architecture": ENCODER_ONLY, "model": {"encoder": {**shape}}, "loss": {}, "normaliser": None, "recipe": {}, "store": {"path": ""}, "progress": {}}  # fmt: skip
    folder.mkdir()
    write_checkpoint(folder, {"model.encoder": encoder}, config)
    return folder


# ---------------------------------------------------------------- timm


@pytest.mark.parametrize(("size", "patch", "kernel"), [("atto", 8, 1), ("atto", 32, 4), ("tiny", 32, 4)])
def test_timms_own_network_takes_every_tensor_that_is_written_for_it(
    timm: Any, size: str, patch: int, kernel: int, tmp_path: Path
) -> None:
    mine = checkpoint(
        tmp_path / "mine", size=size, patch_size=patch, image_size=7 * patch, in_channels=12, stem="original"
    )
    file = convert(mine, tmp_path / "theirs.safetensors", to="timm")
    network = timm.create_model(
        f"convnextv2_{size}", in_chans=12, patch_size=kernel, num_classes=0, checkpoint_path=str(file)
    )
    images = torch.randn(2, 12, 64, 64)
    ours = load_encoder(mine)
    with torch.no_grad():
        assert apart(network.eval().forward_features(images), ours(images)) < 1e-5
        maps = network.forward_intermediates(images, intermediates_only=True)
        expected = ours.forward_features(images)
    assert max(apart(one, other) for one, other in zip(maps, expected, strict=True)) < 1e-5


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timms_networks_of_every_stem_come_in(timm: Any, kernel: int, suffix: str, tmp_path: Path) -> None:
    """Including stems of 2 px, after which timm halves again, and 8 and 16 px, after which it dilates convolutions."""
    from safetensors.torch import save_file

    network = drawn(timm.create_model("convnextv2_atto", in_chans=4, patch_size=kernel, num_classes=5))
    file = tmp_path / f"timm{suffix}"
    if suffix == ".pth":
        torch.save(network.state_dict(), file)
    else:
        save_file(network.state_dict(), file)
    encoder = load_encoder(file)
    side = 4 * encoder.strides[-1]
    images = torch.randn(1, 4, side, side)
    with torch.no_grad():
        assert apart(encoder(images), network.forward_features(images)) < 1e-5
    assert [info["reduction"] for info in network.feature_info] == list(encoder.strides)
    again = load_encoder(convert(file, tmp_path / "mine"))
    assert torch.equal(again(images), encoder(images))
    back = convert(tmp_path / "mine", tmp_path / "back.safetensors", to="timm")
    network.load_state_dict({**network.state_dict(), **load_file(back)}, strict=True)


def load_file(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file as load

    tensors: dict[str, Tensor] = load(file)
    return tensors


@pytest.mark.parametrize("patch", [8, 16, 32])
def test_what_maps_are_is_said_in_timms_form(timm: Any, patch: int) -> None:
    """The accessors equal those of timm's own class, which accepts it unchanged, and describe the actual maps."""
    encoder = ConvNeXtV2(EncoderConfig(patch_size=patch, image_size=7 * patch))
    info = encoder.feature_info
    theirs = timm.models._features.FeatureInfo([dict(entry) for entry in info], out_indices=(0, 1, 2, 3))
    for accessor in ("channels", "reduction", "module_name", "get_dicts"):
        assert getattr(info, accessor)() == getattr(theirs, accessor)()
        for idx in (2, -1, [1, 3]):
            assert getattr(info, accessor)(idx=idx) == getattr(theirs, accessor)(idx=idx)
    assert info.get_dicts(["num_chs"]) == theirs.get_dicts(["num_chs"])
    assert (info.out_indices, info[3]) == (theirs.out_indices, theirs[3])
    own = timm.create_model("convnextv2_atto", features_only=True)
    assert own.feature_info.channels() == info.channels()
    assert {key for entry in own.feature_info.get_dicts() for key in entry} == {key for entry in info for key in entry}
    side = 2 * patch
    for found, width, stride in zip(FeatureMaps(encoder)(torch.zeros(1, 12, side, side)), info.channels(), info.reduction(), strict=True):  # fmt: skip
        assert found.shape == (1, width, side // stride, side // stride)


# ---------------------------------------------------------------- decoders


def learns(model: nn.Module, images: Tensor, wanted: Tensor) -> bool:
    """Whether gradients reach every parameter of the encoder and a few steps reduce the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), wanted)
        loss.backward()
        losses.append(float(loss.detach()))
        reached = all(p.grad is not None for name, p in model.named_parameters() if "encoder" in name)
        optimizer.step()
    return reached and losses[-1] < losses[0]


class Segmenter(nn.Module):
    """Encoder, third-party decoder, and a convolution."""

    def __init__(self, backbone: FeatureMaps, decoder: nn.Module, width: int, grow: int) -> None:
        super().__init__()
        self.encoder, self.decoder = backbone, decoder
        self.head = nn.Sequential(nn.Conv2d(width, 3, 1), nn.Upsample(scale_factor=grow))

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.head(self.decoder(self.encoder(images)))
        return answer


@pytest.mark.parametrize("patch", [8, 16])
def test_a_unet_of_segmentation_models_plugs_in(smp: Any, patch: int, tmp_path: Path) -> None:
    encoder = load_encoder(checkpoint(tmp_path / "mine", size="atto", patch_size=patch, image_size=7 * patch))
    backbone = FeatureMaps(encoder, image=True)
    decoder = smp.decoders.unet.decoder.UnetDecoder(
        backbone.out_channels, decoder_channels=(64, 48, 32, 16), n_blocks=4
    )
    model = Segmenter(backbone, decoder, 16, grow=1)
    images = torch.randn(2, 12, 64, 64)
    assert model(images).shape == (2, 3, 64, 64)
    assert learns(model, images, (images[:, 0] > 0).long())


def test_its_whole_model_runs_on_our_encoder(smp: Any, tmp_path: Path) -> None:
    """The library's own Unet with its encoder and the decoder's widths replaced."""
    encoder = load_encoder(checkpoint(tmp_path / "mine", size="atto", patch_size=16, image_size=112))
    model = smp.Unet("resnet18", encoder_weights=None, encoder_depth=4, decoder_channels=(64, 48, 32, 16), classes=3)
    model.encoder = FeatureMaps(encoder, image=True)
    model.decoder = smp.decoders.unet.decoder.UnetDecoder(
        model.encoder.out_channels, decoder_channels=(64, 48, 32, 16), n_blocks=4
    )
    assert model.eval()(torch.randn(1, 12, 96, 96)).shape == (1, 3, 96, 96)


def test_its_fpn_plugs_in(smp: Any, tmp_path: Path) -> None:
    encoder = load_encoder(checkpoint(tmp_path / "mine", size="atto", patch_size=32, image_size=224))
    decoder = smp.decoders.fpn.decoder.FPNDecoder(
        list(encoder.channels), encoder_depth=4, pyramid_channels=32, dropout=0
    )
    model = Segmenter(FeatureMaps(encoder), decoder, decoder.out_channels, grow=encoder.strides[0])
    images = torch.randn(2, 12, 64, 64)
    assert model(images).shape == (2, 3, 64, 64)
    assert learns(model, images, (images[:, 0] > 0).long())


def test_a_torchvision_made_for_another_pytorch_is_one_line() -> None:
    """Without the operators that the tests declare, it fails to load, and with it torchmetrics, which imports it."""
    program = "import sys; from mmearth_model.cli import cli; cli(sys.argv[1:])"
    command = [sys.executable, "-W", "ignore", "-c", program, "evaluate", "run", "--task", "store:biome"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: expected the library torchvision to load, got: operator torchvision::nms")
    assert done.stderr.count("\n") == 1


def test_a_feature_pyramid_of_torchvision_plugs_in(tmp_path: Path) -> None:
    pyramids = importlib.import_module("torchvision.ops.feature_pyramid_network")
    encoder = load_encoder(checkpoint(tmp_path / "mine", size="atto", patch_size=8, image_size=56))
    pyramid = pyramids.FeaturePyramidNetwork(encoder.feature_info.channels(), 32)
    maps = FeatureMaps(encoder)(torch.randn(1, 12, 64, 64))
    found = pyramid(dict(zip(encoder.feature_info.module_name(), maps, strict=True)))
    assert [m.shape for m in found.values()] == [(1, 32, 64 // s, 64 // s) for s in encoder.strides]
