"""Statistics that are computed shard by shard and merged.

Continuous modalities get count, mean, M2, minimum, maximum and a histogram of fixed bins for every (split,
modality, level, band); modalities with classes get pixels and tiles per class. Partial statistics are plain JSON in the
commit records; merged in shard order, they give the same numbers on every machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmearth_data.catalog.modality import PRESENT
from mmearth_data.catalog.tile import LEVEL_NAMES
from mmearth_data.store.derived import derived
from mmearth_data.store.moments import Bins, Moments, count_codes, count_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality

Partial: TypeAlias = dict[str, Any]
"""JSON-ready partial statistics of some tiles, see `partial_statistics`."""

NO_LEVEL = "-"
"""Level of statistics that do not depend on the level, and of tiles without one."""
TRAIN, REST, ALL = "train", "rest", "all"


def partial_statistics(
    modalities: Sequence[Modality],
    arrays: Mapping[str, np.ndarray[Any, Any] | None],
    coords: Mapping[str, np.ndarray[Any, Any]],
) -> Partial:
    """Partial statistics of some tiles.

    Parameters
    ----------
    modalities
        Stored and derived ones.
    arrays
        Stored modality -> raw values, (n, ...), None if no tile has any.
    coords
        ``tile_id``, ``split``, ``s2_level`` and the coordinates of derived modalities, each (n,). Rows with tile id 0
        have no tile and are not counted.

    Returns
    -------
    dict
        ``{"train" | "rest": {"bands": {modality: {level: {band: moments}}}, "classes": {modality: {code:
        [tiles, pixels]}}}}``.
    """
    tiles = coords["tile_id"] != 0
    train = tiles & (coords["split"] == 0)
    return {
        split: _partial_of_rows(modalities, arrays, coords, np.flatnonzero(rows))
        for split, rows in ((TRAIN, train), (REST, tiles & ~train))
        if rows.any()
    }


def _partial_of_rows(
    modalities: Sequence[Modality],
    arrays: Mapping[str, np.ndarray[Any, Any] | None],
    coords: Mapping[str, np.ndarray[Any, Any]],
    rows: NDArray[np.intp],
) -> dict[str, Any]:
    bands: dict[str, Any] = {}
    classes: dict[str, Any] = {}
    here = {name: column[rows] for name, column in coords.items()}
    for m in modalities:
        # Rows are selected inside the loops over all values: copies would take longer than counting.
        values, tiles = (arrays[m.name], rows) if m.stored else (derived(m, here), np.arange(len(rows)))
        if m.kind.is_continuous:
            bands[m.name] = {
                level: _band_moments(m, values, tiles[members]) for level, members in _by_level(m, here["s2_level"])
            }
        elif m.classes:
            classes[m.name] = {} if values is None else _class_counts(m, values, tiles)
    return {"bands": bands, "classes": classes}


def _band_moments(m: Modality, values: np.ndarray[Any, Any] | None, tiles: NDArray[np.intp]) -> dict[str, list[Any]]:
    if values is None:
        return {band: [0] for band in m.bands}
    if not m.kind.is_raster:  # one number per tile: treated as the pixels of one tile
        values, tiles = values[tiles].T[None], np.zeros(1, np.intp)
    return {
        band: Moments.of_band(values, tiles, position, m, Bins.of(m, band)).to_json()
        for position, band in enumerate(m.bands)
    }


def _by_level(m: Modality, levels: np.ndarray[Any, Any]) -> Iterator[tuple[str, NDArray[np.intp] | slice]]:
    """Levels that occur, with the positions of their tiles."""
    if m.statistics_by == "none":
        yield NO_LEVEL, slice(None)
        return
    for code in np.unique(levels).tolist():
        yield LEVEL_NAMES.get(code, NO_LEVEL), np.flatnonzero(levels == code)


def _class_counts(m: Modality, values: np.ndarray[Any, Any], tiles: NDArray[np.intp]) -> dict[str, list[int]]:
    """Class code -> [tiles in which it occurs, pixels]."""
    if m.kind.is_multi_label:
        present = np.count_nonzero(values[tiles] == PRESENT, axis=0).tolist()
        return {str(label.code): [count, count] for label, count in zip(m.classes, present, strict=True) if count}
    if m.kind.is_raster:
        codes, pixels, occurrences = count_tiles(values, tiles)
    else:
        codes, pixels = count_codes(values[tiles])
        occurrences = pixels
    return {
        str(code): [in_tiles, count]
        for code, in_tiles, count in zip(codes.tolist(), occurrences.tolist(), pixels.tolist(), strict=True)
        if m.observed(np.asarray(code, dtype=m.dtype))
    }


def part_of_statistics(partial: Partial, modalities: Sequence[Modality]) -> Partial:
    """Partial statistics of some of the modalities."""
    names = {m.name for m in modalities}
    return {
        split: {kind: {name: entry for name, entry in found.items() if name in names} for kind, found in kinds.items()}
        for split, kinds in partial.items()
    }


class StatisticsMerger:
    """Merge partial statistics of stored and derived modalities, in the given order."""

    def __init__(self, modalities: Sequence[Modality]) -> None:
        self._modalities = {m.name: m for m in modalities}
        self._bands: dict[tuple[str, str, str, str], Moments] = {}
        self._classes: dict[tuple[str, str, int], list[int]] = {}

    def add(self, partial: Mapping[str, Any]) -> None:
        """Add one partial."""
        for split, entry in partial.items():
            for name, levels in entry["bands"].items():
                for level, bands in levels.items():
                    for band, moments in bands.items():
                        self._add_moments((split, name, level, band), moments)
            for name, classes in entry["classes"].items():
                for code, (tiles, pixels) in classes.items():
                    total = self._classes.setdefault((split, name, int(code)), [0, 0])
                    total[0] += tiles
                    total[1] += pixels

    def _add_moments(self, key: tuple[str, str, str, str], entry: Sequence[Any]) -> None:
        _, name, _, band = key
        moments = Moments.from_json(entry, Bins.of(self._modalities[name], band))
        self._bands[key] = self._bands[key].merge(moments) if key in self._bands else moments

    def statistics(self) -> dict[str, Any]:
        """``[train | all][modality][level][band]`` -> count, mean, std, min, max, p1 ... p99."""
        continuous = [m for m in self._modalities.values() if m.kind.is_continuous]
        return {
            split: {
                m.name: {
                    level: {band: self._moments(split, m, level, band).summary(Bins.of(m, band)) for band in m.bands}
                    for level in self._levels(m)
                }
                for m in continuous
            }
            for split in (TRAIN, ALL)
        }

    def _levels(self, m: Modality) -> list[str]:
        """Levels that a modality may have, and those that occurred."""
        if m.statistics_by == "none":
            return [NO_LEVEL]
        seen = {level for _, name, level, _ in self._bands if name == m.name}
        return [*LEVEL_NAMES.values(), *sorted(seen - set(LEVEL_NAMES.values()))]

    def _moments(self, split: str, m: Modality, level: str, band: str) -> Moments:
        parts = (TRAIN,) if split == TRAIN else (TRAIN, REST)
        merged = Moments.none(Bins.of(m, band))
        for part in parts:
            found = self._bands.get((part, m.name, level, band))
            merged = merged if found is None else merged.merge(found)
        return merged

    def class_histograms(self) -> dict[str, Any]:
        """``[train | all][modality][class code]`` -> tiles, and pixels if the modality has them."""
        labelled = [m for m in self._modalities.values() if m.classes]
        return {
            split: {m.name: self._histogram(parts, m) for m in labelled}
            for split, parts in ((TRAIN, (TRAIN,)), (ALL, (TRAIN, REST)))
        }

    def _histogram(self, parts: Sequence[str], m: Modality) -> dict[str, dict[str, int]]:
        seen = {code for split, name, code in self._classes if name == m.name and split in parts}
        histogram = {}
        for code in sorted({label.code for label in m.classes} | seen):
            found = [self._classes.get((part, m.name, code), [0, 0]) for part in parts]
            tiles, pixels = (sum(entry[k] for entry in found) for k in (0, 1))
            histogram[str(code)] = {"tiles": tiles, "pixels": pixels} if m.kind.is_raster else {"tiles": tiles}
        return histogram
