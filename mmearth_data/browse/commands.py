"""Export of the selection: a list of tile ids, and the command that creates a store from it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from mmearth_data.browse.filters import SPLITS, Filter
from mmearth_data.store.schema import SPLIT_NONE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IDS_FILE = "ids.txt"


def ids_text(tile_ids: NDArray[np.uint64]) -> bytes:
    r"""Tile ids (n,) as text: 16 hex digits per line.

    Examples
    --------
    >>> ids_text(np.array([255, 1], dtype=np.uint64))
    b'00000000000000ff\n0000000000000001\n'
    """
    if not len(tile_ids):
        return b""
    return tile_ids.astype(">u8").tobytes().hex("\n", 8).encode() + b"\n"


def subset_command(store: str, chosen: Filter) -> str:
    """Command that creates a store from the selected tiles.

    It names the splits if they are the only condition, otherwise `IDS_FILE`.

    Examples
    --------
    >>> subset_command("planet.zarr", Filter(splits=(1, 2)))
    'mmearth-data subset planet.zarr --split val --split test --out part.zarr'
    """
    words = ["mmearth-data", "subset", store]
    splits = chosen.splits
    if splits and SPLIT_NONE not in splits and chosen == Filter(splits=splits):
        words += [word for code in splits for word in ("--split", SPLITS[code])]
    else:
        words += ["--ids", IDS_FILE]
    return shlex.join([*words, "--out", "part.zarr"])
