"""Third-party networks in plain PyTorch with their own names: readers of exports, and references for imports.

Reimplemented from the released code and that of ConvNeXt V2's authors: layers, names, paddings, epsilons, and the
changes that the released fine-tuning makes to the names and shapes of a file.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS, DEPTHS = (8, 12, 16, 20), (1, 2, 1, 1)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, h, w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)
        return functional.layer_norm(last, last.shape[-1:], self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)


class Response(nn.Module):
    """GRN with parameters (1, 1, 1, C), over (B, h, w, C)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.zeros(1, 1, 1, width)) for _ in range(2))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        length = x.square().sum(dim=(1, 2), keepdim=True).sqrt()
        return self.gamma * x * length / (length.mean(-1, keepdim=True) + self.eps) + self.beta + x


class Block(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.grn = nn.Linear(width, 4 * width), Response(4 * width, eps)
        self.pwconv2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + self.pwconv2(self.grn(functional.gelu(self.pwconv1(y)))).permute(0, 3, 1, 2)


def stages(eps: float) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Sequential(*(Block(width, eps) for _ in range(depth))) for width, depth in zip(WIDTHS, DEPTHS, strict=True)
    )


def between() -> list[nn.Module]:
    pairs = itertools.pairwise(WIDTHS)
    return [nn.Sequential(ChannelNorm(a), nn.Conv2d(a, b, 2, stride=2)) for a, b in pairs]


class ReleasedClassifier(nn.Module):
    """The network that the released code fine-tunes: first convolution unpadded, stem padded by half its kernel.

    ``unet``: the encoder of its UNet, which pads the first convolution but not the stem.
    """

    def __init__(self, patch: int = 8, bands: int = 12, classes: int = 10, stem: str = "modified", unet: bool = False) -> None:  # fmt: skip
        super().__init__()
        kernel, width = patch // 8, WIDTHS[0]
        if stem == "original":
            self.stem_orig = nn.Sequential(nn.Conv2d(bands, width, kernel, stride=kernel), ChannelNorm(width))
        else:
            first = nn.Conv2d(bands, width, 3, padding=1 if unet else 0)
            self.initial_conv = nn.Sequential(first, ChannelNorm(width), nn.GELU())
            padding = 0 if unet else kernel // 2
            second = nn.Conv2d(width, width, kernel, stride=kernel, padding=padding, groups=width)
            self.stem = nn.Sequential(second, ChannelNorm(width))
        self.downsample_layers, self.stages = nn.ModuleList(between()), stages(1e-4)
        self.norm, self.head = nn.LayerNorm(WIDTHS[-1], eps=1e-6), nn.Linear(WIDTHS[-1], classes)
        if unet:
            self.head = nn.Conv2d(WIDTHS[0] // 2, classes, 1)  # type: ignore[assignment]
            self.upsample_layers = nn.ModuleList([nn.Sequential(nn.Conv2d(20, 10, 3), ChannelNorm(10))])
            self.initial_conv_upsample = nn.Sequential(nn.Conv2d(16, 4, 3), ChannelNorm(4))

    def features(self, x: Tensor) -> Tensor:
        x = self.stem_orig(x) if hasattr(self, "stem_orig") else self.stem(self.initial_conv(x))
        for stage, blocks in enumerate(self.stages):
            x = blocks(self.downsample_layers[stage - 1](x) if stage else x)
        return x


class AuthorsConvNeXt(nn.Module):
    """ConvNeXt V2 as its authors name it: the stem is the first of four downsampling layers."""

    def __init__(self, kernel: int = 4, bands: int = 3, classes: int = 10) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(bands, WIDTHS[0], kernel, stride=kernel), ChannelNorm(WIDTHS[0]))
        self.downsample_layers, self.stages = nn.ModuleList([stem, *between()]), stages(1e-6)
        self.norm, self.head = nn.LayerNorm(WIDTHS[-1], eps=1e-6), nn.Linear(WIDTHS[-1], classes)

    def features(self, x: Tensor) -> Tensor:
        for downsample, blocks in zip(self.downsample_layers, self.stages, strict=True):
            x = blocks(downsample(x))
        return x


def drawn(network: nn.Module) -> nn.Module:
    """Give every parameter its own random numbers, GRN's too."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter) + (0.5 if parameter.ndim == 1 else 0))
    return network.eval()


def engine_names(weights: dict[str, Tensor], dense: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """A dense encoder's weights in the form of the sparse engine; ``dense``: prefixes of names that stay unchanged."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        layer, kind = name.rsplit(".", 1)
        if name.startswith(dense) or name.split(".")[0] in ("norm", "head"):
            theirs[f"encoder.{name}"] = tensor
        elif ".grn." in name:
            theirs[f"encoder.{name}"] = tensor.reshape(1, -1)
        elif "pwconv" in layer:
            theirs[f"encoder.{layer}.linear.{kind}"] = tensor
        elif tensor.ndim == 4:
            offsets = tensor.transpose(2, 3).flatten(2).permute(2, 1, 0)  # column by column
            depthwise = layer.endswith("dwconv") or layer == "stem.0"
            kernel = offsets[:, 0] if depthwise else offsets
            theirs[f"encoder.{layer}.kernel"] = kernel[0] if len(kernel) == 1 and not depthwise else kernel
        elif f"{layer}.weight" in weights and weights[f"{layer}.weight"].ndim == 4:
            theirs[f"encoder.{name}"] = tensor[None]
        else:
            theirs[f"encoder.{layer}.ln.{kind}"] = tensor
    return theirs


def received(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Changes that the released fine-tuning makes to the weights of a file before it loads them."""
    kept = {
        n: t for n, t in weights.items() if not any(part in n for part in ("decoder", "mask_token", "proj", "pred"))
    }
    renamed: dict[str, Tensor] = {}
    for name, tensor in kept.items():
        short = name.split(".", 1)[1] if name.startswith("encoder") else name
        if short.endswith("kernel"):
            side = math.isqrt(len(tensor))
            columns = tensor.T[:, None] if tensor.ndim == 2 else tensor.permute(2, 1, 0)
            whole = columns.reshape(*columns.shape[:2], side, side).transpose(3, 2)
            renamed[short.removesuffix("kernel") + "weight"] = whole
        elif "ln" in short or "linear" in short:
            *before, _, kind = short.split(".")
            renamed[".".join([*before, kind])] = tensor
        else:
            renamed[short] = tensor
    for name, tensor in renamed.items():
        if name.endswith("bias") and tensor.ndim != 1:
            renamed[name] = tensor.reshape(-1)
        elif "grn" in name:
            renamed[name] = tensor.unsqueeze(0).unsqueeze(1)
    return renamed


def receive(network: nn.Module, weights: dict[str, Tensor]) -> tuple[set[str], set[str]]:
    """Load matching weights, as the released code does. Returns the missing and the unexpected names."""
    got, own = received(weights), network.state_dict()
    fitting = {name: tensor for name, tensor in got.items() if name in own and own[name].shape == tensor.shape}
    network.load_state_dict(fitting, strict=False)
    return own.keys() - fitting.keys(), got.keys() - fitting.keys()
