"""Small files in the form of MMEarth-Bench: every array, string and key that its published code writes.

Written as ``convert_to_h5.py`` and ``generate_splits.py`` of lgordon99/mmearth-bench do, without their code: arrays of
gzip 9 in chunks that h5py chooses, strings as variable-length UTF-8, statistics over the training samples without
missing values, ``null`` for a band without any.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

ROWS, SIZE_PX = 60, 32
ARRAYS: dict[str, tuple[int, float, tuple[float, float]]] = {
    "Sentinel2": (12, 65535, (1, 4000)),
    "Sentinel1": (8, -9999, (-25, 0)),
    "ASTER_GDEM": (2, -9999, (0, 60)),
    "ETH_GCH": (2, 255, (0, 50)),
    "DynamicWorld": (1, 9, (0, 9)),
    "ESA_WorldCover": (1, 11, (0, 11)),
    "MSK_CLDPRB": (1, 65535, (0, 100)),
    "S2CLOUDLESS": (1, 65535, (0, 100)),
    "SCL": (1, 0, (1, 12)),
}
"""Array of pixels -> bands, missing value, range of the others."""
CODES = ("DynamicWorld", "ESA_WorldCover", "SCL")
NUMBERS = ("Sentinel2", "Sentinel1", "ASTER_GDEM", "ETH_GCH", "precipitation", "temperature")
MISSING = {name: missing for name, (_, missing, _) in ARRAYS.items()} | {"precipitation": -9999, "temperature": -9999}
SPECIES = [f"Genus species{number:02d}" for number in range(100)]
TYPES: dict[str, str] = dict.fromkeys(ARRAYS, "float32") | {"precipitation": "float64", "temperature": "float64"}
"""Types of a TIFF from Earth Engine, and of JSON numbers."""


def contents(task: str, rows: int = ROWS, size_px: int = SIZE_PX) -> dict[str, Any]:
    """Every array of ``TASK.h5``, in double precision; the same for every call."""
    rng = np.random.default_rng(len(task))
    data = pixels(rng, rows, size_px) | tiles(rng, rows)
    return data | {task: labels(task, rng, data, rows, size_px)}


def write_task(
    folder: Path, task: str, *, rows: int = ROWS, size_px: int = SIZE_PX, older: bool = False, **types: str
) -> Path:
    """Write ``folder/TASK``, and return it.

    ``types`` are those of arrays that differ from `TYPES`; ``older`` split files name the statistics of ASTER otherwise.
    """
    there = folder / task
    there.mkdir(parents=True, exist_ok=True)
    data = contents(task, rows, size_px)
    write_h5(there / f"{task}.h5", {name: _as_type(values, (TYPES | types).get(name)) for name, values in data.items()})
    found = json.dumps(splits(data, rows), indent=4)
    (there / f"{task}_split_data.json").write_text(found.replace("ASTER_GDEM_", "AsterDEM_") if older else found)
    if task == "species":
        (there / "species_labels.json").write_text(json.dumps({name: place for place, name in enumerate(SPECIES)}))
    return there


def write_h5(path: Path, data: dict[str, Any]) -> None:
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            file.create_dataset(name, data=values, compression="gzip", compression_opts=9)


def _as_type(values: Any, dtype: str | None) -> Any:
    """Cast as C does: a missing value that does not fit wraps around."""
    if dtype is None:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.int64).astype(dtype) if np.dtype(dtype).kind in "iu" else values.astype(dtype)


def pixels(rng: np.random.Generator, rows: int, size_px: int) -> dict[str, NDArray[Any]]:
    """(N, C, H, W) of every modality: some pixels are missing, and whole bands of some tiles."""
    found = {}
    for name, (bands, missing, (low, high)) in ARRAYS.items():
        shape = (rows, bands, size_px, size_px)
        if name in CODES:
            values = rng.integers(int(low), int(high), shape).astype(np.float64)
        else:
            level = rng.uniform(low, high, (rows, bands, 1, 1))
            values = np.clip(level + rng.normal(0, (high - low) / 20, shape), low, high)
        values[rng.random(shape) < 0.02] = missing
        values[0, :, :3, :3] = missing
        found[name] = values
    found["Sentinel1"][:, [2, 3, 6, 7]] = -9999  # hardly any place on land has HH and HV
    found["Sentinel1"][1] = -9999
    return found


def tiles(rng: np.random.Generator, rows: int) -> dict[str, Any]:
    """Arrays with one entry per tile."""
    lon, lat = rng.uniform(-180, 180, rows), rng.uniform(-60, 70, rows)
    months = rng.integers(1, 13, rows)
    biome, ecoregion = rng.integers(0, 14, rows), rng.integers(0, 846, rows)
    biome[1], ecoregion[1] = 14, 846
    precipitation, temperature = rng.uniform(0, 1, (rows, 3)), rng.uniform(250, 310, (rows, 9))
    precipitation[2], temperature[2, 4] = -9999, -9999
    angle = np.deg2rad([lon, lat])
    return {
        "precipitation": precipitation,
        "temperature": temperature,
        "geolocation": np.stack([lon, lat], axis=1),
        "geolocation_encoding": np.stack([np.cos(angle[0]), np.sin(angle[0]), np.cos(angle[1]), np.sin(angle[1])], axis=1),
        "month_encoding": np.stack([np.cos(np.pi * months / 6), np.sin(np.pi * months / 6)], axis=1),
        "biome": biome,
        "ecoregion": ecoregion,
        "MSK_CLDPRB_CLOUDY_PIXEL_FRACTION": rng.uniform(0, 0.1, rows),
        "S2CLOUDLESS_CLOUDY_PIXEL_FRACTION": rng.uniform(0, 0.1, rows),
        "SCL_NO_DATA_PIXEL_FRACTION": rng.uniform(0, 0.1, rows),
        "id": np.arange(rows) * 3 + 5,
        "sentinel2_date": [f"2020-{month:02d}-15" for month in months],
        "sentinel2_system_index": [f"2020{month:02d}15T105031_20200715T105335_T31TCJ" for month in months],
        "crs": ["EPSG:32631" if place % 2 else "EPSG:32733" for place in range(rows)],
        "transform": np.array([[10, 0, 400000 + 2000 * p, 0, -10, 5000000 + 2000 * p, 0, 0, 1] for p in range(rows)], float),
        "missing_modalities": [json.dumps(["sentinel1"] if place == 1 else []) for place in range(rows)],
    }  # fmt: skip


def labels(task: str, rng: np.random.Generator, data: dict[str, Any], rows: int, size_px: int) -> Any:
    """Labels that depend on the images, so that something can be learned."""
    red = np.ma.masked_equal(data["Sentinel2"][:, 3], 65535).mean(axis=(1, 2)).filled(0) / 4000
    if task == "biomass":
        sparse = np.full((rows, size_px, size_px), -9999.0)
        seen = rng.random(sparse.shape) < 0.05
        sparse[seen] = (300 * red[:, None, None] + rng.normal(0, 5, sparse.shape))[seen]
        sparse[3] = -9999
        return sparse
    if task == "species":
        present = rng.random((rows, len(SPECIES))) < 0.1 + 0.5 * red[:, None] * (np.arange(len(SPECIES)) % 2)
        present[:, 7] = False  # nowhere in these few tiles
        return [json.dumps([name for name, here in zip(SPECIES, row, strict=True) if here]) for row in present]
    return 4 + 4 * red[:, None] + rng.normal(0, 0.1, (rows, 1))


def splits(data: dict[str, Any], rows: int) -> dict[str, Any]:
    """Parts, partitions and statistics of the training samples."""
    rng = np.random.default_rng(42)
    africa = np.sort(rng.permutation(rows)[: rows // 6])
    others = rng.permutation(np.setdiff1d(np.arange(rows), africa))
    first, second = int(0.7 * len(others)), int(0.85 * len(others))
    whole = np.sort(others[:first])
    half = rng.permutation(whole)[: round(0.5 * len(whole))]
    parts = {
        "train_100%": whole,
        "train_50%": half,
        "train_5%": rng.permutation(half)[: max(1, round(0.1 * len(half)))],
        "val": np.sort(others[first:second]),
        "random_test": np.sort(others[second:]),
        "geographic_test": africa,
    }
    found: dict[str, Any] = {f"{name}_indices": part.tolist() for name, part in parts.items()}
    for part in ("train_100%", "train_50%", "train_5%"):
        for name in NUMBERS:
            means, deviations = statistics(np.asarray(data[name], np.float64)[parts[part]], MISSING[name])
            found[f"{name}_{part}_means"], found[f"{name}_{part}_stds"] = means, deviations
    return found


def statistics(values: NDArray[np.float64], missing: float) -> tuple[Any, Any]:
    """Nested lists of the mean and deviation of each band, null where a band has no value."""
    shown = np.ma.masked_equal(values, missing)
    axes = tuple(axis for axis in range(shown.ndim) if axis != 1)
    shape = (shown.shape[1],) + (1,) * (shown.ndim - 2)
    return shown.mean(axis=axes).reshape(shape).tolist(), shown.std(axis=axes).reshape(shape).tolist()
