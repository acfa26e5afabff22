"""Small networks and scenes for the tests of maps: a network has random weights, and answers that vary from pixel to pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rasters_world import write_tif

from mmearth_data import load_catalog
from mmearth_model.data.targets import Normaliser
from mmearth_model.heads.network import Network, Output
from mmearth_model.heads.paper_unet import PaperUNet
from mmearth_model.heads.probes import PixelProbe, TileProbe
from mmearth_model.network.encoder import ConvNeXtV2, EncoderConfig
from mmearth_model.tasks import TaskKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CATALOG = load_catalog().modalities
S2 = CATALOG["sentinel2"]
BANDS = S2.model_bands
MEAN, STD = 2000.0, 900.0
CLASSES = (
    Output(name="Tree cover", code=10, colour="#006400"),
    Output(name="Built-up & bare", code=50, colour="#fa0000"),
    Output(name="Water", code=80, colour=None),
)
QUANTITY = (Output(name="elevation", units="m"),)
TINY = {"depths": (1, 1, 1, 1), "widths": (8, 8, 8, 8)}
HEADS = {
    TaskKind.SEGMENTATION: PaperUNet,
    TaskKind.PIXEL_REGRESSION: PixelProbe,
    TaskKind.SINGLE_LABEL: TileProbe,
    TaskKind.MULTI_LABEL: TileProbe,
    TaskKind.REGRESSION: TileProbe,
}


def normaliser_of(*levels: str) -> Normaliser:
    """Statistics of Sentinel-2 by level (``-``: of no level)."""
    statistics = {level: {band: {"count": 9, "mean": MEAN, "std": STD} for band in S2.bands} for level in levels}
    return Normaliser([S2], {"train": {"sentinel2": statistics}}, inputs=["sentinel2"])


def make_network(
    kind: TaskKind = TaskKind.SEGMENTATION,
    *,
    outputs: Sequence[Output] = CLASSES,
    window_px: int = 32,
    levels: Sequence[str] = ("L2A",),
    gamma: float = 0.5,
    encoder: Mapping[str, Any] | None = None,
    scale: tuple[float, float] = (0.0, 1.0),
    head: type | None = None,
    synthetic: bool = False,
) -> Network:
    """Network with random weights; ``gamma`` is GRN's, and scales how much a place depends on its whole window."""
    generator = torch.Generator().manual_seed(3)
    body = ConvNeXtV2(EncoderConfig(**{**TINY, "in_channels": len(BANDS), "image_size": window_px, **(encoder or {})}))
    module = (head or HEADS[kind])(body, len(outputs))
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("grn.gamma"):
                tensor.fill_(gamma)
            elif tensor.is_floating_point() and not name.endswith(("norm.weight", "deviation")):
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    body.normaliser = normaliser_of(*levels)
    return Network(
        module=module.eval(),
        normaliser=body.normaliser,
        kind=kind,
        outputs=tuple(outputs),
        window_px=window_px,
        task="store:test",
        scale=(np.array([scale[0]]), np.array([scale[1]])),
        record={"synthetic": synthetic},
    )


def numbers(height: int, width: int, seed: int = 1) -> np.ndarray[Any, Any]:
    """(bands, height, width) uint16 numbers of a scene, without the no-data value."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(300, 4000, (len(BANDS), height // 8 + 1, width // 8 + 1))
    fine = np.kron(coarse, np.ones((8, 8)))[:, :height, :width] + rng.normal(0, 150, (len(BANDS), height, width))
    found: np.ndarray[Any, Any] = np.clip(fine, 1, 9999).astype(np.uint16)
    return found


def write_scene(path: Path, values: np.ndarray[Any, Any], bands: Sequence[str] = BANDS, **profile: Any) -> Path:
    """Write a scene of 10 m pixels whose bands and tags say all that a network asks for."""
    import rasterio

    tags = {"PROCESSING_LEVEL": "Level-2A", "PROCESSING_BASELINE": "02.12", **profile.pop("tags", {})}
    write_tif(path, values, **{"nodata": 0, **profile, "tags": {k: v for k, v in tags.items() if v is not None}})
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = tuple(bands)
    return path
