"""Images in files: raster files in folders and zips, HDF5 samples; as batches in the catalog's bands."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from mmearth_data import NO_LEVEL, FileInputError, InputError, Raster, calibrate, load_catalog
from mmearth_model.data.targets import LEVELS, Normaliser
from mmearth_model.tasks.labelled import LabelledSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data import Marks, Modality
    from mmearth_model.tasks.labelled import Batch
    from mmearth_model.tasks.spec import TaskSpec

LOG = logging.getLogger(__name__)
STATISTICS_SAMPLES = 2000
"""Maximum number of training samples from which a task's own statistics are computed."""
NO_LEVEL_CODE = 255
BAND = "{band}"
"""Placeholder in a path for the files' name of a band, if each band has its own file."""
OBSERVED = 1e-3
"""Added to an observed value that equals the catalog's no-data value; 1e-7 in reflectance."""


class Reader(Protocol):
    """Reads one sample's file."""

    def read(self, item: str, marks: Marks = None) -> Raster:
        """Read all bands unchanged; `marks` mean missing instead of the file's no-data tag."""
        ...

    def outline(self, item: str) -> BaseGeometry | None:
        """Outline in EPSG:4326; None if the file has no georeference."""
        ...

    def stamp(self, item: str) -> str:
        """Return a text that changes whenever the file does."""
        ...


@dataclass(frozen=True, eq=False)
class FileImages:
    """Samples in files, each read on access."""

    redrawn: ClassVar[bool] = False
    fills_missing: ClassVar[bool] = True
    recorded_statistics: ClassVar[None] = None
    coords: ClassVar[Mapping[str, NDArray[Any]]] = {}

    spec: TaskSpec  # bands of the files, and their units
    reader: Reader
    items: tuple[str, ...]  # (N) arguments of the reader
    origin: Path  # folder or file of the whole, for messages
    _cache: dict[str, Any] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def modality(self) -> Modality:
        """Modality of the bands."""
        return load_catalog().find(self.spec.modality)

    @property
    def modalities(self) -> Mapping[str, Modality]:
        """The one modality of the files."""
        return {self.modality.name: self.modality}

    @cached_property
    def digest(self) -> str:
        """Digest of the files' stamps and of the settings with which they are read."""
        how = self.spec.model_dump(mode="json", include={"modality", "bands", "band_order", "level", "scale", "offset", "nodata", "fill", "size_px", "date"})  # fmt: skip
        content = hashlib.blake2b(json.dumps(how, sort_keys=True).encode(), digest_size=16)
        for item in self.items:
            for file in self._files(item):
                content.update(f"{file}\0{self.reader.stamp(file)}\n".encode())
        return content.hexdigest()

    def found_bands(self, modality: Modality) -> tuple[str, ...]:
        """Model bands of a modality that the files have."""
        have = self.spec.catalog_bands if modality.name == self.modality.name else ()
        return tuple(band for band in modality.model_bands if band in have)

    @property
    def stand_ins(self) -> Mapping[str, Mapping[str, str]]:
        """Modality -> band that the files lack -> the band that replaces it, as specified in the task file."""
        return {self.modality.name: self.spec.stand_ins}

    def batches(self, rows: NDArray[np.intp], size: int, modalities: tuple[str, ...]) -> Iterator[Batch]:
        """Raw batches, float32 in the catalog's units, no-data where a value is missing."""
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

        Raises `FileInputError` when the file lacks bands, or all of its pixels are missing.
        """
        observed = self._checked(self.read(row), self.items[row])
        bands, nodata = self.modality.bands, self.modality.nodata
        image = np.full((len(bands), *observed.shape[1:]), nodata, dtype=np.float32)
        for band, plane in zip(self.spec.catalog_bands, observed, strict=True):
            seen = np.where(plane == nodata, nodata + OBSERVED, plane)  # a black pixel of a JPEG is not missing
            image[bands.index(band)] = np.where(np.isnan(plane), nodata, seen)
        for band, stand_in in self.spec.stand_ins.items():
            image[bands.index(band)] = image[bands.index(stand_in)]
        size = self.spec.size_px
        return image if size is None else resized(image, size, size, nodata)

    def read(self, row: int) -> Raster:
        """Bands of a sample's files, before selection and scaling.

        Raises `FileInputError` if a file cannot be read, or single-band files do not match.
        """
        files = self._files(self.items[row])
        if BAND not in self.items[row]:
            return self.reader.read(files[0], self.spec.nodata)
        planes = [self.reader.read(file, self.spec.nodata) for file in files]
        return joined(planes, self.spec.band_names, [f"{self.origin.parent}/{file}" for file in files])

    def outlines(self) -> NDArray[Any]:
        """(N,) shapely outlines of the samples in EPSG:4326, None where a file has no georeference.

        Raises `FileInputError` if a file cannot be read.
        """
        found = np.full(len(self.items), None, dtype=object)
        for row, item in enumerate(self.items):
            found[row] = self.reader.outline(self._files(item)[0])
        return found

    def _files(self, item: str) -> tuple[str, ...]:
        """Files of a sample: one, or one per band if its path has ``{band}``."""
        return tuple(item.replace(BAND, name) for name in self.spec.band_names) if BAND in item else (item,)

    def _checked(self, raster: Raster, item: str) -> NDArray[np.float32]:
        """Bands of the task file, in its order, in the catalog's units; NaN where missing."""
        chosen = self._chosen(raster, item)
        if chosen.missing.all():
            raise FileInputError(item, "expected pixels, got none (all NaN, no data or masked); leave the sample out.")
        calibration = calibrate(chosen.tags, self.modality, self.spec.scale, self.spec.offset, item)
        self._name_ignored(calibration.ignored, item)
        scale, offset = (np.array(part, np.float32)[:, None, None] for part in zip(*calibration.factors, strict=True))
        return np.where(chosen.missing, np.nan, chosen.values.astype(np.float32) * scale + offset).astype(np.float32)

    def _name_ignored(self, tags: str, item: str) -> None:
        """Log once per data set that the task file's scale and offset replace tags of its files."""
        if tags and "ignored" not in self._cache:
            self._cache["ignored"] = tags
            LOG.warning("%s: %s are ignored for scale and offset of the task file.", item, tags)

    def _chosen(self, raster: Raster, item: str) -> Raster:
        given = self.spec.file_bands
        try:
            named = self.spec.named_bands(raster.names, by_name=BAND in item)
        except InputError as error:
            raise FileInputError(item, str(error)) from None
        if named is not None:
            return raster.select(named)
        if len(raster.values) != len(given):
            raise FileInputError(
                item,
                f"expected {len(given)} bands ({', '.join(band or 'null' for band in given)}), got {len(raster.values)}; "
                "list one name per band of the files in the task file, null for those to skip.",
            )
        return raster.select([position for position, band in enumerate(given) if band is not None])

    def _absent(self, modalities: tuple[str, ...], shape: tuple[int, ...]) -> dict[str, Any]:
        """No-data arrays for modalities that an encoder takes but the files lack."""
        known = load_catalog().modalities
        return {
            name: np.full((shape[0], len(known[name].bands), *shape[2:]), known[name].nodata, dtype=np.float32)
            for name in modalities
            if name != self.modality.name and name in known
        }

    def _tiles(self, count: int) -> dict[str, Any]:
        code = NO_LEVEL_CODE if self.spec.level is None else LEVELS.index(self.spec.level)
        return {"tile_id": np.zeros(count, np.uint64), "s2_level": np.full(count, code, np.uint8)}

    @property
    def own_normaliser(self) -> Callable[[NDArray[np.intp]], Normaliser] | None:
        """Normalises by the training samples; None where the task file asks for the checkpoint's statistics."""
        return None if self.spec.normalise == "checkpoint" else self._normaliser_of

    def _normaliser_of(self, train: NDArray[np.intp]) -> Normaliser:
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
        """Band -> count, mean and standard deviation over (a seeded random subset of) the given samples."""
        if len(rows) > STATISTICS_SAMPLES:
            rows = np.random.default_rng(0).permutation(rows)[:STATISTICS_SAMPLES]
        bands, nodata = self.modality.bands, self.modality.nodata
        count, first, second = (np.zeros(len(bands)) for _ in range(3))
        for row in rows:
            image = self.image(int(row)).astype(np.float64).reshape(len(bands), -1)
            seen = ~np.isnan(image) if math.isnan(nodata) else image != nodata
            count += seen.sum(axis=1)
            first += np.where(seen, image, 0).sum(axis=1)
            second += np.where(seen, image**2, 0).sum(axis=1)
        mean = first / np.maximum(count, 1)
        deviation = np.sqrt(np.maximum(second / np.maximum(count, 1) - mean**2, 0))
        return {
            band: {"count": int(n), "mean": float(m), "std": float(s)}
            for band, n, m, s in zip(bands, count, mean, deviation, strict=True)
        }


def labelled(
    spec: TaskSpec, images: FileImages, classes: tuple[str, ...], notes: tuple[str, ...], **fields: Any
) -> LabelledSet:
    """Labelled set of a task file; ``notes`` are added to its own."""
    return LabelledSet(
        name=spec.name,
        kind=spec.kind,
        classes=classes,
        images=images,
        augment=spec.augment,
        colours=spec.colours,
        licence=spec.licence,
        notes=(*spec.notes, *notes),
        **fields,
    )


def joined(planes: Sequence[Raster], names: tuple[str, ...], files: Sequence[str]) -> Raster:
    """Combine single-band files to one raster: coarser ones are resampled to the finest grid (bilinear).

    Raises `FileInputError` if a file has several bands, or covers another area.
    """
    rows, columns = (max(plane.values.shape[axis] for plane in planes) for axis in (1, 2))
    finest = next((plane for plane in planes if plane.values.shape[1:] == (rows, columns)), planes[0])
    for plane, file in zip(planes, files, strict=True):
        problem = _misfit(plane, finest)
        if problem:
            raise FileInputError(file, problem)
    values, missing = [], []
    for plane in planes:
        value, gone = plane.values, plane.missing
        if value.shape != finest.values.shape:
            value = resized(np.where(gone, np.nan, value).astype(np.float32), rows, columns, math.nan)
            gone = np.isnan(value)
        values.append(value)
        missing.append(gone)
    return Raster(
        values=np.concatenate(values),
        missing=np.concatenate(missing),
        names=names,
        tags=tuple(plane.tags[0] for plane in planes),
    )


def _misfit(plane: Raster, finest: Raster) -> str | None:
    """Reason why a single-band file does not match the finest one, or None."""
    (bands, rows, columns), (_, most_rows, most_columns) = plane.values.shape, finest.values.shape
    if bands != 1:
        return f"expected one band in each file of a path with {BAND}, got {bands}; leave {BAND} out of the path."
    if rows * most_columns != columns * most_rows:
        return f"expected the shape of the other bands, {most_rows} x {most_columns} px or coarser, got {rows} x {columns}."
    if plane.corners is None or finest.corners is None:
        return None
    pixel = abs(finest.corners[2] - finest.corners[0]) / most_columns
    if np.abs(np.subtract(plane.corners, finest.corners)).max() > pixel / 2:
        return f"expected the corners of the other bands, {finest.corners}, got {plane.corners}; crop the files to the same area."
    return None


def nearest(plane: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Resize (H, W) to (rows, columns), nearest neighbour."""
    at = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip((rows, columns), plane.shape, strict=True))
    return plane[np.ix_(*at)] if plane.shape != (rows, columns) else plane


def resized(image: NDArray[np.float32], rows: int, columns: int, nodata: float) -> NDArray[np.float32]:
    """Resize (C, H, W) to (C, rows, columns) (bilinear); pixels next to missing ones become missing."""
    size = rows, columns
    if image.shape[1:] == size:
        return image
    import torch
    from torch.nn import functional

    missing = np.isnan(image) if math.isnan(nodata) else image == nodata
    both = torch.from_numpy(np.stack([np.where(missing, 0, image), missing.astype(np.float32)]))
    shrinks = min(image.shape[1:]) > min(size)
    scaled, gone = functional.interpolate(both, size=size, mode="bilinear", antialias=shrinks).numpy()
    return np.where(gone > 1e-6, nodata, scaled).astype(np.float32)
