"""Files made from a dense embedding: a picture of its principal components, and maps of similarity to a location."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data import make_folder, staged_stream
from mmearth_model.maps.blocks import Block, WorkFolder
from mmearth_model.maps.components import fit_components, picture_of
from mmearth_model.maps.raster import RasterForm, RasterGrid, write_cog
from mmearth_model.maps.similarity import find_place, similarity_map

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from mmearth_model.maps.vectors import VectorGrid, Vectors

PICTURE_PX = 800
"""Pixels along the longer side of a PNG that a smaller picture is enlarged to, at least."""
COLOURS = ("red", "green", "blue")


def files_of(fields: Sequence[Vectors], path: Path) -> tuple[Path, ...]:
    """File of each grid: the path, or NAME-EPSG of several grids."""
    if len(fields) == 1:
        return (path,)
    return tuple(path.with_name(f"{path.stem}-{field.name}{path.suffix}") for field in fields)


def write_picture(fields: Sequence[Vectors], path: str | Path) -> tuple[Path, ...]:
    """Draw the first three principal components as red, green and blue; the same for all grids.

    Parameters
    ----------
    fields
        Vectors of `mmearth_model.embed_dense` or `mmearth_model.open_vectors`.
    path
        x.png, or x.tif, which is georeferenced.

    Returns
    -------
    tuple
        One file per grid.

    Raises
    ------
    InputError
        If fewer than two positions have data.
    """
    components = fit_components(fields)
    files = files_of(fields, Path(path))
    for field, file in zip(fields, files, strict=True):
        picture = picture_of(field, components)
        if file.suffix == ".png":
            _write_png(picture, file)
        else:
            opaque = np.where(picture[3], np.maximum(picture[:3], 1), 0).astype(np.uint8)
            _write_map(file, field.grid, opaque, RasterForm(bands=COLOURS, dtype="uint8", nodata=0, scale=1.0))
    return files


def _write_png(picture: NDArray[np.uint8], path: Path) -> None:
    from PIL import Image

    times = max(1, PICTURE_PX // max(picture.shape[1:]))
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    with staged_stream(path) as stream:
        image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST).save(stream, "PNG")


def write_similarity(
    fields: Sequence[Vectors], lon: float, lat: float, path: str | Path, tags: Mapping[str, str] | None = None
) -> tuple[Path, ...]:
    """Map the cosine similarity of every vector to that at a location.

    Parameters
    ----------
    fields
        Vectors of `mmearth_model.embed_dense` or `mmearth_model.open_vectors`.
    lon, lat
        Location in degrees (EPSG:4326).
    path
        x.tif: float32 from -1 to 1, NaN without data.
    tags
        Facts for readers of the file.

    Returns
    -------
    tuple
        One file per grid.

    Raises
    ------
    InputError
        If the location is outside all grids or has no data.
    """
    query = find_place(fields, lon, lat)
    files = files_of(fields, Path(path))
    form = RasterForm(
        bands=("cosine similarity",),
        dtype="float32",
        nodata=np.nan,
        units=("1",),
        tags={**(tags or {}), "query": f"{lon},{lat}"},
    )
    for field, file in zip(fields, files, strict=True):
        _write_map(file, field.grid, similarity_map(field, query)[None], form)
    return files


def _write_map(path: Path, grid: VectorGrid, values: NDArray[Any], form: RasterForm) -> None:
    """Write (bands, rows, columns) values of a grid as a cloud-optimised GeoTIFF."""
    placed = RasterGrid(crs=grid.crs.to_wkt(), transform=grid.transform[:6], height=grid.shape[0], width=grid.shape[1])

    def blocks() -> Iterator[tuple[Block, NDArray[Any]]]:
        yield Block(0, 0, *grid.shape), values

    work = WorkFolder.beside(path)
    make_folder(work.path)
    try:
        write_cog(path, work.path, form, placed, blocks)
    finally:
        work.remove()
