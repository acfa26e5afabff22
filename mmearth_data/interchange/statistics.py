"""Statistics published with a data set: kept by the import, and returned in the format of a store's own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mmearth_data.errors import InputError
from mmearth_data.interchange.entries import restored
from mmearth_data.interchange.form import published_form

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmearth_data.interchange.form import PublishedArray
    from mmearth_data.store.reader import Store

BAND_STATS = "band_stats"
"""Key of a store's source under which an import keeps the content of ``NAME_band_stats.json``."""
NO_LEVEL = "-"


def published_statistics(store: Store, modalities: Sequence[str]) -> dict[str, Any]:
    """Return the statistics of the data set that a store was imported from, in the format of `Store.statistics`.

    Parameters
    ----------
    store
        A store made by `mmearth_data.import_hdf5`, or a subset of such a store.
    modalities
        Continuous modalities to return.

    Returns
    -------
    dict
        ``["train"][modality][level or "-"][band]`` -> ``{count, mean, std}``. The file does not record the number of
        values: ``count`` is 1, or 0 if mean or deviation is not a finite number.

    Raises
    ------
    InputError
        When the store has no published statistics, or they lack a modality.
    """
    content = restored(store.source.get(BAND_STATS))
    if not isinstance(content, dict):
        raise InputError(
            f"--statistics published: expected a store with the band_stats.json of an imported data set, got {store.path} "
            f"(source: {store.source.get('name', 'unknown')}) without one; use --statistics store, or import the data set again."
        )
    arrays = {array.modality: array for array in published_form().arrays}
    found = {name: _levels(content, arrays[name]) if name in arrays else None for name in modalities}
    lacking = [name for name, levels in found.items() if levels is None]
    if lacking:
        raise InputError(
            f"--statistics published: expected mean and std of every band in the band_stats.json of {store.path}, got none "
            f"of {', '.join(lacking)}; use --statistics store, or leave them out with --exclude."
        )
    return {"train": found}


def _levels(content: Mapping[str, Any], array: PublishedArray) -> dict[str, dict[str, dict[str, float]]] | None:
    """Level -> band -> {count, mean, std} of one array; None if the file lacks any of them."""
    keys = array.statistics or {NO_LEVEL: array.name}
    found = {}
    for level, key in keys.items():
        lists = [content[key].get(word) for word in ("mean", "std")] if isinstance(content.get(key), dict) else []
        if not lists or any(not isinstance(numbers, list) or len(numbers) != len(array.bands) for numbers in lists):
            return None
        found[level] = {band: _entry(mean, std) for band, mean, std in zip(array.bands, *lists, strict=True)}
    return found


def _entry(mean: Any, std: Any) -> dict[str, float]:  # noqa: ANN401 - whatever JSON holds
    plain = all(isinstance(x, int | float) and math.isfinite(x) for x in (mean, std))
    return {"count": 1, "mean": float(mean), "std": float(std)} if plain else {"count": 0, "mean": 0.0, "std": 1.0}
