"""Weights written by others: the released MMEarth checkpoints and plain ConvNeXt V2, in and out.

Three styles of names and shapes:

``sparse``
    As released: the pretraining network on its sparse engine. ``...kernel`` is (k * k, in, out), or (k * k, C) where
    depthwise, its rows running down the columns of the kernel; names carry ``.ln`` and ``.linear``.
``dense``
    The same network without that engine.
``timm``
    A plain ConvNeXt V2 (original stem, no decoder), as PyTorch image models name it.

A released file is a pickle. It is read by PyTorch's restricted loader, which knows tensors, plain containers and
``argparse.Namespace`` (the options of the run), and refuses everything else before anything is executed.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mmearth_data import FileInputError, InputError, Kind, load_catalog
from mmearth_model.encoder import SIZES, EncoderConfig
from mmearth_model.mpmae import ALL_TASKS, REFERENCE_TASK_ORDER, MPMAEConfig, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

Style = Literal["sparse", "dense", "timm"]
Tensors = dict[str, "Tensor"]

CONV_MLP = ("atto", "femto", "pico", "nano")
"""Sizes whose linear layers are 1 x 1 convolutions in timm."""
ZIP = b"PK\x03\x04"
PATCHES_ACROSS = 7
DROPPED = ("encoder.norm.", "encoder.head.", "head.", "norm.")
"""The dense style and timm carry a classifier, which is no part of an encoder."""

RENAMES: tuple[tuple[str, str], ...] = (
    (r"encoder\.initial_conv\.0\.", "model.encoder.stem.conv."),
    (r"encoder\.initial_conv\.1\.", "model.encoder.stem.norm."),
    (r"encoder\.stem_orig\.0\.", "model.encoder.stem.conv."),
    (r"encoder\.stem_orig\.1\.", "model.encoder.stem.norm."),
    (r"encoder\.stem\.0\.", "model.encoder.stem.dwconv."),
    (r"encoder\.stem\.1\.", "model.encoder.stem.dwnorm."),
    (r"encoder\.downsample_layers\.(\d+)\.0\.", r"model.encoder.downsample.\1.norm."),
    (r"encoder\.downsample_layers\.(\d+)\.1\.", r"model.encoder.downsample.\1.conv."),
    (r"encoder\.stages\.", "model.encoder.stages."),
    (r"proj\.", "model.project."),
    (r"mask_token$", "model.mask_token"),
    (r"layer_norm_tmp\.", f"model.tile_norms.{ALL_TASKS}."),
    (r"decoder_dict\.", "model.decoders."),
    (r"pred_dict\.", "model.heads."),
    (r"loss_fn\.log_vars$", "losses.log_vars"),
)
"""Released name, without ``.ln`` and ``.linear`` and with ``kernel`` called ``weight`` -> ours."""

TIMM_RENAMES: tuple[tuple[str, str], ...] = (
    (r"stem\.0\.", "model.encoder.stem.conv."),
    (r"stem\.1\.", "model.encoder.stem.norm."),
    (r"stages\.(\d+)\.downsample\.([01])\.", "model.encoder.downsample."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.", r"model.encoder.stages.\1.\2.dwconv."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.norm\.", r"model.encoder.stages.\1.\2.norm."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.mlp\.fc([12])\.", r"model.encoder.stages.\1.\2.pwconv\3."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.mlp\.grn\.weight$", r"model.encoder.stages.\1.\2.grn.gamma"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.mlp\.grn\.bias$", r"model.encoder.stages.\1.\2.grn.beta"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """Foreign weights under our names.

    Attributes
    ----------
    encoder
        Shape of the encoder.
    model
        Shape of the whole network; None where there is an encoder alone.
    weighting
        Of the losses.
    tensors
        ``model.`` and ``losses.`` names, as in a checkpoint of ours.
    style
        How they were named.
    options
        Of the run that made them, as far as the file tells.
    """

    encoder: EncoderConfig
    model: MPMAEConfig | None
    weighting: str
    tensors: Tensors
    style: Style
    options: dict[str, Any] = field(default_factory=dict)


def import_weights(file: Path) -> Imported:
    """Read a released checkpoint, or plain ConvNeXt V2 weights.

    Parameters
    ----------
    file
        ``.pth`` or ``.safetensors``.

    Raises
    ------
    FileInputError
        When it is cut short, holds anything but numbers and options, or fits no known architecture.
    """
    content = read_foreign(file)
    options = content.get("args")
    weights = content.get("model", content.get("state_dict", content))
    tensors = (
        {str(k): v for k, v in weights.items() if isinstance(v, torch.Tensor)} if hasattr(weights, "items") else {}
    )
    try:
        return _imported(tensors, vars(options) if isinstance(options, argparse.Namespace) else {})
    except FileInputError:
        raise
    except (InputError, KeyError, IndexError, RuntimeError, ValueError) as error:
        raise FileInputError(
            file,
            f"expected a released MMEarth checkpoint or a ConvNeXt V2, got {len(tensors)} tensors that are neither "
            f"({' '.join(str(error).split())}); mmearth-train convert --help lists what can be read.",
        ) from None


def read_foreign(file: Path) -> Mapping[str, Any]:
    """Content of a file of weights, read without executing anything.

    Raises
    ------
    FileInputError
        When it is missing, cut short, or a pickle of more than numbers and options.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that it refuses anyway
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileInputError(file, f"expected tensors and options only, {_refusal(error)}") from None
    except (OSError, EOFError, RuntimeError, SafetensorError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise FileInputError(file, f"expected a whole file of weights, got: {text}; download it again.") from None
    if not isinstance(content, dict):
        raise FileInputError(file, f"expected a dictionary of weights, got {type(content).__name__}.")
    return content


def _refusal(error: pickle.UnpicklingError) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f"got a pickle that asks for {named[1]}" if named else "got something else, or a file that was cut short"
    return f"{what}; nothing of it was executed. Use a file from a source that you trust."


def _imported(tensors: Tensors, options: dict[str, Any]) -> Imported:
    if any(name.startswith("stem.0.") for name in tensors):
        ours = from_timm(tensors)
        return Imported(
            encoder=encoder_shape(ours, options), model=None, weighting="unweighted", tensors=ours, style="timm",
            options=plain(options),
        )  # fmt: skip
    style: Style = "sparse" if any(name.endswith(".kernel") for name in tensors) else "dense"
    ours = from_released(tensors)
    encoder = encoder_shape(ours, options)
    if not any(name.startswith("model.heads.") for name in ours):
        kept = {name: tensor for name, tensor in ours.items() if name.startswith("model.encoder.")}
        return Imported(encoder=encoder, model=None, weighting="unweighted", tensors=kept, style=style)
    model, ours = network_shape(encoder, ours)
    weighting = "uncertainty" if "losses.log_vars" in ours else "unweighted"
    return Imported(
        encoder=model.encoder, model=model, weighting=weighting, tensors=ours, style=style, options=plain(options)
    )


def from_released(tensors: Mapping[str, Tensor]) -> Tensors:
    """Give released tensors, sparse or dense, our names and shapes; decoders keep their tasks' names."""
    ours: Tensors = {}
    for name, tensor in tensors.items():
        if not name.startswith(DROPPED):
            plain_name = re.sub(r"\.(ln|linear)(?=\.)", "", name).removesuffix(".kernel")
            plain_name += ".weight" if name.endswith(".kernel") else ""
            ours[_rename(plain_name, RENAMES)] = _our_shape(name, tensor)
    return ours


def to_released(tensors: Mapping[str, Tensor], model: MPMAEConfig, style: Style) -> Tensors:
    """Inverse of `from_released` for a whole network of ours; shared decoders are written once per task."""
    theirs: Tensors = {}
    for name, tensor in tensors.items():
        for their_name in _released_names(name, model):
            spelled, value = (_sparse if style == "sparse" else _dense)(their_name, tensor)
            theirs[spelled] = value
    return theirs


def from_timm(tensors: Mapping[str, Tensor]) -> Tensors:
    """Give timm's tensors our names and shapes; its classifier is left out."""
    ours: Tensors = {}
    for name, tensor in tensors.items():
        if name.startswith(DROPPED):
            continue
        found = re.match(r"stages\.(\d+)\.downsample\.([01])\.(\w+)$", name)
        new = (
            f"model.encoder.downsample.{int(found[1]) - 1}.{('norm', 'conv')[int(found[2])]}.{found[3]}"
            if found
            else _rename(name, TIMM_RENAMES)
        )
        ours[new] = tensor.flatten(1) if ".mlp.fc" in name and tensor.ndim == 4 else tensor
    return ours


def to_timm(tensors: Mapping[str, Tensor], encoder: EncoderConfig) -> Tensors:
    """Inverse of `from_timm`, for an encoder with the original stem.

    Raises
    ------
    InputError
        When the stem is another.
    """
    if encoder.stem != "original":
        raise InputError(
            f"--to timm: expected an encoder with the original stem, got {encoder.stem}, which timm has no place for; "
            "export it as sparse or dense."
        )
    theirs: Tensors = {}
    for name, tensor in tensors.items():
        if name.startswith("model.encoder."):
            new = _timm_name(name.removeprefix("model.encoder."))
            linear = ".mlp.fc" in new and new.endswith("weight") and encoder.size in CONV_MLP
            theirs[new] = tensor[:, :, None, None] if linear else tensor
    return theirs


def encoder_shape(tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> EncoderConfig:
    """Read the shape of an encoder off its tensors."""
    prefix = "model.encoder."
    depths, widths = [], []
    for stage in range(4):
        blocks = {int(n.split(".")[4]) for n in tensors if n.startswith(f"{prefix}stages.{stage}.")}
        depths.append(max(blocks) + 1 if blocks else 0)
        widths.append(len(tensors[f"{prefix}stages.{stage}.0.dwconv.bias"]))
    stem = "modified" if f"{prefix}stem.dwconv.weight" in tensors else "original"
    kernel = tensors[f"{prefix}stem.{'dwconv' if stem == 'modified' else 'conv'}.weight"].shape[-1]
    shape = (tuple(depths), tuple(widths))
    size = next((name for name, known in SIZES.items() if known == shape), "atto")
    patch = 8 * kernel
    image = int(options.get("input_size") or PATCHES_ACROSS * patch)
    return EncoderConfig(
        size=size,
        patch_size=patch,
        image_size=image if image % patch == 0 else PATCHES_ACROSS * patch,
        in_channels=tensors[f"{prefix}stem.conv.weight"].shape[1],
        stem=stem,  # type: ignore[arg-type]
        depths=shape[0],
        widths=shape[1],
    )


def network_shape(encoder: EncoderConfig, tensors: Tensors) -> tuple[MPMAEConfig, Tensors]:
    """Read the shape of a whole network off its tensors; equal decoders become one.

    Raises
    ------
    InputError
        When a task is not in the catalog, so that nobody knows what it predicts.
    """
    names = list(dict.fromkeys(n.split(".")[2] for n in tensors if n.startswith("model.heads.")))
    known = {name: position for position, name in enumerate(REFERENCE_TASK_ORDER)}
    names.sort(key=lambda name: known.get(name, len(known)))
    shared, tensors = _merge_decoders(tensors, names)
    blocks = {int(n.split(".")[3]) for n in tensors if n.startswith("model.decoders.")}
    config = MPMAEConfig.of_preset(
        "reference",
        encoder,
        tuple(_task(name, tensors[f"model.heads.{name}.weight"], encoder.patch_size) for name in names),
        decoder="shared" if shared else "per-task",
        decoder_dim=tensors["model.project.weight"].shape[0],
        decoder_depth=max(blocks) + 1,
    )
    if not any(not task.kind.is_raster for task in config.tasks):
        tensors = {name: t for name, t in tensors.items() if not name.startswith("model.tile_norms.")}
    return config, tensors


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keep those options that JSON can say."""
    return {
        k: v
        for k, v in options.items()
        if isinstance(v, (bool, int, str)) or (isinstance(v, float) and math.isfinite(v))
    }


def check_style(style: str) -> Style:
    """Refuse an unknown style.

    Raises
    ------
    InputError
        Names the known ones.
    """
    if style not in get_args(Style):
        raise InputError(f"--to: expected {', '.join(get_args(Style))}, got {style!r}.")
    return style  # type: ignore[return-value]


def _task(name: str, head: Tensor, patch: int) -> TaskSpec:
    modality = load_catalog().modalities.get(name)
    if modality is None:
        raise InputError(f"the task {name} is not in the catalog, so its kind is unknown")
    kind: Kind = modality.kind
    channels = head.shape[0] // (patch**2 if kind.is_raster else 1)
    return TaskSpec(name=name, kind=kind, channels=channels, patch_norm=modality.pretext_norm == "patch")


def _merge_decoders(tensors: Tensors, tasks: Sequence[str]) -> tuple[bool, Tensors]:
    first = f"model.decoders.{tasks[0]}."
    parts = [name.removeprefix(first) for name in tensors if name.startswith(first)]
    same = all(
        torch.equal(tensors[first + part], tensors[f"model.decoders.{task}.{part}"]) for task in tasks for part in parts
    )
    if not same:
        return False, tensors
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.decoders.")}
    return True, others | {f"model.decoders.{ALL_TASKS}.{part}": tensors[first + part] for part in parts}


def _rename(name: str, table: Iterable[tuple[str, str]]) -> str:
    for pattern, new in table:
        renamed, count = re.subn(f"^{pattern}", new, name)
        if count:
            return renamed
    raise InputError(f"the name {name} is unknown")


def _our_shape(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(".kernel"):
        side = round(tensor.shape[0] ** 0.5)
        order = tensor.permute(1, 0)[:, None] if tensor.ndim == 2 else tensor.permute(2, 1, 0)
        return order.reshape(*order.shape[:-1], side, side).transpose(-1, -2)
    if name == "mask_token":
        return tensor.permute(0, 2, 3, 1)
    if name.startswith(("proj.", "pred_dict.")) and tensor.ndim == 4:
        return tensor.flatten(1)
    return tensor.flatten() if ".grn." in name or (name.endswith("bias") and tensor.ndim == 2) else tensor


def _released_names(name: str, model: MPMAEConfig) -> Iterator[str]:
    """Released names of one of our tensors, in the dense spelling."""
    if name.startswith("model.decoders.") and model.decoder == "shared":
        rest = name.removeprefix(f"model.decoders.{ALL_TASKS}.")
        yield from (f"decoder_dict.{task.name}.{rest}" for task in model.tasks)
        return
    if name.startswith("model.encoder.stem.conv.") and model.encoder.stem == "original":
        yield name.replace("model.encoder.stem.conv.", "encoder.stem_orig.0.")
        return
    if name.startswith("model.encoder.stem.norm.") and model.encoder.stem == "original":
        yield name.replace("model.encoder.stem.norm.", "encoder.stem_orig.1.")
        return
    downsample = re.match(r"model\.encoder\.downsample\.(\d+)\.(norm|conv)\.(\w+)$", name)
    if downsample:
        yield f"encoder.downsample_layers.{downsample[1]}.{int(downsample[2] == 'conv')}.{downsample[3]}"
        return
    for theirs, ours in RENAMES:
        stem = ours.rstrip("$")
        if r"\1" not in ours and name.startswith(stem):
            yield theirs.replace("\\", "").rstrip("$") + name.removeprefix(stem)
            return
    raise InputError(f"--to: the released format has no place for {name}; export the encoder alone, or as timm.")


def _dense(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    if name == "mask_token":
        return name, tensor.permute(0, 3, 1, 2)
    if ".grn." in name:
        return name, tensor[None, None, None]
    raster_head = name.startswith("pred_dict.") and _is_raster(name)
    if name == "proj.weight" or (raster_head and name.endswith("weight")):
        return name, tensor[:, :, None, None]
    return name, tensor


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
    depthwise = kernel.shape[1] == 1
    return f"{layer}.kernel", kernel[:, 0].permute(1, 0) if depthwise else kernel.permute(2, 1, 0)


def _timm_name(name: str) -> str:
    down = re.match(r"downsample\.(\d+)\.(norm|conv)\.(\w+)$", name)
    if down:
        return f"stages.{int(down[1]) + 1}.downsample.{int(down[2] == 'conv')}.{down[3]}"
    stem = re.match(r"stem\.(conv|norm)\.(\w+)$", name)
    if stem:
        return f"stem.{int(stem[1] == 'norm')}.{stem[2]}"
    block = re.match(r"stages\.(\d+)\.(\d+)\.(.+)$", name)
    if block is None:
        raise InputError(f"--to timm: there is no place for {name}.")
    parts = {
        "dwconv.": "conv_dw.", "pwconv1.": "mlp.fc1.", "pwconv2.": "mlp.fc2.", "grn.gamma": "mlp.grn.weight",
        "grn.beta": "mlp.grn.bias", "norm.": "norm.",
    }  # fmt: skip
    ours, theirs = next(pair for pair in parts.items() if block[3].startswith(pair[0]))
    return f"stages.{block[1]}.blocks.{block[2]}.{theirs}{block[3].removeprefix(ours)}"
