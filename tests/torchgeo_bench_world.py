"""Small files in the published layout of GEO-Bench, of data sets that torchgeo-bench lists."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from mmearth_model.evaluation.torchgeo_inputs import listings

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_model.evaluation.probes import LabelledFeatures

PARTS = {"train": 36, "valid": 18, "test": 18}
SIDE_PX = 20


def write_geobench(root: Path, name: str, *, classes: int = 3, several: bool = False) -> Path:
    """Write a data set under its name: every class has a spectrum of its own in noise; a class or label index each."""
    rng = np.random.default_rng(sum(name.encode()))
    folder = root / name
    folder.mkdir(parents=True)
    bands = listings()[name].bands
    spectra = rng.normal(0, 0.6, (classes, len(bands)))
    items = {part: [f"id_{part}_{n:03}" for n in range(count)] for part, count in PARTS.items()}
    for item in (item for part in items.values() for item in part):
        flags = rng.random(classes) < 0.4 if several else np.arange(classes) == rng.integers(classes)
        light = flags @ spectra
        with h5py.File(folder / f"{item}.hdf5", "w") as file:
            for band, level in zip(bands, light, strict=True):
                noise = rng.normal(level, 1.5, (SIDE_PX, SIDE_PX))
                file[band.plane] = _stored(band.mean + band.std * noise, band.mean)
            label: Any = flags.astype(np.int64) if several else int(flags.argmax())
            file.attrs["pickle"] = str(pickle.dumps({"label": label, "bands_order": [band.plane for band in bands]}))
    (folder / "default_partition.json").write_text(json.dumps(items))
    few = {**items, "train": items["train"][::3]}
    (folder / "0.20x_train_partition.json").write_text(json.dumps(few))
    return folder


def _stored(values: np.ndarray[Any, Any], mean: float) -> np.ndarray[Any, Any]:
    """In the type of the published files: whole numbers, or reflectance."""
    return values.astype(np.float32) if abs(mean) < 1 else values.clip(0, 32767).astype(np.int16)


def labelled_features(several: bool = False) -> tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures]:
    """Features to train, validate and test on: correlated, of several scales, not centred; noisy classes or labels."""
    from mmearth_model.evaluation.probes import LabelledFeatures

    rng = np.random.default_rng(5)
    counts, width, classes = (60, 40, 60), 5, 3
    hidden = rng.normal(size=(sum(counts), width))
    values = (hidden @ rng.normal(size=(width, width)) + 2).astype(np.float32)
    levels = hidden[:, :classes] + rng.normal(0, 0.7, (sum(counts), classes))
    labels = (levels > 0.4).astype(np.int64) if several else levels.argmax(axis=1)
    cuts = np.split(np.arange(sum(counts)), np.cumsum(counts)[:2])
    train, validation, test = (LabelledFeatures(values[rows], labels[rows]) for rows in cuts)
    return train, validation, test
