"""Answers to requests for pixels: the bytes of an image on the requested grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from shapely.geometry import shape as shape_of

from mmearth_data.emulator.algorithms.image import (
    CHEAP,
    EARTH,
    MATRIX,
    WGS84,
    Band,
    Grid,
    Image,
    PixelType,
    Projection,
    chosen_bands,
    in_crs,
    least,
    window_of,
)
from mmearth_data.emulator.errors import MAX_BANDS, MAX_BYTES, EmulatorError, not_emulated, too_large
from mmearth_data.emulator.server.encoding import geotiff, npy, png, zipped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mmearth_data.emulator.graph.registry import Context

    Array = NDArray[Any]
    Request = Mapping[str, Any]

NPY, TIFF, ZIP, PNG = "application/octet-stream", "image/tiff", "application/zip", "image/png"
PICTURES = ("PNG", "AUTO_JPEG_PNG")
BLOCK_PIXELS = 2**16
"""Pixels computed at a time, so that long image stacks fit into memory; always a whole number of rows."""
TILE_PIXELS, DEEPEST_ZOOM = 256, 24
MAX_PIXELS_A_SIDE = 32_768
PICTURE_PIXELS = 512
"""Longest side of a picture if no size was requested."""


def render_pixels(image: Image, request: Request, context: Context) -> tuple[bytes, str]:
    """(body, content type) of the requested pixels; refused above the limits on bands, sides and bytes."""
    bands = chosen_bands(image, request.get("bandIds") or None, "Image.select")
    kind = request.get("fileFormat") or "AUTO_JPEG_PNG"
    if not bands:
        raise EmulatorError("Image has no bands.")
    if len(bands) > MAX_BANDS:
        raise EmulatorError(f"Too many bands ({len(bands)}); at most {MAX_BANDS} are allowed.")
    grids = [grid_of(band, image, request, picture=kind in PICTURES) for band in bands]
    check_size(bands, grids)
    if kind in PICTURES:
        return picture(bands, grids[0], request.get("visualizationOptions") or {}), PNG
    if kind not in WRITERS:
        raise not_emulated(f"File format {kind}")
    if kind == "NPY" and context.cheap_pixels:
        return _cheap_npy(bands, grids[0]), NPY
    content_type, write = WRITERS[kind]
    return write(bands, grids, str(request.get("filenamePrefix") or "download")), content_type


def check_size(bands: Sequence[Band], grids: Sequence[Grid]) -> None:
    """Refuse answers above the limits of the service."""
    for grid in grids:
        if max(grid.shape) > MAX_PIXELS_A_SIDE:
            raise EmulatorError(
                f"Pixel grid dimensions ({grid.width}x{grid.height}) must be less than or equal to {MAX_PIXELS_A_SIDE}."
            )
    size = sum(band.type.dtype.itemsize * grid.width * grid.height for band, grid in zip(bands, grids, strict=True))
    if size > MAX_BYTES:
        raise too_large(size)


# ---------------------------------------------------------------- which grid


def grid_of(band: Band, image: Image, request: Request, *, picture: bool = False) -> Grid:
    """Return the requested grid; what the request leaves open is the band's own."""
    asked = request.get("grid") or {}
    transform = asked.get("affineTransform")
    crs = asked.get("crsCode") or asked.get("crsWkt")
    size = asked.get("dimensions")
    if transform is not None and crs is not None and size is not None:
        return Grid(Projection(crs, _matrix(transform)), 0, 0, _side(size, "width"), _side(size, "height"))
    own = _northward(_own_grid(band, image, request, crs))
    if transform is not None:
        own = Grid(Projection(crs or own.projection.crs, _matrix(transform)), 0, 0, own.width, own.height)
    if size is not None:
        return _scaled_to(own, _side(size, "width"), _side(size, "height"))
    longest = max(own.shape)
    if picture and band.frame is None and longest > PICTURE_PIXELS:
        return _scaled_to(own, *(max(1, round(n * PICTURE_PIXELS / longest)) for n in (own.width, own.height)))
    return own


def _matrix(transform: Mapping[str, Any]) -> tuple[float, float, float, float, float, float]:
    """Affine transform of a request, whose pixels must have an area."""
    try:
        a, b, c, d, e, f = (float(transform.get(key, 0)) for key in MATRIX)
    except (AttributeError, TypeError, ValueError):
        raise EmulatorError(f"Invalid affine transform: {str(transform)[:200]}.") from None
    if not math.isfinite(a + b + c + d + e + f) or a * e == b * d:
        raise EmulatorError(f"Invalid affine transform: its pixels have no area, got {[a, b, c, d, e, f]}.")
    return a, b, c, d, e, f


def _side(size: Mapping[str, Any], name: str) -> int:
    try:
        side = int(size.get(name, 0))
    except (AttributeError, TypeError, ValueError):
        raise EmulatorError(f"Invalid pixel grid dimensions: {str(size)[:200]}.") from None
    if side < 1:
        raise EmulatorError("Pixel grid dimensions must be positive.")
    return side


def _own_grid(band: Band, image: Image, request: Request, crs: str | None) -> Grid:
    """Window of the band's own pixel grid that the image, or the requested region, covers."""
    if band.frame is not None:
        return band.frame
    home = band.projection if crs is None else Projection(crs, band.projection.transform)
    region = request.get("region")
    if region is not None:
        return window_of(in_crs(shape_of(region), WGS84, home.crs), home)
    if crs is None and band.size is not None and band.origin is None:
        return Grid(home, 0, 0, *band.size)
    if image.footprint is None:
        raise EmulatorError(
            "Unable to compute the pixels of an unbounded image. Specify a grid, or clip the image to a region."
        )
    return window_of(in_crs(image.footprint, WGS84, home.crs), home)


def _northward(grid: Grid) -> Grid:
    """Put the northern row first: projections at a scale count rows from the south."""
    if grid.projection.transform[4] < 0 or not grid.projection.straight:
        return grid
    return Grid(grid.projection.scaled(1, -1), grid.column, -grid.row - grid.height, grid.width, grid.height)


def _scaled_to(grid: Grid, width: int, height: int) -> Grid:
    a, b, _, d, e, _ = grid.projection.transform
    x, y = grid.projection.to_crs(grid.column, grid.row)
    across, down = grid.width / width, grid.height / height
    transform = (a * across, b * down, float(x), d * across, e * down, float(y))
    return Grid(Projection(grid.projection.crs, transform), 0, 0, width, height)


def map_tile(zoom: int, x: int, y: int) -> dict[str, Any]:
    """Grid of a web map tile: 256 pixels of EPSG:3857, counted from the north-west."""
    if not (0 <= zoom <= DEEPEST_ZOOM and 0 <= y < 2**zoom and 0 <= x < 2**zoom):
        raise EmulatorError(f"Map tile zoom/x/y {zoom}/{x}/{y} is out of range.")
    half = math.pi * EARTH.a  # the sphere of EPSG:3857 has the radius of the WGS 84 equator
    side = 2 * half / 2**zoom
    step = side / TILE_PIXELS
    corner = (step, 0.0, x * side - half, 0.0, -step, half - y * side)
    return {
        "crsCode": "EPSG:3857",
        "affineTransform": dict(zip(MATRIX, corner, strict=True)),
        "dimensions": {"width": TILE_PIXELS, "height": TILE_PIXELS},
    }


# ---------------------------------------------------------------- values


def stored(band: Band, grid: Grid) -> Array:
    """Pixels of a band in its type; 0 where masked."""
    out = np.empty(grid.shape, band.type.dtype)
    rows = max(1, BLOCK_PIXELS // grid.width)
    for top in range(0, grid.height, rows):
        block = replace(grid, row=grid.row + top, height=min(rows, grid.height - top))
        values, valid = band.evaluate(block)
        out[top : top + rows] = _typed(np.where(valid, fitted(values, band.type), 0.0), out.dtype)
    return out


def _typed(values: Array, dtype: np.dtype[Any]) -> Array:
    """Convert values to a type whose range contains them; as a float, the largest 64-bit integer is 2**63."""
    if dtype != np.int64:
        return values
    below = values < 2.0**63
    return np.where(below, np.where(below, values, 0.0).astype(np.int64), np.iinfo(np.int64).max)


def fitted(values: Array, kind: PixelType) -> Array:
    """Values within the range of a type."""
    dtype = kind.dtype
    if dtype.kind == "f":
        return values
    limits = np.iinfo(dtype)
    return np.clip(np.trunc(values), float(limits.min), float(limits.max))


@lru_cache(maxsize=256)
def _filled_npy(fields: tuple[tuple[str, str, float], ...], height: int, width: int) -> bytes:
    return npy({name: np.full((height, width), value, dtype) for name, dtype, value in fields})


def _cheap_npy(bands: Sequence[Band], grid: Grid) -> bytes:
    """Pixels for load tests: an asset has one number everywhere, so only the middle pixel is computed."""
    middle = Grid(grid.projection, grid.column + grid.width // 2, grid.row + grid.height // 2, 1, 1)
    token = CHEAP.set(True)
    try:
        values = [stored(band, middle)[0, 0] for band in bands]
    finally:
        CHEAP.reset(token)
    fields = tuple((b.name, b.type.dtype.str, float(v)) for b, v in zip(bands, values, strict=True))
    return _filled_npy(fields, *grid.shape)


def _tiff(bands: Sequence[Band], grid: Grid) -> bytes:
    return geotiff({band.name: stored(band, grid) for band in bands}, grid)


def _zip_per_band(bands: Sequence[Band], grids: Sequence[Grid], prefix: str) -> bytes:
    return zipped({f"{prefix}.{band.name}.tif": _tiff([band], grid) for band, grid in zip(bands, grids, strict=True)})


Writer = Callable[[Sequence[Band], Sequence[Grid], str], bytes]
WRITERS: dict[str, tuple[str, Writer]] = {
    "NPY": (NPY, lambda bands, grids, _: npy({band.name: stored(band, grids[0]) for band in bands})),
    "GEO_TIFF": (TIFF, lambda bands, grids, _: _tiff(bands, grids[0])),
    "ZIPPED_GEO_TIFF": (ZIP, lambda bands, grids, prefix: zipped({f"{prefix}.tif": _tiff(bands, grids[0])})),
    "ZIPPED_GEO_TIFF_PER_BAND": (ZIP, _zip_per_band),
}
"""Format -> content type, and writer of bands (on the grid of the first if they share a file) under a name."""


# ---------------------------------------------------------------- pictures


def picture(bands: Sequence[Band], grid: Grid, options: Mapping[str, Any]) -> bytes:
    """PNG of one band (grey or a palette) or of three; masked pixels are transparent."""
    if len(bands) > 3 and not options:
        bands = bands[:3]
    if len(bands) not in {1, 3}:
        raise EmulatorError(f"Must specify one or three bands to visualize; the image has {len(bands)}.")
    ranges = options.get("ranges") or [{}]
    layers, valid = [], np.ones(grid.shape, bool)
    for k, band in enumerate(bands):
        values, seen = band.evaluate(grid)
        low, high = _limits(ranges[k % len(ranges)], band.type)
        layers.append(np.clip((values - low) / (high - low if high != low else 1), 0, 1))
        valid = least(valid, seen)
    gamma = float((options.get("gamma") or {}).get("value", 1) or 1)
    shares = [layer ** (1 / gamma) for layer in layers]
    palette = options.get("paletteColors")
    colours = palette_colours(palette)(shares[0]) if palette else np.stack(shares, axis=-1) * 255
    return png(np.concatenate([np.round(colours), valid[..., None] * 255.0], axis=-1).astype(np.uint8))


def _limits(range_: Mapping[str, Any], kind: PixelType) -> tuple[float, float]:
    low, high = range_.get("min"), range_.get("max")
    if low is None:
        low = 0 if kind.precision != "int" or kind.low is None else kind.low
    if high is None:
        high = 1 if kind.precision != "int" or kind.high is None else kind.high
    return float(low), float(high)


NAMED_COLOURS = {
    "black": "000000", "white": "ffffff", "red": "ff0000", "green": "008000", "lime": "00ff00", "blue": "0000ff",
    "yellow": "ffff00", "cyan": "00ffff", "magenta": "ff00ff", "gray": "808080", "grey": "808080", "orange": "ffa500",
    "purple": "800080", "brown": "a52a2a",
}  # fmt: skip


def hex_colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue of ``ff0000``, ``#f00`` or ``red``."""
    digits = NAMED_COLOURS.get(text.lower(), text).lstrip("#")
    digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
    try:
        red, green, blue = (int(digits[k : k + 2], 16) for k in (0, 2, 4))
    except ValueError:
        raise EmulatorError(f"Invalid color: '{text}'.") from None
    return red, green, blue


def palette_colours(palette: Sequence[Any]) -> Callable[[Array], Array]:
    """Return the function from shares (0-1) to colours (..., 3), 0-255, between those of a palette."""
    colours = np.array([hex_colour(str(text)) for text in palette], np.float64)
    steps = np.linspace(0, 1, len(colours))
    return lambda share: np.stack([np.interp(share, steps, colours[:, k]) for k in range(3)], axis=-1)
