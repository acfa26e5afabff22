"""Pretraining on images without a georeference: one modality is input and target, and unknown locations teach nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from chips_world import folder_of

from mmearth_data import build, make_recipe, open_store
from mmearth_model import make_recipe as make_training_recipe
from mmearth_model import plan_training, pretrain

TINY = {
    "depths": [1, 1, 1, 1],
    "widths": [4, 4, 8, 8],
    "decoder_dim": 8,
    "image_size": 16,
    "patch_size": 8,
    "mask_ratio": 0.5,
    "batch_size": 8,
    "device_batch": 8,
    "epochs": 1,
}


def test_photographs_are_input_and_target_and_unknown_locations_are_left_out_of_the_loss(tmp_path: Path) -> None:
    chips = folder_of(tmp_path, 16)
    (tmp_path / "facts.csv").write_text("image,lon,lat\n" + "".join(f"{at:03},{at},{at}\n" for at in range(6)))
    chips = chips.changed(table={"file": "facts.csv"}, lon="lon", lat="lat", splits={"shares": [100, 0, 0]})
    build(make_recipe(None, chips.recipe), tmp_path / "x.zarr")
    store = open_store(tmp_path / "x.zarr")
    assert np.isnan(store.coords["lon"]).sum() == 10
    recipe = make_training_recipe("chips", TINY)
    plan = plan_training(store, recipe)
    assert [m.name for m in plan.inputs] == ["rgb"]
    assert {m.name for m in plan.pretext} == {"rgb", "lat", "lon"}, "labels are no pretext task unless the file says so"
    folder = pretrain(store, recipe, tmp_path / "run", device="cpu")
    assert folder.exists()
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("loss", "rgb", "lat", "lon"):
        assert all(np.isfinite(float(row[name])) for row in rows), name
