"""Third-party frameworks with the files of pipelines/integrations: terratorch, torchgeo-bench, segmentation_models_pytorch.

``make prove-ecosystem`` runs this file in a separate environment.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmearth_data import load_catalog, resource_path
from mmearth_model import ConvNeXtV2, EncoderConfig, Normaliser, load_encoder
from mmearth_model.weights.checkpoints import ENCODER_ONLY, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore"),  # each of the other sides has its own
]

FOLDER = resource_path("pipelines") / "integrations"
BENCH_BANDS = ("blue", "green", "red", "nir", "swir_1", "water_vapour", "vv")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of Sentinel-2 and Sentinel-1 with random parameters, GRN's too."""
    modalities = [load_catalog().modalities[name] for name in ("sentinel2", "sentinel1")]
    bands = {"count": 10, "mean": 5.0, "std": 2.0}
    levels = {"sentinel2": ("L1C", "L2A"), "sentinel1": ("-",)}
    known = {m.name: {level: dict.fromkeys(m.bands, bands) for level in levels[m.name]} for m in modalities}
    normaliser = Normaliser(modalities, {"train": known}, inputs=["sentinel2", "sentinel1"])
    shape: dict[str, Any] = {"depths": [1, 1, 2, 1], "widths": [8, 16, 24, 32], "patch_size": 16, "image_size": 64}
    encoder = ConvNeXtV2(EncoderConfig(**shape, in_channels=normaliser.in_channels))
    torch.manual_seed(1)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("checkpoint")
    config = {"architecture": ENCODER_ONLY, "model": {"encoder": asdict(encoder.config)}, "loss": {}, "normaliser": normaliser.to_config(), "recipe": {}, "store": {"path": ""}, "progress": {}}  # fmt: skip
    write_checkpoint(folder, {"model.encoder": encoder}, config)
    return folder


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> ConvNeXtV2:
    return load_encoder(checkpoint)


@pytest.fixture(scope="module")
def images(encoder: ConvNeXtV2) -> Tensor:
    return torch.randn(4, encoder.config.in_channels, 64, 64, generator=torch.Generator().manual_seed(2))


def load(name: str) -> Any:
    """Import a file of the folder as its users do."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def learns(model: nn.Module, encoder: nn.Module, images: Tensor, wanted: Tensor) -> bool:
    """Whether gradients reach every parameter of the encoder that the loss depends on, and a few steps reduce the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        found = model(images)
        loss = nn.functional.cross_entropy(found if isinstance(found, Tensor) else found.output, wanted)
        loss.backward()
        losses.append(float(loss.detach()))
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in encoder.parameters())
        optimizer.step()
    return losses[-1] < losses[0]


def same(found: Any, expected: Any) -> bool:
    return len(found) == len(expected) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_an_integration_is_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 60


# ---------------------------------------------------------------- segmentation_models_pytorch


@pytest.fixture(scope="module")
def smp(checkpoint: Path) -> Any:
    load("smp_encoder").register("mmearth-test", str(checkpoint))
    return importlib.import_module("segmentation_models_pytorch")


def test_a_unet_of_segmentation_models_knows_our_encoder_by_name(smp: Any, encoder: ConvNeXtV2, images: Tensor) -> None:
    assert "mmearth-test" in smp.encoders.get_encoder_names()
    model = smp.Unet("mmearth-test", encoder_weights=None, encoder_depth=4, decoder_channels=(32, 24, 16, 8), in_channels=images.shape[1], classes=3)  # fmt: skip
    with torch.no_grad():
        assert same(model.eval().encoder(images), [images, *encoder.forward_features(images)])
    assert model.train()(images).shape == (4, 3, 64, 64)
    assert learns(model, model.encoder, images, (images[:, 0] > 0).long())


@pytest.mark.parametrize("decoder", ["FPN", "MAnet", "Linknet", "UPerNet", "Segformer"])
def test_its_other_decoders_run_too(smp: Any, images: Tensor, decoder: str) -> None:
    widths = {"decoder_channels": (32, 24, 16, 8)} if decoder == "MAnet" else {}
    model = getattr(smp, decoder)("mmearth-test", encoder_weights=None, encoder_depth=4, in_channels=images.shape[1], classes=3, **widths)  # fmt: skip
    assert model.eval()(images).shape[:2] == (4, 3)


def test_fewer_stages_are_the_first_ones(smp: Any, encoder: ConvNeXtV2, images: Tensor) -> None:
    model = smp.Unet("mmearth-test", encoder_weights=None, encoder_depth=2, decoder_channels=(16, 8), in_channels=images.shape[1])  # fmt: skip
    with torch.no_grad():
        assert same(model.encoder(images), [images, *encoder.forward_features(images)[:2]])
        assert model.eval()(images).shape == (4, 1, 64, 64)


def test_what_the_encoder_is_not_made_for_is_refused(smp: Any) -> None:
    with pytest.raises(ValueError, match="expected in_channels=20, as the encoder takes, got 3"):
        smp.Unet("mmearth-test", encoder_weights=None, encoder_depth=4, decoder_channels=(32, 24, 16, 8))
    with pytest.raises(ValueError, match="expected encoder_depth 1 to 4"):
        smp.Unet("mmearth-test", encoder_weights=None, in_channels=20)


# ---------------------------------------------------------------- terratorch


@pytest.fixture(scope="module")
def registry() -> Any:
    load("terratorch_backbone")
    return importlib.import_module("terratorch.registry").BACKBONE_REGISTRY


def test_terratorchs_registry_builds_our_backbone(
    registry: Any, checkpoint: Path, encoder: ConvNeXtV2, images: Tensor
) -> None:
    assert "terratorch_mmearth" in registry
    backbone = registry.build("mmearth", checkpoint=str(checkpoint), out_indices=[1, 3])
    assert backbone.out_channels == [16, 32]
    with torch.no_grad():
        maps = encoder.forward_features(images)
        assert same(backbone.eval()(images), [maps[1], maps[3]])
        fresh = registry.build("mmearth", checkpoint=str(checkpoint), pretrained=False)
        assert not torch.equal(fresh.eval()(images)[-1], maps[-1])


@pytest.mark.parametrize(
    ("task", "decoder", "options"),
    [("segmentation", "UperNetDecoder", {"decoder_channels": 16}), ("classification", "IdentityDecoder", {})],
)
def test_terratorchs_models_train_with_it(
    registry: Any, checkpoint: Path, images: Tensor, task: str, decoder: str, options: dict[str, Any]
) -> None:
    factory = importlib.import_module("terratorch.models").EncoderDecoderFactory()
    model = factory.build_model(task=task, backbone="mmearth", backbone_checkpoint=str(checkpoint), decoder=decoder, num_classes=3, **options)  # fmt: skip
    wanted = (images[:, 0] > 0).long()
    assert learns(model.train(), model.encoder, images, wanted if task == "segmentation" else wanted[:, 0, 0])


# ---------------------------------------------------------------- torchgeo-bench


@pytest.fixture(scope="module")
def bench(checkpoint: Path) -> Iterator[Any]:
    """Our model as the benchmark makes it: from its configuration, with the bands of a data set."""
    module = load("torchgeo_bench_model")
    spec = importlib.import_module("torchgeo_bench.datasets.base").BandSpec
    bands = [spec("s2", name, name, mean=1000.0 + i, std=200.0, min=0, max=9000) for i, name in enumerate(BENCH_BANDS)]
    hydra = importlib.import_module("hydra.utils")
    entry = {"_target_": f"{module.__name__}.MMEarth", "name": "mmearth", "checkpoint": str(checkpoint)}
    return hydra.instantiate(entry, bands=bands, normalization="bandspec_zscore")


def make_data(label: Any) -> Any:
    """Scenes of two kinds, brighter or darker in the near infrared, as the benchmark loads them."""
    rng = np.random.default_rng(7)
    raw = torch.from_numpy(rng.normal(1000, 200, (24, len(BENCH_BANDS), 32, 32)).astype(np.float32))
    kinds = torch.arange(24) % 2
    raw[:, 3] += 400 * (2 * kinds[:, None, None] - 1)
    samples = [{"image": image, "label": label(kind)} for image, kind in zip(raw, kinds, strict=True)]
    return raw, kinds, torch.utils.data.DataLoader(samples, batch_size=6)


def test_the_benchmarks_bands_reach_the_encoders_channels(bench: Any, encoder: ConvNeXtV2) -> None:
    raw, _, _ = make_data(int)
    z = (raw - torch.tensor([1000.0 + i for i in range(len(BENCH_BANDS))])[:, None, None]) / 200
    assert encoder.normaliser is not None
    expected = torch.zeros(len(raw), encoder.config.in_channels, 32, 32)
    optical = encoder.normaliser.modalities["sentinel2"].model_bands
    for position, band in enumerate(("B2", "B3", "B4", "B8", "B11", "B9")):
        expected[:, optical.index(band)] = z[:, position]
    for channel in (12, 16):  # VV of both passes
        expected[:, channel] = z[:, 6]
    with torch.no_grad():
        features = encoder(expected).mean(dim=(-2, -1))
        assert torch.allclose(bench.eval()(raw), features, atol=1e-5 * float(features.abs().max()))


def test_the_benchmark_evaluates_it(bench: Any) -> None:
    """Its own k nearest neighbours and logistic regression separate the two kinds."""
    main = importlib.import_module("torchgeo_bench.main")
    *_, loader = make_data(int)
    x, y = main.embed_split(bench.eval(), loader, torch.device("cpu"), verbose=False)
    assert x.shape == (24, 32)
    accuracy, *_ = main.evaluate_knn(x[:16], y[:16], x[16:], y[16:], seed=0, n_bootstrap=10, n_neighbors=3)
    assert accuracy == 1
    accuracy, *_ = main.evaluate_logistic(x[:12], y[:12], x[12:16], y[12:16], x[16:], y[16:], c_values=[1.0], seed=0, n_bootstrap=10, merge_val=True, device="cpu")  # fmt: skip
    assert accuracy == 1


def test_its_segmentation_probe_reads_our_maps_and_trains(bench: Any) -> None:
    probe_class = importlib.import_module("torchgeo_bench.segmentation_probe").SegmentationProbe
    raw, kinds, _ = make_data(int)
    layers = ["maps.3", "maps.2", "maps.1", "maps.0"]
    probe = probe_class(bench, num_classes=2, layer_names=layers, head_type="fpn", freeze_backbone=False)
    assert probe.channels_list == [32, 24, 16, 8]
    wanted = kinds[:, None, None].expand(-1, 32, 32)
    assert learns(probe, bench.encoder, raw, wanted)
