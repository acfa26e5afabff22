"""Several classes per tile as a target: what the model is to predict, and what a wrong prediction costs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmearth_data import Kind, Modality, load_catalog
from mmearth_model.data.targets import Normaliser
from mmearth_model.network.losses import LossConfig, Target, task_loss
from mmearth_model.network.mpmae import TaskSpec
from mmearth_model.training.figures import answer_text

STORED = np.array([[1, 0, 255], [255, 255, 255], [0, 1, 1]], np.uint8)
LOGITS = [[0.5, -2.0, 3.0], [1.0, 1.0, 1.0], [-0.25, 0.0, 4.0]]


@pytest.fixture
def species() -> Modality:
    biome = load_catalog().modalities["biome"]
    return Modality(
        name="species",
        kind=Kind.TILE_MULTI_LABEL,
        long_name="Species",
        bands=("oak", "beech", "pine"),
        dtype=np.dtype("uint8"),
        nodata=255,
        pretext=True,
        licence=biome.licence,
    )


def target(species: Modality) -> Target:
    sentinel2 = load_catalog().modalities["sentinel2"]
    band = {"count": 9, "mean": 1000.0, "std": 500.0}
    statistics = {"train": {"sentinel2": {level: dict.fromkeys(sentinel2.bands, band) for level in ("L1C", "L2A")}}}
    normaliser = Normaliser([sentinel2, species], statistics, inputs=["sentinel2"], targets=["species"])
    batch = {
        "sentinel2": np.ones((3, len(sentinel2.bands), 8, 8), np.uint16),
        "species": STORED,
        "tile": {"s2_level": np.zeros(3, np.uint8)},
    }
    again = Normaliser.from_config(normaliser.to_config())
    found, copy = (one(batch).targets["species"] for one in (normaliser, again))
    assert torch.equal(found.values, copy.values)
    return found


def test_targets_are_the_stored_zeros_and_ones(species: Modality) -> None:
    found = target(species)
    assert found.values.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 1]]
    assert found.valid.tolist() == [[True, True, False], [False] * 3, [True] * 3]


@pytest.mark.parametrize("preset", ["default", "paper", "reference"])
def test_the_loss_is_the_mean_cross_entropy_of_each_observed_class(species: Modality, preset: str) -> None:
    found = target(species)
    task = TaskSpec.from_modality(species)
    assert (task.kind, task.channels) == (Kind.TILE_MULTI_LABEL, 3)
    config = LossConfig(preset=preset)  # type: ignore[arg-type]
    loss = task_loss(task, torch.tensor(LOGITS), found, torch.ones(3, 4, dtype=torch.bool), config)
    terms = []
    for stored, logits in zip(STORED.tolist(), LOGITS, strict=True):
        for value, logit in zip(stored, logits, strict=True):
            if value != 255:
                probability = 1 / (1 + math.exp(-logit))
                terms.append(-math.log(probability if value else 1 - probability))
    assert float(loss) == pytest.approx(sum(terms) / len(terms), rel=1e-6)
    nothing = Target(found.values[1:2], found.valid[1:2])
    assert float(task_loss(task, torch.tensor(LOGITS[1:2]), nothing, torch.ones(1, 4, dtype=torch.bool), config)) == 0


def test_a_figure_names_what_is_present_and_predicted(species: Modality) -> None:
    found = target(species)
    task = TaskSpec.from_modality(species)
    texts = [
        answer_text(
            task, species, Target(found.values[k : k + 1], found.valid[k : k + 1]), torch.tensor(LOGITS[k : k + 1])
        )
        for k in range(3)
    ]
    assert texts == ["oak / oak, pine", "not observed", "beech, pine / pine"]
