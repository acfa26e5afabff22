"""Labelled tasks from a store: one of its modalities provides the label of each tile or pixel."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from mmearth_data import InputError, Kind, format_tile_id
from mmearth_model.tasks.labelled import IGNORED, LabelledSet, Parts, TaskKind, class_notes, meant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data import Modality, Store
    from mmearth_model.tasks.labelled import Batch

PREFIX = "store:"
READ_TILES = 64
"""Number of tiles read together."""
NO_PART = 255
"""Code of a tile without a label, which is in no part."""

Form = Literal["tile", "shares", "pixels"]


@dataclass(frozen=True, slots=True)
class StoreTask:
    """Task whose labels come from a modality."""

    modality: Modality
    # ``tile``: the class of a tile, or the one that covers most of it; for a quantity, its mean. ``shares``: the share
    # of a tile that each class covers. ``pixels``: the map itself.
    form: Form = "tile"
    band: str | None = None  # band of a quantity with several bands

    @property
    def name(self) -> str:
        """As written on the command line."""
        band = f".{self.band}" if self.band else ""
        return f"{PREFIX}{self.modality.name}{band}{'' if self.form == 'tile' else '/' + self.form}"

    @property
    def kind(self) -> TaskKind:
        """Kind of the task."""
        continuous = self.modality.kind.is_continuous
        if self.form == "pixels":
            return TaskKind.PIXEL_REGRESSION if continuous else TaskKind.SEGMENTATION
        if self.modality.kind.is_multi_label:
            return TaskKind.MULTI_LABEL
        return TaskKind.REGRESSION if continuous or self.form == "shares" else TaskKind.SINGLE_LABEL

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or of the regression targets."""
        if self.modality.classes:
            return tuple(label.name for label in self.modality.classes)
        return (self.band or self.modality.name,)

    @property
    def reads(self) -> tuple[str, ...]:
        """Stored modalities that a batch must contain."""
        return (self.modality.name,)

    def labels(self, batch: Mapping[str, Any]) -> NDArray[Any]:
        """Label of every tile of a raw batch.

        Classes: (B,) int64, position in ``modality.classes``; `IGNORED` if nothing was observed; of classes that cover
        equal parts, the first. Several classes: (B, K) int64, 0 or 1, `IGNORED` if not observed. Quantities and shares: (B, T) float64, NaN if nothing was observed.
        """
        if self.modality.kind.is_continuous:
            return _means(self._quantities(batch))
        if self.modality.kind.is_multi_label:
            given = batch[self.modality.name]
            return np.where(self.modality.observed(given), given.astype(np.int64), IGNORED)
        indices = self._indices(batch)
        if not self.modality.kind.is_raster:
            return indices
        flat = indices.reshape(len(indices), -1)
        counts = np.stack([(flat == index).sum(axis=1) for index in range(len(self.modality.classes))], axis=1)
        if self.form == "shares":
            total = counts.sum(axis=1, keepdims=True)
            return np.where(total > 0, counts / np.maximum(total, 1), np.nan)
        return np.where(counts.any(axis=1), counts.argmax(axis=1), IGNORED).astype(np.int64)

    def masks(self, batch: Mapping[str, Any]) -> NDArray[Any]:
        """Labels of a raw batch's pixels: (B, H, W) class indices, `IGNORED` if not observed; or float64, NaN."""
        if self.modality.kind.is_continuous:
            return self._quantities(batch)
        return self._indices(batch)[:, 0]

    def _indices(self, batch: Mapping[str, Any]) -> NDArray[np.int64]:
        """Positions in ``modality.classes``, `IGNORED` if not observed; a code without a class is refused."""
        modality = self.modality
        codes = batch[modality.name]
        indices: NDArray[np.int64] = modality.class_code_index()[codes]
        unknown = (indices < 0) & (codes != modality.nodata)
        if unknown.any():
            raise InputError(
                f"{self.name}: expected codes of the {len(modality.classes)} classes of {modality.name}, got "
                f"{codes[unknown][0]}; add the class to its catalog entry and build the store again."
            )
        return indices

    def _quantities(self, batch: Mapping[str, Any]) -> NDArray[np.float64]:
        """(B, ...) physical values of the band, NaN where not observed."""
        modality = self.modality
        raw = batch[modality.name][:, modality.bands.index(self.band or modality.bands[0])]
        missing = np.isnan(raw) if math.isnan(modality.nodata) else raw == modality.nodata
        values: NDArray[np.float64] = np.where(missing, np.nan, raw * modality.scale + modality.offset)
        return values


def _means(quantities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average (B, ...) to (B, 1) over observed values; NaN if there are none."""
    flat = quantities.reshape(len(quantities), -1)
    seen = np.isfinite(flat).sum(axis=1)
    means: NDArray[np.float64] = np.where(seen > 0, np.nansum(flat, axis=1) / np.maximum(seen, 1), np.nan)
    return means[:, None]


@dataclass(frozen=True)
class StoreImages:
    """The tiles of a store, or of a selection of it, as images."""

    redrawn: ClassVar[bool] = True
    fills_missing: ClassVar[bool] = False
    own_normaliser: ClassVar[None] = None
    stand_ins: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    store: Store
    _labels: dict[str, NDArray[Any]] = field(default_factory=dict, compare=False)

    @property
    def origin(self) -> Path | str:
        """Folder or URL of the store."""
        return self.store.path

    @property
    def recorded_statistics(self) -> Mapping[str, Any]:
        """Those of the store."""
        return self.store.statistics

    @property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        """Those of the store's tiles."""
        return self.store.coords

    def outlines(self) -> NDArray[Any]:
        """(N,) outlines of the tiles, None where the corner of a tile is unknown."""
        return np.asarray(self.store.tiles.geometry, dtype=object)

    def __len__(self) -> int:
        return len(self.store)

    @property
    def modalities(self) -> Mapping[str, Modality]:
        """Modalities of the store."""
        return self.store.modalities

    @cached_property
    def digest(self) -> str:
        """Digest of the store and the selected rows; that of an unfinished store is different every time."""
        content = hashlib.blake2b(digest_size=16)
        content.update(f"{self.store.digest or id(self.store)}".encode())
        content.update(np.ascontiguousarray(self.store.rows).tobytes())
        return content.hexdigest()

    def batches(self, rows: NDArray[np.intp], size: int, modalities: tuple[str, ...]) -> Iterator[Batch]:
        """Raw batches of the given tiles, in their order."""
        known = self.store.modalities
        stored = [name for name in modalities if name in known and known[name].stored]
        for start in range(0, len(rows), size):
            inside = self.store.rows[rows[start : start + size]]
            tile = {name: column[inside] for name, column in self.store.tile_columns.items()}
            yield {**{name: self._read(name, inside) for name in stored}, "tile": tile}

    def _read(self, name: str, inside: NDArray[np.intp]) -> NDArray[Any]:
        """Rows of one array: consecutive ones in one read, others tile by tile."""
        first, last = int(inside.min()), int(inside.max()) + 1
        if last - first <= 4 * len(inside):
            return self.store.read(name, slice(first, last))[inside - first]
        return np.concatenate([self.store.read(name, slice(int(row), int(row) + 1)) for row in inside])

    def found_bands(self, modality: Modality) -> tuple[str, ...]:
        """All model bands of the store's modalities."""
        return modality.model_bands if modality.name in self.modalities else ()

    def labels(self, task: StoreTask) -> NDArray[Any]:
        """Label of every tile; see `StoreTask.labels`. For maps, only whether a tile has any: (N, 0) or (N, 1) bool."""
        if task.name not in self._labels:
            rows = np.arange(len(self), dtype=np.intp)
            parts = [_label(task, batch) for batch in self.batches(rows, READ_TILES, task.reads)]
            self._labels[task.name] = np.concatenate(parts)
        return self._labels[task.name]


def _label(task: StoreTask, batch: Batch) -> NDArray[Any]:
    if task.form != "pixels":
        return task.labels(batch)
    masks = task.masks(batch)
    observed = np.isfinite(masks) if task.modality.kind.is_continuous else masks != IGNORED
    return np.asarray(observed.any(axis=(1, 2)))


def open_store_task(images: StoreImages, task: StoreTask) -> LabelledSet:
    """Make a labelled set of a store's tiles, with the store's splits."""
    store = images.store
    found = images.labels(task)
    parts = Parts.of(np.where(labelled_rows(task.kind, found), store.coords["split"], NO_PART))

    def masks(rows: NDArray[np.intp]) -> NDArray[Any]:
        return np.concatenate([task.masks(batch) for batch in images.batches(rows, READ_TILES, task.reads)])

    def tile(row: int) -> str:
        return f"tile {format_tile_id(int(store.coords['tile_id'][row]))}"

    return LabelledSet(
        name=task.name,
        kind=task.kind,
        classes=task.classes,
        images=images,
        parts=parts,
        labels=np.zeros((len(store), 0)) if task.kind.per_pixel else found,
        masks=masks if task.kind.per_pixel else None,
        shown=task.modality,
        synthetic=store.synthetic,
        notes=class_notes(task.classes, found, parts, tile) if task.kind is TaskKind.SINGLE_LABEL else (),
    )


def labelled_rows(kind: TaskKind, labels: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) whether a tile has a label."""
    if kind.per_pixel:
        return labels.astype(bool)
    if kind is TaskKind.SINGLE_LABEL:
        return np.asarray(labels != IGNORED)
    seen: NDArray[np.bool_] = np.isfinite(labels) if kind is TaskKind.REGRESSION else labels != IGNORED
    return np.asarray(seen.all(axis=1))


def redraw(task: LabelledSet, test_share: float, seed: int) -> LabelledSet:
    """Test on a random share of all labelled samples, without validation samples.

    All dates of a location are in the same part, so the actual share may differ slightly.
    Raises `InputError` if there is only one location.
    """
    order = np.random.default_rng(seed).permutation(task.parts.used)
    _, first, number = np.unique(task.images.coords["tile_id"][order], return_index=True, return_inverse=True)
    place = first[number]  # for each sample, the position of the first one with the same id
    test = round(test_share * len(order))
    together = np.argsort(place, kind="stable")
    order, place = order[together], place[together]
    if 0 < test < len(order):
        start, end = (
            np.searchsorted(place, place[test - 1], side="left"),
            np.searchsorted(place, place[test - 1], side="right"),
        )
        if end - start == len(order):
            raise InputError(
                f"--test-share: expected at least two locations with labels of {task.name}, got one, whose dates would be "
                "learned and tested on; leave it out, or build more locations."
            )
        test = int(end if end < len(order) else start)
    return replace(task, parts=Parts(train=order[test:], validation=order[:0], test=order[:test]))


def parse_task(text: str, modalities: Mapping[str, Modality]) -> StoreTask:
    """Parse a task such as ``store:biome``, ``store:esa_worldcover/shares``, ``store:aster.elevation/pixels``.

    That is ``store:``, the name of a stored modality, ``.BAND`` for a quantity with several bands, and ``/shares`` or
    ``/pixels`` for a map.
    Raises `InputError` if the store has no such labels.
    """
    known = {task.name: task for m in modalities.values() if m.stored for task in tasks_of(m)}
    short_forms = {_without_band(task): name for name, task in known.items() if len(task.modality.bands) == 1}
    text = short_forms.get(text, text)
    if text in known:
        return known[text]
    short = ", ".join(name for name, task in known.items() if task.form == "tile") or "a store with labels"
    close = meant(text if ":" in text else PREFIX + text, known)
    raise InputError(f"--task: expected {short}, got {text!r}.{close}")


def _without_band(task: StoreTask) -> str:
    return replace(task, band=None).name


def tasks_of(modality: Modality) -> list[StoreTask]:
    """All tasks of a modality."""
    if modality.kind in (Kind.TILE_CATEGORICAL, Kind.TILE_MULTI_LABEL):
        return [StoreTask(modality)]
    if modality.kind is Kind.TILE_CONTINUOUS:
        several = len(modality.bands) > 1
        return [StoreTask(modality, band=band if several else None) for band in modality.bands]
    if modality.kind is Kind.RASTER_CATEGORICAL:
        return [StoreTask(modality, form) for form in ("tile", "shares", "pixels")]
    if modality.kind is Kind.RASTER_CONTINUOUS and not modality.input:
        return [StoreTask(modality, form, band) for band in modality.bands for form in ("tile", "pixels")]
    return []
