"""Third-party files of weights: what is read or refused, and that nothing is executed; exports read by third parties."""

from __future__ import annotations

import argparse
import collections
import copyreg
import enum
import functools
import io
import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import time
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner, Result
from released_networks import (
    DEPTHS,
    WIDTHS,
    AuthorsConvNeXt,
    ReleasedClassifier,
    drawn,
    engine_names,
    receive,
)
from torch import Tensor, nn
from toy_store import write_store

from mmearth_data import FileInputError, InputError
from mmearth_model import EncoderConfig, convert, load_checkpoint, load_encoder
from mmearth_model.cli import cli
from mmearth_model.network.encoder import ConvNeXtV2
from mmearth_model.network.mpmae import MPMAE, MPMAEConfig, tasks_of
from mmearth_model.weights.checkpoints import ENCODER_ONLY, write_checkpoint
from mmearth_model.weights.conversion import import_weights
from mmearth_model.weights.torchfiles import read_torch

FORMATS = (True, False)
"""The current zip format, and the format of PyTorch 1.5."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def save(content: Any, file: Path, zipped: bool = True) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file


def weights() -> dict[str, Tensor]:
    return drawn(ReleasedClassifier()).state_dict()


# ---------------------------------------------------------------- options


class Colour(enum.Enum):
    RED = "red"


class Meter:
    def __init__(self) -> None:
        self.values = collections.deque([1.0], maxlen=3)


def options() -> argparse.Namespace:
    return argparse.Namespace(
        data_dir=Path("/data/mmearth"), lr=np.float64(1.5e-4), seed=np.int64(7), device=torch.device("cuda", 0),
        input_size=56, wandb=False, modalities={"sentinel2": "all"}, skipped={1, 2}, colour=Colour.RED, meter=Meter(),
        per_band=np.arange(3.0), name=np.str_("a"), precision=torch.float32, main=functools.partial,
        order=collections.OrderedDict(a=1), counts=collections.defaultdict(list, a=[1]), kept=torch.ones(2),
    )  # fmt: skip


@pytest.mark.parametrize("zipped", FORMATS)
def test_options_may_hold_whatever_the_training_script_put_there(zipped: bool, tmp_path: Path) -> None:
    network = drawn(ReleasedClassifier())
    content = {"model": network.state_dict(), "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}, "epoch": 199, "args": options()}  # fmt: skip
    file = save(content, tmp_path / "c.pth", zipped)
    with pytest.raises(pickle.UnpicklingError):  # PyTorch's own restricted loader cannot skip these
        torch.load(file, weights_only=True)
    checkpoint = load_checkpoint(convert(file, tmp_path / "mine"))
    assert checkpoint.config["recipe"] == {"seed": 7, "lr": 1.5e-4, "input_size": 56, "wandb": False}
    images = torch.randn(2, 12, 24, 24)
    assert torch.allclose(checkpoint.encoder()(images), network.features(images), atol=1e-5)


def test_python_3_13_pickles_paths_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("pathlib._local")

    class PosixPath(pathlib.PurePosixPath):
        def __reduce__(self) -> tuple[Any, ...]:
            return type(self), tuple(self.parts)

    PosixPath.__module__, PosixPath.__qualname__ = module.__name__, "PosixPath"
    module.PosixPath = PosixPath  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, module.__name__, module)
        patched.setattr(pathlib, "_local", module, raising=False)
        file = save({"model": weights(), "args": argparse.Namespace(data_dir=PosixPath("/data"))}, tmp_path / "c.pth")
    assert b"pathlib._local" in zipfile.ZipFile(file).read("c/data.pkl")
    assert import_weights(file).encoder.widths == WIDTHS


def test_nothing_of_the_options_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_lab.py").write_text("class Settings:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import their_lab  # type: ignore[import-not-found]

    file = save({"model": weights(), "args": argparse.Namespace(settings=their_lab.Settings())}, tmp_path / "c.pth")
    del sys.modules["their_lab"]
    (tmp_path / "their_lab.py").write_text("raise RuntimeError('imported')\n")
    assert import_weights(file).encoder.depths == DEPTHS
    assert "their_lab" not in sys.modules
    outside = {"model": {}, "settings": Named("their_lab", "Settings")}
    with pytest.raises(FileInputError, match=r"asks for their_lab.Settings outside args; nothing in it was executed"):
        import_weights(archive(tmp_path / "d.pth", outside))


# ---------------------------------------------------------------- pickles by hand


class Named:
    """A name that a pickle asks for, called with arguments or not."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments


class _Pickler(pickle._Pickler):  # type: ignore[name-defined] # in Python, its instructions can be chosen
    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if not isinstance(value, Named):
            super().save(value, save_persistent_id)
            return
        self.write(f"c{value.module}\n{value.name}\n".encode())
        if value.arguments:
            self.save(value.arguments)
            self.write(pickle.REDUCE)

    def persistent_id(self, value: Any) -> Any:
        return value.pid if isinstance(value, Numbers) else None


class Numbers:
    """A storage of an archive, by its persistent id."""

    def __init__(self, pid: Any) -> None:
        self.pid = pid


def floats(key: str, count: int) -> Numbers:
    return Numbers(("storage", Named("torch", "FloatStorage"), key, "cpu", count))


def tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Named:
    return Named("torch._utils", "_rebuild_tensor_v2", storage, offset, size, stride, False, collections.OrderedDict())


def pickled(content: Any) -> bytes:
    target = io.BytesIO()
    _Pickler(target, protocol=2).dump(content)
    return target.getvalue()


def archive(file: Path, content: Any, storages: dict[str, bytes] | None = None, packing: int = zipfile.ZIP_STORED) -> Path:  # fmt: skip
    """Write an archive as torch.save does, with a pickle made from an object or given as bytes."""
    with zipfile.ZipFile(file, "w", packing) as target:
        target.writestr("c/data.pkl", content if isinstance(content, bytes) else pickled(content))
        for key, numbers in (storages or {}).items():
            target.writestr(f"c/data/{key}", numbers)
    return file


def refused(file: Path, what: str) -> None:
    for read in (load_encoder, lambda path: convert(path, file.with_name("out"))):
        with pytest.raises(FileInputError, match=what) as error:
            read(file)
        assert "\n" not in str(error.value)
        assert str(file) in str(error.value)
    assert not file.with_name("out").exists()


# ---------------------------------------------------------------- what would run


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def acts(mark: Path) -> dict[str, Any]:
    """Objects that leave a mark when an ordinary loader reads them."""
    return {
        "os.system": Call(os.system, f"touch {mark}"),
        "subprocess": Call(subprocess.call, ["touch", str(mark)]),
        "eval": Call(eval, f"__import__('os').mkdir({str(mark)!r})"),
        "method": Call(Path.touch, mark),
        "unknown": Call(np.savetxt, str(mark), [1]),
    }


PLACES = {
    "model": lambda bomb: {"model": {"a": bomb}},
    "beside": lambda bomb: {"model": weights(), "optimizer": {"state": [(1, {"deep": bomb})]}},
    "key": lambda bomb: {"model": weights(), ("args", bomb): 1},
    "whole": lambda bomb: bomb,
    "args": lambda bomb: {"model": weights(), "args": argparse.Namespace(nested={"list": [bomb]})},
    "as args": lambda bomb: {"model": weights(), "args": bomb},
}


@pytest.mark.parametrize("zipped", FORMATS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("act", ["os.system", "subprocess", "eval", "method", "unknown"])
def test_what_would_run_something_never_does(act: str, place: str, zipped: bool, tmp_path: Path) -> None:
    """Refused anywhere if a name is known to run something; other names in the options have no effect."""
    mark = tmp_path / "ran"
    file = save(PLACES[place](acts(mark)[act]), tmp_path / "evil.pth", zipped)
    if act == "unknown" and "args" in place:
        assert import_weights(file).encoder.widths == WIDTHS
    else:
        refused(file, "nothing in it was executed")
    assert not mark.exists()
    with mark.with_name("ordinary").open("wb"):  # an ordinary loader does leave the mark
        torch.load(file, weights_only=False)
    assert mark.exists()


@pytest.fixture
def registered() -> Iterator[None]:
    """A function that pickles of this process can call by number, looked up once."""
    copyreg.add_extension("posix", "system", 0xF0)
    assert pickle.loads(b"\x80\x02\x82\xf0.") is os.system
    yield
    copyreg.remove_extension("posix", "system", 0xF0)
    copyreg.clear_extension_cache()


@pytest.mark.usefixtures("registered")
def test_other_ways_to_a_call_are_closed(tmp_path: Path) -> None:
    """Old instructions, states of functions, objects by number, and one object referenced twice."""
    mark = tmp_path / "ran"
    command = f"touch {mark}"
    by_hand = {
        "inst": b"(S'" + command.encode() + b"'\niposix\nsystem\n.",
        "obj": b"(cposix\nsystem\nS'" + command.encode() + b"'\no.",
        "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c" + bytes([len(command)]) + command.encode() + b"\x85R.",
        "extension": b"\x80\x02\x82\xf0U" + bytes([len(command)]) + command.encode() + b"\x85R.",
        "state of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}U\x08__code__K\x01sb.",
        "state of a class": b"\x80\x02ccollections\nOrderedDict\nN}U\x06updateK\x01s\x86b.",
        "state of a type": b"\x80\x02ctorch\nFloatStorage\n}U\x05dtypeK\x01sb.",
        "call of a stranger": b"\x80\x02cposix\nsystem\nU" + bytes([len(command)]) + command.encode() + b"\x85R.",
    }  # fmt: skip
    for name, content in by_hand.items():
        refused(archive(tmp_path / f"{name}.pth", content), "nothing in it was executed")
    path = tmp_path / "shared.pth"
    memo = b"\x80\x02}q\x00(U\x04argsctheir_lab\nSettings\n)Rq\x01U\x05modelh\x01u."
    refused(archive(path, memo), "their_lab.Settings outside args")
    assert not mark.exists()


def test_a_file_cannot_take_more_than_it_has(tmp_path: Path) -> None:
    """Memory from a memo index, a compressed archive, nested lists; recursive lists terminate."""
    started = time.perf_counter()
    refused(archive(tmp_path / "memo.pth", b"\x80\x02}r\xff\xff\xff\x7f."), "more memory than it has instructions")
    twice = (b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) + b"0" for i in range(60))
    layers = b"]q\x000" + b"".join(twice)  # 2^60 paths to the innermost list
    refused(
        archive(tmp_path / "layers.pth", b"\x80\x02" + layers + b"}U\x05modelh\x3cs."), "0 tensors that are neither"
    )
    refused(archive(tmp_path / "deep.pth", b"\x80\x02}U\x05model" + b"]" * 20_000 + b"a" * 19_999 + b"s."), "neither")
    refused(archive(tmp_path / "itself.pth", b"\x80\x02}U\x05model]q\x01h\x01as."), "0 tensors that are neither")
    packed = archive(tmp_path / "packed.pth", {"model": {}}, {"0": bytes(10**7)}, packing=zipfile.ZIP_DEFLATED)
    refused(packed, "a compressed archive")
    assert time.perf_counter() - started < 30


FORGED = {
    "beyond its storage": tensor(floats("0", 6), 3, (2, 2), (2, 1)),
    "offset beyond": tensor(floats("0", 6), 6, (1,), (1,)),
    "before its storage": tensor(floats("0", 6), -1, (2,), (1,)),
    "backwards": tensor(floats("0", 6), 5, (6,), (-1,)),
    "the same number often": tensor(floats("0", 6), 0, (10**12,), (0,)),
    "too long a storage": tensor(floats("0", 600), 0, (600,), (1,)),
    "too short a storage": tensor(floats("0", 5), 0, (5,), (1,)),
    "no storage": tensor(floats("1", 6), 0, (6,), (1,)),
    "another archive's": tensor(floats("../data.pkl", 6), 0, (6,), (1,)),
    "no shape": tensor(floats("0", 6), 0, "ab", (1,)),
    "a stride beyond 64 bits": tensor(floats("0", 6), 0, (1,), (2**70,)),
    "a size beyond 64 bits": tensor(floats("0", 6), 0, (0, 2**70), (1, 1)),
    "an offset beyond 64 bits": tensor(floats("0", 6), 2**70, (0,), (1,)),
    "fewer strides": tensor(floats("0", 6), 0, (3, 2), (1,)),
    "a list for numbers": tensor([1.0], 0, (1,), (1,)),
    "truth for a size": tensor(floats("0", 6), 0, (True,), (1,)),
    "no type": Named("torch._utils", "_rebuild_tensor_v3", floats("0", 6), 0, (6,), (1,), False, {}, "float32"),
    "a bare storage": floats("0", 6),
    "another kind": Numbers(("module", Named("torch", "FloatStorage"), "0", "cpu", 6)),
    "a view": Numbers(("storage", Named("torch", "FloatStorage"), "0", "cpu", 6, ("1", 0, 3))),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_tensor_takes_only_numbers_that_its_file_has(name: str, tmp_path: Path) -> None:
    numbers = {"0": struct.pack("6f", *range(6))}
    good = archive(tmp_path / "good.pth", {"model": {"a": tensor(floats("0", 6), 1, (2, 2), (2, 1))}}, numbers)
    found = read_torch(good)
    assert found.tensor(found.content["model"]["a"]).tolist() == [[1, 2], [3, 4]]
    refused(archive(tmp_path / "bad.pth", {"model": {"a": FORGED[name]}}, numbers), "nothing in it was executed")


@pytest.mark.parametrize(("field", "value"), [(6, 99), (8, 1), (8, 0x20), (16, 1), (42, 7)])
def test_numbers_that_cannot_be_read_are_damage(field: int, value: int, tmp_path: Path) -> None:
    """The directory entry of a storage: another version, encrypted, patched, another checksum, another offset."""
    whole = bytearray(save({"model": weights()}, tmp_path / "c.pth").read_bytes())
    entry = whole.index(b"PK\x01\x02")
    while b"/data/" not in whole[entry + 46 : entry + 56]:
        entry = whole.index(b"PK\x01\x02", entry + 4)
    struct.pack_into("<H", whole, entry + field, value)
    (tmp_path / "c.pth").write_bytes(whole)
    refused(tmp_path / "c.pth", "expected a complete file of weights")


NORM = "stages.1.0.norm.weight"


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        (NORM, None, "norm.weight is missing"),
        (NORM, torch.ones(3), "shape"),
        (NORM, torch.tensor(1.0), "shape"),
        (NORM, torch.ones(WIDTHS[1], dtype=torch.complex64), "complex64"),
        ("stages.0.0.dwconv.bias", torch.tensor(1.0), "shape"),
        ("stages.7.0.norm.weight", torch.ones(3), "is unknown"),
        ("stages.3.99999999.norm.weight", torch.ones(3), "blocks are missing"),
    ],
)
def test_weights_that_no_network_has_are_refused_before_anything_is_written(
    name: str, tensor: Tensor | None, words: str, tmp_path: Path
) -> None:
    tensors = {key: value for key, value in weights().items() if key != name} | (
        {} if tensor is None else {name: tensor}
    )
    file = save({"model": tensors}, tmp_path / "c.pth")
    with pytest.raises(FileInputError, match=words) as error:
        convert(file, tmp_path / "mine")
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth"]


@pytest.mark.parametrize("seed", ["abc", 10**5000, None, 1.5], ids=["text", "huge", "none", "fraction"])
def test_a_seed_of_another_kind_is_no_seed(seed: object, tmp_path: Path) -> None:
    args = {"seed": seed, "kind": int, "steps": range(3)}
    file = tmp_path / "c.pth"
    torch.save({"model": weights(), "args": args}, file, pickle_protocol=4 if isinstance(seed, int) else 2)
    assert load_checkpoint(convert(file, tmp_path / "mine")).seed == 0


@pytest.mark.parametrize("zipped", FORMATS)
def test_a_file_that_lacks_some_of_its_bytes_is_damaged(zipped: bool, tmp_path: Path) -> None:
    file = save({"model": weights(), "args": argparse.Namespace()}, tmp_path / "c.pth", zipped)
    whole = file.read_bytes()
    for length in (0, 1, 3, 100, len(whole) // 2, len(whole) - 100):
        file.write_bytes(whole[:length])
        refused(file, "expected a complete file|expected tensors and options only")


def test_tensors_of_every_kind_are_what_was_saved(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    saved = {
        "transposed": base.T, "part": base[1:3, ::2], "whole": base, "scalar": torch.tensor(3), "empty": torch.zeros(0, 3),
        "half": base.half(), "bfloat16": base.bfloat16(), "bool": base > 0, "uint16": torch.arange(3).to(torch.uint16),
        "complex": torch.complex(base, base), "parameter": nn.Parameter(base.clone()), "int8": torch.arange(4).to(torch.int8),
    }  # fmt: skip
    for zipped in FORMATS:
        kept = {name: t for name, t in saved.items() if zipped or name != "uint16"}
        found = read_torch(save({"model": kept}, tmp_path / "t.pth", zipped))
        read = {name: found.tensor(t) for name, t in found.content["model"].items()}
        assert read.keys() == kept.keys()
        for name, expected in kept.items():
            assert read[name].dtype == expected.dtype, name
            assert torch.equal(read[name], expected), name
        assert read["part"].untyped_storage().data_ptr() == read["whole"].untyped_storage().data_ptr()


# ---------------------------------------------------------------- whose names come in


def features(file: Path, images: Tensor) -> Tensor:
    with torch.no_grad():
        return load_encoder(file)(images)


def pretrained(network: nn.Module) -> dict[str, Tensor]:
    """Weights of an encoder that pads as in pretraining, in the form of the sparse engine."""
    parts = ("initial_conv", "stem", "stem_orig", "downsample_layers", "stages")
    return engine_names({n: t for n, t in network.state_dict().items() if n.split(".")[0] in parts})


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("stem", ["modified", "original"])
def test_a_released_classifier_computes_as_it_was_fine_tuned(prefix: str, stem: str, tmp_path: Path) -> None:
    """A classifier's padding and GRN epsilon become its defaults; a UNet keeps its own and pads as in pretraining."""
    images = torch.randn(2, 12, 48, 48)
    for unet in (False, True):
        network = drawn(ReleasedClassifier(patch=16, stem=stem, unet=unet))
        named = {prefix + name: tensor for name, tensor in network.state_dict().items()}
        file = save({"model": named, "args": argparse.Namespace(device=torch.device("cpu"))}, tmp_path / "ft.pth")
        encoder = load_encoder(file)
        assert (encoder.config.padding, encoder.config.grn_eps) == ("same" if unet else "reference", 1e-4)
        assert (encoder.config.patch_size, encoder.config.stem) == (16, stem)
        assert torch.allclose(encoder(images), network.features(images), rtol=1e-5, atol=1e-5)
        same = load_encoder(file, padding="same")
        assert torch.equal(same(images), encoder(images)) == (unet or stem == "original")


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("stem", ["modified", "original"])
def test_kernels_of_the_sparse_engine_are_turned(patch: int, stem: str, tmp_path: Path) -> None:
    """Including 1 x 1 kernels: the engine keeps no axis for them, and the original stem's is (in, out)."""
    network = drawn(ReleasedClassifier(patch=patch, stem=stem, unet=True))
    sparse = pretrained(network)
    if (patch, stem) == (8, "original"):
        assert sparse["encoder.stem_orig.0.kernel"].shape == (12, WIDTHS[0])
    file = save({"model": sparse}, tmp_path / "sparse.pth")
    images = torch.randn(2, 12, 32, 32)
    found = load_encoder(file, grn_eps=1e-4)
    assert torch.allclose(found(images), network.features(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["classifier", "pretrained", "sparse"])
def test_convnext_v2_comes_in_under_its_authors_names(form: str, tmp_path: Path) -> None:
    """Fine-tuned; pretrained without and with the sparse engine, whose stem is an ordinary convolution."""
    network = drawn(AuthorsConvNeXt())
    named = dict(network.state_dict())
    decoder = {"mask_token": torch.zeros(1, 16, 1, 1), "proj.weight": torch.zeros(16, 20, 1, 1), "pred.bias": torch.zeros(9), "decoder.0.dwconv.bias": torch.zeros(16)}  # fmt: skip
    if form == "pretrained":
        named = {f"encoder.{name}": tensor for name, tensor in named.items()} | decoder
    if form == "sparse":
        named = engine_names(named, dense=("downsample_layers.0.",)) | decoder
    file = save({"model": named}, tmp_path / "c.pth")
    encoder = load_encoder(file)
    assert (encoder.config.patch_size, encoder.config.stem, encoder.config.padding) == (32, "original", "same")
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(encoder(images), network.features(images), rtol=1e-5, atol=1e-5)
    assert load_checkpoint(convert(file, tmp_path / "mine")).encoder_only


# ---------------------------------------------------------------- what it can be used for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and two converted encoders: a pretrained one and a fine-tuned classifier."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("use")
    store = write_store(folder / "toy.zarr")
    names = {"pretrained": pretrained(drawn(ReleasedClassifier(unet=True))), "classifier": weights()}
    for name, named in names.items():
        file = save({"model": named, "args": argparse.Namespace(seed=0)}, folder / f"{name}.pth")
        convert(file, folder / name, store=store)
    convert(folder / "classifier.pth", folder / "bare")
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_a_converted_encoder_is_evaluated_embedded_and_fine_tuned(folder: Path, tmp_path: Path) -> None:
    """Works in each command with its own baseline: evaluate compares with random encoders of the same shape."""
    assert load_checkpoint(folder / "pretrained").config["architecture"] == ENCODER_ONLY
    probed = run("evaluate", str(folder / "pretrained"), "--task", "store:biome", "--protocol", "knn", "--seeds", "1", "--cache", str(tmp_path), "--json")  # fmt: skip
    assert probed.exit_code == 0, probed.output
    rows = json.loads(probed.stdout)["rows"]
    assert {row["encoder"] for row in rows} == {str(folder / "pretrained"), "random init"}
    embedded = run("embed", str(folder / "toy.zarr"), "--checkpoint", str(folder / "pretrained"), "--cache", str(tmp_path), "--out", str(tmp_path / "e.zarr"))  # fmt: skip
    assert embedded.exit_code == 0, embedded.output
    tuned = run("finetune", str(folder / "pretrained"), "--task", "store:biome", "--epochs", "1", "--out", str(tmp_path / "ft"))  # fmt: skip
    assert tuned.exit_code == 0, tuned.output
    assert json.loads((tmp_path / "ft" / "config.json").read_text())["encoder"]["padding"] == "same"


def test_padding_can_be_chosen_wherever_an_encoder_is_used(folder: Path, tmp_path: Path) -> None:
    """By default it is the released classifier's for weights converted from one."""
    assert load_checkpoint(folder / "classifier").encoder_config.padding == "reference"
    images = torch.randn(2, 12, 32, 32)
    chosen = load_checkpoint(folder / "pretrained", padding="reference")
    expected = load_encoder(folder / "pretrained.pth", padding="reference")
    assert expected.config.grn_eps == 1e-4
    assert torch.equal(chosen.encoder()(images), expected(images))
    own = load_checkpoint(folder / "pretrained").encoder()
    assert not torch.allclose(expected(images).mean((2, 3)), own(images).mean((2, 3)), rtol=0.01)

    found = {}
    for padding in ("same", "reference"):
        out = tmp_path / f"{padding}.zarr"
        result = run("embed", str(folder / "toy.zarr"), "--checkpoint", str(folder / "pretrained"), "--padding", padding, "--cache", str(tmp_path / "cache"), "--out", str(out))  # fmt: skip
        assert result.exit_code == 0, result.output
        found[padding] = xr.open_zarr(out, consolidated=False)["embedding"].values
    assert not np.allclose(found["same"], found["reference"], rtol=0.01)
    tuned = run("finetune", str(folder / "pretrained"), "--task", "store:biome", "--epochs", "1", "--padding", "reference", "--out", str(tmp_path / "ft"))  # fmt: skip
    assert tuned.exit_code == 0, tuned.output
    assert json.loads((tmp_path / "ft" / "config.json").read_text())["encoder"]["padding"] == "reference"
    probed = run("evaluate", str(folder / "pretrained"), "--task", "store:biome", "--protocol", "knn", "--seeds", "1", "--padding", "reference", "--cache", str(tmp_path / "cache"))  # fmt: skip
    assert probed.exit_code == 0, probed.output


def test_bad_choices_are_refused_in_a_line(folder: Path, tmp_path: Path) -> None:
    checkpoint, bare, store = str(folder / "pretrained"), str(folder / "bare"), str(folder / "toy.zarr")
    commands: dict[tuple[str, ...], str] = {
        ("evaluate", checkpoint, "--task", "store:biome", "--padding", "valid"): "'valid' is not one of 'same', 'reference'",
        ("finetune", checkpoint, "--task", "store:biome", "--padding", "valid"): "'valid' is not one of",
        ("embed", store, "--checkpoint", checkpoint, "--out", "x.zarr", "--padding", "valid"): "'valid' is not one of",
        ("convert", checkpoint, "--to", "jax", "--out", str(tmp_path / "x")): "'jax' is not one of 'finetune', 'dense', 'sparse'",
        ("convert", checkpoint, "--to", "finetune", "--out", str(tmp_path / "x"), "--store", store): "--store: expected none with --to",
        ("convert", checkpoint, "--to", "finetune", "--out", str(tmp_path / "x"), "--bands", "sentinel2=B2"): "--bands: expected none with --to",
        ("convert", checkpoint, "--to", "sparse", "--out", str(tmp_path / "x")): "use --to finetune",
        ("convert", checkpoint, "--to", "timm", "--out", str(tmp_path / "x")): "expected an encoder with the original stem",
        ("evaluate", bare, "--task", "store:biome"): "was converted without one; convert it again with --store STORE",
        ("evaluate", bare, "--task", "store:biome", "--store", store): "convert them again with --store STORE",
        ("embed", store, "--checkpoint", bare, "--out", "x.zarr"): "convert them again with --store STORE",
    }  # fmt: skip
    for arguments, message in commands.items():
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.output.split()), result.output
        assert "Traceback" not in result.output
    with pytest.raises(InputError, match=r"--padding: expected same or reference, got 'valid'"):
        load_checkpoint(checkpoint, padding="valid")  # type: ignore[arg-type]


# ---------------------------------------------------------------- for whom they go out


def whole_network(preset: str, tmp_path: Path, **shape: Any) -> Path:
    """A checkpoint whose parameters are all random."""
    store = write_store(tmp_path / "toy.zarr", 16)
    encoder = EncoderConfig(widths=WIDTHS, depths=DEPTHS, **shape)
    learned = [m for m in store.modalities.values() if m.pretext]
    config = MPMAEConfig.of_preset(preset, encoder, tasks_of(learned, preset), decoder_dim=16)  # type: ignore[arg-type]
    network = drawn(MPMAE(config))
    content = {
        "model": config.to_dict(), "loss": {"preset": preset, "weighting": "unweighted"}, "normaliser": None,
        "recipe": {"seed": 0}, "store": {"path": ""}, "progress": {},
    }  # fmt: skip
    (tmp_path / "mine").mkdir()
    write_checkpoint(tmp_path / "mine", {"model": network}, content)
    return tmp_path / "mine"


@pytest.mark.parametrize(("patch", "stem"), [(8, "modified"), (16, "modified"), (8, "original"), (16, "original")])
@pytest.mark.parametrize("preset", ["default", "paper", "reference"])
def test_an_encoder_of_any_preset_arrives_whole_in_the_released_fine_tuning(
    preset: str, patch: int, stem: str, tmp_path: Path
) -> None:
    mine = whole_network(preset, tmp_path, patch_size=patch, image_size=7 * patch, stem=stem)
    file = convert(mine, tmp_path / "ft.pth", to="finetune")
    content = torch.load(file, weights_only=True)  # the default of torch.load since PyTorch 2.6
    network = ReleasedClassifier(patch=patch, stem=stem).eval()
    lacking, unused = receive(network, content["model"])
    assert lacking == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert not unused
    images = torch.randn(2, 12, 3 * patch, 3 * patch, dtype=torch.float64)
    ours = load_encoder(mine, padding="reference").double()
    expected = ours(images)
    apart = (network.double().features(images) - expected).abs().max() / expected.abs().max()
    assert float(apart.detach()) < 1e-6
    assert torch.equal(load_encoder(file)(images.float()), load_encoder(mine)(images.float()))


def test_only_the_export_for_fine_tuning_fits_it(tmp_path: Path) -> None:
    """With two axes added, GRN of the dense style has another shape and keeps its initial zeros."""
    mine = whole_network("reference", tmp_path)
    dense = torch.load(convert(mine, tmp_path / "dense.pth", to="dense"), weights_only=False)["model"]
    _, unused = receive(ReleasedClassifier(), dense)
    assert {name for name in unused if ".grn." in name} == {name for name in ReleasedClassifier().state_dict() if ".grn." in name}  # fmt: skip
    sparse = torch.load(convert(mine, tmp_path / "sparse.pth", to="sparse"), weights_only=False)["model"]
    lacking, unused = receive(ReleasedClassifier(), sparse)
    assert lacking == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    classifier = ReleasedClassifier(classes=1000)
    encoder = {name.removeprefix("encoder."): t for name, t in dense.items() if name.startswith("encoder.")}
    classifier.load_state_dict(encoder, strict=True)  # the dense pretraining network has this one as its encoder


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("to", ["sparse", "dense"])
def test_networks_that_the_released_pretraining_has_not_are_refused_with_the_way_out(
    preset: str, to: str, tmp_path: Path
) -> None:
    mine = whole_network(preset, tmp_path)
    with pytest.raises(InputError, match=rf"--to {to}: expected a whole network of preset reference.*--to finetune"):
        convert(mine, tmp_path / "x.pth", to=to)
    assert not (tmp_path / "x.pth").exists()


@pytest.mark.parametrize(("patch", "fits"), [(8, True), (16, False), (32, True), (64, False)])
def test_timm_has_no_place_for_some_stems(patch: int, fits: bool, tmp_path: Path) -> None:
    mine = whole_network("default", tmp_path, patch_size=patch, image_size=7 * patch, stem="original")
    if not fits:
        with pytest.raises(InputError, match="--to timm: expected a stem of 1 px, or of 3 to 7 px"):
            convert(mine, tmp_path / "x.safetensors", to="timm")
        return
    images = torch.randn(1, 12, 64, 64)
    again = load_encoder(convert(mine, tmp_path / "x.safetensors", to="timm"))
    assert torch.equal(again(images), load_encoder(mine)(images))


def test_stems_of_timm_take_no_mask_and_say_so() -> None:
    for changes in ({"stem": "halved"}, {"stem": "original", "max_stride": 32}):
        encoder = ConvNeXtV2(EncoderConfig(widths=WIDTHS, depths=DEPTHS, patch_size=64, image_size=64, **changes))  # type: ignore[arg-type]
        with pytest.raises(InputError, match="takes no mask"):
            encoder(torch.zeros(1, 12, 64, 64), torch.zeros(1, 1, dtype=torch.bool))
    with pytest.raises(InputError, match="multiple of 16 px with the halved stem"):
        EncoderConfig(stem="halved", patch_size=8)
