"""Terminals, pipes and logs that know few characters: both programs print what these can show, and never fail for it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_store import write_store

from mmearth_data.terminal.streams import plain

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "Forêt-木.zarr"
    write_store(path, tiles=16)
    return path


def run(encoding: str, program: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "120"}
    words = [str(BIN / program), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, env=environment, check=False)


def test_a_table_in_ascii_keeps_its_columns(store: Path) -> None:
    given = run("ascii", "mmearth-data", "inspect", store)
    assert given.returncode == 0, given.stderr
    lines = given.stdout.decode("ascii").splitlines()
    assert lines[0].split()[0].endswith("Foret-?.zarr")
    assert any("32 x 32 px" in line for line in lines)
    begin = next(k for k, line in enumerate(lines) if line.startswith("modality"))
    rows = [line for line in lines[begin : begin + 4] if "|" in line]
    assert len(rows) == 3
    assert len({row.index("|") for row in rows}) == 1
    assert any(line.rstrip().endswith("###") for line in lines), "bars of tiles"


def test_other_encodings_show_what_they_have(store: Path) -> None:
    given = run("latin-1", "mmearth-data", "inspect", store)
    assert given.returncode == 0, given.stderr
    assert "32 × 32 px" in given.stdout.decode("latin-1")  # noqa: RUF001
    assert "?" in given.stdout.decode("latin-1").splitlines()[0]


@pytest.mark.parametrize(
    ("program", "encoding"),
    [
        ("mmearth-data", "ascii"),
        ("mmearth-data", "latin-1:strict"),
        ("mmearth-data", "utf-8:strict"),
        ("mmearth-train", "ascii"),
        pytest.param("mmearth-train", "latin-1:strict", marks=pytest.mark.slow),
        pytest.param("mmearth-train", "utf-8:strict", marks=pytest.mark.slow),
    ],
)  # both programs print through the same streams
def test_an_error_is_one_line_in_any_encoding(tmp_path: Path, program: str, encoding: str) -> None:
    command = "inspect" if program == "mmearth-data" else "pretrain"
    given = run(encoding, program, command, tmp_path / "Forêt-\udcff-木.zarr")
    assert given.returncode == 2, given.stderr
    message = given.stderr.decode(encoding.partition(":")[0]).splitlines()[-1]
    assert message.startswith("Error: ")
    assert ("Foret-" if encoding.startswith("ascii") else "Forêt-") in message
    assert b"Traceback" not in given.stderr


def test_progress_and_results_of_a_build_in_ascii(tmp_path: Path) -> None:
    out = tmp_path / "Forêt.zarr"
    given = run(
        "ascii:strict", "mmearth-data", "build", "--source", "synthetic", "--tiles", 2, "--tile-size", 16,
        "--modalities", "biome,aster", "--out", out,
    )  # fmt: skip
    assert given.returncode == 0, given.stderr
    assert "Foret.zarr: 2 synthetic tiles" in given.stdout.decode("ascii")
    assert "Foret.zarr: 2/2 tiles" in given.stderr.decode("ascii")


@pytest.mark.parametrize("text", ["é", "×", "█", "…", "木", "\udcff", "🌍", "²"])  # noqa: RUF001
def test_plain_text_is_ascii_and_never_empty(text: str) -> None:
    assert plain(text).isascii()
    assert plain(text)
    assert plain(f"a{text}b").startswith("a")
    assert plain("as it was") == "as it was"
    io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict").write(plain(text))
