"""A Hugging Face Hub on loopback: the requests that its own library sends to read and to upload models.

Repositories are folders in memory: commit -> path -> bytes. Files of tensors are stored as the Hub stores large files
(Git LFS: their entity tag is their SHA-256 digest), and the others as Git does (SHA-1 of the blob). As a private or gated
repository, one answers as the Hub does, to requests without the right token. Every request is recorded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".pth")
MAIN = "main"
TOKEN = "hf_of_these_tests"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    """A model repository.

    Attributes
    ----------
    commits
        Commit -> path -> content.
    refs
        Branch or tag -> commit.
    closed
        ``private`` or ``gated``: what the Hub says to requests without a token.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    closed: str = ""

    def commit(self, files: dict[str, bytes], *names: str) -> str:
        """Add a commit, to which ``main`` and the named tags then refer."""
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[sha] = files
        self.refs |= dict.fromkeys((MAIN, *names), sha)
        return sha

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        sha = self.refs.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else None


@dataclass
class Hub:
    """The server: its repositories by ``OWNER/NAME``, and what it was asked.

    Attributes
    ----------
    cut_after
        Bytes after which a download of tensors breaks, once for each entry.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)

    def asked(self, method: str, ending: str) -> list[dict[str, str]]:
        """Headers of the requests of a method for paths with an ending."""
        return [headers for verb, path, headers in self.requests if verb == method and path.endswith(ending)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.serve(body=True)

    def do_HEAD(self) -> None:
        self.serve(body=False)

    def serve(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        self.record(unquote(path))
        parts = [unquote(part) for part in path.strip("/").split("/")]
        api = parts[:2] == ["api", "models"]
        owner, name, verb, revision, *rest = [*(parts[2:] if api else parts), "", "", "", ""]
        found = self.allowed(f"{owner}/{name}")
        if found is None:
            return
        content = found.files(revision or MAIN)
        if content is None:
            self.refuse(404, "RevisionNotFound")
        elif api:
            self.answer(200, json.dumps(self.described(f"{owner}/{name}", verb, *content)).encode(), body=body)
        else:
            self.file("/".join(rest).strip("/"), *content, body=body)

    def record(self, path: str) -> None:
        self.hub.requests.append((self.command, path, {key.lower(): value for key, value in self.headers.items()}))

    def allowed(self, repository: str) -> Repository | None:
        found = self.hub.repositories.get(repository)
        signed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if found is None or (found.closed == "private" and not signed):
            self.refuse(404 if signed else 401, "RepoNotFound")
        elif found.closed == "gated" and not signed:
            self.refuse(403, "GatedRepo")
        else:
            return found
        return None

    def described(self, repository: str, verb: str, sha: str, files: dict[str, bytes]) -> Any:
        if verb == "tree":
            return [self.entry(path, data) for path, data in sorted(files.items())]
        return {
            "_id": "1",
            "id": repository,
            "sha": sha,
            "private": False,
            "siblings": [{"rfilename": p} for p in files],
        }

    def entry(self, path: str, data: bytes) -> dict[str, Any]:
        large = {"lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 130}} if path.endswith(LARGE) else {}
        return {"type": "file", "path": path, "size": len(data), "oid": git_sha(data), **large}

    def file(self, path: str, sha: str, files: dict[str, bytes], *, body: bool) -> None:
        if path not in files:
            self.refuse(404, "EntryNotFound", **{"X-Repo-Commit": sha})
            return
        data = files[path]
        tag = sha256(data) if path.endswith(LARGE) else git_sha(data)
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        cut = self.hub.cut_after.pop() if body and self.hub.cut_after and path.endswith(LARGE) else None
        self.answer(206 if "Range" in self.headers else 200, data[first:], body=body, cut=cut, **headers)

    def refuse(self, status: int, code: str, **headers: str) -> None:
        self.answer(status, b'{"error": "refused"}', body=self.command != "HEAD", **{"X-Error-Code": code}, **headers)

    def answer(self, status: int, data: bytes, *, body: bool = True, cut: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            self.close_connection = True

    # ------------------------------------------------------------ uploads

    def content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.record(path)
        data = self.content()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "RepoNotFound")
        elif path == "/api/repos/create":
            asked = json.loads(data)
            repository = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.hub.repositories.setdefault(repository, Repository()).commit({})
            self.answer(200, json.dumps({"url": f"{self.hub.url}/{repository}", "id": repository}).encode())
        elif path == "/api/validate-yaml":
            self.answer(200, b'{"errors": [], "warnings": []}')
        elif "/preupload/" in path:
            files = json.loads(data)["files"]
            modes = [{"path": f["path"], "shouldIgnore": False, "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular"} for f in files]  # fmt: skip
            self.answer(200, json.dumps({"files": modes}).encode())
        elif path.endswith("/info/lfs/objects/batch"):
            self.answer(200, json.dumps(self.batch(json.loads(data))).encode())
        elif "/commit/" in path:
            self.commit(path, data)
        else:
            self.refuse(404, "RepoNotFound")

    def batch(self, asked: Any) -> dict[str, Any]:
        objects = [
            {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}", "header": {}}}}
            for o in asked["objects"]
        ]  # fmt: skip
        return {"transfer": "basic", "objects": objects}

    def do_PUT(self) -> None:
        self.record(self.path)
        self.hub.uploads[self.path.rpartition("/")[2]] = self.content()
        self.answer(200, b"")

    def commit(self, path: str, data: bytes) -> None:
        repository = "/".join(path.split("/")[3:5])
        files = dict((self.hub.repositories[repository].files(MAIN) or ("", {}))[1])
        for line in data.splitlines():
            part = json.loads(line)
            if part["key"] == "file":
                files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
            elif part["key"] == "lfsFile":
                files[part["value"]["path"]] = self.hub.uploads[part["value"]["oid"]]
        sha = self.hub.repositories[repository].commit(files)
        url = f"{self.hub.url}/{repository}/commit/{sha}"
        self.answer(200, json.dumps({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""}).encode())


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """Run a Hub without repositories until the context ends."""
    hub = Hub()
    handler = type("HandlerOfThisHub", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield hub
        server.shutdown()
