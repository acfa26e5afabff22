"""A TIFF file's own directories determine how long it must be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasters_world import write_tif

from mmearth_data.sources.rasters.tiff import missing_end

KINDS: dict[str, dict[str, Any]] = {
    "strips": {},
    "deflate": {"compress": "deflate"},
    "tiles": {"tiled": True, "blockxsize": 32, "blockysize": 16, "interleave": "band", "compress": "lzw"},
    "big": {"BIGTIFF": "YES"},
    "big-endian": {"ENDIANNESS": "BIG"},
    "big and big-endian": {"BIGTIFF": "YES", "ENDIANNESS": "BIG", "compress": "zstd"},
    "COG": {"driver": "COG", "blocksize": 128},
    "sparse": {"SPARSE_OK": "TRUE"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_whole_and_every_cut_is_noticed(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(1).integers(1, 9000, (2, 48, 64)).astype("int16") * (kind != "sparse")
    path = write_tif(
        tmp_path / "a.tif", values.astype("int16"), nodata=-1, tags={"datetime": "2020-01-01" * 9}, **KINDS[kind]
    )
    whole = path.stat().st_size
    assert missing_end(path) is None
    # Padding and the ghost area of a COG may follow the last byte that a directory names.
    needed = next(n for n in range(whole, 0, -1) if _missing(path, n - 1) is not None)
    assert needed >= whole - 4
    for keep in sorted({*range(4, 400), *range(needed - 400, needed), *range(4, needed, 97)}, reverse=True):
        end = _missing(path, keep)
        assert end is not None
        assert keep < end <= needed


def test_masks_and_overviews_count_too(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", np.ones((1, 256, 256), "uint8"))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.eye(256, dtype=bool))
        dataset.build_overviews([2, 4])
    assert missing_end(path) is None
    assert _missing(path, path.stat().st_size - 5) is not None


def test_the_real_files_are_whole(test_data: Path) -> None:
    files = [
        *test_data.glob("terramesh/*/*.tif"),
        *test_data.glob("eurosat_ms/*/*.tif"),
        *test_data.glob("ee_exports/*.tif"),
    ]
    assert len(files) > 90
    assert [path.name for path in files if missing_end(path) is not None] == []


@pytest.mark.parametrize("content", [b"", b"II", b"GIF89a", b"%PDF", b"MM\x00\x2b"[:3]])
def test_what_is_no_tiff_is_for_others_to_judge(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    assert missing_end(tmp_path / "a.tif") is None


def test_directories_in_a_ring_end(tmp_path: Path) -> None:
    ring = b"II*\0" + (8).to_bytes(4, "little") + bytes(2) + (8).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(ring)
    assert missing_end(tmp_path / "a.tif") is None


def _missing(path: Path, keep: int) -> int | None:
    """What is missing after a file has been cut to so many bytes."""
    os.truncate(path, keep)
    return missing_end(path)
