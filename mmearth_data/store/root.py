"""The root of a store: attributes and metadata of everything in it, in one ``zarr.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from mmearth_data.catalog.modality import Modality
from mmearth_data.errors import CatalogError, InputError, StoreDamaged
from mmearth_data.store.conventions import EXTENT, appended_history, declared, described, root_attributes
from mmearth_data.store.encoding import array_metadata, digest_all, group_metadata, to_json
from mmearth_data.store.schema import COMMITS, FORMAT, FORMAT_VERSION, READABLE_VERSIONS, ROOT_KEY, StoreLayout
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmearth_data.store.storage.protocol import Storage


APPENDED = "appended"
"""Root attribute of a store with appended rows: the number of rows of each append, in order."""
LAYOUT = ("tiles", "size_px", "tiles_per_shard")
"""Root attributes that make up the layout; version 1 had them in one attribute of that name."""
STRUCTURED = ("source", "modalities", "recipe", "statistics", "class_histograms", APPENDED)
"""Root attributes that are JSON text: netCDF, and tools that copy attributes, support only text and numbers."""


def flat_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Root attributes as text and numbers, as stored in format 2 and as shown by xarray.

    Examples
    --------
    >>> flat_attributes({"title": "t", "synthetic": True, "statistics": None, "layout": {"tiles": 4, "size_px": 64}})
    {'title': 't', 'synthetic': 1, 'statistics': 'null', 'tiles': 4, 'size_px': 64}
    """
    flat: dict[str, Any] = {}
    for name, value in attributes.items():
        if name == "layout":
            flat |= value
        elif name in STRUCTURED:
            flat[name] = to_json(value).decode()
        else:
            flat[name] = int(value) if isinstance(value, bool) else value
    return flat


def _nested_attributes(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flat_attributes`; any exception means that the attributes do not have format 2."""
    nested: dict[str, Any] = {}
    for name, value in stored.items():
        if name in LAYOUT:
            nested.setdefault("layout", {})[name] = value
        elif name in STRUCTURED:
            nested[name] = json.loads(value)
        else:
            nested[name] = bool(value) if name == "synthetic" else value
    return nested


@dataclass(frozen=True)
class Root:
    """Root metadata of a store."""

    layout: StoreLayout
    attributes: Mapping[str, Any]
    """Root attributes: format, modalities, recipe, source, statistics ..., as nested values in every version of the
    format.
    """
    arrays: Mapping[str, Mapping[str, Any]]
    """Zarr metadata of every array by name, as written when the store was created; a newer version of this package may
    write them differently.
    """

    def encode(self) -> bytes:
        """Bytes of the root ``zarr.json``, including consolidated metadata."""
        nested = self.version == 1
        return to_json(group_metadata(self.attributes if nested else flat_attributes(self.attributes), self.arrays))

    @property
    def version(self) -> int:
        """Format version with which the store was created; it does not change."""
        return int(self.attributes["format_version"])

    @property
    def described(self) -> bool:
        """Whether the store has the attributes of `mmearth_data.store.conventions`; like the version, this never changes."""
        return described(self.attributes)

    def own_metadata(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the name and metadata of each array as in its own ``zarr.json``, which also declares Zarr conventions."""
        for name, metadata in self.arrays.items():
            yield name, declared(metadata, synthetic=self.attributes["synthetic"]) if self.described else metadata

    @cached_property
    def arrays_digest(self) -> str:
        """Digest of the metadata of all arrays; a commit records for which arrays its objects were made."""
        return digest_all(to_json(metadata) for metadata in self.arrays.values())

    @cached_property
    def stages(self) -> tuple[int, ...]:
        """Number of rows after the build and after each append; the last is the (final) number of rows of the store."""
        appended = self.attributes.get(APPENDED, ())
        return tuple(accumulate((self.layout.tiles - sum(appended), *appended)))

    def as_of(self, stage: int) -> Root:
        """Root as it was after a stage; its arrays differ only in length."""
        tiles = self.stages[stage]
        if tiles == self.layout.tiles:
            return self
        layout = replace(self.layout, tiles=tiles)
        attributes = {**self.attributes, "layout": layout.to_dict(), APPENDED: self._appended[:stage]}
        return Root(layout, attributes, _with_rows(self.arrays, tiles))

    def grown(self, more: int) -> Root:
        """Root of the same store with more rows that are not written yet."""
        layout = replace(self.layout, tiles=self.layout.tiles + more)
        attributes = {
            **self.attributes,
            "layout": layout.to_dict(),
            APPENDED: [*self._appended, more],
            "statistics": None,
            "class_histograms": None,
        }
        if self.described:
            attributes["history"] = appended_history(attributes["history"], more, _code_version())
        kept = {name: value for name, value in attributes.items() if name not in EXTENT}
        return Root(layout, kept, _with_rows(self.arrays, layout.tiles))

    def held(self, shard: int, arrays: str) -> int | None:
        """Rows of a shard that its commit covers, from the digest of arrays in the commit.

        Fewer than all if rows were appended to it since; None if the commit is not of this store.
        """
        tiles = self._tiles_by_digest.get(arrays)
        rows = self.layout.rows(shard)
        return None if tiles is None or tiles <= rows.start else min(tiles, rows.stop) - rows.start

    @property
    def _appended(self) -> list[int]:
        return list(self.attributes.get(APPENDED, ()))

    @cached_property
    def _tiles_by_digest(self) -> dict[str, int]:
        return {self.as_of(stage).arrays_digest: tiles for stage, tiles in enumerate(self.stages)}


def _with_rows(arrays: Mapping[str, Mapping[str, Any]], tiles: int) -> dict[str, Mapping[str, Any]]:
    """Metadata of arrays with another length along ``tile``."""
    return {
        name: {**metadata, "shape": [tiles, *metadata["shape"][1:]]}
        if metadata["dimension_names"][0] == "tile"
        else metadata
        for name, metadata in arrays.items()
    }


def new_root(layout: StoreLayout, *, recipe: Mapping[str, Any], source: Mapping[str, Any], synthetic: bool) -> Root:
    """Root of a new, empty store.

    ``synthetic`` is recorded twice, in ``source`` and as a root attribute, because xarray prints root attributes and
    copies them to derived files.
    """
    attributes = {
        **root_attributes(layout, source=source, synthetic=synthetic, version=_code_version()),
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "code_version": _code_version(),
        "synthetic": synthetic,
        "source": {**source, "synthetic": synthetic},
        "layout": layout.to_dict(),
        "modalities": [m.to_dict() for m in layout.modalities],
        "recipe": dict(recipe),
        "statistics": None,
        "class_histograms": None,
    }
    # A resumed build must read the same values as this one uses, so tuples are converted to lists here.
    return Root(layout, json.loads(to_json(attributes)), {spec.name: array_metadata(spec) for spec in layout.arrays})


def _code_version() -> str:
    try:
        return version_of("mmearth")
    except PackageNotFoundError:
        return "unknown"


def collection_id(attributes: Mapping[str, Any]) -> str:
    """Return the identifier of a store as a data set, for catalogs; it depends on source and recipe, not on the path.

    Parameters
    ----------
    attributes
        Root attributes as nested values (`Root.attributes`).

    Returns
    -------
    str
        Lower-case letters, digits and hyphens: ``mmearth-``, and 16 hex digits of the digest of source and recipe.
    """
    identity = to_json({name: attributes[name] for name in ("source", "recipe")})
    return f"mmearth-{digest_all([identity])[:16]}"


def read_root(objects: Storage) -> Root:
    """Read the root of a store.

    Raises InputError if there is no store, or one of another format; StoreDamaged if the metadata are inconsistent.
    """
    try:
        return parse_root(objects, objects.get(ROOT_KEY))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(objects.absence()) from error


def parse_root(objects: Storage, data: bytes) -> Root:
    """Parse the bytes of a root ``zarr.json``; raises like `read_root`."""
    try:
        metadata = json.loads(data)
        attributes = metadata["attributes"]
        ours = attributes["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        if objects.names(COMMITS):
            raise StoreDamaged(objects.root, ROOT_KEY, f"it cannot be read ({reason_of(error)})") from error
        raise InputError(_foreign(objects)) from error
    if not ours:
        raise InputError(_foreign(objects))
    version = attributes.get("format_version")
    if version not in READABLE_VERSIONS:
        known = " or ".join(map(str, READABLE_VERSIONS))
        raise InputError(
            f"{objects.root}: expected store format {known}, got {version}; install the version of mmearth that wrote it."
        )
    try:
        attributes = attributes if version == 1 else _nested_attributes(attributes)
        layout = StoreLayout(
            modalities=tuple(Modality.from_dict(entry) for entry in attributes["modalities"]), **attributes["layout"]
        )
        arrays = metadata["consolidated_metadata"]["metadata"]
        _check_appended(attributes.get(APPENDED, []), layout)
        fits = all(tuple(arrays[spec.name]["shape"]) == spec.shape for spec in layout.arrays)
    except (CatalogError, InputError, KeyError, TypeError, ValueError) as error:
        raise StoreDamaged(objects.root, ROOT_KEY, f"its attributes contradict themselves ({error})") from error
    if not fits:
        raise StoreDamaged(objects.root, ROOT_KEY, "the shapes of its arrays are not those of its layout")
    return Root(layout, attributes, arrays)


def _check_appended(appended: list[int], layout: StoreLayout) -> None:
    if any(type(count) is not int or count < 1 for count in appended) or sum(appended) >= layout.tiles:
        raise ValueError(f"rows appended: {appended}, rows in all: {layout.tiles}")


def _foreign(objects: Storage) -> str:
    return f"{objects.root}: expected an MMEarth store, got a Zarr group of another kind; check the path."
