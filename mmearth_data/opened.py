"""A store as users open it: what `mmearth_data.store` reads, with the verbs of the rooms above it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmearth_data.store.reader import Store as StoredTiles

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_data.loading.loader import Loader


class Store(StoredTiles):
    """Tiles of a store, or of a selection of it; see `mmearth_data.store.reader.Store`."""

    def loader(self, **options: Any) -> Loader:
        """Deliver the selected tiles in batches of raw arrays; the options are those of `Loader`.

        Examples
        --------
        >>> train = open_store("planet.zarr").select(split="train")  # doctest: +SKIP
        >>> for batch in train.loader(batch_size=64, seed=0):  # doctest: +SKIP
        ...     batch["sentinel2"].shape
        (64, 13, 64, 64)
        """
        from mmearth_data.loading.loader import Loader

        return Loader(self, **options)

    def plot(self, tile: int | str, path: str | Path | None = None) -> Path:
        """Draw all modalities of one tile as a PNG, as ``mmearth-data inspect --tile --figure`` does.

        Parameters
        ----------
        tile
            Position in the selection, or a tile id of 16 hex digits.
        path
            File to write; by default the tile id and ``.png``, in the current folder.

        Raises
        ------
        InputError
            When there is no such tile, or the picture cannot be written there.
        """
        from mmearth_data.catalog.tile import format_tile_id
        from mmearth_data.inspection.figures import tile_figure

        if path is None:
            path = f"{format_tile_id(int(self.coords['tile_id'][self.position(tile)]))}.png"
        return tile_figure(self, tile, path)


def open_store(path: str | Path) -> Store:
    """Open a store, or what is committed of one that is being built.

    Parameters
    ----------
    path
        Folder of the store.

    Returns
    -------
    Store
        Lazy: values are read when they are asked for.

    Raises
    ------
    InputError
        When there is no store.
    StoreDamaged
        When it does not hold what its records promise, here or on first use of the part in question.
    """
    return Store.open(path)
