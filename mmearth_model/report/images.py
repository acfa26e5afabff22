"""Pictures of tiles as small files, in the colours of the catalog."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data import Modality

    Pixels = NDArray[np.uint8]
    Values = NDArray[np.floating[Any]]

SPREAD = (2.0, 98.0)
"""Percentiles that become the ends of the scale."""
MISSING = (0xC8, 0xC8, 0xCC)
UNNAMED = "#888888"
LOSSY_QUALITY = 78


def encode(pixels: Pixels, *, lossy: bool = False) -> bytes:
    """WebP file of a picture (H, W, 3), or (H, W, 4) with transparency, uint8."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=not lossy, quality=LOSSY_QUALITY if lossy else 100, method=5)
    return file.getvalue()


def fitted(pictures: list[bytes], most: int) -> list[bytes]:
    """Halve the sides of pictures until they fit into a number of bytes together."""
    while sum(map(len, pictures)) > most:
        pictures = [_halved(picture) for picture in pictures]
    return pictures


def _halved(picture: bytes) -> bytes:
    with Image.open(io.BytesIO(picture)) as opened:
        small = opened.convert("RGB").resize((max(1, opened.width // 2), max(1, opened.height // 2)))
    return encode(np.asarray(small), lossy=True)


def shown_bands(modality: Modality) -> list[str]:
    """Bands of the modality's picture that the model uses: three for a composite, otherwise one."""
    wanted = [band for band in modality.display.bands if band in modality.model_bands]
    return wanted if len(wanted) == 3 else wanted[:1] or list(modality.model_bands[:1])


def limits_of(bands: Values, valid: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Find the ends of the scale of each band (C, H, W), from the values that are valid."""
    found = []
    for values, seen in zip(bands, valid, strict=True):
        low, high = np.percentile(values[seen], SPREAD) if seen.any() else (0.0, 1.0)
        found.append((float(low), max(float(high), float(low) + 1e-6)))
    return found


def draw(
    bands: Values, limits: Sequence[tuple[float, float]], colormap: str, valid: NDArray[np.bool_] | None = None
) -> Pixels:
    """Picture (H, W, 3) of three bands as colours, or of one (1, H, W) in a colour map; invalid pixels are grey."""
    scaled = np.stack([np.clip((b - low) / (high - low), 0, 1) for b, (low, high) in zip(bands, limits, strict=True)])
    colours = scaled.transpose(1, 2, 0) if len(scaled) == 3 else _colormap(colormap)(scaled[0])[..., :3]
    picture = np.round(255 * colours).astype(np.uint8)
    if valid is not None:
        picture[~valid.all(axis=0)] = MISSING
    return picture


def draw_classes(
    indices: NDArray[np.integer[Any]], modality: Modality, valid: NDArray[np.bool_] | None = None
) -> Pixels:
    """Picture (H, W, 3) of class indices (H, W); invalid pixels are grey."""
    colours = np.array([_rgb(label.colour or UNNAMED) for label in modality.classes], dtype=np.uint8)
    picture: Pixels = colours[np.clip(indices, 0, len(colours) - 1)]
    if valid is not None:
        picture[~valid] = MISSING
    return picture


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))


def _colormap(name: str) -> Any:  # noqa: ANN401 - matplotlib's colour maps
    return mpl.colormaps[name if name in mpl.colormaps else "viridis"]
