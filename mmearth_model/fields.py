"""Every field of pretraining, fine-tuning and benchmarks, with its option of ``mmearth-train`` (see `mmearth_data.About`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval, Len, MinLen

from mmearth_data import About, Fields, Group

WHAT, MODEL, OPTIMISATION = Group.WHAT, Group.MODEL, Group.OPTIMISATION
HARDWARE, OUTPUT = Group.HARDWARE, Group.OUTPUT
MAX_COUNT = 10**6
"""Epochs, and tiles of a batch; a larger number is a typing error, and a search for its divisors would not end."""
MAX_SEED = 2**63 - 1
"""PyTorch's generators take no more."""
COUNT, SHARE = Interval(ge=1, le=MAX_COUNT), Interval(ge=0, lt=1)
BY_PRESET = "by preset"
Size = Literal["atto", "femto", "pico", "nano", "tiny", "base", "large", "huge"]
Precision = Literal["auto", "float32", "bfloat16"]
SIZE = About("Size of the encoder, a ConvNeXt V2.", MODEL)
IMAGE_SIZE = About("Side of the random crop.", MODEL, "PX", default="7/8 of the tile: 56 of 64, 112 of 128")
PATCH_SIZE = About("Side of a patch.", MODEL, "PX", default="1/7 of the crop")
MASK_RATIO = About("Share of the patches that are hidden.", MODEL, "F")
PRECISION = About("Numeric precision; auto is bfloat16 on a GPU that supports it.", HARDWARE)


class TrainFields(Fields):
    """Everything that decides a pretraining run, apart from the store."""

    description: Annotated[str, About("One-line description.")] = ""
    preset: Annotated[
        Literal["default", "paper", "reference"],
        About("How missing values, normalisation and decoders are treated.", MODEL),
    ] = "default"
    modalities: Annotated[
        tuple[str, ...] | None, About("Modalities that take part.", WHAT, "A,B,...", default="all of the store")
    ] = None
    exclude: Annotated[tuple[str, ...], About("Modalities that do not take part.", WHAT, "A,B,...")] = ()
    inputs: Annotated[
        tuple[str, ...] | None,
        About("Modalities that feed the encoder.", WHAT, "A,B,...", default="as the catalog says"),
        MinLen(1),
    ] = None
    bands: Annotated[
        dict[str, Annotated[tuple[str, ...], MinLen(1)]],
        About(
            "Bands of a modality that the model sees, in this order.",
            WHAT,
            "MODALITY=A,B,...",
            default="as the catalog says",
            repeated=True,
        ),
    ] = {}  # noqa: RUF012 - pydantic copies it for every recipe
    size: Annotated[Size, SIZE] = "atto"
    stem: Annotated[
        Literal["modified", "original"], About("First layers of the encoder: MP-MAE's, or those of ConvNeXt V2.")
    ] = "modified"
    depths: Annotated[
        tuple[int, ...] | None, About("Blocks of the encoder's four stages.", default="by size"), Len(4, 4)
    ] = None
    widths: Annotated[
        tuple[int, ...] | None, About("Channels of the encoder's four stages.", default="by size"), Len(4, 4)
    ] = None
    image_size: Annotated[int | None, IMAGE_SIZE, Interval(ge=8, le=1024)] = None
    patch_size: Annotated[int | None, PATCH_SIZE, Interval(ge=8, le=64)] = None
    mask_ratio: Annotated[float, MASK_RATIO, SHARE] = 0.6
    flips: Annotated[
        bool, About("Flip each crop along either axis with probability 1/2, all modalities alike.", default="true")
    ] = True
    decoder: Annotated[
        Literal["shared", "per-task"] | None, About("One decoder for all tasks, or one for each.", default=BY_PRESET)
    ] = None
    decoder_dim: Annotated[int, About("Channels of a decoder."), Interval(ge=1, le=16384)] = 512
    decoder_depth: Annotated[int, About("Blocks of a decoder."), Interval(ge=1, le=64)] = 1
    drop_path: Annotated[float, About("Stochastic depth of the encoder."), SHARE] = 0.0
    init: Annotated[
        Literal["default", "reference", "fan-in"] | None,
        About("Initial weights (`mmearth_model.MPMAEConfig`).", default=BY_PRESET),
    ] = None
    weighting: Annotated[
        Literal["uncertainty", "unweighted"],
        About("How the losses of the tasks are summed: with learned weights, or with equal ones.", OPTIMISATION),
    ] = "uncertainty"
    statistics: Annotated[
        Literal["store", "published"],
        About(
            "Normalise inputs and targets by the store's train split, or by the band_stats.json of the data set that the "
            "store was imported from.",
            WHAT,
        ),
    ] = "store"
    epochs: Annotated[int, About("Passes over the training tiles.", OPTIMISATION, "N"), COUNT] = 200
    warmup: Annotated[
        float, About("Share of all steps in which the learning rate rises linearly."), Interval(ge=0, lt=1)
    ] = 0.2
    schedule: Annotated[
        Literal["default", "released"],
        About(
            "Learning rates. released, as in the released code: the rate of a step depends on the share of the run before "
            "it, so the first step has rate 0; micro-batches that do not fill a batch count towards an epoch's length."
        ),
    ] = "default"
    batch_size: Annotated[int, About("Tiles per optimiser step.", OPTIMISATION, "N"), COUNT] = 256
    device_batch: Annotated[
        int, About("Most tiles per forward pass; gradients are accumulated up to the batch size.", HARDWARE, "N"), COUNT
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
    min_lr: Annotated[float, About("Learning rate at the end of the cosine."), Interval(ge=0)] = 0.0
    betas: Annotated[tuple[float, float], About("Momentum terms of AdamW.")] = (0.9, 0.95)
    weight_decay: Annotated[
        float, About("Weight decay of AdamW, for all but biases and one-dimensional parameters."), Interval(ge=0)
    ] = 0.05
    clip_norm: Annotated[
        float | None,
        About("Largest norm of the gradient.", default="no limit, as in the paper"),
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
        int, About("Seed of initial weights, order, crops and masks.", OPTIMISATION, "N"), Interval(ge=0, le=MAX_SEED)
    ] = 0
    checkpoint_epochs: Annotated[int, About("Epochs between checkpoints."), COUNT] = 10
    keep: Annotated[int, About("Number of latest checkpoints to keep."), COUNT] = 1
    figure_epochs: Annotated[
        int,
        About("Epochs between pictures of reconstructions, in figures/ of the run; 0: none.", OUTPUT, "N"),
        Interval(ge=0, le=MAX_COUNT),
    ] = 0
    loggers: Annotated[
        tuple[Literal["tensorboard", "wandb"], ...],
        About("Logger in addition to log.csv.", OUTPUT, flag="--logger", repeated=True),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class FineTuneFields:
    """Everything that decides how an encoder is fine-tuned."""

    epochs: Annotated[int, About("Maximum number of passes over the training samples.", OPTIMISATION, "N"), COUNT] = 100
    warmup: Annotated[int, About("Epochs in which the learning rate rises linearly.")] = 5
    patience: Annotated[
        int, About("Epochs without a better validation value before training stops.", OPTIMISATION, "N"), COUNT
    ] = 15
    batch_size: Annotated[int, About("Samples per batch.", OPTIMISATION, "N"), COUNT] = 32
    accumulate: Annotated[int, About("Batches per step.")] = 1
    drop_incomplete: Annotated[bool, About("Leave out incomplete batches and steps at the end of an epoch.")] = False
    lr: Annotated[float, About("Peak learning rate of the head.", OPTIMISATION, "F"), Interval(gt=0)] = 1e-3
    min_lr: Annotated[float, About("Learning rate at the end of the cosine.")] = 0.0
    layer_decay: Annotated[
        float,
        About("Ratio of the learning rate of each layer to that of the next.", OPTIMISATION, "F"),
        Interval(gt=0, le=1),
    ] = 0.9
    drop_path: Annotated[float, About("Stochastic depth of the encoder.", OPTIMISATION, "F"), SHARE] = 0.1
    weight_decay: Annotated[float, About("Weight decay of matrices.", OPTIMISATION, "F"), Interval(ge=0)] = 0.3
    label_smoothing: Annotated[float, About("Smoothing of single-label and multi-label targets.")] = 0.0
    clip: Annotated[float | None, About("Largest norm of the gradient; None does not clip.")] = 5.0
    keep: Annotated[
        Literal["best", "last"], About("Epoch that is tested: the best on the validation samples, or the last.")
    ] = "best"
    head_std: Annotated[
        float | None, About("Standard deviation of the head's initial weights; None: as the network has it.")
    ] = None
    augment: Annotated[bool, About("Flip and crop, as far as the task allows.")] = True
    frozen: Annotated[
        bool, About("Train only what is on top of the encoder (a UNet decoder for per-pixel tasks).", MODEL)
    ] = False
    frozen_drop_path: Annotated[bool, About("Apply stochastic depth in a frozen encoder too.")] = False
    thaw: Annotated[
        int | None, About("Epoch, from 0, at which a frozen encoder begins to be trained; None: never.")
    ] = None
    rules: Annotated[
        Literal["ours", "released"],
        About(
            "ours: learning rates decrease block by block down to the stem, the classifier on a frozen encoder trains its "
            "LayerNorm, and the decoder is `mmearth_model.evaluation.networks.UNet`; released: the rules of "
            "`mmearth_model.evaluation.paper`."
        ),
    ] = "ours"
    seed: Annotated[
        int,
        About("Seed of the head's weights, sample order, flips, crops and stochastic depth.", OPTIMISATION, "N"),
        Interval(ge=0, le=MAX_SEED),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class WorkFields:
    """Everything that decides what a benchmark measures."""

    size: Annotated[Size, SIZE] = "atto"
    image_size: Annotated[int, IMAGE_SIZE, Interval(ge=8, le=1024)] = 56
    patch_size: Annotated[int, PATCH_SIZE, Interval(ge=8, le=1024)] = 8
    mask_ratio: Annotated[float, MASK_RATIO, SHARE] = 0.6
    batch: Annotated[int, About("Images per step.", OPTIMISATION, "N", flag="--batch-size"), COUNT] = 32
    device: Annotated[str, About("auto, cpu, cuda, cuda:1 or mps.", HARDWARE, "DEVICE")] = "auto"
    precision: Annotated[Precision, PRECISION] = "auto"
    runs: Annotated[int, About("Timed steps per form.", WHAT, "N"), COUNT] = 5
    compiled: Annotated[
        bool, About("Also measure each form compiled (needs a C++ compiler).", WHAT, flag="--compile")
    ] = False
    slice_images: Annotated[int | None, About("Images per forward pass on a CPU, whose cache holds few.")] = None
