"""Tables and lists that users bring: every reading is compared with what another program wrote or reads."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmearth_data import FileInputError, read_ids, read_table
from mmearth_data.files.tables import read_text

SITES = pd.DataFrame({"name": ["Forêt", "a;b", 'say "x"', "two\nlines"], "share": ["0.5", "1", "", "2e3"]})


@pytest.mark.parametrize("sep", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("lineterminator", ["\n", "\r\n"])
def test_what_pandas_writes_is_read_back(tmp_path: Path, sep: str, encoding: str, lineterminator: str) -> None:
    path = tmp_path / "sites.csv"
    SITES.to_csv(path, index=False, sep=sep, encoding=encoding, lineterminator=lineterminator)
    table = read_table(path)
    assert dict(table.columns) == {name: SITES[name].tolist() for name in SITES}
    assert list(table.lines) == [2, 3, 4, 5]
    np.testing.assert_array_equal(table.numbers("share"), [0.5, 1, np.nan, 2000])


def test_a_spreadsheet_with_empty_rows_and_columns_at_its_edges(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes("sep=;\r\n lon ;lat;;\r\n\r\n12,5;-3;;\r\n\r\n1,25;4;;\r\n;;;\r\n;;;\r\n".encode("utf-8-sig"))
    table = read_table(path)
    assert list(table.columns) == ["lon", "lat"]
    assert list(table.lines) == [4, 6]
    assert table.numbers("lon").tolist() == [12.5, 1.25]  # who divides columns by semicolons writes decimals by commas
    assert [line for line, _ in table.rows()] == [4, 6]


def test_the_index_of_a_data_frame_is_no_column(tmp_path: Path) -> None:
    SITES.to_csv(tmp_path / "indexed.csv")
    assert list(read_table(tmp_path / "indexed.csv").columns) == ["name", "share"]


def test_parquet_is_read_column_by_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"tile_id": np.array([2**63 + 1, 7], np.uint64), "label": ["a", None]})
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert "geometry" not in table.columns
    assert list(table.rows()) == [(1, {"tile_id": 2**63 + 1, "label": "a"}), (2, {"tile_id": 7, "label": None})]


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"a,b\n1,2\n1,2,3\n", 3, "expected 2 columns"),
        (b"a,b\n1\n", 2, "got 1"),
        (b"a,b,a\n", 1, "'a' twice"),
        (b"", 1, "empty file"),
        ("a,b\n1,é\n".encode("latin-1"), 2, "0xe9"),
        ("a,b\n".encode("utf-16"), None, "UTF-16"),
        (b'a,b\n1,2\n"x"y,3\n', 3, "breaks its rules"),
        (b'a,b\n1,"never closed\n', 2, "breaks its rules"),
    ],
)
def test_what_is_no_table_is_refused_with_its_line(
    tmp_path: Path, content: bytes, line: int | None, words: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(FileInputError, match=words) as caught:
        read_table(path)
    assert caught.value.line == line


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet", "broken.parquet"])
def test_files_that_are_absent_or_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(FileInputError, match=r"no such file|could not read it"):
        read_table(tmp_path / name)


def test_a_word_in_a_column_of_numbers_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x\n1\n\nmany\n")
    with pytest.raises(FileInputError, match=r"t.csv:4: expected a number in column x, got 'many'"):
        read_table(tmp_path / "t.csv").numbers("x")


def test_comments_are_left_out_where_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("# made by hand\nx,y\n# middle\n1,2\n")
    table = read_table(tmp_path / "t.csv", comments=True)
    assert dict(table.columns) == {"x": ["1"], "y": ["2"]}
    assert list(table.lines) == [4]


def test_text_loses_its_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes("\ufeffaé".encode())
    assert read_text(tmp_path / "t.txt") == "aé"


# ------------------------------------------------------------------------------------------------- lists of ids

ID = 0x1234567812345680


@pytest.mark.parametrize(
    "content",
    [
        b"1234567812345680\n00000000000000ff\n",
        b"\xef\xbb\xbf1234567812345680\r\n\r\n00000000000000ff\r\n",
        b"\xef\xbb\xbftile_id;label\r\n1234567812345680;a\r\n00000000000000ff;b\r\n",
        b"label,tile_id\na,1311768465173141120\nb,255\n",
    ],
)
def test_ids_from_text_and_from_tables(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    assert read_ids(str(path)) == [f"{ID:016x}", f"{255:016x}"]


def test_ids_from_a_store_s_table(tmp_path: Path) -> None:
    path = tmp_path / "tiles.parquet"
    pd.DataFrame({"tile_id": np.array([ID, 255], np.uint64)}).to_parquet(path)
    assert read_ids(str(path)) == [f"{ID:016x}", f"{255:016x}"]


@pytest.mark.parametrize(("name", "content"), [("ids.txt", "é".encode("utf-16")), ("ids.parquet", b"PAR1"), ("i.csv", b"")])  # fmt: skip
def test_lists_that_hold_no_ids_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileInputError):
        read_ids(str(tmp_path / name))
