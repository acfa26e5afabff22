"""No seams: what the machinery adds to a network's answers is nothing, and what windows differ in is blended away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from map_world import MEAN, QUANTITY, STD, make_network, numbers, write_planet_scene, write_scene

from mmearth_data import build, make_recipe, open_store
from mmearth_model import WindowOptions, load_checkpoint, predict_scene, pretrain
from mmearth_model import make_recipe as make_train_recipe
from mmearth_model.evaluation.finetune import FineTuneRecipe, finetune
from mmearth_model.tasks import TaskKind, open_task

SIZE_PX, SCENE_PX = 64, 4096
HALF_FIELD_PX = 152
"""Half of the receptive field of an atto encoder with patches of 8 px (143), and a position of its last stage."""
SITE = (9.5, 48.3)


@pytest.mark.slow
def test_windows_of_an_atto_encoder_give_what_a_whole_image_gives(tmp_path: Path) -> None:
    """2,048 px in windows of 512 px, GRN's gamma at zero: equal to 1e-5 of the spread where a window sees the whole field."""
    side, window, step = 2048, 512, 512 - 2 * HALF_FIELD_PX
    network = make_network(
        TaskKind.PIXEL_REGRESSION,
        outputs=QUANTITY,
        window_px=window,
        gamma=0.0,
        encoder={"depths": None, "widths": None},
    )
    values = numbers(side, side)
    path = write_scene(tmp_path / "s2.tif", values)
    windows = WindowOptions(overlap_px=window - step, blend="centre")
    predict_scene(network, [path], tmp_path / "map.tif", tiling=windows, workers=2)
    images = torch.from_numpy((values.astype(np.float32) - np.float32(MEAN)) / np.float32(STD))[None]
    with torch.inference_mode():
        whole = network.module(images)[0, 0].numpy()
    with rasterio.open(tmp_path / "map.tif") as dataset:
        found = dataset.read(1)
    assert whole.std() > 0
    assert np.abs(found - whole).max() <= 1e-5 * max(1.0, float(np.abs(whole).max()))


def seam_ratio(path: Path, every: int, first: int) -> float:
    """Mean difference of neighbouring probabilities across borders of windows, over that between all other neighbours.

    Borders are before the pixels ``first``, ``first + every``, ... of both axes.
    """
    with rasterio.open(path) as dataset:
        scores = dataset.read().astype(np.float32)
    across, elsewhere = [], []
    for axis in (1, 2):
        steps = np.moveaxis(np.abs(np.diff(scores, axis=axis)), axis, 0).mean(axis=(1, 2))
        border = np.arange(1, len(steps) + 1) % every == first
        across.append(steps[border].mean())
        elsewhere.append(steps[~border].mean())
    return float(np.mean(across) / np.mean(elsewhere))


@pytest.mark.slow
def test_blended_maps_of_a_trained_network_have_no_seams(tmp_path: Path) -> None:
    """Land cover of 4,096 px of the planet: no more change across borders of windows than elsewhere, unless nothing is blended."""
    build(make_recipe(None, {"source": "synthetic", "tiles": 400, "tile_size": SIZE_PX, "modalities": ("sentinel2", "esa_worldcover"), "levels": ("L2A",)}), tmp_path / "s.zarr")  # fmt: skip
    store = open_store(tmp_path / "s.zarr")
    small = {"depths": (1, 1, 2, 1), "widths": (16, 32, 64, 128), "image_size": SIZE_PX, "decoder_dim": 64, "epochs": 2, "exclude": ("esa_worldcover",)}  # fmt: skip
    checkpoint = load_checkpoint(pretrain(store, make_train_recipe("demo", small), tmp_path / "run", device="cpu"))
    recipe = FineTuneRecipe(epochs=6, warmup=1, lr=2e-3, batch_size=16)
    finetune(checkpoint, open_task("store:esa_worldcover/pixels", store), recipe, device="cpu", out=tmp_path / "net")
    files = write_planet_scene(tmp_path, *SITE, SCENE_PX)
    ratios = {}
    for name, overlap, every in (("blended", SIZE_PX // 2, SIZE_PX // 2), ("side by side", 0, SIZE_PX)):
        out = tmp_path / f"{name}.tif"
        predict_scene(tmp_path / "net", files, out, tiling=WindowOptions(overlap_px=overlap), scores=True, workers=2)
        ratios[name] = seam_ratio(out.with_suffix(".scores.tif"), every, 0)
    assert ratios["blended"] <= 1.05
    assert ratios["side by side"] > 1.05
