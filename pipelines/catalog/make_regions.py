"""Make ``catalog/regions/*.parquet`` from the npm package ``world-atlas`` (Natural Earth 4.1 as TopoJSON).

Run it in the folder where the package was unpacked::

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
    python pipelines/catalog/make_regions.py package catalog/regions

The package stores rings on the sphere, which cross the antimeridian and surround the pole without a cut. Here they
are cut at 180 degrees, so that every reader of plain polygons understands them. The table ``countries.csv`` in the
target folder (ISO 3166-1 codes, names, continents) is written by hand and read by this script.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

Ring = np.ndarray[Any, np.dtype[np.float64]]

# Features without an ISO number, or with the number of the state that they belong to.
FEATURE_KEYS = {
    "Kosovo": "XKX",
    "N. Cyprus": "Northern Cyprus",
    "Somaliland": "Somaliland",
    "Ashmore and Cartier Is.": "AUS",
}

# Territories with an ISO code of their own that are part of another feature in Natural Earth: (feature, boxes).
TERRITORIES: dict[str, tuple[str, list[tuple[float, float, float, float]]]] = {
    "GUF": ("FRA", [(-55, 2, -51, 6)]),
    "GLP": ("FRA", [(-62, 15.7, -60.8, 16.7)]),
    "MTQ": ("FRA", [(-61.4, 14.2, -60.7, 15.1)]),
    "REU": ("FRA", [(55, -21.6, 56, -20.7)]),
    "MYT": ("FRA", [(44.8, -13.2, 45.5, -12.4)]),
    "SJM": ("NOR", [(-10, 70.5, -7, 71.5), (5, 74, 40, 82)]),
    "BES": ("NLD", [(-69, 11.9, -68, 12.5), (-63.5, 17.3, -62.8, 17.8)]),
    "CXR": ("Indian Ocean Ter.", [(105, -11, 106, -10)]),
    "CCK": ("Indian Ocean Ter.", [(96, -13, 97.5, -11)]),
}

# Parts of a state that are on another continent than its table entry says. The line through Russia follows the
# watershed of the Urals, the usual limit between Europe and Asia.
URALS_EAST = Polygon(
    [
        (180, 90),
        (68.5, 90),
        (68.5, 69),
        (66, 67.8),
        (60.5, 65),
        (59, 62),
        (59.2, 59),
        (60, 57),
        (59, 55),
        (58.6, 52),
        (61, 50.5),
        (61, 40),
        (180, 40),
    ]
)
ELSEWHERE: dict[str, list[tuple[str, Polygon]]] = {
    "USA": [("Oceania", shapely.box(-180, 18, -154, 29))],
    "ESP": [("Africa", shapely.box(-19, 27, -13, 30))],
    "CHL": [("Oceania", shapely.box(-115, -30, -100, -25))],
    "RUS": [("Asia", shapely.union(URALS_EAST, shapely.box(-180, 40, -165, 90)))],
}


class Topology:
    """The arcs of a TopoJSON file, decoded to degrees."""

    def __init__(self, path: Path) -> None:
        self.document = json.loads(path.read_text())
        scale, translate = (np.array(self.document["transform"][key]) for key in ("scale", "translate"))
        self.arcs = [np.cumsum(np.array(arc), axis=0) * scale + translate for arc in self.document["arcs"]]

    def ring(self, arcs: list[int]) -> Ring:
        """Points of a ring; a negative index ~i is arc i backwards."""
        parts = [self.arcs[i] if i >= 0 else self.arcs[~i][::-1] for i in arcs]
        return np.concatenate([parts[0], *(part[1:] for part in parts[1:])])

    def geometry(self, entry: dict[str, Any]) -> MultiPolygon:
        """Plain multipolygon of a TopoJSON geometry, cut at the antimeridian."""
        polygons = entry["arcs"] if entry["type"] == "MultiPolygon" else [entry["arcs"]]
        pieces = [cut([self.ring(ring) for ring in polygon]) for polygon in polygons]
        return polygonal(shapely.union_all(pieces))


def unwrapped(ring: Ring) -> Ring:
    """Give a ring continuous longitudes; one that runs around a pole is closed along it."""
    lon = np.rad2deg(np.unwrap(np.deg2rad(ring[:, 0])))
    points = np.column_stack([lon, ring[:, 1]])
    if abs(lon[-1] - lon[0]) > 180:
        pole = np.copysign(90.0, ring[:, 1].mean())
        points = np.vstack([points, [(lon[-1], pole), (lon[0], pole), points[0]]])
    return points


def cut(rings: list[Ring]) -> MultiPolygon:
    """Bring a polygon on the sphere into -180..180 degrees."""
    shell, *holes = [unwrapped(ring) for ring in rings]
    middle = shell[:, 0].mean()
    holes = [hole - [360 * round((hole[:, 0].mean() - middle) / 360), 0] for hole in holes]
    whole = shapely.make_valid(Polygon(shell, holes))
    low, high = (int(np.floor((edge + 180) / 360)) for edge in (shell[:, 0].min() + 1e-9, shell[:, 0].max() - 1e-9))
    strips = [
        shapely.transform(
            shapely.intersection(whole, shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)),
            lambda xy, turn=turn: xy - [360 * turn, 0],
        )
        for turn in range(low, high + 1)
    ]
    return polygonal(shapely.union_all(strips))


def polygonal(geometry: shapely.Geometry) -> MultiPolygon:
    """Keep the polygons of a geometry, as one valid multipolygon, coordinates rounded to 1e-6 degree."""
    parts = shapely.get_parts(shapely.make_valid(geometry))
    rounded = shapely.set_precision(shapely.union_all(parts[shapely.get_dimensions(parts) == 2]), 1e-6)
    parts = shapely.get_parts(shapely.make_valid(rounded))
    return MultiPolygon(list(parts[shapely.get_type_id(parts) == 3]))


def read_countries(package: Path, table: list[dict[str, str]]) -> dict[str, MultiPolygon]:
    """Key (alpha-3, or a name where there is none) -> geometry; the 10m file adds what the 50m file leaves out."""
    keys = {row["numeric"]: row["alpha3"] for row in table if row["numeric"]}
    features: dict[str, list[MultiPolygon]] = {}
    for scale in ("50m", "10m"):
        topology = Topology(package / f"countries-{scale}.json")
        known = set(features)
        for entry in topology.document["objects"]["countries"]["geometries"]:
            name = entry["properties"]["name"]
            key = FEATURE_KEYS.get(name) or keys.get(entry.get("id", ""), name)
            if key not in known:
                features.setdefault(key, []).append(topology.geometry(entry))
    countries = {key: polygonal(shapely.union_all(parts)) for key, parts in features.items()}
    for key, (feature, boxes) in TERRITORIES.items():
        countries[key] = parts_inside(countries[feature], boxes)
    return countries


def parts_inside(geometry: MultiPolygon, boxes: list[tuple[float, float, float, float]]) -> MultiPolygon:
    """Parts that are completely in one of the boxes."""
    area = shapely.union_all([shapely.box(*box) for box in boxes])
    parts = shapely.get_parts(geometry)
    return MultiPolygon(list(parts[shapely.contains(area, parts)]))


def make_continents(countries: dict[str, MultiPolygon], table: list[dict[str, str]]) -> dict[str, MultiPolygon]:
    """Union of the countries of each continent; overseas parts belong to the continent they are on."""
    members: dict[str, list[shapely.Geometry]] = {}
    for row in table:
        key = row["alpha3"] or row["name"]
        home = countries[key]
        for territory, (feature, _) in TERRITORIES.items():
            if feature == key:
                home = shapely.difference(home, countries[territory])
        for continent, area in ELSEWHERE.get(key, []):
            members.setdefault(continent, []).append(shapely.intersection(home, area))
            home = shapely.difference(home, area)
        members.setdefault(row["continent"], []).append(home)
    return {name: polygonal(shapely.union_all(parts)) for name, parts in sorted(members.items())}


def read_land(package: Path, scale: str) -> list[MultiPolygon]:
    """Land masses, largest first; one on both sides of the antimeridian stays one multipolygon."""
    topology = Topology(package / f"land-{scale}.json")
    masses = [
        polygonal(cut([topology.ring(ring) for ring in polygon]))
        for entry in topology.document["objects"]["land"]["geometries"]
        for polygon in (entry["arcs"] if entry["type"] == "MultiPolygon" else [entry["arcs"]])
    ]
    order = np.argsort([-mass.area for mass in masses], kind="stable")
    return [masses[i] for i in order if not masses[i].is_empty]


def write(path: Path, geometry: list[MultiPolygon], **columns: list[str]) -> None:
    """Write a GeoParquet file in EPSG:4326."""
    frame = gpd.GeoDataFrame(columns, geometry=geometry, crs=4326)
    frame.to_parquet(path, compression="zstd", compression_level=19, index=False, write_covering_bbox=False)


def main(package: Path, target: Path) -> None:
    """Write land, countries and continents."""
    with (target / "countries.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    for scale, name in (("50m", "land"), ("110m", "land_110m")):
        write(target / f"{name}.parquet", read_land(package, scale))
    countries = read_countries(package, table)
    missing = [row["name"] for row in table if (row["alpha3"] or row["name"]) not in countries]
    if missing:
        sys.exit(f"no polygon for {', '.join(missing)}")
    keys = [row["alpha3"] or row["name"] for row in table]
    write(target / "countries.parquet", [countries[key] for key in keys], key=keys)
    continents = make_continents(countries, table)
    write(target / "continents.parquet", list(continents.values()), name=list(continents))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
