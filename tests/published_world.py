"""A data set in the published HDF5 form, written from its description alone: nothing of the toolkit is used.

``NAME.h5``: sentinel2 (N, 13, H, W) uint16 with B8A before B8, 0 missing; sentinel2_cloudmask and _cloudprod uint16,
65535 missing; _scl uint8, 255 missing; sentinel1 (N, 8) float32, -inf missing; aster int16; canopy_height_eth int8,
negative or 127 missing; dynamic_world and esa_worldcover uint8, 255 or 0 missing; era5 (N, 12); lat, lon, month (N, 2);
one-hot biome (N, 14) and eco_region (N, 846); metadata (tile_id S100, S2_type S10).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

NAME = "data_1M_v001_64"
COVER = [10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100]
MISSING = {
    "sentinel2": [0],
    "sentinel2_cloudmask": [65535],
    "sentinel2_cloudprod": [65535],
    "sentinel2_scl": [255],
    "aster": [-32768],
    "canopy_height_eth": [*range(-128, 0), 127],
    "dynamic_world": [0, 255],
    "esa_worldcover": [0, 255],
}
"""Spellings of missing integers; in floats everything that is not finite is missing."""


def make_arrays(rows: int, size_px: int, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Pixels with every kind of gap."""
    rng = np.random.default_rng(seed)

    def pixels(bands: int, low: int, high: int, dtype: str) -> np.ndarray[Any, Any]:
        return rng.integers(low, high, (rows, bands, size_px, size_px)).astype(dtype)

    arrays: dict[str, np.ndarray[Any, Any]] = {
        "sentinel2": pixels(13, 0, 9000, "uint16"),
        "sentinel2_cloudmask": rng.choice([0, 1024, 2048, 65535], (rows, 1, size_px, size_px)).astype("uint16"),
        "sentinel2_cloudprod": pixels(1, 0, 101, "uint16"),
        "sentinel2_scl": pixels(1, 0, 12, "uint8"),
        "sentinel1": rng.normal(-12, 4, (rows, 8, size_px, size_px)).astype("float32"),
        "aster": pixels(2, -400, 6000, "int16"),
        "canopy_height_eth": pixels(2, -3, 128, "int8"),
        "dynamic_world": rng.choice([*range(10), 255], (rows, 1, size_px, size_px)).astype("uint8"),
        "esa_worldcover": rng.choice([0, *COVER, 255], (rows, 1, size_px, size_px)).astype("uint8"),
        "era5": rng.normal(280, 10, (rows, 12)).astype("float32"),
    }
    arrays["sentinel1"][:, 2:4] = -np.inf
    arrays["sentinel1"][1] = -np.inf
    arrays["sentinel1"][rng.random(arrays["sentinel1"].shape) < 0.05] = -np.inf
    arrays["aster"][rng.random(arrays["aster"].shape) < 0.05] = -32768
    arrays["era5"][2] = np.inf
    arrays["era5"][3, 4] = -np.inf
    arrays["era5"][4, 3] = np.nan
    return arrays


def make_entry(row: int, rng: np.random.Generator) -> dict[str, Any]:
    """One entry of tile_info, including keys that the importer does not know."""
    lat, lon = float(rng.uniform(-70, 75)), float(rng.uniform(-179, 179))
    entry: dict[str, Any] = {
        "S2_DATE": f"201{7 + row % 3}-{1 + row % 12:02d}-{1 + row % 28:02d}",
        "S2_type": "l2a" if row % 2 else "l1c",
        "CRS": f"EPSG:{(32600 if lat >= 0 else 32700) + int((lon + 180) // 6) + 1}",
        "lat": lat,
        "lon": lon,
        "biome": row % 14,
        "eco_region": (row * 37) % 846,
        "BANDS": {"sentinel2": ["B1", "B2"], "sentinel1_asc": None},
        "era5": {"month1": [280.25, 270.5, 290.0, 0.125], "month2": [float("nan"), None, 1, 1.0], "year": [1, 2, 3, 4]},
        "comment": f"Ærø no. {row}",
    }
    if row == 4:
        del entry["S2_DATE"]
    if row == 5:
        entry |= {"lat": 12, "CRS": "somewhere", "nested": {"deep": [float("inf"), {"NaN": "NaN"}, -0.0]}}
        del entry["BANDS"]
    return entry


def place_tables(entries: list[dict[str, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """lat, lon and month as points on the unit circle, one-hot biome and eco_region."""
    tables: dict[str, np.ndarray[Any, Any]] = {}
    for name in ("lat", "lon"):
        angle = np.deg2rad(np.array([float(entry[name]) for entry in entries]))
        tables[name] = np.stack([np.sin(angle), np.cos(angle)], axis=-1).astype("float32")
    month = 2 * np.pi * np.array([int(entry.get("S2_DATE", "2018-07-01")[5:7]) for entry in entries]) / 12
    tables["month"] = np.stack([np.sin(month), np.cos(month)], axis=-1).astype("float32")
    for name, classes, dtype in (("biome", 14, "uint8"), ("eco_region", 846, "uint16")):
        codes = np.array([entry[name] for entry in entries])
        tables[name] = (codes[:, None] == np.arange(classes)).astype(dtype)
    tables["biome"][6] = 0  # not known
    return tables


def band_stats() -> dict[str, dict[str, list[float]]]:
    """Statistics of every band that differ from those of a store of these tiles; a band without values is NaN."""
    bands = {"sentinel2_l1c": 13, "sentinel2_l2a": 13, "sentinel1": 8, "aster": 2, "canopy_height_eth": 2, "era5": 12}
    bands |= {"lat": 2, "lon": 2, "month": 2}
    statistics = {
        name: {
            key: [scale * (1 + k + 20 * position) for k in range(count)]
            for key, scale in (("mean", 0.7), ("std", 0.3), ("min", -1.1), ("max", 1.9))
        }
        for position, (name, count) in enumerate(bands.items())
    }
    statistics["sentinel1"]["mean"][2] = statistics["sentinel1"]["std"][2] = float("nan")
    return statistics


def make_published(folder: Path, rows: int = 21, size_px: int = 16, seed: int = 0) -> Path:
    """Write a data set; gives the folder of its four files."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, 1])
    entries = [make_entry(row, rng) for row in range(rows)]
    ids = [f"{1000 + row * 7}_{seed}" for row in range(rows)]
    with h5py.File(folder / f"{NAME}.h5", "w") as file:
        for name, values in {**make_arrays(rows, size_px, seed), **place_tables(entries)}.items():
            file.create_dataset(name, data=values, chunks=(1, *values.shape[1:]), compression="gzip")
        metadata = np.zeros(rows, dtype=[("tile_id", "S100"), ("S2_type", "S10")])
        metadata["tile_id"], metadata["S2_type"] = ids, [entry["S2_type"] for entry in entries]
        file.create_dataset("metadata", data=metadata, chunks=(1,), compression="gzip")
    train = [row for row in range(rows) if row % 5]
    splits = {"train": train[::-1], "val": [0, 5], "test": [10, 15]}
    order = rng.permutation(rows)  # tile_info has an order of its own, and entries of tiles that were never made
    described = {ids[row]: entries[row] for row in order} | {"never_made": entries[0]}
    (folder / f"{NAME}_splits.json").write_text(json.dumps(splits))
    (folder / f"{NAME}_tile_info.json").write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    (folder / f"{NAME}_band_stats.json").write_text(json.dumps(band_stats()))
    return folder


class PublishedReader:
    """Opens an export as readers of the published form do: root/NAME/NAME.h5 and JSON files; knows no store."""

    def __init__(self, root: Path, name: str, split: str | None = None) -> None:
        base = root / name
        self.file = h5py.File(base / f"{name}.h5", "r")
        self.statistics = json.loads((base / f"{name}_band_stats.json").read_text())
        self.splits = json.loads((base / f"{name}_splits.json").read_text())
        self.tile_info = json.loads((base / f"{name}_tile_info.json").read_text())
        self.rows = range(len(self.file["metadata"])) if split is None else self.splits[split]

    def __len__(self) -> int:
        return len(self.rows)

    def tile(self, position: int) -> tuple[str, dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        """Published id, entry of tile_info, and the arrays of one tile."""
        row = self.rows[position]
        name = self.file["metadata"][row][0].decode()
        arrays = {key: data[row] for key, data in self.file.items() if key != "metadata"}
        return name, self.tile_info[name], arrays

    def normalised(self, position: int, array: str) -> np.ndarray[Any, Any]:
        """z-scores of one array."""
        _, entry, arrays = self.tile(position)
        level = {"l2a": "sentinel2_l2a"}.get(entry["S2_type"], "sentinel2_l1c")
        statistics = self.statistics[level if array == "sentinel2" else array]
        shape = (-1, *[1] * (arrays[array].ndim - 1))
        mean, std = (np.array(statistics[key]).reshape(shape) for key in ("mean", "std"))
        return np.asarray((arrays[array] - mean) / std)


def observed(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Elementwise: is it a value?"""
    if values.dtype.kind == "f":
        return np.isfinite(values)
    return ~np.isin(values, MISSING.get(name, []))
