"""Pixels of a region: reduced, or as features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.emulator.algorithms.collections import Collection, listed, of_elements
from mmearth_data.emulator.algorithms.coverage import Coverage
from mmearth_data.emulator.algorithms.features import INDEX, Feature, geometry_of, ordinary
from mmearth_data.emulator.algorithms.filters import ANYTHING
from mmearth_data.emulator.algorithms.geometry import Geometry
from mmearth_data.emulator.algorithms.grids import lattice
from mmearth_data.emulator.algorithms.image import (
    CHEAP,
    DEFAULT_PROJECTION,
    WGS84,
    Grid,
    Image,
    Projection,
    in_crs,
    least,
    shown,
)
from mmearth_data.emulator.algorithms.reducers import plain
from mmearth_data.emulator.algorithms.stacks import images_near, images_of
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function
from mmearth_data.emulator.server.cheap import Remembered
from mmearth_data.emulator.server.work import room_for_pixels

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.algorithms.image import Band
    from mmearth_data.emulator.algorithms.reducers import Reducer
    from mmearth_data.emulator.graph.registry import Context, Value

    Float = NDArray[np.float64]

CHEAP_REGIONS: Remembered[Hashable, dict[str, Value]] = Remembered()
"""While pixels are cheap, a result depends on the bands alone, not on location or time."""
MOST_RECTANGLE_PIXELS = 262_144
"""`sampleRectangle` refuses more; Earth Engine's reference."""
MOST_REGION_VALUES = 1_048_576
"""`getRegion` refuses more values (Earth Engine's reference)."""


@function("Image.reduceRegion")
def _reduce_region(
    image: Image,
    reducer: Reducer,
    geometry: Geometry | None,
    scale: float | None,
    crs: Projection | None,
    crsTransform: list[float] | None,
    bestEffort: bool,
    maxPixels: int,
    context: Context,
) -> dict[str, Value]:
    if not image.bands:
        return {}
    home = _aggregated_on(image, crs, crsTransform, scale)
    shape = _region_of(image, geometry, home.crs, "Image.reduceRegion")
    region = Coverage.of(shape, home)
    while bestEffort and region.count > maxPixels:
        home = home.at_scale(2 * home.nominal_scale)
        region = Coverage.of(shape, home)
    if region.count > maxPixels:
        raise EmulatorError(
            f"Image.reduceRegion: Too many pixels in the region. Found {region.count}, "
            f"but maxPixels allows only {maxPixels}.\nEnsure that you are not aggregating at a higher resolution than "
            "you intended; that is the most frequent cause of this error. If not, then you may set the 'maxPixels' "
            "argument to a limit suitable for your computation; set 'bestEffort' to true to aggregate at whatever "
            "scale results in 'maxPixels' total pixels; or both."
        )
    if context.cheap_pixels:
        form = tuple((band.name, band.type) for band in image.bands), reducer.name
        return CHEAP_REGIONS.answer(form, lambda: _cheaply_gathered(image, reducer, region.grid))
    return _gathered_in(image, reducer, region, "Image.reduceRegion")


def _gathered_in(image: Image, reducer: Reducer, region: Coverage, name: str) -> dict[str, Value]:
    centred = None if reducer.weighted else region.centred()
    return _gathered(image, reducer, region.grid, region.weights(), name, centred)


def _cheaply_gathered(image: Image, reducer: Reducer, grid: Grid) -> dict[str, Value]:
    """Reduce one pixel instead of all: assets have one number each."""
    first = Grid(grid.projection, grid.column, grid.row, 1, 1)
    token = CHEAP.set(True)
    try:
        return _gathered(image, reducer, first, np.ones((1, 1)), "Image.reduceRegion")
    finally:
        CHEAP.reset(token)


def _aggregated_on(
    image: Image, crs: Projection | None, transform: list[float] | None, scale: float | None
) -> Projection:
    """Pixel grid on which pixels are gathered; an image without one is refused if none is given."""
    return _real(lattice(crs or image.projection, transform, scale))


def _real(home: Projection) -> Projection:
    """Refuse the projection of composites."""
    if home == DEFAULT_PROJECTION:
        raise EmulatorError(
            "The default WGS84 projection is invalid for aggregations. Specify a scale or crs & crs_transform."
        )
    return home


def _region_of(image: Image, geometry: Geometry | None, crs: str, name: str) -> BaseGeometry:
    if geometry is not None:
        return in_crs(geometry.shape, geometry.crs, crs)
    if image.footprint is None:
        raise EmulatorError(f"{name}: The image is unbounded; 'geometry' is required.")
    return in_crs(image.footprint, WGS84, crs)


def _gathered(
    image: Image, reducer: Reducer, grid: Grid, weights: Float, name: str, centred: NDArray[np.bool_] | None = None
) -> dict[str, Value]:
    """Reduce the weighted pixels of a window; unweighted outputs count pixels whose centres are inside the region."""
    counted = weights.ravel() > 0
    weight = weights.ravel()[counted]
    inside = None if centred is None else centred.ravel()[counted]
    columns = []
    for band in image.bands:
        values, valid = band.evaluate(grid)
        columns.append((values.ravel()[counted], valid.ravel()[counted]))
    if reducer.inputs > 1:
        if len(columns) != reducer.inputs:
            raise EmulatorError(f"{name}: Need {reducer.inputs} bands for the reducer, the image has {len(columns)}.")
        return reducer.flat(columns, _weighed(weight, [mask for _, mask in columns]), inside)
    single = len(reducer.outputs) == 1
    return {
        band if single else f"{band}_{output}": value
        for band, column in zip(image.names, columns, strict=True)
        for output, value in reducer.flat([column], _weighed(weight, [column[1]]), inside).items()
    }


def _weighed(shares: Float, masks: Sequence[NDArray[Any]]) -> Float:
    """Weight of pixels: the minimum of the share inside the region and the mask (Earth Engine guides, "statistics")."""
    fractional = [mask for mask in masks if mask.dtype != bool]
    return least(shares, *fractional) if fractional else shares


# ---------------------------------------------------------------- pixels as features


@function("Image.reduceRegions")
def _reduce_regions(
    image: Image,
    collection: Collection,
    reducer: Reducer,
    scale: float | None,
    crs: Projection | None,
    crsTransform: list[float] | None,
) -> Collection:
    """Reduce the pixels of each feature; the results become its properties, named by the output for one band."""
    home = _aggregated_on(image, crs, crsTransform, scale)

    def reduced(feature: Feature) -> Feature:
        geometry = geometry_of(feature)
        shape = in_crs(geometry.shape, geometry.crs, home.crs)
        results = _gathered_in(image, reducer, Coverage.of(shape, home), "Image.reduceRegions")
        if len(image.bands) == 1 and reducer.inputs == 1:
            (band,) = image.names
            first = reducer.outputs[0].name
            results = {name.removeprefix(f"{band}_") if name != band else first: v for name, v in results.items()}
        return feature.with_properties({**feature.properties, **results})

    return collection.from_source(of_elements(map(reduced, collection.elements())).source)


class _PixelTable:
    """Pixels of a grid inside a shape in its CRS, as rows of values; those with a masked band may be dropped."""

    def __init__(self, image: Image, shape: BaseGeometry, home: Projection, *, drop_nulls: bool) -> None:
        self.image = image
        region = Coverage.of(shape, home)
        self.grid = region.grid
        room_for_pixels(self.grid.width * self.grid.height * len(image.bands))
        self.layers = [band.evaluate(self.grid) for band in image.bands]
        valid = [layer.valid for layer in self.layers]
        held = region.centred()
        held &= shown(least(*valid)) if drop_nulls else np.logical_or.reduce(valid)
        self.rows, self.columns = np.nonzero(held)

    def row(self, k: int) -> dict[str, Value]:
        """Band -> value of the k-th pixel; None where masked."""
        at = int(self.rows[k]), int(self.columns[k])
        return {
            band.name: plain(float(layer.values[at]), band.type) if layer.valid[at] else None
            for band, layer in zip(self.image.bands, self.layers, strict=True)
        }

    def classes(self, band: str) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Each value of an integer band, and the numbers of its unmasked pixels with that value."""
        layer = self.layers[self.image.names.index(band)]
        values, known = layer.values[self.rows, self.columns], shown(layer.valid)[self.rows, self.columns]
        for value in np.unique(values[known]).tolist():
            yield int(value), np.flatnonzero(known & (values == value))

    def point(self, k: int) -> Geometry:
        """Centre of the k-th pixel."""
        column, row = self.grid.column + self.columns[k] + 0.5, self.grid.row + self.rows[k] + 0.5
        x, y = self.grid.projection.to_crs(float(column), float(row))
        return Geometry(in_crs(shapely.Point(float(x), float(y)), self.grid.projection.crs, WGS84))

    def features(self, rows: Iterable[int], *, geometries: bool) -> Iterator[Feature]:
        """Features of some pixels."""
        return (Feature(self.point(k) if geometries else None, self.row(k)) for k in rows)

    def __len__(self) -> int:
        return len(self.rows)


def _picked(count: int, wanted: int, seed: int) -> list[int]:
    if wanted >= count:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, wanted, replace=False).tolist())


@function("Image.sample")
def _sample(
    image: Image,
    region: Geometry | None,
    scale: float | None,
    projection: Projection | None,
    factor: float | None,
    numPixels: int | None,
    seed: int,
    dropNulls: bool,
    geometries: bool,
) -> Collection:
    if factor is not None and numPixels is not None:
        raise EmulatorError("Image.sample: Expected factor or numPixels, found both; specify one of them.")
    if factor is not None and not 0 < factor <= 1:
        raise EmulatorError(f"Image.sample: Expected a factor within (0, 1], found {factor}.")
    home = _aggregated_on(image, projection, None, scale)
    table = _PixelTable(image, _region_of(image, region, home.crs, "Image.sample"), home, drop_nulls=dropNulls)
    wanted = len(table) if numPixels is None else numPixels
    rows = _picked(len(table), wanted if factor is None else round(len(table) * factor), seed)
    return of_elements(table.features(rows, geometries=geometries), "Feature")


@function("Image.stratifiedSample")
def _stratified_sample(
    image: Image,
    numPoints: int,
    classBand: str | None,
    region: Geometry | None,
    scale: float | None,
    projection: Projection | None,
    seed: int,
    classValues: list[int] | None,
    classPoints: list[int] | None,
    dropNulls: bool,
    geometries: bool,
) -> Collection:
    band = image.find(classBand or image.names[0], "Image.stratifiedSample")
    if band.type.precision != "int":
        raise EmulatorError(
            f"Image.stratifiedSample: Expected integers in the class band, found {band.type.shown} in '{band.name}'; "
            "cast it, for instance with toInt()."
        )
    if len(classValues or ()) != len(classPoints or ()):
        raise EmulatorError("Image.stratifiedSample: classValues and classPoints must have the same length.")
    home = _aggregated_on(image, projection, None, scale)
    shape = _region_of(image, region, home.crs, "Image.stratifiedSample")
    table = _PixelTable(image, shape, home, drop_nulls=dropNulls)
    wanted = dict(zip(classValues or (), classPoints or (), strict=True))
    rows: list[int] = []
    for value, of_class in table.classes(band.name):
        rows += of_class[_picked(len(of_class), wanted.get(value, numPoints), seed)].tolist()
    return of_elements(table.features(rows, geometries=geometries), "Feature")


@function("Image.sampleRegions")
def _sample_regions(
    image: Image,
    collection: Collection,
    properties: list[str] | None,
    scale: float | None,
    projection: Projection | None,
    geometries: bool,
) -> Collection:
    """Features of all pixels of each region, with properties of the region."""
    home = _aggregated_on(image, projection, None, scale)

    def rows(feature: Feature) -> list[Feature]:
        geometry = geometry_of(feature)
        table = _PixelTable(image, in_crs(geometry.shape, geometry.crs, home.crs), home, drop_nulls=True)
        own = feature.properties
        kept = {k: v for k, v in own.items() if k != INDEX and (properties is None or k in properties)}
        found = enumerate(table.features(range(len(table)), geometries=geometries))
        return [
            pixel.with_properties({**kept, **pixel.properties, INDEX: f"{own.get(INDEX)}_{k}"}) for k, pixel in found
        ]

    return Collection(listed([row for feature in collection.elements() for row in rows(feature)]), "Feature")


@function("Image.sampleRectangle")
def _sample_rectangle(
    image: Image, region: Geometry | None, properties: list[str] | None, defaultValue: float | None
) -> Feature:
    chosen = ordinary(image.properties) if properties is None else properties
    out: dict[str, Value] = {name: image.properties.get(name) for name in chosen}
    for band in image.bands:
        home = _real(band.projection)
        grid = Coverage.of(_region_of(image, region, home.crs, "Image.sampleRectangle"), home).grid
        out[band.name] = _rectangle_of(band, grid, defaultValue)
    return Feature(geometry_of(image) if region is None else region, out)


def _rectangle_of(band: Band, grid: Grid, default: float | None) -> list[list[float]]:
    if grid.width * grid.height > MOST_RECTANGLE_PIXELS:
        raise EmulatorError(
            f"Image.sampleRectangle: Too many pixels in sample; must be <= {MOST_RECTANGLE_PIXELS}. "
            f"Got {grid.width * grid.height}."
        )
    values, valid = band.evaluate(grid)
    if not valid.all() and default is None:
        raise EmulatorError(
            f"Image.sampleRectangle: Fully masked pixels / pixels outside of the image footprint when sampling "
            f"band '{band.name}' with no default value set. Note that calling sampleRectangle() after ee.Image."
            "clip() may result in a sampling bounding box outside the geometry passed to clip()."
        )
    filled = np.where(valid, values, 0.0 if default is None else default)
    return [[plain(float(v), band.type) for v in line] for line in filled]


@function("ImageCollection.getRegion")
def _get_region(
    collection: Collection,
    geometry: Geometry,
    scale: float | None,
    crs: Projection | None,
    crsTransform: list[float] | None,
) -> list[Value]:
    if scale is None and crsTransform is None:
        raise EmulatorError("ImageCollection.getRegion: Specify a scale or a crsTransform.")
    home = lattice(crs or Projection(WGS84), crsTransform, scale)
    shape, area = (in_crs(geometry.shape, geometry.crs, code) for code in (home.crs, WGS84))
    images = images_near(collection, area) if collection.scattered(ANYTHING) else images_of(collection)
    names = images[0].names if images else []
    points = Coverage.of(shape, home).points
    if points * len(names) * len(images) > MOST_REGION_VALUES:
        raise EmulatorError(
            f"ImageCollection.getRegion: Too many values: {points} points x {len(names)} bands x {len(images)} images > "
            f"{MOST_REGION_VALUES}."
        )
    rows: list[Value] = [["id", "longitude", "latitude", "time", *names]]
    for image in images:
        table = _PixelTable(image, shape, home, drop_nulls=False)
        index, start = (image.properties.get(f"system:{name}") for name in ("index", "time_start"))
        for k in range(len(table)):
            values = table.row(k)
            rows.append([index, *table.point(k).shape.coords[0], start, *(values.get(name) for name in names)])
    return rows
