"""Small networks and scenes for the tests of maps: a network has random weights, and answers that vary from pixel to pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
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
    tags = {"PROCESSING_LEVEL": "Level-2A", "PROCESSING_BASELINE": "02.12", **profile.pop("tags", {})}
    write_tif(path, values, **{"nodata": 0, **profile, "tags": {k: v for k, v in tags.items() if v is not None}})
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = tuple(bands)
    return path


def write_planet_scene(
    folder: Path, lon: float, lat: float, size_px: int, *, seed: int = 0, year: int = 2020
) -> list[Path]:
    """Write part of a Level-2A scene of the synthetic planet: a file for each resolution of its bands.

    The upper-left corner is next to a location. It is the least cloudy scene of a year.
    """
    from mmearth_data.catalog.tile import TileGrid, utm_epsg
    from mmearth_data.planet.grids import Window
    from mmearth_data.planet.planet import L2A, Planet
    from mmearth_data.planet.products import Sentinel2, year_start_ms
    from mmearth_data.planet.scenes import Box

    corner = TileGrid.around(lon, lat, utm_epsg(lon, lat), 6)
    west, _, _, north = corner.bounds
    west, north = west // 60 * 60, north // 60 * 60  # on the grids of all bands
    box = Box(corner.epsg, west, north - 10.0 * size_px, west + 10.0 * size_px, north)
    product = Planet(seed).products[L2A]
    assert isinstance(product, Sentinel2)
    scenes = product.scenes(box, year_start_ms(year), year_start_ms(year + 1), cloud_limit=60, whole=True)
    image = product.image(min(scenes, key=lambda scene: scene.cloud_percent))
    files = []
    for metres in (10, 20, 60):
        bands = [band for band in BANDS if S2.native_m[band] == metres]
        grid = product.grid(image, bands[0])
        column, row = (round(float(at)) for at in (grid.column(np.float64(west)), grid.row(np.float64(north))))
        side = -(-size_px * 10 // metres)
        layers = [product.read(image, band, Window(column, row, side, side)) for band in bands]
        values = np.stack([np.where(True if v.valid is None else v.valid, v.values, 0) for v in layers]).astype(
            np.uint16
        )
        profile = {"crs": f"EPSG:{corner.epsg}", "transform": rasterio.Affine(metres, 0, west, 0, -metres, north)}
        path = folder / f"planet_{metres}m.tif"
        files.append(
            write_scene(path, values, bands, tags={"synthetic": "yes"}, compress="DEFLATE", zlevel=1, **profile)
        )
    return files
