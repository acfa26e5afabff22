"""The front door: everything that a user of the package calls, in one place.

Heavy libraries are imported where they are used, so that reading a finished store needs few of them.
"""

from __future__ import annotations

import dataclasses
import math
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from mmearth_data.errors import InputError
from mmearth_data.files.writing import check_output, write_errors
from mmearth_data.store.reader import Store as StoredTiles
from mmearth_data.store.schema import ROOT_KEY, StoreLayout, default_tiles_per_shard

BASE_SCENE = "base-scene"
"""Recipe of the modality whose scene gives a tile its grid and date, so that it is read even when it is not stored."""

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from geopandas import GeoDataFrame

    from mmearth_data.building.executor import Progress
    from mmearth_data.building.plan import BuildPlan
    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.catalog.modality import Modality
    from mmearth_data.loading.loader import Loader
    from mmearth_data.recipe import BuildRecipe
    from mmearth_data.sampling import Sample
    from mmearth_data.sources.base import Source, SourceOverNetwork, SourceWithEcoregions, SourceWithPlaces
    from mmearth_data.store.lock import Held
    from mmearth_data.store.verify import VerifyReport
    from mmearth_data.store.writer import StoreWriter


class Store(StoredTiles):
    """Tiles of a store, or of a selection of it; see `mmearth_data.store.reader.Store`."""

    def loader(self, **options: Any) -> Loader:
        """Deliver the selected tiles in batches of raw arrays; the options are those of `Loader`.

        Examples
        --------
        >>> train = open_store("planet.zarr").select(split="train")  # doctest: +SKIP
        >>> for batch in train.loader(batch_size=64, seed=0):  # doctest: +SKIP
        ...     batch["sentinel2"].shape
        (64, 13, 64, 64)
        """
        from mmearth_data.loading.loader import Loader

        return Loader(self, **options)

    def plot(self, tile: int | str, path: str | Path | None = None) -> Path:
        """Draw all modalities of one tile as a PNG, as ``mmearth-data inspect --tile --figure`` does.

        Parameters
        ----------
        tile
            Position in the selection, or a tile id of 16 hex digits.
        path
            File to write; by default the tile id and ``.png``, in the current folder.

        Raises
        ------
        InputError
            When there is no such tile, or the picture cannot be written there.
        """
        from mmearth_data.catalog.tile import format_tile_id
        from mmearth_data.inspection import tile_figure
        from mmearth_data.inspection.figures import find_tile

        if path is None:
            path = f"{format_tile_id(int(self.coords['tile_id'][find_tile(self, tile)]))}.png"
        return tile_figure(self, tile, path)


def open_store(path: str | Path) -> Store:
    """Open a store, or what is committed of one that is being built.

    Parameters
    ----------
    path
        Folder of the store.

    Returns
    -------
    Store
        Lazy: values are read when they are asked for.

    Raises
    ------
    InputError
        When there is no store.
    StoreDamaged
        When it does not hold what its records promise, here or on first use of the part in question.
    """
    return Store.open(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedBuild:
    """A build resolved into values: what will be read from where, before anything happens.

    Attributes
    ----------
    recipe
        The options.
    source
        Delivers the pixels.
    plan
        Shards, slots and reserves.
    sample
        How the places were chosen; None where the source brought them.
    notes
        Sentences for people.
    """

    recipe: BuildRecipe
    source: Source
    plan: BuildPlan
    sample: Sample | None
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """JSON-ready account of what a build would do: tiles, shards, requests, bytes before compression."""
        tiles = self.plan.layout.tiles - self.plan.first_row
        account = _describe(self.recipe, self.source, self.plan.layout, tiles)
        notes = {"notes": list(self.notes)} if self.notes else {}
        return account | notes | {"sample": None if self.sample is None else self.sample.report.to_dict()}


def preview(
    recipe: BuildRecipe, *, catalog: Catalog | None = None, append: int | None = None, out: str | Path | None = None
) -> dict[str, Any]:
    """Describe what a build would do and cost, JSON-ready; writes nothing, and signs in only if locations depend on it.

    Without an account the plan has no locations, unless ecoregions are given or were fetched earlier. With ``append``,
    describes that many additional tiles for the finished store at ``out``.

    Raises
    ------
    InputError
        When any input cannot be used.
    """
    from mmearth_data.catalog.entries import load_catalog

    catalog = catalog or load_catalog()
    store = None if append is None else _appended_store(str(out), recipe, append)
    if store is not None:
        _refuse_other(store, "recipe", store.recipe, recipe.identity())
    inputs = _inputs(recipe, catalog, connect=False)
    try:
        if store is None or append is None:
            return _planned(recipe, inputs).describe()
        return _planned_append(recipe, inputs, store, store.layout.tiles, append).describe()
    except InputError as missing:
        # Its class is looked up only now: the module brings the service's client along.
        if recipe.source != "earthengine" or not _wants_account(missing):
            raise
        layout = _layout(recipe, inputs.modalities, recipe.tiles) if store is None else store.layout
        note = f"places are not known yet: they need ecoregions (--ecoregions FILE, or an account). {missing}"
        account = _describe(recipe, inputs.source, layout, append or recipe.tiles)
        return account | {"sample": None, "note": note}


def _wants_account(error: InputError) -> bool:
    from mmearth_data.sources.earthengine.failures import SignInMissing

    return isinstance(error, SignInMissing)


def _describe(recipe: BuildRecipe, source: Source, layout: StoreLayout, tiles: int) -> dict[str, Any]:
    """Account of a store, and of filling some of its rows."""
    from mmearth_data.building.price import price, store_objects

    per_tile = {m.name: math.prod(m.array_shape(layout.size_px)) * m.dtype.itemsize for m in layout.stored}
    account = {
        "source": {"name": source.name, "synthetic": source.synthetic},
        "tiles": tiles,
        "tile_size_px": layout.size_px,
        "shards": layout.shards,
        "tiles_per_shard": layout.tiles_per_shard,
        "raw_bytes_per_tile": per_tile,
        "raw_bytes": tiles * sum(per_tile.values()),
        "store_objects": store_objects(layout),
    }
    if _over_network(source):
        account["estimate"] = price(
            layout,
            tiles=tiles,
            in_flight=recipe.in_flight,
            per_second=recipe.per_second,
            latency_s=recipe.latency_s,
            eecu_per_tile=recipe.eecu_per_tile,
        )
    return account


def profile(recipe: BuildRecipe, tiles: int, *, catalog: Catalog | None = None) -> dict[str, Any]:
    """Measure a few tiles of a recipe, one after the other, and tell what all of them will need; writes nothing.

    Parameters
    ----------
    recipe
        What is to be built.
    tiles
        Number of locations to measure, sampled as for the recipe itself.
    catalog
        Descriptions of the modalities; the shipped ones by default.

    Returns
    -------
    dict
        JSON-ready: what `mmearth_data.building.profile.profile_tiles` measured, and ``recipe``: what `preview` says
        of its tiles, with the measured seconds and EECU-seconds in place of assumptions.

    Raises
    ------
    InputError
        When an input cannot be used, or none of the locations is available.
    """
    from mmearth_data.building.profile import profile_tiles, seconds_of

    if tiles < 1:
        raise InputError(f"--profile: expected at least one tile, got {tiles}.")
    inputs = _inputs(recipe, catalog, connect=True)
    plan = _planned(recipe.model_copy(update={"tiles": tiles, "tiles_per_shard": tiles}), inputs).plan
    places = [slot.place for slot in plan.shard(0).slots]
    found = profile_tiles(inputs.source, places, plan.layout)
    all_tiles = recipe.tiles if recipe.source_file is None else plan.layout.tiles
    measured = recipe.model_copy(
        update={"latency_s": seconds_of(found, "image:computePixels"), "eecu_per_tile": found["eecu_per_tile"] or None}
    )
    needs = _describe(measured, inputs.source, _layout(recipe, inputs.modalities, all_tiles), all_tiles)
    if "estimate" not in needs:
        hours = all_tiles * found["seconds_per_tile"] / recipe.threads / 3600
        needs |= {"threads": recipe.threads, "hours": round(hours, 4)}
    return {**found, "recipe": needs}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inputs:
    """What a recipe names, before any place is chosen."""

    source: Source
    ecoregions: GeoDataFrame | None
    modalities: tuple[Modality, ...]

    def ecoregions_to_sample(self) -> GeoDataFrame:
        return cast("SourceWithEcoregions", self.source).ecoregions() if self.ecoregions is None else self.ecoregions


def _inputs(recipe: BuildRecipe, catalog: Catalog | None, *, connect: bool) -> _Inputs:
    from mmearth_data.catalog.entries import load_catalog

    catalog = _with_assets(_with_window(catalog or load_catalog(), recipe), recipe)
    ecoregions = _read_ecoregions(recipe)
    source = make_source(recipe, catalog, ecoregions)
    if connect and (remote := _over_network(source)):
        remote.connect()
    modalities = _deliverable(source, _wanted(catalog, recipe), recipe, labelled=_labelled(recipe))
    return _Inputs(source=source, ecoregions=ecoregions, modalities=modalities)


def prepare(recipe: BuildRecipe, *, catalog: Catalog | None = None, connect: bool = False) -> PreparedBuild:
    """Resolve a recipe: source, places, splits, shards. Reads input files, writes nothing.

    Parameters
    ----------
    recipe
        What to build.
    catalog
        Descriptions of the modalities; the shipped ones by default.
    connect
        Sign in first, where the source needs it.

    Raises
    ------
    InputError
        When any input cannot be used.
    """
    return _planned(recipe, _inputs(recipe, catalog, connect=connect))


def _planned(recipe: BuildRecipe, inputs: _Inputs) -> PreparedBuild:
    from mmearth_data.building.given import given_tiles
    from mmearth_data.building.plan import plan_given, plan_sampled

    source = inputs.source
    if recipe.source_file is not None:
        given = given_tiles(cast("SourceWithPlaces", source), recipe)
        layout = _layout(recipe, inputs.modalities, len(given.places))
        plan = plan_given(given.places, recipe.split_shares, recipe.seed, layout, given.split)
        return PreparedBuild(recipe=recipe, source=source, plan=plan, sample=None, notes=given.notes)
    drawn = draw_sample(recipe, inputs.ecoregions_to_sample())
    _refuse_overlaps(recipe, drawn.frame)
    layout = _layout(recipe, inputs.modalities, drawn.report.tiles)
    return PreparedBuild(recipe=recipe, source=source, plan=plan_sampled(drawn.frame, layout), sample=drawn)


def _refuse_overlaps(recipe: BuildRecipe, frame: GeoDataFrame) -> None:
    """Refuse locations of a file that overlap and are in different splits."""
    from mmearth_data.building.given import refuse_overlaps
    from mmearth_data.catalog.tile import format_tile_id

    if recipe.tiles_file is not None:
        names = frame["tile_id"].map(format_tile_id).to_numpy()
        lon, lat, split = (frame[name].to_numpy() for name in ("lon", "lat", "split"))
        refuse_overlaps(recipe.tiles_file, lon, lat, split, recipe.tile_size, lambda at: f"tile {names[at]}")


def _planned_append(recipe: BuildRecipe, inputs: _Inputs, store: Store, first_row: int, more: int) -> PreparedBuild:
    """Plan rows after the existing ones of a store, in areas that those leave free."""
    from mmearth_data.building.growing import standing_tiles
    from mmearth_data.building.plan import plan_sampled

    layout = dataclasses.replace(store.layout, tiles=first_row + more)
    if layout.modalities != inputs.modalities:
        names = {m.name for m in set(layout.modalities) ^ set(inputs.modalities)}
        raise InputError(
            f"{store.path}: expected the catalog entries that it was built with, got others for "
            f"{', '.join(sorted(names)) or 'their order'}; give the same --catalog."
        )
    existing = standing_tiles(store, first_row)
    drawn = draw_sample(recipe.model_copy(update={"tiles": more}), inputs.ecoregions_to_sample(), existing=existing)
    plan = plan_sampled(drawn.frame, layout, first_row)
    return PreparedBuild(recipe=recipe, source=inputs.source, plan=plan, sample=drawn)


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
        Called with the progress after each shard.
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
    from mmearth_data.store.lock import StoreTaken, hold
    from mmearth_data.store.objects import objects_at
    from mmearth_data.store.writer import StoreWriter, begin_held, tell_resumed

    with ExitStack() as held:
        held.enter_context(write_errors(out))
        existing = _existing_store(out) if append is None else _appended_store(out, recipe, append)
        if existing is not None:
            _refuse_other(existing, "recipe", existing.recipe, recipe.identity())
            if append is not None or not existing.finished:
                report = _confirmed(held.enter_context(hold(out)), note, report)
                existing = open_store(out)  # read again, now that the store is locked
        else:
            check_output(out, folder=True)
        inputs = _inputs(recipe, catalog, connect=True)
        source = {**inputs.source.identity(), "synthetic": inputs.source.synthetic}
        prepared: PreparedBuild | None = None
        if existing is not None:
            _refuse_other(existing, "source", existing.source, source)
            if append is not None:
                prepared, writer = _begin_append(existing, recipe, inputs, append)
            elif existing.finished:
                return existing
            else:
                writer = StoreWriter.resume(out)
        else:
            prepared = _planned(recipe, inputs)
            for sentence in prepared.notes:
                (note or _keep_quiet)(sentence)
            facts: dict[str, Any] = {
                "recipe": recipe.identity(),
                "source": source,
                "synthetic": inputs.source.synthetic,
            }
            writer, holding = held.enter_context(begin_held(out, prepared.plan.layout, **facts))
            report = _confirmed(holding, note, report)
        if existing is not None and prepared is None:
            tell_resumed(writer, note)
        try:
            _run_stages(writer, recipe, inputs, prepared, report, workers=workers, scheduler=scheduler)
        except StoreTaken:
            raise
        except InputError:
            if existing is None and not writer.committed():
                objects_at(out).remove()
            raise
    built = open_store(out)
    for sentence in _missing_everywhere(built) if recipe.source_file is not None else ():
        (note or _keep_quiet)(sentence)
    return built


def _missing_everywhere(store: Store) -> list[str]:
    """Sentences about modalities that files were read for and that no tile has."""
    valid = store.coords["valid"]
    return [
        f"{m.name}: no tile has a value; check nodata, scale, clip and codes of its layers in the mapping."
        for bit, m in enumerate(store.layout.stored)
        if m.kind.is_raster and not (valid >> bit & 1).any()
    ]


def _appended_store(out: str | Path, recipe: BuildRecipe, append: int) -> Store:
    from mmearth_data.building.growing import refuse_append

    refuse_append(recipe, append)
    return open_store(out)


def _begin_append(
    store: Store, recipe: BuildRecipe, inputs: _Inputs, append: int
) -> tuple[PreparedBuild | None, StoreWriter]:
    """Writer of an append, with its plan unless it was begun before: a plan that fails must not touch the store."""
    from mmearth_data.building.growing import begin_append, is_begun
    from mmearth_data.store.writer import StoreWriter

    if is_begun(store, append):
        return None, StoreWriter.resume(store.path)
    prepared = _planned_append(recipe, inputs, store, store.layout.tiles, append)
    return prepared, begin_append(store.path, append)


def _run_stages(
    writer: StoreWriter,
    recipe: BuildRecipe,
    inputs: _Inputs,
    prepared: PreparedBuild | None,
    report: Callable[[Progress], None] | None,
    **cluster: Any,
) -> None:
    """Fill what is missing of a build and of the appends that followed it, in their order, and seal the store.

    ``prepared`` is the plan of the last of them, where it is known.
    """
    from mmearth_data.building.growing import unfinished_stages
    from mmearth_data.building.running import run_build

    remote = _over_network(inputs.source)
    threads = max(recipe.threads, remote.in_flight if remote else 0)
    limits = {name: getattr(recipe, name) for name in ("in_flight", "per_second", "restricted_in_flight")}
    with _kept_ledger(writer.path, remote, report) as reported:
        for at in unfinished_stages(writer):
            if at.stage == writer.stage and prepared is not None:
                plan = prepared.plan
            elif at.stage == 0:
                plan = _planned(recipe, inputs).plan
            else:
                more = at.layout.tiles - at.first_row
                plan = _planned_append(recipe, inputs, open_store(writer.path), at.first_row, more).plan
            run_build(plan, inputs.source, at, threads=threads, limits=limits, report=reported, **cluster)
        writer.finish()


def _confirmed(
    holding: Held, note: Callable[[str], None] | None, report: Callable[[Progress], None] | None
) -> Callable[[Progress], None]:
    """Say what an earlier build left behind, and report progress only while the store is held.

    Returns
    -------
    callable
        Reports progress, after it has made sure that the store is still held: a build whose store was taken over stops.
    """
    if holding.left is not None and note is not None:
        note(holding.left)

    def reported(progress: Progress) -> None:
        holding.confirm()
        if report is not None:
            report(progress)

    return reported


def repair(path: str | Path, *, report: Callable[[Progress], None] | None = None, **files: Any) -> VerifyReport:
    """Rebuild what is damaged in a store, from the recipe that it carries.

    Damaged shards are read again from the source; metadata, 1-D arrays, statistics and tables are written anew
    from the commit records. A sound store is left alone.

    Parameters
    ----------
    path
        The store.
    report
        Called with the progress.
    **files
        Recipe fields that name files (``source="rasters:FILE"``, ``ecoregions``, ``tiles_file``): a store keeps
        their digests only. ``catalog`` where the store was built with one.

    Returns
    -------
    VerifyReport
        Of the store as it is now.

    Raises
    ------
    StoreDamaged
        When the root metadata, and with them the recipe, are damaged.
    InputError
        When the files are not those that the store was built from.
    """
    from mmearth_data.recipe import FILES, make_recipe
    from mmearth_data.store.repair import reopen
    from mmearth_data.store.verify import verify

    found = verify(path)
    if not found.problems:
        return found
    reopen(path, found)
    damaged = open_store(path)
    made_by = next((name for name in ("import", "subset", "merge") if name in damaged.recipe), None)
    if made_by is not None:
        raise InputError(
            f"{path}: expected a store that was built from a source, got one made by `mmearth-data {made_by}`. What is "
            "damaged was taken out; the command that made the store puts it back."
        )
    catalog = files.pop("catalog", None)
    kept = {name: value for name, value in damaged.recipe.items() if name not in FILES}
    given = {name: value for name, value in files.items() if value is not None}
    recipe = make_recipe(None, {"source": damaged.source["name"], **kept, **given}).with_given(given)
    build(recipe, path, catalog=catalog, report=report)
    return verify(path)


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

    with write_errors(out):
        _try_new(out)
        import_published(
            Path(folder),
            out,
            name=name,
            skip_duplicates=skip_duplicates,
            report=_rows_of(report),
            note=note or _keep_quiet,
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
    opened, told, tell = open_store(store), _rows_of(report), note or _keep_quiet
    with write_errors(out):
        _try_new(out)
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

    with write_errors(out):
        _try_new(out)
        make_subset(open_store(store), out, Part(**part), report=_rows_of(report), note=note or _keep_quiet)
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
    with write_errors(out):
        _try_new(out)
        merge_stores(opened, out, drop_clashes=drop_clashes, report=_rows_of(report), note=note or _keep_quiet)
    return open_store(out)


def _try_new(out: str | Path) -> None:
    """Try whether a folder can be made where none is yet; one that is finished needs no writing."""
    if "://" not in str(out) and not Path(out).exists():
        check_output(out, folder=True)


def _keep_quiet(text: str) -> None:
    """Ignore a message."""


def _rows_of(report: Callable[[Progress], None] | None) -> Callable[[int, int], None]:
    """Report progress in rows the way a build does."""
    import time

    from mmearth_data.building.executor import Progress

    start = time.perf_counter()
    resumed: list[int] = []

    def tell(done: int, total: int) -> None:
        resumed.append(done)
        if report is not None:
            report(
                Progress(
                    rows_done=done,
                    rows_total=total,
                    filled=done - resumed[0],
                    rejected=0,
                    resumed=resumed[0],
                    seconds=time.perf_counter() - start,
                )
            )

    return tell


def draw_sample(
    recipe: BuildRecipe, ecoregions: GeoDataFrame | None = None, *, existing: GeoDataFrame | None = None
) -> Sample:
    """Choose the locations of a build, deterministically from the recipe's seed.

    Parameters
    ----------
    recipe
        Region, number of tiles, balance and splits.
    ecoregions
        Columns eco_region, biome, geometry; None reads ``recipe.ecoregions`` or those of the source.
    existing
        Existing tiles (``lon``, ``lat``, ``split``), whose areas are taken and whose blocks keep their split.
    """
    from mmearth_data.geography.regions import resolve_region
    from mmearth_data.sampling import SamplingOptions, read_sample, sample

    if recipe.source_file is not None:
        raise InputError(
            f"source (--source): expected one whose locations are sampled, got {recipe.source}, which brings its own; "
            "build it directly, or sample with --source earthengine or synthetic."
        )
    if ecoregions is None:
        ecoregions = sample_ecoregions(recipe)
    options = SamplingOptions(
        tiles=recipe.tiles,
        size_px=recipe.tile_size,
        seed=recipe.seed,
        balance=recipe.balance,
        oversample=recipe.oversample,
        split=recipe.split or "block",
        split_shares=recipe.split_shares,
        split_guard_m=recipe.split_guard_m,
        min_distance_m=recipe.min_distance_m,
        threads=recipe.threads,
    )
    if recipe.tiles_file is not None:
        return read_sample(recipe.tiles_file, ecoregions=ecoregions, options=options)
    return sample(ecoregions, resolve_region(recipe.region, mainland=recipe.mainland), options, existing)


def sample_ecoregions(recipe: BuildRecipe) -> GeoDataFrame:
    """Ecoregions to sample in: the recipe's file, or those of its source."""
    from mmearth_data.catalog.entries import load_catalog

    ecoregions = _read_ecoregions(recipe)
    if ecoregions is not None:
        return ecoregions
    return cast("SourceWithEcoregions", make_source(recipe, _with_assets(load_catalog(), recipe), None)).ecoregions()


def make_source(recipe: BuildRecipe, catalog: Catalog, ecoregions: GeoDataFrame | None) -> Source:
    """Source that a recipe names.

    Raises
    ------
    InputError
        When there is no such source.
    """
    if recipe.source_file is None:
        from mmearth_data.sources.draws import check_years

        check_years(recipe.years, recipe.levels, recipe.source)
    if recipe.source == "earthengine":
        return _earth_engine(recipe, catalog)
    if recipe.source_name == "synthetic" and recipe.source_file is None:
        from mmearth_data.sources.synthetic import SyntheticSource

        recipe.refuse_unused(SyntheticSource.recipe_fields)
        return SyntheticSource(
            recipe.seed, years=recipe.years, levels=recipe.levels, cloud_percent=recipe.cloud_percent
        )
    if recipe.source_name == "rasters" and recipe.source_file is not None:
        from mmearth_data.sources.rasters import RasterSource

        recipe.refuse_unused(RasterSource.recipe_fields)
        return RasterSource(recipe.source_file, level=recipe.level, catalog=catalog, ecoregions=ecoregions)
    raise InputError(f"Expected --source earthengine, synthetic or rasters:FILE.yaml, got {recipe.source!r}.")


def _earth_engine(recipe: BuildRecipe, catalog: Catalog) -> Source:
    from mmearth_data.sources.earthengine.quota import LocalLimiter
    from mmearth_data.sources.earthengine.session import SessionOptions
    from mmearth_data.sources.earthengine.source import EarthEngineSource
    from mmearth_data.sources.earthengine.survey import SceneRules

    recipe.refuse_unused(EarthEngineSource.recipe_fields)
    options = SessionOptions(
        endpoint=recipe.ee_endpoint,
        url=recipe.ee_url,
        project=recipe.ee_project,
        service_account=recipe.service_account,
        connections=recipe.in_flight,
        timeout_s=recipe.request_timeout_s,
    )
    rules = SceneRules(seed=recipe.seed, years=recipe.years, levels=recipe.levels, cloud_percent=recipe.cloud_percent)
    limiter = LocalLimiter(recipe.in_flight, recipe.per_second, recipe.restricted_in_flight)
    return EarthEngineSource(catalog, _wanted(catalog, recipe), rules, options, limiter)


def _over_network(source: Source) -> SourceOverNetwork | None:
    """Return the source if it waits for a service, which shows in its account."""
    return cast("SourceOverNetwork", source) if hasattr(source, "account") else None


@contextmanager
def _kept_ledger(
    out: str | Path, remote: SourceOverNetwork | None, report: Callable[[Progress], None] | None
) -> Iterator[Callable[[Progress], None]]:
    """Keep a remote source's account in the store, with those of its copies on a cluster: after each shard, and at the end."""
    from mmearth_data.store.ledger import merge_ledgers, write_ledger
    from mmearth_data.store.objects import objects_at

    run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"

    elsewhere: list[Mapping[str, Any]] = []

    def keep() -> None:
        if remote is not None and objects_at(out).is_there():
            write_ledger(out, run, merge_ledgers([remote.account(), *elsewhere]))

    def reported(progress: Progress) -> None:
        elsewhere[:] = progress.accounts.values()
        keep()
        if report is not None:
            report(progress)

    try:
        yield reported
    finally:
        keep()


def _existing_store(out: str | Path) -> Store | None:
    """Store that stands at ``out``, or None where nothing does."""
    from mmearth_data.store.objects import objects_at

    objects = objects_at(out)
    if not isinstance(objects.root, Path):
        return None if objects.size(ROOT_KEY) is None else open_store(out)
    out = objects.root
    if not out.exists():
        return None
    if not out.is_dir():
        raise InputError(f"{out}: expected a folder for the store, got a file; choose another --out.")
    if not any(out.iterdir()):
        return None
    if not (out / ROOT_KEY).is_file():
        raise InputError(f"{out}: expected a new or empty folder, or an MMEarth store, got a folder of other files.")
    return open_store(out)


def _refuse_other(existing: Store, what: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    from mmearth_data.recipe import differences

    lines = differences({what: dict(stored)}, {what: dict(wanted)})
    if lines:
        raise InputError(
            f"{existing.path}: expected the {what} that this store was begun with, got another one "
            f"(stored -> given): {'; '.join(lines)}. Use the stored values, or another --out."
        )


def _read_ecoregions(recipe: BuildRecipe) -> GeoDataFrame | None:
    if recipe.ecoregions is None:
        return None
    from mmearth_data.geography.ecoregions import read_ecoregions

    return read_ecoregions(recipe.ecoregions)


def _wanted(catalog: Catalog, recipe: BuildRecipe) -> tuple[Modality, ...]:
    """Modalities that were asked for; a raster mapping asks for all that it has, also those switched off by default."""
    if recipe.modalities is None and recipe.source_file is not None:
        return tuple(catalog.modalities.values())
    return catalog.select(recipe.modalities)


def _with_assets(catalog: Catalog, recipe: BuildRecipe) -> Catalog:
    """Return a catalog with the assets named by the recipe; an asset shared by several entries changes in all of them.

    Raises
    ------
    InputError
        When a modality is unknown, has no such asset, or has several and the recipe does not say which.
    """
    from mmearth_data.catalog.entries import Catalog

    named = {_asset_of(catalog, name): asset for name, asset in recipe.assets.items()}
    _check_assets_used(catalog, recipe, named)
    moved = {catalog.modalities[name].asset[key]: asset for (name, key), asset in named.items()}

    def changed(m: Modality) -> Modality:
        assets = {key: named.get((m.name, key), moved.get(old, old)) for key, old in m.asset.items()}
        return m if assets == m.asset else dataclasses.replace(m, asset=assets)

    return Catalog({name: changed(m) for name, m in catalog.modalities.items()})


def _check_assets_used(catalog: Catalog, recipe: BuildRecipe, named: Mapping[tuple[str, str], str]) -> None:
    """Refuse another asset for a modality that the build does not read.

    Raises
    ------
    InputError
        When neither the modality nor one that shares its asset is wanted, nor is it the one whose scene every tile takes.
    """
    used = {m.name: m for m in catalog.select(recipe.modalities)}
    used |= {name: m for name, m in catalog.modalities.items() if m.recipe.get("name") == BASE_SCENE}
    read = {asset for m in used.values() for asset in m.asset.values()}
    for name, key in named:
        if catalog.modalities[name].asset[key] not in read:
            raise InputError(
                f"assets (--asset): expected a modality that this build reads ({', '.join(sorted(used))}), got {name}; "
                "add it to --modalities, or leave its --asset out."
            )


def _asset_of(catalog: Catalog, text: str) -> tuple[str, str]:
    """Split ``MODALITY`` or ``MODALITY.KEY``, as given in the recipe field ``assets``, into modality and key."""
    name, dot, key = text.partition(".")
    m = catalog.find(name)
    if not m.asset:
        raise InputError(
            f"assets (--asset): expected a modality that is read from an asset, got {name}, which is derived."
        )
    if not dot and len(m.asset) == 1:
        return name, next(iter(m.asset))
    if key not in m.asset:
        forms = " or ".join(f"{name}.{k}=ID" for k in m.asset)
        raise InputError(f"assets (--asset): expected {forms}, got {text!r}.")
    return name, key


def _with_window(catalog: Catalog, recipe: BuildRecipe) -> Catalog:
    """Catalog in which the longest window of monthly statistics has as many months as the recipe says."""
    from mmearth_data.catalog.entries import Catalog

    def changed(m: Modality) -> Modality:
        windows = (m.recipe.get("parameters") or {}).get("windows")
        if not windows or recipe.era5_window == 12:
            return m
        longest = min(windows, key=lambda name: windows[name][0] - windows[name][1])
        first = windows[longest][1] - recipe.era5_window + 1
        parameters = {**m.recipe["parameters"], "windows": {**windows, longest: [first, windows[longest][1]]}}
        return dataclasses.replace(m, recipe={**m.recipe, "parameters": parameters})

    return Catalog({name: changed(m) for name, m in catalog.modalities.items()})


def _labelled(recipe: BuildRecipe) -> bool:
    """Whether places of this build know their biome and ecoregion."""
    return recipe.source_file is None or recipe.ecoregions is not None


def _deliverable(
    source: Source, wanted: tuple[Modality, ...], recipe: BuildRecipe, *, labelled: bool
) -> tuple[Modality, ...]:
    """Modalities that the store will have: what the source delivers, derived ones, and labels of places."""
    from mmearth_data.catalog.modality import Kind

    labels = {m.name for m in wanted if m.kind is Kind.TILE_CATEGORICAL} if labelled else set()
    pixels = {m.name for m in source.modalities([m for m in wanted if m.stored])}
    kept = tuple(m for m in wanted if m.name in pixels | labels or not m.stored)
    missing = [m.name for m in wanted if m not in kept]
    if recipe.modalities is not None and missing:
        raise InputError(
            f"--modalities: expected modalities that the source {recipe.source} delivers, got {', '.join(missing)}; "
            f"it has {', '.join(m.name for m in kept)}."
        )
    if not any(m.kind.is_raster for m in kept):
        raise InputError(f"Expected at least one raster modality, got {', '.join(m.name for m in kept) or 'none'}.")
    return kept


def _layout(recipe: BuildRecipe, modalities: tuple[Modality, ...], tiles: int) -> StoreLayout:
    return StoreLayout(
        modalities=modalities,
        tiles=tiles,
        size_px=recipe.tile_size,
        tiles_per_shard=recipe.tiles_per_shard or default_tiles_per_shard(tiles),
    )
