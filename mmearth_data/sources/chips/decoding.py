"""Decode images: JPEG, PNG, TIFF and .npy to arrays of channels."""

from __future__ import annotations

import io
import re
import threading
from contextlib import ExitStack, contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmearth_data.errors import FileInputError, TileUnavailable
from mmearth_data.rasterfile import Raster, marks_synthetic, open_raster, read_raster_window
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

Axes = Literal["NCHW", "NHWC", "NHW"]
UNREADABLE, WRONG_BANDS, WRONG_SIZE = "image_unreadable", "image_bands", "image_size"
"""Reasons for leaving out an image."""
PICTURES = (".jpg", ".jpeg", ".png")
TIFFS = (".tif", ".tiff")
SUFFIXES = (*PICTURES, *TIFFS, ".npy")
MOST_PIXELS = 2**26
"""Larger images are refused before they are decoded, since a file of a few kilobytes can declare a billion pixels."""
TAG_ITEM = re.compile(rb'<Item name="synthetic">([^<]*)</Item>')
"""The mark as GDAL writes it, in plain text, to tag 42112 of a TIFF (GDAL's GTiff driver, "Metadata")."""
FILTERS = threading.Lock()
"""Held while Python's warning filters, which the whole process shares, are changed."""
DEEP_PNG = 24
"""Position of the bit depth in a PNG file (PNG specification, 11.2.2 IHDR)."""
PLANES: Mapping[str, str] = {"1": "L", "L": "L", "P": "P", "I;16": "I;16", "I": "I", "F": "F"} | {
    mode: mode for mode in ("LA", "RGB", "RGBA")
}
"""Pillow modes whose values are those of the file."""


def decode(data: bytes, name: str, planes: int, axes: Axes | None = None) -> Raster:
    """Decode one image.

    Parameters
    ----------
    data
        Content of the file.
    name
        Its name; the suffix is its format.
    planes
        Expected number of planes: an image with a palette has one (the index) or three (its colours).
    axes
        Axes of .npy files, with an N for the image itself.

    Raises
    ------
    TileUnavailable
        ``image_unreadable`` or ``image_bands``.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".npy":
        raster = Raster.of(to_planes(_array(data, name), planes, axes, name))
    elif suffix in PICTURES and not (data[1:4] == b"PNG" and data[DEEP_PNG : DEEP_PNG + 1] == b"\x10"):
        raster = Raster.of(_picture(data, name, planes))
    else:
        raster = _with_gdal(data, name)
    if len(raster.values) != planes:
        problem = (
            f"{name}: expected {planes} channels as listed in bands, got {len(raster.values)}; null skips a channel"
        )
        raise TileUnavailable(WRONG_BANDS, problem)
    return raster


def unreadable(name: str, reason: str) -> TileUnavailable:
    """Refusal of an image that cannot be read."""
    return TileUnavailable(UNREADABLE, f"{name}: {reason}")


def to_planes(values: NDArray[Any], planes: int, axes: Axes | None, name: str) -> NDArray[Any]:
    """(C, H, W) view of the array of one image; TileUnavailable if its axes do not fit the number of planes."""
    if values.dtype.kind not in "iufb":
        raise unreadable(name, f"expected integers or floating-point numbers, got {values.dtype}")
    inner = axes_of(values.shape, planes, axes)
    if inner is None:
        problem = (
            f"{name}: expected an image of {planes} channels in {axes or 'axes CHW, HWC or HW'}, got {values.shape}"
        )
        raise TileUnavailable(WRONG_BANDS, problem)
    plain = values.view(np.uint8) if values.dtype.kind == "b" else values
    return {"NHW": lambda: plain[None], "NCHW": lambda: plain, "NHWC": lambda: np.moveaxis(plain, -1, 0)}[inner]()


def axes_of(shape: tuple[int, ...], planes: int, axes: Axes | None) -> Axes | None:
    """Axes of an array of one image of the given shape; None if it has other axes, or may have several.

    Examples
    --------
    >>> axes_of((64, 64, 3), 3, None), axes_of((3, 64, 64), 3, None), axes_of((3, 64, 3), 3, None)
    ('NHWC', 'NCHW', None)
    """
    fitting: dict[Axes, bool] = {
        "NHW": len(shape) == 2 and planes == 1,
        "NCHW": len(shape) == 3 and shape[0] == planes,
        "NHWC": len(shape) == 3 and shape[-1] == planes,
    }
    found = [known for known, fits in fitting.items() if fits and axes in (None, known)]
    return found[0] if len(found) == 1 else None


def _array(data: bytes, name: str) -> NDArray[Any]:
    try:
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(name, reason_of(error)) from None


def _picture(data: bytes, name: str, planes: int) -> NDArray[Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > MOST_PIXELS:
                raise unreadable(name, f"expected at most {MOST_PIXELS} pixels, got {image.width} x {image.height}")
            if image.mode not in PLANES:
                raise unreadable(name, f"expected grey, colour or palette, got the mode {image.mode}; convert it")
            palette = image.mode == "P" and planes > 1
            values = np.asarray(image.convert("RGB" if planes == 3 else "RGBA") if palette else image)
    except UnidentifiedImageError:
        raise unreadable(name, "expected JPEG or PNG, got another format") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise unreadable(name, reason_of(error)) from None
    values = values.astype(np.uint8) if values.dtype == np.bool_ else values
    return values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)


def is_marked_synthetic(data: bytes, name: str) -> bool:
    """Whether a tag of a TIFF marks its pixels as synthetic; False for other formats."""
    item = TAG_ITEM.search(data) if name.lower().endswith(TIFFS) else None
    return item is not None and marks_synthetic({"synthetic": item[1].decode("ascii", "replace")})


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence rasterio's warning about files without georeferencing, one thread at a time: they share the filters."""
    import warnings

    from rasterio.errors import NotGeoreferencedWarning

    with FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _with_gdal(data: bytes, name: str) -> Raster:
    from rasterio.io import MemoryFile

    try:
        with MemoryFile(data) as memory, ExitStack() as stack:
            with _without_warnings():
                dataset = stack.enter_context(open_raster(memory.name, name))
            if dataset.width * dataset.height > MOST_PIXELS:
                raise unreadable(name, f"expected at most {MOST_PIXELS} pixels, got {dataset.width} x {dataset.height}")
            return read_raster_window(dataset)
    except FileInputError as error:
        raise unreadable(name, error.problem.rstrip(".")) from None
