"""Vectors in memory, and checkpoints with random weights, for the tests of dense embeddings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from mmearth_model import Checkpoint, load_checkpoint
from mmearth_model.maps.vector_files import Origin
from mmearth_model.maps.vectors import VectorGrid
from mmearth_model.weights.checkpoints import ENCODER_ONLY, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_model import ConvNeXtV2

ORIGIN = Origin(
    about={"version": "1", "synthetic": "true", "checkpoint": "run"},
    model="ni:///sha-256;AA",
    source_data=("urn:uuid:1b4e28ba-2fa1-11d2-883f-0016d3cca427",),
)
HEIGHT, WIDTH, FEATURES, STEP = 70, 45, 5, 80.0
WEST, NORTH = 600_000.0, 5_300_000.0


@dataclass(frozen=True)
class Given:
    """Vectors in memory."""

    values: NDArray[np.float32]
    grid: VectorGrid
    name: str = ""
    side: int = 32

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        return self.values[:, rows, columns]


def make_field(name: str = "", epsg: int = 32632, west: float = WEST) -> Given:
    """Vectors that vary smoothly, with a corner without data."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    phases = np.linspace(0, 3, FEATURES)[:, None, None]
    values = (np.cos(x / 9 + phases) + np.sin(y / 13) * phases).astype(np.float32)
    values[:, :33, :33] = np.nan
    grid = VectorGrid(
        crs=CRS.from_epsg(epsg),
        transform=Affine(STEP, 0, west, 0, -STEP, NORTH),
        shape=(HEIGHT, WIDTH),
        features=FEATURES,
    )
    return Given(values, grid, name)


def make_checkpoint(folder: Path, encoder: ConvNeXtV2) -> Checkpoint:
    """Write the checkpoint of an encoder alone."""
    assert encoder.normaliser is not None
    config = {
        "architecture": ENCODER_ONLY,
        "model": {"encoder": asdict(encoder.config)},
        "loss": {},
        "normaliser": encoder.normaliser.to_config(),
        "recipe": {"seed": 0},
        "store": {"path": None, "synthetic": True},
        "progress": {},
        "version": "1",
    }
    folder.mkdir()
    write_checkpoint(folder, {"model.encoder": encoder}, config)
    return load_checkpoint(folder)


def contrast(vectors: NDArray[np.float32], every: int, margin: int = 8) -> float:
    """Mean absolute difference of neighbouring vectors across window borders, relative to that elsewhere.

    Borders are ``every`` positions apart; ``margin`` positions next to the border of the scene are left out.
    """
    across, elsewhere = [], []
    for axis in (1, 2):
        steps = np.moveaxis(np.abs(np.diff(vectors, axis=axis)).mean(axis=0), axis - 1, 0)
        number = np.arange(1, len(steps) + 1)
        inside = (number >= margin) & (number <= len(steps) - margin)
        across.append(steps[(number % every == 0) & inside])
        elsewhere.append(steps[(number % every != 0) & inside])
    return float(np.concatenate(across).mean() / np.concatenate(elsewhere).mean())
