"""Read a store: finished, being built, or interrupted."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from mmearth_data.errors import InputError
from mmearth_data.store.content import Content
from mmearth_data.store.schema import COORDINATE_NAMES, SPLIT_NAMES
from mmearth_data.store.selection import inside, within_dates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import xarray as xr
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store.schema import StoreLayout
    from mmearth_data.store.selection import Dates, Regions
    from mmearth_data.store.storage.protocol import StoreUrl

Columns: TypeAlias = dict[str, np.ndarray[Any, Any]]
Labels: TypeAlias = "str | int | Sequence[str | int]"


def open_store(path: str | Path) -> Store:
    """Open a store, or what is committed of one that is being built.

    Parameters
    ----------
    path
        Folder of the store.

    Returns
    -------
    Store
        Lazy: values are read on access.

    Raises
    ------
    InputError
        When there is no store.
    StoreDamaged
        If its content does not match its records; raised here or on first use of the affected part.
    """
    return Store.open(path)


class Store:
    """Tiles of a store, or of a selection of it.

    It is immutable and can be pickled; `select` returns another one. ``rows``, `read` and `tile_columns` refer to rows
    of the store; ``store[i]`` and `coords` to positions in the selection.
    """

    def __init__(
        self, content: Content, rows: NDArray[np.intp] | None = None, modalities: Mapping[str, Modality] | None = None
    ) -> None:
        self._content = content
        self._selected_rows = rows
        self._selected_modalities = modalities

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a store, see `open_store`."""
        return cls(Content.open(path))

    @property
    def path(self) -> Path | StoreUrl:
        """Folder (absolute) or URL of the store."""
        return self._content.objects.root

    @property
    def content(self) -> Content:
        """Values by array and store row, for custom readers."""
        return self._content

    @property
    def layout(self) -> StoreLayout:
        """Rows, shards and arrays of the whole store."""
        return self._content.layout

    @property
    def finished(self) -> bool:
        """True once the store is sealed; before, only committed shards are visible."""
        return self._content.manifest is not None

    @property
    def digest(self) -> str | None:
        """Digest of all bytes of a finished store except its ledger; None before."""
        return None if self._content.manifest is None else str(self._content.manifest["digest"])

    @property
    def synthetic(self) -> bool:
        """True if the pixels are not measurements."""
        return bool(self._content.attributes["synthetic"])

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Options that the store was built with."""
        recipe: Mapping[str, Any] = self._content.attributes["recipe"]
        return recipe

    @property
    def source(self) -> Mapping[str, Any]:
        """Identity of the source of the pixels."""
        source: Mapping[str, Any] = self._content.attributes["source"]
        return source

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Root attributes as nested values, whatever the version of the store's format."""
        return self._content.attributes

    @property
    def modalities(self) -> Mapping[str, Modality]:
        """Modalities by name, including derived ones, in catalog order."""
        if self._selected_modalities is not None:
            return self._selected_modalities
        return {m.name: m for m in self.layout.modalities}

    @property
    def statistics(self) -> Mapping[str, Any]:
        """``[train | all][modality][level][band]`` -> count, mean, std, min, max, p1 ... p99 of the whole store."""
        return self._content.statistics[0]

    @property
    def class_histograms(self) -> Mapping[str, Any]:
        """``[train | all][modality][class code]`` -> tiles and pixels of the whole store."""
        return self._content.statistics[1]

    @cached_property
    def rows(self) -> NDArray[np.intp]:
        """(len,) store rows of the selected tiles, ascending; rows without a tile are not among them."""
        if self._selected_rows is not None:
            return self._selected_rows
        return np.flatnonzero(self._content.column("tile_id"))

    @property
    def tile_columns(self) -> Columns:
        """Coordinates of every store row (N,), ``time`` as datetime64; index them with ``rows``."""
        columns = {name: self._content.column(name) for name in COORDINATE_NAMES}
        return {**columns, "time": columns["time"].view("datetime64[ms]")}

    @property
    def coords(self) -> Columns:
        """Coordinates of the selected tiles (len,), ``time`` as datetime64."""
        return {name: column[self.rows] for name, column in self.tile_columns.items()}

    @property
    def tiles(self) -> GeoDataFrame:
        """Table of the selected tiles: every 1-D value, facts and outline (EPSG:4326).

        ``split``, ``s2_level`` and modalities of the kind ``tile/categorical`` are pandas categories with the names of the
        classes in catalog order, NaN where missing; their codes are those of `coords` and `read`. ``id`` is ``tile_id`` as
        16 hex digits. Outlines are made on the first access to them.
        """
        from mmearth_data.store.tile_table import tiles_frame

        return tiles_frame(self._content, self.rows)

    @property
    def dataset(self) -> xr.Dataset:
        """The selected tiles in xarray, decoded as `xarray.open_zarr` does, in Dask chunks of one shard."""
        from mmearth_data.store.frames import dataset

        return dataset(self._content, self.rows, [name for name, m in self.modalities.items() if m.stored])

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        state = "" if self.finished else ", not finished"
        made = ", synthetic" if self.synthetic else ""
        return (
            f"<Store {self.path}: {len(self)} of {self.layout.tiles} tiles, {', '.join(self.modalities)}{made}{state}>"
        )

    def __getitem__(self, position: int) -> dict[str, Any]:
        """One tile: raw arrays as stored, and ``tile`` with its coordinates.

        Raises
        ------
        IndexError
            If the selection has no such position.
        """
        if not -len(self) <= position < len(self):
            raise IndexError(f"Expected a position from 0 to {len(self) - 1}, got {position}.")
        row = int(self.rows[position])
        tile: dict[str, Any] = {
            name: self.read(name, slice(row, row + 1))[0] for name, m in self.modalities.items() if m.stored
        }
        tile["tile"] = {name: column[row] for name, column in self.tile_columns.items()}
        return tile

    def read(self, modality: str, rows: slice) -> np.ndarray[Any, Any]:
        """Raw stored values of consecutive store rows, including empty ones.

        Parameters
        ----------
        modality
            Name of a stored modality.
        rows
            Store rows, without a step.

        Returns
        -------
        ndarray
            (n, band, y, x), (n, band) or (n,), in the stored type.

        Raises
        ------
        InputError
            When the store has no such array.
        StoreDamaged
            If an object is missing or corrupt.
        """
        m = self.modalities.get(modality)
        if m is None or not m.stored:
            stored = ", ".join(name for name, m in self.modalities.items() if m.stored)
            raise InputError(f"{self.path}: expected one of the stored modalities {stored}, got {modality!r}.")
        start, stop, step = rows.indices(self.layout.tiles)
        if step != 1:
            raise InputError(f"Expected consecutive rows, got a step of {step}.")
        return self._content.read(modality, range(start, max(start, stop)))

    def select(
        self,
        *,
        region: Regions | None = None,
        split: Labels | None = None,
        date: Dates | None = None,
        modalities: Sequence[str] | None = None,
        where: Callable[[Columns], np.ndarray[Any, Any]] | np.ndarray[Any, Any] | None = None,
        **classes: Labels | None,
    ) -> Self:
        """Select tiles and modalities.

        Parameters
        ----------
        region
            Name, ISO code, ``bbox:W,S,E,N``, vector file, `Region`, or shapely geometry in degrees; tiles whose centre
            is in it.
        split
            ``train``, ``val``, ``test``, or several of them.
        date
            Day, month or year of the scene (``"2019-06"``), or a pair of them: first and last, None for no limit.
        modalities
            Names to keep.
        where
            Function from `coords` to a boolean array (len,), or such an array.
        **classes
            ``tile/categorical`` modality -> class name or code, or several: ``biome="Tundra"``.

        Raises
        ------
        InputError
            If a region, split, date, class or modality is unknown.
        """
        keep = np.ones(len(self), dtype=bool)
        if region is not None:
            keep &= inside(region, self._content.column("lon")[self.rows], self._content.column("lat")[self.rows])
        if date is not None:
            keep &= within_dates(date, self.tile_columns["time"][self.rows])
        if split is not None:
            keep &= np.isin(
                self._content.column("split")[self.rows], _codes("split", split, {n: c for c, n in SPLIT_NAMES.items()})
            )
        for name, labels in classes.items():
            if labels is not None:
                keep &= self._class_mask(name, labels)
        if where is not None:
            keep &= self._where_mask(where)
        return type(self)(self._content, self.rows[keep], self._named_modalities(modalities))

    def _class_mask(self, name: str, labels: Labels) -> NDArray[np.bool_]:
        m = next((m for m in self.layout.tabular if m.name == name and m.kind.is_categorical), None)
        if m is None:
            known = ", ".join(m.name for m in self.layout.tabular if m.kind.is_categorical) or "none"
            raise InputError(f"{self.path}: expected a tile/categorical modality ({known}), got {name!r}.")
        codes = _codes(name, labels, {label.name: label.code for label in m.classes})
        return np.isin(self._content.column(name)[self.rows], codes)

    def _where_mask(self, where: Callable[[Columns], np.ndarray[Any, Any]] | np.ndarray[Any, Any]) -> NDArray[np.bool_]:
        mask = np.asarray(where(self.coords) if callable(where) else where)
        if mask.shape != (len(self),) or mask.dtype != np.bool_:
            raise InputError(
                f"where: expected a boolean array of {len(self)} tiles, got {mask.shape} of {mask.dtype.name}."
            )
        return mask

    def _named_modalities(self, names: Sequence[str] | None) -> Mapping[str, Modality]:
        if names is None:
            return self.modalities
        wanted = [names] if isinstance(names, str) else list(names)
        missing = [name for name in wanted if name not in self.modalities]
        if missing:
            raise InputError(
                f"{self.path}: expected modalities among {', '.join(self.modalities)}, got {', '.join(missing)}."
            )
        return {name: m for name, m in self.modalities.items() if name in wanted}


def _codes(what: str, labels: Labels, known: Mapping[str, int]) -> list[int]:
    """Codes of labels given by name or code."""
    given = [labels] if isinstance(labels, str | int | np.integer) else list(labels)
    codes = [known.get(label, -1) if isinstance(label, str) else int(label) for label in given]
    unknown = [str(label) for label, code in zip(given, codes, strict=True) if code not in known.values()]
    if unknown:
        shown = ", ".join(list(known)[:20]) + (", ..." if len(known) > 20 else "")
        raise InputError(f"{what}: expected {shown}, got {', '.join(unknown)}.")
    return codes
