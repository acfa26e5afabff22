"""Embeddings of tiles or raster files: written as GeoParquet and Zarr, searched for neighbours, drawn as a map."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError, __version__, format_tile_id, parse_tile_id, short_path, staged_file, staged_folder
from mmearth_model.devices import resolve_device
from mmearth_model.evaluation.features import Pooled, extract, input_normaliser
from mmearth_model.tasks import IGNORED, LabelledSet, Parts, StoreImages, StoreTask, TaskKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from mmearth_data import Modality, Store
    from mmearth_model.weights.checkpoints import Checkpoint

NEIGHBOURS = 8
COLUMN = "embedding"
FEWEST_FOR_UMAP = 15
"""Samples; UMAP uses as many neighbours of each."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeddings of samples by an encoder."""

    values: NDArray[np.float32]  # (N, D) float32
    ids: NDArray[Any]  # (N,) tile ids of a store (uint64), or names of files (str)
    lon: NDArray[np.float64]  # (N,) degrees; NaN if unknown, also of the latitude
    lat: NDArray[np.float64]
    about: dict[str, str]  # checkpoint, source and version, for the files

    @property
    def names(self) -> list[str]:
        """Ids as text."""
        return [format_tile_id(int(i)) if self.ids.dtype == np.uint64 else str(i) for i in self.ids]

    def position(self, name: str) -> int:
        """Row of an id. Raises `InputError` when there is none."""
        wanted: Any = name
        if self.ids.dtype == np.uint64:
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
    task = source if isinstance(source, LabelledSet) else _unlabelled(StoreImages(source))
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
    about = {"checkpoint": short_path(checkpoint.folder), "source": task.name, "version": __version__, "synthetic": str(task.synthetic).lower()}  # fmt: skip
    coords = task.images.coords
    if coords:
        ids, lon, lat = (np.asarray(coords[name]) for name in ("tile_id", "lon", "lat"))
        return Embeddings(values, ids.astype(np.uint64), lon, lat, about)
    unknown = np.full(len(values), np.nan)
    return Embeddings(values, np.array(task.ids), unknown, unknown, about)


def _unlabelled(images: StoreImages) -> LabelledSet:
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


def write_parquet(embeddings: Embeddings, path: Path) -> None:
    """Write GeoParquet 1.1: id, lon, lat, the point (WKB), and the embedding as a list of fixed size."""
    import pyarrow as pa
    import shapely
    from pyarrow import parquet

    known = np.isfinite(embeddings.lon)
    points = shapely.to_wkb(shapely.points(np.nan_to_num(embeddings.lon), np.nan_to_num(embeddings.lat)))
    flat = pa.array(np.ascontiguousarray(embeddings.values).reshape(-1))
    table = pa.table(
        {
            "tile_id": pa.array(embeddings.ids),
            "lon": embeddings.lon,
            "lat": embeddings.lat,
            COLUMN: pa.FixedSizeListArray.from_arrays(flat, embeddings.values.shape[1]),
            "geometry": pa.array([p if k else None for p, k in zip(points, known, strict=True)], pa.binary()),
        }
    )
    geometry = {"encoding": "WKB", "geometry_types": ["Point"]}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    table = table.replace_schema_metadata({"geo": json.dumps(geo), "mmearth": json.dumps(embeddings.about)})
    with staged_file(path) as beside:
        parquet.write_table(table, beside)


def write_zarr(embeddings: Embeddings, path: Path) -> None:
    """Write a Zarr group that plain xarray opens: ``embedding`` (tile, feature) with tile_id, lon and lat."""
    import xarray as xr

    if path.exists() and not (path / "zarr.json").is_file():
        raise InputError(f"{path}: expected a new folder or a Zarr group, got something else; choose another --out.")
    data = xr.Dataset(
        {COLUMN: (("tile", "feature"), embeddings.values)},
        coords={"tile_id": ("tile", embeddings.ids), "lon": ("tile", embeddings.lon), "lat": ("tile", embeddings.lat)},
        attrs=embeddings.about,
    )
    with staged_folder(path) as beside:
        data.to_zarr(beside, zarr_format=3, consolidated=False)


def neighbours_figure(embeddings: Embeddings, store: Store, row: int, count: int = NEIGHBOURS) -> Figure:
    """Draw a tile and its nearest neighbours, in the picture bands of the first input that has three."""
    from matplotlib.figure import Figure

    modality = next((m for m in store.modalities.values() if m.input and len(m.display.bands) == 3), None)
    if modality is None:
        raise InputError(f"{store.path}: expected a modality with red, green and blue bands to draw, got none.")
    found = [(row, 1.0), *embeddings.neighbours(row, count)]
    columns = 3
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.8 * lines + 0.4), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (place, similarity) in zip(axes, found, strict=False):
        axis.imshow(_picture(store, modality, place))
        name = embeddings.names[place]
        where = f"{embeddings.lat[place]:.2f}, {embeddings.lon[place]:.2f}"
        axis.set_title(f"{name}\n{where}" + ("" if place == row else f", cosine {similarity:.3f}"), fontsize=7)
    made = " (synthetic)" if store.synthetic else ""
    figure.suptitle(f"Nearest to {embeddings.names[row]}{made}", fontsize=10)
    return figure


def _picture(store: Store, modality: Modality, position: int) -> NDArray[np.float64]:
    """(H, W, 3) in 0 to 1."""
    inside = int(store.rows[position])
    values = store.read(modality.name, slice(inside, inside + 1))[0].astype(np.float64)
    low, high = modality.display.range or (values.min(), values.max())
    colours = values[[modality.bands.index(band) for band in modality.display.bands]]
    picture: NDArray[np.float64] = np.clip((colours - low) / max(high - low, 1e-9), 0, 1).transpose(1, 2, 0)
    return picture


def map_figure(embeddings: Embeddings, store: Store | None = None) -> Figure:
    """Draw a 2-D map of the embeddings, in the colours of the store's tile classes."""
    from matplotlib.figure import Figure

    places, how = embeddings.plane()
    labelled = next((m for m in store.modalities.values() if m.kind == "tile/categorical" and m.stored), None) if store else None  # fmt: skip
    figure = Figure(figsize=(8, 6), layout="constrained")
    axis = figure.add_subplot()
    if labelled is None or store is None:
        axis.scatter(places[:, 0], places[:, 1], s=8, color="0.3")
    else:
        labels = StoreImages(store).labels(StoreTask(labelled))
        for index in np.unique(labels):
            mine = labels == index
            label = labelled.classes[index] if index != IGNORED else None
            name, colour = (label.name, label.colour) if label else ("unknown", "#999999")
            axis.scatter(places[mine, 0], places[mine, 1], s=12, color=colour or f"C{index % 10}", label=name, edgecolors="0.2", linewidths=0.2)  # fmt: skip
        if len(np.unique(labels)) <= 20:
            axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    made = " (synthetic)" if embeddings.about.get("synthetic") == "true" else ""
    axis.set_title(f"{len(places)} embeddings{made}: {how}", fontsize=10, loc="left")
    axis.set_xticks([])
    axis.set_yticks([])
    return figure
