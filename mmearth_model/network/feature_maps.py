"""Feature maps of an encoder in the form that third-party decoders expect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mmearth_model.network.encoder import ConvNeXtV2


class FeatureInfo(list[dict[str, Any]]):
    """Description of an encoder's feature maps in the format of PyTorch image models (timm): one dictionary per map.

    Each dictionary has ``num_chs`` (channels), ``reduction`` (pixels along a side of a position), ``module`` and
    ``index``.
    """

    @property
    def out_indices(self) -> tuple[int, ...]:
        """Indices of the maps."""
        return tuple(range(len(self)))

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:  # noqa: ANN401 - a value, or a list
        """Value of one map, or values of several; by default of all."""
        if isinstance(idx, int):
            return self[idx][key]
        return [self[i][key] for i in (self.out_indices if idx is None else idx)]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:  # noqa: ANN401
        """Return the dictionary of one map, or those of several; by default all. ``keys`` selects entries."""
        if isinstance(idx, int):
            return {key: value for key, value in self[idx].items() if keys is None or key in keys}
        return [self.get_dicts(keys, i) for i in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:  # noqa: ANN401
        """Return the channels of maps."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:  # noqa: ANN401
        """Return the strides of maps."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:  # noqa: ANN401
        """Return the names of the stages that produce the maps."""
        return self.get("module", idx)


class FeatureMaps(nn.Module):
    """An encoder whose call returns the feature maps of all stages, in the form that third-party decoders expect.

    Parameters
    ----------
    encoder
        Returned by `mmearth_model.load_encoder`. With padding ``reference``, which is the default of imported
        classifiers, maps are up to two pixels smaller than image / stride; most decoders need
        ``load_encoder(..., padding="same")``.
    image
        Return the image as the first map, as segmentation_models_pytorch expects.

    Examples
    --------
    A head in plain PyTorch on all maps, whose sizes come from ``encoder.channels`` and ``encoder.strides``:

    >>> import torch
    >>> from torch.nn import functional
    >>> from mmearth_model import ConvNeXtV2, EncoderConfig, FeatureMaps
    >>> encoder = ConvNeXtV2(EncoderConfig(patch_size=8, in_channels=12))
    >>> encoder.channels, encoder.strides
    ((40, 80, 160, 320), (1, 2, 4, 8))
    >>> encoder.feature_info.channels(), encoder.feature_info.reduction()
    ([40, 80, 160, 320], [1, 2, 4, 8])
    >>> maps = FeatureMaps(encoder)(torch.zeros(1, 12, 64, 64))
    >>> sides = [nn.Conv2d(width, 32, 1) for width in encoder.channels]
    >>> grown = [functional.interpolate(side(m), size=(64, 64)) for side, m in zip(sides, maps)]
    >>> torch.stack(grown).sum(0).shape
    torch.Size([1, 32, 64, 64])

    Decoders of segmentation_models_pytorch (``smp``) and torchvision, which take the channels as a constructor
    argument:

    >>> backbone = FeatureMaps(encoder, image=True)
    >>> unet = smp.decoders.unet.decoder.UnetDecoder(
    ...     backbone.out_channels, decoder_channels=(256, 128, 64, 32), n_blocks=4
    ... )  # doctest: +SKIP
    >>> unet(backbone(torch.zeros(1, 12, 64, 64))).shape  # doctest: +SKIP
    torch.Size([1, 32, 64, 64])
    >>> pyramid = torchvision.ops.FeaturePyramidNetwork(list(encoder.channels), 256)  # doctest: +SKIP
    >>> pyramid(dict(zip("abcd", FeatureMaps(encoder)(images))))  # doctest: +SKIP
    """

    def __init__(self, encoder: ConvNeXtV2, *, image: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.image = image

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps that a call returns."""
        return (self.encoder.config.in_channels, *self.encoder.channels) if self.image else self.encoder.channels

    @property
    def output_stride(self) -> int:
        """Pixels along a side of one position of the last map."""
        return self.encoder.strides[-1]

    @property
    def feature_info(self) -> FeatureInfo:
        """Description of the maps in timm's format, without the image."""
        return self.encoder.feature_info

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) to (B, C, h, w) of each stage, from fine to coarse."""
        maps = self.encoder.forward_features(x)
        return [x, *maps] if self.image else maps
