"""The store: a sharded, checksummed Zarr v3 group of tiles that plain xarray reads."""

from mmearth_data.store.reader import Store, open_store
from mmearth_data.store.schema import StoreLayout, default_tiles_per_shard
from mmearth_data.store.verify import Problem, VerifyReport, verify
from mmearth_data.store.writer import StoreWriter

__all__ = [
    "Problem",
    "Store",
    "StoreLayout",
    "StoreWriter",
    "VerifyReport",
    "default_tiles_per_shard",
    "open_store",
    "verify",
]
