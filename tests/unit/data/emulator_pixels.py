"""What the tests of the emulator's pixels share: a request without a server, and images with closed forms."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.emulator.algorithms.image import Band, Grid, Image, Pixels, PixelType, Projection, nearest
from mmearth_data.emulator.graph import library
from mmearth_data.emulator.graph.evaluate import Request
from mmearth_data.planet.planet import planet

if TYPE_CHECKING:
    from collections.abc import Callable

    import shapely
    from numpy.typing import NDArray

UTM = Projection("EPSG:32632", (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))
"""10 m pixels from (500000, 5000000)."""
FLOAT = PixelType("float")

assert library.implementation("Image.load")


@cache
def request_context() -> Request:
    """A request to the service of planet 5."""
    return Request(planet(5))


def call(name: str, **arguments: Any) -> Any:
    """Apply an algorithm, with its arguments checked as the service does."""
    return request_context().call(name, **arguments)


def grid(width: int = 4, height: int = 3, projection: Projection = UTM, column: int = 0, row: int = 0) -> Grid:
    """Window of a lattice."""
    return Grid(projection, column, row, width, height)


def image_of(
    function: Callable[[NDArray[Any], NDArray[Any]], Any],
    *,
    valid: Callable[[NDArray[Any], NDArray[Any]], Any] | None = None,
    projection: Projection = UTM,
    kind: PixelType = FLOAT,
    name: str = "b",
    footprint: shapely.Geometry | None = None,
) -> Image:
    """Image whose native pixels are a function of (column, row)."""

    def native(window: Grid) -> Pixels:
        columns, rows = np.meshgrid(
            window.column + np.arange(window.width), window.row + np.arange(window.height), indexing="xy"
        )
        values = np.broadcast_to(np.asarray(function(columns, rows), np.float64), window.shape)
        seen = np.ones(window.shape, bool) if valid is None else np.broadcast_to(valid(columns, rows), window.shape)
        return Pixels(np.where(seen, values, 0.0), np.asarray(seen, bool))

    band = Band(name, kind, projection, lambda window: nearest(window, projection, native))
    return Image((band,), {}, footprint)


def ramp(**options: Any) -> Image:
    """Image of column + 100 * row."""
    return image_of(lambda column, row: column + 100.0 * row, **options)


def array(*rows: list[float | None], kind: PixelType = FLOAT, name: str = "b") -> Image:
    """Image of a few pixels from the upper-left one; None is masked, and so is everything beyond."""
    table = np.array([[np.nan if v is None else v for v in row] for row in rows], np.float64)

    def value(columns: NDArray[Any], lines: NDArray[Any]) -> NDArray[Any]:
        inside = (columns >= 0) & (columns < table.shape[1]) & (lines >= 0) & (lines < table.shape[0])
        at = np.where(inside, lines, 0), np.where(inside, columns, 0)
        return np.where(inside, table[at], np.nan)

    return image_of(
        lambda c, r: np.nan_to_num(value(c, r)), valid=lambda c, r: ~np.isnan(value(c, r)), kind=kind, name=name
    )


def pixels(image: Image, window: Grid | None = None, band: int = 0) -> list[list[float | None]]:
    """Pixels of a band, None where masked."""
    found = image.bands[band].evaluate(window or grid())
    return [
        [float(v) if ok else None for v, ok in zip(line, seen, strict=True)]
        for line, seen in zip(found.values, found.valid, strict=True)
    ]


def line(image: Image, width: int = 4, band: int = 0) -> list[float | None]:
    """First pixels of the first row."""
    return pixels(image, grid(width, 1), band)[0]
