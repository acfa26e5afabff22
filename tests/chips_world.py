"""Small worlds of images with chips files, for the tests of the source `chips`."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.sources.chips import ChipSource

CATALOG = load_catalog()
SIZE = 16
RGB = {"modality": "rgb", "path": "**", "bands": ["red", "green", "blue"], "define": {"long_name": "Photographs"}}


def picture(seed: int, size: int = SIZE, bands: int = 3) -> np.ndarray:
    """(y, x, band) uint8 numbers, all 256 of them likely."""
    values = np.random.default_rng(seed).integers(0, 256, (size, size, bands), dtype=np.uint8)
    return values[..., 0] if bands == 1 else values


def png(values: np.ndarray) -> bytes:
    """The file of an image, without loss."""
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    """Write a zip with these files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@dataclass(frozen=True)
class Chips:
    """A chips file, and what it says."""

    file: Path
    entry: dict[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        """Fields of a recipe that builds it."""
        return {"source": f"chips:{self.file}"}

    def source(self, seed: int = 0) -> ChipSource:
        """Open the source, which reads nothing yet."""
        return ChipSource(self.file, catalog=CATALOG, seed=seed)

    def changed(self, **fields: Any) -> Chips:
        """Write the file again, with other fields; None removes one."""
        entry = {name: value for name, value in {**self.entry, **fields}.items() if value is not None}
        return write_chips(self.file.parent, entry)


def write_chips(folder: Path, entry: dict[str, Any]) -> Chips:
    """Write a chips file."""
    file = folder / "chips.yaml"
    file.write_text(yaml.safe_dump(entry, sort_keys=False), encoding="utf-8")
    return Chips(file, entry)


def folder_of(root: Path, count: int = 6, classes: tuple[str, ...] = ("forest", "river")) -> Chips:
    """Pictures in a folder per class, with a chips file that labels them by folder."""
    for at in range(count):
        path = root / "images" / classes[at % len(classes)] / f"{at:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture(at)))
    labels = {"cover_class": {"folder": True, "content": "class"}}
    return write_chips(root, {"images": "images", "modalities": [RGB], "labels": labels})
