"""Encodings of location and month, which the published format stores and a store computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.store.derived import derived

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.interchange.form import PublishedForm

Tables = dict[str, np.ndarray[Any, Any]]


def coordinate_tables(
    form: PublishedForm,
    modalities: Sequence[Modality],
    entries: Sequence[Mapping[str, Any]],
    time: np.ndarray[Any, Any],
) -> Tables:
    """Compute derived arrays of some tiles from their entries of tile_info.

    Locations are taken from the entries, since the store rounds them to 1e-6 degree; ``time`` is (n,) int64 milliseconds.

    Returns
    -------
    dict
        Array -> (n, 2) float32, with the format's missing values.
    """
    by_name = {m.name: m for m in modalities}
    coords: Tables = {name: np.array([float(entry[name]) for entry in entries]) for name in ("lat", "lon")}
    coords["time"] = np.asarray(time).astype("datetime64[ms]")
    tables = {}
    for array in form.arrays:
        m = by_name.get(array.modality)
        if m is not None and not m.stored:
            values = derived(m, coords)
            tables[array.name] = np.where(np.isfinite(values), values, array.fill).astype(array.dtype)
    return tables


def differing(form: PublishedForm, tables: Tables, expected: Tables, row: int) -> dict[str, list[float | None]]:
    """Values of one row that differ from the expected ones: array -> numbers, None if missing."""
    kept = {}
    for array in form.arrays:
        if array.name in tables:
            values, wanted = tables[array.name][row], expected[array.name][row]
            given = np.where(np.isfinite(values), values, array.fill).astype(array.dtype)
            if not np.array_equal(given, wanted):
                kept[array.name] = [float(v) if np.isfinite(v) else None for v in given]
    return kept


def put_back(form: PublishedForm, tables: Tables, row: int, kept: Mapping[str, Sequence[float | None]]) -> None:
    """Inverse of `differing`: write the kept values of one row."""
    for array in form.arrays:
        if array.name in kept and array.name in tables:
            tables[array.name][row] = [array.fill if v is None else v for v in kept[array.name]]
