"""Add the labels of a recipe's table to a source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.building.given import own_tiles, surveyed_tiles
from mmearth_data.catalog.modality import PRESENT
from mmearth_data.catalog.tile import tile_ids
from mmearth_data.errors import InputError
from mmearth_data.recipes import file_digest
from mmearth_data.sampling.files import read_rows
from mmearth_data.sampling.places import check_unique, coordinates_of, days_of
from mmearth_data.sampling.published import read_published
from mmearth_data.sources.labelled import LabelledSource
from mmearth_data.sources.labels.reading import read_labels
from mmearth_data.sources.labels.table import LabelTable
from mmearth_data.store.schema import TAKEN_NAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.catalog.modality import Modality
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.sampling.polygon_tiles import PolygonTiles
    from mmearth_data.sources.base import Source
    from mmearth_data.sources.labels.table import Label
    from mmearth_data.store.reader import Store

SHOWN = 3
"""Maximum number of changed labels in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelling:
    """A source, with the labels of a recipe if it has any.

    Attributes
    ----------
    source
        Source of pixels and labels.
    modalities
        Those of the labels.
    notes
        How the columns were interpreted, for the user.
    tiles
        Tiles over the recipe's polygons; None if it has none.
    """

    source: Source
    modalities: tuple[Modality, ...] = ()
    notes: tuple[str, ...] = ()
    tiles: PolygonTiles | None = None


def has_rows(recipe: BuildRecipe) -> bool:
    """Whether rows of the recipe's table have labels or dates, so that rejected rows are reported by their numbers."""
    return recipe.tiles_file is not None and bool(recipe.labels or recipe.date_column)


def with_labels(recipe: BuildRecipe, source: Source, catalog: Catalog) -> Labelling:
    """Read the labels of a recipe's table or polygons, and add them to the tiles of a source.

    Raises InputError if the file or the description of its labels cannot be used.
    """
    if recipe.polygons is not None:
        return _burnt(recipe, source, catalog)
    if recipe.tiles_file is None or not has_rows(recipe):
        return Labelling(source=source)
    taken = _taken(catalog)
    if recipe.source_file is not None:
        table = _labels_of_tiles(recipe, recipe.tiles_file, source, taken)
    else:
        table = _labels_of_places(recipe, recipe.tiles_file, taken)
    labelled = LabelledSource(source, table)
    return Labelling(source=labelled, modalities=labelled.labels, notes=tuple(label.note for label in table.labels))


def _taken(catalog: Catalog) -> set[str]:
    """Names that are not available for labels."""
    return {*catalog.modalities, *TAKEN_NAMES}


def _burnt(recipe: BuildRecipe, source: Source, catalog: Catalog) -> Labelling:
    """Add the label maps of a recipe's polygons to the tiles of a source."""
    from mmearth_data.sources.burning import open_burner

    burner = open_burner(recipe, _taken(catalog))
    labelled = LabelledSource(source, burner=burner)
    notes = (*burner.notes, *burner.tiles.notes)
    return Labelling(source=labelled, modalities=labelled.labels, notes=notes, tiles=burner.tiles)


def _labels_of_places(recipe: BuildRecipe, path: Path, taken: Collection[str]) -> LabelTable:
    """Labels of locations, which are identified by their coordinates."""
    frame = read_rows(path)
    lon, lat = coordinates_of(path, frame)
    ids, rows = tile_ids(lon, lat, recipe.tile_size), frame.index.to_numpy(np.int64)
    dates = None if recipe.date_column is None else days_of(path, frame, recipe.date_column)
    check_unique(path, ids, dates, rows.tolist())
    labels = read_labels(path, frame, recipe.labels, recipe.labels_file, taken)
    return LabelTable(ids, dates, rows, labels)


def _labels_of_tiles(recipe: BuildRecipe, path: Path, source: Source, taken: Collection[str]) -> LabelTable:
    """Labels of the tiles of a source whose sites, ids or points are listed in the table."""
    frame = read_rows(path)
    surveys = surveyed_tiles(source, recipe)
    published = read_published(path, own_tiles(surveys), recipe.split_column)
    chosen = frame.loc[published.lines]
    labels = read_labels(path, chosen, recipe.labels, recipe.labels_file, taken)
    ids = np.array([surveys[position].place.tile_id for position in published.kept], dtype=np.uint64)
    return LabelTable(ids, None, published.lines, labels, needs_land=False)


def refuse_changed_labels(store: Store, recipe: BuildRecipe) -> None:
    """Refuse to resume a store with a table whose labels have changed; InputError with the rows and both values.

    Other differences of the recipe are found when recipes are compared, for which only the digest of the file is known.
    """
    if recipe.tiles_file is None or not recipe.labels or recipe.source_file is not None:
        return
    if store.recipe.get("tiles_file") == file_digest(recipe.tiles_file):
        return
    table = _labels_of_places(recipe, recipe.tiles_file, ())
    lines = [line for label in table.labels for line in _changes(store, table, label)]
    if lines:
        more = f"; {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise InputError(
            f"{store.path}: expected the labels with which this store was started, got others in {recipe.tiles_file} (stored "
            f"-> given): {'; '.join(lines[:SHOWN])}{more}. Restore them, or use another --out."
        )


def _changes(store: Store, table: LabelTable, label: Label) -> Iterator[str]:
    """Rows whose label differs from that of the store; only locations that occur once are compared."""
    m = store.modalities.get(label.modality.name)
    if m is None or m.kind is not label.modality.kind:
        return
    stored = dict(zip(store.coords["tile_id"].tolist(), store.content.column(m.name)[store.rows], strict=True))
    ids, counts = np.unique(table.tile_id, return_counts=True)
    once = set(ids[counts == 1].tolist())
    for tile_id, row, values in zip(table.tile_id.tolist(), table.rows.tolist(), label.values, strict=True):
        if tile_id in once and tile_id in stored:
            before, after = _words(m, stored[tile_id]), _words(label.modality, values)
            if before != after:
                yield f"{m.name} in row {row}: {before} -> {after}"


def _words(m: Modality, values: np.ndarray[Any, Any]) -> str:
    """Label of one tile as text."""
    values = np.asarray(values)
    if not m.observed(values).any():
        return "none"
    if m.kind.is_multi_label:
        return ", ".join(sorted(m.bands[k] for k in np.flatnonzero(values == PRESENT))) or "no class"
    return m.classes[m.class_code_index()[values]].name if m.kind.is_categorical else f"{float(values.item()):g}"
