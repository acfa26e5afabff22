"""The baseline of bench_loader: what people have, one HDF5 file read tile by tile through torch's DataLoader."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mmearth_data import Modality, Store

WORKERS = 2
BATCH = 64
GZIP_LEVEL = 4

Sample = dict[str, Any]


def write_hdf5(store: Store, path: Path) -> None:
    """Write a store's tiles: gzip level 4, one tile a chunk; tile modalities and coordinates beside them."""
    with h5py.File(path, "w") as file:
        for m in store.layout.rasters:
            shape = (store.layout.tiles, *m.array_shape(store.layout.size_px))
            chunks = (1, *shape[1:])
            array = file.create_dataset(
                m.name, shape, m.dtype, chunks=chunks, compression="gzip", compression_opts=GZIP_LEVEL
            )
            for shard in range(store.layout.shards):
                rows = store.layout.rows(shard)
                array[rows.start : rows.stop] = store.read(m.name, slice(rows.start, rows.stop))
        for m in store.layout.tabular:
            file[m.name] = store.read(m.name, slice(0, store.layout.tiles))
        for name in ("tile_id", "lon", "lat", "s2_level"):
            values = store.tile_columns[name]
            file[name] = values.view(np.int64) if values.dtype == np.uint64 else values  # torch collates no uint64


def scales(m: Modality, statistics: Mapping[str, Any]) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Level -> mean and std of each band, shaped for arrays of the modality."""
    table = {}
    for level, bands in statistics["train"][m.name].items():
        shape = (len(m.bands), 1, 1) if m.kind.is_raster else (len(m.bands),)
        entries = [bands.get(band, {}) for band in m.bands]
        mean = [entry.get("mean") or 0.0 for entry in entries]
        std = [entry.get("std") or 1.0 for entry in entries]
        table[level] = (np.array(mean, np.float32).reshape(shape), np.array(std, np.float32).reshape(shape))
    return table


class PerSample(Dataset[Sample]):
    """One tile at a time: no-data to NaN, z-score by band (and level), codes and masks as stored.

    Parameters
    ----------
    path
        File of `write_hdf5`; each worker opens it once.
    modalities
        All that are read.
    statistics
        Of the store.
    """

    def __init__(self, path: Path, modalities: list[Modality], statistics: Mapping[str, Any], tiles: int) -> None:
        self.path, self.modalities, self.tiles = path, modalities, tiles
        self.scales = {m.name: scales(m, statistics) for m in modalities if m.kind.is_continuous}
        self.file: h5py.File | None = None

    def __len__(self) -> int:
        return self.tiles

    def __getitem__(self, index: int) -> Sample:
        return self.normalise(self.read(index))

    def read(self, index: int) -> Sample:
        """Stored values of one tile."""
        if self.file is None:
            self.file = h5py.File(self.path, "r")
        names = [*(m.name for m in self.modalities), "tile_id", "lon", "lat", "s2_level"]
        sample = {name: self.file[name][index] for name in names}
        # The default collate takes Python numbers, but not every unsigned scalar of numpy.
        return {name: value.item() if value.ndim == 0 else value for name, value in sample.items()}

    def normalise(self, sample: Sample) -> Sample:
        """Continuous modalities as float32 z-scores, NaN where missing."""
        level = {0: "L1C", 1: "L2A"}.get(int(sample["s2_level"]), "-")
        for m in self.modalities:
            if m.kind.is_continuous:
                raw = sample[m.name]
                values = raw.astype(np.float32)
                if not math.isnan(m.nodata):
                    values[raw == m.nodata] = np.nan
                mean, std = self.scales[m.name].get(level) or self.scales[m.name]["-"]
                sample[m.name] = (values - mean) / std
        return sample


def make_loader(dataset: PerSample) -> DataLoader[Sample]:
    """Shuffled, batches of 64, two persistent workers, the default collate."""
    return DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)


def parts_ms(dataset: PerSample, tiles: int = 128) -> Iterator[tuple[str, float]]:
    """Milliseconds a tile that each part takes in one process, over some tiles."""
    torch.set_num_threads(1)  # as in a worker
    order = np.random.default_rng(0).permutation(len(dataset))[:tiles]
    start = time.perf_counter()
    raw = [dataset.read(int(i)) for i in order]
    read = time.perf_counter()
    samples = [dataset.normalise(sample) for sample in raw]
    normalised = time.perf_counter()
    for first in range(0, len(samples), BATCH):
        default_collate(samples[first : first + BATCH])
    collated = time.perf_counter()
    for name, seconds in (
        ("read and inflate", read - start),
        ("NaN and z-score", normalised - read),
        ("collate", collated - normalised),
    ):
        yield name, seconds / len(order) * 1e3
