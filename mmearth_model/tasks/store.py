"""Labelled tasks cut from a store: what a categorical modality says of each tile."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from mmearth_data import Modality

PREFIX = "store:"


@dataclass(frozen=True, slots=True)
class StoreTask:
    """Name the class of a tile; of a map of classes, the one that covers most of the tile.

    Attributes
    ----------
    modality
        Categorical modality that holds the labels.
    """

    modality: Modality

    @property
    def name(self) -> str:
        """As written on the command line."""
        return f"{PREFIX}{self.modality.name}"

    @property
    def reads(self) -> tuple[str, ...]:
        """Stored modalities that a batch must hold."""
        return (self.modality.name,)

    def conflicts(self, modality: Modality) -> bool:
        """Whether a run that learned this modality has seen the labels, or close kin of them.

        Labels of whole tiles are nested in each other (an ecoregion lies in one biome), and maps of
        classes describe the same ground: categorical modalities of one kind give each other away.
        """
        return modality.kind is self.modality.kind

    def labels(self, batch: Mapping[str, Any]) -> NDArray[np.int64]:
        """Class index of every tile of a raw batch.

        Parameters
        ----------
        batch
            Holds the modality as stored: (B,) or (B, 1, H, W) class codes.

        Returns
        -------
        numpy.ndarray
            (B,) int64, position in ``modality.classes``; -1 where nothing was observed. Of classes that
            cover equal parts the first counts.
        """
        indices: NDArray[np.int64] = self.modality.class_code_index()[batch[self.modality.name]]
        if not self.modality.kind.is_raster:
            return indices
        flat = indices.reshape(len(indices), -1)
        counts = np.stack([(flat == index).sum(axis=1) for index in range(len(self.modality.classes))], axis=1)
        return np.where(counts.any(axis=1), counts.argmax(axis=1), -1).astype(np.int64)


def parse_task(text: str, modalities: Mapping[str, Modality]) -> StoreTask:
    """Task of a name such as ``store:biome``.

    Parameters
    ----------
    text
        ``store:`` and the name of a stored categorical modality.
    modalities
        What the store has.

    Raises
    ------
    InputError
        When the store has no such labels.
    """
    known = {PREFIX + m.name: m for m in modalities.values() if m.stored and _has_labels(m)}
    if text in known:
        return StoreTask(known[text])
    raise InputError(f"--task: expected {_listed(known)}, got {text!r}.{_meant(text, known)}")


def _has_labels(modality: Modality) -> bool:
    return modality.kind in (Kind.TILE_CATEGORICAL, Kind.RASTER_CATEGORICAL)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "a store with labels"


def _meant(text: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(text if ":" in text else PREFIX + text, list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""
