"""Small worlds of GeoTIFFs with mapping files, for the tests of the raster source."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from pyproj import Transformer
from rasterio.errors import NotGeoreferencedWarning

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import Place
from mmearth_data.sources.base import Survey
from mmearth_data.sources.rasters import RasterSource

CATALOG = load_catalog()
EPSG = 32632
ULX, ULY = 600_003.25, 5_300_007.75  # on purpose not on multiples of 10 m
SIZE = 80


def write_tif(path: Path, values: np.ndarray, **profile: Any) -> Path:
    """Write (band, y, x); by default on the 10 m grid of this module."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = profile.pop("tags", {})
    grid = {"crs": f"EPSG:{EPSG}", "transform": rasterio.Affine(10, 0, ULX, 0, -10, ULY)}
    count, height, width = values.shape
    options = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **(options | grid | profile)) as dataset:
            dataset.write(values)
            dataset.update_tags(**tags)
    return path


@dataclass
class World:
    """A root folder and a mapping that can be changed before it is written."""

    root: Path
    mapping: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.root / "mapping.yaml"

    def layer(self, name: str) -> dict[str, Any]:
        return next(layer for layer in self.mapping["layers"] if layer["modality"] == name)

    def source(self, **options: Any) -> RasterSource:
        self.file.write_text(yaml.safe_dump(self.mapping, sort_keys=False), encoding="utf-8")
        return RasterSource(self.file, catalog=CATALOG, **options)

    def surveys(self, size_px: int = 64) -> tuple[RasterSource, list[Survey]]:
        source = self.source()
        answers = source.survey(source.places(size_px))
        return source, [answer for answer in answers if isinstance(answer, Survey)]

    def read(self, size_px: int = 64) -> dict[str, np.ndarray]:
        """Everything of the first tile."""
        source, surveys = self.surveys(size_px)
        return source.read(surveys[0], source.modalities(tuple(CATALOG.modalities.values())))


def small_world(root: Path) -> World:
    """Two sites a and b: sentinel2 (three bands), elevation and land cover, one grid."""
    rng = np.random.default_rng(3)
    for number, site in enumerate("ab"):
        grid = {"transform": rasterio.Affine(10, 0, ULX + 5000 * number, 0, -10, ULY)}
        write_tif(root / "s2" / f"{site}.tif", rng.integers(1, 9000, (3, SIZE, SIZE)).astype("int16"), **grid)
        write_tif(root / "dem" / f"{site}.tif", rng.integers(0, 900, (1, SIZE, SIZE)).astype("int16"), **grid)
        tags = {"tags": {"datetime": f"2021-07-2{number}T13:22:41.000000000"}}
        write_tif(root / "lulc" / f"{site}.tif", rng.integers(1, 10, (1, SIZE, SIZE)).astype("uint8"), **grid, **tags)
    layers = [
        {"modality": "sentinel2", "path": "s2/{site}.tif", "bands": ["B2", "B3", "B8"], "level": "L2A"},
        {"modality": "aster", "path": "dem/{site}.tif", "bands": ["elevation"], "derive": {"slope": "elevation"}},
        {"modality": "io_lulc", "path": "lulc/{site}.tif", "bands": ["landcover"], "date": {"tag": "datetime"}},
    ]
    mapping = {"root": ".", "base": "sentinel2", "scene_time": "io_lulc", "layers": layers}
    return World(root=root, mapping=mapping)


def pixel_lonlat(epsg: int, x: np.ndarray, y: np.ndarray, target: int = 4326) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of points in another CRS, by pyproj (the source uses GDAL's)."""
    u, v = Transformer.from_crs(epsg, target, always_xy=True).transform(x, y)
    return np.asarray(u), np.asarray(v)


def tile_mesh(survey: Survey) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of all pixel centres of a tile, metres, each (y, x)."""
    x, y = np.meshgrid(*survey.grid.pixel_centres())
    return x, y


def some_place() -> Place:
    """Return a location that is in no world of these tests."""
    return Place(tile_id=64 // 16, lon=0.0, lat=0.0, size_px=64)
