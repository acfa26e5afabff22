"""The source `chips`: images without a georeference, from a folder, a zip, an HDF5 file or a NumPy array."""

from __future__ import annotations

from mmearth_data.sources.chips.source import ChipSource

__all__ = ["ChipSource"]
