"""The loader on a store that is far away: the same batches, by requests that wait together and not one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from far_bucket import far_bucket
from store_making import make_store, small_layout

from mmearth_data import open_store

DELAY_S = 0.02
OPTIONS: dict[str, Any] = {"batch_size": 32, "block_tiles": 8, "window_blocks": 8, "seed": 5}


def test_a_far_store_delivers_the_same_batches_by_few_requests_at_a_time_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.zarr"
    make_store(path, small_layout(tiles=64, tiles_per_shard=16))
    with far_bucket(tmp_path, delay_s=DELAY_S) as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        near, far = open_store(path).loader(**OPTIONS), open_store(bucket.url("s.zarr")).loader(**OPTIONS)
        for ours, theirs in zip(near, far, strict=True):
            np.testing.assert_equal(theirs, ours)
        before = bucket.log()["requests"]
        for _ in far:
            pass
        log = bucket.log()
    blocks, rasters = 64 // 8, len(far.store.layout.rasters)
    # Indexes are known from the first epoch; tiles of a block and modality are adjacent.
    assert log["requests"] - before <= blocks * rasters
    # All blocks of a window are asked for before one is answered, not one block after the other.
    assert log["most_at_a_time"] > rasters
