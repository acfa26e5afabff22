"""Every field of pretraining, fine-tuning and benchmarks, and its option (see `mmearth_data.About`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval, Len, MinLen

from mmearth_data import About, Fields, Group

WHAT, MODEL, OPTIMISATION = Group.WHAT, Group.MODEL, Group.OPTIMISATION
HARDWARE, OUTPUT = Group.HARDWARE, Group.OUTPUT
MAX_COUNT = 10**6
"""Maximum of counts, such as epochs; a larger one is a typing error, and finding its divisors would take forever."""
MAX_SEED = 2**63 - 1
"""Largest seed that PyTorch's generators accept."""
COUNT, SHARE = Interval(ge=1, le=MAX_COUNT), Interval(ge=0, lt=1)
BY_PRESET = "by preset"
Size = Literal["atto", "femto", "pico", "nano", "tiny", "base", "large", "huge"]
Precision = Literal["auto", "float32", "bfloat16"]
SIZE = About("Size of the encoder, a ConvNeXt V2.", MODEL)
IMAGE_SIZE = About("Side of the random crop in pixels.", MODEL, "PX", default="7/8 of the tile: 56 of 64, 112 of 128")
PATCH_SIZE = About("Side of a patch in pixels.", MODEL, "PX", default="1/7 of the crop")
MASK_RATIO = About("Share of patches that are masked.", MODEL, "F")
PRECISION = About("Numeric precision; auto is bfloat16 on a GPU that supports it.", HARDWARE)


class TrainFields(Fields):
    """All fields of a pretraining run; the store is given separately."""

    description: Annotated[str, About("One-line description.")] = ""
    preset: Annotated[
        Literal["default", "paper", "reference"],
        About("Set of defaults for missing values, normalisation and decoders.", MODEL),
    ] = "default"
    modalities: Annotated[
        tuple[str, ...] | None, About("Modalities to train on.", WHAT, "A,B,...", default="all of the store")
    ] = None
    exclude: Annotated[tuple[str, ...], About("Modalities to leave out.", WHAT, "A,B,...")] = ()
    inputs: Annotated[
        tuple[str, ...] | None,
        About("Modalities that feed the encoder.", WHAT, "A,B,...", default="as the catalog says"),
        MinLen(1),
    ] = None
    bands: Annotated[
        dict[str, Annotated[tuple[str, ...], MinLen(1)]],
        About(
            "Bands of a modality that the model uses, in this order.",
            WHAT,
            "MODALITY=A,B,...",
            default="as the catalog says",
            repeated=True,
        ),
    ] = {}  # noqa: RUF012 - pydantic copies it for every recipe
    size: Annotated[Size, SIZE] = "atto"
    stem: Annotated[
        Literal["modified", "original"],
        About("First layers of the encoder: modified as in MP-MAE, or the original ones of ConvNeXt V2."),
    ] = "modified"
    depths: Annotated[
        tuple[Annotated[int, Interval(ge=1, le=1024)], ...] | None,
        About("Number of blocks in each of the encoder's four stages.", default="by size"),
        Len(4, 4),
    ] = None
    widths: Annotated[
        tuple[Annotated[int, Interval(ge=1, le=16384)], ...] | None,
        About("Number of channels in each of the encoder's four stages.", default="by size"),
        Len(4, 4),
    ] = None
    image_size: Annotated[int | None, IMAGE_SIZE, Interval(ge=8, le=1024)] = None
    patch_size: Annotated[int | None, PATCH_SIZE, Interval(ge=8, le=64)] = None
    mask_ratio: Annotated[float, MASK_RATIO, SHARE] = 0.6
    flips: Annotated[
        bool,
        About(
            "Flip each crop along each axis with probability 1/2, in the same way for all modalities.", default="true"
        ),
    ] = True
    decoder: Annotated[
        Literal["shared", "per-task"] | None,
        About("One decoder shared by all tasks, or one per task.", default=BY_PRESET),
    ] = None
    decoder_dim: Annotated[int, About("Number of channels of a decoder."), Interval(ge=1, le=16384)] = 512
    decoder_depth: Annotated[int, About("Number of blocks of a decoder."), Interval(ge=1, le=64)] = 1
    drop_path: Annotated[float, About("Stochastic depth of the encoder."), SHARE] = 0.0
    init: Annotated[
        Literal["default", "reference", "fan-in"] | None,
        About("How weights are initialised (see `mmearth_model.MPMAEConfig`).", default=BY_PRESET),
    ] = None
    weighting: Annotated[
        Literal["uncertainty", "unweighted"],
        About(
            "How the losses of the tasks are summed: with learned or with equal weights.",
            OPTIMISATION,
        ),
    ] = "uncertainty"
    statistics: Annotated[
        Literal["store", "published"],
        About(
            "Statistics that normalise inputs and targets: those of the store's train split, or the band_stats.json of "
            "the data set that the store was imported from.",
            WHAT,
        ),
    ] = "store"
    epochs: Annotated[int, About("Number of passes over the training tiles.", OPTIMISATION, "N"), COUNT] = 200
    warmup: Annotated[
        float, About("Share of all steps during which the learning rate rises linearly."), Interval(ge=0, lt=1)
    ] = 0.2
    schedule: Annotated[
        Literal["default", "released"],
        About(
            "Learning-rate schedule. released: the rate of a step depends on the share of the "
            "run before it, so it is 0 in the first step; an epoch's length includes micro-batches that do not fill a "
            "batch."
        ),
    ] = "default"
    batch_size: Annotated[int, About("Tiles per optimiser step.", OPTIMISATION, "N"), COUNT] = 256
    device_batch: Annotated[
        int,
        About(
            "Maximum number of tiles per forward pass; gradients are accumulated up to the batch size.", HARDWARE, "N"
        ),
        COUNT,
    ] = 256
    base_lr: Annotated[
        float,
        About(
            "Peak learning rate for a batch of 256; the actual one is F x batch size / 256.",
            OPTIMISATION,
            "F",
            flag="--lr",
        ),
        Interval(gt=0),
    ] = 1.5e-4
    min_lr: Annotated[
        float, About("Learning rate at the end of the cosine; at most the peak learning rate."), Interval(ge=0)
    ] = 0.0
    betas: Annotated[tuple[Annotated[float, SHARE], Annotated[float, SHARE]], About("Momentum terms of AdamW.")] = (
        0.9,
        0.95,
    )
    weight_decay: Annotated[
        float, About("Weight decay of AdamW; biases and other one-dimensional parameters are exempt."), Interval(ge=0)
    ] = 0.05
    clip_norm: Annotated[
        float | None,
        About("Maximum norm of the gradient.", default="no limit, as in the paper"),
        Interval(gt=0),
    ] = None
    slice_images: Annotated[
        int | None, About("Images per forward pass on a CPU, whose cache holds few.", default="by size"), COUNT
    ] = None
    engine: Annotated[
        Literal["auto", "masked", "gathered"],
        About(
            "How hidden patches are skipped: gathered computes visible patches only, masked computes all, auto gathers "
            "where it can. The results are equal up to rounding.",
            HARDWARE,
        ),
    ] = "auto"
    precision: Annotated[Precision, PRECISION] = "auto"
    seed: Annotated[
        int,
        About("Seed for initial weights, order of tiles, crops and masks.", OPTIMISATION, "N"),
        Interval(ge=0, le=MAX_SEED),
    ] = 0
    checkpoint_epochs: Annotated[int, About("Number of epochs between checkpoints."), COUNT] = 10
    keep: Annotated[int, About("Number of most recent checkpoints to keep."), COUNT] = 1
    figure_epochs: Annotated[
        int,
        About(
            "Number of epochs between pictures of reconstructions, saved in figures/ of the run; 0 saves none.",
            OUTPUT,
            "N",
        ),
        Interval(ge=0, le=MAX_COUNT),
    ] = 0
    loggers: Annotated[
        tuple[Literal["tensorboard", "wandb"], ...],
        About("Logger to use in addition to log.csv.", OUTPUT, flag="--logger", repeated=True),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class FineTuneFields:
    """All fields of fine-tuning."""

    epochs: Annotated[int, About("Maximum number of passes over the training samples.", OPTIMISATION, "N"), COUNT] = 100
    warmup: Annotated[
        int,
        About("Number of epochs (at most a quarter of all) during which the learning rate rises linearly."),
        Interval(ge=0, le=MAX_COUNT),
    ] = 5
    patience: Annotated[
        int,
        About("Number of epochs without a better validation score after which training stops.", OPTIMISATION, "N"),
        COUNT,
    ] = 15
    batch_size: Annotated[int, About("Samples per batch.", OPTIMISATION, "N"), COUNT] = 32
    accumulate: Annotated[int, About("Number of batches per optimiser step."), COUNT] = 1
    drop_incomplete: Annotated[bool, About("Leave out incomplete batches and steps at the end of an epoch.")] = False
    lr: Annotated[float, About("Peak learning rate of the head.", OPTIMISATION, "F"), Interval(gt=0)] = 1e-3
    min_lr: Annotated[
        float, About("Learning rate at the end of the cosine; at most the peak learning rate."), Interval(ge=0)
    ] = 0.0
    layer_decay: Annotated[
        float,
        About("Ratio of each layer's learning rate to that of the next layer.", OPTIMISATION, "F"),
        Interval(gt=0, le=1),
    ] = 0.9
    drop_path: Annotated[float, About("Stochastic depth of the encoder.", OPTIMISATION, "F"), SHARE] = 0.1
    weight_decay: Annotated[float, About("Weight decay of weight matrices.", OPTIMISATION, "F"), Interval(ge=0)] = 0.3
    label_smoothing: Annotated[float, About("Label smoothing for single-label and multi-label targets."), SHARE] = 0.0
    clip: Annotated[float | None, About("Maximum norm of the gradient; None does not clip."), Interval(gt=0)] = 5.0
    keep: Annotated[
        Literal["best", "last"],
        About("Epoch whose weights are tested: the best on the validation samples, or the last."),
    ] = "best"
    head_std: Annotated[
        float | None,
        About("Standard deviation of the head's initial weights; None keeps the network's own initialisation."),
        Interval(ge=0),
    ] = None
    augment: Annotated[bool, About("Augment with flips and crops, as far as the task allows.")] = True
    frozen: Annotated[
        bool, About("Keep the encoder fixed and train only the head (a UNet decoder for per-pixel tasks).", MODEL)
    ] = False
    frozen_drop_path: Annotated[bool, About("Apply stochastic depth in a frozen encoder too.")] = False
    thaw: Annotated[
        int | None,
        About("Epoch, counted from 0, from which a frozen encoder is trained too; None never trains it."),
        Interval(ge=0, le=MAX_COUNT),
    ] = None
    rules: Annotated[
        Literal["ours", "released"],
        About(
            "ours: learning rates decrease block by block down to the stem, the classifier on a frozen encoder trains "
            "its LayerNorm, and the decoder is `mmearth_model.heads.unet.UNet`; released: the rules of "
            "`mmearth_model.evaluation.paper`."
        ),
    ] = "ours"
    seed: Annotated[
        int,
        About("Seed for the head's weights, sample order, flips, crops and stochastic depth.", OPTIMISATION, "N"),
        Interval(ge=0, le=MAX_SEED),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class WorkFields:
    """All fields of a benchmark."""

    size: Annotated[Size, SIZE] = "atto"
    image_size: Annotated[int, IMAGE_SIZE, Interval(ge=8, le=1024)] = 56
    patch_size: Annotated[int, PATCH_SIZE, Interval(ge=8, le=1024)] = 8
    mask_ratio: Annotated[float, MASK_RATIO, SHARE] = 0.6
    batch: Annotated[int, About("Number of images per step.", OPTIMISATION, "N", flag="--batch-size"), COUNT] = 32
    device: Annotated[str, About("Device to compute on: auto, cpu, cuda, cuda:1 or mps.", HARDWARE, "DEVICE")] = "auto"
    precision: Annotated[Precision, PRECISION] = "auto"
    runs: Annotated[int, About("Number of timed steps per form.", WHAT, "N"), COUNT] = 5
    compiled: Annotated[
        bool, About("Also measure each form compiled (needs a C++ compiler).", WHAT, flag="--compile")
    ] = False
    slice_images: Annotated[int | None, About("Images per forward pass on a CPU, whose cache holds few."), COUNT] = None
