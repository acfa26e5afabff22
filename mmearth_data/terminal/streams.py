"""Output streams with limited encodings: characters that they cannot encode are replaced."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN = {ord(sign): likeness for signs, likeness in (("\xd7", "x"), ("\xb0", "o"), ("\u2013\u2014\xb7\u2500", "-"), ("\u25a0\u25aa", "#"), ("\u2026", "."), ("\u2502", "|"), ("\u2018\u2019", "'"), ("\u201c\u201d", '"')) for sign in signs}  # fmt: skip
"""Characters of our own output that Unicode decomposition does not map to ASCII."""
BLOCKS = range(0x2580, 0x25A0)
"""Block elements used for bars."""


@contextmanager
def printable_streams() -> Iterator[None]:
    """Replace characters that the encodings of stdout and stderr lack."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _printable(sys.stdout), _printable(sys.stderr)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _AsciiStream):
                stream.flush()
                stream.detach()
        sys.stdout, sys.stderr = before


def _printable(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    if codecs.lookup(stream.encoding).name == "ascii":
        stream.flush()
        return _AsciiStream(stream.buffer, line_buffering=stream.line_buffering, write_through=stream.write_through)
    if stream.errors == "strict":
        stream.reconfigure(errors="replace")
    return stream


class _AsciiStream(io.TextIOWrapper):
    """Stream that writes ASCII but declares Latin-1: click treats ASCII as a misconfiguration and writes UTF-8."""

    def __init__(self, buffer: Any, **options: Any) -> None:  # noqa: ANN401 - as the standard library declares it
        super().__init__(buffer, encoding="latin-1", **options)

    def write(self, text: str) -> int:
        """Write text in ASCII with replacements; returns the number of characters passed."""
        super().write(plain(text))
        return len(text)


def plain(text: str) -> str:
    r"""Text in ASCII: letters without accents, ``#`` for bars, and ``?`` for characters without a counterpart.

    Examples
    --------
    >>> plain("Forêt, 64 \xd7 64 px, 3 \u2013 4 ██, 木")
    'Foret, 64 x 64 px, 3 - 4 ##, ?'
    """
    if text.isascii():
        return text
    parts = unicodedata.normalize("NFKD", text.translate(PLAIN))
    bare = "".join("#" if ord(one) in BLOCKS else one for one in parts if not unicodedata.combining(one))
    return bare.encode("ascii", "replace").decode("ascii")
