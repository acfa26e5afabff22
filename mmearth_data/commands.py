"""What both command lines share: every error is one line and the exit code of its family."""

from __future__ import annotations

import codecs
import errno
import io
import sys
import unicodedata
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

from mmearth_data.errors import EXIT_FAILURE, EXIT_INTERRUPTED, MMEarthError

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN = {ord(sign): likeness for signs, likeness in (("\xd7", "x"), ("\xb0", "o"), ("\u2013\u2014\xb7\u2500", "-"), ("\u25a0\u25aa", "#"), ("\u2026", "."), ("\u2502", "|"), ("\u2018\u2019", "'"), ("\u201c\u201d", '"')) for sign in signs}  # fmt: skip
"""Signs of our own output that no decomposition of Unicode brings to ASCII."""
BLOCKS = range(0x2580, 0x25A0)
"""Block elements, of which bars are made."""


class CommandGroup(click.Group):
    """Group of commands whose errors end in one line: 1 failed, 2 wrong input, 130 interrupted."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        super().__init__(*args, context_settings={**settings, **attributes.pop("context_settings", {})}, **attributes)

    def main(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as click declares it
        """Run the program; what its streams cannot show, errors included, is replaced."""
        with _printable_streams():
            return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever the command returns
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except MMEarthError as error:
            raise _refusal(str(error), error.exit_code) from None
        except ModuleNotFoundError as error:
            raise _refusal(_what_to_install(error), EXIT_FAILURE) from None
        except KeyboardInterrupt:
            raise _refusal("interrupted; run the same command to continue.", EXIT_INTERRUPTED) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of our output left: click ends quietly
                raise
            raise _refusal(str(error), EXIT_FAILURE) from None


@contextmanager
def _printable_streams() -> Iterator[None]:
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


def _refusal(message: str, exit_code: int) -> click.ClickException:
    """Error as click shows it: one line on stderr, then exit with this code."""
    refusal = click.ClickException(message)
    setattr(refusal, "exit_code", exit_code)  # noqa: B010 - click reads it off the instance, but types it on the class
    return refusal


def _what_to_install(error: ModuleNotFoundError) -> str:
    return f"expected the library {error.name}, which is not installed; pip install 'mmearth[model]' brings it."
