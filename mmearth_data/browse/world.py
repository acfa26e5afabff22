"""Data shared by all visits to a page: the store, its index, the pictures of its tiles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mmearth_data.browse.embeddings import Neighbours, beside, read_neighbours
from mmearth_data.browse.facets import Facet, facets_of
from mmearth_data.browse.index import TileIndex
from mmearth_data.browse.pictures import Pictures
from mmearth_data.errors import InputError
from mmearth_data.words import short_path

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_data.store import Store


@dataclass(frozen=True, kw_only=True)
class World:
    """A store as the page shows it.

    Attributes
    ----------
    store
        The store, which may be unfinished.
    index
        Quantities of its tiles.
    pictures
        Pictures of its tiles.
    neighbours
        Embeddings of its tiles, None if there are none.
    """

    store: Store
    index: TileIndex
    pictures: Pictures
    neighbours: Neighbours | None

    @classmethod
    def of(cls, store: Store, embeddings: Path | None = None) -> World:
        """Read what the page needs.

        Parameters
        ----------
        store
            An open store.
        embeddings
            File of ``mmearth-train embed``; by default the one next to the store, if there is one.

        Raises
        ------
        InputError
            If the store has no tile, or the file of embeddings cannot be used.
        StoreDamaged
            If the store does not match its records.
        """
        index = TileIndex.of(store)
        if not len(index):
            state = "without tiles" if store.finished else "in which no tile is committed yet; try again later"
            raise InputError(f"{store.path}: expected a store with tiles, got one {state}.")
        path = embeddings or beside(str(store.path))
        neighbours = None if path is None else read_neighbours(path, index)
        return cls(store=store, index=index, pictures=Pictures(store), neighbours=neighbours)

    @cached_property
    def facets(self) -> tuple[Facet, ...]:
        """Lists of choices by which tiles are filtered and coloured."""
        return facets_of(self.index)

    @property
    def name(self) -> str:
        """Name of the store for use in a command."""
        return short_path(str(self.store.path))

    @property
    def notes(self) -> tuple[str, ...]:
        """Notices about the store for users of the page."""
        notes = []
        if not self.store.finished:
            rows = self.store.layout.tiles
            notes.append(
                f"This store is not finished: the page shows the {len(self.index):,} tiles of {rows:,} rows that were "
                "committed when the page was started. mmearth-data subset requires a finished store."
            )
        if not self.index.ids_are_unique:
            notes.append(
                "Some tile ids occur with several dates; the page numbers them by time (ID.1, ID.2, ...); a subset by ids "
                "includes all dates of an id."
            )
        return tuple(notes)
