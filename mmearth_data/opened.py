"""A store as users open it: what `mmearth_data.store` reads, with the verbs of the rooms above it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmearth_data.errors import InputError
from mmearth_data.store.reader import Store as StoredTiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mmearth_data.loading.loader import Loader
    from mmearth_data.loading.tensors import TileSamples


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

    def torch(
        self,
        *,
        modalities: Sequence[str] | None = None,
        bands: Mapping[str, Sequence[str]] | None = None,
        normalise: bool = False,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> TileSamples:
        """Return the selected tiles as a map-style `torch.utils.data.Dataset`: one tile per position, as tensors.

        Parameters
        ----------
        modalities
            Stored modalities to read; None reads all.
        bands
            Modality -> bands to deliver, in that order.
        normalise
            Deliver continuous modalities as float32 z-scores, NaN where nothing was observed.
        transform
            Called with each sample; its result is delivered instead.

        Returns
        -------
        TileSamples
            Samples with tensors (C, H, W), (C,) or (), uint16 as int32; see `TileSamples`.

        Raises
        ------
        InputError
            If PyTorch is not installed, the selection is empty, or a modality or band is not stored.

        Examples
        --------
        >>> from torch.utils.data import DataLoader
        >>> samples = open_store("planet.zarr").torch(modalities=["sentinel2"])  # doctest: +SKIP
        >>> for batch in DataLoader(samples, batch_size=16, shuffle=True):  # doctest: +SKIP
        ...     batch["sentinel2"].shape, batch["sentinel2"].dtype
        (torch.Size([16, 13, 64, 64]), torch.int32)
        """
        try:
            from mmearth_data.loading.tensors import TileSamples
        except ModuleNotFoundError as error:
            missing = f"Expected the library {error.name}, which tensors require and which is not installed"
            raise InputError(f'{missing}; run: pip install "mmearth[model]"') from error
        return TileSamples(self, modalities=modalities, bands=bands, normalise=normalise, transform=transform)

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
        from mmearth_data.inspection.figures import find_tile, tile_figure

        if path is None:
            path = f"{format_tile_id(int(self.coords['tile_id'][find_tile(self, tile)]))}.png"
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
