"""Export weights under third-party names and shapes; see `mmearth_model.weights.conversion` for the supported audiences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, get_args

import torch

from mmearth_data import InputError, load_catalog
from mmearth_model.network.mpmae import ALL_TASKS, MPMAEConfig
from mmearth_model.weights.conversion import (  # fmt: skip
    CLASSES,
    CONV_MLP,
    RENAMES,
    TIMM_RENAMES,
    Audience,
    Imported,
    Names,
    Tensors,
    rename,
    timm_layout,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from mmearth_model.network.encoder import EncoderConfig

ENCODER = "model.encoder."


def check_audience(to: str) -> Audience:
    """Refuse an unknown audience."""
    if to not in get_args(Audience):
        raise InputError(f"--to: expected {', '.join(get_args(Audience))}, got {to!r}.")
    return to  # type: ignore[return-value]


def export(found: Imported, to: Audience) -> Tensors:
    """Return the tensors of a network with the names and shapes that an audience reads.

    Raises `InputError` when the audience cannot represent such a network.
    """
    if to == "timm":
        return to_timm(found.tensors, found.encoder)
    if to == "finetune":
        return to_finetune(found.tensors, found.encoder)
    if found.model is None:
        raise InputError(
            f"--to {to}: expected a complete MP-MAE, got an encoder alone; use --to finetune or --to timm."
        )
    tensors = to_released(found.tensors, found.model, to)
    return tensors | dense_classifier(found.encoder) if to == "dense" else tensors


def to_released(tensors: Mapping[str, Tensor], model: MPMAEConfig, to: Audience) -> Tensors:
    """Inverse of `from_released` for a whole network; shared decoders are written once per task.

    Raises `InputError` when the network differs from the released pretraining network.
    """
    _check_stem(model.encoder, to)
    if model.decoder != "shared" or model.tile_norm != "shared":
        raise InputError(
            f"--to {to}: expected a whole network of preset reference, whose tasks share one decoder and one LayerNorm, got "
            "one with separate parts for each task; export its encoder with --to finetune."
        )
    shared = f"model.decoders.{ALL_TASKS}."
    theirs: Tensors = {}
    for name, tensor in tensors.items():
        ours = [name.replace(shared, f"model.decoders.{task.name}.") for task in model.tasks]
        for each in ours if name.startswith(shared) else ours[:1]:
            spelled, value = (_sparse if to == "sparse" else _dense)(_released_name(each, model.encoder), tensor)
            theirs[spelled] = value
    return theirs


def to_finetune(tensors: Mapping[str, Tensor], encoder: EncoderConfig) -> Tensors:
    """Convert an encoder for the released fine-tuning code, which adds two axes to every GRN tensor.

    Raises `InputError` when the released networks do not have such a stem.
    """
    _check_stem(encoder, "finetune")
    return {
        _released_name(name, encoder): tensor[None] if ".grn." in name else tensor
        for name, tensor in tensors.items()
        if name.startswith(ENCODER)
    }


def dense_classifier(encoder: EncoderConfig) -> Tensors:
    """Norm and head of the released dense encoder, which exist even in pretraining but are never used."""
    width = (encoder.widths or ())[-1]
    return {
        "encoder.norm.weight": torch.ones(width),
        "encoder.norm.bias": torch.zeros(width),
        "encoder.head.weight": torch.zeros(CLASSES, width),
        "encoder.head.bias": torch.zeros(CLASSES),
    }


def to_timm(tensors: Mapping[str, Tensor], encoder: EncoderConfig) -> Tensors:
    """Inverse of `from_timm`, for an encoder with a timm stem; the norm of timm's head leaves features unchanged.

    Raises `InputError` when the encoder has another stem.
    """
    if encoder.stem == "modified":
        raise InputError(
            "--to timm: expected an encoder with the original stem, got the modified stem, which timm does not have; "
            "use --to finetune, sparse or dense."
        )
    if encoder.stem == "original" and (encoder.stem_stride == 2 or timm_layout(encoder) != encoder):
        raise InputError(
            f"--to timm: expected a stem of 1 px, or of 3 to 7 px, got {encoder.stem_stride} px: timm halves once more "
            "after a stem of 2 px, and dilates convolutions after one of 8 px and more; use --to finetune."
        )
    width = (encoder.widths or ())[-1]
    theirs: Tensors = {"head.norm.weight": torch.ones(width), "head.norm.bias": torch.zeros(width)}
    for name, tensor in tensors.items():
        if name.startswith(ENCODER):
            new = _their_name(name, TIMM_RENAMES)
            linear = ".mlp.fc" in new and new.endswith("weight") and encoder.size in CONV_MLP
            theirs[new] = tensor[:, :, None, None] if linear else tensor
    return theirs


def _check_stem(encoder: EncoderConfig, to: Audience) -> None:
    if encoder.stem == "halved" or encoder.max_stride is not None:
        raise InputError(f"--to {to}: expected the modified or original stem, got a timm stem; use --to timm.")


def _released_name(name: str, encoder: EncoderConfig) -> str:
    """Released name of a tensor, in the dense style."""
    other = "initial_conv" if encoder.stem == "original" else "stem_orig"
    return _their_name(name, tuple(row for row in RENAMES if other not in row[0]))


def _their_name(name: str, table: Names) -> str:
    new = rename(name, tuple((ours, theirs) for theirs, ours in table))
    if new is None:
        raise InputError(f"--to: expected a network that the format can represent, got one with {name}.")
    return new


def _dense(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    if name == "mask_token":
        return name, tensor.permute(0, 3, 1, 2)
    if ".grn." in name:
        return name, tensor[None, None, None]
    convolution = name == "proj.weight" or (
        name.startswith("pred_dict.") and name.endswith("weight") and _is_raster(name)
    )
    return name, tensor[:, :, None, None] if convolution else tensor


def _is_raster(name: str) -> bool:
    modality = load_catalog().modalities.get(name.split(".")[1])
    return modality is not None and modality.kind.is_raster


def _sparse(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    if not name.startswith("encoder."):
        return _dense(name, tensor)
    layer, _, kind = name.rpartition(".")
    if ".grn." in name:
        return name, tensor[None]
    if re.search(r"(pwconv\d)$", layer):
        return f"{layer}.linear.{kind}", tensor
    if re.search(r"(norm|initial_conv\.1|stem\.1|stem_orig\.1|downsample_layers\.\d+\.0)$", layer):
        return f"{layer}.ln.{kind}", tensor
    if kind == "bias":
        return name, tensor[None]
    kernel = tensor.transpose(-1, -2).flatten(2)
    if layer.endswith((".dwconv", ".stem.0")):
        return f"{layer}.kernel", kernel[:, 0].permute(1, 0)
    kernel = kernel.permute(2, 1, 0)
    return f"{layer}.kernel", kernel[0] if len(kernel) == 1 else kernel
