"""The user's raster files as a source: a mapping file says which file holds what.

`mmearth_data.sources.rasters.mapping` describes the mapping file.
"""

from mmearth_data.sources.rasters.source import RasterSource
from mmearth_data.sources.rasters.terrain import slope_degrees

__all__ = ["RasterSource", "slope_degrees"]
