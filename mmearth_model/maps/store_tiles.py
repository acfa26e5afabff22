"""Predictions of a network for the tiles of a store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmearth_data import InputError, open_store
from mmearth_model.devices import resolve_device, slice_length
from mmearth_model.evaluation.embedding import unlabelled
from mmearth_model.evaluation.features import check_bands, check_levels
from mmearth_model.maps.jobs import apply_network
from mmearth_model.maps.windows import plan_windows, smooth_ramp, step_of
from mmearth_model.network.pooling import whole_patches
from mmearth_model.tasks import StoreImages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mmearth_data import Store
    from mmearth_model.heads.network import Network

PIXEL_M = 10
"""Side of a pixel of a tile in metres."""
READ_TILES = 32
"""Tiles that are read together."""


@dataclass(frozen=True, slots=True, eq=False)
class StoreTiles:
    """A network and the tiles of a store."""

    network: Network
    store: Store
    device: torch.device

    @classmethod
    def of(cls, network: Network, store: Store, device: str = "auto") -> StoreTiles:
        """Check that a network can be applied to a store.

        Raises
        ------
        InputError
            If the store lacks modalities or bands that the network takes, has another level, or its tiles are too small.
        """
        check_bands(network.normaliser, unlabelled(StoreImages(store)))
        remedy = "tiles; select the others, or train a network on them"
        check_levels(network.normaliser, network.name, store.coords["s2_level"], store.path, remedy)
        if store.layout.size_px < network.patch_px:
            raise InputError(
                f"{store.path}: expected tiles of at least {network.patch_px} px, the network's stride, got "
                f"{store.layout.size_px} px; choose another store."
            )
        return cls(network, store, resolve_device(device))

    @property
    def window_px(self) -> int:
        """Side of the windows that the network is applied to: as in training, or a whole tile if that is smaller."""
        patch = self.network.patch_px
        return min(self.network.window_px, self.store.layout.size_px // patch * patch)

    def per_tile(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.float32]]:
        """Yield (B, K) probabilities or raw quantities of tiles in batches, in their order; tiles are cropped to whole patches."""
        for batch in self._batches(rows):
            images = self.network.normaliser.images(batch, self.device)
            yield self._apply(whole_patches(self.network.encoder, images))

    def per_pixel(self, rows: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
        """Yield a position, (K, S, S) weighted sums of the answers of its windows, and (S, S) sums of their weights.

        Weights fall to nearly zero at the border of a window, and are 0 where nothing was observed; tiles without any
        observed pixel are left out.
        """
        size, window = self.store.layout.size_px, self.window_px
        step = step_of(window, None, self.network.patch_px)
        offsets = plan_windows(size, window, step, align=self.network.patch_px).tolist()
        ramp = smooth_ramp(window).astype(np.float32)
        weight, side = ramp[:, None] * ramp, max(size, offsets[-1] + window)
        places = [(top, left) for top in offsets for left in offsets]
        together, done = max(1, READ_TILES // len(places)), 0
        for batch in self._batches(rows):
            observed = self._observed(batch)
            padded = torch.nn.functional.pad(
                self.network.normaliser.images(batch, self.device), (0, side - size, 0, side - size)
            )
            seen = np.flatnonzero(observed.any(axis=(1, 2)))
            for some in np.array_split(seen, range(together, len(seen), together)):
                cuts = [padded[n, :, y : y + window, x : x + window] for n in some for y, x in places]
                answers = self._apply(torch.stack(cuts)) if cuts else np.zeros((0, 1, window, window), np.float32)
                for position, n in enumerate(some):
                    own = answers[position * len(places) : (position + 1) * len(places)]
                    yield int(rows[done + n]), *_blended(own, places, weight, side, observed[n])
            done += len(observed)

    def _batches(self, rows: NDArray[np.intp]) -> Iterator[Any]:
        return StoreImages(self.store).batches(rows, READ_TILES, self.network.normaliser.stored)

    def _apply(self, images: torch.Tensor) -> NDArray[np.float32]:
        """(N, K, ...) probabilities or raw quantities."""
        parts = torch.split(images, slice_length(self.device, len(images)))
        return np.concatenate([apply_network(self.network, part).numpy() for part in parts])

    def _observed(self, batch: Any) -> NDArray[np.bool_]:  # noqa: ANN401 - a raw batch
        """(B, H, W) where any band that the network sees was observed."""
        modalities = [self.network.normaliser.modalities[name] for name in self.network.normaliser.inputs]
        seen = [
            m.observed(batch[m.name][:, m.band_indices(m.model_bands)]).any(axis=1)
            for m in modalities
            if m.name in batch
        ]
        found: NDArray[np.bool_] = np.logical_or.reduce(seen)
        return found


def _blended(
    answers: NDArray[np.float32],
    places: list[tuple[int, int]],
    weight: NDArray[np.float32],
    side: int,
    seen: NDArray[np.bool_],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sum the answers (N, K, W, W) of the windows of a tile, and their weights, where it was observed."""
    window, size = len(weight), len(seen)
    total = np.zeros((answers.shape[1], side, side), np.float32)
    weights = np.zeros((side, side), np.float32)
    for (top, left), values in zip(places, answers, strict=True):
        at = (slice(top, top + window), slice(left, left + window))
        total[:, *at] += values * weight
        weights[at] += weight
    return total[:, :size, :size] * seen, weights[:size, :size] * seen


def check_grids(store: Store) -> None:
    """Refuse a store without tiles, or with tiles whose grid is unknown, such as imported data."""
    if not len(store):
        raise InputError(f"{store.path}: expected tiles, got none; choose another store.")
    unknown = int((~np.isfinite(store.coords["ulx"]) | ~np.isfinite(store.coords["uly"])).sum())
    if unknown:
        raise InputError(
            f"{store.path}: expected tiles with a known grid for rasters, got {unknown} of {len(store)} without one; build the "
            "store again."
        )


@lru_cache(maxsize=1)
def opened(path: str) -> Store:
    """Open a store, once per process."""
    return open_store(path)
