"""Buckets whose writes follow one another, as a process on loopback: ``python bucket_server.py PORT [KIND]``.

moto checks the condition of a PUT and writes in two steps, between which another PUT may come; the services do both in
one. So requests are answered one at a time. KIND ``s3``, or ``gs``: Google documents its XML interface as that of S3,
down to the listing; only the sign-in and the conditions differ (``x-goog-if-generation-match``), which are answered here
from the generations that the documentation describes. Some buckets behave by their name. ``lossy``: a part of the PUTs
with a condition is carried out and loses its answer. ``ignore``: conditions have no effect. ``refuse``: they are answered
501, as by servers that do not know them.
"""

from __future__ import annotations

import random
import socket
import sys
import threading
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

SIGNED = "AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
MATCH = "HTTP_X_GOOG_IF_GENERATION_MATCH"
NOT_IMPLEMENTED = b"<Error><Code>NotImplemented</Code><Message>A header is not implemented</Message></Error>"
CONDITIONS = ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH", MATCH)
LOST = 0.3
"""Share of the answers that ``lossy`` loses."""


class Buckets:
    """Answers one request at a time, by moto."""

    def __init__(self, kind: str) -> None:
        self.backend = DomainDispatcherApplication(create_backend_app)
        self.kind = kind
        self.turn = threading.Lock()
        self.random = random.Random(3)
        self.generations: dict[str, int] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self.turn:
            bucket = environ["PATH_INFO"].split("/")[1]
            conditional = environ["REQUEST_METHOD"] == "PUT" and any(name in environ for name in CONDITIONS)
            if conditional and bucket == "refuse":
                start_response("501 Not Implemented", [("Content-Length", str(len(NOT_IMPLEMENTED)))])
                return [NOT_IMPLEMENTED]
            if bucket == "ignore":
                for name in CONDITIONS:
                    environ.pop(name, None)
            answer = (
                self.google(environ, start_response) if self.kind == "gs" else self.forward(environ, start_response)
            )
            if conditional and bucket == "lossy" and self.random.random() < LOST:
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return answer

    def forward(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        return list(self.backend(environ, start_response))

    def google(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["HTTP_AUTHORIZATION"] = SIGNED
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        wanted = environ.pop(MATCH, None)
        if wanted is not None and int(wanted) != self.generations.get(path, 0):
            start_response("412 Precondition Failed", [("Content-Length", "0")])
            return []
        if method == "PUT":
            self.generations[path] = max(self.generations.values(), default=0) + 1
        elif method == "DELETE":
            self.generations.pop(path, None)

        def with_generation(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            found = [("x-goog-generation", str(self.generations[path]))] if path in self.generations else []
            return start_response(status, [*headers, *found], exc_info)

        return self.forward(environ, with_generation)


if __name__ == "__main__":
    port, kind = (*sys.argv[1:], "s3")[:2]
    run_simple("127.0.0.1", int(port), Buckets(kind), threaded=True)
