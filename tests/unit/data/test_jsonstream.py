"""Walking through a JSON object piece by piece finds what a parser of the whole finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmearth_data.errors import FileInputError
from mmearth_data.interchange.jsonstream import ObjectWalker

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json") / "entries.json"


@settings(max_examples=60)
@given(
    content=st.dictionaries(st.text(max_size=8), values, max_size=5),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_entries_are_those_of_the_whole(
    path: Path, content: dict[str, Any], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    data = text.encode("utf-8", errors="surrogatepass")
    path.write_bytes(data + b" \n")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return
    found = list(ObjectWalker(path, chunk).entries())
    assert {key: value for key, value, *_ in found} == content
    for _, value, offset, length in found:
        assert json.loads(data[offset : offset + length]) == value, "each value is at the reported offset"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' at byte 0"),
        ("[1]", r"'\[' at byte 0"),
        ('{"a": 1', "instead of"),
        ('{"a": 1,}', "byte 8"),
        ('{"a" 1}', "instead of ':'"),
        ('{"a": {"b": 1}', "instead of"),
        ('{"a": "x}', "Unterminated string"),
        ('{"a": 1} {', "more text after its end"),
        ("{1: 2}", "the key 1"),
        ('{"a": 01}', "instead of"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 4096])
def test_what_is_no_object_is_refused_with_the_place(path: Path, text: str, words: str, chunk: int) -> None:
    path.write_text(text)
    with pytest.raises(FileInputError, match=words):
        list(ObjectWalker(path, chunk).entries())
