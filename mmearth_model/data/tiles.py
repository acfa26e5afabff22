"""Batches, single tiles and stores as checked batches of stored values, for an encoder.

A batch that is already normalised or lacks bands would produce wrong features without an error, so it is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch

from mmearth_data import InputError, Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mmearth_data import Modality

    Values = np.ndarray[Any, Any] | torch.Tensor

Tiles: TypeAlias = "Mapping[str, Any] | Store | Located"
"""A batch (arrays or tensors), one sample of a batch, a store, or a tile from `Store.tile`."""


@runtime_checkable
class Located(Protocol):
    """A tile that refers to a row of a store."""

    @property
    def store(self) -> Store:
        """Store that contains the tile."""
        ...

    @property
    def row(self) -> int:
        """Row of the tile in the store."""
        ...


READ_TILES = 64
"""Number of tiles of a store that are read together."""
LEVEL = "s2_level"
"""Coordinate with the product level of a tile."""
TAKES = "a batch of Store.loader, TileDataset or Store.torch, one tile, or a store (store[:16]), with values as stored"


def stored_batches(tiles: Tiles, inputs: Sequence[Modality], known: Iterable[Modality]) -> Iterator[dict[str, Any]]:
    """Yield the stored values that an encoder takes, a batch at a time.

    Parameters
    ----------
    tiles
        See `Tiles`; values as stored (int32 is accepted for uint16), on any device.
    inputs
        Modalities that the encoder takes.
    known
        Modalities whose stored type is known, by which normalised batches are recognised.

    Yields
    ------
    dict
        Input modality -> (B, C, H, W) array or tensor of all stored bands; ``tile`` -> ``s2_level``, (B,).

    Raises
    ------
    InputError
        If an input of the encoder is missing or not as stored.
    """
    if isinstance(tiles, Located):
        tiles = tiles.store.select(where=tiles.store.rows == tiles.row)
    if isinstance(tiles, Store):
        _check_store(tiles, inputs)
        names = [m.name for m in inputs]
        for batch in tiles.loader(batch_size=READ_TILES, shuffle=False, modalities=names):
            yield _chosen(batch, inputs)
    elif isinstance(tiles, Mapping):
        _check_names(tiles, inputs)
        _check_arrays(tiles, inputs)
        _check_types(tiles, known)
        yield _chosen(tiles, inputs)
    else:
        shape = f" of shape {tuple(tiles.shape)}" if isinstance(tiles, np.ndarray | torch.Tensor) else ""
        raise InputError(
            f"expected {TAKES}, got {type(tiles).__name__}{shape}; pass normalised images to the encoder itself: "
            "encoder(images)."
        )


def _chosen(batch: Mapping[str, Any], inputs: Sequence[Modality]) -> dict[str, Any]:
    """Select the inputs of a batch, or of one tile, which becomes a batch of one."""
    single = batch[inputs[0].name].ndim == 3  # (C, H, W)
    found: dict[str, Any] = {m.name: batch[m.name][None] if single else batch[m.name] for m in inputs}
    for m in inputs:
        _check_shape(m, found[m.name], found[inputs[0].name])
    levels = batch.get("tile", {}).get(LEVEL)
    if levels is None and any(m.statistics_by == LEVEL for m in inputs):
        raise InputError(
            f"expected batch['tile']['{LEVEL}'], the product level of each tile, on which the statistics depend, got none; "
            "keep the entry 'tile' of the batch."
        )
    found["tile"] = {} if levels is None else {LEVEL: _column(levels)}
    return found


def _column(levels: Any) -> Values:  # noqa: ANN401 - an array, a tensor or a number
    return levels.reshape(-1) if isinstance(levels, torch.Tensor) else np.asarray(levels).reshape(-1)


def _check_names(batch: Mapping[str, Any], inputs: Sequence[Modality]) -> None:
    missing = [m.name for m in inputs if m.name not in batch]
    if missing:
        raise InputError(
            f"expected a batch with {', '.join(missing)}, which the encoder takes, got {', '.join(map(str, batch))}; load "
            f"{'it' if len(missing) == 1 else 'them'} too."
        )


def _check_arrays(batch: Mapping[str, Any], inputs: Sequence[Modality]) -> None:
    for m in inputs:
        values = batch[m.name]
        if not isinstance(values, np.ndarray | torch.Tensor):
            raise InputError(f"expected {m.name} as an array or a tensor, got {type(values).__name__}; give {TAKES}.")
    if not isinstance(batch.get("tile", {}), Mapping):
        raise InputError(f"expected batch['tile'] as coordinates by name, got {type(batch['tile']).__name__}.")


def _check_types(batch: Mapping[str, Any], known: Iterable[Modality]) -> None:
    """Refuse a batch in which an integer modality is a float, since the loader normalises all modalities or none."""
    for m in known:
        values = batch.get(m.name)
        if isinstance(values, np.ndarray | torch.Tensor) and m.dtype.kind in "iu" and _is_float(values):
            raise InputError(
                f"expected {m.name} as stored ({m.dtype.name}), got {_type(values)}, so the batch is probably normalised; load "
                "it without normalise=True, since the encoder normalises by its own statistics."
            )


def _is_float(values: Values) -> bool:
    return values.is_floating_point() if isinstance(values, torch.Tensor) else values.dtype.kind == "f"


def _type(values: Values) -> str:
    return str(values.dtype).removeprefix("torch.")


def _check_shape(m: Modality, values: Values, first: Values) -> None:
    if values.ndim != 4 or values.shape[1] != len(m.bands):  # (B, C, H, W)
        raise InputError(
            f"expected {m.name} with all {len(m.bands)} stored bands ({', '.join(m.bands)}), from which the encoder selects "
            f"its own, got shape {tuple(values.shape)}; load it without bands=."
        )
    if values.shape[0] != first.shape[0] or values.shape[2:] != first.shape[2:]:
        raise InputError(
            f"expected inputs of the same tiles and size, got {tuple(first.shape)} and {tuple(values.shape)} of {m.name}; "
            "take both from one batch."
        )


def _check_store(store: Store, inputs: Sequence[Modality]) -> None:
    for m in inputs:
        found = store.modalities.get(m.name)
        if found is None:
            raise InputError(
                f"{store.path}: expected {m.name}, which the encoder takes, got {', '.join(store.modalities)}; select it "
                "too, or choose another store or encoder."
            )
        if found.bands != m.bands or found.dtype != m.dtype:
            raise InputError(
                f"{store.path}: expected {m.name} as the encoder knows it ({', '.join(m.bands)}; {m.dtype}), got "
                f"{', '.join(found.bands)}; {found.dtype}; use the same catalog entry."
            )
