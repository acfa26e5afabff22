"""The public `Store`: the reader of `mmearth_data.store`, with loaders, data sets and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmearth_data.errors import InputError
from mmearth_data.loading.buffers import plain_memory
from mmearth_data.store.reader import Store as StoredTiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from mmearth_data.inspection.maps import Colour
    from mmearth_data.loading.buffers import Allocate
    from mmearth_data.loading.loader import Loader
    from mmearth_data.loading.tensors import TileSamples
    from mmearth_data.store.selection import TileName


class Store(StoredTiles):
    """Tiles of a store, or of a selection of it; see `mmearth_data.store.reader.Store`."""

    def _repr_html_(self) -> str:
        """HTML overview with a map and pictures of tiles, for notebooks."""
        from mmearth_data.inspection.notebook import store_html

        return store_html(self)

    def loader(
        self,
        *,
        batch_size: int = 64,
        shuffle: bool = True,
        seed: int = 0,
        modalities: Sequence[str] | None = None,
        bands: Mapping[str, Sequence[str]] | None = None,
        normalise: bool = False,
        drop_last: bool = False,
        infinite: bool = False,
        rank: int = 0,
        world_size: int = 1,
        block_tiles: int = 16,
        window_blocks: int = 32,
        threads: int | None = None,
        prefetch: int = 4,
        client: Any = None,  # noqa: ANN401 - distributed has no types
        allocate: Allocate = plain_memory,
    ) -> Loader:
        """Deliver the selected tiles in batches of NumPy arrays as stored; the parameters are those of `Loader`.

        Examples
        --------
        >>> train = open_store("planet.zarr").select(split="train")  # doctest: +SKIP
        >>> for batch in train.loader(batch_size=64, seed=0):  # doctest: +SKIP
        ...     batch["sentinel2"].shape
        (64, 13, 64, 64)
        """
        from mmearth_data.loading.loader import Loader

        return Loader(
            self,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            modalities=modalities,
            bands=bands,
            normalise=normalise,
            drop_last=drop_last,
            infinite=infinite,
            rank=rank,
            world_size=world_size,
            block_tiles=block_tiles,
            window_blocks=window_blocks,
            threads=threads,
            prefetch=prefetch,
            client=client,
            allocate=allocate,
        )

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
            Modality -> bands to deliver, in this order.
        normalise
            Deliver continuous modalities as float32 z-scores, NaN where nothing was observed.
        transform
            Function that is called with each sample; its result is delivered instead.

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

    def plot(self, tile: TileName = 0, path: str | Path | None = None) -> Figure:
        """Draw all modalities of one tile, as ``mmearth-data inspect --tile --figure`` does.

        Parameters
        ----------
        tile
            Id of the tile, or its position in the selection; see `position`.
        path
            File to write too; its suffix selects PNG, PDF or SVG.

        Returns
        -------
        matplotlib.figure.Figure
            Notebooks show it, and `savefig` writes it. pyplot does not manage it, so it need not be closed.

        Raises
        ------
        InputError
            If there is no such tile, or the file cannot be written.
        """
        from mmearth_data.inspection.figures import canvas_of_tile, shown_figure

        return shown_figure(path, lambda: canvas_of_tile(self, tile))

    def plot_map(self, path: str | Path | None = None, *, colour: Colour = "label") -> Figure:
        """Draw a map of the selected tiles, as ``mmearth-data inspect --map`` does.

        Parameters
        ----------
        path
            File to write too; its suffix selects PNG, PDF or SVG.
        colour
            Property that colours the points: ``split``, ``year``, ``level``, ``biome``, or ``label``, the first label whose
            classes have colours.

        Returns
        -------
        matplotlib.figure.Figure
            As from `plot`.

        Raises
        ------
        InputError
            If the file cannot be written, or the store lacks the property.
        """
        from mmearth_data.inspection.figures import shown_figure
        from mmearth_data.inspection.maps import canvas_of_map

        return shown_figure(path, lambda: canvas_of_map(self, colour))


def open_store(path: str | Path) -> Store:
    """Open a store, or the committed shards of one that is being built.

    Parameters
    ----------
    path
        Folder or URL of the store.

    Returns
    -------
    Store
        The store; values are read on access.

    Raises
    ------
    InputError
        If there is no store.
    StoreDamaged
        If its content does not match its records; raised here or on first use of the affected part.
    """
    return Store.open(path)
