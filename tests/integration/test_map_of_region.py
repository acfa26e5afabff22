"""From a region to its map and areas, against the planet's own land cover: the road from pixels to a result, end to end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from click.testing import CliRunner, Result

from mmearth_data.catalog.tile import WGS84, transformer
from mmearth_data.cli import cli as data_cli
from mmearth_data.planet.grids import Window
from mmearth_data.planet.planet import WORLD_COVER, planet
from mmearth_model.cli import cli as train_cli
from mmearth_model.maps.estimators import estimate

if TYPE_CHECKING:
    from pathlib import Path

    import click
    from numpy.typing import NDArray

    Array = NDArray[Any]

SEED = 0
REGION = "bbox:9.4,47.8,10.08,48.26"
"""50 by 50 km."""
TRAINED_IN = "bbox:5,44,15,52"
RECIPE = """
description: narrow and short
preset: default
size: atto
depths: [1, 1, 2, 1]
widths: [16, 32, 64, 128]
init: fan-in
image_size: 64
patch_size: 8
decoder_dim: 128
epochs: 6
batch_size: 32
device_batch: 32
base_lr: 8.0e-3
precision: float32
"""
POINTS, DRAWS = 50, 3000
COMMON = 0.01
"""Share of the mapped area from which on a class is found in more than a few of the points of other classes."""


def run(cli: click.Group, *words: object) -> Result:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the map, by the commands of the guides."""
    folder = tmp_path_factory.mktemp("region")
    (folder / "r.yaml").write_text(RECIPE)
    stored = ("--source", "synthetic", "--seed", SEED, "--tile-size", 64, "--modalities", "sentinel2,esa_worldcover")
    train, cover, encoder, network = (folder / name for name in ("train.zarr", "cover.zarr", "run", "network"))
    run(data_cli, "build", *stored, "--region", TRAINED_IN, "--tiles", 1500, "--levels", "L2A", "--out", train)
    run(train_cli, "pretrain", train, "--recipe", folder / "r.yaml", "--exclude", "esa_worldcover", "--out", encoder)
    run(train_cli, "finetune", encoder, "--task", "store:esa_worldcover/pixels", "--epochs", 10, "--out", network)
    run(data_cli, "build", *stored, "--cover", "--region", REGION, "--overlap", 16, "--out", cover)
    run(train_cli, "predict", network, cover, "--mosaic", folder / "map", "--workers", 2)
    return folder / "map"


@pytest.fixture(scope="module")
def pixels(mapped: Path) -> tuple[Array, Array]:
    """(N,) class in the map and on the planet of every mapped pixel, row by row."""
    with rasterio.open(mapped / "zone_32632.tif") as dataset:
        codes, nodata, grid, epsg = dataset.read(1), dataset.nodata, dataset.transform, dataset.crs.to_epsg()
    product = planet(SEED).products[WORLD_COVER]
    image = product.image(product.years[0])
    own = product.grid(image, "Map")
    true = np.empty_like(codes)
    for top in range(0, len(codes), 256):
        rows = np.arange(top, min(top + 256, len(codes)))
        x, y = np.meshgrid(grid.c + 10 * (np.arange(codes.shape[1]) + 0.5), grid.f - 10 * (rows + 0.5))
        lon, lat = transformer(epsg, WGS84).transform(x, y)
        column, row = np.floor(own.column(lon)).astype(int), np.floor(own.row(lat)).astype(int)
        left, first = int(column.min()), int(row.min())
        layer = product.read(image, "Map", Window(left, first, int(np.ptp(column)) + 1, int(np.ptp(row)) + 1))
        true[rows] = np.asarray(layer.values)[row - first, column - left]
    seen = codes != nodata
    return codes[seen], true[seen]


@pytest.mark.slow
def test_the_map_is_the_land_cover_of_the_planet(mapped: Path, pixels: tuple[Array, Array]) -> None:
    codes, true = pixels
    with rasterio.open(mapped / "mosaic.vrt") as dataset:
        assert dataset.tags()["synthetic"] == "yes"
        assert (dataset.read(1) != dataset.nodata).sum() == len(codes)
    assert len(codes) * 100 / 1e6 > 2500, "km2: no hole in 50 by 50 km"
    most = np.bincount(true).max() / len(true)
    assert (codes == true).mean() > 0.8 > most + 0.3


@pytest.mark.slow
def test_intervals_cover_the_true_areas_in_95_of_100_samples(pixels: tuple[Array, Array]) -> None:
    codes, true = pixels
    known = np.unique(np.concatenate([codes, true]))
    mapped, real = np.searchsorted(known, codes), np.searchsorted(known, true)
    counts, areas = (np.bincount(part, minlength=len(known)) for part in (mapped, real))
    strata = [np.flatnonzero(mapped == k) for k in range(len(known))]
    rng = np.random.default_rng(SEED)
    hits, normal = np.zeros(len(known)), np.zeros(len(known))
    for _ in range(DRAWS):
        drawn = [rng.choice(rows, min(POINTS, len(rows)), replace=False) if len(rows) else rows for rows in strata]
        matrix = np.stack([np.bincount(real[rows], minlength=len(known)) for rows in drawn])
        found = estimate(matrix, counts.astype(float), matrix.sum(axis=1) == counts)
        hits += (found.area_low <= areas) & (areas <= found.area_high)
        normal += np.abs(found.area - areas) <= 1.96 * found.area_se
    covered = {int(code): float(hit / DRAWS) for code, hit in zip(known, hits, strict=True)}
    common = {int(code) for code, area in zip(known, areas / areas.sum(), strict=True) if area > COMMON}
    assert all(share >= 0.92 for share in covered.values()), covered
    assert all(covered[code] <= 0.98 for code in common), covered
    assert (normal / DRAWS).min() < 0.5, "why the intervals are not 1.96 standard errors to both sides"


@pytest.mark.slow
def test_the_commands_estimate_these_areas(mapped: Path, pixels: tuple[Array, Array]) -> None:
    """Draw points, label them by the planet, and report."""
    words = ("predict", mapped.parent / "network", mapped.parent / "cover.zarr", "--mosaic", mapped)
    run(train_cli, *words, "--draw-validation", 800, "--seed", 5)
    file = next(mapped.glob("*-validation.csv"))
    points = pd.read_csv(file, dtype=str)
    x, y = points["x"].astype(float).to_numpy(), points["y"].astype(float).to_numpy()
    product = planet(SEED).products[WORLD_COVER]
    image = product.image(product.years[0])
    own = product.grid(image, "Map")
    lon, lat = transformer(32632, WGS84).transform(x, y)
    places = zip(np.floor(own.column(lon)).astype(int), np.floor(own.row(lat)).astype(int), strict=True)
    labels = [int(product.read(image, "Map", Window(int(c), int(r), 1, 1)).values[0, 0]) for c, r in places]
    points["reference"] = labels
    points.to_csv(mapped / "labelled.csv", index=False)
    run(train_cli, *words, "--validation", mapped / "labelled.csv", "--report", mapped / "areas.json")
    report = json.loads((mapped / "areas.json").read_text())
    assert report["intervals_refused"] is None
    _, true = pixels
    inside = [
        row["area_low_ha"] <= (true == row["class"]).sum() / 100 <= row["area_high_ha"] for row in report["classes"]
    ]
    assert sum(inside) >= len(inside) - 1, report["classes"]
