"""Ecoregions: polygons with the published class ids, cut into cells for sampling and point lookup."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import shapely

from mmearth_data.catalog.entries import eco_regions
from mmearth_data.catalog.tile import WGS84
from mmearth_data.errors import FileInputError, InputError, WriteFailed
from mmearth_data.files.writing import staged_file
from mmearth_data.geography.equal_area import CellGrid, areas_m2, matches
from mmearth_data.geography.pieces import Pieces, cut
from mmearth_data.geography.regions import plain, read_polygons
from mmearth_data.resources import cache_folder

if TYPE_CHECKING:
    from pathlib import Path

    import geopandas as gpd
    from numpy.typing import ArrayLike, NDArray

    from mmearth_data.geography.equal_area import Floats, Ints

NO_BIOME, NO_ECO_REGION = 255, 65535
NAME_COLUMNS = ("eco_name", "econame", "eco_region_name", "ecoregion", "name")
ID_COLUMN = "eco_region"
NOT_AN_ECOREGION = "rock and ice"
"""RESOLVE's 847th polygon, which has no class id."""
PREPARED_CELL_M = 50_000.0
"""Width of a cell: half a block of `mmearth_data.sampling.blocks`, so that blocks consist of whole cells."""
PREPARED_FORMAT = "1"


def read_ecoregions(path: Path) -> gpd.GeoDataFrame:
    """Read ecoregion polygons from a vector file.

    The file has a column of ecoregion names (``ECO_NAME`` as in RESOLVE, or a similar name), or the published class ids
    in ``eco_region``. One row per ecoregion, in order of id: ``eco_region``, ``biome``, ``realm``, ``area_km2`` (of the
    polygon, on the ellipsoid), ``geometry`` (EPSG:4326, valid). ``attrs["unmatched"]`` lists the names without a class
    id, ``attrs["absent"]`` the ids without a polygon.

    Raises FileInputError for a file that cannot be read, lacks the column, or matches no ecoregion.
    """
    return ecoregions_of(read_polygons(path), path)


def ecoregions_of(frame: gpd.GeoDataFrame, origin: str | Path) -> gpd.GeoDataFrame:
    """Ecoregions from a table (EPSG:4326) with the columns of `read_ecoregions`; ``origin`` is for messages."""
    code, unmatched = _codes(frame, origin)
    return make_ecoregions(code[code >= 0], frame.geometry.to_numpy()[code >= 0], unmatched)


def make_ecoregions(code: Ints, geometry: NDArray[np.object_], unmatched: list[str] | None = None) -> gpd.GeoDataFrame:
    """Ecoregions as from `read_ecoregions`, from class ids and polygons (EPSG:4326); polygons of one id are joined."""
    import geopandas as gpd

    table = eco_regions()
    present, index = np.unique(code, return_inverse=True)
    joined = np.array([_join(geometry[index == position]) for position in range(len(present))], dtype=object)
    frame = gpd.GeoDataFrame(
        {
            "eco_region": present.astype(np.int64),
            "biome": np.array([table[int(i)].biome for i in present], dtype=np.int64),
            "realm": [table[int(i)].realm for i in present],
            "area_km2": areas_m2(joined) / 1e6,
        },
        geometry=joined,
        crs=WGS84,
    )
    frame.attrs["unmatched"] = sorted(unmatched or [])
    frame.attrs["absent"] = sorted(set(range(len(table))) - {int(i) for i in present})
    return frame


def _join(parts: NDArray[np.object_]) -> shapely.Geometry:
    return parts[0] if len(parts) == 1 else shapely.union_all(parts)


def _codes(frame: gpd.GeoDataFrame, path: str | Path) -> tuple[Ints, list[str]]:
    """(class id of each row or -1, names that match none)."""
    columns = {str(column).casefold(): column for column in frame.columns}
    table = eco_regions()
    if ID_COLUMN in columns and np.issubdtype(frame[columns[ID_COLUMN]].dtype, np.integer):
        code = frame[columns[ID_COLUMN]].to_numpy(dtype=np.int64)
        unmatched = sorted({str(i) for i in code if not 0 <= i < len(table)})
        code = np.where((code >= 0) & (code < len(table)), code, -1)
    else:
        column = next((columns[name] for name in NAME_COLUMNS if name in columns), None)
        if column is None:
            found = ", ".join(str(c) for c in frame.columns if c != frame.geometry.name) or "none"
            raise FileInputError(
                path,
                f"expected a column ECO_NAME with ecoregion names (or {ID_COLUMN} with class ids), got the columns "
                f"{found}; rename the one that has them.",
            )
        ids = {plain(region.name): region.id for region in table}
        names = [str(name) for name in frame[column]]
        code = np.array([ids.get(plain(name), -1) for name in names], dtype=np.int64)
        missed = {name for name, i in zip(names, code, strict=True) if i < 0}
        unmatched = sorted(name for name in missed if plain(name) != NOT_AN_ECOREGION)
    if not (code >= 0).any():
        raise FileInputError(
            path, f"expected names of RESOLVE Ecoregions 2017, got none of them; the first is {unmatched[:1]}."
        )
    return code, unmatched


class PointLabels:
    """Labels points with their ecoregion; use `label_points` for a single call.

    ``ecoregions`` are those of `read_ecoregions`.
    """

    def __init__(self, ecoregions: gpd.GeoDataFrame) -> None:
        self._pieces = prepare(ecoregions)
        self._order = np.argsort(self._pieces.cell, kind="stable")
        self._biome = np.append(ecoregions["biome"].to_numpy(), NO_BIOME).astype(np.uint8)
        self._eco_region = np.append(ecoregions["eco_region"].to_numpy(), NO_ECO_REGION).astype(np.uint16)

    def __call__(self, lon: ArrayLike, lat: ArrayLike) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """Biome and ecoregion of points, as `label_points` returns them."""
        lon, lat = np.atleast_1d(np.asarray(lon, np.float64)), np.atleast_1d(np.asarray(lat, np.float64))
        pieces, order = self._pieces, self._order
        cells = pieces.grid.cell_of(lon, lat)
        found, point = matches(pieces.cell[order], cells, cells)
        piece = order[found]
        whole = shapely.is_missing(pieces.geometry[piece])
        inside = whole.copy()
        inside[~whole] = shapely.intersects_xy(pieces.geometry[piece[~whole]], lon[point[~whole]], lat[point[~whole]])
        row = np.full(len(lon), len(self._biome) - 1, dtype=np.int64)
        np.minimum.at(row, point[inside], pieces.owner[piece[inside]])
        return self._biome[row], self._eco_region[row]


def label_points(
    ecoregions: gpd.GeoDataFrame, lon: ArrayLike, lat: ArrayLike
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Biome (uint8) and ecoregion (uint16) of points in degrees, by point in polygon; 255 and 65535 in no polygon.

    Where polygons of ``ecoregions`` (from `read_ecoregions`) overlap, the smaller id wins.
    """
    return PointLabels(ecoregions)(lon, lat)


_prepared: dict[str, Pieces] = {}


def prepare(ecoregions: gpd.GeoDataFrame, threads: int = 1) -> Pieces:
    """Cut ecoregions along a 50 km equal-area grid, or read the cached result.

    The pieces (cells, areas, polygons; ``owner`` is the row) are cached as GeoParquet in the user's cache folder, under
    a digest of the polygons. A damaged file is replaced; a cache folder that is not writable is ignored.
    """
    digest = _digest(ecoregions)
    if digest not in _prepared:
        path = cache_folder() / "ecoregions" / f"{digest}.parquet"
        pieces = _load(path)
        if pieces is None:
            geometry = ecoregions.geometry.to_numpy()
            pieces = cut(geometry, np.arange(len(geometry)), CellGrid(PREPARED_CELL_M), threads)
            _save(pieces, path)
        while len(_prepared) > 1:
            _prepared.pop(next(iter(_prepared)))
        _prepared[digest] = pieces
    return _prepared[digest]


def _digest(ecoregions: gpd.GeoDataFrame) -> str:
    digest = hashlib.blake2b(f"{PREPARED_FORMAT} {PREPARED_CELL_M} {shapely.geos_version}".encode(), digest_size=16)
    for wkb in shapely.to_wkb(ecoregions.geometry.to_numpy()):
        digest.update(wkb)
    return digest.hexdigest()


def _save(pieces: Pieces, path: Path) -> None:
    import geopandas as gpd

    columns = {"owner": pieces.owner, "cell": pieces.cell, "area_m2": pieces.area_m2}
    keep(gpd.GeoDataFrame(columns, geometry=pieces.geometry, crs=WGS84), path)


def _load(path: Path) -> Pieces | None:
    frame = read_kept(path)
    if frame is None or not {"owner", "cell", "area_m2", "geometry"} <= set(frame.columns):
        return None
    owner, cell = frame["owner"].to_numpy(np.int64), frame["cell"].to_numpy(np.int64)
    area: Floats = frame["area_m2"].to_numpy(np.float64)
    return Pieces(CellGrid(PREPARED_CELL_M), owner, cell, area, np.array(frame.geometry.to_numpy(), dtype=object))


def read_kept(path: Path) -> gpd.GeoDataFrame | None:
    """Read a file that `keep` wrote; None if it is missing or damaged, since it can be recomputed."""
    import geopandas as gpd

    if not path.is_file():
        return None
    try:
        return gpd.read_parquet(path)
    except Exception:  # for a damaged file, pyarrow and geopandas raise many types of errors
        return None


def keep(frame: gpd.GeoDataFrame, path: Path) -> None:
    """Write a frame as GeoParquet, atomically; without effect if the folder is not writable."""
    with suppress(OSError, WriteFailed, InputError), staged_file(path) as beside:
        frame.to_parquet(beside, compression="zstd", index=False)


def check_ecoregions(ecoregions: gpd.GeoDataFrame) -> None:
    """Refuse a frame without the columns of `read_ecoregions`: InputError with the missing ones."""
    missing = [name for name in ("eco_region", "biome") if name not in ecoregions.columns]
    if missing:
        raise InputError(f"Expected ecoregions with the columns eco_region and biome, lacks {', '.join(missing)}.")
