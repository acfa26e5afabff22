"""MP-MAE: predict all modalities from the visible patches of one.

Nedungadi et al., *MMEarth: Exploring Multi-Modal Pretext Tasks For Geospatial Representation Learning*,
ECCV 2024, arXiv 2405.02771. The forward pass is pure: callers provide crops, masks and losses.

Axes: B batch, h w patches down and across, L = h * w, D decoder channels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import torch
from torch import nn

from mmearth_data import InputError, Kind
from mmearth_model.network.encoder import GRN, INIT_STD, NORM_EPS, Block, ConvNeXtV2, EncoderConfig, initialise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from mmearth_data import Modality

Preset = Literal["default", "paper", "reference"]
"""``default``; ``paper``: a decoder of its own for every task; ``reference``: what the released code computes."""

Sharing = Literal["shared", "per-task"]
Init = Literal["default", "reference", "fan-in"]

REFERENCE_TASK_ORDER = (
    "sentinel2", "sentinel1", "aster", "era5", "dynamic_world", "canopy_height_eth",
    "lat", "lon", "biome", "eco_region", "month", "esa_worldcover",
)  # fmt: skip
"""Order of the released checkpoints' ``log_vars``."""

ALL_TASKS = "shared"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """One pretext task: the prediction of a modality."""

    name: str  # the modality
    kind: Kind  # decides head and loss
    channels: int  # values per pixel or tile: bands, or classes
    patch_norm: bool = False  # the target is normalised within each patch

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", Kind(self.kind))
        if self.kind is Kind.RASTER_MASK or self.channels < 1:
            raise InputError(
                f"{self.name}: expected a kind that can be learned and at least one channel, got {self.kind} and "
                f"{self.channels}; leave it out."
            )

    @classmethod
    def from_modality(cls, modality: Modality) -> Self:
        """Task of predicting a modality's model bands, or its classes."""
        return cls(
            name=modality.name,
            kind=modality.kind,
            channels=len(modality.classes) if modality.kind.is_categorical else len(modality.model_bands),
            patch_norm=modality.pretext_norm == "patch",
        )


def tasks_of(modalities: Iterable[Modality], preset: Preset = "default") -> tuple[TaskSpec, ...]:
    """Tasks of all modalities that are pretext targets, in the given order (``reference``: that of its log_vars)."""
    tasks = [TaskSpec.from_modality(modality) for modality in modalities if modality.pretext]
    if preset == "reference":
        tasks.sort(key=lambda task: reference_rank(task.name))
    return tuple(tasks)


def reference_rank(name: str) -> int:
    """Position of a task in `REFERENCE_TASK_ORDER`; tasks that it lacks come last."""
    return REFERENCE_TASK_ORDER.index(name) if name in REFERENCE_TASK_ORDER else len(REFERENCE_TASK_ORDER)


@dataclass(frozen=True, kw_only=True, slots=True)
class MPMAEConfig:
    """Configuration of an `MPMAE`.

    Attributes
    ----------
    encoder
        The encoder, whose ``in_channels`` are the bands of the input.
    tasks
        The tasks to predict.
    decoder
        One decoder ``shared`` by all tasks, or a separate one ``per-task``.
    decoder_dim, decoder_depth
        Channels and blocks of a decoder.
    decoder_grn_eps
        GRN's epsilon in the decoder.
    tile_norm
        The LayerNorm before the pooling of tile tasks: ``per-task`` or ``shared``.
    drop_empty_pixels
        Treat pixels that are 0 in all bands as hidden.
    init
        ``default``: standard deviation 0.02 throughout, truncated at 2 deviations. ``reference``: as in the released
        code, whose helper truncates at an absolute 2: 1 (0.88 after truncation) for the encoder's depthwise and
        pointwise layers and all dense convolutions (projection, depthwise convolution of the decoder, heads of pixels),
        0.02 for the rest. ``fan-in``: 1 / sqrt(inputs of the layer), for encoders narrower than the paper's: with 0.02
        those start out almost linear, and in a short run their features collapse onto a few directions.
    """

    encoder: EncoderConfig
    tasks: tuple[TaskSpec, ...]
    decoder: Sharing = "shared"
    decoder_dim: int = 512
    decoder_depth: int = 1
    decoder_grn_eps: float = NORM_EPS
    tile_norm: Sharing = "per-task"
    drop_empty_pixels: bool = False
    init: Init = "default"

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) != len(names):
            raise InputError(f"expected at least one task, each once, got {names}; name the modalities to learn.")
        for field, choices in (("decoder", Sharing), ("tile_norm", Sharing), ("init", Init)):
            if getattr(self, field) not in get_args(choices):
                raise InputError(f"expected {field} {' or '.join(get_args(choices))}, got {getattr(self, field)!r}.")
        if self.decoder_dim < 1 or self.decoder_depth < 1:
            raise InputError(
                f"expected a decoder of at least one channel and block, got {self.decoder_dim} and {self.decoder_depth}."
            )

    @classmethod
    def of_preset(cls, preset: Preset, encoder: EncoderConfig, tasks: Sequence[TaskSpec], **changes: Any) -> Self:
        """Configure a preset; ``changes`` override its fields. Raises `InputError` when there is no such preset."""
        if preset not in get_args(Preset):
            raise InputError(f"expected a preset of {', '.join(get_args(Preset))}, got {preset!r}.")
        fields: dict[str, Any] = {"encoder": encoder, "tasks": tuple(tasks)}
        if preset == "paper":
            fields |= {"decoder": "per-task"}
        if preset == "reference":
            fields |= {
                "encoder": dataclasses.replace(encoder, grn="batch"),
                "decoder_grn_eps": 1e-4,
                "tile_norm": "shared",
                "drop_empty_pixels": True,
                "init": "reference",
            }
        return cls(**{**fields, **changes})

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        entry = dataclasses.asdict(self)
        entry["tasks"] = [{**task, "kind": str(task["kind"])} for task in entry["tasks"]]
        return entry

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`. Raises `InputError` when a field is missing, unknown or wrong."""
        try:
            tasks = tuple(TaskSpec(**task) for task in entry["tasks"])
            return cls(**{**entry, "encoder": EncoderConfig(**entry["encoder"]), "tasks": tasks})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"expected the configuration of an MP-MAE, got one that does not fit: {error}.") from error


class MPMAE(nn.Module):
    """Encoder, decoder and one head per task.

    Parameters
    ----------
    config
        Configuration of its parts.
    """

    def __init__(self, config: MPMAEConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch = config.decoder_dim, config.encoder.patch_size
        tile_tasks = [task.name for task in config.tasks if not task.kind.is_raster]
        self.encoder = ConvNeXtV2(config.encoder)
        self.project = nn.Linear(self.encoder.out_channels, dim)  # a 1 x 1 convolution
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 1, dim))
        blocks = range(config.decoder_depth)
        self.decoders = nn.ModuleDict(
            {
                key: nn.Sequential(*(Block(dim, grn_eps=config.decoder_grn_eps) for _ in blocks))
                for key in owners(config.decoder, [task.name for task in config.tasks])
            }
        )
        self.tile_norms = nn.ModuleDict(
            {key: nn.LayerNorm(dim, eps=NORM_EPS) for key in owners(config.tile_norm, tile_tasks)}
        )
        self.heads = nn.ModuleDict(
            {
                task.name: nn.Linear(dim, task.channels * (patch**2 if task.kind.is_raster else 1))
                for task in config.tasks
            }
        )
        self.initialise()

    def forward(self, images: Tensor, mask: Tensor, visible: int | None = None) -> dict[str, Tensor]:
        """Predict every task from the visible patches.

        Parameters
        ----------
        images
            (B, in_channels, H, W) float, normalised, 0 where missing.
        mask
            (B, L) bool, True where hidden.
        visible
            Patches that the mask leaves in every sample; None counts them, see `ConvNeXtV2.forward`.

        Returns
        -------
        dict of Tensor
            Task -> (B, L, patch_size**2 * channels) for rasters, a value's index being
            ``(row * patch_size + column) * channels + channel``; (B, channels) for tiles.
        """
        pixels = (images != 0).any(dim=1) if self.config.drop_empty_pixels else None
        x = self.project(self.encoder.encode(images, mask, pixels, visible))
        x = torch.where(mask.reshape(*x.shape[:3], 1), self.mask_token.to(x.dtype), x)
        decoded = {key: decoder(x) for key, decoder in self.decoders.items()}
        return {task.name: self.predict(task, decoded) for task in self.config.tasks}

    def predict(self, task: TaskSpec, decoded: Mapping[str, Tensor]) -> Tensor:
        """One task's prediction from the decoders' outputs, (B, h, w, D) each."""
        y = decoded[task.name if self.config.decoder == "per-task" else ALL_TASKS]
        if task.kind.is_raster:
            y = y.flatten(1, 2)
        else:
            norm = self.tile_norms[task.name if self.config.tile_norm == "per-task" else ALL_TASKS]
            y = norm(y).mean(dim=(1, 2))
        prediction: Tensor = self.heads[task.name](y)
        return prediction

    def initialise(self) -> None:
        """Initialise all weights with torch's generator."""
        initialise(self, std=None if self.config.init == "fan-in" else INIT_STD)
        nn.init.normal_(self.mask_token, std=INIT_STD)
        if self.config.init == "reference":
            self._initialise_as_released()

    def _initialise_as_released(self) -> None:
        """Truncate the normal distribution at an absolute 2: 2 deviations of the wide layers, 100 of the others."""
        wide = {id(layer) for layer in self._wide_layers()}
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(layer.weight, std=1.0 if id(layer) in wide else INIT_STD, a=-2.0, b=2.0)

    def _wide_layers(self) -> list[nn.Module]:
        """Depthwise and pointwise layers of the encoder, and dense convolutions: the released code leaves their std at 1."""
        return [
            self.project,
            *(layer for layer in self.encoder.modules() if isinstance(layer, nn.Linear) or _is_depthwise(layer)),
            *(layer for layer in self.decoders.modules() if _is_depthwise(layer)),
            *(self.heads[task.name] for task in self.config.tasks if task.kind.is_raster),
        ]


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1


def owners(form: str, tasks: Sequence[str]) -> tuple[str, ...]:
    """Keys of the modules: one for all tasks, or one for each."""
    return tuple(tasks) if form == "per-task" else (ALL_TASKS,) if tasks else ()


def parameter_groups(*modules: nn.Module, weight_decay: float, decay_grn: bool = False) -> list[dict[str, Any]]:
    """Split the parameters of a model and its losses for an optimiser: with weight decay, and without.

    Biases and one-dimensional parameters (norms, GRN, log_vars) are not decayed; the mask token is. With ``decay_grn``,
    GRN's gamma and beta are decayed too, as in the released code, where they are not one-dimensional.
    """
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for module in modules:
        for layer in module.modules():
            for parameter in layer.parameters(recurse=False):
                decays = parameter.ndim > 1 or (decay_grn and isinstance(layer, GRN))
                groups[0 if decays else 1].append(parameter)
    return [
        {"params": groups[0], "weight_decay": weight_decay},
        {"params": groups[1], "weight_decay": 0.0},
    ]
