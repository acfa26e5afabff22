"""One tile of an open store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import LEVEL_NAMES, TileGrid, format_tile_id
from mmearth_data.store.schema import SPLIT_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.store.reader import Store


@dataclass(frozen=True, slots=True, repr=False)
class Tile:
    """One tile of an open store; values are read on access.

    `mmearth_data.Store.tile` returns it. ``tile["sentinel2"]`` is the array of one modality as stored.
    """

    store: Store = field(hash=False)
    """Store or selection with the modalities of the tile."""
    row: int
    """Row in the whole store, from 0."""

    @property
    def tile_id(self) -> int:
        """Id of the tile as a number, which encodes longitude, latitude and size in 64 bits."""
        return int(self._coordinate("tile_id"))

    @property
    def id(self) -> str:
        """Id of the tile: `tile_id` as 16 hex digits."""
        return format_tile_id(self.tile_id)

    @property
    def lon(self) -> float:
        """Longitude of the sampled location in degrees; it is close to the centre of the tile."""
        return float(self._coordinate("lon"))

    @property
    def lat(self) -> float:
        """Latitude of the sampled location in degrees."""
        return float(self._coordinate("lat"))

    @property
    def time(self) -> np.datetime64:
        """UTC time of the Sentinel-2 scene; NaT if it is unknown."""
        time: np.datetime64 = np.int64(self._coordinate("time")).view("datetime64[ms]")
        return time

    @property
    def split(self) -> str | None:
        """``train``, ``val`` or ``test``; None if the tile has no split."""
        return SPLIT_NAMES.get(int(self._coordinate("split")))

    @property
    def s2_level(self) -> str | None:
        """Processing level of the Sentinel-2 scene, ``L1C`` or ``L2A``; None if it is unknown."""
        return LEVEL_NAMES.get(int(self._coordinate("s2_level")))

    @property
    def grid(self) -> TileGrid | None:
        """Pixel grid; None if the corner of the tile is unknown, as in imported stores."""
        epsg, ulx, uly = (self._coordinate(name) for name in ("epsg", "ulx", "uly"))
        if not epsg or not np.isfinite([ulx, uly]).all():
            return None
        return TileGrid(epsg=int(epsg), ulx=float(ulx), uly=float(uly), size_px=self.store.layout.size_px)

    @property
    def epsg(self) -> int | None:
        """EPSG code of the coordinate reference system; None if it is unknown."""
        return int(self._coordinate("epsg")) or None

    @property
    def crs(self) -> str | None:
        """Coordinate reference system as text, such as ``EPSG:32633``; None if it is unknown."""
        return None if self.epsg is None else f"EPSG:{self.epsg}"

    @property
    def transform(self) -> tuple[float, float, float, float, float, float] | None:
        """Affine coefficients (a, b, c, d, e, f), for ``rasterio.Affine(*tile.transform)``.

        x = a col + b row + c, y = d col + e row + f, in metres. None if the corner of the tile is unknown.
        """
        return None if self.grid is None else self.grid.transform

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """(west, south, east, north) in metres in the CRS of the tile; None if its corner is unknown."""
        return None if self.grid is None else self.grid.bounds

    @property
    def outline(self) -> BaseGeometry | None:
        """Outline of the tile in degrees (EPSG:4326), as in `Store.tiles`; None if its corner is unknown.

        A tile that crosses 180 degrees is a MultiPolygon of two parts.
        """
        from mmearth_data.store.index import tile_outlines

        columns = {name: np.atleast_1d(self._coordinate(name)) for name in ("epsg", "ulx", "uly")}
        outline: BaseGeometry | None = tile_outlines(columns, self.store.layout.size_px)[0]
        return outline

    @property
    def facts(self) -> Mapping[str, Any]:
        """Further metadata from the source, such as scene ids; read from the commit record of the shard."""
        return self.store.content.facts(self.row)

    def __getitem__(self, modality: str) -> np.ndarray[Any, Any]:
        """Array of a stored modality as stored: (band, y, x), (band,) or ().

        Raises
        ------
        InputError
            If no such modality is stored.
        StoreDamaged
            If an object is missing or corrupt.
        """
        values: np.ndarray[Any, Any] = self.store.read(modality, slice(self.row, self.row + 1))[0]
        return values

    def to_xarray(self, modalities: str | Sequence[str] | None = None, *, scale: bool = False) -> xr.Dataset:
        """Return the tile as an xarray data set in memory, on its pixel grid.

        Parameters
        ----------
        modalities
            Names to read; all stored ones by default.
        scale
            Convert continuous modalities to physical units, as `Store.to_xarray` does.

        Returns
        -------
        xarray.Dataset
            Rasters are (band, y, x); their coordinates are the band names and the pixel centres ``x`` and ``y`` in metres.
            Values are those of `Store.to_xarray`: floats with NaN for continuous modalities, stored codes for the others.
            The coordinate ``spatial_ref`` has the coordinate reference system and the affine transform as a CF grid
            mapping and as GDAL's attributes, which rioxarray and odc-geo read. If the corner of the tile is unknown,
            there are no ``x``, ``y`` and ``spatial_ref``.

        Raises
        ------
        InputError
            If a modality is unknown.
        StoreDamaged
            If an object is missing or corrupt.

        Examples
        --------
        >>> tile = open_store("planet.zarr").tile(0)  # doctest: +SKIP
        >>> tile.to_xarray("sentinel2").sentinel2.rio.to_raster("tile.tif")  # doctest: +SKIP
        """
        from mmearth_data.store.frames import tile_dataset

        return tile_dataset(self.store.content, self.row, self.store.stored(modalities), self.grid, scale=scale)

    def __repr__(self) -> str:
        place = (
            f"{abs(self.lat):.4f} {'N' if self.lat >= 0 else 'S'} {abs(self.lon):.4f} {'E' if self.lon >= 0 else 'W'}"
            if np.isfinite(self.lat) and np.isfinite(self.lon)
            else "no location"
        )
        date = "no date" if np.isnat(self.time) else str(self.time.astype("datetime64[D]"))
        known = [place, date, self.s2_level, self.split, self.crs]
        return f"<Tile {self.id}: {', '.join(text for text in known if text)}>"

    def _coordinate(self, name: str) -> np.generic:
        value: np.generic = self.store.content.column(name)[self.row]
        return value
