"""Import the published HDF5 format into a store, shard by shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import format_tile_id, tile_ids
from mmearth_data.errors import FileInputError, InputError
from mmearth_data.interchange.entries import SCENE, TABLES, facts_of, plain
from mmearth_data.interchange.form import published_form
from mmearth_data.interchange.hdf5_folder import PublishedFolder, find_files, open_folder
from mmearth_data.interchange.statistics import BAND_STATS
from mmearth_data.interchange.tables import Tables, coordinate_tables, differing
from mmearth_data.recipes import file_digest
from mmearth_data.store.encoding import digest_of
from mmearth_data.store.overlaps import repeated
from mmearth_data.store.schema import StoreLayout, default_tiles_per_shard
from mmearth_data.store.session import NewStore, fill_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from mmearth_data.interchange.form import PublishedForm
    from mmearth_data.store.storage.protocol import StoreUrl
    from mmearth_data.store.writer import StoreWriter

DUPLICATE = "duplicate"
"""Reason in ``rejected.parquet`` for a row that was left out."""


def import_published(
    folder: Path,
    out: str | Path | StoreUrl,
    *,
    name: str | None = None,
    skip_duplicates: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Import a data set of the published form; see `mmearth_data.import_hdf5`."""
    form, catalog = published_form(), load_catalog()
    files = find_files(Path(folder), name)
    with open_folder(files, form, catalog) as published:
        names = {array.modality.name for array in published.arrays}
        names |= {a.modality for a in form.arrays if not catalog.find(a.modality).stored}
        layout = StoreLayout(
            modalities=catalog.select(sorted(names)),
            tiles=published.rows,
            size_px=published.size_px,
            tiles_per_shard=default_tiles_per_shard(published.rows),
        )
        ids = tile_ids(published.scenes["lon"], published.scenes["lat"], published.size_px)
        left_out = _duplicates(published, ids, skip=skip_duplicates)
        if published.unused_entries:
            note(f"{files.tile_info}: {published.unused_entries} entries belong to no row and are left out.")
        new = NewStore(
            layout=layout,
            recipe={"import": "mmearth-h5", "skip_duplicates": skip_duplicates},
            source=_identity(published),
            synthetic=published.synthetic,
        )
        shards = ShardImport(published, form, layout, ids, left_out)
        fill_store(out, new, shards.fill, report=report, note=note)


def _identity(published: PublishedFolder) -> dict[str, Any]:
    """Identify a data set without a digest of its content: reading 600 GB for one would double the work."""
    files = published.files
    digests = {path.name: file_digest(path) for path in (files.band_stats, files.splits, files.tile_info)}
    return {
        "name": "mmearth-h5",
        "dataset": files.h5.stem,
        "rows": published.rows,
        "h5_bytes": files.h5.stat().st_size,
        "ids": digest_of(published.ids.tobytes()),
        "files": digests,
        BAND_STATS: plain(published.band_stats),
    }


def _duplicates(published: PublishedFolder, ids: NDArray[np.uint64], *, skip: bool) -> dict[int, int]:
    """Rows with the location and time of an earlier row, and that row.

    Raises
    ------
    InputError
        If there are any, unless they are to be skipped.
    """
    later, earlier = repeated(ids, published.scenes["time"])
    if len(later) and not skip:
        one, other = (published.ids[row].decode(errors="replace") for row in (int(earlier[0]), int(later[0])))
        raise FileInputError(
            published.files.tile_info,
            f"expected tiles that differ in location or date, got {len(later)} that do not, the first are {one!r} and "
            f"{other!r} ({format_tile_id(int(ids[later[0]]))}); --skip-duplicates keeps the first of each.",
        )
    return dict(zip(later.tolist(), earlier.tolist(), strict=True))


class ShardImport:
    """Reads the rows of one shard and hands them to a writer."""

    def __init__(
        self,
        published: PublishedFolder,
        form: PublishedForm,
        layout: StoreLayout,
        ids: NDArray[np.uint64],
        left_out: Mapping[int, int],
    ) -> None:
        self._published = published
        self._form = form
        self._layout = layout
        self._ids = ids
        self._left_out = left_out

    def fill(self, writer: StoreWriter, shard: int) -> None:
        """Write one shard."""
        rows = self._layout.rows(shard)
        gone = [row - rows.start for row in rows if row in self._left_out]
        columns, tables, rasters = self._columns(rows), {}, {}
        for array in self._published.arrays:
            values = self._published.read(array, slice(rows.start, rows.stop))
            m = array.modality
            try:
                if not m.stored:
                    tables[array.form.name] = values
                elif m.kind.is_raster:
                    rasters[m.name] = array.form.to_stored(m, values)
                    rasters[m.name][gone] = m.nodata
                else:
                    columns[m.name] = array.form.to_stored(m, values)
            except InputError as error:
                raise FileInputError(
                    self._published.files.h5, f"{error} (rows {rows.start} to {rows.stop - 1})"
                ) from None
        columns["facts"] = self._facts(rows, columns, tables)
        columns["tile_id"][gone] = 0
        try:
            writer.write_shard(shard, columns, rasters, [self._rejected(rows.start + k) for k in gone])
        except InputError as error:
            raise FileInputError(self._published.files.h5, f"{error} (rows {rows.start} to {rows.stop - 1})") from None

    def _columns(self, rows: range) -> dict[str, Any]:
        part = slice(rows.start, rows.stop)
        scenes = self._published.scenes[part]
        columns = {name: scenes[name].copy() for name in SCENE.names or ()}
        return {**columns, "tile_id": self._ids[part].copy(), "split": self._published.split[part]}

    def _facts(self, rows: range, columns: Mapping[str, np.ndarray[Any, Any]], tables: Tables) -> list[str]:
        """Facts of each tile: its published id, and what no column can reproduce."""
        texts = []
        entries = list(self._published.entries(rows))
        expected = coordinate_tables(self._form, self._layout.modalities, entries, columns["time"])
        for k, (row, entry) in enumerate(zip(rows, entries, strict=True)):
            tile = {name: column[k] for name, column in columns.items()}
            published_id = self._published.ids[row].decode(errors="surrogateescape")
            facts = facts_of(self._form, self._layout, tile, published_id, entry)
            kept = differing(self._form, tables, expected, k)
            texts.append(json.dumps(facts | ({TABLES: kept} if kept else {}), sort_keys=True))
        return texts

    def _rejected(self, row: int) -> dict[str, Any]:
        scene = self._published.scenes[row]
        name, other = (self._published.ids[r].decode(errors="replace") for r in (row, self._left_out[row]))
        return {
            "tile_id": int(self._ids[row]),
            "lon": float(scene["lon"]),
            "lat": float(scene["lat"]),
            "reason": DUPLICATE,
            "detail": f"{name} has the location and date of {other}",
            "slot": row,
        }
