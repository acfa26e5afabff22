"""Predictions for the tiles of a store: a table with a row per tile, or a raster per tile."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError, __version__, check_output, format_tile_ids, make_folder, remove_partial, write_text
from mmearth_model.geoparquet import categories, sample_columns, write_geoparquet
from mmearth_model.heads.network import Network, load_network
from mmearth_model.maps.blocks import digest_of
from mmearth_model.maps.jobs import answers_of, arrays_of
from mmearth_model.maps.making import SCORES_SUFFIX, forms_of, tags_of
from mmearth_model.maps.raster import IDENTITY_TAG, RasterForm, RasterGrid, write_small
from mmearth_model.maps.store_tiles import PIXEL_M, StoreTiles, check_grids
from mmearth_model.tasks import StoreImages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from mmearth_data import Store

IDENTITY_FILE = "identity.json"
SCORE = "score_"
"""Prefix of the columns with the score of each class or label."""


def predict_table(
    network: Network | str | Path,
    store: Store,
    out: str | Path,
    *,
    device: str = "auto",
    report: Callable[[float, float], None] | None = None,
) -> Path:
    """Apply a network that predicts per tile to every tile of a store, and write a GeoParquet table.

    Columns: ``id``, ``tile_id``, ``lon``, ``lat``, ``time``; for classes, ``class`` (code), ``name``, ``score`` and
    ``score_NAME`` for each class; for labels, ``NAME`` (true or false) and ``score_NAME``; for quantities, ``NAME``;
    ``geometry`` (the outline) and ``bbox``. Scores are probabilities.

    Parameters
    ----------
    network
        A network that predicts per tile, or its folder.
    store
        The tiles.
    out
        GeoParquet file.
    device
        ``auto``, ``cpu``, ``cuda``, ...
    report
        Called with the number of tiles done, and their total.

    Raises
    ------
    InputError
        If the network predicts per pixel, or the store lacks modalities or bands that it takes.
    """
    net = network if isinstance(network, Network) else load_network(network)
    if net.kind.per_pixel:
        raise InputError(
            f"--out: expected a network that predicts per tile for a table, got one of {net.task}, which predicts per "
            "pixel; "
            "use a folder, or --mosaic."
        )
    check_output(out)
    tiles, parts, done = StoreTiles.of(net, store, device), [], 0
    for part in tiles.per_tile(np.arange(len(store), dtype=np.intp)):
        parts.append(part)
        done += len(part)
        if report is not None:
            report(done, len(store))
    values = np.concatenate(parts) if parts else np.zeros((0, len(net.outputs)), np.float32)
    ids = np.asarray(store.coords["tile_id"]).astype(np.uint64)
    columns = {
        **sample_columns(
            format_tile_ids(ids).tolist(), store.coords["lon"], store.coords["lat"], store.coords["time"], ids
        ),
        **answer_columns(net, values),
    }
    about = {**tags_of(net, store.synthetic), "inputs": Path(str(store.path)).name}
    write_geoparquet(Path(out), columns, StoreImages(store).outlines(), {"mmearth": about})
    return Path(out)


def answer_columns(network: Network, values: NDArray[np.float32]) -> dict[str, pa.Array]:
    """Columns of the predictions for N tiles from (N, K) probabilities or raw quantities."""
    import pyarrow as pa

    names = [output.name for output in network.outputs]
    answers = answers_of(network, values.T[:, None])[:, 0]  # as a map of one row
    if network.kind.continuous:
        return {name: pa.array(column) for name, column in zip(names, answers, strict=True)}
    scores = {f"{SCORE}{name}": pa.array(column) for name, column in zip(names, values.T, strict=True)}
    if len(answers) == len(names) and network.codes.min() < 0:
        return {**{name: pa.array(column.astype(bool)) for name, column in zip(names, answers, strict=True)}, **scores}
    best = values.argmax(axis=1)
    return {
        "class": pa.array(answers[0], pa.int64()),
        "name": categories(np.array(names, dtype=object)[best]),
        "score": pa.array(values[np.arange(len(values)), best]),
        **scores,
    }


def predict_rasters(
    network: Network | str | Path,
    store: Store,
    out: str | Path,
    *,
    scores: bool = False,
    device: str = "auto",
    report: Callable[[float, float], None] | None = None,
) -> int:
    """Apply a network that predicts per pixel to every tile of a store: ``OUT/TILE.tif``, each on the grid of its tile.

    Tiles without any observed pixel have no file. Repeating an interrupted call resumes it.

    Parameters
    ----------
    network
        A network that predicts per pixel, or its folder.
    store
        The tiles.
    out
        Folder.
    scores
        Whether to write ``OUT/TILE.scores.tif`` as well.
    device
        ``auto``, ``cpu``, ``cuda``, ...
    report
        Called with the number of tiles done, and their total.

    Returns
    -------
    int
        Number of tiles with a map.

    Raises
    ------
    InputError
        If the network predicts per tile, the store lacks modalities or bands that it takes, or the folder contains other files.
    WriteFailed
        If the disk is full; finished files are kept.
    """
    net = network if isinstance(network, Network) else load_network(network)
    if not net.kind.per_pixel:
        raise InputError(
            f"--out: expected a network that predicts per pixel for a raster per tile, got one of {net.task}, which "
            "predicts per "
            "tile; use --out tiles.parquet."
        )
    folder = Path(out)
    tiles = StoreTiles.of(net, store, device)
    check_grids(store)
    identity = {"version": __version__, "network": net.digest, "store": StoreImages(store).digest, "scores": scores}
    _take_folder(folder, identity)
    tags = {**tags_of(net, store.synthetic), IDENTITY_TAG: digest_of(identity)}
    names = _names(store)
    left = [n for n, name in enumerate(names) if not all(path.exists() for path in _files(folder, name, scores))]
    done = len(names) - len(left)
    for row, values, weights in tiles.per_pixel(np.array(left, dtype=np.intp)):
        forms = forms_of(net, _files(folder, names[row], scores)[0], tags, scores=scores)
        _write_tile(net, forms, _grid(store, row), values, weights)
        done += 1
        if report is not None:
            report(done, len(names))
    return sum(1 for name in names if (folder / f"{name}.tif").exists())


def _take_folder(folder: Path, identity: Mapping[str, Any]) -> None:
    """Create the folder, or resume it. Raises `InputError` if it contains other files."""
    check_output(folder, folder=True)
    mark, text = folder / IDENTITY_FILE, json.dumps(identity, indent=1) + "\n"
    if folder.is_dir() and any(folder.iterdir()):
        if not mark.is_file() or mark.read_text(encoding="utf-8") != text:
            raise InputError(
                f"{folder}: expected a new folder, or an unfinished one of this network and store, got something else; "
                "choose "
                "another --out."
            )
        remove_partial(folder)
    make_folder(folder)
    write_text(mark, text)


def _names(store: Store) -> list[str]:
    """File names of tiles: their ids, numbered if several tiles have the same id."""
    seen: dict[str, Iterator[int]] = {}
    names = []
    for name in format_tile_ids(np.asarray(store.coords["tile_id"]).astype(np.uint64)).tolist():
        number = next(seen.setdefault(name, count(1)))
        names.append(name if number == 1 else f"{name}-{number}")
    return names


def _files(folder: Path, name: str, scores: bool) -> Sequence[Path]:
    path = folder / f"{name}.tif"
    return (path, path.with_suffix(SCORES_SUFFIX)) if scores else (path,)


def _grid(store: Store, row: int) -> RasterGrid:
    """Grid of a tile."""
    from rasterio.crs import CRS

    crs, size = CRS.from_epsg(int(store.coords["epsg"][row])).to_wkt(), store.layout.size_px
    corner = float(store.coords["ulx"][row]), float(store.coords["uly"][row])
    transform = (float(PIXEL_M), 0.0, corner[0], 0.0, -float(PIXEL_M), corner[1])
    return RasterGrid(crs=crs, transform=transform, height=size, width=size)


def _write_tile(
    network: Network,
    forms: Mapping[Path, RasterForm],
    grid: RasterGrid,
    values: NDArray[np.float32],
    weights: NDArray[np.float32],
) -> None:
    """Write the maps of a tile, the answers last, since their file marks the tile as finished."""
    observed = weights > 0
    means = np.divide(values, weights, out=values, where=observed)
    arrays = arrays_of(network, means, observed, next(iter(forms.values())), scores=len(forms) > 1)
    for (path, form), numbers in reversed(list(zip(forms.items(), arrays.values(), strict=True))):
        write_small(path, form, grid, numbers)
