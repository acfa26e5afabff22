"""The root of a store: attributes and metadata of everything in it, in one ``zarr.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from mmearth_data.errors import CatalogError, InputError, StoreDamaged
from mmearth_data.modality import Modality
from mmearth_data.store.encoding import array_metadata, digest_all, group_metadata, to_json
from mmearth_data.store.schema import COMMITS, FORMAT, FORMAT_VERSION, ROOT_KEY, StoreLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_data.store.objects import Objects


@dataclass(frozen=True, slots=True)
class Root:
    """What the root metadata of a store says.

    Attributes
    ----------
    layout
        Rows, shards and arrays.
    attributes
        Root attributes: format, modalities, recipe, source, statistics ...
    arrays
        Zarr metadata of every array by name, as they were written when the store was begun; a newer version
        of this package may word them differently.
    """

    layout: StoreLayout
    attributes: Mapping[str, Any]
    arrays: Mapping[str, Mapping[str, Any]]

    def encode(self) -> bytes:
        """Bytes of the root ``zarr.json``, consolidated metadata included."""
        return to_json(group_metadata(self.attributes, self.arrays))

    def arrays_digest(self) -> str:
        """Digest of the metadata of all arrays; a commit says for which arrays its objects were made."""
        return digest_all(to_json(metadata) for metadata in self.arrays.values())


def new_root(layout: StoreLayout, *, recipe: Mapping[str, Any], source: Mapping[str, Any], synthetic: bool) -> Root:
    """Root of a store in which nothing is written yet.

    ``synthetic`` is said twice, in ``source`` and beside it: the root attributes are what xarray prints and
    copies into derived files.
    """
    try:
        code_version = version("mmearth")
    except PackageNotFoundError:
        code_version = "unknown"
    attributes = {
        "Conventions": "CF-1.11",
        "title": "MMEarth store" + (" (synthetic, not measured)" if synthetic else ""),
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "code_version": code_version,
        "synthetic": synthetic,
        "source": {**source, "synthetic": synthetic},
        "layout": layout.to_dict(),
        "modalities": [m.to_dict() for m in layout.modalities],
        "recipe": dict(recipe),
        "statistics": None,
        "class_histograms": None,
    }
    # What a resumed build reads back must be what this one works with: tuples become lists here and now.
    return Root(layout, json.loads(to_json(attributes)), {spec.name: array_metadata(spec) for spec in layout.arrays})


def read_root(objects: Objects) -> Root:
    """Read the root of a store.

    Raises
    ------
    InputError
        When there is no store, or one of another format.
    StoreDamaged
        When the metadata contradict themselves.
    """
    try:
        return parse_root(objects, objects.get(ROOT_KEY))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(objects.absence()) from error


def parse_root(objects: Objects, data: bytes) -> Root:
    """Make sense of the bytes of a root ``zarr.json``; raises like `read_root`."""
    try:
        metadata = json.loads(data)
        attributes = metadata["attributes"]
        ours = attributes["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        if objects.names(COMMITS):
            raise StoreDamaged(objects.root, ROOT_KEY, f"it cannot be read ({error})") from error
        raise InputError(_foreign(objects)) from error
    if not ours:
        raise InputError(_foreign(objects))
    if attributes["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{objects.root}: expected store format {FORMAT_VERSION}, got {attributes['format_version']}; "
            "install the version of mmearth that wrote it."
        )
    try:
        layout = StoreLayout(
            modalities=tuple(Modality.from_dict(entry) for entry in attributes["modalities"]), **attributes["layout"]
        )
        arrays = metadata["consolidated_metadata"]["metadata"]
        fits = all(tuple(arrays[spec.name]["shape"]) == spec.shape for spec in layout.arrays)
    except (CatalogError, InputError, KeyError, TypeError, ValueError) as error:
        raise StoreDamaged(objects.root, ROOT_KEY, f"its attributes contradict themselves ({error})") from error
    if not fits:
        raise StoreDamaged(objects.root, ROOT_KEY, "the shapes of its arrays are not those of its layout")
    return Root(layout, attributes, arrays)


def _foreign(objects: Objects) -> str:
    return f"{objects.root}: expected an MMEarth store, got a Zarr group of another kind; check the path."
