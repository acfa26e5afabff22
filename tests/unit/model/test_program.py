"""Exported programs: they compute what the encoder or the network does, anywhere, and say what to feed them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from raw_batches import CATALOG, raw_batch, statistics
from small_disk import small_disk
from torch import nn
from toy_store import write_store

from mmearth_data import InputError
from mmearth_model import (
    ConvNeXtV2,
    EncoderConfig,
    Network,
    Normaliser,
    Output,
    export_program,
    open_encoder,
    save_network,
)
from mmearth_model.cli import cli
from mmearth_model.evaluation.candidates import Weights
from mmearth_model.evaluation.features import extract
from mmearth_model.heads.paper_unet import PaperUNet
from mmearth_model.heads.probes import PixelProbe, TileProbe
from mmearth_model.heads.unet import UNet
from mmearth_model.network.encoder import Classifier
from mmearth_model.programs.describing import network_content
from mmearth_model.programs.program import Pooled, Program
from mmearth_model.tasks import TaskKind, open_task
from mmearth_model.weights.checkpoints import ENCODER_ONLY, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    Arrays = dict[str, np.ndarray[Any, Any]]

INPUTS = (CATALOG["sentinel2"], CATALOG["sentinel1"])
CLASSES = (
    Output(name="Tree cover", code=10, colour="#006400"),
    Output(name="Water", code=80, colour="#0064c8"),
    Output(name="Mangroves", code=95),
)
KINDS = {
    Classifier: TaskKind.SINGLE_LABEL,
    UNet: TaskKind.SEGMENTATION,
    PaperUNet: TaskKind.SEGMENTATION,
    TileProbe: TaskKind.SINGLE_LABEL,
    PixelProbe: TaskKind.SEGMENTATION,
}
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in {names}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
"""


# ---------------------------------------------------------------- a world


def per_level_statistics() -> dict[str, Any]:
    """Statistics that differ between bands and levels; one band was never observed in one level."""
    rng = np.random.default_rng(5)
    found = statistics(INPUTS)
    for levels in found["train"].values():
        for level, bands in levels.items():
            levels[level] = {b: {"count": 9, "mean": rng.uniform(3, 7), "std": rng.uniform(1, 3)} for b in bands}
    found["train"]["sentinel2"]["L1C"]["B9"] = {"count": 0, "mean": None, "std": None}
    return found


@pytest.fixture(scope="module")
def normaliser() -> Normaliser:
    return Normaliser(INPUTS, per_level_statistics(), inputs=[m.name for m in INPUTS])


def drawn(module: nn.Module) -> Any:
    """Random parameters, GRN's too; buffers of probes as well."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in module.parameters():
            value.normal_(std=0.2, generator=generator)
        for value in module.buffers():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return module.eval()


def make_encoder(normaliser: Normaliser, **shape: Any) -> ConvNeXtV2:
    config = EncoderConfig(in_channels=normaliser.in_channels, image_size=64, **shape)
    encoder: ConvNeXtV2 = drawn(ConvNeXtV2(config))
    encoder.normaliser = normaliser
    return encoder


@pytest.fixture(scope="module")
def encoder(normaliser: Normaliser) -> ConvNeXtV2:
    return make_encoder(normaliser, depths=(1, 0, 0, 0), widths=(8, 8, 8, 8))


def make_network(encoder: ConvNeXtV2, module: Any, kind: TaskKind, outputs: tuple[Output, ...] = CLASSES) -> Network:
    assert encoder.normaliser is not None
    made = drawn(module(encoder, len(outputs)))
    return Network(module=made, normaliser=encoder.normaliser, kind=kind, outputs=outputs, window_px=64, task="cover")


def make_tiles(tiles: int, side: int, seed: int = 0, level: int | None = None) -> Any:
    """Tiles with missing pixels, of both levels or of one; the first has no radar (NaN), the last has no values of one band."""
    batch: dict[str, Any] = dict(raw_batch(INPUTS, tiles, side, seed=seed))
    batch["sentinel1"][0] = np.nan
    batch["sentinel2"][-1, 3] = 0
    levels = batch["tile"]["s2_level"]
    levels[:2] = (0, 1)[: len(levels[:2])]
    if level is not None:
        levels[:] = level
    return batch


def fed(batch: Any, *, level: bool = True) -> Arrays:
    """What an exported program is fed."""
    arrays: Arrays = {m.name: batch[m.name] for m in INPUTS}
    return arrays | ({"level": batch["tile"]["s2_level"].astype(np.int64)} if level else {})


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def apart(found: Any, expected: Any) -> float:
    """Largest difference, relative to the largest value."""
    assert found.shape == expected.shape
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / max(1e-9, np.abs(expected).max()))


def expected_of(source: ConvNeXtV2 | Network, batch: Any) -> Arrays:
    """What the encoder or the network itself answers."""
    with torch.no_grad():
        if isinstance(source, ConvNeXtV2):
            return {"features": source.embed(batch).numpy()}
        raw = source.module(source.normaliser.images(batch)).numpy()
    probabilities, answers = source.probabilities(raw), source.answers(raw)
    assert probabilities is not None
    return {"probabilities": probabilities, "classes": answers}


@dataclass(frozen=True)
class Exported:
    """Both files of one source."""

    onnx: Path
    archive: Path

    def run_onnx(self, arrays: Arrays) -> Arrays:
        session = onnxruntime.InferenceSession(self.onnx)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, arrays), strict=True))

    def run_archive(self, arrays: Arrays) -> Arrays:
        with torch.no_grad():
            found = torch.export.load(self.archive).module()(tensors(arrays))
        return {name: values.numpy() for name, values in found.items()}


def export_both(source: Any, folder: Path, **options: Any) -> Exported:
    return Exported(
        export_program(source, folder / "x.onnx", to="onnx", **options),
        export_program(source, folder / "x.pt2", to="torch-export", **options),
    )


@pytest.fixture(scope="module")
def exported(encoder: ConvNeXtV2, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_both(encoder, tmp_path_factory.mktemp("exported"))


# ---------------------------------------------------------------- what is computed


def test_the_file_is_an_encoder_for_evaluation(
    encoder: ConvNeXtV2, normaliser: Normaliser, exported: Exported, tmp_path: Path
) -> None:
    """On tiles of both levels, without a description, it gives the features of the encoder itself."""
    task = open_task("store:biome", write_store(tmp_path / "toy.zarr", 48))
    external, weights, cpu = open_encoder(exported.onnx), Weights(normaliser, lambda: encoder), torch.device("cpu")
    ours, theirs = (
        extract(model.extractor(task, 0, cpu), model.input(task), task.images, cpu) for model in (external, weights)
    )
    assert len({*task.images.coords["s2_level"]}) == 2
    assert apart(ours, theirs) < 1e-5


@pytest.mark.parametrize("fixed", [None, "L1C", "L2A"])
def test_stored_numbers_are_normalised_exactly_as_in_training(normaliser: Normaliser, fixed: str | None) -> None:
    class Echo(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"images": images}

    program = Program(Echo(), normaliser, patch_px=8, level=fixed)
    batch = make_tiles(5, 24, level=None if fixed is None else ("L1C", "L2A").index(fixed))
    if fixed is None:
        batch["tile"]["s2_level"][-1] = 255  # a scene without a level has no statistics
    found = program(tensors(fed(batch, level=fixed is None)))["images"]
    assert torch.equal(found, normaliser.images(batch))
    assert bool((found[0, 12:] == 0).all())  # no radar
    assert bool((found != 0).any())


@pytest.mark.parametrize("level", [-1, -2, 2, 10**9])
def test_a_number_that_is_no_level_has_no_statistics(normaliser: Normaliser, encoder: ConvNeXtV2, level: int) -> None:
    program = Program(Pooled(encoder), normaliser, patch_px=8)
    arrays = fed(make_tiles(2, 16))
    unknown, missing = ({**arrays, "level": np.full(2, level)}, {**arrays, "sentinel2": arrays["sentinel2"] * 0})
    assert torch.equal(program(tensors(unknown))["features"], program(tensors(missing))["features"])


@pytest.mark.parametrize("kind", list(TaskKind))
def test_answers_are_those_of_the_network(encoder: ConvNeXtV2, kind: TaskKind) -> None:
    outputs = CLASSES if not kind.continuous else (Output(name="height", units="m"),) * (1 if kind.per_pixel else 2)
    network = make_network(encoder, UNet if kind.per_pixel else Classifier, kind, outputs)
    if kind.continuous:
        network = replace(network, scale=(np.array([20.0]), np.array([4.0])))
    batch = make_tiles(3, 24)
    with torch.no_grad():
        raw = network.module(network.normaliser.images(batch)).numpy()
        found = network_content(network).program(None)(tensors(fed(batch)))
    *scores, answers = found.values()
    assert apart(answers.numpy(), network.answers(raw)) < (1e-6 if kind.continuous else 1e-12)
    probabilities = network.probabilities(raw)
    assert len(scores) == (probabilities is not None)
    if probabilities is not None:
        assert apart(scores[0].numpy(), probabilities) < 1e-6


@pytest.mark.parametrize(("tiles", "side"), [(3, 16), (1, 40)])
def test_both_files_give_the_encoders_features(encoder: ConvNeXtV2, exported: Exported, tiles: int, side: int) -> None:
    batch = make_tiles(tiles, side)
    expected = expected_of(encoder, batch)["features"]
    assert apart(exported.run_onnx(fed(batch))["features"], expected) < 1e-5
    assert apart(exported.run_archive(fed(batch))["features"], expected) < 1e-5


def networks(normaliser: Normaliser) -> Iterator[tuple[str, ConvNeXtV2 | Network]]:
    yield "encoder", make_encoder(normaliser, size="atto", patch_size=16)
    small = make_encoder(normaliser, depths=(1, 1, 2, 1), widths=(8, 16, 24, 32), patch_size=8)
    for module, kind in KINDS.items():
        yield module.__name__, make_network(small, module, kind)


@pytest.mark.slow
def test_onnxruntime_equals_pytorch_on_a_hundred_tiles_with_missing_values(
    normaliser: Normaliser, tmp_path: Path
) -> None:
    for name, source in networks(normaliser):
        (tmp_path / name).mkdir()
        files = export_both(source, tmp_path / name)
        session, program = onnxruntime.InferenceSession(files.onnx), torch.export.load(files.archive).module()
        names = [output.name for output in session.get_outputs()]
        for seed, (tiles, side) in enumerate([(10, 64), (25, 48)] * 2 + [(10, 64), (10, 64), (10, 64)]):
            batch = make_tiles(tiles, side, seed)
            expected = expected_of(source, batch)
            with torch.no_grad():
                answers = {key: value.numpy() for key, value in program(tensors(fed(batch))).items()}
            for found in (dict(zip(names, session.run(None, fed(batch)), strict=True)), answers):
                assert found.keys() == expected.keys()
                for key, values in expected.items():
                    if key == "classes":
                        assert (found[key] == values).mean() > 0.9999, name  # but for ties
                    else:
                        assert apart(found[key], values) < 1e-5, (name, key)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["same", "reference"])
def test_a_map_of_features_at_a_fixed_level(normaliser: Normaliser, padding: str, tmp_path: Path) -> None:
    encoder = make_encoder(normaliser, depths=(1, 1, 1, 1), widths=(8, 8, 8, 8), padding=padding)
    files = export_both(encoder, tmp_path, features="map", level="L2A")
    for tiles, side in ((2, 32), (3, 56)):
        batch = make_tiles(tiles, side, level=1)
        with torch.no_grad():
            expected = encoder(encoder.preprocess(batch)).numpy()
        for run in (files.run_onnx, files.run_archive):
            assert apart(run(fed(batch, level=False))["features"], expected) < 1e-5


# ---------------------------------------------------------------- what a file says


def descriptions(files: Exported) -> tuple[dict[str, Any], dict[str, Any]]:
    extra = {"mmearth.json": ""}
    torch.export.load(files.archive, extra_files=extra)
    properties = {entry.key: entry.value for entry in onnx.load(files.onnx).metadata_props}
    return json.loads(properties["mmearth"]), json.loads(extra["mmearth.json"])


def test_both_files_say_what_to_feed_them(exported: Exported) -> None:
    found, other = descriptions(exported)
    assert found == other
    optical, radar, level = found["inputs"]
    assert optical["bands"] == list(CATALOG["sentinel2"].bands)
    assert (optical["type"], optical["nodata"], optical["scale"]) == ("uint16", 0, 0.0001)
    assert "B10" not in optical["used_bands"]
    assert (radar["type"], radar["nodata"], radar["units"]["asc_VV"]) == ("float32", "NaN", "dB")
    assert level["codes"] == {"L1C": 0, "L2A": 1}
    assert (found["patch_px"], found["window_px"], found["kind"]) == (8, 64, "encoder")
    assert [licence["name"] for licence in found["licences"]] == ["Copernicus Sentinel data legal notice"]


def test_an_onnx_file_is_valid_and_declares_what_the_description_says(exported: Exported) -> None:
    model = onnx.load(exported.onnx)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain for entry in model.opset_import} == {""}
    session = onnxruntime.InferenceSession(exported.onnx)
    found, _ = descriptions(exported)
    types = {"uint16": "tensor(uint16)", "float32": "tensor(float)", "int64": "tensor(int64)"}
    for declared, said in (*zip(session.get_inputs(), found["inputs"], strict=True), *zip(session.get_outputs(), found["outputs"], strict=True)):  # fmt: skip
        assert (declared.name, declared.type, declared.shape) == (said["name"], types[said["type"]], said["shape"])


def test_a_networks_classes_are_in_the_description(encoder: ConvNeXtV2) -> None:
    content = network_content(make_network(encoder, UNet, TaskKind.SEGMENTATION))
    probabilities, classes = content.outputs
    assert classes["classes"][0] == {"code": 10, "name": "Tree cover", "colour": "#006400"}
    assert (probabilities["shape"], classes["shape"]) == (["batch", 3, "8*rows", "8*columns"], ["batch", "8*rows", "8*columns"])  # fmt: skip


def test_files_do_not_name_folders_of_this_machine(exported: Exported) -> None:
    for file in (exported.onnx, exported.archive):
        content = file.read_bytes()
        assert str(Path.home()).encode() not in content
        assert b"site-packages" not in content
        assert b"mmearth_model/" not in content


# ---------------------------------------------------------------- without this package


def run_alone(script: str, *blocked: str) -> str:
    """Output of a script in a Python without some packages."""
    code = BLOCKED.replace("{names}", repr(set(blocked))) + script
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_files_run_without_this_package(encoder: ConvNeXtV2, exported: Exported, tmp_path: Path) -> None:
    batch = make_tiles(2, 16)
    np.savez(tmp_path / "tiles.npz", **fed(batch))
    ours = ("mmearth_model", "mmearth_data")
    load = f"import numpy as np\ntiles = dict(np.load({str(tmp_path / 'tiles.npz')!r}))\n"
    with_onnx = f"{load}import onnxruntime\nsession = onnxruntime.InferenceSession({str(exported.onnx)!r})\nprint(session.run(None, tiles)[0].tolist())"
    with_torch = (
        f"{load}import torch\nprogram = torch.export.load({str(exported.archive)!r}).module()\n"
        "print(program({k: torch.from_numpy(v) for k, v in tiles.items()})['features'].numpy().tolist())"
    )
    expected = expected_of(encoder, batch)["features"]
    for script, blocked in ((with_onnx, (*ours, "torch", "onnx")), (with_torch, ours)):
        assert apart(np.array(json.loads(run_alone(script, *blocked))), expected) < 1e-5


# ---------------------------------------------------------------- bad input


def test_a_side_that_is_no_multiple_of_a_patch_is_refused(exported: Exported) -> None:
    with pytest.raises(Exception, match=r"cannot be reshaped.*20,20"):
        exported.run_onnx(fed(make_tiles(2, 20)))
    with pytest.raises((RuntimeError, AssertionError), match="% 8 == 0"):
        exported.run_archive(fed(make_tiles(2, 20)))


@pytest.fixture(scope="module")
def folders(encoder: ConvNeXtV2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with statistics, one without, and a network."""
    folder = tmp_path_factory.mktemp("folders")
    shape = asdict(encoder.config)
    assert encoder.normaliser is not None
    config = {"architecture": ENCODER_ONLY, "model": {"encoder": shape}, "loss": {}, "recipe": {}, "store": {"path": "", "synthetic": True}, "progress": {}}  # fmt: skip
    for name, entry in (("checkpoint", encoder.normaliser.to_config()), ("bare", None)):
        (folder / name).mkdir()
        write_checkpoint(folder / name, {"model.encoder": encoder}, {**config, "normaliser": entry})
    whole = make_encoder(encoder.normaliser, depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    save_network(folder / "network", make_network(whole, Classifier, TaskKind.SINGLE_LABEL))
    (folder / "file.onnx").touch()
    return folder


def command(*words: object) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, words)])


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("checkpoint", "--to onnx --out x.pt2", "expected a file ending in .onnx with --to onnx, got x.pt2"),
        ("checkpoint", "--to torch-export --out x.pth", "expected a file ending in .pt2"),
        ("checkpoint", "--to onnx --out FOLDER/file.onnx", "which exists; choose another"),
        ("checkpoint", "--to onnx --out FOLDER/file.onnx/x.onnx", "to be a folder, found a file"),
        ("bare", "--to onnx --out x.onnx", "expected statistics to normalise tiles with"),
        ("nosuch", "--to onnx --out x.onnx", "expected a checkpoint"),
        ("network", "--to onnx --out x.onnx --features map", "expected an encoder, got the network of cover"),
        ("checkpoint", "--to tflite --out x.tflite", "'tflite' is not one of"),
        ("checkpoint", "--to onnx --out x.onnx --level L3", "'L3' is not one of"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    folders: Path, source: str, options: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command(folders / source, *options.replace("FOLDER", str(folders)).split())
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("Error: ") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_level_needs_statistics_that_depend_on_it(normaliser: Normaliser, tmp_path: Path) -> None:
    radar = Normaliser(INPUTS, per_level_statistics(), inputs=["sentinel1"])
    encoder = make_encoder(radar, depths=(1, 0, 0, 0), widths=(8, 8, 8, 8))
    with pytest.raises(InputError, match="expected none, since the statistics do not depend on the product level"):
        export_program(encoder, tmp_path / "x.pt2", to="torch-export", level="L2A")
    some = per_level_statistics()
    for split in ("train", "all"):
        some[split] = {**some["train"], "sentinel2": {"L2A": some["train"]["sentinel2"]["L2A"]}}
    encoder = make_encoder(Normaliser(INPUTS, some, inputs=[m.name for m in INPUTS]), depths=(1, 0, 0, 0), widths=(8, 8, 8, 8))  # fmt: skip
    with pytest.raises(InputError, match=r"expected a product level with statistics \(L2A\), got L1C"):
        export_program(encoder, tmp_path / "x.pt2", to="torch-export", level="L1C")


@pytest.mark.parametrize("library", ["onnx", "onnxscript"])
def test_a_missing_library_is_named(
    encoder: ConvNeXtV2, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        InputError, match=rf'library {library}, which is not installed; run: pip install "mmearth\[export\]"'
    ):
        export_program(encoder, tmp_path / "x.onnx", to="onnx")


def test_a_full_disk_is_noticed_before_the_work(folders: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        disk.fill()
        result = command(folders / "checkpoint", "--to", "torch-export", "--out", disk.path / "x.pt2")
        assert result.exit_code == 1
        assert "disk is full" in result.stderr
        assert disk.files() == {}


@pytest.mark.slow
def test_the_folder_of_a_network_is_exported(folders: Path, tmp_path: Path) -> None:
    result = command(folders / "network", "--to", "torch-export", "--out", tmp_path / "n.pt2")
    assert result.exit_code == 0, result.stderr
    extra = {"mmearth.json": ""}
    torch.export.load(tmp_path / "n.pt2", extra_files=extra)
    assert json.loads(extra["mmearth.json"])["task"] == "cover"
