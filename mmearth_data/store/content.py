"""Read the values of a store: from the arrays of a finished store, or the commit records of an unfinished one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from mmearth_data.errors import InputError, StoreDamaged
from mmearth_data.store.chunks import ChunkReader
from mmearth_data.store.codec import decode
from mmearth_data.store.commits import commit_key, committed_shards, place_rows, read_commit
from mmearth_data.store.encoding import object_key
from mmearth_data.store.growth import held_problem
from mmearth_data.store.manifest import Manifest, check_object, open_object, read_manifest
from mmearth_data.store.root import Root, parse_root, read_root
from mmearth_data.store.schema import MANIFEST_KEY, ROOT_KEY
from mmearth_data.store.stats import StatisticsMerger
from mmearth_data.store.storage import storage_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data.store.commits import Commit
    from mmearth_data.store.schema import ArraySpec, StoreLayout
    from mmearth_data.store.storage.protocol import Storage

COMMITS_STATE = " commits"
"""Last part of the state of an unfinished store, which may grow while it is read."""
READERS = 4
"""Threads that read commit records."""


class Content:
    """Values of one store by array and row, checked on first use.

    Parameters
    ----------
    objects
        Bytes of the store.
    root
        Its root metadata.
    manifest
        Its manifest, None while it is unfinished.
    """

    def __init__(self, objects: Storage, root: Root, manifest: Manifest | None) -> None:
        self.objects = objects
        self.root = root
        self.manifest = manifest
        self._columns: dict[str, np.ndarray[Any, Any]] = {}
        self._readers: dict[str, ChunkReader] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle only the path: the tasks of a large graph must not each contain the catalog.
        return (_reopened, (str(self.objects.root), self.state))

    @property
    def state(self) -> str:
        """Text that changes whenever the content of the store changes."""
        if self.manifest is not None:
            return str(self.manifest["digest"])
        committed = sum(len(commit.rows) for commit in self.commits.values())
        return f"{committed} of {self.layout.tiles} rows in {len(self.commits)}{COMMITS_STATE}"

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the store at a path; raises like `mmearth_data.store.reader.open_store`."""
        objects = storage_at(path)
        if not objects.is_there():
            read_root(objects)
        while (manifest := read_manifest(objects)) is not None:
            try:
                data = check_object(objects, ROOT_KEY, _entry(objects, manifest, ROOT_KEY))
                return cls(objects, parse_root(objects, data), manifest)
            except StoreDamaged:
                if not _resealed(objects, manifest):
                    raise
        return cls(objects, read_root(objects), None)

    @property
    def layout(self) -> StoreLayout:
        """Rows, shards and arrays."""
        return self.root.layout

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Root attributes."""
        return self.root.attributes

    @cached_property
    def commits(self) -> dict[int, Commit]:
        """Commit records by shard, in order; for an unfinished store, those that exist."""
        shards = sorted(committed_shards(self.objects))
        try:
            with ThreadPoolExecutor(READERS) as pool:
                return dict(zip(shards, pool.map(partial(read_commit, self.objects, self.layout), shards), strict=True))
        except StoreDamaged as error:
            if read_root(self.objects).layout.tiles != self.layout.tiles:
                raise _grown(self.objects) from error
            raise

    @cached_property
    def statistics(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Statistics and class histograms: those of the finished store, or of the committed shards."""
        if self.manifest is not None:
            return self.attributes["statistics"], self.attributes["class_histograms"]
        merger = StatisticsMerger(self.layout.modalities)
        for commit in self.commits.values():
            merger.add(commit.statistics)
        return merger.statistics(), merger.class_histograms()

    def facts(self, row: int) -> Mapping[str, Any]:
        """Facts of one row, from the commit record of its shard."""
        shard = row // self.layout.tiles_per_shard
        if self.manifest is None:
            commit = self.commits[shard]
        else:
            self.check(commit_key(shard))
            commit = read_commit(self.objects, self.layout, shard)
        facts: Mapping[str, Any] = json.loads(commit.facts[commit.rows.tolist().index(row)])
        return facts

    def spec(self, name: str) -> ArraySpec:
        """Describe an array."""
        return next(spec for spec in self.layout.arrays if spec.name == name)

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """All rows of a 1-D array, kept in memory; read-only."""
        if name not in self._columns:
            spec = self.spec(name)
            if self.manifest is None:
                values = place_rows(spec, list(self.commits.values()), range(self.layout.tiles))
            else:
                values = self._sealed_column(spec)
            values.flags.writeable = False
            self._columns[name] = values
        return self._columns[name]

    def _sealed_column(self, spec: ArraySpec) -> np.ndarray[Any, Any]:
        """Decode the chunks of a 1-D array, with metadata and bytes checked."""
        self.check(f"{spec.name}/{ROOT_KEY}")
        values = np.empty((-(-spec.shape[0] // spec.chunk_shape[0]), *spec.chunk_shape), dtype=spec.dtype)
        for position, chunk in enumerate(values):
            key = object_key(spec, position)
            try:
                decode([self.check(key)], chunk[None])
            except ValueError as error:
                raise StoreDamaged(self.objects.root, key, f"it cannot be decoded: {error}") from error
        return values.reshape(-1, *spec.shape[1:])[: spec.shape[0]].copy()

    def read(self, name: str, rows: range | NDArray[np.intp]) -> np.ndarray[Any, Any]:
        """Raw values of some rows, in any order, of any array along ``tile``."""
        spec, rows = self.spec(name), np.asarray(rows, dtype=np.intp)
        if not spec.sharded:
            return self.column(name)[rows]
        if self.manifest is not None:
            return self.reader(name).read(rows)
        return self._read_committed(spec, rows)

    def _read_committed(self, spec: ArraySpec, rows: NDArray[np.intp]) -> np.ndarray[Any, Any]:
        """Rows of an unfinished raster: no data for uncommitted shards, even if a killed build left objects there."""
        values = np.full((len(rows), *spec.shape[1:]), spec.empty, dtype=spec.dtype)
        shards, positions = np.divmod(rows, self.layout.tiles_per_shard)
        counts = {shard: self._held(shard) for shard in np.unique(shards).tolist()}
        held = positions < np.array([counts[shard] for shard in shards.tolist()])
        if held.any():  # the array may not exist before
            values[held] = self.reader(spec.name).read(rows[held])
        return values

    def _held(self, shard: int) -> int:
        """Count the committed rows of a shard: none, all, or those from before an append."""
        if shard not in self.commits:
            return 0
        held = self.root.held(shard, self.commits[shard].arrays)
        return len(self.layout.rows(shard)) if held is None else held

    def reader(self, name: str) -> ChunkReader:
        """Open one raster, with its metadata checked."""
        if name not in self._readers:
            self.check(f"{name}/{ROOT_KEY}")
            # Concurrent threads all get the same reader, so that what it has cached about shards is not lost.
            self._readers.setdefault(name, ChunkReader(self.objects, self.spec(name), self._check_size))
        return self._readers[name]

    def check(self, key: str) -> bytes:
        """Read an object of a finished store and compare it with the manifest; do nothing for an unfinished store."""
        if self.manifest is None:
            return b""
        with self._unless_grown(self.manifest):
            return check_object(self.objects, key, _entry(self.objects, self.manifest, key))

    def open_checked(self, key: str) -> BinaryIO:
        """Open an object of a finished store after comparing it with the manifest."""
        assert self.manifest is not None
        with self._unless_grown(self.manifest):
            return open_object(self.objects, key, _entry(self.objects, self.manifest, key))

    @contextmanager
    def _unless_grown(self, manifest: Manifest) -> Iterator[None]:
        """Report an object that differs from the manifest as damage, unless the store has since been sealed again."""
        try:
            yield
        except StoreDamaged as error:
            if _resealed(self.objects, manifest):
                raise _grown(self.objects) from error
            raise

    def _check_size(self, key: str) -> None:
        """Compare the size of a raster's object with its commit, if commits have been read."""
        if self.manifest is not None:
            return
        shard = int(key.split("/")[2])
        entry = self.commits[shard].objects[key]
        size = self.objects.size(key)
        if size == entry["size"]:
            return
        problem: str | None = f"expected {entry['size']} bytes, found {size}"
        held = self._held(shard)
        if size is not None and held < self.layout.tiles_per_shard:
            # Rows may have been appended to it since; it then begins with the committed ones.
            problem = held_problem(self.objects.get(key), self.layout, held, entry)
        if problem is not None:
            raise StoreDamaged(self.objects.root, key, problem)


@lru_cache(maxsize=16)
def _reopened(path: str, state: str) -> Content:
    """Open a store once in each process that reads it.

    Raises
    ------
    InputError
        If a finished store has changed since it was pickled.
    """
    content = Content.open(path)
    if content.state != state and not state.endswith(COMMITS_STATE):
        raise InputError(f"{path}: expected the store as it was opened, got another one in its place; open it again.")
    return content


def _resealed(objects: Storage, manifest: Manifest) -> bool:
    """Whether a store has been unsealed, or sealed again, since its manifest was read."""
    now = read_manifest(objects)
    return now is None or now["digest"] != manifest["digest"]


def _grown(objects: Storage) -> InputError:
    return InputError(
        f"{objects.root}: expected the store as it was opened, got one that has grown since; open it again."
    )


def _entry(objects: Storage, manifest: Manifest, key: str) -> Mapping[str, Any]:
    entry: Mapping[str, Any] | None = manifest["files"].get(key)
    if entry is None:
        raise StoreDamaged(objects.root, MANIFEST_KEY, f"it does not mention {key}")
    return entry
