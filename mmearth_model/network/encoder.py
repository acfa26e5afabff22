"""ConvNeXt V2, dense or on visible positions only.

Woo et al., *ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders*, CVPR 2023,
arXiv 2301.00808; the modified stem is that of Nedungadi et al., *MMEarth*, ECCV 2024, arXiv 2405.02771.

Axes: B batch, H W pixels, h w positions of a stage, C channels, L patches. Inside, features are (B, h, w, C), so that
norms and linear layers read contiguous memory; convolutions run channels-last.

Hidden patches and missing pixels do not exist for the network. Its layers compute on the remaining positions:
``gather`` takes their features from an image, ``scatter`` puts them back, ``mask`` sets the others to 0, and
``convolve`` applies a layer that reads neighbours. `mmearth_model.network.positions` implements these.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeVar, get_args

import torch
from torch import nn
from torch.nn import functional

from mmearth_data import InputError
from mmearth_model.network.backbone import Backbone
from mmearth_model.network.feature_maps import FeatureInfo
from mmearth_model.network.pooling import evaluating, pooled_features, whole_patches
from mmearth_model.network.positions import EVERYWHERE, Engine, Hidden, Positions, auto

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from mmearth_model.data.targets import Normaliser
    from mmearth_model.data.tiles import Tiles

Stem = Literal["modified", "original", "halved"]
Padding = Literal["same", "reference"]
Pool = Literal["sample", "batch"]
Encoder = TypeVar("Encoder", bound=Backbone)

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "huge": ((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
"""Size -> (blocks per stage, channels per stage)."""

NORM_EPS = 1e-6
INIT_STD = 0.02
STAGES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Configuration of a `ConvNeXtV2`.

    Attributes
    ----------
    size
        Key of `SIZES`.
    patch_size
        Pixels along a side of a patch, which is one position of the last stage; a multiple of 8.
    image_size
        Pixels along a side of the training images; the network itself takes any multiple of a patch.
    in_channels
        Bands of the input.
    stem
        ``modified``: 3 x 3 convolution, LayerNorm, GELU, then a depthwise convolution with kernel = stride =
        patch_size / 8, LayerNorm. ``original``: one convolution with kernel = stride = patch_size / 8, LayerNorm.
        ``halved``: like ``original`` with half that kernel, then LayerNorm and a 2 x 2 convolution with stride 2
        (timm's form of a stem of 2 px); takes no mask.
    padding
        ``same``: stages align with the patch grid. ``reference``: like the released classification model, first
        convolution unpadded, stem padded by (patch_size / 8) // 2; takes no mask.
    grn
        With a mask, GRN's norm runs over the visible positions of each ``sample`` or of the whole ``batch``; without
        one, always over each sample.
    grn_eps
        1e-6 in the released sparse encoder, 1e-4 in the released dense one.
    drop_path
        Stochastic depth of the last block; it increases linearly from 0.
    depths, widths
        Blocks and channels per stage, instead of those of ``size``.
    max_stride
        Pixels along a side of the coarsest position: the convolutions of a stage that would exceed it are dilated
        instead (as timm does for stems of 8 px and more, with 32); takes no mask. None: no limit.
    """

    size: str = "atto"
    patch_size: int = 8
    image_size: int = 56
    in_channels: int = 12
    stem: Stem = "modified"
    padding: Padding = "same"
    grn: Pool = "sample"
    grn_eps: float = 1e-6
    drop_path: float = 0.0
    depths: tuple[int, ...] | None = None
    widths: tuple[int, ...] | None = None
    max_stride: int | None = None

    def __post_init__(self) -> None:
        problem = _first_problem(self)
        if problem:
            raise InputError(problem)
        depths, widths = SIZES[self.size]
        object.__setattr__(self, "depths", tuple(self.depths or depths))
        object.__setattr__(self, "widths", tuple(self.widths or widths))

    @property
    def stem_stride(self) -> int:
        """Pixels along a side of one position of the first stage."""
        return self.patch_size // 8

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels along a side of one position, for each stage."""
        steps = (self.stem_stride * 2**stage for stage in range(STAGES))
        return tuple(step if self.max_stride is None else min(step, self._widest) for step in steps)

    @property
    def _widest(self) -> int:
        """Stride at which downsampling ends: the first that reaches the limit."""
        widest = self.stem_stride
        while widest < (self.max_stride or 0):
            widest *= 2
        return widest

    @property
    def maskable(self) -> bool:
        """Whether the positions of all stages align with the patch grid, so that patches can be hidden."""
        return self.padding == "same" and self.stem != "halved" and self.max_stride is None

    @property
    def patches(self) -> int:
        """Patches of an image of ``image_size``."""
        return (self.image_size // self.patch_size) ** 2


def _first_problem(config: EncoderConfig) -> str | None:
    patch, image = config.patch_size, config.image_size
    if config.size not in SIZES:
        return f"expected an encoder size of {', '.join(SIZES)}, got {config.size!r}."
    if patch < 8 or patch % 8:
        return f"expected a patch size that is a multiple of 8 px, got {patch}; 8 and 16 are usual."
    if image < patch or image % patch:
        return f"expected an image size that is a multiple of the {patch} px patch, got {image}."
    if config.in_channels < 1:
        return f"expected at least one band of input, got {config.in_channels}; name an input modality."
    for field, choices in (("stem", Stem), ("padding", Padding), ("grn", Pool)):
        if getattr(config, field) not in get_args(choices):
            return f"expected {field} {' or '.join(get_args(choices))}, got {getattr(config, field)!r}."
    if not 0 <= config.drop_path < 1:
        return f"expected a drop path rate in [0, 1), got {config.drop_path}."
    for field in ("depths", "widths"):
        if len(getattr(config, field) or range(4)) != 4:
            return f"expected {field} of four stages, got {getattr(config, field)}."
    if config.stem == "halved" and patch % 16:
        return f"expected a patch size that is a multiple of 16 px with the halved stem, got {patch}."
    if config.max_stride is not None and (config.max_stride < 1 or config.stem == "halved"):
        return f"expected a max_stride of at least 1 px and a stem that is not halved, got {config.max_stride} and {config.stem}."
    return None


class Convolution(nn.Conv2d):
    """`torch.nn.Conv2d` over (B, h, w, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, in) to (B, h', w', out)."""
        if (
            self.kernel_size == (1, 1)
            and self.groups == self.in_channels == self.out_channels
            and self.bias is not None
        ):
            return torch.addcmul(self.bias, x, self.weight.flatten())  # a scale and a shift, five times as fast
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class GRN(nn.Module):
    """Global response normalisation: each channel is scaled by its norm over the positions, relative to the mean norm.

    The norm is over the positions of each ``sample``, or of the whole ``batch`` if there is a mask.
    """

    def __init__(self, channels: int, eps: float = NORM_EPS, over: str = "sample") -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.eps = eps
        self.over = over

    def forward(self, x: Tensor, where: Positions = EVERYWHERE) -> Tensor:
        """Features of the given positions to the same."""
        axes = (0, 1, 2) if self.over == "batch" and where.partial else (1, 2)
        norm = torch.linalg.vector_norm(where.mask(x), dim=axes, keepdim=True)
        response = norm / (norm.mean(dim=-1, keepdim=True) + self.eps)
        return torch.addcmul(self.beta, x, 1 + self.gamma * response)


class DropPath(nn.Module):
    """Stochastic depth: while training, drop a residual branch for whole samples and scale up the rest."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to the same."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.full((len(x),) + (1,) * (x.ndim - 1), 1 - self.rate, dtype=x.dtype, device=x.device)
        return x * torch.bernoulli(keep) / keep


class Block(nn.Module):
    """ConvNeXt V2 block over (B, h, w, C)."""

    def __init__(
        self,
        channels: int,
        *,
        grn_eps: float = NORM_EPS,
        grn_over: str = "sample",
        drop_path: float = 0.0,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.dwconv = Convolution(
            channels, channels, kernel_size=7, padding=3 * dilation, dilation=dilation, groups=channels
        )
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.grn = GRN(4 * channels, grn_eps, grn_over)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, where: Positions = EVERYWHERE) -> Tensor:
        """Features of the given positions to the same."""
        y = self.norm(where.convolve(self.dwconv, x))
        y = self.grn(functional.gelu(self.pwconv1(y)), where)
        branch: Tensor = self.drop_path(self.pwconv2(y))
        return x + branch


class ModifiedStem(nn.Module):
    """3 x 3 convolution at full resolution, then a depthwise convolution down to the first stage."""

    def __init__(self, config: EncoderConfig, channels: int) -> None:
        super().__init__()
        stride, same = config.stem_stride, config.padding == "same"
        self.conv = Convolution(config.in_channels, channels, kernel_size=3, padding=1 if same else 0)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.dwconv = Convolution(
            channels, channels, kernel_size=stride, stride=stride, padding=0 if same else stride // 2, groups=channels
        )
        self.dwnorm = nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, x: Tensor, where: Positions = EVERYWHERE) -> Tensor:
        """Pixels to features of the first stage."""
        y = functional.gelu(self.norm(where.convolve(self.conv, x)))
        down: Tensor = self.dwnorm(self.dwconv(where.mask(y)))
        return down


class OriginalStem(nn.Module):
    """One convolution with kernel = stride."""

    def __init__(self, config: EncoderConfig, channels: int) -> None:
        super().__init__()
        stride = config.stem_stride // (2 if config.stem == "halved" else 1)
        self.conv = Convolution(config.in_channels, channels, kernel_size=stride, stride=stride)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, x: Tensor, where: Positions = EVERYWHERE) -> Tensor:
        """Pixels to features of the first stage."""
        y: Tensor = self.norm(self.conv(where.mask(x)))
        return y


class Downsample(nn.Module):
    """LayerNorm, then a 2 x 2 convolution between stages: with stride 2, or without a stride if it is dilated."""

    def __init__(self, channels: int, out_channels: int, dilation: int | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        stride = 2 if dilation is None else 1
        self.conv = Convolution(channels, out_channels, kernel_size=2, stride=stride, dilation=dilation or 1)
        self.before = (dilation or 0) // 2
        self.behind = (dilation or 0) - self.before

    def forward(self, x: Tensor, where: Positions = EVERYWHERE) -> Tensor:
        """Features of one stage to those of the next: half the side length, or the same if it is dilated."""
        y = where.mask(self.norm(x))
        if self.behind:
            y = functional.pad(y, (0, 0, self.before, self.behind, self.before, self.behind))
        down: Tensor = self.conv(y)
        return down


class HalvedStem(OriginalStem):
    """One convolution with kernel = stride, then a `Downsample`."""

    def __init__(self, config: EncoderConfig, channels: int) -> None:
        super().__init__(config, channels)
        self.down = Downsample(channels, channels)

    def forward(self, x: Tensor, where: Positions = EVERYWHERE) -> Tensor:
        """Pixels to features of the first stage."""
        y: Tensor = self.down(super().forward(x, where), where)
        return y


STEMS: dict[str, type[ModifiedStem] | type[OriginalStem]] = {
    "modified": ModifiedStem,
    "original": OriginalStem,
    "halved": HalvedStem,
}


def _dilations(config: EncoderConfig) -> tuple[int, ...]:
    """Dilation of each stage's blocks, which compensates for strides that no longer double from stage to stage."""
    return tuple(config.stem_stride * 2**stage // stride for stage, stride in enumerate(config.strides))


class ConvNeXtV2(Backbone):
    """ConvNeXt V2, dense or masked.

    Parameters
    ----------
    config
        Configuration; by default an atto with 12 bands.
    engine
        Computes on the visible positions of a batch, see `mmearth_model.network.positions`.

    Attributes
    ----------
    normaliser
        Converts stored values to the input of the encoder, for `preprocess` and `embed`; None if it is unknown. It is not
        part of the weights. `mmearth_model.load_encoder` sets it.
    """

    normaliser: Normaliser | None = None

    def __init__(self, config: EncoderConfig | None = None, engine: Engine = auto) -> None:
        super().__init__()
        self.engine: Engine = engine
        self.config = config = config or EncoderConfig()
        self.depths, self.widths = config.depths or (), config.widths or ()
        self.stem = STEMS[config.stem](config, self.widths[0])
        dilations = _dilations(config)
        self.downsample = nn.ModuleList(
            Downsample(*pair, None if dilation == 1 else 1 if dilation == 2 else 2)  # timm's rule: 1, then 2
            for pair, dilation in zip(itertools.pairwise(self.widths), dilations[1:], strict=True)
        )
        blocks = sum(self.depths)
        rates = (config.drop_path * block / max(1, blocks - 1) for block in range(blocks))
        self.stages = nn.ModuleList(
            nn.ModuleList(
                Block(width, grn_eps=config.grn_eps, grn_over=config.grn, drop_path=next(rates), dilation=dilation)
                for _ in range(depth)
            )
            for depth, width, dilation in zip(self.depths, self.widths, dilations, strict=True)
        )
        initialise(self)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage, from fine to coarse."""
        return self.widths

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels along a side of one position, for each stage from fine to coarse."""
        return self.config.strides

    @property
    def feature_info(self) -> FeatureInfo:
        """Description of what `forward_features` returns, in timm's format."""
        pairs = enumerate(zip(self.channels, self.strides, strict=True))
        return FeatureInfo(
            {"num_chs": width, "reduction": stride, "module": f"stages.{stage}", "index": stage}
            for stage, (width, stride) in pairs
        )

    def forward(
        self, x: Tensor, mask: Tensor | None = None, pixels: Tensor | None = None, visible: int | None = None
    ) -> Tensor:
        """Features of the last stage.

        Parameters
        ----------
        x
            (B, in_channels, H, W) float; H and W are multiples of the patch size.
        mask
            (B, L) bool, True where a patch is hidden; patches are in row order. None: all are visible.
        pixels
            (B, H, W) bool, False where a pixel is missing, regardless of the mask. None: none is.
        visible
            Number of patches that the mask leaves in every sample (`mmearth_model.network.masking.visible_patches`). It
            must be right: on a GPU it is not checked. None: it is counted, for which the host waits for the device and
            torch.compile breaks the graph.

        Returns
        -------
        Tensor
            (B, out_channels, H / patch_size, W / patch_size), 0 where hidden.
        """
        return self.encode(x, mask, pixels, visible).permute(0, 3, 1, 2)

    def encode(
        self, x: Tensor, mask: Tensor | None = None, pixels: Tensor | None = None, visible: int | None = None
    ) -> Tensor:
        """Features of the last stage as (B, h, w, C); see `forward`."""
        where = self._where(x, mask, pixels, visible)
        *_, features = self._stages(x, where)
        return where.scatter(features)

    def forward_features(self, x: Tensor, mask: Tensor | None = None, pixels: Tensor | None = None) -> list[Tensor]:
        """Features of all stages, (B, C, h, w) each, from fine to coarse; see `forward`."""
        where = self._where(x, mask, pixels)
        return [where.scatter(features).permute(0, 3, 1, 2) for features in self._stages(x, where)]

    def preprocess(self, tiles: Tiles) -> Tensor:
        """Convert tiles with values as stored to the input of the encoder: its bands, normalised by its statistics.

        Parameters
        ----------
        tiles
            A batch of `Store.loader`, `TileDataset` or `Store.torch` (arrays, or tensors on any device), one tile
            (``store[3]`` or ``store.tile(3)``), or a store; with all bands, not normalised.

        Returns
        -------
        Tensor
            (B, in_channels, H, W) float32 on the encoder's device: z-scores, 0 where nothing was observed. If the statistics
            differ between product levels, those of the tile's level are used. One tile becomes a batch of one.

        Raises
        ------
        InputError
            If the encoder has no statistics, or the tiles lack a modality or bands, or are already normalised.

        Examples
        --------
        >>> encoder = load_encoder("run")  # doctest: +SKIP
        >>> for batch in store.loader(batch_size=64):  # doctest: +SKIP
        ...     maps = encoder.forward_features(encoder.preprocess(batch))
        """
        return torch.cat(list(self._known_normaliser().prepare(tiles, self.device)))

    @torch.no_grad()
    def embed(self, tiles: Tiles) -> Tensor:
        """Compute features of tiles: the spatial mean of the last feature map, in evaluation mode, without gradients.

        Parameters
        ----------
        tiles
            As for `preprocess`. A store is read and embedded a batch at a time.

        Returns
        -------
        Tensor
            (B, out_channels) float32 on the encoder's device. If the size of the tiles is not a multiple of the patch size,
            their centre is used.

        Raises
        ------
        InputError
            As for `preprocess`, and if the tiles are smaller than a patch.

        Examples
        --------
        >>> load_encoder("run").embed(open_store("planet.zarr")).shape  # doctest: +SKIP
        torch.Size([256, 320])
        """
        precision = next(self.parameters()).dtype
        parts = self._known_normaliser().prepare(tiles, self.device)
        with evaluating(self):
            return torch.cat([pooled_features(self, whole_patches(self, part).to(precision)) for part in parts])

    def _known_normaliser(self) -> Normaliser:
        """Return the normaliser. Raises `InputError` if there is none, or its bands do not match."""
        if self.normaliser is None:
            raise InputError(
                "expected an encoder with statistics, by which it normalises tiles, got one without; load it with "
                "load_encoder(path, store=store), or set encoder.normaliser = Normaliser(modalities, statistics, inputs=...)."
            )
        if self.normaliser.in_channels != self.config.in_channels:
            raise InputError(
                f"expected a normaliser of {self.config.in_channels} bands, as the encoder takes, got one of "
                f"{self.normaliser.in_channels} ({', '.join(self.normaliser.inputs)}); set encoder.normaliser to one that matches."
            )
        return self.normaliser

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return sum(self.depths)

    @property
    def identity(self) -> str:
        """Text of the configuration."""
        return str(self.config)

    def layer_of(self, name: str) -> int:
        """Layer of a parameter: 0 for the stem, one more for each block; a convolution between stages is of the next block."""
        part, *inner = name.split(".")
        if part == "stem":
            return 0
        stage = int(inner[0]) + (1 if part == "downsample" else 0)
        return sum(self.depths[:stage]) + 1 + (int(inner[1]) if part == "stages" else 0)

    def released_layer_of(self, name: str) -> int:
        """Layer of a parameter as the released code counts it; see `mmearth_model.evaluation.paper`."""
        part, *inner = name.split(".")
        if part == "stem":
            return self.layers + 1
        return sum(self.depths[: int(inner[0])]) + (int(inner[1]) if part == "stages" else 0) + 1

    def with_drop_path(self, rate: float, padding: Padding | None = None) -> Self:
        """Copy the encoder with stochastic depth, and optionally with another padding."""
        changed = type(self)(replace(self.config, drop_path=rate, padding=padding or self.config.padding))
        changed.load_state_dict(self.state_dict())
        return changed

    def _stages(self, x: Tensor, where: Positions) -> Iterator[Tensor]:
        y = self.stem(where.gather(x.permute(0, 2, 3, 1)), where)
        for stage, blocks in enumerate(self.stages):
            if stage:
                y = self.downsample[stage - 1](y, where)
            for block in blocks:  # type: ignore[attr-defined]
                y = block(y, where)
            yield y

    def _where(self, x: Tensor, mask: Tensor | None, pixels: Tensor | None, visible: int | None = None) -> Positions:
        self._check(x, mask, visible, pixels)
        if mask is None and pixels is None:
            return EVERYWHERE
        patch = self.config.patch_size
        strides = (self.config.stem_stride, *(2 for _ in self.downsample))
        return self.engine(Hidden((x.shape[2] // patch, x.shape[3] // patch), patch, strides, mask, pixels, visible))

    def _check(self, x: Tensor, mask: Tensor | None, visible: int | None, pixels: Tensor | None = None) -> None:
        patch = self.config.patch_size
        whole = self.strides[-1]
        if x.ndim != 4 or x.shape[1] != self.config.in_channels or x.shape[2] % whole or x.shape[3] % whole:
            raise InputError(
                f"expected images with {self.config.in_channels} bands and sides that are multiples of {whole} px, "
                f"got shape {tuple(x.shape)}; select bands, or crop or pad the images."
            )
        if not self.config.maskable and not (mask is None and pixels is None):
            raise InputError(
                "expected no mask: an encoder with padding reference (the released classification model), the halved stem "
                "or a max_stride takes no mask; use padding same and the modified or original stem."
            )
        if mask is None:
            return
        patches = (x.shape[2] // patch) * (x.shape[3] // patch)
        if visible is not None and not 1 <= visible <= patches:
            raise InputError(f"expected between 1 and {patches} visible patches, got {visible}.")
        if mask.dtype != torch.bool or mask.shape != (len(x), patches):
            raise InputError(
                f"expected a boolean mask of shape {(len(x), patches)} (sample, patch), True where hidden, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}."
            )


class Classifier(nn.Module, Generic[Encoder]):
    """Encoder, global average pooling, LayerNorm and a linear head: the network that is fine-tuned."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.norm = nn.LayerNorm(encoder.out_channels, eps=NORM_EPS)
        self.head = nn.Linear(encoder.out_channels, classes)
        initialise(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, classes)."""
        logits: Tensor = self.head(self.norm(self.encoder(x).mean(dim=(-2, -1))))
        return logits


def initialise(module: nn.Module, std: float | None = INIT_STD) -> None:
    """Initialise convolutions and linear layers: weights normal, truncated at 2 std, biases 0.

    Without ``std``, it is 1 / sqrt(inputs of the layer), which preserves the scale of the features.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            spread = layer.weight[0].numel() ** -0.5 if std is None else std
            nn.init.trunc_normal_(layer.weight, std=spread, a=-2 * spread, b=2 * spread)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
