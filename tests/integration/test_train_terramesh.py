"""Pretraining on real satellite data: every task learns, and one seed gives one result."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mmearth_data import Store, build, make_recipe, resource_path
from mmearth_model import load_checkpoint, pretrain
from mmearth_model import make_recipe as make_train_recipe
from mmearth_model.training.log import read_log

if TYPE_CHECKING:
    from pathlib import Path

TINY = {
    "depths": (1, 1, 1, 1),
    "widths": (8, 16, 32, 64),
    "decoder_dim": 64,
    "batch_size": 20,
    "base_lr": 2e-2,
}


@pytest.fixture(scope="module")
def store(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """45 tiles of 64 px, cut from five TerraMesh sites."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMEARTH_TEST_DATA", str(test_data))
        options = {
            "source": f"rasters:{resource_path('pipelines') / 'rasters' / 'terramesh_samples.yaml'}",
            "tile_size": 64,
            "split": "random",
            "ecoregions": test_data / "ecoregions" / "resolve2017_simplified.gpkg",
        }
        return build(make_recipe(None, options), tmp_path_factory.mktemp("terramesh") / "t.zarr")


def run(store: Store, out: Path, **changes: Any) -> Path:
    return pretrain(store, make_train_recipe("demo", {**TINY, **changes}), out, device="cpu")


def test_every_task_of_a_real_store_learns(store: Store, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(run(store, tmp_path / "run", epochs=15))
    rows = read_log(tmp_path / "run" / "log.csv")
    assert [int(row["epoch"]) for row in rows if int(row["step"]) % 2 == 0][-1] == 15
    assert len(checkpoint.learned) >= 9
    for modality in checkpoint.learned:
        losses = [float(row[modality.name]) for row in rows]
        assert all(map(math.isfinite, losses)), modality.name
        assert losses[-1] < losses[0], modality.name
    assert checkpoint.config["store"]["synthetic"] is False


def test_two_runs_with_one_seed_agree_exactly(store: Store, tmp_path: Path) -> None:
    one, two = (load_checkpoint(run(store, tmp_path / name, epochs=1)).tensors() for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
