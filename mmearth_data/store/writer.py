"""Write a store, shard by shard; a shard is published as a whole, by its commit record."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mmearth_data.errors import InputError, MMEarthError, StoreDamaged
from mmearth_data.store.about import ExtentsMerger
from mmearth_data.store.codec import encode, encoder_name
from mmearth_data.store.commits import (
    Commit,
    commit_key,
    committed_shards,
    decode_commit,
    encode_commit,
    place_rows,
    read_commit,
)
from mmearth_data.store.conventions import extent_attributes
from mmearth_data.store.encoding import (
    encode_chunk,
    encode_names,
    encode_shard,
    encode_tiles,
    extend_shard,
    join_shard,
    object_key,
    to_json,
)
from mmearth_data.store.growth import HeldRows, held_rows
from mmearth_data.store.index import rejected_table, tiles_writer, write_tables
from mmearth_data.store.items import has_items
from mmearth_data.store.manifest import Entry, check_object, encode_manifest, entry_of, read_manifest
from mmearth_data.store.root import Root, new_root, read_root
from mmearth_data.store.schema import LEDGER, MANIFEST_KEY, REJECTED_KEY, ROOT_KEY, SPATIAL_KEY, TILES_KEY, StoreLayout
from mmearth_data.store.shards import check_columns, check_rasters, check_rejected, moved_bits, seen_tiles, valid_bits
from mmearth_data.store.stats import StatisticsMerger, part_of_statistics, partial_statistics
from mmearth_data.store.storage import storage_at
from mmearth_data.store.threads import lasting_threads
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store.storage.protocol import Storage, StoreUrl

ENCODERS = 8
"""Threads of a process that compress and write rasters, both without the interpreter's lock."""

READERS = 4
"""Commit records that are read at the same time when the build ends."""
LAID_OUT = re.compile(rf"[^/]+/{re.escape(ROOT_KEY)}|[^/]+_band/c/0")
"""Keys of array metadata and band names, see `fixed_objects`."""
BEGIN_KEY = f"{LEDGER}/begin.json"
"""Exists while a store is laid out: metadata without a root beside it were left by an interrupted call."""


class StoreWriter:
    """Writes the shards of one store; use `create` or `resume`.

    Shards may be written from any number of threads and processes, in any order; the bytes of the finished store are the
    same. The writer itself is small and can be pickled.
    """

    def __init__(self, path: str | Path | StoreUrl, root: Root, stage: int = -1) -> None:
        self._whole = root
        self._stage = range(len(root.stages))[stage]
        self._root = root.as_of(self._stage)
        self._objects = storage_at(path)
        self.path = self._objects.root
        self._specs = {spec.name: spec for spec in self._root.layout.arrays}

    @classmethod
    def create(
        cls,
        path: str | Path | StoreUrl,
        layout: StoreLayout,
        *,
        recipe: Mapping[str, Any],
        source: Mapping[str, Any],
        synthetic: bool,
    ) -> Self:
        """Lay out a new store in which nothing is committed yet.

        Parameters
        ----------
        path
            Folder that does not exist or is empty, or URL without objects. What an interrupted call left is completed.
        layout
            Its arrays.
        recipe, source
            What the store is made from, JSON-ready, without anything that differs between two equal builds.
        synthetic
            True if the pixels are not measurements.

        Raises
        ------
        InputError
            When the path has something else.
        """
        root = new_root(layout, recipe=recipe, source=source, synthetic=synthetic)
        objects = storage_at(path)
        if objects.size(ROOT_KEY) is not None:
            raise InputError(
                f"{objects.root}: expected nothing there yet, got a store; the same command again continues it."
            )
        refuse_others(objects, root)
        made = not objects.is_there()
        objects.make()
        try:
            _lay_out(objects, root)
        except OSError:  # a full disk
            remove_quietly(objects, folder=made)
            raise
        return cls(path, root)

    @classmethod
    def resume(cls, path: str | Path | StoreUrl) -> Self:
        """Continue a store that was begun.

        Raises
        ------
        InputError
            When there is no store at the path.
        StoreDamaged
            When its metadata are broken.
        """
        objects = storage_at(path)
        root = read_root(objects)
        objects.discard_staged()
        return cls(path, root)

    @classmethod
    def append(cls, path: str | Path | StoreUrl, tiles: int) -> Self:
        """Turn a finished store into an unfinished one with more rows; its shards do not change.

        The seal is removed first, so that readers use the commit records. If this is interrupted, it is an unfinished store
        without a missing shard, which `finish` seals as it was.

        Parameters
        ----------
        path
            A finished store.
        tiles
            Rows to add.

        Raises
        ------
        InputError
            When it is not finished.
        """
        writer = cls.resume(path)
        if not writer.finished:
            raise InputError(f"{path}: expected a finished store, got one that is being built.")
        root, objects = writer._whole.grown(tiles), writer._objects
        objects.delete(MANIFEST_KEY)
        _lay_out(objects, root)
        return cls(path, root)

    def at(self, stage: int) -> Self:
        """Return the writer of one stage: the build (0), or one of the appends that followed it."""
        return type(self)(self._objects.root, self._whole, stage)

    def unfinished_stages(self) -> Iterator[Self]:
        """Yield the writer of each stage with missing shards, in order, after the one before is done."""
        for stage in range(len(self.stages)):
            at = self.at(stage)
            if len(at.committed()) < at.layout.shards:
                yield at

    @property
    def stages(self) -> tuple[int, ...]:
        """Rows after the build, and after each append that followed it."""
        return self._whole.stages

    @property
    def stage(self) -> int:
        """Stage of this writer: 0 is the build."""
        return self._stage

    @property
    def layout(self) -> StoreLayout:
        """Rows, shards and arrays of the store, at this writer's stage."""
        return self._root.layout

    @property
    def first_row(self) -> int:
        """First row of this writer's stage."""
        return self.stages[self._stage - 1] if self._stage else 0

    @property
    def finished(self) -> bool:
        """True if the store is sealed."""
        return read_manifest(self._objects) is not None

    def committed(self) -> frozenset[int]:
        """Shards that are complete on disk, with all rows of this writer's stage."""
        found = frozenset(shard for shard in committed_shards(self._objects) if shard < self.layout.shards)
        return found - {shard for shard in found & self._grown_shards if not self._covers(shard)}

    def is_committed(self, shard: int) -> bool:
        """Whether one shard is complete on disk, with all rows of this writer's stage."""
        exists = self._objects.size(commit_key(shard)) is not None
        return exists and (shard not in self._grown_shards or self._covers(shard))

    @property
    def _grown_shards(self) -> frozenset[int]:
        """Shards that were not full at the end of an earlier stage."""
        size = self.layout.tiles_per_shard
        return frozenset(rows // size for rows in self.stages[: self._stage] if rows % size)

    def _covers(self, shard: int) -> bool:
        """Whether the record of a shard has all its rows of this stage."""
        commit = read_commit(self._objects, self._whole.layout, shard)
        held = self._whole.held(shard, commit.arrays)
        return held is not None and held >= len(self.layout.rows(shard))

    def rows(self, shard: int) -> range:
        """Rows of a shard that belong to this writer's stage."""
        rows = self.layout.rows(shard)
        return range(max(rows.start, self.first_row), rows.stop)

    def write_shard(
        self,
        shard: int,
        columns: Mapping[str, np.ndarray[Any, Any]],
        rasters: Mapping[str, np.ndarray[Any, Any] | None],
        rejected: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Write one shard: its rasters, then, as the last thing, its commit record.

        Parameters
        ----------
        shard
            Number of the shard; n = ``len(rows(shard))``. Rows of earlier stages are kept.
        columns
            One array (n,) per coordinate but ``valid`` (``time`` in int64 milliseconds), (n,) or (n, band) per
            stored tile modality, and ``facts``, n mappings or JSON texts. A row without a tile has the tile id 0;
            its other values are ignored.
        rasters
            (n, band, y, x) per stored raster modality, in its stored type; no-data in rows without a tile. None for
            a modality that no tile of the shard has.
        rejected
            Rejected candidates: dicts of tile_id, lon, lat, reason, detail, slot.

        Raises
        ------
        InputError
            With the array that is not as expected; nothing is written then.
        """
        if self._objects.size(MANIFEST_KEY) is not None:
            raise InputError(f"{self.path}: expected a store that is being built, got a finished one.")
        rows = self.rows(shard)
        checked, facts = check_columns(self.layout, len(rows), columns)
        check_rasters(self.layout, checked["tile_id"], rasters)
        notes = check_rejected(rejected)
        before = self._before(shard)
        kept = np.flatnonzero(checked["tile_id"])
        pool = lasting_threads("encoder", ENCODERS, os.getpid())
        with self._objects.together() as put:
            writing = [
                pool.submit(self._put_raster, put, m, shard, rasters[m.name], before) for m in self.layout.rasters
            ]
            try:
                statistics = self._statistics(checked, rasters, before)
            finally:
                wait(writing)
            written = [future.result() for future in writing]
        seen = {m.name: tiles for m, (_, _, tiles) in zip(self.layout.rasters, written, strict=True)}
        seen |= {m.name: seen_tiles(m, checked[m.name]) for m in self.layout.tabular}
        checked["valid"] = valid_bits([seen[m.name] for m in self.layout.stored])
        commit = Commit(
            shard=shard,
            rows=kept + rows.start,
            columns={name: column[kept] for name, column in checked.items()},
            facts=[facts[k] for k in kept],
            objects={key: entry for key, entry, _ in written},
            arrays=self._root.arrays_digest,
            statistics_json=to_json(statistics),
            rejected=notes,
            encoders=(encoder_name(),),
        )
        commit = commit if before is None else before.followed_by(commit)
        self._objects.put(commit_key(shard), encode_commit(commit, self.layout.tabular))

    def _before(self, shard: int) -> HeldRows | None:
        """Rows of a shard from earlier stages, None if there are none."""
        held = self.rows(shard).start - self.layout.rows(shard).start
        return held_rows(self._objects, self._whole, shard, held) if held else None

    def _statistics(
        self,
        columns: Mapping[str, np.ndarray[Any, Any]],
        rasters: Mapping[str, np.ndarray[Any, Any] | None],
        before: HeldRows | None,
    ) -> dict[str, Any]:
        """Partial statistics of a shard, including its rows from earlier stages."""
        if before is None:
            return partial_statistics(self.layout.modalities, {**columns, **rasters}, columns)
        count = len(columns["tile_id"])
        filled = {m.name: self._filled(m, rasters[m.name], count) for m in self.layout.rasters}
        arrays = before.joined({**columns, **filled})
        return partial_statistics(self.layout.modalities, arrays, {name: arrays[name] for name in columns})

    def _filled(self, m: Modality, values: np.ndarray[Any, Any] | None, count: int) -> np.ndarray[Any, Any]:
        if values is not None:
            return values
        shape = m.array_shape(self.layout.size_px)
        return np.broadcast_to(m.empty(shape), (count, *shape))

    def _put_raster(
        self,
        put: Callable[[str, bytes | memoryview], None],
        m: Modality,
        shard: int,
        values: np.ndarray[Any, Any] | None,
        before: HeldRows | None,
    ) -> tuple[str, Entry, NDArray[np.bool_]]:
        """Write one object; returns its key, size and digest, and which new tiles have a value of the modality."""
        chunks, count = self.layout.tiles_per_shard, len(self.rows(shard))
        seen = np.zeros(count, dtype=np.bool_) if values is None else seen_tiles(m, values)
        key = object_key(self._specs[m.name], shard)
        nothing = b"" if seen.all() else _empty_tile(m, self.layout.size_px)
        if before is not None:
            parts = [nothing] * count if values is None else encode_tiles(values, seen, nothing)
            data: bytes | memoryview = extend_shard(before.objects[m.name], chunks, before.rows, parts)
            entry = entry_of(data)
        elif values is not None:
            data = encode_shard(values, chunks, seen, nothing)
            entry = entry_of(data)
        else:
            data, entry = _empty_shard(m, self.layout.size_px, count, chunks)
        put(key, data)
        return key, entry, seen

    def adopt_shard(self, shard: int, source: Storage, commit: Commit, layout: StoreLayout) -> None:
        """Copy a whole shard of another store: its rasters byte for byte, its values and partial statistics.

        Parameters
        ----------
        shard
            Number of the shard here; it has as many rows as the other one, and the other store is `adoptable`.
        source, commit, layout
            Storage of the other store, the record of the shard there, and the layout there.

        Raises
        ------
        StoreDamaged
            When an object there is not what its record says.
        """
        rows, theirs = self.layout.rows(shard), layout.rows(commit.shard)
        written = {}
        for m in self.layout.rasters:
            key = object_key(self._specs[m.name], commit.shard)
            data = check_object(source, key, commit.objects[key])
            written[object_key(self._specs[m.name], shard)] = entry_of(data)
            self._objects.put(object_key(self._specs[m.name], shard), data)
        names = [spec.name for spec in self.layout.columns]
        columns = {name: commit.columns[name] for name in names}
        columns["valid"] = moved_bits(commit.columns["valid"], layout.stored, self.layout.stored)
        adopted = Commit(
            shard=shard,
            rows=commit.rows - theirs.start + rows.start,
            columns=columns,
            facts=commit.facts,
            objects=written,
            arrays=self._root.arrays_digest,
            statistics_json=to_json(part_of_statistics(commit.statistics, self.layout.modalities)),
            encoders=commit.encoders,
        )
        self._objects.put(commit_key(shard), encode_commit(adopted, self.layout.tabular))

    def adoptable(self, root: Root) -> bool:
        """Whether shards of another store can be copied: it has all rasters, encoded in the same way."""
        return all(
            m.name in root.arrays and _stored_way(root.arrays[m.name]) == _stored_way(self._root.arrays[m.name])
            for m in self.layout.rasters
        )

    def finish(self) -> None:
        """Write 1-D arrays, statistics and index from the commit records, and seal the store.

        If it was interrupted, calling it again gives the same bytes.

        Raises
        ------
        InputError
            When shards are missing, or this is the writer of an earlier stage.
        StoreDamaged
            When a commit record or an object that it names is missing or broken.
        """
        if self._root is not self._whole:
            raise InputError(f"{self.path}: expected the last stage of the store, got stage {self._stage}.")
        missing = sorted(set(range(self.layout.shards)) - self.committed())
        if missing:
            raise InputError(
                f"{self.path}: expected all {self.layout.shards} shards, {len(missing)} are missing "
                f"(the first is {missing[0]}); run the same build command again."
            )
        if not self.finished:
            _Finish(self._objects, self._root).run()


@lru_cache(maxsize=64)
def _empty_tile(m: Modality, size_px: int) -> bytes:
    """Inner chunk of a tile without observed values."""
    return encode(m.empty(m.array_shape(size_px)))


@lru_cache(maxsize=64)
def _empty_shard(m: Modality, size_px: int, count: int, chunks: int) -> tuple[bytes, Entry]:
    """Object of such tiles, the same in every shard, and its size and digest."""
    data = join_shard([_empty_tile(m, size_px)] * count, chunks)
    return data, entry_of(data)


def _stored_way(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of an array without its number of rows."""
    kept = {key: metadata[key] for key in ("data_type", "chunk_grid", "codecs", "fill_value")}
    return {**kept, "tile": list(metadata["shape"])[1:]}


class _Finish:
    """One run of `StoreWriter.finish`, which reads each commit record once."""

    def __init__(self, objects: Storage, root: Root) -> None:
        self.objects = objects
        self.root = root
        self.layout = root.layout
        self.items = has_items(root)
        self.files: dict[str, Entry] = {}
        self.merger = StatisticsMerger(root.layout.modalities)
        self.extents = ExtentsMerger(root.layout.size_px)

    def run(self) -> None:
        for key, data in fixed_objects(self.root):
            self._put(key, data)
        # Plain readers use the rows with valid > 0, so that array is written after all others.
        valid: dict[str, bytes] = {}
        rejected: list[pa.Table] = []
        with (
            self.objects.staged(TILES_KEY) as path,
            tiles_writer(path, self.root) as tables,
            ThreadPoolExecutor(READERS) as pool,
        ):
            for position, shards in enumerate(self._chunks()):
                commits = list(pool.map(self._commit, shards))
                tables.add(commits)
                for commit in commits:
                    self.merger.add(commit.statistics)
                    self.extents.add(commit.columns)
                notes = [row for commit in commits for row in commit.rejected]
                rejected.append(rejected_table(notes, texts=self.items))
                valid |= self._put_columns(position, commits)
        if self.items:
            with self.objects.staged(SPATIAL_KEY) as path:
                tables.write_spatial(path)
        with self.objects.staged(REJECTED_KEY) as path:
            write_tables(rejected, path)
        for key, data in valid.items():
            self._put(key, data)
        self._seal()

    def _chunks(self) -> Iterator[range]:
        """Shards of each chunk of the 1-D arrays."""
        step = self.layout.column_chunk_rows // self.layout.tiles_per_shard
        for start in range(0, self.layout.shards, step):
            yield range(start, min(start + step, self.layout.shards))

    def _commit(self, shard: int) -> Commit:
        key = commit_key(shard)
        data = self.objects.get(key)
        try:
            commit = decode_commit(data, self.layout)
        except Exception as error:  # pyarrow raises many kinds for a broken file
            raise StoreDamaged(self.objects.root, key, f"it cannot be read ({reason_of(error)})") from error
        if self.root.held(shard, commit.arrays) != len(self.layout.rows(shard)):
            raise StoreDamaged(self.objects.root, key, "it was written for other arrays than the store has")
        for name, entry in commit.objects.items():
            if self.objects.size(name) != entry["size"]:
                raise StoreDamaged(self.objects.root, name, "a committed object is missing or of another size")
        self.files[key] = entry_of(data)
        return commit

    def _put_columns(self, position: int, commits: Sequence[Commit]) -> dict[str, bytes]:
        """Write one chunk of every 1-D array but `valid`, which is returned."""
        size = self.layout.column_chunk_rows
        rows = range(position * size, min((position + 1) * size, self.layout.tiles))
        held = {}
        for spec in self.layout.columns:
            values = place_rows(spec, commits, rows)
            data = encode_chunk(values, size, spec.empty)
            if spec.name == "valid":
                held[object_key(spec, position)] = data
            else:
                self._put(object_key(spec, position), data)
        return held

    def _seal(self) -> None:
        attributes = {
            **self.root.attributes,
            "statistics": self.merger.statistics(),
            "class_histograms": self.merger.class_histograms(),
            **(extent_attributes(self.extents.extents()) if self.root.described else {}),
        }
        self._put(ROOT_KEY, Root(self.layout, attributes, self.root.arrays).encode())
        for key in (TILES_KEY, *([SPATIAL_KEY] if self.items else []), REJECTED_KEY):
            self.files[key] = entry_of(self.objects.get(key))
        self.objects.put(MANIFEST_KEY, encode_manifest(self.files, self.root.version))
        self.objects.discard_staged()

    def _put(self, key: str, data: bytes) -> None:
        self.objects.put(key, data)
        self.files[key] = entry_of(data)


def fixed_objects(root: Root) -> Iterator[tuple[str, bytes]]:
    """Key and bytes of what does not change during a build: array metadata and band names."""
    for name, metadata in root.own_metadata():
        yield f"{name}/{ROOT_KEY}", to_json(metadata)
    for m in root.layout.stored:
        if m.bands:
            yield f"{m.name}_band/c/0", encode_names(m.bands)


def _lay_out(objects: Storage, root: Root) -> None:
    """Write array metadata, and then the root, which makes it a store; metadata of an interrupted call are removed."""
    laid_out = dict(fixed_objects(root))
    objects.put(BEGIN_KEY, b"{}")
    for key in [key for key in objects.keys() if LAID_OUT.fullmatch(key) and key not in laid_out]:  # noqa: SIM118
        objects.delete(key)
    with objects.together() as put:
        for key, data in laid_out.items():
            put(key, data)
    objects.put(ROOT_KEY, root.encode())
    objects.delete(BEGIN_KEY)
    objects.discard_staged()


def remove_quietly(objects: Storage, *, folder: bool) -> None:
    """Remove a store that cannot be made, and its folder if requested; failures must not hide the original error."""
    with suppress(OSError, MMEarthError):
        objects.remove()
    if folder:
        objects.unmake()


def refuse_others(objects: Storage, root: Root | None = None) -> None:
    """Refuse a folder or URL with other objects than an interrupted begin leaves.

    A copy of a store that lacks its root could leave the same, so without `BEGIN_KEY` only metadata of ``root`` pass, if
    it is known already.

    Raises
    ------
    InputError
        With the first such object.
    """
    ours = None if root is None or objects.size(BEGIN_KEY) is not None else {key for key, _ in fixed_objects(root)}
    for key in objects.keys():  # noqa: SIM118 - no mapping
        expected = LAID_OUT.fullmatch(key) if ours is None else key in ours
        if not expected and not key.startswith(f"{LEDGER}/"):
            raise InputError(
                f"{objects.root}: expected an MMEarth store or nothing there yet, got other files ({key}); choose another path."
            )
