"""A store in a bucket, through obstore.

A put is atomic and immediately visible to all readers, so no staging is needed. Credentials and endpoints are taken from
the environment variables of the providers' own tools.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, S3Store

from mmearth_data.errors import InputError, RetryLater
from mmearth_data.store.schema import LEDGER
from mmearth_data.store.storage.lock import hold_record, no_conditional_writes
from mmearth_data.store.storage.protocol import ObjectChanged, StoreUrl
from mmearth_data.words import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from obstore import ObjectMeta, PutResult, UpdateVersion
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

    from mmearth_data.store.storage.lock import Held

CONNECTION: ClientConfig = {"connect_timeout": "20s", "timeout": "300s", "allow_http": True}
"""Plain http is allowed for servers that the user names with an endpoint variable."""
RETRIES: RetryConfig = {"max_retries": 6, "retry_timeout": timedelta(seconds=120)}
"""Retries of one request: enough for a busy server, not so many that a build seems to hang."""
REFUSED_CONDITIONS = ("status code: 501", "NotImplemented")
"""Answers of a server without conditional writes."""
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
"""Answers of S3 and Google, and of Azure, for a missing bucket."""
REFUSALS = ("status code: 401", "status code: 403")
"""Texts of a refused listing, which obstore does not distinguish from other failures."""
STORES: dict[str, type[S3Store | GCSStore | AzureStore]] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]*")
"""Superset of the names of buckets and Azure containers; other characters would change the request's URL."""
UNSENT = re.compile(r"(^|/)\.{0,2}(/|$)|[\x00-\x1f\x7f]")
"""What obstore cannot send as part of a key: empty parts, dots alone, and control characters."""


class RemoteStorage:
    """Objects below a URL; see `mmearth_data.store.storage.protocol.Storage`.

    Parameters
    ----------
    url
        ``s3://bucket/path``, ``gs://...`` or ``az://...``. The path is the literal prefix of the keys, as for
        ``aws s3 cp``: ``#``, ``?`` and ``%`` have no special meaning.

    Raises
    ------
    InputError
        If the name of the bucket, or the path, cannot be sent unchanged.
    """

    far = True

    def __init__(self, url: str) -> None:
        self.root = StoreUrl(url.removesuffix("/"))
        self._kind, _, place = self.root.partition("://")
        self._name, _, self._prefix = place.partition("/")
        if not BUCKET.fullmatch(self._name) or (self._prefix and UNSENT.search(self._prefix)):
            raise InputError(
                f"{shown(url)}: expected s3://BUCKET/PATH (or gs://, az://) with the name of a bucket and a path without "
                "empty parts, '.', '..' or control characters; correct it."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self.root),)

    @cached_property
    def bucket(self) -> ObjectStore:
        """The objects under the URL, as obstore sees them."""
        try:
            kind = STORES[self._kind]
            return kind(self._name, prefix=self._prefix or None, client_options=CONNECTION, retry_config=RETRIES)
        except (BaseError, ValueError) as error:
            raise InputError(
                f"{self.root}: expected the URL of a bucket that can be reached, got: {_line(error)}"
            ) from error

    def hold(self, beat_s: float | None = None) -> AbstractContextManager[Held]:
        """Hold the store for one command, by a record that is renewed every ``beat_s`` seconds."""
        return hold_record(self, beat_s)

    def make(self) -> None:
        """Do nothing: buckets have no folders."""

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Publish one object; an existing one is replaced."""
        with self._explained():
            obstore.put(self.bucket, key, bytes(data))

    def put_if(self, key: str, data: bytes, version: UpdateVersion | None) -> UpdateVersion:
        """Write an object only if the existing one has the given version, or does not exist (None); return its version.

        Raises
        ------
        ObjectChanged
            If another object exists, or none. It may be the same one: if the answer to a request is lost, the library
            sends it again, and then finds what it wrote itself.
        InputError
            If the object store has no conditional writes.
        """
        with self._explained():
            try:
                return _version(obstore.put(self.bucket, key, data, mode="create" if version is None else version))
            except (AlreadyExistsError, PreconditionError, FileNotFoundError, NotFoundError) as error:
                if any(code in str(error) for code in NO_BUCKET):
                    raise
                raise ObjectChanged(key) from error

    def get_version(self, key: str) -> tuple[bytes, UpdateVersion]:
        """Bytes of an object, and its version for `put_if`; FileNotFoundError if it does not exist."""
        with self._explained(key):
            found = obstore.get(self.bucket, key)
            return bytes(found.bytes()), _version(found.meta)

    @contextmanager
    def together(self) -> Iterator[Callable[[str, bytes | memoryview], None]]:
        """Yield the function that puts objects; each put is durable by itself."""
        yield self.put

    @contextmanager
    def staged(self, key: str) -> Iterator[Path]:
        """Path of a local file that is uploaded if the block succeeds."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "object"
            yield path
            with self._explained():
                obstore.put(self.bucket, key, path)

    def get(self, key: str) -> bytes:
        """Bytes of an object; FileNotFoundError if it does not exist."""
        with self._explained(key):
            return bytes(obstore.get(self.bucket, key).bytes())

    def open(self, key: str) -> io.BufferedReader:
        """Open an object, which is read into memory as a whole; raises like `get`."""
        return io.BufferedReader(io.BytesIO(self.get(key)))

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of an object, each given as (offset, length), near ones fetched together; raises like `get`."""
        if not ranges:
            return []
        starts, lengths = zip(*ranges, strict=True)
        with self._explained(key):
            return [bytes(part) for part in obstore.get_ranges(self.bucket, key, starts=starts, lengths=lengths)]

    def size(self, key: str) -> int | None:
        """Size of an object in bytes, None if it does not exist."""
        try:
            with self._explained(key):
                return int(obstore.head(self.bucket, key)["size"])
        except FileNotFoundError:
            return None

    def tag(self, key: str) -> str:
        """Return the ETag of an object; FileNotFoundError if it does not exist."""
        with self._explained(key):
            return str(obstore.head(self.bucket, key)["e_tag"])

    def delete(self, key: str) -> None:
        """Remove an object if it exists."""
        with self._explained():
            obstore.delete(self.bucket, key)

    def names(self, folder: str) -> list[str]:
        """Sorted names directly in a folder; empty if it does not exist."""
        with self._explained():
            found = obstore.list_with_delimiter(self.bucket, folder)
        paths = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        return sorted(path.rpartition("/")[2] for path in paths)

    def keys(self) -> Iterator[str]:
        """Every key, sorted."""
        with self._explained():
            yield from sorted(entry["path"] for page in obstore.list(self.bucket) for entry in page)

    def discard_staged(self) -> None:
        """Do nothing: there are no partial objects."""

    def is_there(self) -> bool:
        """Whether there is any object below the URL."""
        with self._explained():
            return any(page for page in obstore.list(self.bucket, chunk_size=1))

    def absence(self) -> str:
        """Message that says what is at the URL instead of a store."""
        if not self.is_there():
            return f"{self.root}: expected an MMEarth store, found nothing there; check the URL, or build one."
        return f"{self.root}: expected an MMEarth store, got objects without zarr.json; check the URL."

    def remove(self) -> None:
        """Remove everything below the URL, the lock last, so that no other build starts before."""
        for key in sorted(self.keys(), key=lambda key: key.startswith(f"{LEDGER}/")):
            self.delete(key)

    def unmake(self) -> None:
        """Do nothing: buckets have no folders."""

    @contextmanager
    def _explained(self, key: str | None = None) -> Iterator[None]:
        """Convert the provider's errors to errors with a remedy; refuse forks, whose requests would wait forever."""
        if _process() != os.getpid():
            raise InputError(
                f"{self.root}: expected a process that has its own connections to the bucket, got a fork of one that uses it, "
                "where requests would wait forever; start workers with multiprocessing_context='spawn'."
            )
        try:
            yield
        except (FileNotFoundError, NotFoundError, PermissionError, BaseError) as error:
            raise self._sorted(error, key) from error

    def _sorted(self, error: Exception, key: str | None) -> Exception:
        if isinstance(error, NotSupportedError) or any(text in str(error) for text in REFUSED_CONDITIONS):
            return InputError(no_conditional_writes(self.root))
        missing = isinstance(error, FileNotFoundError | NotFoundError)
        if any(code in str(error) for code in NO_BUCKET) or (missing and key is None):
            return InputError(
                f"{self.root}: expected a bucket that exists, got none of that name; create it, or check the URL."
            )
        if missing:
            return FileNotFoundError(f"{self.root}/{key}")
        refused = any(status in str(error) for status in REFUSALS)
        if refused or isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
            return InputError(
                f"{self.root}: expected credentials that may read and write there, got a refusal; set the provider's "
                f"variables (AWS_ACCESS_KEY_ID and so on) or choose another URL ({_line(error)})."
            )
        return RetryLater(
            f"{self.root}: the object store does not answer as it should ({_line(error)}). What is committed "
            "stays: run the same command again to continue."
        )


@cache
def _process() -> int:
    """Process that uses obstore first: it has the threads that answer requests, and a fork of it does not."""
    return os.getpid()


def _version(of: PutResult | ObjectMeta) -> UpdateVersion:
    """Keep what identifies an object: its ETag and, if the provider has one, its generation."""
    found: UpdateVersion = {}
    if of["e_tag"] is not None:
        found["e_tag"] = of["e_tag"]
    if of["version"] is not None:
        found["version"] = of["version"]
    return found


def _line(error: BaseException) -> str:
    """First part of a provider's error, which can be very long."""
    return " ".join(str(error).split())[:200]
