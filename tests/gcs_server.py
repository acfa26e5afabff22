"""A bucket that speaks Google's XML interface, as a process on loopback: ``python gcs_server.py PORT``.

Google documents that interface as the one of S3, down to the listing (``list-type=2``); so moto's S3 server answers it.
Only the sign-in differs, which the server does not check: Google's token is replaced by the form that moto can read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

SIGNED = "AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
BACKEND = DomainDispatcherApplication(create_backend_app)


def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    environ["HTTP_AUTHORIZATION"] = SIGNED
    answered: Iterable[bytes] = BACKEND(environ, start_response)
    return answered


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), answer, threaded=True)
