"""What the readers of formulas and of filters written as text have in common: tokens, read from left to right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmearth_data.emulator.errors import EmulatorError

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

    Token = tuple[str, str]


class TextReader:
    """Tokens of a text, and the position up to which they are read; messages name the algorithm, and what the text is.

    Raises `EmulatorError` for a character that begins no token.
    """

    def __init__(self, text: str, pattern: re.Pattern[str], algorithm: str, what: str) -> None:
        self.text = text
        self._algorithm, self._what = algorithm, what
        self._tokens = [*map(self.token_of, self._split(pattern)), ("end", "")]
        self._at = 0

    def token_of(self, token: Token) -> Token:
        """Token that replaces the one in the text."""
        return token

    def error(self, problem: str) -> EmulatorError:
        """Error that names the algorithm."""
        return EmulatorError(f"{self._algorithm}: {problem}")

    def _split(self, pattern: re.Pattern[str]) -> Iterator[Token]:
        at, end = 0, len(self.text.rstrip())
        while at < end:
            found = pattern.match(self.text, at)
            if found is None:
                raise self.error(f"Unexpected character '{self.text[at:].strip()[:1]}' in '{self.text}'.")
            at = found.end()
            yield str(found.lastgroup), found.group(str(found.lastgroup))

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self, *kinds: str) -> Token:
        """Read a token, of one of some kinds if any are given."""
        token = self._tokens[self._at]
        if kinds and token[0] not in kinds:
            raise self._wrong()
        self._at += 1
        return token

    def _taken(self, sign: str) -> bool:
        taken = self._peek() == ("sign", sign)
        self._at += taken
        return taken

    def _need(self, sign: str) -> None:
        if not self._taken(sign):
            raise self._wrong()

    def _wrong(self) -> EmulatorError:
        found = self._peek()[1] or "the end"
        return self.error(f"Unexpected '{found}' in {self._what} '{self.text}'.")


def number_of(token: str) -> float | int:
    """Value of a number's text: an integer if it is written as one."""
    return float(token) if any(c in token for c in ".eE") else int(token)
