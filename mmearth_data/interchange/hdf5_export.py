"""Export a store in the published HDF5 format.

An HDF5 file is corrupt if its writer is killed. Each shard is therefore first written to a small file of its own,
atomically; when all of them exist, their compressed chunks are copied into one file, and the folder is renamed to its
final name. Meanwhile, the export takes twice its size on disk.
"""

from __future__ import annotations

import json
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from mmearth_data.catalog.tile import LEVEL_NAMES
from mmearth_data.errors import InputError
from mmearth_data.files.writing import move_folder, staged_stream, write_text
from mmearth_data.interchange.entries import PUBLISHED_ID, TABLES, entry_of, unique_names
from mmearth_data.interchange.form import PublishedArray, PublishedForm, published_form
from mmearth_data.interchange.hdf5_folder import SYNTHETIC, Files
from mmearth_data.interchange.hdf5_gaps import (
    Means,
    check_fill,
    missing_values,
    summary_of,
    taken_for_values,
    warning_of,
)
from mmearth_data.interchange.hdf5_writing import new_hdf5
from mmearth_data.interchange.tables import coordinate_tables, put_back
from mmearth_data.interchange.targets import check_finished, check_located, check_name, collecting
from mmearth_data.store.commits import read_commit
from mmearth_data.store.schema import SPLIT_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store.commits import Commit
    from mmearth_data.store.reader import Store

GZIP_LEVEL = 4
"""Compression level; h5py's default."""
COMPRESSORS = 4
DIGEST = "mmearth_store"
"""Attribute of an exported file: digest of the store that it was made from."""
FILLED = "filled"
"""Attribute of an exported file: the ``--fill`` options it was written with."""
IDENTITY_STATISTICS = {"mean": 0.0, "std": 1.0, "min": 0.0, "max": 1.0}
"""Statistics of a band without observed values: normalising with them changes nothing, and no reader fails."""
TINY_STD = 1e-6


def export_published(
    store: Store,
    out: Path,
    *,
    name: str | None = None,
    fill: Mapping[str, str] | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> Path:
    """Export a finished store in the published form; see `mmearth_data.export`."""
    check_finished(store)
    check_located(store)
    form = published_form()
    name = check_name(name or form.default_name(store.layout.size_px))
    target, staging = out / name, out / f".{name}.partial"
    export = Export(store, form, fill or {})
    if _is_exported(Files.at(target, name).h5, export.identity):
        return target
    export.check(note)
    with collecting(staging, target, export.identity):
        if written := sum(1 for _ in staging.glob("[0-9]*.json")):
            note(f"Resuming {target}: {written} of {store.layout.shards} shards are written.")
        for shard in range(store.layout.shards):
            report(store.layout.rows(shard).start, store.layout.tiles)
            export.write_part(staging / f"{shard}.h5", staging / f"{shard}.json", shard)
        export.assemble(staging, Files.at(staging / name, name))
        move_folder(staging / name, target)
    report(store.layout.tiles, store.layout.tiles)
    return target


def _is_exported(path: Path, identity: Mapping[str, str]) -> bool:
    """Whether this store was already exported there with the same fill options.

    Raises
    ------
    InputError
        If the folder contains the export of another store, or something else.
    """
    if not path.parent.exists():
        return False
    try:
        with h5py.File(path, "r") as file:
            same = all(file.attrs.get(key, "") == value for key, value in identity.items())
    except OSError:
        same = False
    if not same:
        raise InputError(
            f"{path.parent}: expected a folder that does not exist yet, got another data set; choose another --out or --name."
        )
    return True


@dataclass(frozen=True, slots=True)
class OutArray:
    """One array of the export and the modality that fills it."""

    form: PublishedArray
    modality: Modality


class Export:
    """State shared by the parts of one export.

    Parameters
    ----------
    store
        A finished store; a selection of modalities is respected, a selection of tiles is not.
    form
        The published format.
    fill
        Modality -> ``mean``: what to write for missing values.

    Attributes
    ----------
    identity
        Attributes of the file that identify this export.

    Raises
    ------
    InputError
        If a modality cannot be filled.
    """

    def __init__(self, store: Store, form: PublishedForm, fill: Mapping[str, str]) -> None:
        self._store = store
        self._layout = store.layout
        self._form = form
        modalities = store.modalities
        self._arrays = tuple(
            OutArray(array, modalities[array.modality]) for array in form.arrays if array.modality in modalities
        )
        self._by_modality = {a.modality.name: a.form for a in self._arrays}
        check_fill(fill, self._by_modality, modalities)
        self._means = {name: Means(store, modalities[name]) for name in sorted(fill)}
        self.identity = {DIGEST: str(store.digest), FILLED: ",".join(f"{name}={fill[name]}" for name in sorted(fill))}

    def check(self, note: Callable[[str], None]) -> None:
        """Refuse what the format cannot represent, and report what is left out.

        Raises
        ------
        InputError
            If there is no raster left, or a band is unknown.
        """
        for array in self._arrays:
            array.form.check_bands(array.modality)
        if not any(array.modality.kind.is_raster for array in self._arrays):
            raise InputError(f"{self._store.path}: expected a raster modality that the published form has, got none.")
        placed = {array.modality.name for array in self._arrays}
        others = {name: m for name, m in self._store.modalities.items() if name not in placed}
        if labels := [name for name, m in others.items() if m.stored and not m.kind.is_raster]:
            note(f"The published format has no array for {', '.join(labels)}; tile_info has their values under labels.")
        if left_out := [name for name in others if name not in labels]:
            note(f"The published format has no array for {', '.join(left_out)}; left out.")
        undated = int(np.isnat(self._store.coords["time"]).sum())
        if undated:
            note(f"{undated} tiles have no date, so their entries lack S2_DATE, which published readers require.")
        for means in self._means.values():
            note(means.describe(missing_values(self._store, means.modality)))
        mistaken = taken_for_values(self._store, self._by_modality, tuple(self._means))
        if mistaken:
            note(warning_of(mistaken))

    @cached_property
    def rows(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Store rows with tiles, in the order of the export's rows."""
        return np.flatnonzero(self._store.content.column("tile_id"))

    @cached_property
    def names(self) -> list[str]:
        """Published id of each row of the export."""
        given: list[str | None] = []
        for shard in range(self._layout.shards):
            given += [json.loads(text).get(PUBLISHED_ID) for text in self._commit(shard).facts]
        ids, times = (self._store.content.column(name)[self.rows] for name in ("tile_id", "time"))
        names = unique_names(ids.tolist(), times.tolist(), given)
        long = next((n for n in names if len(n.encode()) > self._form.metadata.id_bytes), None)
        if long is not None:
            raise InputError(f"Expected ids of at most {self._form.metadata.id_bytes} bytes, got {long!r}.")
        return names

    def _commit(self, shard: int) -> Commit:
        return read_commit(self._store.content.objects, self._layout, shard)

    def write_part(self, h5: Path, entries: Path, shard: int) -> None:
        """Write the tiles of one shard to files of their own, unless these exist."""
        if h5.exists() and entries.exists():
            return
        commit = self._commit(shard)
        if not len(commit.rows):
            return
        first = int(np.searchsorted(self.rows, commit.rows[0]))
        names = self.names[first : first + len(commit.rows)]
        arrays, observed = self._arrays_of(shard, commit)
        described = self._describe(commit, observed)
        tables = coordinate_tables(self._form, self._layout.modalities, described, commit.columns["time"])
        for k, text in enumerate(commit.facts):
            put_back(self._form, tables, k, json.loads(text).get(TABLES, {}))
        arrays |= {name: values for name, values in tables.items() if name in self._shapes}
        arrays[self._form.metadata.array] = self._metadata(names, commit)
        with self._file(h5, len(names)) as file:
            for name, values in arrays.items():
                _write_chunks(file[name], values)
        lines = (f"{json.dumps(n)}: {json.dumps(e)}" for n, e in zip(names, described, strict=True))
        write_text(entries, ",\n".join(lines))

    def _arrays_of(self, shard: int, commit: Commit) -> tuple[dict[str, Any], list[dict[str, list[str]]]]:
        """Read a shard's tiles as published values, and the observed bands of each tile."""
        rows = self._layout.rows(shard)
        arrays: dict[str, Any] = {}
        observed: list[dict[str, list[str]]] = [{} for _ in commit.rows]
        for array in self._arrays:
            m = array.modality
            if not m.stored:
                continue
            if not m.kind.is_raster:
                arrays[array.form.name] = array.form.to_published(m, self._filled(m, commit.columns[m.name], commit))
                continue
            values = self._store.content.read(m.name, rows)
            if len(commit.rows) < len(rows):
                values = values[commit.rows - rows.start]
            arrays[array.form.name] = array.form.to_published(m, self._filled(m, values, commit))
            seen: np.ndarray[Any, Any] = np.asarray(m.observed(values).any(axis=(2, 3)))
            for k, bands in enumerate(observed):
                bands[array.form.name] = [b for b, s in zip(m.bands, seen[k], strict=True) if s]
        return arrays, observed

    def _filled(self, m: Modality, values: np.ndarray[Any, Any], commit: Commit) -> np.ndarray[Any, Any]:
        """Replace missing values by means, for the modalities of ``fill``."""
        means = self._means.get(m.name)
        return values if means is None else means.fill(values, commit.columns["s2_level"])

    def _describe(self, commit: Commit, observed: list[dict[str, list[str]]]) -> list[dict[str, Any]]:
        """Entries of tile_info."""
        return [
            entry_of(
                self._form,
                self._layout,
                {name: column[k] for name, column in commit.columns.items()},
                json.loads(text),
                observed[k],
            )
            for k, text in enumerate(commit.facts)
        ]

    def _metadata(self, names: list[str], commit: Commit) -> np.ndarray[Any, Any]:
        words = self._form.metadata
        table = np.zeros(len(names), dtype=words.dtype)
        table[words.id] = [name.encode(errors="surrogateescape") for name in names]
        for code, level in LEVEL_NAMES.items():
            table[words.level][commit.columns["s2_level"] == code] = self._form.levels[level].encode()
        return table

    @cached_property
    def _shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape of one tile and type of every array."""
        shapes = {
            a.form.name: (a.form.shape(a.modality, self._layout.size_px), np.dtype(a.form.dtype)) for a in self._arrays
        }
        return {**shapes, self._form.metadata.array: ((), self._form.metadata.dtype)}

    @contextmanager
    def _file(self, path: Path, rows: int, needed_bytes: int | None = None) -> Iterator[h5py.File]:
        with new_hdf5(path, needed_bytes=needed_bytes) as file:
            for name, (shape, dtype) in self._shapes.items():
                whole, chunk = (rows, *shape), (1, *shape)
                file.create_dataset(name, whole, dtype, chunks=chunk, compression="gzip", compression_opts=GZIP_LEVEL)
            yield file

    def assemble(self, parts: Path, files: Files) -> None:
        """Assemble the final files from the parts."""
        shutil.rmtree(files.h5.parent, ignore_errors=True)
        files.h5.parent.mkdir()
        found = [parts / f"{shard}.h5" for shard in range(self._layout.shards)]
        found = [path for path in found if path.exists()]
        needed = sum(path.stat().st_size for path in found)
        with self._file(files.h5, len(self.rows), needed) as file:
            file.attrs[SYNTHETIC] = self._store.synthetic
            for key, value in self.identity.items():
                file.attrs[key] = value
            file.attrs["title"] = self._store.attributes["title"]
            start = 0
            for part in found:
                with h5py.File(part, "r") as source:
                    for name in self._shapes:
                        _copy_chunks(source[name], file[name], start)
                    start += len(source[self._form.metadata.array])
        with staged_stream(files.tile_info) as stream:
            for k, part in enumerate(found):
                stream.write((b",\n" if k else b"{\n") + part.with_suffix(".json").read_bytes())
            stream.write(b"\n}\n")
        split = self._store.content.column("split")[self.rows]
        splits = {name: np.flatnonzero(split == code).tolist() for code, name in SPLIT_NAMES.items()}
        for target, content in ((files.splits, splits), (files.band_stats, self._statistics())):
            write_text(target, json.dumps(content))

    def _statistics(self) -> dict[str, dict[str, list[float]]]:
        """Statistics of every band of the continuous arrays, of the train split if it has values."""
        found = {}
        for array in self._arrays:
            m = array.modality
            if m.kind.is_continuous:
                levels = {name: level for level, name in array.form.statistics.items()} or {array.form.name: "-"}
                for name, level in levels.items():
                    summaries = [self._summary(m.name, level, band) for band in array.form.bands]
                    found[name] = {key: [s[key] for s in summaries] for key in IDENTITY_STATISTICS}
        return found

    def _summary(self, modality: str, level: str, band: str) -> Mapping[str, float]:
        entry = summary_of(self._store, modality, level, band)
        if entry is None:
            return IDENTITY_STATISTICS
        return {**entry, "std": entry["std"] if entry["std"] >= TINY_STD else 1.0}


def _write_chunks(data: h5py.Dataset, values: np.ndarray[Any, Any]) -> None:
    """Compress tiles in threads, and write each as one chunk."""
    little = values.dtype.newbyteorder("<") if values.dtype.names is None else values.dtype

    def packed(tile: np.ndarray[Any, Any]) -> bytes:
        return zlib.compress(np.asarray(tile, dtype=little).tobytes(), GZIP_LEVEL)

    rest = (0,) * (values.ndim - 1)
    with ThreadPoolExecutor(COMPRESSORS) as pool:
        for row, chunk in enumerate(pool.map(packed, values)):
            data.id.write_direct_chunk((row, *rest), chunk)


def _copy_chunks(source: h5py.Dataset, target: h5py.Dataset, start: int) -> None:
    """Copy the compressed chunks of all rows, to the target's rows from ``start``."""
    rest = (0,) * (source.ndim - 1)
    for row in range(len(source)):
        mask, chunk = source.id.read_direct_chunk((row, *rest))
        target.id.write_direct_chunk((start + row, *rest), chunk, mask)
