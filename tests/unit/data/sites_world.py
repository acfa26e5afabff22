"""Worlds of many small raster sites, for the tests of options and splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasters_world import World, write_tif

STEP_M = 2000


def write_site(root: Path, name: str, x: float, y: float, *, epsg: int = 32632, size_px: int = 64) -> None:
    """One band on the 10 m grid, in files of both levels, with its upper-left corner at (x, y)."""
    grid = {"crs": f"EPSG:{epsg}", "transform": rasterio.Affine(10, 0, x, 0, -10, y)}
    for level in ("L1C", "L2A"):
        write_tif(root / level / f"{name}.tif", np.full((1, size_px, size_px), 1000, "uint16"), **grid)


def sites(root: Path) -> World:
    """Return the world of the sites that `write_site` wrote."""
    layers = [
        {"modality": "sentinel2", "level": level, "path": f"{level}/{{site}}.tif", "bands": ["B2"]}
        for level in ("L1C", "L2A")
    ]
    layers.append({"modality": "aster", "path": "L2A/{site}.tif", "bands": ["elevation"]})
    world = World(root=root, mapping={"root": str(root), "base": "sentinel2", "layers": layers})
    world.source()
    return world


def many_sites(root: Path, count: int, step_m: float = STEP_M) -> World:
    """Sites s00, s01, ... from west to east; they overlap where the step is less than 640 m."""
    for number in range(count):
        write_site(root, f"s{number:02d}", 500_000 + step_m * number, 5_300_000)
    return sites(root)
