"""Small files in the layout of GEO-Bench 2: tortilla files, written after the published format of tacoreader 0.5."""

from __future__ import annotations

import struct
import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from mmearth_model.tasks import read_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Array = np.ndarray[Any, Any]
    Row = tuple[str, str, bytes, dict[str, Any]]

FRONT = 200
"""Bytes before the first member."""
SPLITS = ("train", "train", "train", "validation", "test", "test")
SIDE_PX = 12


def tortilla(rows: Sequence[Row], splits: Sequence[str]) -> bytes:
    """A container of members: name, format, content and columns of each."""
    table, position = [], FRONT
    for (name, kind, content, columns), split in zip(rows, splits, strict=True):
        table.append({"tortilla:id": name, "tortilla:file_format": kind, "tortilla:data_split": split, "tortilla:offset": position, "tortilla:length": len(content), **columns})  # fmt: skip
        position += len(content)
    names = list(dict.fromkeys(key for row in table for key in row))
    footer = BytesIO()
    pq.write_table(pa.table({key: [row.get(key) for row in table] for key in names}), footer, compression="zstd")
    head = struct.pack("<2sqqq", b"#y", position, footer.tell(), 1)
    return head.ljust(FRONT, b"\0") + b"".join(content for _, _, content, _ in rows) + footer.getvalue()


def geotiff(values: Array) -> bytes:
    """(C, H, W) as a GeoTIFF in UTM."""
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype.name}
    place = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    with MemoryFile() as file:
        with file.open(driver="GTiff", crs="EPSG:32632", transform=place, **shape) as opened:
            opened.write(values)
        return bytes(file.getbuffer())


def hdf5(values: Array) -> bytes:
    """An array as the data set ``data``."""
    content = BytesIO()
    with h5py.File(content, "w") as file:
        file["data"] = values
    return content.getvalue()


def write_set(
    path: Path, members: Callable[[int], Sequence[tuple[str, str, bytes, dict[str, Any]]]], files: int = 1
) -> Path:
    """Write samples of the given members, in the order 5, 4, ..., divided among ``files`` files as a data set is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = []
    for number in reversed(range(len(SPLITS))):
        inside, split = members(number), SPLITS[number]
        shared = {key: value for key, value in inside[0][3].items() if key != "modality"}
        if isinstance(shared.get("labels"), int):  # within a sample; the table of samples has the name
            shared["labels"] = read_spec("so2sat").classes[shared["labels"]]
        whole = tortilla(
            [(*row[:3], {**row[3], "stac:centroid": "POINT (9 45)"}) for row in inside], [split] * len(inside)
        )
        samples.append(((f"sample_{number}", "TORTILLA", whole, shared), split))
    for part in range(files):
        rows, splits = zip(*samples[part::files], strict=True)
        name = path if files == 1 else path.with_name(f"{path.stem}.{part:04}.part{path.suffix}")
        name.write_bytes(tortilla(rows, splits))
    return path.parent


def noise(seed: object, bands: int, low: float, high: float, dtype: str, side: int = SIDE_PX) -> Array:
    """(bands, side, side) random values."""
    rng = np.random.default_rng(sum(repr(seed).encode()))
    return rng.uniform(low, high, (bands, side, side)).astype(dtype)


def benv2(number: int) -> Sequence[Row]:
    """Sentinel-1 and Sentinel-2 with lists of labels."""
    names = ["Pastures", "Mixed forest", "Inland waters", "Urban fabric"]
    labels = {"labels": names[number % 3 : number % 3 + 1 + number % 2], "lon": 9.0, "lat": 45.0}
    return (
        ("s1", "GTiff", geotiff(noise(("s1", number), 2, -25, 0, "float32")), labels),
        ("s2", "GTiff", geotiff(noise(("s2", number), 12, 1, 9000, "int32")), labels),
    )


def so2sat(number: int) -> Sequence[Row]:
    """Reflectance, with the index of a class."""
    labels = {"labels": number % 5}
    return (
        ("s1", "GTiff", geotiff(noise(("so1", number), 2, -1, 1, "float32")), labels),
        ("s2", "GTiff", geotiff(noise(("so2", number), 10, 0.01, 0.9, "float32")), labels),
    )


def treesatai(number: int) -> Sequence[Row]:
    """Aerial photographs, Sentinel-1 and Sentinel-2."""
    genera = ["Abies", "Pinus", "Quercus"][: 1 + number % 3]
    labels = {"species_labels": genera, "dist_labels": [1 / len(genera)] * len(genera)}
    return (
        ("aerial", "GTiff", geotiff(noise(("air", number), 4, 0, 255, "uint8", 30)), labels),
        ("s1", "GTiff", geotiff(noise(("ts1", number), 3, -20, 0, "float32", 6)), labels),
        ("s2", "GTiff", geotiff(noise(("ts2", number), 12, 1, 4000, "int16", 6)), labels),
    )


def cloudsen12(number: int) -> Sequence[Row]:
    """An image and a mask."""
    return (
        ("s2l2a", "GTiff", geotiff(noise(("c", number), 12, 1, 9000, "uint16")), {}),
        ("target", "GTiff", geotiff(noise(("cm", number), 1, 0, 4, "uint8")), {}),
    )


def burn_scars(number: int) -> Sequence[Row]:
    """An image and a mask with unlabelled pixels."""
    return (
        ("image", "GTiff", geotiff(noise(("b", number), 6, 0.01, 0.8, "float32")), {}),
        ("label", "GTiff", geotiff(np.floor(noise(("bm", number), 1, -1, 2, "float32")).astype("int16")), {}),
    )


def fotw(number: int) -> Sequence[Row]:
    """Two dates, and masks of two kinds."""
    return (
        ("win_a", "GTiff", geotiff(noise(("fa", number), 4, 1, 9000, "uint16")), {}),
        ("win_b", "GTiff", geotiff(noise(("fb", number), 4, 1, 9000, "uint16")), {}),
        ("instance_mask", "GTiff", geotiff(noise(("fi", number), 1, 0, 50, "uint16")), {}),
        ("semantic_3class_mask", "GTiff", geotiff(noise(("fm", number), 1, 0, 4, "uint8")), {}),
    )


def pastis(number: int) -> Sequence[Row]:
    """Series of dates, and masks of three planes."""
    dates = {"dates": [20190101, 20190201]}
    series = [np.stack([noise((key, number, date), bands, low, high, "float32") for date in range(3)]) for key, bands, low, high in (("p2", 10, 1, 9000), ("pa", 3, -25, 0), ("pd", 3, -25, 0))]  # fmt: skip
    masks = [noise(("pm", number), 3, 0, 20, "uint8"), noise(("pi", number), 1, 0, 9, "int32")[0]]
    names = ("s2", "s1a", "s1d", "semantic", "instance")
    return tuple((name, "HDF5", hdf5(values), dates) for name, values in zip(names, (*series, *masks), strict=True))


def biomassters(number: int) -> Sequence[Row]:
    """Months of radar and of Sentinel-2 (with a plane of cloud probability), and biomass."""
    radar = [(f"c{number}_S1_{month:02}", "GTiff", geotiff(noise(("m1", number, month), 4, -25, 0, "float32")), {"modality": "S1"}) for month in range(3)]  # fmt: skip
    optical = [(f"c{number}_S2_{month:02}", "GTiff", geotiff(noise(("m2", number, month), 11, 1, 9000, "uint16")), {"modality": "S2"}) for month in (1, 2)]  # fmt: skip
    biomass = (f"c{number}_AGBM", "GTiff", geotiff(noise(("ma", number), 1, 0, 300, "float32")), {"modality": "AGBM"})
    return (*radar, *optical, biomass)


SETS: dict[str, tuple[Callable[[int], Sequence[Row]], int]] = {
    "benv2": (benv2, 1),
    "so2sat": (so2sat, 1),
    "treesatai": (treesatai, 1),
    "cloudsen12": (cloudsen12, 1),
    "burn_scars": (burn_scars, 1),
    "fotw": (fotw, 1),
    "pastis": (pastis, 3),
    "biomassters": (biomassters, 3),
}
"""Data set -> its samples, and the number of its files."""


def write_named(root: Path, name: str) -> Path:
    """Write a data set as published: the folder with its files."""
    members, files = SETS[name]
    return write_set(root / name / f"geobench_{name}.tortilla", members, files)


def open_inside(content: bytes) -> Array:
    """Planes of a GeoTIFF in memory."""
    with warnings.catch_warnings(), MemoryFile(content) as file:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with file.open() as opened:
            planes: Array = opened.read()
            return planes
