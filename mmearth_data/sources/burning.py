"""Label maps: polygons rasterised into the pixels of tiles."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize

from mmearth_data.catalog.modality import Kind
from mmearth_data.catalog.tile import PIXEL_M
from mmearth_data.errors import FileInputError
from mmearth_data.recipes import LabelColumn, file_digest
from mmearth_data.sampling import PlaceColumns
from mmearth_data.sampling.polygon_tiles import tiles_over
from mmearth_data.sampling.polygons import read_labelled_polygons
from mmearth_data.sources.labels.reading import read_columns
from mmearth_data.sources.labels.table import Label
from mmearth_data.sources.opening import options_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.catalog.tile import TileGrid
    from mmearth_data.geography.equal_area import Ints
    from mmearth_data.geography.pieces import Geometries
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.sampling.polygon_tiles import PolygonTiles
    from mmearth_data.sources.base import Survey

KINDS = {"value": Kind.RASTER_CONTINUOUS, "class": Kind.RASTER_CATEGORICAL}
UNLABELLED, AMBIGUOUS = -1, -2
"""Pixels outside all polygons, and pixels in polygons with different labels."""
_RASTERIZING = Lock()
"""Held while rasterio changes the warning filters, which all threads share."""


@dataclass(frozen=True)
class Burner:
    """Burns the polygons of a file; use `open_burner`.

    A copy in another process reads the file again, and refuses one that was changed.

    Attributes
    ----------
    tiles
        The polygons, and which of them each tile has.
    labels
        Labels of the rows of the file.
    touched
        Whether to label all pixels that a polygon touches, rather than those whose centre is inside.
    origin
        Recipe, and names that labels cannot have.
    """

    tiles: PolygonTiles
    labels: tuple[Label, ...]
    touched: bool
    origin: tuple[BuildRecipe, frozenset[str]]

    def __reduce__(self) -> tuple[Any, ...]:
        recipe, taken = self.origin
        return _opened_again, (recipe, taken, self.identity())

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The maps: modalities of kind ``raster/categorical`` or ``raster/continuous``."""
        return tuple(label.modality for label in self.labels)

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user."""
        return tuple(label.note for label in self.labels if label.note)

    def identity(self) -> dict[str, Any]:
        """Everything that determines the maps, JSON-ready and without paths."""
        return {"file": file_digest(self.tiles.polygons.path)} | {
            label.modality.name: label.identity() for label in self.labels
        }

    def read(self, survey: Survey) -> Mapping[str, np.ndarray[Any, Any]]:
        """Modality -> array of one tile, as stored (shape `Modality.array_shape`); safe to call from several threads.

        Pixels outside all polygons, or in polygons with different labels, are no-data.
        """
        index = self.tiles.of_tile(survey.place.tile_id)
        shapes = self.tiles.polygons.around(index, survey.grid)
        rows = self.tiles.polygons.row[index]
        return {label.modality.name: self._burnt(label, shapes, rows, survey.grid) for label in self.labels}

    def _burnt(self, label: Label, shapes: Geometries, rows: Ints, grid: TileGrid) -> NDArray[Any]:
        modality, values = label.modality, label.values[rows]
        found = modality.empty(modality.array_shape(grid.size_px))
        known = np.flatnonzero(modality.observed(values))
        if len(known):
            distinct, rank = np.unique(values[known], return_inverse=True)
            burnt = burn(shapes[known], rank, grid, touched=self.touched)
            found[0][burnt >= 0] = distinct[burnt[burnt >= 0]]
        return found


def open_burner(recipe: BuildRecipe, taken: Collection[str]) -> Burner:
    """Read the polygons of a recipe, and place tiles over them.

    ``taken`` are names that labels cannot have.

    Raises
    ------
    InputError
        When the file, or the description of its labels, cannot be used.
    """
    assert recipe.polygons is not None
    path = recipe.polygons
    columns = [LabelColumn.parse(text).column for text in recipe.labels]
    polygons = read_labelled_polygons(path, columns)
    found = read_columns(path, polygons.table, recipe.labels, recipe.labels_file, taken)
    for column in found:
        if column.content not in KINDS:
            raise FileInputError(
                path,
                f"{column.long_name}: expected one class or value for each polygon, got several; use one "
                f"column per class, or write --label {column.long_name}:class.",
            )
    labels = tuple(Label(column.modality(KINDS[column.content]), column.values, column.note) for column in found)
    labelled = np.any([label.modality.observed(label.values) for label in labels], axis=0)[polygons.row]
    without = int((~labelled).sum())
    notes = (
        [f"{path.name}: {without:,} of {len(polygons):,} polygons have no label and are skipped."] if without else []
    )
    tiles = tiles_over(
        polygons.take(labelled, notes),
        options_of(recipe),
        PlaceColumns(recipe.split_column, recipe.date_column, second_split=recipe.asked_splits),
        touched=recipe.burn == "touched",
    )
    return Burner(tiles, labels, recipe.burn == "touched", (_absolute(recipe), frozenset(taken)))


def burn(shapes: Geometries, rank: Ints, grid: TileGrid, *, touched: bool) -> NDArray[np.int32]:
    """Rasterise polygons into a tile.

    Parameters
    ----------
    shapes
        (n,) polygons in the coordinates of the tile; at least one.
    rank
        (n,) numbers of their labels, from 0.
    grid
        The tile.
    touched
        Whether to label all pixels that a polygon touches, rather than those whose centre is inside.

    Returns
    -------
    ndarray
        (y, x) rank of each pixel, `UNLABELLED` or `AMBIGUOUS`.
    """
    corner = np.array([grid.ulx, grid.uly])
    own = shapely.transform(shapes, lambda points: points - corner)
    order = np.argsort(rank, kind="stable")
    order = order[~shapely.is_empty(own[order])]
    if not len(order):
        return np.full((grid.size_px, grid.size_px), UNLABELLED, dtype=np.int32)
    # The last polygon wins, so that the two passes differ where labels do.
    highest, lowest = (_rasterized(own[way], rank[way], grid.size_px, touched=touched) for way in (order, order[::-1]))
    return np.where(highest == lowest, highest, np.int32(AMBIGUOUS))


def _rasterized(shapes: Geometries, rank: Ints, size_px: int, *, touched: bool) -> NDArray[np.int32]:
    with _RASTERIZING:
        found: NDArray[np.int32] = rasterize(
            zip(shapes, rank.tolist(), strict=True),
            out_shape=(size_px, size_px),
            fill=UNLABELLED,
            transform=Affine(PIXEL_M, 0, 0, 0, -PIXEL_M, 0),
            all_touched=touched,
            dtype="int32",
        )
    return found


def _absolute(recipe: BuildRecipe) -> BuildRecipe:
    """Recipe with absolute paths, for processes with other working folders."""
    files = {name: getattr(recipe, name) for name in ("polygons", "labels_file")}
    return recipe.model_copy(update={name: path.absolute() for name, path in files.items() if path is not None})


def _opened_again(recipe: BuildRecipe, taken: frozenset[str], identity: dict[str, Any]) -> Burner:
    found = open_burner(recipe, taken)
    if found.identity() != identity:
        raise FileInputError(
            recipe.polygons or "",
            "expected the polygons and labels with which the build was started, got others; restore them.",
        )
    return found
