"""Maps of classes to measure: files as GDAL writes them, and maps that confuse classes in a known way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

UTM = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)}
NODATA = 255


def write_map(path: Path, codes: NDArray[Any], names: dict[int, str] | None = None, **more: Any) -> Path:
    """Write codes (H, W) as a GeoTIFF in UTM, or as ``more`` says, with a legend if there are names."""
    profile = {"driver": "GTiff", "height": codes.shape[0], "width": codes.shape[1], "count": 1, "dtype": codes.dtype}
    with rasterio.open(path, "w", **{**profile, "nodata": NODATA, **UTM, **more}) as dataset:
        dataset.write(codes, 1)
        if names:
            dataset.update_tags(classes=json.dumps(names))
            dataset.write_colormap(1, {code: (code, 100, 200, 255) for code in names})
    return path


def confused(size: int, classes: int, noise: float, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Smooth classes (size, size), and a map of them that confuses neighbouring ones."""
    random = np.random.default_rng(seed)
    shape = (classes, size, size)
    truth = gaussian_filter(random.standard_normal(shape), (0, 6, 6))
    wrong = gaussian_filter(random.standard_normal(shape), (0, 3, 3))
    wanted = np.linspace(1, 0.6, classes)[:, None, None]  # later classes are rarer
    truth = truth / truth.std() * wanted
    seen = truth + noise * wrong / wrong.std()
    return truth.argmax(axis=0).astype(np.uint8), seen.argmax(axis=0).astype(np.uint8)
