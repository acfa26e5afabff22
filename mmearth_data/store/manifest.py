"""The manifest: digests of all files that no commit record covers. It is written last and seals the store.

It lists the metadata, the 1-D arrays and the Parquet files with size and digest; the commit records among them list the
rasters. Every byte of a finished store is thus covered by the manifest's own digest, which also identifies the store.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from mmearth_data.errors import StoreDamaged
from mmearth_data.store.encoding import digest_of, digest_stream, to_json
from mmearth_data.store.schema import FORMAT, FORMAT_VERSION, MANIFEST_KEY
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_data.store.storage.protocol import Storage

Manifest: TypeAlias = "Mapping[str, Any]"
Entry: TypeAlias = dict[str, Any]
"""``{"size": bytes, "digest": hex}`` of one object."""


def entry_of(data: bytes | memoryview) -> Entry:
    """Size and digest of an object."""
    return {"size": len(data), "digest": digest_of(data)}


def encode_manifest(files: Mapping[str, Mapping[str, Any]], version: int = FORMAT_VERSION) -> bytes:
    """Bytes of a manifest; keys are sorted, so that they do not depend on the order of writing."""
    body = {"format": FORMAT, "format_version": version, "files": {key: files[key] for key in sorted(files)}}
    return to_json({**body, "digest": digest_of(to_json(body))})


def read_manifest(objects: Storage) -> Manifest | None:
    """Read the manifest; None if there is none, because the store is unfinished.

    Raises
    ------
    StoreDamaged
        If its content does not match its digest.
    """
    try:
        data = objects.get(MANIFEST_KEY)
    except FileNotFoundError:
        return None
    try:
        manifest: dict[str, Any] = json.loads(data)
        intact = encode_manifest(manifest["files"], manifest["format_version"]) == data
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreDamaged(objects.root, MANIFEST_KEY, f"it cannot be read ({reason_of(error)})") from error
    if not intact:
        raise StoreDamaged(objects.root, MANIFEST_KEY, "its digest does not match its content")
    return manifest


def check_object(objects: Storage, key: str, entry: Mapping[str, Any]) -> bytes:
    """Read an object that the manifest or a commit covers, and check it.

    Raises
    ------
    StoreDamaged
        If it is missing, or its size or content differs.
    """
    try:
        data = objects.get(key)
    except FileNotFoundError as error:
        raise StoreDamaged(objects.root, key, "the file is missing") from error
    _compare(objects, key, entry, len(data), digest_of(data))
    return data


def open_object(objects: Storage, key: str, entry: Mapping[str, Any]) -> BinaryIO:
    """Open a large object that the manifest covers, and check it; a local one is not read into memory as a whole.

    Raises
    ------
    StoreDamaged
        Like `check_object`.
    """
    try:
        stream = objects.open(key)
    except FileNotFoundError as error:
        raise StoreDamaged(objects.root, key, "the file is missing") from error
    try:
        digest = digest_stream(stream)
        _compare(objects, key, entry, stream.tell(), digest)
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


def _compare(objects: Storage, key: str, entry: Mapping[str, Any], size: int, digest: str) -> None:
    if size != entry["size"]:
        raise StoreDamaged(objects.root, key, f"expected {entry['size']} bytes, found {size}")
    if digest != entry["digest"]:
        raise StoreDamaged(objects.root, key, "its digest is not the recorded one")
