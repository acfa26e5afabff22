"""Foreign weights: the released format against its published names and shapes, and what is refused."""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from toy_store import write_store

from mmearth_data import FileInputError, InputError
from mmearth_model import convert, load_checkpoint, load_encoder
from mmearth_model.network.encoder import SIZES, Classifier, ConvNeXtV2, EncoderConfig
from mmearth_model.network.masking import random_mask
from mmearth_model.network.mpmae import REFERENCE_TASK_ORDER
from mmearth_model.weights.checkpoints import loss_of
from mmearth_model.weights.conversion import import_weights
from mmearth_model.weights.downloading import DownloadFailed
from mmearth_model.weights.exporting import to_timm
from mmearth_model.weights.released import Released, fetch, find_released, released_checkpoints


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def shapes(test_data: Path) -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the released tensors, sparse and dense."""
    content: dict[str, Any] = json.loads((test_data / "checkpoints" / "released_keys_atto_56-8.json").read_text())
    return {style: content[style] for style in ("sparse", "dense")}


def synthesise(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """A state dict as released: decoders are one object under twelve names."""
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        first = f"decoder_dict.{REFERENCE_TASK_ORDER[0]}.{'.'.join(name.split('.')[2:])}"
        shared = name.startswith("decoder_dict.") and first in tensors
        tensors[name] = tensors[first] if shared else 0.1 * torch.randn(shape)
    return tensors


def write_released(file: Path, tensors: dict[str, Tensor]) -> Path:
    options = argparse.Namespace(
        model="convnextv2_atto", input_size=56, patch_size=8, mask_ratio=0.6, out_chans={"a": 1}
    )
    torch.save({"model": tensors, "optimizer": {"state": {}}, "epoch": 199, "args": options}, file)
    return file


@pytest.fixture(scope="module")
def sparse(shapes: dict[str, dict[str, list[int]]]) -> dict[str, Tensor]:
    return synthesise(shapes["sparse"])


@pytest.fixture(scope="module")
def released(sparse: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_released(tmp_path_factory.mktemp("released") / "checkpoint-199.pth", sparse)


def kernel(tensors: dict[str, Tensor], name: str) -> Tensor:
    """A sparse kernel as its engine orders it: offset k = column * side + row."""
    weight = tensors[f"{name}.kernel"]
    side = round(len(weight) ** 0.5)
    depthwise = weight.ndim == 2
    out = torch.empty(weight.shape[-1], 1 if depthwise else weight.shape[1], side, side)
    for offset in range(len(weight)):
        column, row = divmod(offset, side)
        out[:, :, row, column] = weight[offset][:, None] if depthwise else weight[offset].T
    return out


def features_by_hand(t: dict[str, Tensor], images: Tensor) -> Tensor:
    """The released encoder, nothing hidden, straight from its tensors."""

    def norm(x: Tensor, name: str) -> Tensor:
        last = x.permute(0, 2, 3, 1)
        weight, bias = t[f"{name}.ln.weight"], t[f"{name}.ln.bias"]
        return functional.layer_norm(last, weight.shape, weight, bias, 1e-6).permute(0, 3, 1, 2)

    def conv(x: Tensor, name: str, **options: Any) -> Tensor:
        weight = kernel(t, name)
        groups = len(weight) if weight.shape[1] == 1 else 1
        return functional.conv2d(x, weight, t[f"{name}.bias"][0], groups=groups, **options)

    x = functional.gelu(norm(conv(images, "encoder.initial_conv.0", padding=1), "encoder.initial_conv.1"))
    x = norm(conv(x, "encoder.stem.0"), "encoder.stem.1")
    for stage, depth in enumerate(SIZES["atto"][0]):
        if stage:
            x = norm(x, f"encoder.downsample_layers.{stage - 1}.0")
            x = conv(x, f"encoder.downsample_layers.{stage - 1}.1", stride=2)
        for number in range(depth):
            b = f"encoder.stages.{stage}.{number}"
            y = norm(conv(x, f"{b}.dwconv", padding=3), f"{b}.norm").permute(0, 2, 3, 1)
            y = functional.gelu(y @ t[f"{b}.pwconv1.linear.weight"].T + t[f"{b}.pwconv1.linear.bias"])
            length = y.square().sum(dim=(1, 2), keepdim=True).sqrt()
            scaled = y * length / (length.mean(-1, keepdim=True) + 1e-6)
            y = t[f"{b}.grn.gamma"] * scaled + t[f"{b}.grn.beta"] + y
            y = y @ t[f"{b}.pwconv2.linear.weight"].T + t[f"{b}.pwconv2.linear.bias"]
            x = x + y.permute(0, 3, 1, 2)
    return x


def test_a_released_checkpoint_computes_what_its_numbers_say(sparse: dict[str, Tensor], released: Path) -> None:
    images = torch.randn(2, 12, 56, 56)
    encoder = load_encoder(released)
    expected = features_by_hand(sparse, images)
    with torch.no_grad():
        apart = (encoder(images) - expected).abs().max() / expected.abs().max()
    assert float(apart) < 1e-5


def test_the_two_styles_of_one_network_are_one_network(
    shapes: dict[str, dict[str, list[int]]], sparse: dict[str, Tensor], released: Path, tmp_path: Path
) -> None:
    convert(released, tmp_path / "dense.pth", to="dense")
    dense = torch.load(tmp_path / "dense.pth", weights_only=False)["model"]
    assert {name: list(tensor.shape) for name, tensor in dense.items()} == shapes["dense"]
    assert torch.equal(dense["encoder.stages.0.0.dwconv.weight"], kernel(sparse, "encoder.stages.0.0.dwconv"))
    one, other = (import_weights(file) for file in (released, tmp_path / "dense.pth"))
    assert (one.style, other.style) == ("sparse", "dense")
    assert one.model == other.model
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_it_comes_in_whole_and_goes_out_as_it_came(sparse: dict[str, Tensor], released: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(convert(released, tmp_path / "mine"))
    model = checkpoint.model()
    assert [task.name for task in model.config.tasks] == list(REFERENCE_TASK_ORDER)
    assert (model.config.encoder.size, model.config.encoder.patch_size, model.config.decoder) == ("atto", 8, "shared")
    assert torch.equal(loss_of(checkpoint).log_vars, sparse["loss_fn.log_vars"])
    assert torch.equal(model.mask_token.flatten(), sparse["mask_token"].flatten())
    assert checkpoint.config["origin"]["style"] == "sparse"
    assert checkpoint.config["recipe"]["mask_ratio"] == 0.6
    predictions = model(torch.randn(1, 12, 56, 56), random_mask(1, 49, 0.6))
    assert all(p.isfinite().all() for p in predictions.values())

    back = convert(tmp_path / "mine", tmp_path / "back.pth", to="sparse")
    content = torch.load(back, weights_only=False)
    assert isinstance(content["args"], argparse.Namespace)
    assert content["model"].keys() == sparse.keys()
    for name, tensor in sparse.items():
        assert content["model"][name].shape == tensor.shape, name
        assert torch.equal(content["model"][name], tensor), name


def test_weights_of_three_bands_see_these_bands_of_a_stores_tiles(
    sparse: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The released networks for blue, green and red, under a released name and as a file."""
    tensors, patch = dict(sparse), 8
    tensors["encoder.initial_conv.0.kernel"] = tensors["encoder.initial_conv.0.kernel"][:, :3]
    for part in ("weight", "bias"):  # patch^2 pixels, each of all bands
        name = f"pred_dict.sentinel2.{part}"
        tensors[name] = tensors[name].unflatten(0, (patch**2, 12))[:, :3].flatten(0, 1)
    monkeypatch.setenv("MMEARTH_CACHE", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    name = "mmearth64-atto-rgb-uncertainty"
    file = write_released(tmp_path / "checkpoints" / f"{name}.pth", tensors)
    store = write_store(tmp_path / "toy.zarr", 16, names=REFERENCE_TASK_ORDER, size_px=64)
    seen = ["B2", "B3", "B4"]

    by_file = load_checkpoint(convert(file, tmp_path / "by-file", store=store, bands={"sentinel2": seen}))
    by_name = load_checkpoint(convert(name, tmp_path / "by-name", store=store))
    (raw,) = store.loader(modalities=["sentinel2"], batch_size=16, shuffle=False)
    (values,) = store.loader(modalities=["sentinel2"], batch_size=16, shuffle=False, normalise=True)
    bands = store.modalities["sentinel2"].bands
    images = torch.from_numpy(values["sentinel2"][:, [bands.index(band) for band in seen]]).nan_to_num()
    for checkpoint in (by_file, by_name):
        assert torch.allclose(checkpoint.normaliser.images(raw), images, atol=1e-5)
        assert torch.equal(checkpoint.encoder()(images[:2]), load_encoder(file)(images[:2]))

    with pytest.raises(InputError, match=r"expected inputs of 3 bands, as the weights take, got 12 .* --bands"):
        convert(file, tmp_path / "no", store=store)
    with pytest.raises(InputError, match=r"--bands: expected a modality of .*, got landsat8"):
        convert(file, tmp_path / "no", store=store, bands={"landsat8": seen})
    with pytest.raises(InputError, match="--bands: expected different bands"):
        convert(file, tmp_path / "no", store=store, bands={"sentinel2": ["B2", "B2", "B4"]})
    with pytest.raises(InputError, match="--bands: expected a store"):
        convert(file, tmp_path / "no", bands={"sentinel2": seen})
    assert not (tmp_path / "no").exists()


def test_decoders_that_differ_stay_apart(sparse: dict[str, Tensor], tmp_path: Path) -> None:
    name = "decoder_dict.era5.0.pwconv1.bias"
    other = {**sparse, name: sparse[name] + 1}
    found = import_weights(write_released(tmp_path / "c.pth", other))
    assert found.model is not None
    assert found.model.decoder == "per-task"
    assert torch.equal(found.tensors["model.decoders.era5.0.pwconv1.bias"], other[name])


@pytest.mark.parametrize("size", ["atto", "tiny"])
def test_plain_weights_come_in_and_go_out_under_timms_names(size: str, tmp_path: Path) -> None:
    config = EncoderConfig(size=size, patch_size=32, image_size=224, in_channels=3, stem="original")
    network = ConvNeXtV2(config)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    named = {f"model.encoder.{name}": tensor for name, tensor in network.state_dict().items()}
    theirs = to_timm(named, config)
    linear = (
        (160, 40, 1, 1) if size == "atto" else (384, 96)
    )  # timm: 1 x 1 convolutions up to nano, linear from tiny on
    assert tuple(theirs["stages.0.blocks.0.mlp.fc1.weight"].shape) == linear
    assert {n for n in theirs if n.startswith(("stem", "stages.1.downsample", "stages.0.blocks.0."))} == {
        "stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias",
        "stages.1.downsample.0.weight", "stages.1.downsample.0.bias",
        "stages.1.downsample.1.weight", "stages.1.downsample.1.bias",
        *(f"stages.0.blocks.0.{layer}.{kind}" for layer in ("conv_dw", "norm", "mlp.fc1", "mlp.grn", "mlp.fc2")
          for kind in ("weight", "bias")),
    }  # fmt: skip
    classifier = {"head.norm.weight": torch.ones(4), "head.fc.weight": torch.ones(10, 4)}
    save_file({**{n: t.contiguous() for n, t in theirs.items()}, **classifier}, tmp_path / "plain.safetensors")
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(load_encoder(tmp_path / "plain.safetensors")(images), network.eval()(images))

    folder = convert(tmp_path / "plain.safetensors", tmp_path / "mine")
    assert torch.equal(load_encoder(folder)(images), network(images))
    again = load_file(convert(folder, tmp_path / "again.safetensors", to="timm"))
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[name], theirs[name]) for name in theirs)
    with pytest.raises(FileInputError, match="expected a complete MP-MAE, got an encoder alone"):
        load_checkpoint(folder).model()
    with pytest.raises(FileInputError, match="--store STORE"):
        _ = load_checkpoint(folder).normaliser


def test_an_encoder_serves_other_peoples_code(released: Path) -> None:
    """Feature maps at strides 1, 2, 4 and 8, or a classifier with the released padding, into plain PyTorch."""
    encoder = load_encoder(released)
    maps = encoder.forward_features(torch.randn(1, 12, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(40, 64, 64), (80, 32, 32), (160, 16, 16), (320, 8, 8)]
    paper = load_encoder(released, padding="reference", grn_eps=1e-4)
    assert (paper.config.padding, paper.config.grn_eps) == ("reference", 1e-4)
    assert [m.shape[-1] for m in paper.forward_features(torch.randn(1, 12, 56, 56))] == [54, 27, 13, 6]
    assert Classifier(paper, 5)(torch.randn(2, 12, 56, 56)).shape == (2, 5)


# ---------------------------------------------------------------- what is refused


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("wrap", ["zip", "bare", "in the options"])
def test_a_malicious_pickle_is_refused_and_nothing_of_it_executed(tmp_path: Path, wrap: str) -> None:
    file, mark = tmp_path / "evil.pth", tmp_path / "exploded"
    if wrap == "bare":
        file.write_bytes(pickle.dumps({"model": Bomb(mark)}))
    else:
        content = {"model": Bomb(mark)} if wrap == "zip" else {"model": {}, "args": argparse.Namespace(a=Bomb(mark))}
        torch.save(content, file)
    for read in (load_encoder, lambda path: convert(path, tmp_path / "out")):
        with pytest.raises(FileInputError, match="nothing in it was executed") as error:
            read(file)
        assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_no_numbers_are_refused_wherever_they_are_read(
    sparse: dict[str, Tensor], tmp_path: Path, value: float, suffix: str
) -> None:
    """Those of a training that diverged; also in a checkpoint of ours, converted or loaded."""
    weights = {name: tensor.clone() for name, tensor in sparse.items()}
    convert(write_released(tmp_path / "good.pth", weights), tmp_path / "ours")
    weights["encoder.stages.2.0.pwconv1.linear.bias"][3] = value
    file = tmp_path / f"bad{suffix}"
    write_released(file, weights) if suffix == ".pth" else save_file(weights, file)
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    ours["model.encoder.stages.2.0.pwconv1.bias"][3] = value
    save_file(ours, tmp_path / "ours" / "model.safetensors")
    expected = (
        r"expected finite numbers as weights, got others in model\.encoder\.stages\.2\.0\.pwconv1\.bias \(1 of 640\)"
    )
    for source in (file, tmp_path / "ours"):
        for read in (load_encoder, lambda path: convert(path, tmp_path / "out")):
            with pytest.raises(FileInputError, match=expected) as error:
                read(source)
            assert "\n" not in str(error.value)
    with pytest.raises(FileInputError, match=expected):
        load_checkpoint(tmp_path / "ours").model()
    assert not (tmp_path / "out").exists()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def another_architecture(file: Path) -> None:
    torch.save({"model": {"layer1.0.conv1.weight": torch.zeros(4, 3, 3, 3)}}, file)


def a_tensor(file: Path) -> None:
    torch.save(torch.zeros(3), file)


def a_text(file: Path) -> None:
    file.write_text("no weights at all")


@pytest.mark.parametrize("damage", [cut, empty, another_architecture, a_tensor, a_text])
def test_what_is_no_checkpoint_is_refused_in_one_line(sparse: dict[str, Tensor], tmp_path: Path, damage: Any) -> None:
    file = write_released(tmp_path / "c.pth", sparse)
    damage(file)
    with pytest.raises(FileInputError, match="expected") as error:
        convert(file, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth"]


def test_a_place_that_is_taken_or_cannot_be_written_is_named(released: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("precious")
    with pytest.raises(InputError, match="choose another"):
        convert(released, tmp_path / "taken")
    for style in (None, "dense"):
        with pytest.raises(InputError, match="to be a folder, found a file"):
            convert(released, tmp_path / "taken" / "below", to=style)
    with pytest.raises(InputError, match="finetune, dense, sparse, timm"):
        convert(released, tmp_path / "x", to="jax")
    with pytest.raises(InputError, match="original stem"):
        convert(released, tmp_path / "x.pth", to="timm")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


# ---------------------------------------------------------------- by name


def test_the_ten_released_checkpoints_are_listed() -> None:
    known = released_checkpoints()
    assert len(known) == 10
    name = "pt-all_mod_atto_1M_64_uncertainty_56-8"
    assert known["mmearth64-atto-all-uncertainty"].url == (
        f"https://sid.erda.dk/share_redirect/g23YOnaaTp/{name}/checkpoint-199.pth"
    )
    assert len({entry.url for entry in known.values()}) == 10


@pytest.fixture
def served(released: Path) -> Iterator[Released]:
    handler = functools.partial(_Quiet, directory=str(released.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/{released.name}"
        yield Released("toy", url, "all", "none")
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


def test_a_name_is_downloaded_once_and_checked_ever_after(served: Released, released: Path, tmp_path: Path) -> None:
    received: list[int] = []
    file = fetch(served, tmp_path / "cache", received.append)
    assert file.read_bytes() == released.read_bytes()
    assert received[-1] == released.stat().st_size
    received.clear()
    assert fetch(served, tmp_path / "cache", received.append) == file
    assert not received
    with file.open("r+b") as content:
        content.seek(1000)
        content.write(b"other")
    with pytest.raises(FileInputError, match="delete the file"):
        fetch(served, tmp_path / "cache")


def test_without_a_connection_it_says_what_to_do(tmp_path: Path) -> None:
    nowhere = Released("toy", "http://127.0.0.1:9/checkpoint-199.pth", "all", "none")
    with pytest.raises(
        DownloadFailed, match=r"fetch http://127\.0\.0\.1:9/checkpoint-199\.pth elsewhere and put it at"
    ) as error:
        fetch(nowhere, tmp_path / "cache")
    assert str(tmp_path / "cache" / "toy.pth") in str(error.value)
    assert not list((tmp_path / "cache").iterdir())


def test_a_name_stands_wherever_a_checkpoint_does(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMEARTH_CACHE", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    name = "mmearth64-atto-all-uncertainty"
    (tmp_path / "checkpoints" / f"{name}.pth").write_bytes(released.read_bytes())
    images = torch.randn(1, 12, 56, 56)
    assert torch.equal(load_encoder(name)(images), load_encoder(released)(images))
    assert (tmp_path / "checkpoints" / f"{name}.sha256").is_file()
    with pytest.raises(InputError, match=f"did you mean .{name}"):
        find_released("mmearth64-ato-all-uncertainty")
