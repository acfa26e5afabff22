"""``Image.reduceResolution``: coarser pixels, each computed from all the pixels that it covers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.emulator.algorithms.image import Band, Grid, Image, Pixels, Projection, coarsened
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function
from mmearth_data.emulator.server.work import room_for_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data.emulator.algorithms.reducers import Output, Reducer

    Float = NDArray[np.float64]
    Index = NDArray[np.int64]
    Axis = tuple[Index, Float]

NAME = "Image.reduceResolution"


@function("Image.reduceResolution")
def _reduce_resolution(image: Image, reducer: Reducer, bestEffort: bool, maxPixels: int) -> Image:
    """With several inputs, bands are named after the outputs; with one input and one output, bands keep their names."""

    def made(bands: Sequence[Band], output: Output, name: str) -> Band:
        only = replace(reducer, outputs=(output,))
        reduced = bands[output.input].derived(
            lambda grid: _reduced(bands, only, grid, maxPixels, bestEffort), output.type
        )
        return reduced.called(name)

    if reducer.inputs == 1:
        single = len(reducer.outputs) == 1
        return image.with_bands(
            tuple(
                made((band,), output, band.name if single else f"{band.name}_{output.name}")
                for band in image.bands
                for output in reducer.outputs
            )
        )
    if len(image.bands) != reducer.inputs:
        raise EmulatorError(f"{NAME}: Need {reducer.inputs} bands for the reducer, the image has {len(image.bands)}.")
    if len({band.projection for band in image.bands}) > 1:
        raise EmulatorError(f"{NAME}: a reducer of bands with different projections is not emulated; reproject them.")
    return image.with_bands(tuple(made(image.bands, output, output.name) for output in reducer.outputs))


def _reduced(bands: Sequence[Band], reducer: Reducer, grid: Grid, most: int, best_effort: bool) -> Pixels:
    home = bands[0].projection
    if bands[0].composite:  # its own pixels of one degree are never read: each requested pixel is one input
        home = grid.projection
    columns, rows = _overlaps(grid, home)
    while best_effort and _count(columns) * _count(rows) > most:
        home = coarsened(home, 1)
        columns, rows = _overlaps(grid, home)
    if _count(columns) * _count(rows) > most:
        raise EmulatorError(
            f"{NAME}: Too many input pixels per output pixel ({_count(columns) * _count(rows)} > {most}). "
            "Set bestEffort or a larger maxPixels."
        )
    if not reducer.weighted and not all(np.isin(share, (0, 1)).all() for _, share in (columns, rows)):
        raise EmulatorError(
            f"{NAME}: an unweighted output, such as a count, of pixels that are only partly covered is not emulated; "
            "request pixels that consist of whole pixels of the image."
        )
    return _of_blocks(bands, reducer, home, columns, rows)


def _count(axis: Axis) -> int:
    """Maximum number of input pixels under one output pixel, along one axis."""
    return int((axis[1] > 0).sum(axis=1).max())


def _overlaps(grid: Grid, home: Projection) -> tuple[Axis, Axis]:
    """Input pixels under each column and each row of a grid, and the covered share of each."""
    asked = grid.projection
    if asked.crs != home.crs or not (asked.straight and home.straight):
        raise EmulatorError(
            f"{NAME}: pixels of another CRS or direction than those of the image are not emulated; request pixels in "
            f"{home.crs}, or reproject the result there first."
        )
    columns = grid.column + np.arange(grid.width + 1.0)
    rows = grid.row + np.arange(grid.height + 1.0)
    column, _ = home.to_pixels(*asked.to_crs(columns, 0.0))
    _, row = home.to_pixels(*asked.to_crs(0.0, rows))
    return _covered(column), _covered(row)


def _covered(edges: Float) -> Axis:
    """(index, share) of the input pixels between consecutive positions in pixels, (output, input) each."""
    edges = np.round(edges, 6)  # rounding errors of positions must not add pixels
    low, high = np.minimum(edges[:-1], edges[1:])[:, None], np.maximum(edges[:-1], edges[1:])[:, None]
    first = np.floor(low).astype(np.int64)
    index = first + np.arange(int((np.ceil(high) - first).max()))
    return index, np.clip(np.minimum(index + 1, high) - np.maximum(index, low), 0, None)


def _of_blocks(bands: Sequence[Band], reducer: Reducer, home: Projection, columns: Axis, rows: Axis) -> Pixels:
    """Reduce the input pixels of each output pixel, weighted by their masks and the share of it that they cover."""
    (across, width), (down, height) = columns, rows
    left, top = int(across.min()), int(down.min())
    window = Grid(home, left, top, int(across.max()) - left + 1, int(down.max()) - top + 1)
    room_for_pixels(across.size * down.size * len(bands))
    cover = _stacked(height[:, :, None, None] * width)
    share = cover / cover.sum(axis=0)
    at = (down - top)[:, :, None, None], across - left
    stacks = []
    for band in bands:
        values, valid = (_stacked(layer[at]) for layer in band.evaluate(window))
        stacks.append((values, np.where(cover > 0, valid, np.zeros((), valid.dtype))))
    mask = np.minimum.reduce([np.asarray(valid, np.float64) for _, valid in stacks])
    ((found, fine),) = reducer.over(stacks, share * mask)
    return Pixels(found, fine)


def _stacked(blocks: NDArray[Any]) -> NDArray[Any]:
    """Rearrange (row, input row, column, input column) to (input, row, column)."""
    height, down, width, across = blocks.shape
    return blocks.transpose(1, 3, 0, 2).reshape(down * across, height, width)
