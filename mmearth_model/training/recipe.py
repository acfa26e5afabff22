"""Recipes of training runs; their fields are declared in `mmearth_model.fields`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from mmearth_data import InputError, Recipe, RecipeFolder, documented
from mmearth_model.fields import TrainFields

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_RECIPE = "default"
TRAIN_RECIPES = RecipeFolder("train")
NOT_IDENTITY = frozenset({"description", "checkpoint_epochs", "keep", "figure_epochs", "loggers"})
"""Fields that decide what is kept, not what is learned."""
REPLACES = {"size": ("depths", "widths"), "preset": ("decoder",)}
"""Option -> fields of a recipe file that it replaces too, because they would contradict it."""


@documented
class TrainRecipe(TrainFields, Recipe):
    """Options of one pretraining run; the same recipe, store and machine give the same weights."""

    @model_validator(mode="after")
    def _batches(self) -> TrainRecipe:
        if self.micro_batch < min(self.device_batch, self.batch_size) / 4:
            raise InputError(
                f"batch_size: expected a number with a divisor near device_batch {self.device_batch}, got "
                f"{self.batch_size}; the batch is accumulated from equal parts."
            )
        return self

    @model_validator(mode="after")
    def _rates(self) -> TrainRecipe:
        if self.min_lr > self.peak_lr:
            raise InputError(
                f"min_lr: expected at most the peak learning rate {self.peak_lr:g} ({self.base_lr:g} x batch size "
                f"{self.batch_size} / 256), got {self.min_lr:g}; lower it, or raise base_lr."
            )
        return self

    @property
    def micro_batch(self) -> int:
        """Tiles per forward pass: the largest part of the batch that ``device_batch`` allows."""
        limit = min(self.device_batch, self.batch_size)
        return next(part for part in range(limit, 0, -1) if self.batch_size % part == 0)

    @property
    def accumulate(self) -> int:
        """Micro-batches of one optimiser step."""
        return self.batch_size // self.micro_batch

    @property
    def peak_lr(self) -> float:
        """Learning rate after the warm-up."""
        return self.base_lr * self.batch_size / 256

    def among(self, processes: int) -> TrainRecipe:
        """Return the recipe with a ``device_batch`` that divides each batch equally among processes.

        Raises
        ------
        InputError
            If the batch cannot be divided.
        """
        if self.accumulate % processes == 0:
            return self
        if self.batch_size % processes:
            raise InputError(
                f"batch_size: expected a number that {processes} processes divide, got {self.batch_size}; change one."
            )
        share = self.batch_size // processes
        part = next(n for n in range(min(self.device_batch, share), 0, -1) if share % n == 0)
        return self.model_copy(update={"device_batch": part})

    def identity(self) -> dict[str, Any]:
        """JSON-ready part that a run records, and compares when it is resumed."""
        return self.model_dump(mode="json", exclude=set(NOT_IDENTITY))


def make_recipe(base: str = DEFAULT_RECIPE, overrides: Mapping[str, Any] | None = None) -> TrainRecipe:
    """Combine a named or written recipe with options that override it.

    Parameters
    ----------
    base
        Name of a recipe in ``pipelines/train``, or path of a YAML file.
    overrides
        Field -> value. A ``size`` also replaces the depths and widths of the recipe, a ``preset`` its decoder.

    Raises
    ------
    InputError
        With the field, what was expected and what was found.
    """
    return TrainRecipe.combined(TRAIN_RECIPES.read(base), overrides or {}, REPLACES)
