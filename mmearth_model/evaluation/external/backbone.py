"""An external encoder as a `Backbone`: its outputs are converted to feature maps.

Axes: B images, D features, h w positions, N tokens.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from mmearth_data import InputError
from mmearth_model.network.backbone import Backbone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mmearth_model.evaluation.external.description import Output

TRIED_PX = 64
"""Side of the image with which the number of features is determined before an image of a task was seen."""
AXES = {2: "vector", 3: "tokens", 4: "map"}
"""Number of axes -> form of the features, unless it is given."""
FORMS = {"vector": 2, "tokens": 3, "map": 4, "map-last": 4}
WORDS = 300
"""Maximum length of an encoder's error message that is quoted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How the outputs of an encoder are read; see `EncoderDescription`."""

    output: Output | None = None
    name: str | None = None
    class_tokens: int = 0
    use_class: bool = False

    def maps(self, found: Any) -> list[Tensor]:  # noqa: ANN401 - whatever the encoder returns
        """(B, D, h, w) of each output. Raises `InputError` if there is none."""
        chosen = self._chosen(found)
        return [self._map(part) for part in (chosen if isinstance(chosen, list | tuple) else [chosen])]

    def _chosen(self, found: Any) -> Any:  # noqa: ANN401
        if not isinstance(found, dict):
            if self.name is not None:
                raise InputError(
                    f"output_name: expected an encoder with named outputs, got {_kind(found)}; leave it out."
                )
            return found
        names = ", ".join(map(str, found))
        if self.name is None and len(found) == 1:
            return next(iter(found.values()))
        if self.name not in found:
            got = "none" if self.name is None else repr(self.name)
            raise InputError(f"output_name: expected one of the outputs {names or '(none)'}, got {got}; set it.")
        return found[self.name]

    def _map(self, part: Any) -> Tensor:  # noqa: ANN401
        if (
            not isinstance(part, torch.Tensor)
            or part.ndim not in AXES
            or not part.is_floating_point()
            or not part.numel()
        ):
            raise InputError(
                f"expected features of 2 (B, D), 3 (B, N, D) or 4 axes (B, D, h, w), of floating-point numbers, got {_kind(part)}; "
                "return the features, or set output_name."
            )
        form = self.output or AXES[part.ndim]
        if FORMS[form] != part.ndim:
            raise InputError(f"output: expected {form} with {FORMS[form]} axes, got {_kind(part)}; correct it.")
        if self.class_tokens and form != "tokens":
            raise InputError(f"class_tokens: expected tokens (B, N, D), got {_kind(part)}; leave it out.")
        if form == "vector":
            return part[:, :, None, None]
        if form == "tokens":
            return self._tokens(part)
        return part if form == "map" else part.permute(0, 3, 1, 2)

    def _tokens(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, D, h, w): a square if the number of tokens allows one, else one row."""
        if tokens.shape[1] <= self.class_tokens:
            raise InputError(
                f"class_tokens: expected fewer than the {tokens.shape[1]} tokens, got {self.class_tokens}; correct it."
            )
        if self.use_class:
            return tokens[:, 0, :, None, None]
        positions = tokens[:, self.class_tokens :].transpose(1, 2)
        side = math.isqrt(positions.shape[2])
        return positions.unflatten(2, (side, side) if side * side == positions.shape[2] else (1, -1))  # type: ignore[no-untyped-call, no-any-return]


def _kind(value: object) -> str:
    """Type of a value, with the shape of a tensor."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


class External(Backbone):
    """Resizes images, runs an encoder, and reads its outputs as maps.

    Parameters
    ----------
    network
        The encoder.
    name
        Its name, for messages.
    in_channels
        Channels of its input.
    identity
        Text that, with the weights, determines the output.
    reading
        How its outputs are read.
    size_px
        Side length to which images are resized; None keeps them.
    patch_px
        Sides of the images are multiples of it.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        in_channels: int,
        identity: str,
        reading: Reading,
        size_px: int | None = None,
        patch_px: int = 1,
    ) -> None:
        super().__init__()
        self.network = network
        self.name, self.in_channels, self._identity = name, in_channels, identity
        self.reading, self.size_px, self.patch_px = reading, size_px, patch_px
        self._layers = _layers(network)
        self._channels: tuple[int, ...] = ()

    @property
    def channels(self) -> Sequence[int]:
        """Channels of each map."""
        if not self._channels:
            side = self.size_px or math.ceil(TRIED_PX / self.patch_px) * self.patch_px
            with torch.no_grad():
                self.forward_features(torch.zeros(2, self.in_channels, side, side, device=self.device))
        return self._channels

    @property
    def strides(self) -> Sequence[int]:
        """Multiple of which the sides of the images are; the encoder's own strides are unknown."""
        return (self.patch_px,)

    @property
    def identity(self) -> str:
        """Program and description."""
        return self._identity

    @property
    def whole_batches(self) -> bool:
        """Whether it has batch normalisation."""
        return any(isinstance(part, _BatchNorm) for part in self.modules())

    @property
    def layers(self) -> int:
        """Number of blocks: numbered submodules that themselves have submodules."""
        return max(self._layers.values(), default=0)

    def layer_of(self, name: str) -> int:
        """Count the blocks up to the one that a parameter is in or comes after; 0 before the first."""
        return self._layers[name.removeprefix("network.")]

    def released_layer_of(self, name: str) -> int:
        """Layer as counted by `layer_of`: the released code supports its own architecture only."""
        return self.layer_of(name)

    def with_drop_path(self, rate: float) -> Self:
        """Copy the encoder, which has its own regularisation, if any."""
        try:
            return copy.deepcopy(self)
        except Exception as error:
            raise InputError(
                f"{self.name}: expected a module that can be copied, got {reason(error)}; correct the module."
            ) from error

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to the last map, (B, D, h, w)."""
        return self.forward_features(x)[-1]

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) to all maps."""
        if self.size_px is not None and x.shape[-2:] != (self.size_px, self.size_px):
            size = (self.size_px, self.size_px)
            x = functional.interpolate(x, size=size, mode="bilinear", antialias=min(x.shape[-2:]) > self.size_px)
        found = self._run(x)
        try:
            maps = self.reading.maps(found)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from None
        self._check(x, maps)
        return maps

    def _run(self, x: Tensor) -> Any:  # noqa: ANN401 - whatever the encoder returns
        try:
            return self.network(x)
        except Exception as error:
            shape = f"{x.shape[-2]} x {x.shape[-1]} px with {x.shape[1]} channels"
            remedy = (
                "set size_px to a size that it accepts"
                if self.size_px is None
                else "correct the encoder or its description"
            )
            raise InputError(
                f"{self.name}: expected an encoder that accepts {len(x)} images of {shape} on {x.device}, got {reason(error)}; {remedy}."
            ) from error

    def _check(self, x: Tensor, maps: Sequence[Tensor]) -> None:
        """Refuse features of other images, of a changing number, that are not finite, or that cannot be trained."""
        channels = tuple(part.shape[1] for part in maps)
        self._channels = self._channels or channels
        problem = None
        if any(len(part) != len(x) for part in maps):
            problem = f"features of {len(x)} images, got {_kind(maps[-1])}"
        elif channels != self._channels:
            problem = f"{self._channels[-1]} features as of other images, got {channels[-1]}; set size_px if the number depends on the size"
        elif not self.training and not all(bool(torch.isfinite(part).all()) for part in maps):
            problem = "finite features, got NaN or infinity; check units and normalisation of its input"
        elif self._untrainable(maps[-1]):
            problem = "features with gradients, got none; remove torch.no_grad or detach from its code"
        if problem:
            raise InputError(f"{self.name}: expected {problem}.")

    def _untrainable(self, features: Tensor) -> bool:
        wanted = self.training and torch.is_grad_enabled() and any(p.requires_grad for p in self.network.parameters())
        return wanted and not features.requires_grad


def reason(error: BaseException) -> str:
    """Type and message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:WORDS]}"


def _layers(network: nn.Module) -> dict[str, int]:
    """Parameter -> number of the block that it is in, or comes after."""
    blocks = {
        name
        for name, part in network.named_modules()
        if name.rpartition(".")[2].isdigit() and any(True for _ in part.children())
    }
    found: dict[str, int] = {}
    layer, current = 0, ""
    for name, _ in network.named_parameters():
        parts = name.split(".")
        prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        block = next((prefix for prefix in prefixes if prefix in blocks), current)
        layer, current = layer + (block != current), block
        found[name] = layer
    return found
