"""Terminals, pipes and logs that know few characters: both programs print what these can show, and never fail for it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from toy_store import write_store

from mmearth_data.cli import cli as data_cli
from mmearth_data.terminal.streams import plain
from mmearth_model.cli import cli as train_cli

BIN = Path(sys.executable).parent
PROGRAMS = {"mmearth-data": data_cli, "mmearth-train": train_cli}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "Forêt-木.zarr"
    write_store(path, tiles=16)
    return path


def run_process(encoding: str, program: str, *arguments: object) -> CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "120"}
    words = [str(BIN / program), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, env=environment, check=False)


def run(encoding: str, program: str, *arguments: object) -> CompletedProcess[bytes]:
    """Run a program in this process, with the streams that Python makes for an encoding."""
    name, _, errors = encoding.partition(":")
    out, err = io.BytesIO(), io.BytesIO()
    stdout = io.TextIOWrapper(out, name, errors or "strict", write_through=True)
    stderr = io.TextIOWrapper(err, name, "backslashreplace", write_through=True)
    with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
        PROGRAMS[program].main([*map(str, arguments)], prog_name=program)
    return CompletedProcess(arguments, int(ended.value.code or 0), out.getvalue(), err.getvalue())


def test_a_table_in_ascii_keeps_its_columns(store: Path) -> None:
    given = run_process("ascii", "mmearth-data", "inspect", store)
    assert given.returncode == 0, given.stderr
    lines = given.stdout.decode("ascii").splitlines()
    assert lines[0].split()[0].endswith("Foret-?.zarr")
    assert any("32 x 32 px" in line for line in lines)
    begin = next(k for k, line in enumerate(lines) if line.startswith("modality"))
    assert set(lines[begin + 1]) == {"-"}, "a rule below the heads"
    kind = lines[begin].index("kind")
    assert {row[kind - 2 : kind] for row in lines[begin : begin + 1] + lines[begin + 2 : begin + 5]} == {"  "}
    assert any(line.rstrip().endswith("###") for line in lines), "bars of tiles"


def test_other_encodings_show_what_they_have(store: Path) -> None:
    given = run("latin-1", "mmearth-data", "inspect", store)
    assert given.returncode == 0, given.stderr
    assert "32 × 32 px" in given.stdout.decode("latin-1")  # noqa: RUF001
    assert "?" in given.stdout.decode("latin-1").splitlines()[0]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", "utf-8:strict"])
def test_an_error_is_one_line_in_any_encoding(tmp_path: Path, program: str, encoding: str) -> None:
    command = "inspect" if program == "mmearth-data" else "pretrain"
    given = run(encoding, program, command, tmp_path / "Forêt-\udcff-木.zarr")
    check_error(given, encoding)


def test_an_error_of_a_process_is_one_line(tmp_path: Path) -> None:
    check_error(run_process("ascii", "mmearth-train", "pretrain", tmp_path / "Forêt-\udcff-木.zarr"), "ascii")


def check_error(given: CompletedProcess[bytes], encoding: str) -> None:
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
