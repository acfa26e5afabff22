"""Read a store, whether it is finished, being built, or interrupted."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias, overload

import numpy as np

from mmearth_data.catalog.modality import PRESENT
from mmearth_data.catalog.tile import LEAST_ID, as_integer, format_tile_id, is_tile_id, parse_tile_id
from mmearth_data.errors import InputError, UnknownKey, UnknownPosition
from mmearth_data.store.content import Content
from mmearth_data.store.overview import overview
from mmearth_data.store.schema import CONDITION_NAMES, COORDINATE_NAMES, SPLIT_NAMES
from mmearth_data.store.selection import (
    among_ids,
    inside,
    label_codes,
    listed,
    mask_of,
    positions_of,
    valid_positions,
    within_dates,
)
from mmearth_data.store.tile import Tile
from mmearth_data.words import closest, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import xarray as xr
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store.schema import StoreLayout
    from mmearth_data.store.selection import Dates, Ids, Mask, Regions, TileName
    from mmearth_data.store.storage.protocol import StoreUrl

Columns: TypeAlias = dict[str, np.ndarray[Any, Any]]
Labels: TypeAlias = "str | int | Iterable[str | int]"


def open_store(path: str | Path) -> Store:
    """Open a store, or the committed shards of one that is being built.

    Parameters
    ----------
    path
        Folder or URL of the store.

    Returns
    -------
    Store
        The store; values are read on access.

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

    A store is immutable and can be pickled; `select` and ``store[a:b]`` return a new one. ``rows``, `read` and
    `tile_columns` refer to rows of the whole store; ``store[i]`` and `coords` to positions in the selection.
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
    def overlap_px(self) -> int | None:
        """Pixels that neighbouring tiles share if the store covers a region (``build --cover``); None if it does not.

        The tiles of a cover have no split, and all tiles of a UTM zone are on one pixel grid.
        """
        return int(self.recipe["overlap_px"]) if self.recipe.get("cover") else None

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
        classes in catalog order, NaN where missing; `coords` and `read` return their codes. ``id`` is ``tile_id`` as 16
        hex digits. Outlines are decoded on first access.
        """
        from mmearth_data.store.tile_table import tiles_frame

        return tiles_frame(self._content, self.rows)

    @property
    def dataset(self) -> xr.Dataset:
        """The selected tiles as an xarray data set, in stored units; see `to_xarray`."""
        return self.to_xarray()

    def to_xarray(self, modalities: str | Sequence[str] | None = None, *, scale: bool = False) -> xr.Dataset:
        """Return the selected tiles as an xarray data set.

        Rasters are lazy, in Dask chunks as long as a shard. Coordinates, and values and class ids of whole tiles, are in memory.
        The dimension ``tile`` is indexed by ids of 16 hex digits: ``ds.sel(tile="55d4a802aea54004")``.

        Parameters
        ----------
        modalities
            Names to keep; all stored ones by default.
        scale
            Convert continuous modalities to physical units by the scale and offset of the catalog, such as reflectance from
            0 to 1 instead of 0 to 10,000. By default, values are in stored units.

        Returns
        -------
        xarray.Dataset
            Continuous modalities are floats, with NaN where nothing was observed. Class maps, masks and class ids are the
            stored integers; the attribute ``nodata`` has the no-data code, and ``flag_values`` and ``flag_meanings``
            have the codes and names of the classes. Class ids of tiles are coordinates, like the split.

        Raises
        ------
        InputError
            If a modality is unknown.

        Examples
        --------
        >>> ds = open_store("planet.zarr").to_xarray(scale=True)  # doctest: +SKIP
        >>> ds.sentinel2.isel(tile=ds.split == 0).groupby("biome").mean()  # doctest: +SKIP
        """
        from mmearth_data.store.frames import dataset

        return dataset(self._content, self.rows, self.stored(modalities), scale=scale)

    def stored(self, modalities: str | Sequence[str] | None = None) -> list[Modality]:
        """List those of the named modalities that are stored, in catalog order; by default, all stored ones.

        Raises
        ------
        InputError
            If a name is unknown.
        """
        return [m for m in self._named_modalities(modalities).values() if m.stored]

    def tile(self, tile: TileName) -> Tile:
        """Return one tile with its location, grid and arrays.

        Parameters
        ----------
        tile
            Id of the tile, or a position; see `position`.

        Raises
        ------
        InputError
            If the selection has no such tile.

        Examples
        --------
        >>> tile = open_store("planet.zarr").tile(0)  # doctest: +SKIP
        >>> tile.id, tile.crs, tile["sentinel2"].shape  # doctest: +SKIP
        ('55d4a802aea54004', 'EPSG:32631', (13, 64, 64))
        """
        return Tile(self, int(self.rows[self.position(tile)]))

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return overview(self).text()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Tiles in order, each as ``store[i]`` returns it; `loader` reads many tiles faster."""
        return (self._tile(position) for position in range(len(self)))

    def __contains__(self, key: object) -> bool:
        """Whether the key is the id of a selected tile (in either form), or the name of a modality or coordinate."""
        if not isinstance(key, str | int | np.integer) or (not isinstance(key, str) and key < LEAST_ID):
            return False
        if isinstance(key, str) and not is_tile_id(key):
            return key in self.modalities or key in COORDINATE_NAMES
        try:
            number = np.uint64(parse_tile_id(key))
        except InputError:  # a number that is too large for an id
            return False
        return bool((self._content.column("tile_id")[self.rows] == number).any())

    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, key: slice | list[int] | list[bool] | list[str] | np.ndarray[Any, Any]) -> Self: ...

    @overload
    def __getitem__(self, key: Any) -> Any: ...  # noqa: ANN401 - a name: a DataArray, or the tile of an id

    def __getitem__(self, key: Any) -> Any:
        """Return one tile, some tiles, or one modality of all tiles.

        ====================================  ==================================================================
        key                                   result
        ====================================  ==================================================================
        position, from the end if negative    dict: modality -> array as stored, and ``tile`` -> coordinates
        id, as text or number                 the same; integers of at least 2**30 are ids
        slice, positions, boolean mask        `Store` of these tiles, which must be in ascending order
        name of a modality or coordinate      `xarray.DataArray` of `dataset`
        list of names of modalities           `Store` with these modalities
        ====================================  ==================================================================

        Raises
        ------
        UnknownPosition
            If there is no such position; also an `IndexError`.
        UnknownKey
            If there is no such id or name; also a `KeyError`.
        InputError
            For other keys, and for positions that are not ascending.
        """
        if isinstance(key, str) and not is_tile_id(key):
            return self._named(key)
        if isinstance(key, str) or as_integer(key) is not None:
            return self._tile(self.position(key))
        if isinstance(key, list) and key and all(isinstance(name, str) for name in key):
            return self.select(modalities=key)
        return type(self)(self._content, self.rows[positions_of(key, len(self))], self._selected_modalities)

    def _tile(self, position: int) -> dict[str, Any]:
        row = int(self.rows[position])
        tile: dict[str, Any] = {
            name: self.read(name, slice(row, row + 1))[0] for name, m in self.modalities.items() if m.stored
        }
        tile["tile"] = {name: column[row] for name, column in self.tile_columns.items()}
        tile["tile"]["id"] = format_tile_id(int(tile["tile"]["tile_id"]))
        return tile

    def _named(self, name: str) -> xr.DataArray:
        variables = self.dataset
        if name in variables.variables:
            return variables[name]
        m = self.modalities.get(name)
        if m is not None:
            raise UnknownKey(f"{self.path}: {name} is derived from {' and '.join(m.derived_from)}, and not stored.")
        known = [*(name for name, m in self.modalities.items() if m.stored), *COORDINATE_NAMES]
        raise UnknownKey(f"{self.path}: no modality or coordinate is named {name!r}; {did_you_mean(name, known)}")

    def _ipython_key_completions_(self) -> list[str]:
        return [*(name for name, m in self.modalities.items() if m.stored), *COORDINATE_NAMES]

    def position(self, tile: TileName) -> int:
        """Position of a tile in the selection, from 0.

        Parameters
        ----------
        tile
            Id of the tile (text of 16 hex digits, or its number; see `parse_tile_id`), or a position: an integer below
            2**30, from the end if negative. If several tiles have the id, with different dates, the first one counts.

        Raises
        ------
        UnknownPosition
            If the selection has no such position.
        UnknownKey
            If no selected tile has the id.
        InputError
            If it is neither an id nor a position.
        """
        number, count = as_integer(tile), len(self)
        if number is None or number >= LEAST_ID:
            wanted = parse_tile_id(tile)
            found = np.flatnonzero(self._content.column("tile_id")[self.rows] == np.uint64(wanted))
            if not len(found):
                raise UnknownKey(f"{self.path}: no tile has the id {format_tile_id(wanted)}; {valid_positions(count)}")
            return int(found[0])
        if not -count <= number < count:
            raise UnknownPosition(f"{self.path}: no tile is at position {number}; {valid_positions(count)}")
        return number % count

    def read(self, modality: str, rows: slice) -> np.ndarray[Any, Any]:
        """Read the stored values of consecutive rows of the store, including empty rows.

        Parameters
        ----------
        modality
            Name of a stored modality.
        rows
            Rows of the store, without a step.

        Returns
        -------
        ndarray
            (n, band, y, x), (n, band) or (n,), in the stored type.

        Raises
        ------
        InputError
            If no such modality is stored.
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
        /,
        *,
        region: Regions | None = None,
        split: Labels | None = None,
        date: Dates | None = None,
        ids: Ids | None = None,
        modalities: str | Sequence[str] | None = None,
        where: Callable[[Columns], Mask] | Mask | None = None,
        **classes: Labels | None,
    ) -> Self:
        """Select tiles and modalities.

        Parameters
        ----------
        region
            Select the tiles whose centre is in a region: a name, ISO code, ``bbox:W,S,E,N``, vector file or `Region`; four
            numbers (west, south, east, north in degrees; west > east crosses 180 degrees); a shapely geometry in degrees;
            a GeoSeries or GeoDataFrame in any CRS; or a list of these.
        split
            ``train``, ``val``, ``test``, or several of them.
        date
            Day, month or year of the scene (``"2019-06"``, 2019, a date), or a pair of the first and the last; None in a
            pair is no limit.
        ids
            Ids of tiles, as text of 16 hex digits or as numbers: one, or a list, array or pandas Series. The tiles keep
            the order of the store.
        modalities
            Names to keep.
        where
            Boolean array or list (len,), a pandas Series with the index of `tiles`, or a function that takes `coords` and
            returns one of these.
        **classes
            Name of a ``tile/categorical`` modality -> one or several class names or codes: ``biome="Tundra"``. Of a
            ``tile/multi-label`` modality, the tiles with any of the classes are kept.

        Raises
        ------
        InputError
            If a region, split, date, id, class or modality is unknown or of another type.

        Examples
        --------
        >>> store.select(region=(5, 45, 11, 48), split="train", biome=["Tundra", 4])  # doctest: +SKIP
        """
        keep = np.ones(len(self), dtype=bool)
        if region is not None:
            keep &= inside(region, self._content.column("lon")[self.rows], self._content.column("lat")[self.rows])
        if date is not None:
            keep &= within_dates(date, self.tile_columns["time"][self.rows])
        if split is not None:
            codes = label_codes("split", split, SPLIT_NAMES)
            keep &= np.isin(self._content.column("split")[self.rows], codes)
        if ids is not None:
            keep &= among_ids(ids, self._content.column("tile_id")[self.rows])
        for name, labels in classes.items():
            if labels is not None:
                keep &= self._class_mask(name, labels)
        if where is not None:
            keep &= mask_of(where(self.coords) if callable(where) else where, len(self))
        return type(self)(self._content, self.rows[keep], self._named_modalities(modalities))

    def _class_mask(self, name: str, labels: Labels) -> NDArray[np.bool_]:
        labels_of = {m.name: m for m in self.layout.tabular if m.kind.is_categorical or m.kind.is_multi_label}
        m = labels_of.get(name)
        if m is None:
            known = list(labels_of)
            shown = ", ".join(known) or "none"
            hint = did_you_mean(name, [*known, *CONDITION_NAMES])
            raise InputError(f"{self.path}: expected a modality with classes per tile ({shown}), got {name!r}; {hint}")
        codes = label_codes(name, labels, {label.code: label.name for label in m.classes})
        if m.kind.is_multi_label:
            present: NDArray[np.bool_] = (self._content.column(name)[self.rows][:, codes] == PRESENT).any(axis=1)
            return present
        return np.isin(self._content.column(name)[self.rows], codes)

    def _named_modalities(self, names: str | Sequence[str] | None) -> Mapping[str, Modality]:
        if names is None:
            return self.modalities
        wanted = [names] if isinstance(names, str) else listed("modalities", "names", names)
        missing = [str(name) for name in wanted if not isinstance(name, str) or name not in self.modalities]
        if missing:
            close = closest(missing[0], self.modalities)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise UnknownKey(
                f"{self.path}: expected modalities among {', '.join(self.modalities)}, got {', '.join(missing)}{hint}"
            )
        return {name: m for name, m in self.modalities.items() if name in wanted}
