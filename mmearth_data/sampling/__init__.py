"""Sampling: choose the locations of tiles (quotas, placement, spacing, splits)."""

from mmearth_data.sampling.files import read_sample, write_sample
from mmearth_data.sampling.options import Sample, SampleReport, SamplingOptions
from mmearth_data.sampling.places import PlaceColumns
from mmearth_data.sampling.plan import sample
from mmearth_data.sampling.quotas import largest_remainder
from mmearth_data.sampling.reserves import deal_reserves

__all__ = [
    "PlaceColumns",
    "Sample",
    "SampleReport",
    "SamplingOptions",
    "deal_reserves",
    "largest_remainder",
    "read_sample",
    "sample",
    "write_sample",
]
