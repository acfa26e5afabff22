"""Merge several stores into one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import format_tile_id
from mmearth_data.errors import InputError
from mmearth_data.interchange.copying import Copier, cover_recipe, plan_copy
from mmearth_data.interchange.targets import check_finished
from mmearth_data.recipes import differences
from mmearth_data.store.overlaps import overlap_pairs, repeated
from mmearth_data.store.session import NewStore, fill_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data.store.reader import Store
    from mmearth_data.store.storage.protocol import StoreUrl


def merge_stores(
    stores: Sequence[Store],
    out: str | Path | StoreUrl,
    *,
    drop_clashes: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Copy the tiles of several stores into one; see `mmearth_data.merge`."""
    if len(stores) < 2:
        raise InputError(f"Expected at least two stores to merge, got {len(stores)}.")
    for store in stores:
        check_finished(store)
        _check_alike(stores[0], store)
    tiles = _Tiles(stores)
    kept = tiles.without_clashes() if drop_clashes else tiles.all_of_them()
    if len(kept) < len(tiles.row):
        note(
            f"{len(tiles.row) - len(kept)} tiles are left out: an earlier store has them, or has their area in another split."
        )
    rows = [tiles.row[kept[tiles.store[kept] == k]] for k in range(len(stores))]
    first = stores[0].layout
    plan = plan_copy(stores, rows, first.modalities, first.size_px)
    sources: list[Any] = []
    for store in stores:
        if store.source not in sources:
            sources.append(store.source)
    new = NewStore(
        layout=plan.layout,
        recipe={
            "merge": {"of": [store.digest for store in stores], "drop_clashes": drop_clashes},
            **cover_recipe(stores, first.size_px),
        },
        source=sources[0] if len(sources) == 1 else {"name": "merge", "sources": sources},
        synthetic=any(store.synthetic for store in stores),
    )
    fill_store(out, new, Copier(plan).fill, report=report, note=note)


def _check_alike(first: Store, other: Store) -> None:
    """Refuse stores of another tile size or of other modalities.

    Raises
    ------
    InputError
        With the difference and the command that helps.
    """
    if first.layout.size_px != other.layout.size_px:
        smaller = min(first.layout.size_px, other.layout.size_px)
        raise InputError(
            f"{other.path}: expected tiles of {first.layout.size_px} px as in {first.path}, got "
            f"{other.layout.size_px} px; crop the larger ones first: mmearth-data subset --crop {smaller}."
        )
    ours, theirs = ({m.name: m for m in store.layout.modalities} for store in (first, other))
    if ours.keys() != theirs.keys():
        both = ",".join(name for name in ours if name in theirs) or "none"
        raise InputError(
            f"{other.path}: expected the modalities of {first.path} ({', '.join(ours)}), got {', '.join(theirs)}; "
            f"first keep only the modalities that they share: mmearth-data subset --modalities {both}."
        )
    for name, m in ours.items():
        lines = differences(m.definition(), theirs[name].definition())
        if lines:
            raise InputError(
                f"{other.path}: expected {name} as {first.path} describes it, got another description "
                f"({'; '.join(lines)[:300]}); build both with one catalog, or for a label with one --labels-file that gives "
                f"its classes or range, or leave {name} out: mmearth-data subset --modalities."
            )


class _Tiles:
    """Tiles of several stores, in order."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = stores
        self.store = np.repeat(np.arange(len(stores)), [len(store.rows) for store in stores])
        self.row = np.concatenate([store.rows for store in stores])

    def _column(self, name: str) -> np.ndarray[Any, Any]:
        return np.concatenate([store.content.column(name)[store.rows] for store in self._stores])

    def _words(self, position: int) -> str:
        tile_id = self._column("tile_id")[position]
        return f"{format_tile_id(int(tile_id))} in {self._stores[int(self.store[position])].path}"

    def _repeated(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Tiles with the id and time of an earlier one, and that earlier one."""
        return repeated(self._column("tile_id"), self._column("time"))

    def _overlaps(self, kept: NDArray[np.intp]) -> NDArray[np.intp]:
        """(2, pairs) positions of overlapping tiles of different splits, the earlier one first."""
        lon, lat, split = (self._column(name)[kept] for name in ("lon", "lat", "split"))
        pairs = overlap_pairs(lon, lat, split, self._stores[0].layout.size_px)
        found: NDArray[np.intp] = np.sort(kept[pairs], axis=0)
        return found

    def all_of_them(self) -> NDArray[np.intp]:
        """Positions of all tiles.

        Raises
        ------
        InputError
            If a tile occurs twice, or an area is in two splits.
        """
        later, earlier = self._repeated()
        if len(later):
            raise InputError(
                f"Expected stores that share no tile of the same time, got {len(later)}, the first is "
                f"{self._words(int(earlier[0]))} and {self._stores[int(self.store[later[0]])].path}; --drop-clashes "
                "keeps those of the first of the stores."
            )
        kept = np.arange(len(self.row))
        pairs = self._overlaps(kept)
        if pairs.size:
            one, other = (self._words(int(position)) for position in pairs[:, 0])
            raise InputError(
                f"Expected no area in two splits, got overlapping tiles: {one} and {other} (a test tile must not have been "
                "trained on); --drop-clashes leaves out the later ones."
            )
        return kept

    def without_clashes(self) -> NDArray[np.intp]:
        """Positions of tiles that do not clash with an earlier one that is kept."""
        stays = np.ones(len(self.row), dtype=bool)
        stays[self._repeated()[0]] = False
        pairs = self._overlaps(np.flatnonzero(stays))
        for earlier, later in sorted(pairs.T.tolist(), key=lambda pair: (pair[1], pair[0])):
            if stays[earlier]:
                stays[later] = False
        return np.flatnonzero(stays)
