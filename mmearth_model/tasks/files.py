"""Images in files: raster files in folders and zips, HDF5 samples; as batches in the catalog's bands."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mmearth_data import NO_LEVEL, FileInputError, InputError, load_catalog
from mmearth_model.targets import LEVELS, Normaliser

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data import Modality
    from mmearth_model.tasks.labelled import Batch
    from mmearth_model.tasks.spec import TaskSpec

STATISTICS_SAMPLES = 2000
"""Training samples that a task's own statistics are taken from, at most."""
NO_LEVEL_CODE = 255
OBSERVED = 1e-3
"""Added to an observed value that the catalog would take for no data; a ten-millionth of the reflectance."""


class Reader(Protocol):
    """Reads one sample's file."""

    def read(self, item: str) -> tuple[NDArray[Any], tuple[str, ...]]:
        """(C, H, W) values as the file has them, and the names of the bands (empty where it has none)."""
        ...

    def stamp(self, item: str) -> str:
        """Return what changes when the file does."""
        ...


@dataclass(frozen=True, eq=False)
class FileImages:
    """Samples that are files, each read when it is asked for.

    Attributes
    ----------
    spec
        Which bands they hold, and in which units.
    reader
        Reads them.
    items
        (N) what the reader takes.
    origin
        Folder or file of the whole, for messages.
    """

    spec: TaskSpec
    reader: Reader
    items: tuple[str, ...]
    origin: Path
    _cache: dict[str, Any] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def modality(self) -> Modality:
        """Whose bands these are."""
        return load_catalog().find(self.spec.modality)

    @property
    def modalities(self) -> Mapping[str, Modality]:
        """The one modality that the files hold."""
        return {self.modality.name: self.modality}

    @cached_property
    def digest(self) -> str:
        """Of the files' stamps and of what decides how they are read."""
        how = self.spec.model_dump(mode="json", include={"modality", "bands", "band_order", "level", "scale", "offset", "nodata", "fill", "size_px", "date"})  # fmt: skip
        content = hashlib.blake2b(json.dumps(how, sort_keys=True).encode(), digest_size=16)
        for item in self.items:
            content.update(f"{item}\0{self.reader.stamp(item)}\n".encode())
        return content.hexdigest()

    def found_bands(self, modality: Modality) -> tuple[str, ...]:
        """Model bands of a modality that the files hold."""
        have = self.spec.catalog_bands if modality.name == self.modality.name else ()
        return tuple(band for band in modality.model_bands if band in have)

    def stand_ins(self, modality: Modality) -> Mapping[str, str]:
        """Band that the files lack -> the band that replaces it, as specified in the task file."""
        return self.spec.stand_ins if modality.name == self.modality.name else {}

    def batches(self, rows: NDArray[np.intp], size: int, modalities: tuple[str, ...]) -> Iterator[Batch]:
        """Raw batches, float32 in the catalog's units, no-data where something is missing."""
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            images = [self.image(int(row)) for row in part]
            sizes = {image.shape[1:] for image in images}
            if len(sizes) > 1:
                raise InputError(
                    f"{self.origin}: expected images of one size, got {' and '.join(map(str, sorted(sizes)[:2]))} px; "
                    "give size_px in the task file."
                )
            stacked = np.stack(images)
            batch: dict[str, Any] = {self.modality.name: stacked}
            batch |= self._absent(modalities, stacked.shape)
            yield {**batch, "tile": self._tiles(len(part))}

    def image(self, row: int) -> NDArray[np.float32]:
        """(bands of the modality, H, W) float32 in the catalog's units; no-data where missing.

        Raises
        ------
        FileInputError
            When the file lacks bands, or all of its pixels are missing.
        """
        values, names = self.reader.read(self.items[row])
        observed = self._checked(values, names, self.items[row])
        bands, nodata = self.modality.bands, self.modality.nodata
        image = np.full((len(bands), *observed.shape[1:]), nodata, dtype=np.float32)
        for band, plane in zip(self.spec.catalog_bands, observed, strict=True):
            seen = np.where(plane == nodata, nodata + OBSERVED, plane)  # a black pixel of a JPEG is no missing one
            image[bands.index(band)] = np.where(np.isnan(plane), nodata, seen)
        for band, stand_in in self.spec.stand_ins.items():
            image[bands.index(band)] = image[bands.index(stand_in)]
        return resample(image, self.spec.size_px, nodata)

    def _checked(self, values: NDArray[Any], names: tuple[str, ...], item: str) -> NDArray[np.float32]:
        """Bands that the task file names, in its order, in the catalog's units; NaN where missing."""
        wanted = tuple(self.spec.bands)
        if isinstance(self.spec.bands, dict) and names:
            absent = [band for band in wanted if band not in names]
            if absent:
                raise FileInputError(
                    item, f"expected the band {absent[0]!r}, got {', '.join(names)}; correct bands in the task file."
                )
            values = values[[names.index(band) for band in wanted]]
        elif len(values) != len(wanted):
            raise FileInputError(
                item, f"expected {len(wanted)} bands ({', '.join(wanted)}), got {len(values)}; correct the task file."
            )
        planes = values.astype(np.float32)
        missing = np.isnan(planes) if self.spec.nodata is None else np.isnan(planes) | (values == self.spec.nodata)
        if missing.all():
            raise FileInputError(item, "expected pixels, got none (all NaN or no data); leave the sample out.")
        return np.where(missing, np.nan, planes * self.spec.scale + self.spec.offset).astype(np.float32)

    def _absent(self, modalities: tuple[str, ...], shape: tuple[int, ...]) -> dict[str, Any]:
        """No-data of the modalities that an encoder takes beside the files' own."""
        known = load_catalog().modalities
        return {
            name: np.full((shape[0], len(known[name].bands), *shape[2:]), known[name].nodata, dtype=np.float32)
            for name in modalities
            if name != self.modality.name and name in known
        }

    def _tiles(self, count: int) -> dict[str, Any]:
        code = NO_LEVEL_CODE if self.spec.level is None else LEVELS.index(self.spec.level)
        return {"tile_id": np.zeros(count, np.uint64), "s2_level": np.full(count, code, np.uint8)}

    def own_normaliser(self, train: NDArray[np.intp]) -> Normaliser | None:
        """Normalise by the training samples; None where the task file asks for the checkpoint's statistics."""
        if self.spec.normalise == "checkpoint":
            return None
        key = hashlib.blake2b(np.ascontiguousarray(train).tobytes(), digest_size=16).hexdigest()
        if key not in self._cache:
            self._cache[key] = self.statistics(train)
        statistics = {self.modality.name: {self._level_key: self._cache[key]}}
        seen = replace(self.modality, model_bands=self.found_bands(self.modality))
        return Normaliser([seen], {"train": statistics}, inputs=[seen.name])

    @property
    def _level_key(self) -> str:
        by_level = self.modality.statistics_by == "s2_level"
        return (self.spec.level or NO_LEVEL) if by_level else NO_LEVEL

    def statistics(self, rows: NDArray[np.intp]) -> dict[str, dict[str, float]]:
        """Band -> count, mean and standard deviation over (a seeded draw of) the given samples."""
        if len(rows) > STATISTICS_SAMPLES:
            rows = np.random.default_rng(0).permutation(rows)[:STATISTICS_SAMPLES]
        bands = self.modality.bands
        count, first, second = (np.zeros(len(bands)) for _ in range(3))
        for row in rows:
            image = self.image(int(row)).astype(np.float64).reshape(len(bands), -1)
            seen = ~np.isnan(image) if math.isnan(self.modality.nodata) else image != self.modality.nodata
            count += seen.sum(axis=1)
            first += np.where(seen, image, 0).sum(axis=1)
            second += np.where(seen, image**2, 0).sum(axis=1)
        mean = first / np.maximum(count, 1)
        deviation = np.sqrt(np.maximum(second / np.maximum(count, 1) - mean**2, 0))
        return {
            band: {"count": int(n), "mean": float(m), "std": float(s)}
            for band, n, m, s in zip(bands, count, mean, deviation, strict=True)
        }


def resample(image: NDArray[np.float32], size_px: int | None, nodata: float) -> NDArray[np.float32]:
    """(C, H, W) to a square side, bilinear; what is next to missing pixels is missing."""
    if size_px is None or image.shape[1:] == (size_px, size_px):
        return image
    import torch
    from torch.nn import functional

    missing = np.isnan(image) if math.isnan(nodata) else image == nodata
    values = torch.from_numpy(np.where(missing, 0, image))[None]
    shrinks = min(image.shape[1:]) > size_px
    resized = functional.interpolate(values, size=(size_px, size_px), mode="bilinear", antialias=shrinks)[0].numpy()
    holes = torch.from_numpy(missing.astype(np.float32))[None]
    gone = functional.interpolate(holes, size=(size_px, size_px), mode="bilinear", antialias=shrinks)[0].numpy() > 1e-6
    return np.where(gone, nodata, resized).astype(np.float32)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Shorten a list of names for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more if names else "nothing"
