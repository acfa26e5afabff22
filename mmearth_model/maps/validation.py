"""Labelled points of a map, and whether they are a probability sample of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError, Table, closest, os_problem, read_table
from mmearth_model.maps.drawing import SIMPLE, STRATIFIED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_model.maps.class_map import Census, ClassMap

UNLABELLED = -1
GEOJSON_SUFFIXES = (".geojson", ".json")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Points:
    """Points of a validation file.

    Attributes
    ----------
    path
        The file.
    lon, lat
        (N,) degrees.
    reference
        (N,) position of the reference class among the classes of the map; `UNLABELLED` where it is empty.
    recorded
        Columns that record the design, as text, as far as the file has them: ``design``, ``map_digest``, ``stratum``,
        ``stratum_points``.
    """

    path: Path
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    reference: NDArray[np.intp]
    recorded: Mapping[str, NDArray[Any]]

    def one(self, name: str) -> str | None:
        """Value that all points share in a column; None if they do not, or the file lacks it."""
        values = set(self.recorded[name].tolist()) if name in self.recorded else set()
        return values.pop() if len(values) == 1 else None


def read_validation(path: Path, census: Census) -> Points:
    """Read labelled points: CSV, GeoJSON or GeoParquet.

    Columns: ``reference``, the name or code of a class of the map; ``lon`` and ``lat``, unless the file has geometries; and
    those of the design.

    Raises
    ------
    FileInputError
        If it cannot be read, lacks a column, or contains a class that is not in the map.
    """
    table = _table(path).require(("lon", "lat", "reference"))
    recorded = {
        name: np.array([_text(value) for value in table.columns[name]], dtype=object)
        for name in ("design", "map_digest", "stratum", "stratum_points")
        if name in table.columns
    }
    return Points(
        path=path,
        lon=table.numbers("lon"),
        lat=table.numbers("lat"),
        reference=_references(table, census),
        recorded=recorded,
    )


def _table(path: Path) -> Table:
    if path.suffix.lower() in GEOJSON_SUFFIXES:
        return _geojson(path)
    table = read_table(path)
    if "lon" in table.columns or "geometry" not in table.columns:
        return table
    import geopandas

    points = geopandas.read_parquet(path).geometry.to_crs("EPSG:4326").representative_point()
    columns = {name: table.columns[name] for name in table.columns if name != "geometry"}
    return Table(path, {**columns, "lon": points.x.tolist(), "lat": points.y.tolist()}, table.lines)


def _geojson(path: Path) -> Table:
    """Points of a GeoJSON file, which are in degrees (RFC 7946), with their properties."""
    try:
        features = json.loads(path.read_bytes())["features"]
        points = [feature["geometry"]["coordinates"][:2] for feature in features]
        properties: list[dict[str, Any]] = [feature.get("properties") or {} for feature in features]
        lon, lat = ([float(point[axis]) for point in points] for axis in (0, 1))
    except OSError as error:
        raise FileInputError(path, f"expected GeoJSON, got a file that cannot be read: {os_problem(error)}.") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise FileInputError(
            path, "expected GeoJSON with a FeatureCollection of points, got something else; export it again."
        ) from None
    names = dict.fromkeys(name for feature in properties for name in feature)
    columns: dict[str, Sequence[Any]] = {name: [feature.get(name) for feature in properties] for name in names}
    return Table(path, {**columns, "lon": lon, "lat": lat}, range(1, len(points) + 1))


def _text(value: Any) -> str:  # noqa: ANN401 - whatever a file has
    """Text of a value; integers without the decimal point that spreadsheets and data frames add."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    text = str(value).strip()
    return text.removesuffix(".0") if text.removesuffix(".0").isdigit() else text


def _references(table: Table, census: Census) -> NDArray[np.intp]:
    by_name = {output.name.casefold(): k for k, output in enumerate(census.classes)}
    by_code = {str(output.code): k for k, output in enumerate(census.classes)}
    found = np.full(len(table), UNLABELLED, dtype=np.intp)
    for n, value in enumerate(table.columns["reference"]):
        text = _text(value)
        place = by_name.get(text.casefold(), by_code.get(text))
        if place is not None:
            found[n] = place
        elif text:
            names = [output.name for output in census.classes]
            near = closest(text, names)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise FileInputError(
                table.path,
                f"expected the name or code of a class of the map ({', '.join(names)}) in reference, got {text!r}{hint}",
                table.lines[n],
            )
    return found


def classes_at(found: ClassMap, census: Census, points: Points) -> NDArray[np.intp]:
    """(N,) position among the map's classes at each point; -1 outside the map, and where it has no class."""
    columns, rows = found.positions(points.lon, points.lat)
    known = {output.code: k for k, output in enumerate(census.classes)}
    at = np.full(len(columns), -1, dtype=np.intp)
    for first, codes, seen in found.strips():
        inside = np.flatnonzero((rows >= first) & (rows < first + len(codes)))
        for n in inside:
            row, column = rows[n] - first, columns[n]
            if seen[row, column]:
                at[n] = known[int(codes[row, column])]
    return at


def refusal(points: Points, census: Census, at: NDArray[np.intp]) -> str | None:
    """Explain why points are not a probability sample of a map, and what to do; None if they are one.

    Parameters
    ----------
    points
        The points.
    census
        Pixels of the map.
    at
        (N,) mapped class of each point, from `classes_at`.
    """
    total = len(points.reference)
    unlabelled = int((points.reference == UNLABELLED).sum())
    if unlabelled:
        return f"{unlabelled} of {total} points have no reference class; label all points, since leaving out doubtful ones biases the estimates"
    design = points.one("design")
    if design not in (STRATIFIED, SIMPLE):
        return (
            "the file does not say how its points were selected; select them with --draw-validation, or add a column "
            "design "
            f"with {SIMPLE} (uniform over the mapped area) or {STRATIFIED} (by mapped class)"
        )
    digest = points.one("map_digest")
    if digest != census.digest and (design == STRATIFIED or digest or "map_digest" in points.recorded):
        return (
            f"the points were not selected from this map (their map_digest is {digest or 'missing or mixed'}, that of "
            "the map is "
            f"{census.digest}); select new ones with --draw-validation"
        )
    outside = int((at < 0).sum())
    if outside:
        return f"{outside} of {total} points are outside the mapped area; select new points"
    if design == STRATIFIED and (problem := _other_strata(points, census, at)):
        return problem
    return _too_few(census, at)


def _other_strata(points: Points, census: Census, at: NDArray[np.intp]) -> str | None:
    """Problem of a stratified sample: strata that are not the map's classes, points left out or repeated."""
    codes = np.array([str(output.code) for output in census.classes], dtype=object)
    strata = points.recorded.get("stratum")
    wrong = len(at) if strata is None else int((strata != codes[at]).sum())
    if wrong:
        return f"{wrong} of {len(at)} points have a stratum that is not their class in the map; select new points"
    if len(set(zip(points.lon.tolist(), points.lat.tolist(), strict=True))) < len(at):
        return "some points occur twice; remove the copies"
    drawn = points.recorded.get("stratum_points")
    for k, code in enumerate(codes):
        expected = set() if drawn is None else set(drawn[at == k].tolist())
        found = int((at == k).sum())
        if expected - {str(found)}:
            return f"{found} of {'/'.join(sorted(expected))} points of stratum {code} are in the file; restore the missing ones"
    return None


def _too_few(census: Census, at: NDArray[np.intp]) -> str | None:
    counts = np.bincount(at, minlength=len(census.classes))
    few = (counts < np.minimum(2, census.pixels)) & (census.pixels > 0)
    if few.any():
        names = ", ".join(output.name for output, one in zip(census.classes, few, strict=True) if one)
        return f"expected at least two points of each mapped class, got fewer of {names}; select more points"
    return None
