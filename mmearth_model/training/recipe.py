"""A training run, as data: everything that decides the weights, apart from the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmearth_data import InputError, is_data, named_file, read_yaml, resource_path, validated

if TYPE_CHECKING:
    from mmearth_data import YamlFile

DEFAULT_RECIPE = "default"
MAX_COUNT = 10**6
"""Epochs and tiles of a batch; more is a slip of the pen, and a search for its divisors would not end."""
MAX_SEED = 2**63 - 1
"""PyTorch's generators take no more."""
NOT_IDENTITY = frozenset({"description", "checkpoint_epochs", "keep", "figure_epochs", "loggers"})
"""Fields that decide what is kept, not what is learned."""
REPLACES = {"size": ("depths", "widths"), "preset": ("decoder",)}
"""Option -> fields of the recipe below it that it replaces too, because they would undo it."""


class TrainRecipe(BaseModel):
    """Options of one pretraining run; the same recipe, store and machine give the same weights.

    Attributes
    ----------
    description
        One-line description.
    preset
        How missing values, normalisation and decoders are treated: ``default``, ``paper``, ``reference``
        (see `mmearth_model.network.losses`).
    modalities
        Names of the modalities that take part; None selects all of the store.
    exclude
        Names that are not learned, whatever ``modalities`` says.
    inputs
        Names of the modalities that feed the encoder, in the store's order; None selects those with ``input: true`` in
        the catalog.
    bands
        Modality -> its bands that the model sees, in this order; other modalities use those of the catalog entry
        (``{sentinel2: [B4, B3, B2]}`` makes an encoder for RGB images).
    size, stem, depths, widths
        Encoder, see `mmearth_model.network.encoder`; depths and widths replace those of ``size``.
    image_size
        Pixels per side of the random crop; None means 7/8 of the tile (56 of 64, 112 of 128).
    patch_size
        Pixels per side of a patch; None means a seventh of the crop (8 of 56, 16 of 112).
    mask_ratio
        Share of the patches that are hidden.
    flips
        Flip each crop along either axis with probability 1/2, all modalities alike.
    decoder
        ``shared`` or ``per-task``; None follows the preset.
    decoder_dim, decoder_depth
        Width and number of blocks of a decoder.
    drop_path
        Stochastic depth of the encoder.
    init
        Initial weights, see `mmearth_model.network.mpmae.MPMAEConfig`; None follows the preset.
    weighting
        ``uncertainty`` (learned) or ``unweighted``.
    statistics
        Statistics for normalising inputs and targets: ``store``, those of its train split; ``published``, the
        ``band_stats.json`` of the data set that the store was imported from.
    epochs
        Passes over the training tiles.
    warmup
        Share of all steps in which the learning rate rises linearly (0.2: the paper's 40 of 200 epochs).
    schedule
        ``default``: the first step has the first rate above 0. ``released``, as in the released code: the rate of a
        step depends on the share of the run before it, so the first step has rate 0, and micro-batches that do not fill
        a batch at the end of an epoch count towards its length.
    batch_size
        Tiles per optimiser step.
    device_batch
        Maximum number of tiles per forward pass; gradients are accumulated up to the batch size.
    base_lr
        Peak learning rate for a batch of 256; the actual rate is ``base_lr * batch_size / 256``.
    min_lr
        Learning rate at the end of the cosine.
    betas, weight_decay
        AdamW options. Decay does not apply to biases and one-dimensional parameters (but does to the mask token).
    clip_norm
        Largest gradient norm; None does not clip (as in the paper).
    slice_images
        Images per forward pass on a CPU, whose cache holds few; None chooses.
    engine
        How hidden patches are skipped: ``gathered`` computes visible patches only, ``masked`` computes all, ``auto``
        gathers where it can. The results are equal up to rounding.
    precision
        ``float32``, ``bfloat16`` (autocast) or ``auto``: bfloat16 on a GPU that supports it.
    seed
        Seed of initial weights, order, crops and masks.
    checkpoint_epochs
        Epochs between checkpoints.
    keep
        Number of latest checkpoints to keep.
    figure_epochs
        Epochs between pictures of reconstructions, in ``figures/`` of the run; 0: none.
    loggers
        ``tensorboard``, ``wandb``: in addition to ``log.csv``, which is always written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    description: str = ""
    preset: Literal["default", "paper", "reference"] = "default"
    modalities: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    inputs: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    bands: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    size: Literal["atto", "femto", "pico", "nano", "tiny", "base", "large", "huge"] = "atto"
    stem: Literal["modified", "original"] = "modified"
    depths: tuple[int, ...] | None = Field(default=None, min_length=4, max_length=4)
    widths: tuple[int, ...] | None = Field(default=None, min_length=4, max_length=4)
    image_size: int | None = Field(default=None, ge=8, le=1024)
    patch_size: int | None = Field(default=None, ge=8, le=64)
    mask_ratio: float = Field(default=0.6, ge=0, lt=1)
    flips: bool = True
    decoder: Literal["shared", "per-task"] | None = None
    decoder_dim: int = Field(default=512, ge=1, le=16384)
    decoder_depth: int = Field(default=1, ge=1, le=64)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    init: Literal["default", "reference", "fan-in"] | None = None
    weighting: Literal["uncertainty", "unweighted"] = "uncertainty"
    statistics: Literal["store", "published"] = "store"
    epochs: int = Field(default=200, ge=1, le=MAX_COUNT)
    warmup: float = Field(default=0.2, ge=0, lt=1)
    schedule: Literal["default", "released"] = "default"
    batch_size: int = Field(default=256, ge=1, le=MAX_COUNT)
    device_batch: int = Field(default=256, ge=1, le=MAX_COUNT)
    base_lr: float = Field(default=1.5e-4, gt=0)
    min_lr: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.05, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    slice_images: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    engine: Literal["auto", "masked", "gathered"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    checkpoint_epochs: int = Field(default=10, ge=1, le=MAX_COUNT)
    keep: int = Field(default=1, ge=1, le=MAX_COUNT)
    figure_epochs: int = Field(default=0, ge=0, le=MAX_COUNT)
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()

    @model_validator(mode="after")
    def _batches(self) -> TrainRecipe:
        if self.micro_batch < min(self.device_batch, self.batch_size) / 4:
            raise InputError(
                f"batch_size: expected a number with a divisor near device_batch {self.device_batch}, got "
                f"{self.batch_size}; the batch is accumulated from equal parts."
            )
        return self

    @property
    def micro_batch(self) -> int:
        """Tiles that go through the model at once: the largest part of the batch that ``device_batch`` allows."""
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
        """Divide each batch among processes: the same recipe, with ``device_batch`` such that all have equally much.

        Raises
        ------
        InputError
            When the batch cannot be divided so.
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
        """JSON-ready part that a run records and compares when it is continued."""
        return self.model_dump(mode="json", exclude=set(NOT_IDENTITY))


def make_recipe(base: str = DEFAULT_RECIPE, overrides: dict[str, Any] | None = None) -> TrainRecipe:
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
        With the field, what was expected and what came.
    """
    file, given = _recipe_file(base), dict(overrides or {})
    replaced = {field for option, fields in REPLACES.items() if option in given for field in fields}
    values = {field: value for field, value in file.values.items() if field not in replaced}
    return validated(TrainRecipe, values | given, file, given, "recipe")


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that ship with the package."""
    return tuple(
        sorted(path.stem for path in (resource_path("pipelines") / "train").glob("*.yaml") if is_data(path.name))
    )


def read_recipe(name_or_file: str) -> dict[str, Any]:
    """Fields of a recipe: a name in ``pipelines/train`` or a YAML file.

    Raises
    ------
    InputError
        When there is no such recipe, or it is not a mapping of fields.
    """
    return _recipe_file(name_or_file).values


def _recipe_file(name_or_file: str) -> YamlFile:
    shipped = resource_path("pipelines") / "train"
    return read_yaml(named_file(name_or_file, shipped, recipe_names(), "a recipe"), "a recipe")


def differences(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Say which fields of two recipes differ, as ``field: stored -> wanted``."""
    return [
        f"{key}: {stored.get(key)!r} -> {wanted.get(key)!r}"
        for key in sorted(stored.keys() | wanted.keys())
        if stored.get(key) != wanted.get(key)
    ]
