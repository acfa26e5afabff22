"""Random raw batches of the catalog's modalities: what a loader yields, without a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import load_catalog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmearth_data import Batch, Modality

CATALOG = load_catalog().modalities
PRETEXT = tuple(m for m in load_catalog().select() if m.pretext)


def raw_batch(modalities: Sequence[Modality], tiles: int, size_px: int, seed: int = 0, missing: float = 0.1) -> Batch:
    """Values as stored; a share of them was never observed."""
    rng = np.random.default_rng(seed)
    batch: dict[str, Any] = {m.name: _values(m, tiles, size_px, rng, missing) for m in modalities if m.stored}
    batch["tile"] = {
        "tile_id": np.arange(1, tiles + 1, dtype=np.uint64),
        "lon": rng.uniform(-180, 180, tiles),
        "lat": rng.uniform(-60, 60, tiles),
        "time": np.datetime64("2019-01-15", "ms") + rng.integers(0, 365, tiles).astype("timedelta64[D]"),
        "s2_level": rng.integers(0, 2, tiles).astype(np.uint8),
    }
    return batch


def statistics(modalities: Sequence[Modality]) -> dict[str, Any]:
    """As a store records them: here the same for both levels of a product."""
    bands = {"count": 1000, "mean": 5.0, "std": 2.0}
    levels = {
        m.name: {level: dict.fromkeys(m.bands, bands) for level in _levels(m)}
        for m in modalities
        if m.kind.is_continuous
    }
    return {"train": levels, "all": levels}


def _levels(modality: Modality) -> tuple[str, ...]:
    return ("L1C", "L2A") if modality.statistics_by == "s2_level" else ("-",)


def _values(m: Modality, tiles: int, size_px: int, rng: np.random.Generator, missing: float) -> np.ndarray[Any, Any]:
    shape = (tiles, *m.array_shape(size_px))
    if m.kind.is_categorical:
        values = np.array([label.code for label in m.classes], dtype=m.dtype)[rng.integers(len(m.classes), size=shape)]
    else:
        values = rng.normal(5, 2, size=shape).clip(1, 20).astype(m.dtype)
    values[rng.random(shape) < missing] = m.nodata
    return values
