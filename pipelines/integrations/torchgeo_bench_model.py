"""MMEarth as a model of torchgeo-bench.

Create ``mmearth.yaml`` in torchgeo-bench's folder ``conf/model``::

    _target_: torchgeo_bench_model.MMEarth
    name: mmearth
    checkpoint: runs/planet
    eval: {segmentation: {layers: [maps.3, maps.2, maps.1, maps.0]}}

and run ``PYTHONPATH=pipelines/integrations torchgeo-bench run model=mmearth dataset.bands=all``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn
from torchgeo_bench.models import BenchModel
from torchgeo_bench.models._band_mapping import map_to_model_bands

from mmearth_model import FeatureMaps, load_encoder

if TYPE_CHECKING:
    from torch import Tensor
    from torchgeo_bench.datasets.base import BandSpec


class MMEarth(BenchModel):
    """An encoder on images that the benchmark normalises with the statistics of its data.

    Bands that the data lack are 0, the mean, as for missing values in pretraining. For radar, both passes get the same data.
    """

    def __init__(
        self, bands: list[BandSpec], *, checkpoint: str, normalization: str = "bandspec_zscore", **_: object
    ) -> None:
        super().__init__(bands=bands, normalization=normalization)
        encoder = load_encoder(checkpoint)
        if encoder.normaliser is None:
            raise ValueError(
                f"expected a checkpoint that records its bands, got {checkpoint}; convert it with --store."
            )
        modalities = [encoder.normaliser.modalities[name] for name in encoder.normaliser.inputs]
        self.names = [benchmark_name(band) for modality in modalities for band in modality.model_bands]
        self.encoder = FeatureMaps(encoder)
        self.maps = nn.ModuleList(
            nn.Identity() for _ in encoder.channels
        )  # where a segmentation probe reads (B, C, h, w)

    def _forward_patch_features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to the mean of the last map, (B, D)."""
        images, _ = map_to_model_bands(images, self.bands, self.names, allow_missing=True)
        *_, last = (layer(features) for layer, features in zip(self.maps, self.encoder(images), strict=True))
        return last.mean(dim=(-2, -1))


def benchmark_name(band: str) -> str:
    """Name of a band in the benchmark: ``B4`` is ``B04``, ``asc_VV`` is ``VV``."""
    return re.sub(r"^B(\d)$", r"B0\1", band.rpartition("_")[2])
