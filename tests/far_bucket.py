"""An S3 server on loopback that is far away: every answer comes later by a given time, and it serves a local folder.

It speaks what a reader needs of S3 (GET with a range, HEAD, ListObjectsV2), takes little processor time for it, and
counts: how many requests, and how many of them at a time. As a program: ``far_bucket.py FOLDER DELAY_S`` writes its port.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "far"
LOG_PATH = "/-/log"


@dataclass
class Bucket:
    """Answers requests; the files of a folder are the objects of the bucket."""

    folder: Path
    delay_s: float
    open_files: dict[str, int] = field(default_factory=dict)
    log: dict[str, int] = field(default_factory=lambda: {"requests": 0, "at_a_time": 0, "most_at_a_time": 0})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, target, _ = head.split(" ", 2)
                if target == LOG_PATH:
                    status, headers, body = "200 OK", {}, json.dumps(self.log).encode()
                else:
                    status, headers, body = await self.late(method, target, head)
                lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
                if "Content-Length" not in headers:
                    lines.append(f"Content-Length: {len(body)}")
                writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def late(self, method: str, target: str, head: str) -> tuple[str, dict[str, str], bytes]:
        self.log["requests"] += 1
        self.log["at_a_time"] += 1
        self.log["most_at_a_time"] = max(self.log["most_at_a_time"], self.log["at_a_time"])
        await asyncio.sleep(self.delay_s)
        self.log["at_a_time"] -= 1
        url = urlsplit(target)
        key = unquote(url.path).removeprefix(f"/{BUCKET}").lstrip("/")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if "list-type" in query:
            return "200 OK", {"Content-Type": "application/xml"}, self.listing(query)
        return self.content(method, key, re.search(r"(?im)^range: bytes=(\d+)-(\d*)", head))

    def content(self, method: str, key: str, wanted: re.Match[str] | None) -> tuple[str, dict[str, str], bytes]:
        path = self.folder / key
        if not path.is_file():
            return "404 Not Found", {}, b"" if method == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>"
        about = path.stat()
        headers = {
            "ETag": f'"{about.st_mtime_ns:x}"',
            "Last-Modified": email.utils.formatdate(about.st_mtime, usegmt=True),
        }
        if method == "HEAD":
            return "200 OK", {**headers, "Content-Length": str(about.st_size)}, b""
        first = int(wanted[1]) if wanted else 0
        last = min(int(wanted[2]), about.st_size - 1) if wanted and wanted[2] else about.st_size - 1
        if key not in self.open_files:
            self.open_files[key] = os.open(path, os.O_RDONLY)
        body = os.pread(self.open_files[key], last - first + 1, first)
        if wanted is None:
            return "200 OK", headers, body
        return "206 Partial Content", {**headers, "Content-Range": f"bytes {first}-{last}/{about.st_size}"}, body

    def listing(self, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        keys = sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())
        keys = [key for key in keys if key.startswith(prefix)]
        folders = {prefix + key[len(prefix) :].split("/")[0] + "/" for key in keys if "/" in key[len(prefix) :]}
        if delimiter:
            keys = [key for key in keys if "/" not in key[len(prefix) :]]
        entries = "".join(
            f"<Contents><Key>{key}</Key><Size>{(self.folder / key).stat().st_size}</Size>"
            "<LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in keys
        )
        common = "".join(
            f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in sorted(folders) if delimiter
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}{common}</ListBucketResult>".encode()


async def main(folder: str, delay_s: str) -> None:
    server = await asyncio.start_server(Bucket(Path(folder), float(delay_s)).serve, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@dataclass(frozen=True)
class FarBucket:
    """A running server."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which a reader finds it."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def url(self, path: str) -> str:
        """URL of a path in the folder."""
        return f"s3://{BUCKET}/{path}"

    def log(self) -> dict[str, int]:
        """What it counted until now."""
        with urllib.request.urlopen(f"{self.endpoint}{LOG_PATH}") as answer:
            found: dict[str, int] = json.load(answer)
            return found


@contextmanager
def far_bucket(folder: Path, *, delay_s: float) -> Iterator[FarBucket]:
    """Serve a folder from a process of its own while the context lasts."""
    command = [sys.executable, __file__, str(folder), str(delay_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield FarBucket(f"http://127.0.0.1:{int(running.stdout.readline())}")
        finally:
            running.kill()
            running.wait(10)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
