"""Dense embeddings of scenes and stores: one embedding vector per position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError, Store, __version__, check_output, make_folder, short_path
from mmearth_model.devices import resolve_device
from mmearth_model.evaluation.embedding import file_digest, named_information, source_uris
from mmearth_model.maps.blocks import Block, WorkFolder, digest_of, run_blocks
from mmearth_model.maps.describing import SceneOptions, describe_scene
from mmearth_model.maps.lattice import Lattice, block_vectors, make_lattice
from mmearth_model.maps.planning import WindowOptions
from mmearth_model.maps.similarity import check_inside
from mmearth_model.maps.strips import open_strips
from mmearth_model.maps.vector_files import TYPES, Origin, finished_vectors, write_vectors
from mmearth_model.maps.vectors import VectorGrid, open_vectors
from mmearth_model.maps.zones import Zone, zone_lattice, zone_vectors, zones_of
from mmearth_model.tasks import StoreImages
from mmearth_model.training.layout import MODEL_FILE
from mmearth_model.weights.checkpoints import Checkpoint, load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data import Modality
    from mmearth_model.data.targets import Normaliser
    from mmearth_model.maps.scene import Scene
    from mmearth_model.maps.vectors import Vectors
    from mmearth_model.network.encoder import ConvNeXtV2, Padding

VECTORS = "vectors"
"""Array of a block."""
BLOCK_VALUES = 24_000_000
"""Maximum number of values of a block: 96 MB of float32."""
BLOCK_PX = 2048
"""Longest side of a block in pixels of the scene."""
MULTIPLE = 32
"""The side of a block is a multiple of this number of positions."""


@lru_cache(maxsize=1)
def loaded(folder: Path, padding: Padding | None, device: str) -> ConvNeXtV2:
    """Load the encoder of a checkpoint, once per process."""
    return load_checkpoint(folder, padding=padding).encoder().to(resolve_device(device)).eval()


@dataclass(frozen=True, kw_only=True)
class DenseJob(ABC):
    """Everything that a process needs to compute blocks of vectors of one grid.

    Attributes
    ----------
    checkpoint, padding
        Folder of the encoder's checkpoint, and its padding.
    lattice
        Positions and windows.
    folder
        Where blocks are written.
    device
        Device of each process.
    """

    checkpoint: Path
    padding: Padding | None
    lattice: Lattice
    folder: WorkFolder
    device: str

    def __call__(self, block: Block) -> None:
        """Compute and write a block."""
        encoder = loaded(self.checkpoint, self.padding, self.device)
        assert encoder.normaliser is not None
        self.folder.write(block, {VECTORS: self.vectors(encoder, encoder.normaliser, block)})

    @abstractmethod
    def vectors(self, encoder: ConvNeXtV2, normaliser: Normaliser, block: Block) -> NDArray[np.float32]:
        """(D, height, width) vectors of a block."""


@dataclass(frozen=True, kw_only=True)
class SceneJob(DenseJob):
    """Blocks of a scene."""

    scene: Scene

    def vectors(self, encoder: ConvNeXtV2, normaliser: Normaliser, block: Block) -> NDArray[np.float32]:
        """See `DenseJob.vectors`."""
        with open_strips(self.scene, normaliser) as reader:
            return block_vectors(encoder, reader, self.lattice, (self.scene.height, self.scene.width), block)


@dataclass(frozen=True, kw_only=True)
class ZoneJob(DenseJob):
    """Blocks of the tiles of a store in one zone."""

    store: Store
    zone: Zone

    def vectors(self, encoder: ConvNeXtV2, normaliser: Normaliser, block: Block) -> NDArray[np.float32]:
        """See `DenseJob.vectors`."""
        return zone_vectors(encoder, normaliser, self.store, self.zone, self.lattice, block)


@dataclass(frozen=True, slots=True)
class BlockVectors:
    """Vectors of one grid in the blocks of a work folder."""

    name: str
    grid: VectorGrid
    side: int
    folder: WorkFolder
    blocks: frozenset[Block]

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Read one whole block; see `mmearth_model.maps.vectors.Vectors`."""
        block = Block.of(rows, columns)
        if block not in self.blocks:  # it contains no tile of the store
            return np.full((self.grid.features, block.height, block.width), np.nan, dtype=np.float32)
        return self.folder.read(block)[VECTORS]


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One grid of a result, before it is computed."""

    vectors: BlockVectors
    job: DenseJob

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Blocks, in order."""
        return tuple(sorted(self.vectors.blocks))


@dataclass(frozen=True, kw_only=True, eq=False)
class DensePlan:
    """A dense embedding before it is computed: its grids, its origin, and everything that determines it."""

    parts: tuple[Part, ...]
    origin: Origin
    identity: Mapping[str, Any]


def embed_dense(
    checkpoint: Checkpoint,
    source: Store | Sequence[str | Path],
    out: str | Path,
    *,
    windows: WindowOptions | None = None,
    kind: str = "float32",
    given: SceneOptions | None = None,
    inside: tuple[float, float] | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    threads: int = 1,
    device: str = "auto",
    report: Callable[[float, float], None] | None = None,
) -> tuple[Vectors, ...]:
    """Embed every position of a scene or of the tiles of a store.

    Repeating an interrupted call resumes it; a finished file is left unchanged.

    Parameters
    ----------
    checkpoint
        From `mmearth_model.load_checkpoint`.
    source
        Raster files of one scene, or a store whose tiles share a pixel grid in each zone.
    out
        x.zarr, or x.tif, a cloud-optimised GeoTIFF.
    windows
        Stride, by default the encoder's patch, overlap and blending.
    kind
        ``float32``, or ``int8``: multiples of a scale per feature.
    given
        Bands, level and offset of a scene, if the files do not record them.
    inside
        Location (longitude, latitude) that must be inside, which is checked before anything is computed.
    workers
        Number of processes on this machine.
    scheduler
        Address of a Dask scheduler whose workers compute instead; they must see the same folders.
    threads
        Threads of each process. On a CPU, several processes with one thread each are faster than one with several.
    device
        Device of each process.
    report
        Called with the number of finished positions, and their total.

    Returns
    -------
    tuple
        Vectors of each grid: one of a scene, one per UTM zone of a store.

    Raises
    ------
    InputError
        If encoder, source and options do not match; nothing is written.
    WriteFailed
        If the disk is full; finished blocks are kept.
    RetryLater
        When a process died; finished blocks are kept.
    """
    target = Path(out).absolute()
    resolve_device(device)
    plan = _plan(checkpoint, source, target, windows or WindowOptions(), kind, given or SceneOptions(), device)
    if inside is not None:
        check_inside([part.vectors for part in plan.parts], *inside)
    digest, folder = digest_of(plan.identity), WorkFolder.beside(target)
    finished = finished_vectors(target, digest)
    if finished and not folder.path.exists():
        return open_vectors(target)
    check_output(target, folder=target.suffix == ".zarr")
    with folder.hold(plan.identity):
        if not finished:
            _compute(plan.parts, report, workers=workers, scheduler=scheduler, threads=threads)
            write_vectors(target, [part.vectors for part in plan.parts], plan.origin, folder.path, kind, digest)
        folder.remove()
    return open_vectors(target)


def _compute(parts: Sequence[Part], report: Callable[[float, float], None] | None, **where: Any) -> None:
    """Compute the blocks of all grids."""
    total = sum(block.pixels for part in parts for block in part.blocks)
    before = 0
    for part in parts:

        def told(done: float, _: float, before: int = before) -> None:
            if report is not None:
                report(before + done, total)

        make_folder(part.vectors.folder.path)
        run_blocks(part.job, part.blocks, part.vectors.folder, report=told, **where)
        before += sum(block.pixels for block in part.blocks)


def _plan(
    checkpoint: Checkpoint,
    source: Store | Sequence[str | Path],
    out: Path,
    windows: WindowOptions,
    kind: str,
    given: SceneOptions,
    device: str,
) -> DensePlan:
    """Plan a dense embedding; raises as `embed_dense`."""
    if kind not in TYPES:
        raise InputError(f"--type: expected {' or '.join(TYPES)}, got {kind!r}; choose one of them.")
    if out.suffix not in (".zarr", ".tif"):
        raise InputError(f"--out: expected x.zarr or x.tif, got {out.name!r}; write {out.stem or 'x'}.zarr.")
    encoder = checkpoint.encoder()
    lattice = make_lattice(encoder, windows.stride_px, windows.overlap_px, windows.blend)
    common = {"checkpoint": checkpoint.folder, "padding": checkpoint.padding, "device": device}
    folder, features = WorkFolder.beside(out), encoder.out_channels
    if isinstance(source, Store):
        lattice = zone_lattice(source, lattice)
        zones = zones_of(source, checkpoint.normaliser, lattice)
        if out.suffix == ".tif" and len(zones) > 1:
            names = ", ".join(zone.name for zone in zones)
            raise InputError(
                f"--out: expected x.zarr for tiles in several UTM zones ({names}), got {out.name}; rename it."
            )
        parts = tuple(_zone_part(source, zone, features, lattice, folder, common) for zone in zones)
        origin = _origin(checkpoint, lattice, _Source.of_store(source))
    else:
        scene = describe_scene(checkpoint.normaliser, [Path(path).absolute() for path in source], given)
        parts = (_scene_part(scene, features, lattice, folder, common),)
        origin = _origin(checkpoint, lattice, _Source.of_scene(scene))
    identity = {name: text for name, text in origin.about.items() if name not in ("checkpoint", "source")}
    identity |= {"padding": str(checkpoint.padding), "blend": lattice.blend, "type": kind, "format": out.suffix}
    return DensePlan(parts=parts, origin=origin, identity=identity)


def _scene_part(scene: Scene, features: int, lattice: Lattice, folder: WorkFolder, common: Mapping[str, Any]) -> Part:
    shape = lattice.positions((scene.height, scene.width))
    grid = _grid(scene.crs, scene.transform, lattice, shape, features)
    side = _side(features, lattice)
    blocks = frozenset(Block.of(rows, columns) for rows, columns in grid.spans(side))
    job = SceneJob(**common, lattice=lattice, folder=folder, scene=scene)
    return Part(vectors=BlockVectors("", grid, side, folder, blocks), job=job)


def _zone_part(
    store: Store, zone: Zone, features: int, lattice: Lattice, folder: WorkFolder, common: Mapping[str, Any]
) -> Part:
    """Part of one zone; its blocks are those with tiles."""
    shape = lattice.positions((zone.height, zone.width))
    grid = _grid(f"EPSG:{zone.epsg}", zone.transform, lattice, shape, features)
    side, own = _side(features, lattice), WorkFolder(folder.path / zone.name)
    blocks = frozenset(
        block
        for rows, columns in grid.spans(side)
        if zone.within(block := Block.of(rows, columns), lattice.stride).size
    )
    job = ZoneJob(**common, lattice=lattice, folder=own, store=store, zone=zone)
    return Part(vectors=BlockVectors(zone.name, grid, side, own, blocks), job=job)


def _side(features: int, lattice: Lattice) -> int:
    """Positions along a side of a block, limited by memory."""
    longest = min((BLOCK_VALUES / features) ** 0.5, BLOCK_PX / lattice.stride)
    return max(1, int(longest) // MULTIPLE) * MULTIPLE


def _grid(crs: str, transform: Sequence[float], lattice: Lattice, shape: tuple[int, int], features: int) -> VectorGrid:
    from affine import Affine
    from rasterio.crs import CRS

    placed = Affine(*transform) @ Affine.scale(lattice.stride)
    return VectorGrid(crs=CRS.from_user_input(crs), transform=placed, shape=shape, features=features)


@dataclass(frozen=True, slots=True)
class _Source:
    """What is embedded, and its measured modalities."""

    name: str
    digest: str
    synthetic: bool
    measured: tuple[Modality, ...]

    @classmethod
    def of_store(cls, store: Store) -> _Source:
        measured = () if store.synthetic else tuple(m for m in store.modalities.values() if m.input)
        return cls(str(store.path), StoreImages(store).digest, store.synthetic, measured)

    @classmethod
    def of_scene(cls, scene: Scene) -> _Source:
        name = ", ".join(file.path.name for file in scene.files)
        return cls(name, digest_of(scene.identity()), scene.synthetic, () if scene.synthetic else scene.modalities)


def _origin(checkpoint: Checkpoint, lattice: Lattice, source: _Source) -> Origin:
    model = file_digest(checkpoint.folder / MODEL_FILE)
    about = {
        "checkpoint": short_path(checkpoint.folder),
        "model_digest": f"sha256:{model.hex()}",
        "source": source.name,
        "source_digest": source.digest,
        "version": __version__,
        "synthetic": str(source.synthetic).lower(),
        "patch_px": str(lattice.patch),
        "stride_px": str(lattice.stride),
        "window_px": str(lattice.window),
        "overlap_px": str(lattice.window - lattice.step),
    }
    uris = source_uris(source.name, source.digest, source.measured)
    return Origin(about=about, model=named_information(model), source_data=uris)
