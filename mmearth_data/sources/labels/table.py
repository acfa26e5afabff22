"""The labels of a table's rows, identified by location and date."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.catalog.tile import Place


@dataclass(frozen=True, slots=True)
class Label:
    """One label of n rows.

    Attributes
    ----------
    modality
        Its description.
    values
        (n,) class codes, or (n, band), as stored.
    note
        How the column was interpreted, for the user.
    """

    modality: Modality
    values: NDArray[Any]
    note: str = ""

    def identity(self) -> dict[str, str]:
        """Digests of the description and of the values, in the order of the rows."""
        entry = json.dumps(self.modality.to_dict(), sort_keys=True).encode()
        return {"description": _digest(entry), "values": _digest(np.ascontiguousarray(self.values).tobytes())}


@dataclass(frozen=True)
class LabelTable:
    """Labels of locations.

    Attributes
    ----------
    tile_id
        (n,) tile of each row.
    date_ms
        (n,) dates as in `Place.date_ms`; None if the table has none.
    rows
        (n,) number of each row in the file, as users count them.
    labels
        The labels.
    needs_land
        Whether locations without a biome are rejected.
    """

    tile_id: NDArray[np.uint64]
    date_ms: NDArray[np.int64] | None
    rows: NDArray[np.int64]
    labels: tuple[Label, ...]
    needs_land: bool = field(default=True, kw_only=True)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities of the labels."""
        return tuple(label.modality for label in self.labels)

    def identity(self) -> dict[str, Any]:
        """Digests of the labels, and of the locations and dates that they belong to; JSON-ready."""
        keys = self.tile_id.tobytes() + (b"" if self.date_ms is None else self.date_ms.tobytes())
        return {"locations": _digest(keys), **{label.modality.name: label.identity() for label in self.labels}}

    def at_sea(self, place: Place) -> bool:
        """Whether a location cannot be used because it is outside all ecoregions."""
        return self.needs_land and place.biome is None

    def row_of(self, place: Place) -> int | None:
        """Row of a location in the file; None if the table does not have it."""
        position = self._positions.get(self._key(place))
        return None if position is None else int(self.rows[position])

    def values_of(self, place: Place) -> Mapping[str, np.ndarray[Any, Any]]:
        """Modality -> values of a location, as stored; no data if the table does not have it."""
        position = self._positions.get(self._key(place))
        if position is None:
            return {m.name: m.empty(m.array_shape(place.size_px)) for m in self.modalities}
        return {label.modality.name: label.values[position] for label in self.labels}

    def _key(self, place: Place) -> tuple[int, int | None]:
        return place.tile_id, None if self.date_ms is None else place.date_ms

    @cached_property
    def _positions(self) -> dict[tuple[int, int | None], int]:
        dates = [None] * len(self.tile_id) if self.date_ms is None else self.date_ms.tolist()
        return {key: position for position, key in enumerate(zip(self.tile_id.tolist(), dates, strict=True))}


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
