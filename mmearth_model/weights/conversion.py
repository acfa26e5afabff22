"""Import and export of third-party weights: the released MMEarth checkpoints and plain ConvNeXt V2.

Names and shapes that can be read:

MMEarth, sparse
    As released: the pretraining network on its sparse engine. ``...kernel`` is (k * k, in, out), (k * k, C) for a
    depthwise convolution, or (in, out) for a 1 x 1 convolution; its rows run down the columns of the kernel. Names
    contain ``.ln`` and ``.linear``.
MMEarth, dense
    The same network without that engine; also the classifiers and UNets fine-tuned from it, whose names lack the
    ``encoder.`` prefix.
ConvNeXt V2
    As named by its authors, sparse and dense, pretrained (FCMAE) and classifiers: ``downsample_layers.0`` is the stem.
timm
    A plain ConvNeXt V2 (original stem, no decoder), as PyTorch image models names it.

A ``module.`` prefix, as left by PyTorch's data parallelism, is dropped everywhere. `mmearth_model.weights.torchfiles` documents
what else a file may hold, and how it is read without running anything.

Code for which weights can be written (`Audience`):

``sparse``
    The released pretraining code, ``FCMAE(sparse=True)``: a whole network of preset reference.
``dense``
    The same, ``FCMAE(sparse=False)``, whose encoder has a norm and a head that are never used.
``finetune``
    The released fine-tuning code and its ``torch.hub`` entry: an encoder alone. That code adds two axes to every GRN
    tensor, so they are written as (1, C).
``timm``
    timm's ConvNeXt V2.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mmearth_data import FileInputError, InputError, Kind, load_catalog, reason_of
from mmearth_model.network.encoder import SIZES, ConvNeXtV2, EncoderConfig
from mmearth_model.network.mpmae import ALL_TASKS, MPMAE, MPMAEConfig, TaskSpec, reference_rank
from mmearth_model.weights.torchfiles import StoredTensor, read_torch, refusing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

Style = Literal["sparse", "dense", "timm"]
Audience = Literal["finetune", "dense", "sparse", "timm"]
Tensors = dict[str, "Tensor"]

CONV_MLP = ("atto", "femto", "pico", "nano")
"""Sizes whose linear layers are 1 x 1 convolutions in timm."""
PATCHES_ACROSS = 7
TIMM_STRIDE = 32
"""Coarsest stride of timm's ConvNeXt by default (``output_stride``)."""
TIMM_HALVINGS = 4
"""Factor by which the stem's stride has grown before the last stage."""
CLASSES = 1000
"""Number of outputs of the head that the released dense encoder has even in pretraining."""
DENSE_GRN_EPS = 1e-4
"""GRN's epsilon in the released fine-tuning networks; it is 1e-6 in pretraining and everywhere else."""
DROPPED = ("encoder.norm.", "encoder.head.", "head.", "norm.")
"""The dense style and timm include a classifier, which is not part of an encoder."""
WEIGHTS = ("model", "state_dict", "module")
"""Keys that may hold the weights of a file; without any of them, the file itself is the weights."""
UNET_PARTS = ("upsample_layers.", "initial_conv_upsample.", "layerNorm.")
FCMAE_PARTS = ("decoder.", "pred.", "proj.", "mask_token")
"""Parts on top of the encoder in the released UNets, and in the pretraining network of ConvNeXt V2's authors."""
ENCODER_PARTS = ("initial_conv.", "stem_orig.", "stem.", "downsample_layers.", "stages.", "norm.", "head.")
"""Parts of an encoder whose names lack the ``encoder.`` prefix."""
AUTHORS_LAST = "encoder.downsample_layers.3.0"
"""ConvNeXt V2's authors count the stem as the first of four downsampling layers; the released code has three."""

Names = tuple[tuple[str, str], ...]
RENAMES: Names = (
    ("encoder.initial_conv.0.", "model.encoder.stem.conv."),
    ("encoder.initial_conv.1.", "model.encoder.stem.norm."),
    ("encoder.stem_orig.0.", "model.encoder.stem.conv."),
    ("encoder.stem_orig.1.", "model.encoder.stem.norm."),
    ("encoder.stem.0.", "model.encoder.stem.dwconv."),
    ("encoder.stem.1.", "model.encoder.stem.dwnorm."),
    ("encoder.downsample_layers.{}.0.", "model.encoder.downsample.{}.norm."),
    ("encoder.downsample_layers.{}.1.", "model.encoder.downsample.{}.conv."),
    ("encoder.stages.", "model.encoder.stages."),
    ("proj.", "model.project."),
    ("mask_token", "model.mask_token"),
    ("layer_norm_tmp.", f"model.tile_norms.{ALL_TASKS}."),
    ("decoder_dict.", "model.decoders."),
    ("pred_dict.", "model.heads."),
    ("loss_fn.log_vars", "losses.log_vars"),
)
"""Beginning of a released name, without ``.ln`` and ``.linear`` and with ``kernel`` called ``weight``, and of ours."""
AUTHORS_RENAMES: Names = (
    ("encoder.downsample_layers.0.", "encoder.stem_orig."),
    *((f"encoder.downsample_layers.{n}.", f"encoder.downsample_layers.{n - 1}.") for n in (1, 2, 3)),
)
"""The same of ConvNeXt V2's authors, and of the released code."""
TIMM_RENAMES: Names = (
    ("stem.0.", "model.encoder.stem.conv."),
    ("stem.1.", "model.encoder.stem.norm."),
    ("stages.0.downsample.0.", "model.encoder.stem.down.norm."),
    ("stages.0.downsample.1.", "model.encoder.stem.down.conv."),
    *((f"stages.{n}.downsample.0.", f"model.encoder.downsample.{n - 1}.norm.") for n in (1, 2, 3)),
    *((f"stages.{n}.downsample.1.", f"model.encoder.downsample.{n - 1}.conv.") for n in (1, 2, 3)),
    ("stages.{}.blocks.{}.conv_dw.", "model.encoder.stages.{}.{}.dwconv."),
    ("stages.{}.blocks.{}.norm.", "model.encoder.stages.{}.{}.norm."),
    ("stages.{}.blocks.{}.mlp.fc1.", "model.encoder.stages.{}.{}.pwconv1."),
    ("stages.{}.blocks.{}.mlp.fc2.", "model.encoder.stages.{}.{}.pwconv2."),
    ("stages.{}.blocks.{}.mlp.grn.weight", "model.encoder.stages.{}.{}.grn.gamma"),
    ("stages.{}.blocks.{}.mlp.grn.bias", "model.encoder.stages.{}.{}.grn.beta"),
)
"""The same of timm, and of ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """Third-party weights under our names."""

    encoder: EncoderConfig  # shape of the encoder
    model: MPMAEConfig | None  # shape of the whole network; None for an encoder alone
    weighting: str
    tensors: Tensors  # ``model.`` and ``losses.`` names, as in a checkpoint of ours
    style: Style
    options: dict[str, Any] = field(default_factory=dict)  # options of the run that produced them, if the file has them


def import_weights(file: Path) -> Imported:
    """Read a released checkpoint, or plain ConvNeXt V2 weights, from a ``.pth``, ``.pt`` or ``.safetensors`` file.

    Raises `FileInputError` when the file is truncated, asks for anything but tensors, containers and numbers outside
    ``args``, or fits no known architecture.
    """
    tensors, options = read_foreign(file)
    try:
        found = _imported(tensors, options)
        _check_whole(found)
    except FileInputError:
        raise
    except (InputError, KeyError, IndexError, RuntimeError, ValueError) as error:
        raise FileInputError(
            file,
            f"expected a released MMEarth checkpoint or a ConvNeXt V2, got {len(tensors)} tensors that are neither "
            f"({' '.join(str(error).split())}); mmearth-train convert --help lists what can be read.",
        ) from None
    check_numbers(file, found.tensors)
    return found


def check_numbers(file: Path, tensors: Mapping[str, Tensor], *, infinite: bool = False) -> None:
    """Refuse weights that are NaN, such as those of a diverged run, or infinite, unless ``infinite`` allows it."""
    for name, tensor in tensors.items():
        bad = tensor.isnan() if infinite else ~tensor.isfinite()
        if bad.any():
            expected = "numbers" if infinite else "finite numbers"
            raise FileInputError(
                file,
                f"expected {expected} as weights, got others in {name} ({int(bad.sum())} of {bad.numel()}); use weights of "
                "an earlier step, or train again.",
            )


def read_foreign(file: Path) -> tuple[Tensors, dict[str, Any]]:
    """Weights of a file, read without executing anything, and the options of the run that produced them.

    Raises `FileInputError` when the file is missing, truncated, or a pickle of more than numbers and options.
    """
    if file.suffix == ".safetensors":
        try:
            return load_file(file), {}
        except (OSError, SafetensorError) as error:
            raise FileInputError(
                file, f"expected a complete file of weights, got: {reason_of(error)[:200]}; download it again."
            ) from None
    found = read_torch(file)
    weights = next((found.content[key] for key in WEIGHTS if key in found.content), found.content)
    named = weights.items() if isinstance(weights, dict) else ()
    with refusing(file):
        tensors = {str(name): found.tensor(value) for name, value in named if isinstance(value, StoredTensor)}
    return tensors, plain(found.options())


def _imported(tensors: Tensors, options: dict[str, Any]) -> Imported:
    tensors = {re.sub(r"^(module\.)+", "", name): tensor for name, tensor in tensors.items()}
    if any(re.match(r"stages\.\d+\.blocks\.", name) for name in tensors):
        ours = from_timm(tensors)
        return _encoder_alone(ours, timm_layout(encoder_shape(ours, options)), "timm", options)
    style: Style = "sparse" if any(name.endswith(".kernel") for name in tensors) else "dense"
    bare = any(name.startswith(ENCODER_PARTS) for name in tensors)
    unet = any(name.startswith(UNET_PARTS) for name in tensors)
    tensors = {
        f"encoder.{name}" if name.startswith(ENCODER_PARTS) else name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(UNET_PARTS)
    }
    if any(name.startswith(AUTHORS_LAST) for name in tensors):
        ours = from_released(_authors_encoder(tensors))
        return _encoder_alone(ours, encoder_shape(ours, options), style, options)
    ours = from_released(tensors)
    encoder = encoder_shape(ours, options)
    if bare:
        encoder = replace(encoder, padding="same" if unet else "reference", grn_eps=DENSE_GRN_EPS)
    if not any(name.startswith("model.heads.") for name in ours):
        return _encoder_alone(ours, encoder, style, options)
    model, ours = network_shape(encoder, ours)
    weighting = "uncertainty" if "losses.log_vars" in ours else "unweighted"
    return Imported(encoder=model.encoder, model=model, weighting=weighting, tensors=ours, style=style, options=options)


def _check_whole(found: Imported) -> None:
    """Refuse weights that are not exactly those of the network inferred from them."""
    if sum(found.encoder.depths or ()) > len(found.tensors):
        raise InputError(f"blocks are missing among {found.encoder.depths} per stage")
    with torch.device("meta"):
        network = ConvNeXtV2(found.encoder) if found.model is None else MPMAE(found.model)
    prefix = "model.encoder." if found.model is None else "model."
    expected = {f"{prefix}{name}": tensor.shape for name, tensor in network.state_dict().items()}
    if found.weighting == "uncertainty":
        expected["losses.log_vars"] = torch.Size([len(found.model.tasks if found.model else ())])
    for name in sorted(expected.keys() | found.tensors.keys()):
        tensor = found.tensors.get(name)
        if tensor is None or name not in expected:
            raise InputError(f"{name} is {'missing' if tensor is None else 'unknown'}")
        if tensor.shape != expected[name] or not tensor.is_floating_point():
            wanted = f"{tuple(expected[name])} real numbers"
            raise InputError(f"{name} has shape {tuple(tensor.shape)} of {tensor.dtype} instead of {wanted}")


def _encoder_alone(ours: Tensors, encoder: EncoderConfig, style: Style, options: dict[str, Any]) -> Imported:
    kept = {name: tensor for name, tensor in ours.items() if name.startswith("model.encoder.")}
    return Imported(encoder=encoder, model=None, weighting="unweighted", tensors=kept, style=style, options=options)


def _authors_encoder(tensors: Mapping[str, Tensor]) -> Tensors:
    """Rename an encoder of ConvNeXt V2's authors to the released names: their first downsampling layer is the stem."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(FCMAE_PARTS)}
    return {rename(name, AUTHORS_RENAMES) or name: tensor for name, tensor in kept.items()}


def from_released(tensors: Mapping[str, Tensor]) -> Tensors:
    """Give released tensors, sparse or dense, our names and shapes; decoders keep their tasks' names."""
    ours: Tensors = {}
    for name, tensor in tensors.items():
        if not name.startswith(DROPPED):
            plain_name = re.sub(r"\.(ln|linear)(?=\.)", "", name)
            ours[_renamed(re.sub(r"\.kernel$", ".weight", plain_name), RENAMES)] = _our_shape(name, tensor)
    return ours


def from_timm(tensors: Mapping[str, Tensor]) -> Tensors:
    """Give timm's tensors our names and shapes, without its classifier."""
    return {
        _renamed(name, TIMM_RENAMES): tensor.flatten(1) if ".mlp.fc" in name and tensor.ndim == 4 else tensor
        for name, tensor in tensors.items()
        if not name.startswith(DROPPED)
    }


def timm_layout(encoder: EncoderConfig) -> EncoderConfig:
    """Return the encoder configuration that timm computes: it dilates convolutions instead of strides beyond 32 px."""
    if encoder.stem != "original" or encoder.stem_stride * TIMM_HALVINGS < TIMM_STRIDE:
        return encoder
    return replace(encoder, max_stride=TIMM_STRIDE)


def encoder_shape(tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> EncoderConfig:
    """Infer the configuration of an encoder from its tensors."""
    prefix = "model.encoder."
    depths, widths = [], []
    for stage in range(4):
        blocks = {int(n.split(".")[4]) for n in tensors if n.startswith(f"{prefix}stages.{stage}.")}
        depths.append(max(blocks) + 1 if blocks else 0)
        widths.append(tensors[f"{prefix}stages.{stage}.0.dwconv.bias"].numel())
    modified, halved = (f"{prefix}stem.{layer}.weight" in tensors for layer in ("dwconv", "down.conv"))
    kernel = tensors[f"{prefix}stem.{'dwconv' if modified else 'conv'}.weight"].shape[-1] * (2 if halved else 1)
    shape = (tuple(depths), tuple(widths))
    size = next((name for name, known in SIZES.items() if known == shape), "atto")
    patch = 8 * kernel
    image = options.get("input_size")
    return EncoderConfig(
        size=size,
        patch_size=patch,
        image_size=image
        if isinstance(image, int) and image >= patch > 0 and image % patch == 0
        else PATCHES_ACROSS * patch,
        in_channels=tensors[f"{prefix}stem.conv.weight"].shape[1],
        stem="modified" if modified else "halved" if halved else "original",
        depths=shape[0],
        widths=shape[1],
    )


def network_shape(encoder: EncoderConfig, tensors: Tensors) -> tuple[MPMAEConfig, Tensors]:
    """Infer the configuration of a whole network from its tensors; equal decoders become one.

    Raises `InputError` if a task is not in the catalog, so that its kind is unknown.
    """
    names = list(dict.fromkeys(n.split(".")[2] for n in tensors if n.startswith("model.heads.")))
    names.sort(key=reference_rank)
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
    if all(task.kind.is_raster for task in config.tasks):
        tensors = {name: t for name, t in tensors.items() if not name.startswith("model.tile_norms.")}
    return config, tensors


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the options that JSON can represent: finite numbers in the range of a float, and text."""
    return {
        k: v
        for k, v in options.items()
        if isinstance(v, str) or (isinstance(v, (int, float)) and abs(v) <= sys.float_info.max)
    }


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


def rename(name: str, table: Names) -> str | None:
    """Replace the beginning of a name by the first row of a table that has it; ``{}`` means a number."""
    for old, new in table:
        found = re.match(re.escape(old).replace(r"\{\}", r"(\d+)"), name)
        if found:
            return new.format(*found.groups()) + name[found.end() :]
    return None


def _renamed(name: str, table: Names) -> str:
    new = rename(name, table)
    if new is None:
        raise InputError(f"the name {name} is unknown")
    return new


def _our_shape(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(".kernel"):
        if tensor.ndim == 2 and not name.endswith((".dwconv.kernel", ".stem.0.kernel")):
            return tensor.T[:, :, None, None]  # the engine keeps no kernel axis for a single offset
        side = round(tensor.shape[0] ** 0.5)
        order = tensor.permute(1, 0)[:, None] if tensor.ndim == 2 else tensor.permute(2, 1, 0)
        return order.reshape(*order.shape[:-1], side, side).transpose(-1, -2)
    if name == "mask_token":
        return tensor.permute(0, 2, 3, 1)
    if name.startswith(("proj.", "pred_dict.")) and tensor.ndim == 4:
        return tensor.flatten(1)
    return tensor.flatten() if ".grn." in name or (name.endswith("bias") and tensor.ndim == 2) else tensor
