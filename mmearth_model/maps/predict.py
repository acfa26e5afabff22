"""Maps of scenes: a network is applied to windows, which are blended per pixel, or give one prediction each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmearth_model.devices import resolve_device
from mmearth_model.heads.network import Network, load_network
from mmearth_model.maps.describing import SceneOptions
from mmearth_model.maps.making import make_map
from mmearth_model.maps.planning import TABLE_SUFFIX, WindowOptions, plan_map
from mmearth_model.maps.scene_table import as_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmearth_model.maps.raster import RasterGrid


def predict_scene(
    network: Network | str | Path,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    given: SceneOptions | None = None,
    tiling: WindowOptions | None = None,
    scores: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    threads: int = 1,
    device: str = "auto",
    check: Callable[[RasterGrid], None] | None = None,
    report: Callable[[float, float], None] | None = None,
) -> tuple[Path, ...]:
    """Map a scene with a network.

    Repeating an interrupted call resumes it; a finished map is left unchanged.

    Parameters
    ----------
    network
        A network, or its folder.
    inputs
        Raster files of one scene: one with all bands, or several with some bands each. A single path is one file.
    out
        Map to write, a cloud-optimised GeoTIFF. With ``scores``, probabilities are written next to it, as
        ``NAME.scores.tif``. For a network that predicts per tile, alternatively a ``.parquet`` file: GeoParquet with a row
        per window (with the columns of `predict_table`).
    given
        Bands, level and offset, if the files do not record them.
    tiling
        Windows.
    scores
        Whether to write probabilities as well.
    workers
        Number of processes on this machine.
    scheduler
        Address of a Dask scheduler whose workers compute instead; they must see the same folders.
    threads
        Threads of each process. On a CPU, several processes with one thread each are faster than one with several.
    device
        Device of each process.
    check
        Called with the grid of the map before anything is computed; it may raise.
    report
        Called with the number of finished pixels of the map, and their total.

    Returns
    -------
    tuple
        Files that make up the result.

    Raises
    ------
    InputError
        If scene, network and options do not match; nothing is written.
    WriteFailed
        If the disk is full; finished blocks are kept.
    RetryLater
        When a process died; finished blocks are kept.
    """
    net = network if isinstance(network, Network) else load_network(network)
    target, files = (
        Path(out).absolute(),
        [Path(path) for path in ([inputs] if isinstance(inputs, str | Path) else inputs)],
    )
    resolve_device(device)
    plan = plan_map(net, files, target, given or SceneOptions(), tiling or WindowOptions(), scores=scores)
    if check is not None:
        check(plan.grid)
    if target.suffix.lower() == TABLE_SUFFIX:
        plan = as_table(plan, scores=scores)
    return make_map(plan, workers=workers, scheduler=scheduler, threads=threads, device=device, report=report)
