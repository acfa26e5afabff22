"""Summary of a store, as values: for terminals (`mmearth_data.inspection.terminal`) and for JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.modality import PRESENT
from mmearth_data.catalog.tile import LEVEL_NAMES, pixel_size_m
from mmearth_data.errors import StoreDamaged
from mmearth_data.store.about import bounds_of
from mmearth_data.store.commits import committed_shards, read_commit
from mmearth_data.store.encoding import object_key
from mmearth_data.store.ledger import read_ledger
from mmearth_data.store.schema import REJECTED_KEY, SPLIT_NAMES
from mmearth_data.store.storage import storage_at
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store import Store
    from mmearth_data.store.schema import ArraySpec

NONE = "none"
"""Name of the split or level of tiles without one."""
TRAIN, ALL = "train", "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModalitySummary:
    """One modality of a store."""

    name: str
    long_name: str
    kind: str
    stored: bool
    bands: tuple[str, ...]
    band_units: tuple[str, ...]
    """Units of the stored numbers."""
    classes: int
    shape: tuple[int, ...]
    """Shape of the whole array, tiles first; empty for derived modalities, which have none."""
    dtype: str
    stored_bytes: int | None
    raw_bytes: int | None
    """Bytes of its objects on disk, and of the same values uncompressed; None if nothing is on disk yet."""
    valid_tiles: int | None
    """Tiles of the selection with at least one value."""
    valid_share: float | None
    """``valid_tiles`` / tiles; None if there are no tiles."""
    licence: str
    licence_url: str
    attribution: str

    @property
    def ratio(self) -> float | None:
        """Compression ratio."""
        return self.raw_bytes / self.stored_bytes if self.stored_bytes and self.raw_bytes else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCount:
    """Tiles of one class, by split (in the order train, val, test, none; splits without tiles left out)."""

    code: int
    name: str
    colour: str | None
    tiles: Mapping[str, int]

    @property
    def total(self) -> int:
        """Tiles of all splits."""
        return sum(self.tiles.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSummary:
    """Number of tiles by class of a label; a tile may have several classes, and classes without tiles are omitted."""

    name: str
    long_name: str
    known: int
    """Classes that the catalog lists."""
    classes: tuple[ClassCount, ...]
    unlabelled: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Summary of a store.

    Counts of tiles refer to the selection that was summarised; sizes, statistics and rejections to the whole store.
    """

    path: str
    finished: bool
    synthetic: bool
    source: Mapping[str, Any]
    notes: tuple[str, ...]
    code_version: str
    digest: str | None
    tiles: int
    rows: int
    """Rows of the store, empty ones included."""
    size_px: int
    pixel_m: int | None
    """Pixel size, metres; None if it is not known."""
    overlap_px: int | None
    """As `Store.overlap_px`."""
    tiles_per_shard: int
    shards: int
    committed_shards: int
    first_scene: str | None
    last_scene: str | None
    """UTC days, None if no date is known."""
    bounds: tuple[float, float, float, float] | None
    """West, south, east, north of the tiles' centres in degrees, as `bounds_of`; None if there are no tiles."""
    splits: Mapping[str, int]
    levels: Mapping[str, int]
    """Tiles by split and by Sentinel-2 product level."""
    labels: tuple[LabelSummary, ...]
    modalities: tuple[ModalitySummary, ...]
    statistics: Mapping[str, Any]
    """Modality -> level -> band -> count, mean, std, min, max, percentiles, in stored units."""
    statistics_of: str
    """Split that they describe: ``train``, or ``all`` if it has no tile."""
    rejected: Mapping[str, int] | None
    """Rejected candidates by reason; None if the store's table of them is missing."""
    ledger: Mapping[str, Any] | None
    """Requests to the service that delivered the tiles, over all runs; None if there was no service."""
    stored_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; all fields, including ratios and totals."""
        values = dataclasses.asdict(self)
        for entry, modality in zip(values["modalities"], self.modalities, strict=True):
            entry["ratio"] = modality.ratio
        for entry, label in zip(values["labels"], self.labels, strict=True):
            for row, count in zip(entry["classes"], label.classes, strict=True):
                row["total"] = count.total
        return values


def summarise(store: Store) -> Summary:
    """Summarise a store, or a selection of one, without reading pixels; it may be unfinished.

    Raises
    ------
    StoreDamaged
        If a required table cannot be read.
    """
    layout, coords = store.layout, store.coords
    shards = tuple(range(layout.shards)) if store.finished else tuple(sorted(committed_shards(storage_at(store.path))))
    modalities = tuple(_modality(store, m, shards, coords["valid"]) for m in store.modalities.values())
    statistics_of = TRAIN if _has_values(store.statistics[TRAIN]) else ALL
    first, last = _period(coords["time"])
    return Summary(
        path=str(store.path),
        finished=store.finished,
        synthetic=store.synthetic,
        source=dict(store.source),
        notes=source_notes(store.source),
        code_version=str(store.attributes["code_version"]),
        digest=store.digest,
        tiles=len(store),
        rows=layout.tiles,
        size_px=layout.size_px,
        pixel_m=pixel_size_m(coords["tile_id"]),
        overlap_px=store.overlap_px,
        tiles_per_shard=layout.tiles_per_shard,
        shards=layout.shards,
        committed_shards=len(shards),
        first_scene=first,
        last_scene=last,
        bounds=bounds_of(coords["lon"], coords["lat"]),
        splits=_named_counts(coords["split"], SPLIT_NAMES),
        levels=_named_counts(coords["s2_level"], LEVEL_NAMES),
        labels=tuple(_label(store, m, coords["split"]) for m in store.modalities.values() if is_label(m)),
        modalities=modalities,
        statistics={m: store.statistics[statistics_of][m] for m in store.modalities if m in store.statistics[ALL]},
        statistics_of=statistics_of,
        rejected=_rejected(store, shards),
        ledger=read_ledger(store.path),
        stored_bytes=sum(m.stored_bytes or 0 for m in modalities),
    )


def is_label(m: Modality) -> bool:
    """Whether a modality is stored and has one or several classes per tile."""
    return m.stored and not m.kind.is_raster and (m.kind.is_categorical or m.kind.is_multi_label)


def source_notes(source: Mapping[str, Any]) -> tuple[str, ...]:
    """Remarks of a source about its pixels, such as a radiometric offset."""
    notes = source.get("notes") or ()
    return (notes,) if isinstance(notes, str) else tuple(str(note) for note in notes)


def _modality(store: Store, m: Modality, shards: Iterable[int], valid: NDArray[np.uint32]) -> ModalitySummary:
    spec = next((spec for spec in store.layout.arrays if m.stored and spec.name == m.name), None)
    stored_bytes, raw_bytes = (None, None) if spec is None else _sizes(store, spec, shards)
    valid_tiles = None
    if m.stored:
        bit = [stored.name for stored in store.layout.stored].index(m.name)
        valid_tiles = int(np.count_nonzero(valid >> np.uint32(bit) & np.uint32(1)))
    return ModalitySummary(
        name=m.name,
        long_name=m.long_name,
        kind=str(m.kind),
        stored=m.stored,
        bands=m.bands,
        band_units=tuple(_stored_unit(m, band) for band in m.bands),
        classes=len(m.classes),
        shape=() if spec is None else spec.shape,
        dtype=m.dtype.name,
        stored_bytes=stored_bytes,
        raw_bytes=raw_bytes,
        valid_tiles=valid_tiles,
        valid_share=valid_tiles / len(valid) if valid_tiles is not None and len(valid) else None,
        licence=m.licence.name,
        licence_url=m.licence.url,
        attribution=m.licence.attribution,
    )


def _stored_unit(m: Modality, band: str) -> str:
    """Give the unit of a band's stored numbers in UDUNITS notation: reflectance x 10,000 has the unit ``0.0001``."""
    unit = m.units_of(band)
    if m.scale == 1:
        return unit
    return f"{m.scale:.15g}" if unit == "1" else f"{m.scale:.15g} {unit}"


def _sizes(store: Store, spec: ArraySpec, shards: Iterable[int]) -> tuple[int | None, int | None]:
    rows_each, row_bytes = spec.chunk_shape[0], int(np.prod(spec.shape[1:])) * spec.dtype.itemsize
    positions = shards if spec.sharded else range(-(-spec.shape[0] // rows_each)) if store.finished else ()
    objects = storage_at(store.path)
    stored = raw = 0
    for position in positions:
        stored += objects.size(object_key(spec, position)) or 0
        raw += min(rows_each, spec.shape[0] - position * rows_each) * row_bytes
    return (stored, raw) if stored else (None, None)


def _label(store: Store, m: Modality, splits: NDArray[np.uint8]) -> LabelSummary:
    codes = store.read(m.name, slice(0, store.layout.tiles))[store.rows]
    if m.kind.is_multi_label:
        observed = m.observed(codes).any(axis=1)
        tiles, found = np.nonzero(codes == PRESENT)
    else:
        observed = m.observed(codes)
        tiles, found = np.flatnonzero(observed), codes[observed]
    counts = Counter(zip(found.tolist(), splits[tiles].tolist(), strict=True))
    names = {label.code: label for label in m.classes}
    classes = []
    for code in sorted({code for code, _ in counts}):
        label = names.get(code)
        by_split = {SPLIT_NAMES.get(s, NONE): counts[code, s] for s in (*SPLIT_NAMES, 255) if counts[code, s]}
        classes.append(
            ClassCount(
                code=code,
                name=label.name if label else f"unknown code {code}",
                colour=label.colour if label else None,
                tiles=by_split,
            )
        )
    return LabelSummary(
        name=m.name,
        long_name=m.long_name,
        known=len(m.classes),
        classes=tuple(classes),
        unlabelled=int(np.count_nonzero(~observed)),
    )


def _named_counts(codes: NDArray[np.uint8], names: Mapping[int, str]) -> dict[str, int]:
    """Tiles by name, in the order of the codes; tiles without a name are counted as "none"."""
    counts = {name: int(np.count_nonzero(codes == code)) for code, name in names.items()}
    rest = len(codes) - sum(counts.values())
    return counts | ({NONE: rest} if rest else {})


def _period(time: NDArray[np.datetime64]) -> tuple[str | None, str | None]:
    known = time[~np.isnat(time)]
    if not len(known):
        return None, None
    return str(known.min().astype("datetime64[D]")), str(known.max().astype("datetime64[D]"))


def _has_values(statistics: Mapping[str, Any]) -> bool:
    bands = (band for levels in statistics.values() for bands in levels.values() for band in bands.values())
    return any(band["count"] for band in bands)


def _rejected(store: Store, shards: Iterable[int]) -> dict[str, int] | None:
    """Rejected candidates by reason, the most frequent first."""
    if not store.finished:
        objects = storage_at(store.path)
        reasons = [
            str(entry["reason"]) for shard in shards for entry in read_commit(objects, store.layout, shard).rejected
        ]
    elif storage_at(store.path).size(REJECTED_KEY) is not None:
        reasons = _reasons(store)
    else:
        return None
    return dict(sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0])))


def _reasons(store: Store) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with storage_at(store.path).open(REJECTED_KEY) as stream:
            # In this thread: one of Arrow's threads might release the stream at exit, which aborts the process.
            table = pq.ParquetFile(stream, pre_buffer=False).read(columns=["reason"], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise StoreDamaged(store.path, REJECTED_KEY, f"it cannot be read ({reason_of(error)})") from error
    return [str(reason) for reason in table.column("reason").to_pylist()]
