"""External encoders: their input, their output, and their figures beside those of checkpoints."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import rasterio
import torch
import yaml
from click.testing import CliRunner
from encoders import write_encoder
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import nn
from toy_store import write_store

from mmearth_data import InputError, Store, load_catalog
from mmearth_model import Checkpoint, EncoderDescription, ExternalEncoder, evaluate, export_program, open_encoder
from mmearth_model.cli import cli
from mmearth_model.evaluation.candidates import candidate_of
from mmearth_model.evaluation.external.backbone import External, Reading
from mmearth_model.evaluation.features import extract
from mmearth_model.evaluation.finetune import FineTuner, FineTuneRecipe, finetune, paper_recipe
from mmearth_model.evaluation.parameter_groups import parameter_groups
from mmearth_model.heads.probes import hypercolumns
from mmearth_model.network.encoder import Classifier
from mmearth_model.tasks import LabelledSet, open_task

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
BANDS = load_catalog().find("sentinel2").model_bands
RGB = ("B4", "B3", "B2")
FACTORIES = '''
import torch
from torch import nn

class Net(nn.Module):
    """Two blocks after a stem."""

    def __init__(self, bands=12, width=8):
        super().__init__()
        self.stem = nn.Conv2d(bands, width, 4, stride=4)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()) for _ in range(2)))

    def forward(self, x):
        return self.blocks(self.stem(x).relu())

def net(bands=12, width=8):
    return Net(bands, width)

def raises():
    raise RuntimeError("Found no NVIDIA driver on your system")


def ends():
    raise SystemExit(5)

def number():
    return 3

class Fixed(nn.Module):
    def forward(self, x):
        assert x.shape[-1] == 224, f"Input height ({x.shape[-1]}) doesn't match model (224)."
        return x

class Flat(nn.Module):
    def forward(self, x):
        return x.flatten()

class Broken(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) / 0 * 0

class Named(nn.Module):
    def forward(self, x):
        return {"tokens": x, "pooled": x.mean((2, 3))}

class Sized(nn.Module):
    def forward(self, x):
        return x.flatten(1)

class Words(nn.Module):
    def forward(self, x):
        return "features"

value = 3
'''


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("toy") / "toy.zarr", 96, shares=(0.5, 0.25))


@pytest.fixture(scope="module")
def checkpoint(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    targets = ("sentinel2", "esa_worldcover")
    folder = tmp_path_factory.mktemp("weights") / "run"
    return write_encoder(folder, store, targets=targets, depths=(1, 0, 0, 0), widths=(8, 8, 12, 16))


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_program(checkpoint, tmp_path_factory.mktemp("exported") / "own.onnx", to="onnx")


@pytest.fixture(scope="module")
def eurosat(test_data: Path) -> LabelledSet:
    return open_task(f"eurosat-ms={test_data / 'eurosat_ms'}")


@pytest.fixture(scope="module")
def thumbnails(eurosat: LabelledSet) -> LabelledSet:
    """The same images, resized to 16 px."""
    images: Any = eurosat.images
    return replace(eurosat, images=replace(images, spec=images.spec.model_copy(update={"size_px": 16}), _cache={}))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a module of factories, which no other test has imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "factories", raising=False)
    (tmp_path / "factories.py").write_text(FACTORIES)
    return tmp_path


def described(**fields: Any) -> EncoderDescription:
    return EncoderDescription(**{"bands": BANDS, "normalise": "task", **fields})


def features(encoder: Checkpoint | ExternalEncoder, task: LabelledSet) -> np.ndarray[Any, Any]:
    model = candidate_of(encoder, (0,)).model
    return extract(model.extractor(task, 0, CPU), model.input(task), task.images, CPU)


class Means(nn.Module):
    """Mean of each channel: what reaches the encoder."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


class Extremes(nn.Module):
    """Least and greatest value of each channel, and the size of the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = torch.full((len(x), 1), float(x.shape[-1]))
        return torch.cat([x.amin(dim=(2, 3)), x.amax(dim=(2, 3)), size], dim=1)


# ---------------------------------------------------------------- the same figures as a checkpoint


@pytest.mark.slow  # see test_program.py for a small encoder
def test_our_own_onnx_file_gives_the_figures_of_its_checkpoint(
    store: Store, checkpoint: Checkpoint, exported: Path
) -> None:
    """Levels, missing values and statistics are inside the file; labels that were learned make it leaky too."""
    encoder, task = open_encoder(exported), open_task("store:biome", store)
    ours, theirs = features(encoder, task), features(checkpoint, task)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
    tasks = ["store:biome", "store:esa_worldcover", "store:esa_worldcover/shares"]
    rows = evaluate([checkpoint], store, tasks, encoders=[encoder], baselines=(), seeds=1, device="cpu").rows
    found = {
        name: [(r.task, r.protocol, r.leaky, r.value) for r in rows if r.encoder == name]
        for name in (checkpoint.name, encoder.name)
    }
    for one, other in zip(*found.values(), strict=True):
        assert one[:3] == other[:3]
        assert one[3] == pytest.approx(other[3], abs=1e-3)
    assert {row.leaky for row in rows if row.task == "store:esa_worldcover"} == {True}


def own_file(path: Path, **changes: Any) -> Path:
    """Write a file like those of `mmearth-train export`: uint16 numbers of all stored bands to their averages."""
    modality = load_catalog().find("sentinel2")
    description = {
        "kind": "encoder",
        "inputs": [{"name": "sentinel2", "type": "uint16", "bands": modality.bands, "used_bands": BANDS, "nodata": 0}],
        "learned": [{"name": "biome", "kind": "tile/categorical"}],
        "patch_px": 24,
    }
    shape = ("batch", len(modality.bands), "24*rows", "24*columns")
    model = onnx.load(onnx_file(path, shape, kind=TensorProto.UINT16, name="sentinel2"))
    text = changes.get("text") or json.dumps({**description, **changes})
    model.metadata_props.add(key="mmearth", value=text)
    onnx.save(model, path)
    return path


def test_an_exported_file_takes_numbers_as_stored_and_says_whose_statistics(
    tmp_path: Path, eurosat: LabelledSet, test_data: Path
) -> None:
    """Of images of 64 px, the middle 48 px; float values of files are rounded, and an observed 0 stays observed."""
    encoder = open_encoder(own_file(tmp_path / "own.onnx"))
    found = features(encoder, eurosat)
    with rasterio.open(test_data / "eurosat_ms" / eurosat.ids[7]) as file:
        red = file.read(4)[8:56, 8:56]
    place = load_catalog().find("sentinel2").bands.index("B4")
    assert found[7, place] == pytest.approx(red.mean())
    reading = encoder.input(eurosat)
    (batch,) = eurosat.images.batches(np.array([0]), 1, reading.stored)
    batch = {**batch, "sentinel2": batch["sentinel2"].copy()}
    batch["sentinel2"][0, 0, 0, :3] = 0.001, 0.0, 1250.6
    assert reading.images(batch)[0, 0, 0, :3].tolist() == [1, 0, 1251]
    result = evaluate([], None, [eurosat], encoders=[encoder], baselines=(), protocols=["knn"], seeds=1, device="cpu")
    assert result.notes[0].startswith(f"eurosat-ms: {encoder.name} is normalised with the statistics in its file")


def test_an_exported_file_knows_what_its_encoder_has_learned(tmp_path: Path, store: Store) -> None:
    encoder = open_encoder(own_file(tmp_path / "own.onnx"))
    candidate = candidate_of(encoder, (0,))
    leaky = {name: candidate.leaky_for(open_task(name, store)) for name in ("store:biome", "store:esa_worldcover")}
    assert leaky == {"store:biome": True, "store:esa_worldcover": False}


def test_a_module_described_like_a_checkpoint_has_its_figures(checkpoint: Checkpoint, thumbnails: LabelledSet) -> None:
    """Our own encoder as anybody's module: with the task's statistics, every protocol gives the same."""
    encoder = open_encoder(checkpoint.encoder(), described(name="module"))
    assert np.array_equal(features(encoder, thumbnails), features(checkpoint, thumbnails))
    rows = evaluate([checkpoint], None, [thumbnails], encoders=[encoder], baselines=(), seeds=1, device="cpu").rows
    ours, theirs = ([(r.protocol, r.value) for r in rows if (r.encoder == "module") is mine] for mine in (True, False))
    assert ours == theirs
    assert len(ours) == 3


class Dead(nn.Module):
    """Gives one vector whatever it sees."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(x), 4)


def test_an_encoder_that_gives_all_images_the_same_features_is_named(thumbnails: LabelledSet) -> None:
    modules = {"dead": Dead(), "means": Means()}
    encoders = [open_encoder(module, described(name=name)) for name, module in modules.items()]
    given: dict[str, Any] = {"protocols": ("knn",), "baselines": (), "seeds": 1, "device": "cpu"}
    found = evaluate([], None, [thumbnails], encoders=encoders, **given)
    (note,) = (note for note in found.notes if "the same features" in note)
    assert note.startswith(f"dead: all {len(thumbnails)} samples of {thumbnails.name} have the same features")


def test_a_module_is_trained_like_a_checkpoint(checkpoint: Checkpoint, thumbnails: LabelledSet) -> None:
    """From the same head, two steps of either give the same network: the steps, rates and decays are the same."""
    recipe = FineTuneRecipe(epochs=1, batch_size=8, drop_path=0.0, layer_decay=1.0, augment=False)
    models = [candidate_of(each, (0,)).model for each in (checkpoint, open_encoder(checkpoint.encoder(), described()))]
    tuners = [
        FineTuner(model.network(), model.input(thumbnails), thumbnails, thumbnails.parts.train[:16], recipe, CPU)  # type: ignore[arg-type]
        for model in models
    ]
    tuners[1].model.head.load_state_dict(tuners[0].model.head.state_dict())
    tuners[1]._kept = tuners[0]._kept
    for tuner in tuners:
        tuner._epoch(0, tuner.optimizer())
    trained, other = (list(tuner.model.state_dict().values()) for tuner in tuners)
    assert all(torch.equal(one, two) for one, two in zip(trained, other, strict=True))
    assert not torch.equal(trained[0], checkpoint.encoder().stem.conv.weight)  # type: ignore[arg-type, union-attr]


@pytest.mark.slow
def test_an_exported_map_gives_the_figures_of_its_checkpoint_too(
    store: Store, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Of whole images; per pixel, its last map is probed, and the checkpoint's maps of all stages."""
    encoder = open_encoder(export_program(checkpoint, tmp_path / "map.onnx", to="onnx", features="map"))
    task = open_task("store:biome", store)
    assert np.abs(features(encoder, task) - features(checkpoint, task)).max() < 1e-4
    pixels = ["store:esa_worldcover/pixels"]
    (row,) = evaluate([], store, pixels, encoders=[encoder], baselines=(), seeds=1, device="cpu").rows
    assert row.protocol == "pixels"
    assert row.value > 0.1


# ---------------------------------------------------------------- what reaches the encoder


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"units": "physical", "normalise": "none"}, lambda dn: dn / 10_000),
        ({"units": "stored", "normalise": "none"}, lambda dn: dn),
        ({"units": "0-1", "range": (0, 0.275), "normalise": "none"}, lambda dn: np.clip(dn / 2750, 0, 1)),
        ({"units": "0-255", "normalise": "none"}, lambda dn: np.clip(dn / 3000, 0, 1) * 255),
        ({"units": "stored", "mean": (900, 800, 700), "std": (10, 20, 40)}, lambda dn: (dn - [900, 800, 700]) / [10, 20, 40]),
        (
            {"units": "0-1", "range": (0, 0.1), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)},
            lambda dn: (np.clip(dn / 1000, 0, 1) - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.1],
        ),
    ],
)  # fmt: skip
def test_values_reach_the_encoder_in_its_bands_and_units(
    eurosat: LabelledSet, test_data: Path, fields: dict[str, Any], expected: Callable[[Any], Any]
) -> None:
    """Compared with the numbers of the file itself: bands 4, 3 and 2 of EuroSAT's GeoTIFFs."""
    encoder = open_encoder(Means(), EncoderDescription(bands=RGB, **fields))
    with rasterio.open(test_data / "eurosat_ms" / eurosat.ids[7]) as file:
        numbers = np.moveaxis(file.read([4, 3, 2]).astype(np.float64), 0, -1)
    found = features(encoder, eurosat)[7]
    assert found == pytest.approx(expected(numbers).mean(axis=(0, 1)), rel=1e-4, abs=1e-5)


def test_the_tasks_own_statistics_give_mean_zero(store: Store, eurosat: LabelledSet) -> None:
    encoder = open_encoder(Means(), described(bands=RGB))
    train = features(encoder, eurosat)[eurosat.parts.train]
    assert np.abs(train.mean(axis=0)).max() < 1e-3
    tiles = open_task("store:biome", store)
    levels = store.coords["s2_level"]
    means = features(encoder, tiles)
    for level in np.unique(levels[tiles.parts.train]):
        rows = [row for row in tiles.parts.train if levels[row] == level]
        assert np.abs(means[rows].mean(axis=0)).max() < 1e-3


def test_images_are_resized_to_the_size_that_an_encoder_takes(eurosat: LabelledSet) -> None:
    """Bilinear resizing creates no values outside of the range of the image."""
    plain, large, small = (
        features(open_encoder(Extremes(), EncoderDescription(bands=RGB, normalise="none", size_px=side)), eurosat)
        for side in (None, 224, 24)
    )
    assert [set(found[:, 6].tolist()) for found in (plain, large, small)] == [{64.0}, {224.0}, {24.0}]
    for found in (large, small):
        assert (found[:, :3] >= plain[:, :3] - 1e-6).all()
        assert (found[:, 3:6] <= plain[:, 3:6] + 1e-6).all()


def test_bands_that_a_task_lacks_are_filled_and_named(eurosat: LabelledSet) -> None:
    images: Any = eurosat.images
    bands = [None if band == "B11" else band for band in images.spec.file_bands]
    task = replace(eurosat, images=replace(images, spec=images.spec.model_copy(update={"bands": bands}), _cache={}))
    encoder = open_encoder(Means(), EncoderDescription(name="means", bands=("B11", "B4"), mean=(0.1, 0.1), std=(1, 1)))
    result = evaluate([], None, [task], encoders=[encoder], baselines=(), protocols=["knn"], seeds=1, device="cpu")
    assert result.filled == {("eurosat-ms", "means"): ("sentinel2.B11",)}
    assert set(features(encoder, task)[:, 0].tolist()) == {0.0}


# ---------------------------------------------------------------- what comes out of it


def test_outputs_of_every_form_are_read_as_maps() -> None:
    """B 2, D 3: vectors, maps with features first and last, tokens with and without a class token, names, lists."""
    grid = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    tokens = grid.flatten(2).transpose(1, 2)
    classed = torch.cat([torch.full((2, 1, 3), 7.0), tokens], dim=1)
    cases: list[tuple[Reading, Any]] = [
        (Reading(), grid),
        (Reading(output="map-last"), grid.permute(0, 2, 3, 1)),
        (Reading(), tokens),
        (Reading(class_tokens=1), classed),
        (Reading(name="map"), {"other": classed, "map": grid}),
        (Reading(), {"only": grid}),
        (Reading(), [torch.zeros(2, 5, 8, 8), grid]),
    ]
    for reading, found in cases:
        assert torch.equal(reading.maps(found)[-1], grid), reading
    assert [tuple(part.shape) for part in cases[-1][0].maps(cases[-1][1])] == [(2, 5, 8, 8), (2, 3, 4, 4)]
    assert torch.equal(Reading().maps(grid.mean((2, 3)))[0], grid.mean((2, 3), keepdim=True))
    assert torch.equal(Reading(class_tokens=1, use_class=True).maps(classed)[0], torch.full((2, 3, 1, 1), 7.0))
    assert Reading().maps(tokens[:, :15])[0].shape == (2, 3, 1, 15)  # not a square


@pytest.mark.parametrize(
    ("reading", "found", "words"),
    [
        (Reading(), torch.zeros(2, 3, 4, 5, 6), r"got float32 of shape \(2, 3, 4, 5, 6\)"),
        (Reading(), torch.zeros(2, 3, dtype=torch.int64), "of floating-point numbers, got int64"),
        (Reading(), torch.zeros(2, 0), r"got float32 of shape \(2, 0\)"),
        (Reading(), "text", "got a str"),
        (Reading(output="map"), torch.zeros(2, 3), "expected map with 4 axes"),
        (Reading(), {"a": 1, "b": 2}, "one of the outputs a, b, got none"),
        (Reading(name="c"), {"a": 1}, "one of the outputs a, got 'c'"),
        (Reading(name="c"), torch.zeros(2, 3), "expected an encoder with named outputs"),
        (Reading(class_tokens=4), torch.zeros(2, 4, 3), "fewer than the 4 tokens, got 4"),
        (Reading(class_tokens=1), torch.zeros(2, 4, 3, 3), r"class_tokens: expected tokens \(B, N, D\)"),
    ],
)
def test_other_outputs_are_refused(reading: Reading, found: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        reading.maps(found)


class Maps(nn.Module):
    """Our encoder as a module that returns the maps of all stages."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.encoder = checkpoint.encoder()

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.encoder.forward_features(x)


def test_pixels_are_probed_on_all_maps_and_not_on_vectors(store: Store, checkpoint: Checkpoint) -> None:
    images = torch.randn(2, len(BANDS), 32, 32, generator=torch.Generator().manual_seed(0))
    ours, theirs = open_encoder(Maps(checkpoint), described()).network(), checkpoint.encoder()
    with torch.inference_mode():
        assert torch.equal(hypercolumns(ours, images), hypercolumns(theirs, images))
    assert ours.channels == theirs.channels
    task = open_task("store:esa_worldcover/pixels", store)
    with pytest.raises(InputError, match="Means: expected maps or tokens for store:esa_worldcover/pixels"):
        open_encoder(Means(), described()).check(task, CPU)
    with pytest.raises(InputError, match="add a checkpoint, --encoder or --baseline random"):
        evaluate([], store, ["store:esa_worldcover/pixels"], baselines=("statistics",), seeds=1, device="cpu")


@pytest.mark.slow
def test_maps_of_a_module_give_the_figures_of_the_checkpoint_per_pixel(store: Store, checkpoint: Checkpoint) -> None:
    encoder = open_encoder(Maps(checkpoint), described(name="maps"))
    pixels = ["store:esa_worldcover/pixels"]
    rows = evaluate([checkpoint], store, pixels, encoders=[encoder], baselines=(), seeds=1, device="cpu").rows
    assert [row.encoder for row in rows] == [checkpoint.name, "maps"]
    assert rows[0].value == rows[1].value


# ---------------------------------------------------------------- training


class Normed(nn.Module):
    """Batch normalisation, whose training depends on the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(len(BANDS), 4, 8, stride=8)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(self.stem(x))
        return normed


def test_batches_of_an_encoder_with_batch_normalisation_are_not_sliced(thumbnails: LabelledSet) -> None:
    """Its running mean after one step is that of the whole batch; frozen, it does not change."""
    train = thumbnails.parts.train[:16]
    for frozen in (False, True):
        encoder = open_encoder(Normed(), described())
        before = encoder.backbone.network.norm.running_mean.clone()  # type: ignore[operator, union-attr]
        recipe = FineTuneRecipe(epochs=1, batch_size=16, augment=False, lr=1e-12, frozen=frozen, frozen_drop_path=True)
        tuner = FineTuner(encoder.network(), encoder.input(thumbnails), thumbnails, train, recipe, CPU)
        tuner.fit()
        trained: Any = tuner.model.encoder
        images = tuner._images(train)
        mean = trained.network.stem(images).mean(dim=(0, 2, 3)).detach()
        expected = before if frozen else 0.9 * before + 0.1 * mean
        assert torch.allclose(trained.network.norm.running_mean, expected, atol=1e-4)


def test_layers_of_a_module_are_its_numbered_blocks() -> None:
    """As in ResNets and ConvNeXts of timm: a stem, blocks in stages, a convolution between stages, a last norm."""
    block = lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())  # noqa: E731
    network = nn.ModuleDict(
        {
            "conv1": nn.Conv2d(3, 4, 1),
            "layer1": nn.Sequential(block(), block()),
            "layer2": nn.Sequential(nn.ModuleDict({"conv": block(), "downsample": nn.Sequential(nn.Conv2d(4, 4, 1))})),
            "norm": nn.BatchNorm2d(4),
        }
    )
    encoder = External(network, name="n", in_channels=3, identity="", reading=Reading())
    layers = {name: encoder.layer_of(name) for name, _ in encoder.named_parameters()}
    assert layers["network.conv1.weight"] == 0
    assert layers["network.layer1.0.0.weight"] == 1
    assert layers["network.layer1.1.0.weight"] == 2
    assert layers["network.layer2.0.conv.0.weight"] == layers["network.layer2.0.downsample.0.weight"] == 3
    assert layers["network.norm.weight"] == encoder.layers == 3
    encoder._channels = (4,)
    model = Classifier(encoder, 2)
    groups = parameter_groups(model, lr=1.0, weight_decay=0.0, layer_decay=0.5, frozen=False)
    scales = {id(group["params"][0]): group["scale"] for group in groups}  # type: ignore[index]
    assert scales[id(network["conv1"].weight)] == 0.5**4
    assert scales[id(model.head.weight)] == 1.0


@pytest.mark.slow
def test_the_papers_probe_trains_the_head_on_a_frozen_module(thumbnails: LabelledSet, here: Path) -> None:
    (here / "net.yaml").write_text(yaml.safe_dump({"bands": list(BANDS), "normalise": "task"}))
    encoder = open_encoder("factories:net")
    before = encoder.backbone.digest
    recipe = paper_recipe(thumbnails, len(thumbnails.parts.train), probe=True)
    rows = evaluate(
        [], None, [thumbnails], encoders=[encoder], baselines=(), protocols=["paper"], seeds=1, device="cpu"
    ).rows
    assert [(row.encoder, row.protocol) for row in rows] == [("factories:net", "paper")]
    assert encoder.backbone.digest == before
    assert recipe.frozen


def test_features_without_gradients_cannot_be_fine_tuned(thumbnails: LabelledSet) -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(len(BANDS), 4, 8, stride=8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                mapped: torch.Tensor = self.stem(x)
            return mapped

    encoder = open_encoder(Detached(), described())
    with pytest.raises(InputError, match=r"expected features with gradients, got none; remove torch.no_grad"):
        finetune(encoder, thumbnails, FineTuneRecipe(epochs=1), device="cpu")


# ---------------------------------------------------------------- factories


def test_a_factory_is_called_with_its_arguments_and_weights(here: Path, eurosat: LabelledSet) -> None:
    """The weights of the file are those of the module; names beside, after =, and as an argument are the same."""
    fields = {"bands": list(RGB), "normalise": "none", "arguments": {"bands": 3, "width": 5}}
    (here / "net.yaml").write_text(yaml.safe_dump(fields))
    first = open_encoder("factories:net")
    assert first.backbone.channels == (5,)
    assert open_encoder("factories:net=net.yaml").backbone.digest == first.backbone.digest  # the same random numbers
    assert open_encoder("factories:net", here / "net.yaml").backbone.digest == first.backbone.digest
    state = {name: value + 1 for name, value in first.backbone.network.state_dict().items()}
    (here / "elsewhere").mkdir()
    save_file(state, here / "elsewhere" / "w.safetensors")
    torch.save({"state_dict": state}, here / "elsewhere" / "w.pth")
    for file in ("w.safetensors", "w.pth"):
        (here / "elsewhere" / "d.yaml").write_text(yaml.safe_dump({**fields, "weights": file}))
        loaded = open_encoder("factories:net=elsewhere/d.yaml")
        assert torch.equal(loaded.backbone.network.stem.bias, state["stem.bias"])  # type: ignore[arg-type, union-attr]


def test_what_determines_the_features_determines_the_digest(here: Path) -> None:
    """Weights, description and source; not what is only said about the encoder."""
    base: dict[str, Any] = {"bands": list(BANDS), "normalise": "task"}

    def digest(**fields: Any) -> str:
        return open_encoder("factories:net", EncoderDescription(**{**base, **fields})).backbone.digest

    first = digest()
    assert digest(name="other", licence="MIT", source="somewhere") == first
    assert len({first, digest(arguments={"width": 9}), digest(size_px=32), digest(output="map")}) == 4
    (here / "factories.py").write_text(FACTORIES.replace("self.stem(x).relu()", "self.stem(x).tanh()"))
    del sys.modules["factories"]
    assert digest() != first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing", "expected FILE.onnx or PACKAGE.MODULE:FACTORY, .* got 'nothing'"),
        ("os.system('x'):y", "expected FILE.onnx or PACKAGE.MODULE:FACTORY"),
        ("no_such_module:net", "got ModuleNotFoundError: No module named 'no_such_module'; correct the name, or set PYTHONPATH"),
        ("factories:nett", "expected nett in factories, got a module without it"),
        ("factories:value", "expected a function or a class, got a int"),
        ("spoilt:net", "expected a module that can be imported, got SyntaxError"),
        ("factories:raises=d.yaml", "got RuntimeError: Found no NVIDIA driver"),
        ("factories:ends=d.yaml", "expected a factory that returns a module, got SystemExit: 5"),
        ("factories:number=d.yaml", "returns a torch.nn.Module, got a int"),
        ("factories:net", "expected the description of the encoder at net.yaml, got none"),
        ("factories:net=nosuch.yaml", "nosuch.yaml: expected the description of an encoder; no such file"),
        ("factories:net=args.yaml", "unexpected keyword argument 'depth'; correct it, or arguments"),
        ("factories:net=lost.yaml", "lost.pth: expected a complete file of weights, got: "),
        ("factories:net=pickle.yaml", "got a pickle that asks for "),
        ("factories:net=other.yaml", "other.safetensors: expected the weights of factories:net, got RuntimeError"),
        ("factories:net=nan.yaml", r"nan.safetensors: expected numbers as weights, got others in stem.bias \(1 of 2\)"),
    ],
)  # fmt: skip
def test_a_factory_that_makes_no_encoder_is_refused(here: Path, text: str, words: str) -> None:
    base = {"bands": list(BANDS), "normalise": "task"}
    files = {"d": {}, "args": {"arguments": {"depth": 3}}, "lost": {"weights": "lost.pth"}, "pickle": {"weights": "p.pth"}, "other": {"weights": "other.safetensors"}, "nan": {"weights": "nan.safetensors"}}  # fmt: skip
    for name, fields in files.items():
        (here / f"{name}.yaml").write_text(yaml.safe_dump({**base, **fields}))
    (here / "spoilt.py").write_text("def net(:\n")
    torch.save({"state_dict": Path("x")}, here / "p.pth")
    save_file({"stem.weight": torch.zeros(1)}, here / "other.safetensors")
    save_file({"stem.bias": torch.tensor([torch.inf, torch.nan])}, here / "nan.safetensors")
    with pytest.raises(InputError, match=words):
        open_encoder(text)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Fixed", r"expected an encoder that accepts 2 images of 64 x 64 px with 12 channels on cpu, got AssertionError: Input height \(64\) .* set size_px"),
        ("Flat", "expected features of 2"),
        ("Broken", "expected finite features, got NaN or infinity"),
        ("Named", "expected one of the outputs tokens, pooled, got none; set it"),
        ("Words", "got a str"),
    ],
)  # fmt: skip
def test_an_encoder_that_fails_is_refused_before_anything_is_computed(
    here: Path, eurosat: LabelledSet, name: str, words: str
) -> None:
    encoder = open_encoder(f"factories:{name}", described())
    with pytest.raises(InputError, match=f"factories:{name}: .*{words}"):
        evaluate([], None, [eurosat], encoders=[encoder], baselines=(), seeds=1, device="cpu")


def test_features_whose_number_depends_on_the_image_are_refused(here: Path, eurosat: LabelledSet) -> None:
    encoder = open_encoder("factories:Sized", described())
    assert encoder.backbone.eval()(torch.zeros(1, 12, 8, 8)).shape == (1, 12 * 64, 1, 1)
    with pytest.raises(InputError, match="expected 768 features as of other images, got 192; set size_px"):
        encoder.backbone(torch.zeros(1, 12, 4, 4))


def test_encoders_of_one_name_are_refused(thumbnails: LabelledSet) -> None:
    twice = [open_encoder(Means(), described()) for _ in range(2)]
    with pytest.raises(InputError, match=r"expected encoders with different names, got Means twice; .* set name"):
        evaluate([], None, [thumbnails], encoders=twice, baselines=(), seeds=1, device="cpu")


# ---------------------------------------------------------------- ONNX files


def onnx_file(
    path: Path,
    shape: tuple[Any, ...] = ("batch", 3, "rows", "columns"),
    *,
    inputs: int = 1,
    kind: int = TensorProto.FLOAT,
    operation: str = "GlobalAveragePool",
    name: str = "input0",
) -> Path:
    """Write a file that averages the channels of its first input, or does another ``operation``, in float32."""
    names = [name, *(f"input{number}" for number in range(1, inputs))]
    first = helper.make_node("Cast", [names[0]], ["cast"], to=TensorProto.FLOAT)
    nodes = [first, helper.make_node(operation, ["cast"], ["features"])]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, kind, shape) for name in names],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (("batch", 3, "rows", "columns"), TensorProto.FLOAT),
        ((1, 3, 16, 16), TensorProto.DOUBLE),
        ((6, 3, None, None), TensorProto.FLOAT16),
    ],
)
def test_an_onnx_file_of_any_batch_size_and_type_is_an_encoder(
    tmp_path: Path, thumbnails: LabelledSet, shape: tuple[Any, ...], kind: int
) -> None:
    """The same averages as the module in PyTorch; its description is next to it."""
    path = onnx_file(tmp_path / "means.onnx", shape, kind=kind)
    (tmp_path / "means.yaml").write_text(yaml.safe_dump({"bands": list(RGB), "normalise": "task"}))
    encoder = open_encoder(str(path))
    expected = features(open_encoder(Means(), described(bands=RGB)), thumbnails)
    assert features(encoder, thumbnails) == pytest.approx(expected, abs=1e-2 if kind == TensorProto.FLOAT16 else 1e-5)
    assert not encoder.trainable
    with pytest.raises(InputError, match="expected a PyTorch module with weights to fine-tune, got none"):
        finetune(encoder, thumbnails, FineTuneRecipe(epochs=1), device="cpu")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: onnx_file(p, inputs=2), r"expected one input of images, got 2 \(input0, input1\)"),
        (lambda p: onnx_file(p, ("batch", 5, "rows", "columns")), r"\(batch, 3, rows, columns\), .* got input0 of shape \(any, 5, any, any\)"),
        (lambda p: onnx_file(p, ("batch", 3)), r"got input0 of shape \(any, 3\)"),
        (lambda p: onnx_file(p, kind=TensorProto.BOOL), r"expected the input input0 to be an array of numbers, got tensor\(bool\)"),
        (lambda p: onnx_file(p, ("batch", 3, 32, 32)), r"64 x 64 px with 3 channels on cpu, got InvalidArgument: .*; set size_px"),
        (lambda p: onnx_file(p, operation="Log"), "expected finite features, got NaN"),
        (lambda p: p.write_bytes(b"not a model"), "x.onnx: expected an ONNX file, got InvalidProtobuf: .*; export it again"),
        (lambda p: p.write_bytes(b""), "x.onnx: expected an ONNX file, got "),
        (lambda p: p.mkdir(), "x.onnx: expected an ONNX file, got: expected a file, got a folder"),
        (lambda p: None, "x.onnx: expected an ONNX file, got: no such file"),
    ],
)  # fmt: skip
def test_an_onnx_file_that_is_no_encoder_is_refused(
    tmp_path: Path, eurosat: LabelledSet, make: Callable[[Path], Any], words: str
) -> None:
    path = tmp_path / "x.onnx"
    make(path)
    with pytest.raises(InputError, match=words) as caught:
        open_encoder(path, described(bands=RGB)).check(eurosat, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": "{"}, "expected a description in the metadata mmearth, got other text"),
        ({"kind": "network"}, "expected an encoder, got a network, which outputs predictions"),
        ({"inputs": [{"name": "x"}]}, "got one that does not fit: "),
        ({"inputs": None}, "got one that does not fit: "),
        ({"patch_px": "large"}, "got one that does not fit: "),
        ({"learned": [3]}, "got one that does not fit: "),
    ],
)
def test_a_damaged_exported_file_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=rf"own\.onnx: .*{words}"):
        open_encoder(own_file(tmp_path / "own.onnx", **change))


def test_an_exported_file_needs_no_description_and_the_same_catalog(tmp_path: Path, eurosat: LabelledSet) -> None:
    path = own_file(tmp_path / "own.onnx")
    with pytest.raises(InputError, match=r"expected no description for .*own\.onnx, which describes itself"):
        open_encoder(path, described())
    other = [{"name": "sentinel2", "type": "uint16", "bands": ["B1"], "used_bands": ["B1"], "nodata": 0}]
    with pytest.raises(
        InputError, match=r"expected sentinel2 as stored in pretraining \(B1, uint16, 0\), got \(B1, B2, "
    ):
        open_encoder(own_file(tmp_path / "own.onnx", inputs=other)).check(eurosat, CPU)


def test_a_machine_without_onnxruntime_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = onnx_file(tmp_path / "x.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r'library onnxruntime .* run: pip install "mmearth\[export\]"'):
        open_encoder(path)


# ---------------------------------------------------------------- descriptions


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bands": None}, "the field 'bands' is missing"),
        ({"bands": []}, "bands: expected at least 1 value"),
        ({"bands": ["B4", "B4", "B2"]}, "bands: expected every band once, got B4 twice"),
        ({"bands": ["B4", "B3", "B22"]}, r"bands: expected bands of sentinel2 \(B1, .*\), got 'B22'"),
        ({"bands": 3}, "bands: expected a list"),
        ({"band": ["B4"]}, "band"),
        ({"modality": "biome", "bands": ["biome"]}, "modality: expected one of kind raster/continuous"),
        ({"units": "counts"}, "units: expected .*physical.*, got 'counts'"),
        ({"range": [0, 1]}, "range: expected two ascending numbers, with units 0-1 or 0-255, got .* with physical"),
        ({"units": "0-1", "range": [1, 0]}, "range: expected two ascending numbers"),
        ({"mean": None, "std": None}, "expected mean and std, or normalise: task or none, got neither"),
        ({"std": None}, "expected mean and std, or normalise: task or none, got mean"),
        ({"normalise": "task"}, "got mean and std and normalise: task; give one"),
        ({"normalise": "z"}, "normalise"),
        ({"mean": [0, 0]}, "mean: expected 3 numbers, one for each band, got 2"),
        ({"std": [1, 1, 0]}, "std: expected numbers above 0, got 0"),
        ({"mean": [0, 0, float("nan")]}, "mean"),
        ({"mean": None, "std": None, "normalise": "task", "units": "stored"}, "units: expected none with normalise: task"),
        ({"size_px": 4}, "size_px: expected a number of at least 8, got 4"),
        ({"size_px": "big"}, "size_px: expected a whole number"),
        ({"output": "image"}, "output: expected .*vector.*, got 'image'"),
        ({"name": "a\nb"}, "name: expected printable text in one line"),
        ({"class_tokens": -1}, "class_tokens: expected a number of at least 0"),
        ({"output": "map", "class_tokens": 1}, "class_tokens: expected none for the output map, got 1"),
        ({"pool": "class"}, "pool: class needs a class token"),
        ({"pool": "max"}, "pool"),
        ({"arguments": [1]}, "arguments: expected a mapping"),
        ({"weights": 3}, "weights"),
        ({"learned": ["bioome"]}, "learned: expected modalities of the catalog, got 'bioome'. Did you mean 'biome'"),
        ({"licence": 3}, "licence"),
        ({"name": ""}, "name: expected text of at least 1 character"),
    ],
)  # fmt: skip
def test_a_wrong_field_of_a_description_is_named(here: Path, fields: dict[str, Any], words: str) -> None:
    whole = {"bands": list(RGB), "mean": [0.1, 0.1, 0.1], "std": [0.1, 0.1, 0.1], **fields}
    (here / "net.yaml").write_text(yaml.safe_dump({key: value for key, value in whole.items() if value is not None}))
    with pytest.raises(InputError, match=words) as caught:
        open_encoder("factories:net")
    assert "\n" not in str(caught.value)
    assert "net.yaml" in str(caught.value)


def test_a_modality_that_neither_catalog_nor_store_has_is_refused_for_the_task(eurosat: LabelledSet) -> None:
    encoder = open_encoder(Means(), EncoderDescription(modality="sentinel3", bands=("O1",), normalise="none"))
    with pytest.raises(InputError, match=r"Means: modality: expected one of the catalog or of .*, got 'sentinel3'"):
        encoder.input(eurosat)
    radar = open_encoder(Means(), EncoderDescription(modality="sentinel1", bands=("asc_VV",), normalise="none"))
    with pytest.raises(InputError, match="Means: "):
        evaluate([], None, [eurosat], encoders=[radar], baselines=(), seeds=1, device="cpu")


def test_a_tasks_own_statistics_must_exist(test_data: Path, eurosat: LabelledSet) -> None:
    images: Any = eurosat.images
    changed = replace(images, spec=images.spec.model_copy(update={"normalise": "checkpoint"}), _cache={})
    with pytest.raises(InputError, match="expected statistics of the task for normalise: task, got none"):
        open_encoder(Means(), described()).input(replace(eurosat, images=changed))


# ---------------------------------------------------------------- command lines


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, list(words))


def test_encoders_checkpoints_and_baselines_are_in_one_table(here: Path, store: Store, checkpoint: Checkpoint) -> None:
    fields = {"name": "mine", "bands": list(BANDS), "normalise": "task", "licence": "MIT", "source": "my laptop"}
    (here / "net.yaml").write_text(yaml.safe_dump(fields))
    own_file(here / "own.onnx", patch_px=8)
    done = run(
        "evaluate", str(checkpoint.folder), "--encoder", "factories:net", "--encoder", "own.onnx",
        "--baseline", "statistics", "--store", str(store.path), "--task", "store:biome", "--protocol", "knn", "--seeds", "1",
        "--speed", "--cache", "c", "--out", "o", "--device", "cpu",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert any(line.startswith("mine") for line in done.stdout.splitlines())
    assert "images/s" in done.stdout
    found = json.loads(Path("o/results.json").read_text())
    names = {row["encoder"] for row in found["rows"]}
    assert names == {"mine", "own.onnx", str(checkpoint.folder), "image statistics"}
    assert all(row["images_per_s"] > 0 for row in found["rows"])
    record = found["encoders"]["mine"]
    assert record["program"] == "factories:net"
    assert record["description"]["licence"] == "MIT"
    assert record["digest"].startswith("blake2b:")
    assert len(list(Path("c").glob("*.npy"))) == 4


def test_a_module_is_fine_tuned_by_command(here: Path, store: Store) -> None:
    (here / "net.yaml").write_text(yaml.safe_dump({"bands": list(BANDS), "normalise": "task"}))
    words = ("finetune", "--encoder", "factories:net", "--store", str(store.path), "--task", "store:biome", "--epochs", "2", "--json")  # fmt: skip
    done = run(*words)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["encoder"], row["protocol"]) == ("factories:net", "finetune")
    for more, problem in (
        (("--out", "o"), "--out"),
        (("--drop-path", "0.2"), "--drop-path"),
        (("--padding", "same"), "--padding"),
        (("--task", "store:esa_worldcover/pixels"), "task of whole images"),
    ):
        refused = run(*words, *more)
        assert refused.exit_code == 2
        assert problem in refused.stderr.splitlines()[-1]
    both, neither = run("finetune", "run", *words[1:]), run("finetune", *words[3:])
    assert both.exit_code == neither.exit_code == 2
    assert "expected either CKPT or --encoder, got both" in both.stderr
    assert "expected either CKPT or --encoder, got neither" in neither.stderr


def test_results_and_features_are_not_written_into_a_store(store: Store) -> None:
    words = ("evaluate", "--store", str(store.path), "--task", "store:biome", "--baseline", "statistics")
    for option in ("--out", "--cache"):
        found = run(*words, option, str(store.path))
        assert found.exit_code == 2
        assert f"choose another {option}" in found.output
    found = run(*words, "--baseline", "none")
    assert found.exit_code == 2
    assert "expected none alone" in found.output
