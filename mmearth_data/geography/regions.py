"""Regions of the Earth: by name, ISO code, box or vector file."""

from __future__ import annotations

import re
import unicodedata
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.catalog.tile import WGS84
from mmearth_data.errors import FileInputError, InputError
from mmearth_data.files.tables import read_table
from mmearth_data.geography.equal_area import areas_m2
from mmearth_data.geography.pieces import polygons_of
from mmearth_data.resources import resource_path
from mmearth_data.words import closest, is_file, is_there, os_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    import geopandas as gpd

    from mmearth_data.geography.equal_area import Floats
    from mmearth_data.geography.pieces import Geometries

GLOBAL_NAMES = ("global", "world", "earth")
VECTOR_SUFFIXES = (".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet", ".geoparquet", ".kml", ".gml", ".zip")
SEGMENTS_ACROSS = 256
"""Minimum number of parts into which edges are divided before reprojection to degrees, where they become curves."""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the Earth."""

    name: str
    """Name in reports and recipes."""
    geometry: shapely.Polygon | shapely.MultiPolygon | None
    """Valid polygon or multipolygon in EPSG:4326, longitudes in -180..180; None for the whole Earth."""

    @property
    def area_km2(self) -> float | None:
        """Area on the ellipsoid, None for the whole Earth."""
        return None if self.geometry is None else float(areas_m2(np.array([self.geometry]))[0]) / 1e6


def resolve_region(text: str, *, mainland: bool = False) -> Region:
    """Find a region by name, code, box or file.

    ``text`` is ``global``; the name of a country, territory or continent, in English or by a common alias, regardless
    of case and accents; an ISO 3166 alpha-2 or alpha-3 code; ``bbox:W,S,E,N`` in degrees (W > E crosses 180); or the
    path of a vector file, all of whose polygons are taken together. ``mainland`` keeps only the largest part; parts
    that meet at 180 degrees count as one.

    Raises InputError for an unknown name (with suggestions) or an invalid box, FileInputError for a file that cannot be
    read or contains no polygons.

    Examples
    --------
    >>> resolve_region("bbox:170,-20,-170,0").geometry.bounds
    (-180.0, -20.0, 180.0, 0.0)
    >>> resolve_region("cote d'ivoire").name
    "Côte d'Ivoire"
    """
    region = _resolve(text.strip())
    if not mainland:
        return region
    if region.geometry is None:
        raise InputError("Expected a country or another region with --mainland, got the whole Earth; name one.")
    return Region(f"{region.name} (mainland)", largest_part(region.geometry))


def _resolve(text: str) -> Region:
    key = plain(text)
    if key in GLOBAL_NAMES:
        return Region("global", None)
    if text.lower().startswith("bbox:"):
        return Region(text, parse_bbox(text[5:]))
    names = _names()
    path = Path(text)
    if key in names and not is_file(path):
        kind, entry, name = names[key]
        return Region(name, _shapes(kind)[entry])
    if (text and is_there(path)) or path.suffix.lower() in VECTOR_SUFFIXES:
        joined = shapely.union_all(read_polygons(path).geometry.to_numpy())
        return Region(path.name, _together(polygons_of(np.array([joined]))[0]))
    raise InputError(f"Unknown region {text!r}; {_meant(key)}")


def _meant(key: str) -> str:
    names = _names()
    shown = list(dict.fromkeys(names[match][2] for match in closest(key, names, 3)))
    if shown:
        return f"did you mean {' or '.join(shown)}?"
    return "give a country, a continent, an ISO code, bbox:W,S,E,N, a vector file, or global."


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Normalise a name: lower case, without accents, punctuation and articles.

    Examples
    --------
    >>> plain("São Tomé & Príncipe"), plain("The Gambia")
    ('sao tome and principe', 'gambia')
    """
    decomposed = unicodedata.normalize("NFKD", text.casefold().replace("&", " and "))
    bare = "".join(character for character in decomposed if not unicodedata.combining(character))
    words = re.sub(r"[^0-9a-z]+", " ", bare.replace("'", "").replace("\u2019", "").replace(".", "")).split()
    words = ["saint" if word == "st" else word for word in words]
    return " ".join(words[1:] if len(words) > 1 and words[0] == "the" else words)


@lru_cache(maxsize=1)
def _names() -> dict[str, tuple[str, str, str]]:
    """Normalised name or code -> (file of shapes, key in it, display name)."""
    names: dict[str, tuple[str, str, str]] = {}
    rows = [row for _, row in read_table(resource_path("catalog") / "regions" / "countries.csv").rows()]
    for row in rows:
        spellings = [row["name"], row["alpha2"], row["alpha3"], *row["aliases"].split(";")]
        entry = ("countries", row["alpha3"] or row["name"], row["name"])
        names |= {plain(spelling): entry for spelling in spellings if spelling}
    names |= {plain(continent): ("continents", continent, continent) for continent in {r["continent"] for r in rows}}
    return names


@lru_cache(maxsize=2)
def _shapes(kind: str) -> dict[str, Any]:
    import geopandas as gpd

    frame = gpd.read_parquet(resource_path("catalog") / "regions" / f"{kind}.parquet")
    return dict(zip(frame.iloc[:, 0], frame.geometry, strict=True))


def continents() -> tuple[Region, ...]:
    """Return the seven continents, in alphabetical order."""
    return tuple(Region(name, geometry) for name, geometry in sorted(_shapes("continents").items()))


def parse_bbox(text: str) -> shapely.Polygon | shapely.MultiPolygon:
    """Box ``W,S,E,N`` in degrees, which crosses 180 if W > E; InputError unless it is in range, with an area."""
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"Expected bbox:W,S,E,N with four numbers in degrees, got bbox:{text}; e.g. bbox:5,45,11,48."
        ) from None
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90 and -90 <= north <= 90):
        raise InputError(
            f"Expected longitudes in -180..180 and latitudes in -90..90, got bbox:{text}; the order is W,S,E,N."
        )
    if south >= north:
        raise InputError(f"Expected S < N in bbox:W,S,E,N, got S = {south:g} and N = {north:g}; swap them.")
    if west == east:
        raise InputError(f"Expected W and E to differ, got {west:g} twice; a box needs a width.")
    if west < east:
        return shapely.box(west, south, east, north)
    sides = [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
    return _together(np.array([side for side in sides if side.area > 0], dtype=object))


def largest_part(geometry: shapely.Geometry) -> shapely.Polygon | shapely.MultiPolygon:
    """Largest connected part; parts cut at 180 degrees count as one."""
    parts, _ = polygons_of(np.array([geometry]))
    bounds = shapely.bounds(parts)
    eastmost = (bounds[:, 0] <= -180) & (bounds[:, 2] < 180)
    moved = shapely.transform(parts[eastmost], _shifted_by(360.0))
    whole, _ = polygons_of(np.array([shapely.union_all(np.concatenate([parts[~eastmost], moved]))]))
    return wrapped(whole[areas_m2(whole).argmax()])


def wrapped(geometry: shapely.Polygon | shapely.MultiPolygon) -> shapely.Polygon | shapely.MultiPolygon:
    """Wrap polygons that extend beyond 180 degrees to -180..180, cutting them there."""
    west, _, east, _ = geometry.bounds
    turns = range(int(np.floor((west + 180) / 360)), int(np.ceil((east + 180) / 360)))
    strips = [
        shapely.transform(
            shapely.intersection(geometry, shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)),
            _shifted_by(-360.0 * turn),
        )
        for turn in turns
    ]
    parts, _ = polygons_of(np.array([shapely.union_all(strips)]))
    return _together(parts)


def _together(parts: Geometries) -> shapely.Polygon | shapely.MultiPolygon:
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(list(parts))


def _shifted_by(degrees: float) -> Callable[[Floats], Floats]:
    offset = np.array([degrees, 0.0])
    return lambda xy: xy + offset


def read_polygons(path: Path) -> gpd.GeoDataFrame:
    """Read the polygons of a vector file: in EPSG:4326, two-dimensional, valid, cut at 180 degrees.

    The file is GeoParquet, or anything that GDAL reads (GeoPackage, GeoJSON, Shapefile, ...); of several layers, the
    first polygon layer is read or, if there is none, the first layer that may contain polygons. Raises FileInputError for a
    file that cannot be read, has no CRS where it needs one, or contains no polygons.
    """
    return _polygons(read_vector(Path(path)), Path(path))


def frame_region(frame: object) -> Region | None:
    """Region of all polygons of a GeoSeries or GeoDataFrame in any CRS; None for anything else.

    Raises
    ------
    InputError
        If the frame declares no CRS, or has no polygons.
    """
    import geopandas as gpd

    if not isinstance(frame, gpd.GeoSeries | gpd.GeoDataFrame):
        return None
    kind = type(frame).__name__
    if isinstance(frame, gpd.GeoDataFrame) and frame.active_geometry_name is None:
        raise InputError(
            f"region: expected a {kind} with a geometry, got one without; choose it with set_geometry('COLUMN')."
        )
    if frame.crs is None:
        raise InputError(
            f"region: expected a {kind} with a CRS, got one without; declare it, for example with set_crs('EPSG:4326')."
        )
    try:
        polygons = _polygons(gpd.GeoDataFrame(geometry=frame.geometry.reset_index(drop=True)), Path(kind))
    except FileInputError as error:
        raise InputError(f"region: {error.problem}") from None
    joined = shapely.union_all(polygons.geometry.to_numpy())
    return Region(kind, _together(polygons_of(np.array([joined]))[0]))


def _polygons(frame: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    geometry = shapely.force_2d(frame.geometry.to_numpy())
    areal = np.isin(shapely.get_type_id(geometry), (3, 6, 7)) & ~shapely.is_empty(geometry)
    if not areal.any():
        kinds = sorted({str(kind) for kind in frame.geom_type.dropna()}) or ["no geometries"]
        raise FileInputError(path, f"expected polygons, got {len(frame)} rows of {', '.join(kinds)}.")
    frame = frame[areal].set_geometry(geometry[areal], crs=frame.crs)
    frame = frame.set_geometry(to_degrees(frame, path), crs=WGS84)
    return frame[~frame.geometry.is_empty]


def read_vector(path: Path, choose: Callable[[list[str]], str] = lambda layers: layers[0]) -> gpd.GeoDataFrame:
    """Read a vector file unchanged.

    If there are several layers, ``choose`` selects one of the polygon layers (listed first) and those that may contain polygons,
    or one of all layers if there are none of these.
    Raises FileInputError for a file that cannot be read or has no geometries.
    """
    import geopandas as gpd
    import pyogrio  # type: ignore[import-untyped]

    try:
        is_folder, is_missing = path.is_dir(), not path.is_file()
    except OSError as error:
        raise FileInputError(path, f"expected a vector file; {os_problem(error)}.") from None
    if is_folder:
        raise FileInputError(path, "expected a vector file, got a folder; name a file in it.")
    if is_missing:
        raise FileInputError(path, "no such file; check the path.")
    try:
        if path.suffix.lower() in (".parquet", ".geoparquet"):
            return gpd.read_parquet(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GDAL warns about problems that are repaired or refused below
            layers = pyogrio.list_layers(path)
            kinds = {str(name): str(kind) for name, kind in layers}
            polygonal = [name for name, kind in kinds.items() if re.search("Polygon|Surface|Triangle|TIN", kind)]
            mixed = [name for name, kind in kinds.items() if re.match("Unknown|GeometryCollection|Geometry", kind)]
            frame = gpd.read_file(path, layer=choose([*polygonal, *mixed] or [*kinds]))
    except FileInputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        problem = f"expected a vector file (GeoPackage, GeoJSON, Shapefile, GeoParquet), could not read it: {reason}"
        raise FileInputError(path, problem) from None
    if not isinstance(frame, gpd.GeoDataFrame):
        raise FileInputError(path, "expected polygons, got a table without geometries.")
    return frame


def to_degrees(frame: gpd.GeoDataFrame, path: Path) -> Geometries:
    """Convert geometries to EPSG:4326, repaired and cut at 180 degrees."""
    geometry = repaired(frame.geometry.to_numpy())
    if frame.crs is None or frame.crs.is_geographic:
        if frame.crs is not None and frame.crs.to_epsg() != WGS84:
            geometry = frame.set_geometry(geometry, crs=frame.crs).to_crs(WGS84).geometry.to_numpy()
    else:
        west, south, east, north = frame.total_bounds
        pieces = shapely.segmentize(geometry, max(east - west, north - south) / SEGMENTS_ACROSS)
        degrees = frame.set_geometry(pieces, crs=frame.crs).to_crs(WGS84).geometry.to_numpy()
        if not np.isfinite(shapely.get_coordinates(degrees)).all():
            raise FileInputError(
                path,
                f"expected polygons inside the bounds of {frame.crs.name}, got some outside; correct them or declare another CRS.",
            )
        geometry = np.array([_unrolled(part) for part in degrees], dtype=object)
    west, south, east, north = shapely.total_bounds(geometry)
    if west < -360 or east > 540 or south < -90.001 or north > 90.001:
        raise FileInputError(
            path, f"expected degrees, got coordinates {west:g}..{east:g}, {south:g}..{north:g}; declare its CRS."
        )
    bounds = shapely.bounds(geometry)
    beyond = np.flatnonzero((bounds[:, 0] < -180) | (bounds[:, 2] > 180))
    geometry[beyond] = [wrapped(geometry[index]) for index in beyond]
    return geometry


def repaired(geometry: Geometries) -> Geometries:
    """Make polygons valid; lines and points that result from the repair are dropped."""
    geometry = geometry.copy()
    broken = ~shapely.is_valid(geometry)
    geometry[broken] = shapely.make_valid(geometry[broken])
    mixed = np.flatnonzero(shapely.get_type_id(geometry) == shapely.GeometryType.GEOMETRYCOLLECTION)
    for index in mixed:
        parts, _ = polygons_of(geometry[index : index + 1])
        geometry[index] = shapely.MultiPolygon(list(parts))
    return geometry


def _unrolled(geometry: shapely.Geometry) -> shapely.Geometry:
    """Make longitudes of rings continuous across 180 degrees and around a pole."""
    coordinates = shapely.get_coordinates(geometry)
    if not len(coordinates) or np.abs(np.diff(coordinates[:, 0])).max(initial=0) < 180:
        return geometry
    parts, _ = polygons_of(np.array([geometry]))
    polygons = []
    for part in parts:
        shell, *holes = [_continuous(shapely.get_coordinates(ring)) for ring in shapely.get_rings(part)]
        middle = shell[:, 0].mean()
        holes = [hole - [360 * round((hole[:, 0].mean() - middle) / 360), 0] for hole in holes]
        polygons.append(shapely.make_valid(shapely.Polygon(shell, holes)))
    return shapely.union_all(polygons)


def _continuous(ring: Floats) -> Floats:
    lon = np.rad2deg(np.unwrap(np.deg2rad(ring[:, 0])))
    points = np.column_stack([lon, ring[:, 1]])
    if abs(lon[-1] - lon[0]) < 180:
        return points
    pole = np.copysign(90.0, ring[:, 1].mean())  # the ring surrounds a pole, which is inside the polygon
    return np.vstack([points, [(lon[-1], pole), (lon[0], pole), points[0]]])
