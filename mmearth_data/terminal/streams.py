"""Output streams whose encoding lacks characters: what they cannot show is replaced."""

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
"""Signs of our own output that no decomposition of Unicode brings to ASCII."""
BLOCKS = range(0x2580, 0x25A0)
"""Block elements, of which bars are made."""


@contextmanager
def printable_streams() -> Iterator[None]:
    """Give stdout and stderr a way out for characters that their encoding lacks."""
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
    """Writes ASCII and calls it Latin-1: click takes a stream in ASCII for a mistake and writes UTF-8 to it."""

    def __init__(self, buffer: Any, **options: Any) -> None:  # noqa: ANN401 - as the standard library declares it
        super().__init__(buffer, encoding="latin-1", **options)

    def write(self, text: str) -> int:
        """Write text as far as ASCII can show it; returns the number of characters given."""
        super().write(plain(text))
        return len(text)


def plain(text: str) -> str:
    r"""Text in ASCII: letters without accents, bars of ``#``, and ``?`` for what has no likeness.

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
