"""The front door: the verbs that make a store, or files of one, each a few lines over the room that does it.

Heavy libraries are imported where they are used, so that reading a finished store needs few of them.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmearth_data.errors import InputError
from mmearth_data.files.writing import check_output, write_errors
from mmearth_data.opened import Store, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mmearth_data.building.executor import Progress
    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.recipes import BuildRecipe


def build(
    recipe: BuildRecipe,
    out: str | Path,
    *,
    catalog: Catalog | None = None,
    report: Callable[[Progress], None] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    note: Callable[[str], None] | None = None,
    append: int | None = None,
    done: Callable[[Store], None] | None = None,
) -> Store:
    """Build a store, continue one that was interrupted, or append tiles to one that is finished.

    Parameters
    ----------
    recipe
        What to build.
    out
        Folder or URL (``s3://``, ``gs://``, ``az://``) of the store; new, or an unfinished store of the same recipe.
    catalog
        Descriptions of the modalities; the shipped ones by default.
    report
        Called with the progress after each shard, and every second while tiles are read in this process.
    workers
        Processes to distribute the shards over; None uses only this one.
    scheduler
        Address of a running Dask scheduler (``tcp://HOST:8786``) to send the shards to instead.
    note
        Called with messages for the user, such as that an earlier build was interrupted.
    append
        Number of tiles to add to the finished store of the same recipe at ``out``, in areas without a tile. Blocks keep
        their splits; existing rows, shards and tiles are neither changed nor read again from the source. The same build
        and appends always give the same bytes; if interrupted, the same call continues.
    done
        Called with the finished store. If an append is interrupted before this returns, the same call completes it;
        afterwards, the same call appends again.

    Returns
    -------
    Store
        The finished store, opened.

    Raises
    ------
    InputError
        When an input cannot be used, ``out`` holds something else, or another build is running there.
    WriteFailed
        When the disk is full, or takes no files; committed shards are kept.
    RetryLater
        When the cluster is lost; committed shards are kept.
    """
    from mmearth_data.building.build import build as build_store

    build_store(
        recipe,
        out,
        catalog=catalog,
        report=report,
        workers=workers,
        scheduler=scheduler,
        note=note,
        append=append,
        done=None if done is None else lambda: done(open_store(out)),
    )
    return open_store(out)


def import_hdf5(
    folder: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    skip_duplicates: bool = False,
    report: Callable[[Progress], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Store:
    """Import a data set in the published HDF5 format into a store, or resume an interrupted import.

    Every observed value and every key of tile_info is preserved in an export. What the format lacks (the corner of a
    tile, the hour of a scene) is unknown in the store too. The content of ``NAME_band_stats.json`` is kept in the
    store, under ``band_stats`` of its source.

    Parameters
    ----------
    folder
        Folder with ``NAME.h5``, ``NAME_band_stats.json``, ``NAME_splits.json`` and ``NAME_tile_info.json``.
    out
        Folder or URL of the store.
    name
        NAME, if the folder holds more than one.
    skip_duplicates
        Leave out tiles with the same location and date as an earlier row, instead of refusing them.
    report
        Called with the progress after each shard.
    note
        Called with messages for the user.

    Raises
    ------
    InputError
        When a file is missing, damaged or contradicts another one.
    """
    from mmearth_data.interchange.hdf5_import import import_published

    with _output(out):
        import_published(
            Path(folder),
            out,
            name=name,
            skip_duplicates=skip_duplicates,
            report=_in_rows(report),
            note=note or _ignore,
        )
    return open_store(out)


def export(
    store: str | Path,
    out: str | Path,
    *,
    form: Literal["mmearth-h5", "geotiff"] = "mmearth-h5",
    name: str | None = None,
    fill: Mapping[str, str] | None = None,
    report: Callable[[Progress], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Path:
    """Write a finished store in another format, or resume an interrupted export.

    Parameters
    ----------
    store
        The store.
    out
        Folder to write into.
    form
        ``mmearth-h5``: ``out/NAME/NAME.h5`` and its JSON files, as MMEarth was published. ``geotiff``: one
        cloud-optimised GeoTIFF per tile and modality.
    name
        NAME of the published format; by default the one that belongs to the tile size.
    fill
        Modality -> ``mean``, with ``mmearth-h5`` only: missing values are written as the mean of each band over the
        train split (by Sentinel-2 level if the store's statistics are), rounded for integer arrays. An import cannot
        distinguish them from observed values.
    report, note
        As in `import_hdf5`.

    Returns
    -------
    Path
        The folder that was written.

    Raises
    ------
    InputError
        When the store is not finished, holds what the format cannot represent, or ``out`` is taken by something else.
    """
    opened, told, tell = open_store(store), _in_rows(report), note or _ignore
    with _output(out):
        if form == "mmearth-h5":
            from mmearth_data.interchange.hdf5_export import export_published

            return export_published(opened, Path(out), name=name, fill=fill, report=told, note=tell)
        from mmearth_data.interchange.geotiff import export_geotiff

        if name is not None:
            raise InputError(f"--name: expected none with geotiff, whose files are named by tile id, got {name!r}.")
        if fill:
            raise InputError(
                f"--fill: expected none with geotiff, whose files mark missing values, got {', '.join(fill)}."
            )
        return export_geotiff(opened, Path(out), report=told, note=tell)


def subset(
    store: str | Path,
    out: str | Path,
    *,
    report: Callable[[Progress], None] | None = None,
    note: Callable[[str], None] | None = None,
    **part: Any,
) -> Store:
    """Make a store from part of another one, or resume an interrupted subset.

    Shards that are taken as a whole are copied byte for byte and come first; statistics cover the selected tiles.

    Parameters
    ----------
    store
        A finished store.
    out
        Folder or URL of the new store.
    report, note
        As in `import_hdf5`.
    **part
        Which tiles and modalities: fields of `mmearth_data.interchange.subset.Part` (region, split, biome, modalities,
        share, seed, ids, crop).

    Raises
    ------
    InputError
        When a condition is unknown or leaves no tile, or ``out`` is taken by something else.
    """
    from mmearth_data.interchange.subset import Part, make_subset

    with _output(out):
        make_subset(open_store(store), out, Part(**part), report=_in_rows(report), note=note or _ignore)
    return open_store(out)


def merge(
    stores: Sequence[str | Path],
    out: str | Path,
    *,
    drop_clashes: bool = False,
    report: Callable[[Progress], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Store:
    """Merge several stores into one, or resume an interrupted merge.

    Full shards are copied byte for byte and come first; the remaining tiles follow.

    Parameters
    ----------
    stores
        Finished stores with the same tile size and modalities.
    out
        Folder or URL of the new store.
    drop_clashes
        Leave out tiles that an earlier store also has, or whose area it has in another split; otherwise they are
        refused.
    report, note
        As in `import_hdf5`.

    Raises
    ------
    InputError
        When the stores do not match, or ``out`` is taken by something else.
    """
    from mmearth_data.interchange.merge import merge_stores

    opened = [open_store(path) for path in stores]
    with _output(out):
        merge_stores(opened, out, drop_clashes=drop_clashes, report=_in_rows(report), note=note or _ignore)
    return open_store(out)


@contextmanager
def _output(out: str | Path) -> Iterator[None]:
    """Write to a folder that is resumed, or to a new one, which is tried first."""
    with write_errors(out):
        if "://" not in str(out) and not Path(out).exists():
            check_output(out, folder=True)
        yield


def _ignore(text: str) -> None:
    """Ignore a message."""


def _in_rows(report: Callable[[Progress], None] | None) -> Callable[[int, int], None]:
    from mmearth_data.building.executor import in_rows

    return in_rows(report)
