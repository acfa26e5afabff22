"""Check a store against its own records."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np

from mmearth_data.catalog.tile import format_tile_id, is_content_id, resized_tile_ids, tile_ids
from mmearth_data.errors import InputError, StoreDamaged
from mmearth_data.store.about import extents
from mmearth_data.store.commits import commit_key, committed_shards, place_rows, read_commit, table_columns
from mmearth_data.store.content import Content
from mmearth_data.store.conventions import EXTENT, extent_attributes
from mmearth_data.store.encoding import digest_of, digest_stream, object_key
from mmearth_data.store.growth import held_problem
from mmearth_data.store.items import TIME_COLUMN, has_items, id_texts, renamed
from mmearth_data.store.manifest import Manifest, read_manifest
from mmearth_data.store.moments import PERCENTILES
from mmearth_data.store.overlaps import overlapping_splits, repeated
from mmearth_data.store.root import read_root
from mmearth_data.store.schema import COMMITS, MANIFEST_KEY, REJECTED_KEY, ROOT_KEY, SPATIAL_KEY, TILES_KEY
from mmearth_data.store.shards import check_coordinates, seen_tiles, unknown_codes
from mmearth_data.store.stats import StatisticsMerger
from mmearth_data.store.storage import storage_at
from mmearth_data.store.tile_table import column_in, property_columns
from mmearth_data.store.writer import fixed_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store.commits import Commit
    from mmearth_data.store.root import Root
    from mmearth_data.store.storage.protocol import Storage

_T = TypeVar("_T")
CHECKERS = 4
"""Number of shards checked at the same time."""
ACROSS = ("tile_id", "time", "lon", "lat", "split")
"""Columns compared across shards."""
LARGE_COLUMNS = ("facts", "geometry", "bbox", "links", "assets")
"""Columns of the table of tiles that only the digest of the file covers."""
STATISTICS_TOLERANCE = 1e-9
"""Relative tolerance; sums may differ in the last bits on another machine."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a store.

    Attributes
    ----------
    part
        File, relative to the store.
    problem
        What is wrong with it.
    """

    part: str
    problem: str

    def __str__(self) -> str:
        return f"{self.part}: {self.problem}"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Result of `verify`.

    Attributes
    ----------
    problems
        All problems; empty if the store is intact.
    checked_files, checked_bytes
        Files that were read, and their size.
    finished
        Whether the store is sealed; of an unfinished one, the committed shards were checked.
    encoders
        Libraries that encoded shards, with their versions -> number of such shards; a shard with appended rows counts
        for each. Records of older releases have none.
    """

    problems: tuple[Problem, ...]
    checked_files: int
    checked_bytes: int
    finished: bool
    encoders: Mapping[str, int] = field(default_factory=dict)


def verify(path: str | Path, *, report: Callable[[int, int], None] = lambda done, total: None) -> VerifyReport:
    """Check every file of a store, and the consistency of the files.

    Checks the digests of all files (manifest, commit records, rasters); decodes every pixel; checks that values and
    coordinates are possible and class codes known, that the bits of ``valid`` match the values, that the index equals
    the 1-D arrays and the commit records, that no tile occurs twice and no area is in two splits, and that statistics
    match the commit records.

    Parameters
    ----------
    path
        Folder of the store, finished or not.
    report
        Called with the rows that were checked, and their total, after each shard.

    Raises
    ------
    InputError
        If there is no store.
    """
    objects = storage_at(path)
    refuse_absent(objects)
    found = _Findings(objects)
    manifest = _check_files(found)
    root = found.attempt(ROOT_KEY, lambda: read_root(objects))
    if root is not None:
        found.read(ROOT_KEY)
        _check_seal(found, root, manifest)
        _check_content(found, Content(objects, root, manifest), report)
    return VerifyReport(
        problems=tuple(found.problems[part] for part in sorted(found.problems)),
        checked_files=len(found.checked),
        checked_bytes=sum(found.checked.values()),
        finished=manifest is not None,
        encoders=dict(sorted(found.encoders.items())),
    )


def refuse_absent(objects: Storage) -> None:
    """Refuse a path without any part of a store.

    Raises
    ------
    InputError
        Names what is there instead.
    """
    if not any(objects.size(key) is not None for key in (MANIFEST_KEY, ROOT_KEY)) and not objects.names(COMMITS):
        raise InputError(objects.absence())


class _Findings:
    """Problems so far, one per file, and the files that were read."""

    def __init__(self, objects: Storage) -> None:
        self.objects = objects
        self.problems: dict[str, Problem] = {}
        self.checked: dict[str, int] = {}
        self.encoders: Counter[str] = Counter()

    def report(self, part: str, problem: str) -> None:
        """Record a problem; further problems of the same file are ignored, since they follow from the first."""
        self.problems.setdefault(part, Problem(part, problem))

    def attempt(self, part: str, act: Callable[[], _T]) -> _T | None:
        """Read something; None if that fails, with the problem recorded."""
        if part in self.problems:
            return None
        try:
            return act()
        except StoreDamaged as error:
            self.report(error.part, error.problem)
        except InputError as error:
            self.report(part, str(error))
        return None

    def read(self, key: str) -> None:
        """Count a file as checked."""
        self.checked[key] = self.objects.size(key) or 0

    def check_file(self, key: str, entry: Mapping[str, Any]) -> None:
        """Compare one file with its recorded size and digest."""
        size = self.objects.size(key)
        if size is None:
            self.report(key, "the file is missing")
            return
        self.read(key)
        with self.objects.open(key) as stream:
            digest = digest_stream(stream)
        if size != entry["size"]:
            self.report(key, f"expected {entry['size']} bytes, found {size}")
        elif digest != entry["digest"]:
            self.report(key, "its digest is not the recorded one")

    def check_first_rows(self, key: str, held: int, entry: Mapping[str, Any], content: Content) -> None:
        """Check an object to which rows were appended that are not committed yet."""
        self.read(key)
        problem = held_problem(self.objects.get(key), content.layout, held, entry)
        if problem is not None:
            self.report(key, problem)

    def check_bytes(self, key: str, expected: bytes) -> None:
        """Compare one small file with its expected content."""
        self.check_file(key, {"size": len(expected), "digest": digest_of(expected)})


def _check_files(found: _Findings) -> Manifest | None:
    """Check the manifest, and every file that it lists."""
    manifest = found.attempt(MANIFEST_KEY, lambda: read_manifest(found.objects))
    if manifest is not None:
        found.read(MANIFEST_KEY)
        for key, entry in manifest["files"].items():
            found.check_file(key, entry)
    return manifest


def _check_seal(found: _Findings, root: Root, manifest: Manifest | None) -> None:
    """Check that the manifest exists if it should, and lists the required files."""
    if manifest is None:
        if root.attributes["statistics"] is not None:
            found.report(MANIFEST_KEY, "the file is missing, though the store was finished or about to be")
        return
    layout = root.layout
    chunks = range(-(-layout.tiles // layout.column_chunk_rows))
    expected = {ROOT_KEY, TILES_KEY, REJECTED_KEY, *(key for key, _ in fixed_objects(root))}
    expected |= {commit_key(shard) for shard in range(layout.shards)}
    expected |= {object_key(spec, position) for spec in layout.columns for position in chunks}
    # Stores of version 1 lack the spatial table, and so do early ones of version 2.
    differing = (expected ^ set(manifest["files"])) - {SPATIAL_KEY}
    if differing:
        names = ", ".join(sorted(differing)[:5])
        found.report(MANIFEST_KEY, f"it does not name the files that this store has: {names}")


def _check_content(found: _Findings, content: Content, report: Callable[[int, int], None]) -> None:
    """Check the content of the files, and their consistency."""
    for key, data in fixed_objects(content.root):
        found.check_bytes(key, data)
    merger = StatisticsMerger(content.layout.modalities)
    commits = []
    shards = sorted(committed_shards(content.objects))
    rows = np.cumsum([0, *(len(content.layout.rows(shard)) for shard in shards)]).tolist()
    report(0, rows[-1])
    with ThreadPoolExecutor(CHECKERS) as pool:
        checked = pool.map(partial(_check_shard, found, content), shards)
        for done, commit in zip(rows[1:], checked, strict=True):
            report(done, rows[-1])
            if commit is not None:
                merger.add(commit.statistics)
                found.encoders.update(commit.encoders)
                commits.append((commit.rows, {name: commit.columns[name] for name in ACROSS}, len(commit.rejected)))
    if commits:
        columns = {name: np.concatenate([entry[1][name] for entry in commits]) for name in ACROSS}
        _check_unique(found, columns["tile_id"], columns["time"])
        _check_splits(found, content, np.concatenate([entry[0] for entry in commits]), columns)
        if content.manifest is not None and len(commits) == content.layout.shards:
            _check_extent(found, content, columns)
    if content.manifest is not None and len(commits) == content.layout.shards:
        _check_statistics(found, content, merger)
        _check_index(found, content, sum(entry[2] for entry in commits))


def _check_shard(found: _Findings, content: Content, shard: int) -> Commit | None:
    """Check one shard: its record, its objects, and the values in them."""
    key = commit_key(shard)
    commit = found.attempt(key, lambda: read_commit(content.objects, content.layout, shard))
    if commit is None:
        return None
    found.read(key)
    held = content.root.held(shard, commit.arrays)
    due = len(content.layout.rows(shard))
    if commit.shard != shard or held is None or (held < due and content.manifest is not None):
        found.report(key, "it was written for another shard or for other arrays")
        return None
    for name, entry in commit.objects.items():
        if held < due and content.objects.size(name) not in {entry["size"], None}:
            found.check_first_rows(name, held, entry, content)
        else:
            found.check_file(name, entry)
    _check_rows(found, content, commit)
    _check_values(found, content, commit)
    return commit


def _check_rows(found: _Findings, content: Content, commit: Commit) -> None:
    """Compare the 1-D values of a shard with the arrays, and ids with locations."""
    layout = content.layout
    key = commit_key(commit.shard)
    if not _fitting_ids(commit.columns, layout.size_px):
        found.report(key, "a tile id is not that of its longitude, latitude and size")
    try:
        check_coordinates(dict(commit.columns))
    except InputError as error:
        found.report(key, str(error))
    if content.manifest is None:
        return
    rows = layout.rows(commit.shard)
    for spec in layout.columns:
        part = object_key(spec, rows.start // layout.column_chunk_rows)
        values = found.attempt(part, partial(content.column, spec.name))
        if values is not None and not _same(values[rows.start : rows.stop], place_rows(spec, [commit], rows)):
            found.report(part, f"it differs from {key}")


def _fitting_ids(columns: Mapping[str, np.ndarray[Any, Any]], size_px: int) -> bool:
    """Whether the ids are those of the locations and the size; of an id made from content, only the size is checked."""
    ids = columns["tile_id"]
    placed = ~is_content_id(ids)
    if not np.array_equal(ids, resized_tile_ids(ids, size_px)):
        return False
    return np.array_equal(ids[placed], tile_ids(columns["lon"][placed], columns["lat"][placed], size_px))


def _check_values(found: _Findings, content: Content, commit: Commit) -> None:
    """Decode the values of a shard, and check class codes, empty rows and the bits of `valid`."""
    layout = content.layout
    rows = layout.rows(commit.shard)
    specs = {spec.name: spec for spec in layout.arrays}
    if {object_key(specs[m.name], commit.shard) for m in layout.rasters} != set(commit.objects):
        found.report(commit_key(commit.shard), "it does not name one object for each raster")
    bits = np.zeros(len(rows), dtype=np.uint32)
    unread = np.uint32(0)
    for k, m in enumerate(layout.stored):
        part = object_key(specs[m.name], commit.shard) if m.kind.is_raster else commit_key(commit.shard)
        values = (
            found.attempt(part, partial(content.read, m.name, rows))
            if m.kind.is_raster
            else place_rows(specs[m.name], [commit], rows)
        )
        if values is None:
            unread |= np.uint32(1 << k)
            continue
        _check_codes(found, part, m, values)
        bits |= seen_tiles(m, values).astype(np.uint32) << np.uint32(k)
    expected = place_rows(specs["valid"], [commit], rows)
    if not np.array_equal(expected & ~unread, bits):
        found.report(commit_key(commit.shard), "the bits of valid are not those of the values")


def _check_codes(found: _Findings, part: str, m: Modality, values: np.ndarray[Any, Any]) -> None:
    if m.dtype.kind == "f" and np.isinf(values).any():
        found.report(part, f"it has infinities in {m.name}")
    unknown = unknown_codes(m, values)
    if unknown:
        found.report(part, f"it has class codes that {m.name} lacks: {', '.join(map(str, unknown[:5]))}")


def _check_unique(found: _Findings, ids: np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> None:
    """Check that no two rows have the same location and time."""
    later, _ = repeated(ids, times)
    if len(later):
        found.report(COMMITS, f"the tile {format_tile_id(int(ids[later[0]]))} and its time occur more than once")


def _check_splits(
    found: _Findings, content: Content, rows: np.ndarray[Any, Any], columns: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    """Check that no area is in two splits, so that no test tile was trained on."""
    pair = overlapping_splits(columns["lon"], columns["lat"], columns["split"], content.layout.size_px)
    if pair is not None:
        ids = " and ".join(format_tile_id(int(columns["tile_id"][k])) for k in pair)
        shard = int(rows[pair[1]]) // content.layout.tiles_per_shard
        found.report(commit_key(shard), f"the tiles {ids} overlap, and belong to different splits")


def _check_statistics(found: _Findings, content: Content, merger: StatisticsMerger) -> None:
    """Compare the statistics of the root with those of the commit records, which may give more percentiles."""
    for name, expected in (("statistics", merger.statistics()), ("class_histograms", merger.class_histograms())):
        if not _close(content.attributes[name], expected):
            found.report(ROOT_KEY, f"its {name} are not those of the commit records")


def _check_extent(found: _Findings, content: Content, columns: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Compare the extent of the root with the tiles."""
    shown = {name: value for name, value in content.attributes.items() if name in EXTENT}
    expected = extent_attributes(extents(columns, content.layout.size_px)) if content.root.described else {}
    if not _close(shown, expected):
        found.report(ROOT_KEY, "its extent differs from that of its tiles")


def _check_index(found: _Findings, content: Content, rejected: int) -> None:
    """Compare the tables with the 1-D arrays and the commit records."""
    import pyarrow.parquet as pq

    checks = {TILES_KEY: _check_tiles}
    if content.manifest is not None and SPATIAL_KEY in content.manifest["files"]:
        checks[SPATIAL_KEY] = _check_spatial
    for key, check in checks.items():
        if key not in found.problems:
            with content.objects.open(key) as stream:
                found.attempt(key, partial(check, content, stream))
    if REJECTED_KEY not in found.problems:
        with content.objects.open(REJECTED_KEY) as stream:
            count = pq.ParquetFile(stream, pre_buffer=False).metadata.num_rows
        if count != rejected:
            found.report(REJECTED_KEY, f"it has {count} rows for {rejected} rejected candidates")


def _check_tiles(content: Content, stream: BinaryIO) -> None:
    """Compare ``tiles.parquet`` with the store rows that have a tile."""
    import pyarrow.parquet as pq

    table = pq.ParquetFile(stream, pre_buffer=False)
    rows = np.flatnonzero(content.column("tile_id"))
    names = [name for name in table.schema_arrow.names if name not in LARGE_COLUMNS]
    lacking = {column_in(table.schema_arrow, name) for name in property_columns(content.layout)} - {
        *table.schema_arrow.names
    }
    if lacking:
        raise StoreDamaged(content.objects.root, TILES_KEY, f"it lacks the columns {', '.join(sorted(lacking))}")
    start = 0
    for group in range(table.num_row_groups):
        part = renamed(table.read_row_group(group, columns=names, use_threads=False), TIME_COLUMN, "time")
        here = rows[start : start + len(part)]
        start += len(part)
        columns = table_columns(part, content.layout)
        same = all(_same(columns[name], content.column(name)[here]) for name in columns)
        if has_items(content.root) and "id" in names:
            same &= part["id"].combine_chunks().equals(id_texts(columns["tile_id"]))
        if not same or not np.array_equal(part["row"].to_numpy(), here):
            raise StoreDamaged(content.objects.root, TILES_KEY, f"row group {group} differs from the 1-D arrays")
    if start != len(rows):
        raise StoreDamaged(content.objects.root, TILES_KEY, f"it has {start} rows for {len(rows)} tiles")


def _check_spatial(content: Content, stream: BinaryIO) -> None:
    """Check that ``tiles_spatial.parquet`` has every store row with a tile once, with its id."""
    import pyarrow.parquet as pq

    rows = np.flatnonzero(content.column("tile_id"))
    part = pq.ParquetFile(stream, pre_buffer=False).read(columns=["row", "id"], use_threads=False)
    found = part["row"].to_numpy()
    if not np.array_equal(np.sort(found), rows):
        raise StoreDamaged(content.objects.root, SPATIAL_KEY, "its rows differ from those of the tiles")
    if not part["id"].combine_chunks().equals(id_texts(content.column("tile_id")[found])):
        raise StoreDamaged(content.objects.root, SPATIAL_KEY, "a tile id differs from that of its row")


def _same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


def _close(left: Any, right: Any) -> bool:  # noqa: ANN401 - nested JSON
    """Compare nested values, ignoring the last bits of numbers, and percentiles that only ``right`` has."""
    if isinstance(left, dict) and isinstance(right, dict):
        same = left.keys() <= right.keys() and right.keys() - left.keys() <= PERCENTILES.keys()
        return same and all(_close(left[key], right[key]) for key in left)
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=STATISTICS_TOLERANCE, abs_tol=STATISTICS_TOLERANCE)
    return bool(left == right)
