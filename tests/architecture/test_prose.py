"""The prose of the repository in the field's own words: docstrings, comments, messages, help and documentation.

`WORDS` are expressions that a native speaker of Earth observation or machine learning would not write, each with the
words to use instead. `ALLOWED` lists the expressions in which one of them is right.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
COUNTED = r"us|ms|seconds?|bytes|[MG]i?B|requests?|tiles?|rows?|points|pixels|tables?|entr(?:y|ies)|one|once|files?"
UNITS = r"tile|band|shard|batch|epoch|side|row|site|process|piece|task|class|call|modality|sample|worker"
WORDS = {
    r"go(?:es|ing|ne)? on(?: with)?": "resume, continue",
    r"(?:stands?|stood|lies?|lying)(?!-)": "is, is stored in",
    r"ground": "area",
    r"(?:a|the|this|that|same|each|every|another|own|one|whose) place|places": "location",
    r"(?:is|are|was|were|be|been) told|tells?": "is reported, reports",
    r"(?:be|is|are|was) had": "is available",
    rf"(?:{COUNTED}) a (?:{UNITS})": "per tile",
    r"(?:a|the|every|each|seeded|random|another) draw|draws|drawn (?:at|uniformly|for each|with|by)|chance": "random",
    r"whoever|nobody|somebody|everybody": "callers, users, no source",
    r"so-manieth|in words|as (?:it|they) stands?": "every n-th, as text, unchanged",
}
"""Expression (a regular expression for whole words, in any case) -> what to write instead."""
ALLOWED = (
    "bare ground",  # a class of IO LULC
    "ground control point",  # of an image without a geotransform
    "ground-range",  # geometry of Sentinel-1 GRD
    "places.parquet",  # a file in the documentation
    "places.png",
    "``places``",  # names of parameters and functions
    "`places`",
    "`tell`",
)
"""Expressions, in lower case, in which one of the words is right."""
PATTERNS = ("*.py", "*.md", "*.rst", "*.svg", "*.yaml", "*.sh", "Makefile")
TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile")
FOLDERS = ("mmearth_data", "mmearth_model", "catalog", "docs", "pipelines", "tests")


class Finding(NamedTuple):
    """An expression of `WORDS`: its file relative to the repository, line, the text around it, and the remedy."""

    file: str
    line: int
    around: str
    remedy: str


NAMES = re.compile(r"^( *)\w+(?:, \w+)*\n(?=\1 +\S)", re.MULTILINE)
"""Names of parameters in a docstring, each on a line of its own above its description."""
ANY = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)


def wrong_words(text: str) -> Iterator[tuple[str, str]]:
    """(text around, remedy) of every expression of `WORDS` in a text."""
    line = " ".join(text.split())
    if not ANY.search(line):
        return
    for words, remedy in WORDS.items():
        for found in re.finditer(rf"\b(?:{words})\b", line, re.IGNORECASE):
            around = line[max(found.start() - 30, 0) : found.end() + 30]
            if not any(allowed in around.lower() for allowed in ALLOWED):
                yield around, remedy


def texts_of(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of docstrings, of other strings with a space, and of comments (adjoining ones as one text)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, NAMES.sub("", node.value)
    last, comment = -1, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            joined = f"{comment} {token.string.lstrip('# ')}" if token.start[0] == last + 1 else token.string
            if comment and token.start[0] != last + 1:
                yield last, comment
            last, comment = token.start[0], joined
    yield last, comment


def files() -> Iterator[Path]:
    """Every file with prose, this one apart."""
    yield from (ROOT / name for name in TOP if (ROOT / name).exists())
    for folder in FOLDERS:
        for pattern in PATTERNS:
            yield from (file for file in sorted((ROOT / folder).rglob(pattern)) if file != Path(__file__))


def findings(file: Path) -> Iterator[Finding]:
    """Findings in a file, as they are asked for."""
    text = file.read_text(encoding="utf-8")
    if not ANY.search(re.sub(r'[#\s]+|"\s*[rf]*"', " ", text)):
        return  # parsing takes far longer than this search
    texts = texts_of(text) if file.suffix == ".py" else enumerate(re.split(r"\n\s*\n", text), 1)
    for line, piece in texts:
        for wrong in wrong_words(piece):
            yield Finding(file.relative_to(ROOT).as_posix(), line, *wrong)


def test_the_prose_uses_the_words_of_the_field() -> None:
    wrong = [found for file in files() for found in findings(file)]
    lines = [f"{file}:{line}: {around!r}; write: {remedy}" for file, line, around, remedy in wrong]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "a build that is gone on with",
        "the record stands in the folder",
        "two tiles on the same ground",
        "the same place twice",
        "it tells how many",
        "functions that cannot be had",
        "195 us a tile",
        "one draw for each tile, drawn at random",
        "whoever reads",
        "every so-manieth batch,\n    as text and in words",
    ],
)
def test_each_expression_is_found(text: str) -> None:
    assert list(wrong_words(text))


@pytest.mark.parametrize(
    "text",
    [
        "stand-in",
        "100 requests a second",
        "draw a map",
        "Place the points",
        "understands",
        "ground control points only",
    ],
)
def test_other_expressions_are_not(text: str) -> None:
    assert not list(wrong_words(text))


def test_docstrings_messages_and_comments_are_read() -> None:
    source = '"""A doc string."""\nx = 1  # one\n# two\n# three\nraise ValueError(f"a message {x} of two")\n'
    assert [text for _, text in texts_of(source)] == ["A doc string.", "a message ", " of two", "# one two three"]
