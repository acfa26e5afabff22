"""Give a source the labels of a recipe's table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.building.given import own_tiles, surveyed_tiles
from mmearth_data.catalog.tile import tile_ids
from mmearth_data.sampling.files import read_rows
from mmearth_data.sampling.places import check_unique, coordinates_of, days_of
from mmearth_data.sampling.published import read_published
from mmearth_data.sources.labelled import LabelledSource
from mmearth_data.sources.labels.reading import read_labels
from mmearth_data.sources.labels.table import LabelTable
from mmearth_data.store.schema import COORDINATE_NAMES, RESERVED_NAMES

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.catalog.modality import Modality
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.sources.base import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelling:
    """A source, with the labels of a recipe if it has any.

    Attributes
    ----------
    source
        Delivers pixels and labels.
    modalities
        Those of the labels.
    notes
        How the columns were interpreted, for the user.
    """

    source: Source
    modalities: tuple[Modality, ...] = ()
    notes: tuple[str, ...] = ()


def has_rows(recipe: BuildRecipe) -> bool:
    """Whether rows of the recipe's table are labelled or dated, so that rejected ones are reported by their numbers."""
    return recipe.tiles_file is not None and bool(recipe.labels or recipe.date_column)


def with_labels(recipe: BuildRecipe, source: Source, catalog: Catalog) -> Labelling:
    """Read the labels of a recipe's table, and give them to the tiles of a source.

    Raises FileInputError if the table or the description of its labels cannot be used.
    """
    if recipe.tiles_file is None or not has_rows(recipe):
        return Labelling(source=source)
    taken = {*catalog.modalities, *COORDINATE_NAMES, *RESERVED_NAMES}
    if recipe.source_file is not None:
        table = _labels_of_tiles(recipe, recipe.tiles_file, source, taken)
    else:
        table = _labels_of_places(recipe, recipe.tiles_file, taken)
    labelled = LabelledSource(source, table)
    return Labelling(source=labelled, modalities=labelled.labels, notes=tuple(label.note for label in table.labels))


def _labels_of_places(recipe: BuildRecipe, path: Path, taken: Collection[str]) -> LabelTable:
    """Labels of locations, which are found by their coordinates."""
    frame = read_rows(path)
    lon, lat = coordinates_of(path, frame)
    ids, rows = tile_ids(lon, lat, recipe.tile_size), frame.index.to_numpy(np.int64)
    dates = None if recipe.date_column is None else days_of(path, frame, recipe.date_column)
    check_unique(path, ids, dates, rows.tolist())
    labels = read_labels(path, frame, recipe.labels, recipe.labels_file, taken)
    return LabelTable(ids, dates, rows, labels)


def _labels_of_tiles(recipe: BuildRecipe, path: Path, source: Source, taken: Collection[str]) -> LabelTable:
    """Labels of the tiles of a source, of which the table names the sites, ids or points."""
    frame = read_rows(path)
    surveys = surveyed_tiles(source, recipe)
    published = read_published(path, own_tiles(surveys), recipe.split_column)
    chosen = frame.loc[published.lines]
    labels = read_labels(path, chosen, recipe.labels, recipe.labels_file, taken)
    ids = np.array([surveys[position].place.tile_id for position in published.kept], dtype=np.uint64)
    return LabelTable(ids, None, published.lines, labels, needs_land=False)
