"""The tiles of a task of MMEarth-Bench as images: all modalities of its HDF5 file, in the catalog's units and codes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmearth_data import NO_LEVEL, FileInputError, InputError, load_catalog, resolve_statistics
from mmearth_model.data.targets import LEVELS, Normaliser
from mmearth_model.tasks.files import NO_LEVEL_CODE
from mmearth_model.tasks.mmearth_bench_form import bench_form, bench_modalities
from mmearth_model.tasks.mmearth_bench_splits import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data import Modality
    from mmearth_model.tasks.hdf5_rows import RowFile
    from mmearth_model.tasks.labelled import Batch
    from mmearth_model.tasks.mmearth_bench_form import BenchArray
    from mmearth_model.tasks.mmearth_bench_splits import Splits
    from mmearth_model.tasks.spec import TaskSpec


@dataclass(frozen=True, eq=False)
class BenchImages:
    """The tiles of one HDF5 file, read by rows."""

    redrawn: ClassVar[bool] = False
    fills_missing: ClassVar[bool] = True
    stand_ins: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    spec: TaskSpec
    file: RowFile
    arrays: tuple[BenchArray, ...]  # those that the file has
    splits: Splits
    _cache: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def origin(self) -> Path:
        """The HDF5 file."""
        return self.file.path

    def __len__(self) -> int:
        return self.splits.rows

    @cached_property
    def modalities(self) -> Mapping[str, Modality]:
        """Modalities of the catalog that the file has, and those derived from location and date."""
        stored = {array.modality: bench_modalities()[array.modality] for array in self.arrays}
        known = load_catalog().modalities
        return stored | {
            name: m for name, m in known.items() if not m.stored and set(m.derived_from) <= set(self.coords)
        }

    @cached_property
    def digest(self) -> str:
        """Digest of the file's name, size and time, and of how it is read; the same for both tests."""
        status = self.origin.stat()
        how = [bench_form().model_dump_json(), str(self.spec.level), self.origin.name]
        text = "\0".join([*how, str(status.st_size), str(status.st_mtime_ns)])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def found_bands(self, modality: Modality) -> tuple[str, ...]:
        """Model bands of a modality that the file has."""
        if modality.name not in self.modalities or not modality.stored:
            return modality.model_bands if modality.name in self.modalities else ()
        have = {band for array in self.arrays if array.modality == modality.name for band in array.bands}
        return tuple(band for band in modality.model_bands if band in have)

    def batches(self, rows: NDArray[np.intp], size: int, modalities: tuple[str, ...]) -> Iterator[Batch]:
        """Raw batches in the catalog's units and codes; numbers are float32, and no-data is where a value is missing.

        Raises `FileInputError` when the file is damaged, or a code has no class.
        """
        known = load_catalog().modalities
        wanted = [known[name] for name in modalities if name in known and known[name].stored]
        for start in range(0, len(rows), size):
            part = np.asarray(rows[start : start + size])
            batch = {m.name: self._read(m, part) for m in wanted}
            yield {**batch, "tile": {name: column[part] for name, column in self.coords.items()}}

    def _read(self, m: Modality, rows: NDArray[np.intp]) -> NDArray[Any]:
        """One modality of some tiles: no-data where no array fills it."""
        pixels = self.file.shape(self.arrays[0].name)[2:] if m.kind.is_raster else ()
        bands = (len(m.bands),) if m.bands else ()
        dtype = np.dtype(np.float32) if m.kind.is_continuous else m.dtype
        found = np.full((len(rows), *bands, *pixels), m.nodata, dtype)
        for array in (array for array in self.arrays if array.modality == m.name):
            values = self.file.read(array.name, rows)
            if m.kind.is_continuous:
                found[:, [m.bands.index(band) for band in array.bands]] = array.quantities(m, values)
            else:
                found[:] = self._classes(array, m, values)
        return found

    def _classes(self, array: BenchArray, m: Modality, values: NDArray[Any]) -> NDArray[Any]:
        try:
            return array.classes(m, values)
        except InputError as error:
            raise FileInputError(self.origin, str(error)) from None

    @cached_property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        """Id, centre, date and product level of the tiles."""
        lon, lat = self._places().T
        level = NO_LEVEL_CODE if self.spec.level is None else LEVELS.index(self.spec.level)
        rows = len(self)
        ids = self.file.whole("id") if "id" in self.file else np.arange(rows)
        if ids.shape != (rows,) or len(np.unique(ids)) < rows or ids.dtype.kind not in "iu" or ids.min() < 0:
            raise FileInputError(self.origin, f"expected {rows} different ids, got others; download the file again.")
        return {
            "tile_id": ids.astype(np.uint64),
            "lon": lon,
            "lat": lat,
            "time": self._times(),
            "s2_level": np.full(rows, level, np.uint8),
        }

    def _places(self) -> NDArray[np.float64]:
        """(N, 2) longitude and latitude."""
        found = self.file.whole("geolocation").astype(np.float64)
        if found.shape != (len(self), 2) or (np.abs(found) > (180, 90)).any():
            raise FileInputError(
                self.origin, "geolocation: expected longitude and latitude of each tile, got others; download the file again."
            )  # fmt: skip
        return found

    def _times(self) -> NDArray[np.datetime64]:
        """(N,) day of the Sentinel-2 image, NaT if the file has none."""
        if "sentinel2_date" not in self.file:
            return np.full(len(self), np.datetime64("NaT", "ms"))
        days = texts(self.file, "sentinel2_date")
        try:
            return np.array(days, dtype="datetime64[ms]")
        except ValueError as error:
            raise FileInputError(
                self.origin, f"sentinel2_date: expected dates such as 2020-07-31, got: {error}."
            ) from None

    def outlines(self) -> NDArray[Any]:
        """(N,) outlines of the tiles in EPSG:4326, None if the file has no corners."""
        found = np.full(len(self), None, dtype=object)
        if "transform" not in self.file or "crs" not in self.file:
            return found
        import shapely
        from rasterio.warp import transform

        height, width = self.file.shape(self.arrays[0].name)[2:]
        columns, rows = np.array([[0, width, width, 0], [height, height, 0, 0]])
        systems = np.array(texts(self.file, "crs"))
        a, b, c, d, e, f = self.file.whole("transform").astype(np.float64)[:, :6].T[:, :, None]
        x, y = a * columns + b * rows + c, d * columns + e * rows + f
        for system in np.unique(systems).tolist():
            same = systems == system
            lon, lat = transform(system, "EPSG:4326", x[same].ravel().tolist(), y[same].ravel().tolist())
            corners = np.stack([lon, lat], axis=-1).reshape(-1, 4, 2)
            found[same] = shapely.polygons(corners)
        return found

    @property
    def own_normaliser(self) -> Callable[[NDArray[np.intp]], Normaliser] | None:
        """Normalises by the published statistics; None if the task file requests those of the checkpoint."""
        return None if self.spec.normalise == "checkpoint" else self._normaliser_of

    @property
    def recorded_statistics(self) -> Mapping[str, Any] | None:
        """Published statistics of all training samples, if the task file requests those of the checkpoint."""
        return {"train": self.statistics(WHOLE)} if self.spec.normalise == "checkpoint" else None

    def _normaliser_of(self, train: NDArray[np.intp]) -> Normaliser:
        """Normalise with the published statistics of the training samples, or of the published subset that they form."""
        name = next((name for name in bench_form().partitions if self.splits.is_part(name, train)), WHOLE)
        if name not in self._cache:
            self._cache[name] = self.statistics(name)
        known = {"train": self._cache[name]}
        inputs = [m for m in self.modalities.values() if m.input]
        normaliser = Normaliser(inputs, known, inputs=[m.name for m in inputs])
        # also those of modalities that only some encoders take
        normaliser.statistics = {m: resolve_statistics(self.modalities[m], known) for m in self._cache[name]}
        return normaliser

    def statistics(self, partition: str) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """Modality -> level -> band -> count, mean and deviation, as published for ``train_100%``, ``train_50%`` or ``train_5%``."""
        found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        for array in self.arrays:
            m = self.modalities[array.modality]
            if not m.kind.is_continuous:
                continue
            level = (self.spec.level or NO_LEVEL) if m.statistics_by == "s2_level" else NO_LEVEL
            means, deviations = self.splits.statistics(array, partition)
            entries = found.setdefault(m.name, {}).setdefault(level, {})
            for band, mean, deviation in zip(array.bands, means, deviations, strict=True):
                entries[band] = {"count": 1, "mean": mean, "std": deviation}
        return found


def texts(file: RowFile, name: str) -> list[str]:
    """Strings of an array with one per row."""
    return [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in file.whole(name)]
