"""Training plan: a recipe resolved for a store and checked, before anything is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmearth_data import InputError, closest, published_statistics
from mmearth_model.data.targets import cut_bands
from mmearth_model.network.encoder import SIZES, EncoderConfig
from mmearth_model.network.masking import visible_patches
from mmearth_model.network.mpmae import MPMAEConfig, tasks_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from mmearth_data import Modality, Store
    from mmearth_model.training.recipe import TrainRecipe

SPLIT = "train"
CROP_OF_TILE = 7 / 8
"""56 px of 64, 112 px of 128: the paper's crops."""
PATCHES_ACROSS = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainPlan:
    """A recipe, resolved for a store.

    Attributes
    ----------
    recipe
        Its options.
    inputs
        Modalities that feed the encoder.
    pretext
        Modalities that are predicted.
    image_size, patch_size
        Side of the crop and of a patch, in pixels.
    tile_size
        Side of the store's tiles, in pixels.
    tiles
        Training tiles.
    steps_per_epoch
        Optimiser steps; tiles that do not fill a batch are left out, different ones in each epoch.
    """

    recipe: TrainRecipe
    inputs: tuple[Modality, ...]
    pretext: tuple[Modality, ...]
    image_size: int
    patch_size: int
    tile_size: int
    tiles: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps_per_epoch * self.recipe.epochs

    @property
    def patches(self) -> int:
        """Patches of a crop."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def visible(self) -> int:
        """Patches of a crop that the encoder sees."""
        return visible_patches(self.patches, self.recipe.mask_ratio)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """All modalities in use, inputs first, each once."""
        return tuple({m.name: m for m in (*self.inputs, *self.pretext)}.values())

    @property
    def reads(self) -> tuple[str, ...]:
        """Stored modalities that a batch must hold."""
        return tuple(m.name for m in self.modalities if m.stored)

    def model_config(self) -> MPMAEConfig:
        """Shape of the model."""
        recipe = self.recipe
        encoder = EncoderConfig(
            size=recipe.size,
            stem=recipe.stem,
            depths=recipe.depths,
            widths=recipe.widths,
            drop_path=recipe.drop_path,
            patch_size=self.patch_size,
            image_size=self.image_size,
            in_channels=sum(len(m.model_bands) for m in self.inputs),
        )
        changes: dict[str, Any] = {"decoder_dim": recipe.decoder_dim, "decoder_depth": recipe.decoder_depth}
        changes |= {field: value for field in ("decoder", "init") if (value := getattr(recipe, field)) is not None}
        return MPMAEConfig.of_preset(recipe.preset, encoder, tasks_of(self.pretext, recipe.preset), **changes)

    def learning_rate(self, step: int) -> float:
        """Learning rate of an optimiser step, counted from 0: linear warm-up, then half a cosine down to ``min_lr``."""
        recipe = self.recipe
        if recipe.schedule == "released":
            epoch, warm, end = self.epoch_before(step), recipe.warmup * recipe.epochs, float(recipe.epochs)
            return recipe.peak_lr * epoch / warm if epoch < warm else self._cosine((epoch - warm) / (end - warm))
        warm = round(recipe.warmup * self.steps)
        if step < warm:
            return recipe.peak_lr * (step + 1) / warm
        return self._cosine((step - warm) / max(1, self.steps - warm))

    def epoch_before(self, step: int) -> float:
        """Epochs completed before a step, counted in micro-batches as in the released code.

        Micro-batches that do not fill a batch count towards the length of an epoch, although they are left out.
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        return epoch + within * self.recipe.accumulate / (self.tiles // self.recipe.micro_batch)

    def _cosine(self, progress: float) -> float:
        low, high = self.recipe.min_lr, self.recipe.peak_lr
        return low + (high - low) * 0.5 * (1 + math.cos(math.pi * progress))

    def describe(self) -> dict[str, Any]:
        """Describe the plan for users, JSON-ready."""
        recipe, model = self.recipe, self.model_config()
        return {
            "tiles": self.tiles,
            "tile_size": self.tile_size,
            "inputs": {m.name: list(m.model_bands) for m in self.inputs},
            "tasks": [m.name for m in self.pretext],
            "preset": recipe.preset,
            "decoder": model.decoder,
            "init": model.init,
            "weighting": recipe.weighting,
            "statistics": recipe.statistics,
            "encoder": _named(model.encoder, self),
            "depths": list(model.encoder.depths or ()),
            "widths": list(model.encoder.widths or ()),
            "visible_patches": self.visible,
            "epochs": recipe.epochs,
            "steps": self.steps,
            "batch_size": recipe.batch_size,
            "device_batch": recipe.micro_batch,
            "accumulate": recipe.accumulate,
            "peak_lr": recipe.peak_lr,
            "schedule": recipe.schedule,
            "precision": recipe.precision,
            "flips": recipe.flips,
            "seed": recipe.seed,
            "figure_epochs": recipe.figure_epochs,
            "loggers": list(recipe.loggers),
        }


def _named(encoder: EncoderConfig, plan: TrainPlan) -> str:
    """Size of an encoder, by name or by its depths and widths, with its crops and patches."""
    own = (encoder.depths, encoder.widths) != SIZES[encoder.size]
    numbers = " and ".join(
        f"{name} {'-'.join(map(str, values or ()))}"
        for name, values in (("depths", encoder.depths), ("widths", encoder.widths))
    )
    size = f"of its own ({numbers})" if own else encoder.size
    return f"{size}, {plan.image_size} px crops in {plan.patch_size} px patches"


def plan_training(store: Store, recipe: TrainRecipe) -> TrainPlan:
    """Resolve a recipe for a store.

    Raises
    ------
    InputError
        If the store is not finished, lacks modalities that training needs, has tiles smaller than the crop, or has fewer
        training tiles than a batch.
    """
    if not store.finished:
        raise InputError(
            f"{store.path}: expected a finished store, got one that is being built; finish the build first."
        )
    chosen = choose_modalities(store.path, store.modalities, recipe)
    inputs = tuple(m for m in chosen if m.input)
    pretext = tuple(m for m in chosen if m.pretext)
    _check_roles(store.path, store.modalities, inputs, pretext)
    statistics_in_force(store, recipe, (*inputs, *pretext))
    tile_size = store.layout.size_px
    image_size, patch_size = _crop(store.path, tile_size, recipe)
    patches = (image_size // patch_size) ** 2
    if visible_patches(patches, recipe.mask_ratio) == patches and all(m.kind.is_raster for m in pretext):
        raise InputError(
            f"--mask-ratio: expected a ratio that hides at least one of {patches} patches, since the loss of maps is computed "
            f"over hidden patches only, got {recipe.mask_ratio:g}; raise it, or add a modality with values per tile."
        )
    tiles = len(store.select(split=SPLIT))
    if tiles < recipe.batch_size:
        raise InputError(
            f"{store.path}: expected at least one batch of {recipe.batch_size} tiles in the split {SPLIT}, got {tiles}; "
            f"lower --batch-size, or build more tiles."
        )
    return TrainPlan(
        recipe=recipe,
        inputs=inputs,
        pretext=pretext,
        image_size=image_size,
        patch_size=patch_size,
        tile_size=tile_size,
        tiles=tiles,
        steps_per_epoch=tiles // recipe.batch_size,
    )


def statistics_in_force(store: Store, recipe: TrainRecipe, modalities: Iterable[Modality]) -> Mapping[str, Any]:
    """Return the statistics a recipe normalises by, ``[split][modality][level or "-"][band]`` -> ``{count, mean, ...}``.

    Raises `InputError` when published statistics are requested and the store has none, or none for a modality.
    """
    if recipe.statistics == "store":
        return store.statistics
    return published_statistics(store, [m.name for m in modalities if m.kind.is_continuous])


def choose_modalities(path: Path | str, available: Mapping[str, Modality], recipe: TrainRecipe) -> tuple[Modality, ...]:
    """Select the modalities of a store that a recipe uses, in the store's order, with their roles in it.

    Raises `InputError` when a name is not in the store, or a band not in a modality.
    """
    for option, names in (("--modalities", recipe.modalities or ()), ("--exclude", recipe.exclude)):
        for name in names:
            if name not in available:
                close = closest(name, available)
                meant = f" (did you mean {close[0]}?)" if close else ""
                raise InputError(f"{option}: {path} has no {name}{meant}; it has {_list(available)}.")
    wanted = available if recipe.modalities is None else recipe.modalities
    chosen = [m for m in available.values() if m.name in wanted and m.name not in recipe.exclude]
    taking_part = [m.name for m in chosen]
    for option, expected, used in (
        ("--bands", "a modality that takes part", recipe.bands),
        ("--inputs", "modalities that take part", recipe.inputs or ()),
    ):
        for name in used:
            if name not in taking_part:
                raise InputError(f"{option}: expected {expected}, got {name}; {_list(taking_part)} do.")
    return tuple(_in_role(m, recipe) for m in chosen)


def _in_role(modality: Modality, recipe: TrainRecipe) -> Modality:
    """Set whether a modality is an input, and its bands, as the recipe says."""
    if recipe.inputs is not None:
        modality = replace(modality, input=modality.name in recipe.inputs)
    return cut_bands(modality, recipe.bands[modality.name]) if modality.name in recipe.bands else modality


def _check_roles(
    path: Path | str, available: Mapping[str, Modality], inputs: Sequence[Modality], pretext: Sequence[Modality]
) -> None:
    if not inputs:
        raise InputError(
            f"{path}: expected a modality that can feed the encoder (input: true in its catalog entry), got "
            f"{_list(m for m in available if not available[m].input)} to learn from; name one with --inputs, or build "
            "the store with one."
        )
    unlike = [m.name for m in inputs if not (m.kind.is_raster and m.kind.is_continuous)]
    if unlike:
        raise InputError(f"{path}: expected inputs of kind raster/continuous, got {_list(unlike)}; name others with --inputs.")  # fmt: skip
    if not pretext:
        raise InputError(
            f"{path}: expected a modality to predict (pretext: true in its catalog entry), got none among the chosen "
            "ones; choose more with --modalities or exclude fewer."
        )


def _crop(path: Path | str, tile_size: int, recipe: TrainRecipe) -> tuple[int, int]:
    image_size = recipe.image_size or int(tile_size * CROP_OF_TILE)
    if tile_size < image_size:
        raise InputError(
            f"{path}: expected tiles of at least the {image_size} px crop, got {tile_size} px; "
            f"lower --image-size, or build larger tiles."
        )
    patch_size = recipe.patch_size or image_size // PATCHES_ACROSS
    if image_size % patch_size or patch_size % 8:
        raise InputError(
            f"expected an image size that a patch size divides, and a patch size that 8 divides, got {image_size} px in "
            f"{patch_size} px patches; give --image-size and --patch-size."
        )
    return image_size, patch_size


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
