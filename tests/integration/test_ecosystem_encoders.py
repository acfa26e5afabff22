"""Encoders of timm in our table: probed, fine-tuned and timed like checkpoints, with random weights of ImageNet's shape.

timm has dependencies that nothing else needs, so ``make prove-ecosystem`` runs this file in a separate environment.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from encoders import write_encoder
from toy_store import write_store

import mmearth_model
from mmearth_model.cli import cli
from mmearth_model.evaluation.features import extract
from mmearth_model.evaluation.finetune import FineTuneRecipe, finetune
from mmearth_model.tasks import LabelledSet, open_task

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:timm.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:timm.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:huggingface_hub.*"),
]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLOCKS = {"resnet18": 8, "convnext_atto": 12}
"""Model -> its residual blocks, as published."""


@pytest.fixture(scope="module")
def timm() -> Any:
    return importlib.import_module("timm")


@pytest.fixture(scope="module")
def eurosat(test_data: Path) -> LabelledSet:
    return open_task(f"eurosat-ms={test_data / 'eurosat_ms'}")


def fields(model: str, **more: Any) -> dict[str, Any]:
    arguments = {"model_name": model, "num_classes": 0, "in_chans": 3, **more.pop("arguments", {})}
    return {
        "name": model, "bands": ["B4", "B3", "B2"], "units": "0-1", "range": [0, 0.275], "mean": list(MEAN), "std": list(STD),
        "arguments": arguments, **more,
    }  # fmt: skip


@pytest.mark.parametrize("model", BLOCKS)
def test_a_model_of_timm_gives_its_own_features(timm: Any, eurosat: LabelledSet, model: str) -> None:
    """Features of an image are those of the same weights, fed with the picture by hand."""
    encoder = mmearth_model.open_encoder("timm:create_model", mmearth_model.EncoderDescription(**fields(model)))
    (batch,) = eurosat.images.batches(np.array([5]), 1, ("sentinel2",))
    modality = eurosat.images.modalities["sentinel2"]
    picture = np.clip(batch["sentinel2"][:, modality.band_indices(("B4", "B3", "B2"))] / 2750, 0, 1)
    fed = (torch.from_numpy(picture) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    network = timm.create_model(model, num_classes=0)
    network.load_state_dict(encoder.backbone.network.state_dict())
    with torch.inference_mode():
        expected = network.eval()(fed.float())[0].numpy()
    device = torch.device("cpu")
    found = extract(encoder.extractor(eurosat, 0, device), encoder.input(eurosat), eurosat.images, device)[5]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("model", BLOCKS)
def test_layers_of_timms_models_are_its_blocks(timm: Any, model: str) -> None:
    backbone = mmearth_model.open_encoder(
        "timm:create_model", mmearth_model.EncoderDescription(**fields(model))
    ).backbone
    layers = [backbone.layer_of(name) for name, _ in backbone.named_parameters()]
    assert layers[0] == 0
    assert layers == sorted(layers)
    assert max(layers) == backbone.layers >= BLOCKS[model]


def test_resnet_convnext_and_our_export_are_in_one_table(
    timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probed and timed by one command; ours, as an ONNX file, has the figures of the checkpoint."""
    monkeypatch.chdir(tmp_path)
    store = write_store(tmp_path / "toy.zarr", 96, shares=(0.5, 0.25))
    checkpoint = write_encoder(tmp_path / "run", store, depths=(1, 0, 0, 0))
    mmearth_model.export_program(checkpoint, tmp_path / "own.onnx", to="onnx")
    words = ["evaluate", "run", "--encoder", "own.onnx"]
    for model in BLOCKS:
        (tmp_path / f"{model}.yaml").write_text(yaml.safe_dump(fields(model)))
        words += ["--encoder", f"timm:create_model={model}.yaml"]
    words += ["--task", "store:biome", "--seeds", "1", "--speed", "--cache", "c", "--json"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert {row["encoder"] for row in rows} == {"run", "own.onnx", *BLOCKS, "random init"}
    assert all(row["images_per_s"] > 0 for row in rows)
    ours, theirs = ([row["value"] for row in rows if row["encoder"] == name] for name in ("run", "own.onnx"))
    assert ours == pytest.approx(theirs, abs=1e-3)


@pytest.mark.parametrize("model", BLOCKS)
def test_a_model_of_timm_is_fine_tuned(timm: Any, eurosat: LabelledSet, model: str) -> None:
    encoder = mmearth_model.open_encoder("timm:create_model", mmearth_model.EncoderDescription(**fields(model)))
    before = encoder.backbone.digest
    result = finetune(encoder, eurosat, FineTuneRecipe(epochs=1, batch_size=16), device="cpu")
    assert [(row.encoder, row.protocol) for row in result.rows] == [(model, "finetune")]
    assert encoder.backbone.digest == before  # a copy was trained


def test_a_transformer_takes_one_size_and_returns_tokens(timm: Any, eurosat: LabelledSet) -> None:
    """Without size_px it is refused; its features are its class token or the mean of the others."""
    model = "vit_tiny_patch16_224"
    network = timm.create_model(model, num_classes=0)

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.network.forward_features(x)
            return found

    described = fields(model, arguments={}, class_tokens=1)
    del described["arguments"]
    with pytest.raises(Exception, match=r"got AssertionError: Input height .*; set size_px to a size that it accepts"):
        mmearth_model.open_encoder(Tokens(), mmearth_model.EncoderDescription(**described)).check(
            eurosat, torch.device("cpu")
        )
    images = torch.zeros(1, 3, 64, 64)
    resized = torch.nn.functional.interpolate(images, size=224, mode="bilinear")
    with torch.inference_mode():
        tokens = network.eval().forward_features(resized)
        for pool, expected in (("mean", tokens[:, 1:].mean(1)), ("class", tokens[:, 0])):
            encoder = mmearth_model.open_encoder(
                Tokens(), mmearth_model.EncoderDescription(**described, size_px=224, pool=pool)
            )
            assert torch.allclose(encoder.network()(images).mean((2, 3)), expected, atol=1e-5)


def test_maps_of_all_stages_are_probed_per_pixel(timm: Any, tmp_path: Path) -> None:
    store = write_store(tmp_path / "toy.zarr", 48, shares=(0.5, 0.25))
    described = mmearth_model.EncoderDescription(
        **fields("resnet18", arguments={"features_only": True, "num_classes": 10})
    )
    encoder = mmearth_model.open_encoder("timm:create_model", described)
    assert list(encoder.backbone.channels) == [64, 64, 128, 256, 512]
    (row,) = mmearth_model.evaluate(
        [], store, ["store:esa_worldcover/pixels"], encoders=[encoder], baselines=(), seeds=1, device="cpu"
    ).rows
    assert row.protocol == "pixels"
