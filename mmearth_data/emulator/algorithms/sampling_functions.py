"""Pixels as features: `reduceRegions`, `sample` and related algorithms; coarser pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.emulator.algorithms.collections import Collection, listed, of_elements
from mmearth_data.emulator.algorithms.features import INDEX, Feature, geometry_of
from mmearth_data.emulator.algorithms.filters import ANYTHING
from mmearth_data.emulator.algorithms.geometry import Geometry
from mmearth_data.emulator.algorithms.grids import lattice
from mmearth_data.emulator.algorithms.image import WGS84, Band, Grid, Image, Pixels, Projection, in_crs, least, shown
from mmearth_data.emulator.algorithms.reducers import Reducer, plain
from mmearth_data.emulator.algorithms.regions import aggregated_on, cells_of, centres_in, gathered_in, region_of
from mmearth_data.emulator.algorithms.stacks import images_near, images_of
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function
from mmearth_data.emulator.server.work import room_for_pixels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.graph.registry import Value

MOST_RECTANGLE_PIXELS = 262_144
"""`sampleRectangle` refuses more; Earth Engine's reference."""


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
    home = aggregated_on(image, crs, crsTransform, scale)

    def reduced(feature: Feature) -> Feature:
        geometry = geometry_of(feature)
        shape = in_crs(geometry.shape, geometry.crs, home.crs)
        results = gathered_in(image, reducer, shape, cells_of(shape, home), "Image.reduceRegions")
        if len(image.bands) == 1 and reducer.inputs == 1:
            (band,) = image.names
            first = reducer.outputs[0].name
            results = {name.removeprefix(f"{band}_") if name != band else first: v for name, v in results.items()}
        return feature.with_properties({**feature.properties, **results})

    return collection.from_source(of_elements(map(reduced, collection.elements())).source)


class PixelTable:
    """Pixels of a grid inside a shape in its CRS, as rows of values; those with a masked band may be dropped."""

    def __init__(self, image: Image, shape: BaseGeometry, home: Projection, *, drop_nulls: bool) -> None:
        self.image = image
        self.grid = cells_of(shape, home)
        room_for_pixels(self.grid.width * self.grid.height * len(image.bands))
        self.layers = [band.evaluate(self.grid) for band in image.bands]
        valid = [layer.valid for layer in self.layers]
        held = centres_in(shape, self.grid)
        held &= shown(least(*valid)) if drop_nulls else np.logical_or.reduce(valid)
        self.rows, self.columns = np.nonzero(held)

    def row(self, k: int) -> dict[str, Value]:
        """Band -> value of the k-th pixel; None where masked."""
        at = int(self.rows[k]), int(self.columns[k])
        return {
            band.name: plain(float(layer.values[at]), band.type) if layer.valid[at] else None
            for band, layer in zip(self.image.bands, self.layers, strict=True)
        }

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
    """Random sample of some of a number of indices, in their order."""
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
    """Features of all pixels of a region, or of a random sample of them."""
    home = aggregated_on(image, projection, None, scale)
    table = PixelTable(image, region_of(image, region, home.crs, "Image.sample"), home, drop_nulls=dropNulls)
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
    """Features of a random sample of the pixels of each class."""
    home = aggregated_on(image, projection, None, scale)
    table = PixelTable(image, region_of(image, region, home.crs, "Image.stratifiedSample"), home, drop_nulls=dropNulls)
    band = classBand or image.names[0]
    image.find(band, "Image.stratifiedSample")
    classes = table.layers[image.names.index(band)].values[table.rows, table.columns]
    wanted = dict(zip(classValues or (), classPoints or (), strict=True))
    rows: list[int] = []
    for value in np.unique(classes).tolist():
        of_class = np.flatnonzero(classes == value)
        rows += of_class[_picked(len(of_class), wanted.get(int(value), numPoints), seed)].tolist()
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
    home = aggregated_on(image, projection, None, scale)

    def rows(feature: Feature) -> list[Feature]:
        geometry = geometry_of(feature)
        table = PixelTable(image, in_crs(geometry.shape, geometry.crs, home.crs), home, drop_nulls=True)
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
    """Pixels of a rectangle as lists of lists, one property per band."""
    home = aggregated_on(image, None, None, None)
    grid = cells_of(region_of(image, region, home.crs, "Image.sampleRectangle"), home)
    if grid.width * grid.height > MOST_RECTANGLE_PIXELS:
        raise EmulatorError(
            f"Image.sampleRectangle: Too many pixels in sample; must be <= {MOST_RECTANGLE_PIXELS}. "
            f"Got {grid.width * grid.height}."
        )
    out: dict[str, Value] = {name: image.properties.get(name) for name in properties or image.properties}
    for band in image.bands:
        values, valid = band.evaluate(grid)
        if not valid.all() and defaultValue is None:
            raise EmulatorError(
                f"Image.sampleRectangle: Fully masked pixels / pixels outside of the image footprint when sampling "
                f"band '{band.name}' with no default value set. Note that calling sampleRectangle() after ee.Image."
                "clip() may result in a sampling bounding box outside the geometry passed to clip()."
            )
        filled = np.where(valid, values, 0.0 if defaultValue is None else defaultValue)
        out[band.name] = [[plain(float(v), band.type) for v in line] for line in filled]
    return Feature(region, out)


@function("ImageCollection.getRegion")
def _get_region(
    collection: Collection,
    geometry: Geometry,
    scale: float | None,
    crs: Projection | None,
    crsTransform: list[float] | None,
) -> list[Value]:
    """Pixels of a region in every image, as rows below a header."""
    if scale is None and crsTransform is None:
        raise EmulatorError("ImageCollection.getRegion: Specify a scale or a crsTransform.")
    home = lattice(crs or Projection(WGS84), crsTransform, scale)
    shape, area = (in_crs(geometry.shape, geometry.crs, code) for code in (home.crs, WGS84))
    images = images_near(collection, area) if collection.scattered(ANYTHING) else images_of(collection)
    names = images[0].names if images else []
    rows: list[Value] = [["id", "longitude", "latitude", "time", *names]]
    for image in images:
        table = PixelTable(image, shape, home, drop_nulls=False)
        index, start = (image.properties.get(f"system:{name}") for name in ("index", "time_start"))
        for k in range(len(table)):
            values = table.row(k)
            rows.append([index, *table.point(k).shape.coords[0], start, *(values.get(name) for name in names)])
    return rows


# ---------------------------------------------------------------- coarser pixels


@function("Image.reduceResolution")
def _reduce_resolution(image: Image, reducer: Reducer, bestEffort: bool, maxPixels: int) -> Image:
    """Reduce all pixels of the image inside a coarser one, instead of taking the nearest."""

    def change(band: Band) -> Band:
        most = None if bestEffort else maxPixels
        return band.derived(lambda grid: _coarsened(band, reducer, grid, most), reducer.outputs[0].type)

    return image.mapped(change)


def _coarsened(band: Band, reducer: Reducer, grid: Grid, most: int | None) -> Pixels:
    count = max(1, round(grid.projection.nominal_scale / band.projection.nominal_scale))
    if most is not None and count * count > most:
        raise EmulatorError(
            f"Image.reduceResolution: Too many input pixels per output pixel ({count * count} > {most}). "
            "Set bestEffort or a larger maxPixels."
        )
    values, valid = (_blocks(layer, grid, count) for layer in band.evaluate(_subdivided(grid, count)))
    ((found, fine),) = replace(reducer, outputs=reducer.outputs[:1]).over([(values, valid)])
    return Pixels(found, fine)


def _subdivided(grid: Grid, count: int) -> Grid:
    """Grid whose pixels are ``count`` times narrower."""
    a, b, c, d, e, f = grid.projection.transform
    finer = Projection(grid.projection.crs, (a / count, b / count, c, d / count, e / count, f))
    return Grid(finer, grid.column * count, grid.row * count, grid.width * count, grid.height * count)


def _blocks(array: NDArray[Any], grid: Grid, count: int) -> NDArray[Any]:
    """(height * count, width * count) to (count * count, height, width)."""
    parts = array.reshape(grid.height, count, grid.width, count).transpose(1, 3, 0, 2)
    return parts.reshape(count * count, grid.height, grid.width)
