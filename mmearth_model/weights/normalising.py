"""Statistics of a store for weights that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmearth_data import InputError, load_catalog
from mmearth_model.data.targets import Normaliser, cut_bands

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmearth_data import Modality, Store
    from mmearth_model.weights.conversion import Imported


def normaliser_of(store: Store, found: Imported, seen: Mapping[str, Sequence[str]]) -> Normaliser:
    """Return a normaliser with the statistics of a store; the number of bands must match the input of the weights.

    ``seen`` maps modalities to the bands that the weights take, instead of those of the store's catalog entries.
    """
    known: dict[str, Modality] = {**load_catalog().modalities, **store.modalities}
    for name, chosen in seen.items():
        if name not in store.modalities:
            raise InputError(
                f"--bands: expected a modality of {store.path} ({', '.join(store.modalities)}), got {name}."
            )
        known[name] = cut_bands(store.modalities[name], chosen)
    inputs = [known[name] for name, m in store.modalities.items() if m.input]
    bands = sum(len(m.model_bands) for m in inputs)
    if bands != found.encoder.in_channels:
        raise InputError(
            f"{store.path}: expected inputs of {found.encoder.in_channels} bands, as the weights take, got {bands} "
            f"({', '.join(m.name for m in inputs)}); name them with --bands (in Python, bands=), or leave the store "
            "out and normalise the images yourself."
        )
    tasks = [] if found.model is None else [task.name for task in found.model.tasks]
    used = [known[name] for name in dict.fromkeys([*(m.name for m in inputs), *tasks])]
    return Normaliser.of_preset("reference", used, store.statistics, inputs=[m.name for m in inputs], targets=tasks)


def with_statistics(normaliser: Normaliser, store: Store) -> Normaliser:
    """Return a normaliser of the same input with the statistics of another store."""
    modalities = [normaliser.modalities[name] for name in normaliser.inputs]
    missing = [m.name for m in modalities if m.name not in store.modalities]
    if missing:
        raise InputError(
            f"{store.path}: expected {', '.join(missing)}, which the encoder takes, got {', '.join(store.modalities)}; "
            "choose another store."
        )
    return Normaliser(modalities, store.statistics, inputs=normaliser.inputs)
