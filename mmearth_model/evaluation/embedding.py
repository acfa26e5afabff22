"""Embeddings of tiles or raster files: compute them with an encoder, find neighbours, and plot them as a map."""

from __future__ import annotations

import base64
import hashlib
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import SPLIT_NAMES, InputError, __version__, format_tile_ids, parse_tile_id
from mmearth_model.data.targets import LEVELS
from mmearth_model.devices import resolve_device
from mmearth_model.evaluation.features import Pooled, extract, input_normaliser
from mmearth_model.tasks import IGNORED, LabelledSet, Parts, StoreImages, StoreTask, TaskKind
from mmearth_model.training.layout import MODEL_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from mmearth_data import Modality, Store
    from mmearth_model.data.targets import Normaliser
    from mmearth_model.weights.checkpoints import Checkpoint

NEIGHBOURS = 8
PIXEL_M = 10
"""Side of a pixel in metres."""
ACROSS, TILE, GAP, BELOW, EDGE, TITLE, FOOT = 3, 2.4, 0.25, 0.95, 0.25, 0.5, 0.35
"""Neighbours in a row, and inches: side of a picture, space between two, text below, margin, title and foot."""
MISSING = 0.85
"""Grey of pixels without data."""
SHAPES = "os^Dv<>pPX"
"""Markers of the classes of a map."""
MOST_CLASSES = 20
"""Classes of which a map has a legend."""
FEWEST_FOR_UMAP = 15
"""Samples; UMAP uses as many neighbours of each."""


@dataclass(frozen=True, slots=True)
class Chips:
    """Model and data that the embeddings were computed from, as the convention ``geoemb:`` describes them."""

    model: str
    """URI of the model."""
    source_data: tuple[str, ...]
    """URIs of the data."""
    size: tuple[int, int]
    """Height and width of a sample in pixels."""
    gsd: float | None = None
    """Metres per pixel; None if unknown."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeddings of samples by an encoder."""

    values: NDArray[np.float32]  # (N, D) float32
    ids: NDArray[Any]  # (N,) tile ids of a store (uint64), or names of files (str)
    lon: NDArray[np.float64]  # (N,) degrees; NaN if unknown, also of the latitude
    lat: NDArray[np.float64]
    about: dict[str, str]  # checkpoint, source and version, which the files record
    time: NDArray[np.datetime64] | None = None  # (N,) UTC; NaT if unknown. None: no sample has a known time
    # name of a column -> (N,) text: ``split``, and the class of every tile modality with classes; "" if unknown
    classes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    # returns (N,) shapely outlines in EPSG:4326, None where unknown
    outlines: Callable[[], NDArray[Any]] | None = None
    chips: Chips | None = None

    @property
    def of_tiles(self) -> bool:
        """Whether the samples are tiles of a store."""
        return bool(self.ids.dtype == np.uint64)

    @property
    def names(self) -> list[str]:
        """Ids as text."""
        return format_tile_ids(self.ids).tolist() if self.of_tiles else [str(i) for i in self.ids]

    def position(self, name: str) -> int:
        """Row of an id. Raises `InputError` when there is none."""
        wanted: Any = name
        if self.of_tiles:
            try:
                wanted = np.uint64(parse_tile_id(name))
            except InputError as error:
                raise InputError(f"--neighbours: {error}") from None
        found = np.flatnonzero(self.ids == wanted)
        if not len(found):
            raise InputError(f"--neighbours: expected one of the {len(self.ids)} embedded tiles, got {name}.")
        return int(found[0])

    def neighbours(self, row: int, count: int = NEIGHBOURS) -> list[tuple[int, float]]:
        """Rows of the most similar samples (cosine), best first, with their similarity; not the sample itself."""
        units = self.values / np.maximum(np.linalg.norm(self.values, axis=1, keepdims=True), 1e-12)
        similarity = units @ units[row]
        order = [int(i) for i in np.argsort(-similarity, kind="stable") if i != row][:count]
        return [(i, float(similarity[i])) for i in order]

    def plane(self) -> tuple[NDArray[np.float64], str]:
        """(N, 2) positions on a map, and the method: UMAP if it is installed, else principal components."""
        wide = self.values.astype(np.float64)
        centred = wide - wide.mean(axis=0)
        umap = _umap()
        if umap is not None and len(self.values) > FEWEST_FOR_UMAP:
            return umap(random_state=0, n_jobs=1).fit_transform(centred), "UMAP"
        left, scale, _ = np.linalg.svd(centred, full_matrices=False)
        places = np.zeros((len(wide), 2))
        places[:, : len(scale[:2])] = (left * scale)[:, :2]
        share = scale[:2] ** 2 / max((scale**2).sum(), 1e-30)
        return places, f"principal components, {100 * share.sum():.0f} % of the variance"


def _umap() -> Any:  # noqa: ANN401 - umap has no types
    """Return UMAP, or None. It is imported to find out, because leftovers of an uninstallation still have a spec."""
    try:
        from umap import UMAP
    except ImportError:
        return None
    return UMAP


def embed(
    checkpoint: Checkpoint,
    source: Store | LabelledSet,
    *,
    device: str = "auto",
    cache: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Embeddings:
    """Embed all tiles of a store, or all files of a data set.

    Parameters
    ----------
    checkpoint
        From `mmearth_model.load_checkpoint`.
    source
        A store, or a set of `mmearth_model.tasks.open_task` (its labels are not used).
    device
        ``auto``, ``cpu``, ``cuda``, ...
    cache
        Folder in which features are kept.
    report
        Called with the number of samples done, and their total.

    Raises
    ------
    InputError
        When the source lacks what the encoder takes.
    """
    task = source if isinstance(source, LabelledSet) else unlabelled(StoreImages(source))
    where = resolve_device(device)
    extractor = Pooled(checkpoint.encoder().to(where).eval())
    normaliser = input_normaliser(checkpoint.normaliser, task)
    done = 0

    def count(samples: int) -> None:
        nonlocal done
        done += samples
        if report is not None:
            report(done, len(task))

    values = extract(extractor, normaliser, task.images, where, cache=cache, report=count)
    model = file_digest(checkpoint.folder / MODEL_FILE)
    about = {
        "checkpoint": checkpoint.name,
        "model_digest": f"sha256:{model.hex()}",
        **_revision(checkpoint),
        "source": task.name,
        "source_digest": task.images.digest,
        "version": __version__,
        "synthetic": str(task.synthetic).lower(),
    }
    store = task.images.store if isinstance(task.images, StoreImages) else None
    chips = _chips(task, store, normaliser, model) if len(values) else None
    if store is not None:
        return _of_store(values, about, store, chips)
    return _of_files(values, about, task, chips)


def _revision(checkpoint: Checkpoint) -> dict[str, str]:
    """Commit of a checkpoint of the Hugging Face Hub."""
    commit = checkpoint.origin.revision if checkpoint.origin else None
    return {} if commit is None else {"checkpoint_revision": commit}


def _of_files(values: NDArray[np.float32], about: dict[str, str], task: LabelledSet, chips: Chips | None) -> Embeddings:
    """Embeddings of files, with the split of each file, and its outline if it is georeferenced."""
    outlines = task.images.outlines()
    boxes = np.array([(np.nan,) * 4 if outline is None else outline.bounds for outline in outlines])
    parts = np.full(len(values), "", dtype=object)
    for name, rows in (("train", task.parts.train), ("val", task.parts.validation), ("test", task.parts.test)):
        parts[rows] = name
    return Embeddings(
        values,
        np.array(task.ids),
        boxes[:, [0, 2]].mean(axis=1),
        boxes[:, [1, 3]].mean(axis=1),
        about,
        classes={"split": parts},
        outlines=lambda: outlines,
        chips=chips,
    )


def _chips(task: LabelledSet, store: Store | None, normaliser: Normaliser, model: bytes) -> Chips:
    """Describe the input of the encoder; ``model`` is the SHA-256 digest of its weights."""
    (batch,) = task.images.batches(np.zeros(1, np.intp), 1, normaliser.stored)
    height, width = batch[normaliser.inputs[0]].shape[-2:]
    measured = () if store is None or store.synthetic else [store.modalities[name] for name in normaliser.inputs]
    return Chips(
        model=named_information(model),
        source_data=source_uris(task.images.origin, task.images.digest, measured),
        size=(int(height), int(width)),
        gsd=None if store is None else float(PIXEL_M),
    )


def _of_store(values: NDArray[np.float32], about: dict[str, str], store: Store, chips: Chips | None) -> Embeddings:
    """Embeddings of the tiles of a store, with their coordinates, labels and outlines."""
    coords = store.coords
    splits = np.array([SPLIT_NAMES.get(code, "") for code in range(256)], dtype=object)
    labels = [m for m in store.modalities.values() if m.kind == "tile/categorical" and m.stored]
    return Embeddings(
        values,
        np.asarray(coords["tile_id"]).astype(np.uint64),
        np.asarray(coords["lon"]),
        np.asarray(coords["lat"]),
        about,
        time=np.asarray(coords["time"]),
        classes={"split": splits[coords["split"]], **{m.name: _class_names(store, m) for m in labels}},
        outlines=StoreImages(store).outlines,
        chips=chips,
    )


def _class_names(store: Store, modality: Modality) -> NDArray[Any]:
    """(N,) name of the class of each tile, "" where it has none."""
    names = np.array(["", *(label.name for label in modality.classes)], dtype=object)
    codes = store.read(modality.name, slice(0, store.layout.tiles))[store.rows]
    found: NDArray[Any] = names[modality.class_code_index()[codes] + 1]
    return found


def file_digest(file: Path) -> bytes:
    """SHA-256 digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def named_information(digest: bytes) -> str:
    """URI of a file by its SHA-256 digest (RFC 6920), which does not depend on its location."""
    return "ni:///sha-256;" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def source_uris(origin: Path | str, digest: str, measured: Iterable[Modality]) -> tuple[str, ...]:
    """URIs of the data: URL of a remote source, or a URN made from its digest, and web pages of measured modalities."""
    first = str(origin) if "://" in str(origin) else f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}"
    return (first, *dict.fromkeys(filter(None, (modality.source for modality in measured))))


def unlabelled(images: StoreImages) -> LabelledSet:
    """Return the tiles of a store as a set without labels."""
    every = np.arange(len(images), dtype=np.intp)
    none = every[:0]
    return LabelledSet(
        name=str(images.store.path),
        kind=TaskKind.REGRESSION,
        classes=(),
        images=images,
        parts=Parts(every, none, none),
        labels=np.zeros((len(images), 0)),
        synthetic=images.store.synthetic,
    )


def neighbours_figure(embeddings: Embeddings, store: Store, row: int, count: int = NEIGHBOURS) -> Figure:
    """Draw a tile and its nearest neighbours, all with the same stretch of the first input's picture bands."""
    from matplotlib.figure import Figure

    modality = next((m for m in store.modalities.values() if m.input and len(m.display.bands) == 3), None)
    if modality is None:
        raise InputError(f"{store.path}: expected a modality with red, green and blue bands to draw, got none.")
    found = [(row, 1.0), *embeddings.neighbours(row, count)]
    values = [_stored(store, modality, place) for place, _ in found]
    levels = [int(store.coords["s2_level"][place]) for place, _ in found]
    lows, span = _stretch(values, levels, modality)
    lines = -(-len(found) // ACROSS)
    width, height = 2 * EDGE + ACROSS * (TILE + GAP) - GAP, 2 * EDGE + TITLE + lines * (TILE + BELOW) + FOOT
    figure = Figure(figsize=(width, height), facecolor="white")
    for number, (part, level, (place, similarity)) in enumerate(zip(values, levels, found, strict=True)):
        x = EDGE + (number % ACROSS) * (TILE + GAP)
        y = height - EDGE - TITLE - (number // ACROSS) * (TILE + BELOW) - TILE
        axis = figure.add_axes((x / width, y / height, TILE / width, TILE / height), label=embeddings.names[place])
        axis.set_axis_off()
        picture = np.clip((part - lows[level][:, None, None]) / span, 0, 1)
        axis.imshow(np.nan_to_num(picture, nan=MISSING).transpose(1, 2, 0), interpolation="nearest")
        head = "this tile" if place == row else f"cosine {similarity:.3f}"
        axis.set_title(head, fontsize=9, fontweight="bold", loc="left", pad=4)
        about = "\n".join([*facts_of(store, place), embeddings.names[place]])
        axis.text(0, -0.03, about, transform=axis.transAxes, va="top", fontsize=7, color="0.3", linespacing=1.35)
    made = " (synthetic)" if store.synthetic else ""
    style: dict[str, Any] = {"ha": "left", "va": "top"}
    figure.text(EDGE / width, 1 - EDGE / height, f"Nearest to {embeddings.names[row]}{made}", fontsize=11, fontweight="bold", **style)  # fmt: skip
    words = _scale_words(store, modality, lows, span)
    figure.text(EDGE / width, (EDGE + FOOT) / height, words, fontsize=7, color="0.3", linespacing=1.4, **style)
    return figure


def facts_of(store: Store, position: int) -> list[str]:
    """Lines about a tile: its class, product level and date, and location."""
    coords = store.coords
    labels = [m for m in store.modalities.values() if m.kind == "tile/categorical" and m.stored]
    found = [text for m in labels[:1] if (text := _class_of(store, m, position))]
    code = int(coords["s2_level"][position])
    level = LEVELS[code] if code < len(LEVELS) else ""
    moment = coords["time"][position]
    date = "date not known" if np.isnat(moment) else str(moment.astype("datetime64[D]"))
    lon, lat = float(coords["lon"][position]), float(coords["lat"][position])
    where = f"{abs(lat):.2f}° {'N' if lat >= 0 else 'S'}, {abs(lon):.2f}° {'E' if lon >= 0 else 'W'}"
    return [*found, " · ".join(filter(None, (level, date))), where]


def _class_of(store: Store, modality: Modality, position: int) -> str:
    inside = int(store.rows[position])
    code = int(store.read(modality.name, slice(inside, inside + 1))[0])
    return next((label.name for label in modality.classes if label.code == code), "")


def _stored(store: Store, modality: Modality, position: int) -> NDArray[np.float64]:
    """(3, H, W) stored values of the picture's bands; no-data as NaN."""
    inside = int(store.rows[position])
    values = store.read(modality.name, slice(inside, inside + 1))[0]
    picked = [modality.bands.index(band) for band in modality.display.bands]
    found: NDArray[np.float64] = np.where(modality.observed(values), values.astype(np.float64), np.nan)[picked]
    return found


def _stretch(
    tiles: Sequence[NDArray[np.float64]], levels: Sequence[int], modality: Modality
) -> tuple[dict[int, NDArray[np.float64]], float]:
    """Choose a scale for tiles (3, H, W): the lower end of each band, by product level, and the span that all share.

    Stored values, from the 2nd to the 98th percentile; the display's range if none is observed. Levels differ by the
    light that the atmosphere scatters, which a common lower end would show as a blue tint.
    """
    lows: dict[int, NDArray[np.float64]] = {}
    spans = [1.0]
    for level in set(levels):
        mine = [tile.reshape(3, -1) for tile, of in zip(tiles, levels, strict=True) if of == level]
        values = np.concatenate(mine, axis=1)
        if np.isfinite(values).any(axis=1).all():
            low, high = np.nanpercentile(values, (2, 98), axis=1)
        else:
            low, high = (np.full(3, end) for end in modality.display.range or (0.0, 1.0))
        lows[level] = low
        spans.append(float((high - low).max()))
    return lows, max(spans)


def _scale_words(store: Store, modality: Modality, lows: dict[int, NDArray[np.float64]], span: float) -> str:
    """Describe the scale and the size of the tiles."""
    unit = modality.units_of(modality.display.bands[0])
    texts = []
    for level, low in sorted(lows.items()):
        ends = [low * modality.scale + modality.offset, (low + span) * modality.scale + modality.offset]
        bands = zip(modality.display.bands, *(end.tolist() for end in ends), strict=True)
        name = f"{LEVELS[level]}: " if level < len(LEVELS) else ""
        texts.append(name + ", ".join(f"{band} {start:.2f} to {stop:.2f}" for band, start, stop in bands))
    side = store.layout.size_px
    return (
        f"{modality.long_name}{'' if unit == '1' else f' ({unit})'} as red, green and blue, the same stretch in all tiles"
        f"{' of a level' if len(lows) > 1 else ''}, {side} × {side} px, {side * PIXEL_M:,} m per side.\n"  # noqa: RUF001
        f"{'; '.join(texts)}"
    )


def map_figure(embeddings: Embeddings, store: Store | None = None) -> Figure:
    """Draw a 2-D map of the embeddings, in the colours of the store's tile classes, with the legend next to it."""
    from matplotlib.figure import Figure

    places, how = embeddings.plane()
    labelled = next((m for m in store.modalities.values() if m.kind == "tile/categorical" and m.stored), None) if store else None  # fmt: skip
    figure = Figure(figsize=(9.5 if labelled else 7, 6), layout="constrained")
    axis = figure.add_subplot()
    size = float(np.clip(9000 / max(1, len(places)), 4, 60))
    if labelled is None or store is None:
        axis.scatter(places[:, 0], places[:, 1], s=size, color="0.3", edgecolors="white", linewidths=0.4)
    else:
        _scatter_classes(axis, places, StoreImages(store).labels(StoreTask(labelled)), labelled, size)
    made = " (synthetic)" if embeddings.about.get("synthetic") == "true" else ""
    axis.set_title(f"{len(places):,} embeddings{made}: {how}", fontsize=10, loc="left", fontweight="bold")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set(color="0.7", linewidth=0.6)
    return figure


def _scatter_classes(axis: Any, places: NDArray[Any], labels: NDArray[Any], modality: Modality, size: float) -> None:  # noqa: ANN401 - matplotlib axes
    """Draw points in the colours of their classes; shapes distinguish classes of similar colours."""
    known = np.unique(labels).tolist()
    for number, index in enumerate(known):
        mine = labels == index
        label = modality.classes[index] if index != IGNORED else None
        name, colour = (label.name, label.colour) if label else ("not labelled", "#999999")
        axis.scatter(
            places[mine, 0],
            places[mine, 1],
            s=size,
            color=colour or f"C{number % 10}",
            marker=SHAPES[number % len(SHAPES)],
            label=f"{name}  ({int(mine.sum()):,})",
            edgecolors="0.15",
            linewidths=0.4,
        )
    if len(known) <= MOST_CLASSES:
        axis.legend(
            fontsize=7.5, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title=modality.long_name,
            title_fontsize=8, alignment="left", markerscale=max(1.0, 36 / size) ** 0.5,
        )  # fmt: skip
