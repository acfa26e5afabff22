"""What commands write to terminals of any width, with progress on stderr, and how shells complete them."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import store_making
from click.testing import CliRunner, Result
from rich.console import Console

from mmearth_data import FittedTable, NamedValues, Paragraphs, RecipeFolder, TableColumn, meter, wrapped_path
from mmearth_data.cli import cli as data_cli
from mmearth_data.sources.earthengine.session import close_session
from mmearth_data.terminal import progress
from mmearth_model.cli import cli as train_cli
from mmearth_model.evaluation.results import Evaluation, Row
from mmearth_model.evaluation.terminal import render_results
from mmearth_model.experiments.spec import EXPERIMENTS, read_experiment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import click

WIDTHS = (60, 80)
GRID = set("│┃┏┓┗┛┌┐└┘├┤┬┴┼━┡╇┩")
BUILD = ("build", "--source", "synthetic", "--tiles", "4", "--tile-size", "16", "--modalities", "biome,aster")
COMMAND_LINES = ("mmearth-", "eval ", "ee.", "from ")
"""Beginnings of lines of code in help, which are not broken."""
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("terminal") / "made.zarr"
    store_making.make_store(path)
    return path


def printed(renderable: object, width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(renderable, crop=False)
    return captured.get()


def run(cli: click.Group, width: int, *words: object) -> Result:
    result = CliRunner(env={"COLUMNS": str(width)}).invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def check(text: str, width: int, words: Sequence[str] = ()) -> None:
    """Lines fit, apart from words that are longer than a line; nothing is cut or broken in a word; there is no grid."""
    for line in text.splitlines():
        assert len(line) <= width or len(line.split()) <= 2, line
        assert not GRID & set(line), line
    assert "…" not in text
    whole = {*text.split()}
    assert [word for word in words if not set(word.split()) <= whole] == []


# ---------------------------------------------------------------- widths


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_inspected_fits_and_no_word_is_broken(store: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.parent)
    summary = json.loads(run(data_cli, width, "inspect", store.name, "--json").stdout)
    names = [m["name"] for m in summary["modalities"]]
    classes = [row["name"] for label in summary["labels"] for row in label["classes"]]
    check(run(data_cli, width, "inspect", store.name).stdout, width, [*names, *classes, "SYNTHETIC"])


@pytest.mark.parametrize("width", WIDTHS)
def test_catalog_recipes_and_experiments_fit(width: int) -> None:
    check(run(data_cli, width, "catalog").stdout, width, ["prev_month_total_precip", "sentinel2_cloudmask"])
    source = "https://developers.google.com/earth-engine/datasets/catalog/COPERNICUS_S2_SR_HARMONIZED"
    check(run(data_cli, width, "catalog", "sentinel2").stdout, width, [source, "COPERNICUS/S2_SR_HARMONIZED"])
    check(run(data_cli, width, "recipes").stdout, width, RecipeFolder("build").names())
    check(run(train_cli, width, "recipes").stdout, width, RecipeFolder("train").names())
    questions = [read_experiment(name).question for name in EXPERIMENTS.names()]
    check(run(train_cli, width, "experiment", "list").stdout, width, [*EXPERIMENTS.names(), *questions])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("cli", [data_cli, train_cli], ids=["mmearth-data", "mmearth-train"])
def test_help_fits_and_begins_with_what_matters(cli: click.Group, width: int) -> None:
    for name, command in [("", cli), *cli.commands.items()]:
        result = CliRunner().invoke(cli, [*filter(None, [name]), "--help"], terminal_width=width)
        text = result.stdout
        prose = [line for line in text.splitlines() if not line.lstrip().startswith(COMMAND_LINES)]
        assert max(map(len, prose)) <= width
        if len(command.params) > 12:
            assert text.index("Most used:") < min(text.index(f"{group}:") for group in ("What", "Output", "Other") if f"\n{group}:" in text)  # fmt: skip


def row(encoder: str, protocol: str, value: float, **more: object) -> Row:
    given = {
        "task": "store:biome", "kind": "single-label", "encoder": encoder, "seed": 0, "protocol": protocol, "labels": "100%",
        "metric": "accuracy", "value": value, "low": value - 0.1, "high": value + 0.1, "metrics": {}, "validation": None,
        "converged": None, "chosen": "", "leaky": False, "train_tiles": 179, "test_tiles": 51, "guess": 0.071,
    }  # fmt: skip
    return Row(**(given | more))


@pytest.mark.parametrize("width", WIDTHS)
def test_results_have_a_row_per_encoder_and_a_column_per_protocol(width: int) -> None:
    protocols = ("knn-5", "knn-20", "linear", "probe", "paper")
    encoder = "results/of-a-first-run/with-a-name/step-00000060"
    rows = [row(name, p, 0.3 + k / 100, leaky=name == encoder) for name in (encoder, "random init") for k, p in enumerate(protocols)]  # fmt: skip
    text = printed(render_results("Frozen encoders", Evaluation(tuple(rows))), width)
    check(text, width, ["step-00000060", "20.0–40.0"])  # noqa: RUF001
    heads = [line for line in text.splitlines() if line.startswith("encoder")]
    assert [name for head in heads for name in head.split()[1:]] == list(protocols)
    assert len(heads) == (1 if width == 80 else 2)
    assert text.count("179") == text.count("7.1") == 1, "what the rows have in common is said once"
    assert "[1] leaky" in text
    for k in range(len(protocols)):
        assert len(re.findall(rf"{30 + k}\.0 \[[12]\]", text)) == 1, "the paper's probe has a remark of its own"


def test_a_table_leaves_out_what_matters_least() -> None:
    table = FittedTable([TableColumn("name", wrap=True), TableColumn("kind", rank=1), TableColumn("n", right=True)])
    table.add("a name of several words that is long", "raster", "1,000")
    assert printed(table, 60).splitlines()[0].split() == ["name", "kind", "n"]
    lines = printed(table, 32).splitlines()
    assert lines[0].split() == ["name", "n"]
    assert [line[-5:] for line in lines[2:3]] == ["1,000"]
    assert " ".join(" ".join(lines[2:]).replace("1,000", "").split()) == "a name of several words that is long"


def test_words_longer_than_a_line_stay_whole() -> None:
    word = "x" * 70
    assert word in printed(NamedValues([("url", word)]), 40)
    assert word in printed(Paragraphs([f"a {word} b"]), 40)
    assert wrapped_path(f"a/{word}/b", 20).split("\n") == ["a/", f"{word}/", "b"]


# ---------------------------------------------------------------- progress


def test_without_a_terminal_lines_are_ten_seconds_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, factor in (("FIRST_LINE_S", 0.02), ("LINE_EVERY_S", 0.02), ("LONGEST_S", 0.02)):
        monkeypatch.setattr(progress, name, getattr(progress, name) * factor)
    with meter("Counting", "tiles") as show:
        for done in range(101):
            show(done, 100, "2 rejected")
            time.sleep(0.01)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 7, "a tenth of the calls or less: one line per 0.2 s, and the last one"
    for line in lines:
        assert re.fullmatch(r"Counting: \d+/100 tiles, (\d+/s, )?\d+:\d\d (left|elapsed), 2 rejected", line), line
    assert lines[-1].startswith("Counting: 100/100 tiles, ")


def test_short_work_without_a_count_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with meter("Reading", "tiles"):
        pass
    assert capsys.readouterr().err == ""


DATA = "from mmearth_data.cli import cli; cli(prog_name='mmearth-data')"


def in_terminal(*words: str, width: int = 80, program: str = DATA) -> tuple[str, str]:
    """Run a program with stderr on a pseudo-terminal; its stdout, and what the terminal received, without codes."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True,
    )  # fmt: skip
    os.close(theirs)
    received = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        received += part
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, received
    return out, CODES.sub("", received.decode())


def test_on_a_terminal_a_build_shows_one_live_line_from_the_beginning(tmp_path: Path) -> None:
    out, received = in_terminal(*BUILD, "--out", str(tmp_path / "a.zarr"))
    shown = [line for line in re.split(r"[\r\n]+", received) if line.strip()]
    assert len(shown) > 5, "it is drawn again and again"
    assert all("Building" in line for line in shown), "nothing else is written"
    assert "choosing locations" in shown[0]
    assert re.search(r"4/4 tiles, .*elapsed", shown[-1])
    assert max(map(len, shown)) <= 80
    assert out.startswith(f"{tmp_path}/a.zarr: 4 synthetic tiles")


def test_notes_are_written_above_the_live_line(tmp_path: Path) -> None:
    program = (
        "from mmearth_data import meter; from mmearth_data.cli import _say\n"
        "with meter('Counting', 'tiles') as show:\n    show(1, 2)\n    _say('a note')\n    show(2, 2)"
    )
    _, received = in_terminal(program=program)
    assert "a note" in re.split(r"[\r\n]+", received), "on a line of its own"


@pytest.mark.parametrize("before", [True, False])
def test_quiet_and_verbose_are_taken_before_and_after_the_command(tmp_path: Path, before: bool) -> None:
    command = [*BUILD, "--out", str(tmp_path / "a.zarr")]
    loud = run(data_cli, 80, *command)
    assert "Building" in loud.stderr
    quiet = run(data_cli, 80, *(["-q", *command] if before else [*command, "--quiet"]))
    assert quiet.stderr == ""
    assert quiet.stdout == loud.stdout
    run(data_cli, 80, *(["-v", *command] if before else [*command, "--verbose"]))
    both = CliRunner().invoke(data_cli, ["-q", *command, "-v"] if before else [*command, "-q", "-v"])
    assert both.exit_code == 2
    assert "got both" in both.stderr


# ---------------------------------------------------------------- recipes, help and completion


@pytest.mark.parametrize(("cli", "folder"), [(data_cli, "build"), (train_cli, "train")])
def test_a_recipe_is_printed_as_it_is(cli: click.Group, folder: str, repository: Path) -> None:
    described = json.loads(run(cli, 80, "recipes", "--json").stdout)
    for name in RecipeFolder(folder).names():
        assert described[name].strip()
        assert "\n" not in described[name]
        file = repository / "pipelines" / folder / f"{name}.yaml"
        assert run(cli, 80, "recipes", name).stdout == file.read_text(encoding="utf-8")
        assert run(cli, 80, "recipes", file).stdout == file.read_text(encoding="utf-8")
    wrong = CliRunner().invoke(cli, ["recipes", "demu"])
    assert wrong.exit_code == 2
    assert "did you mean 'demo'" in wrong.stderr


@pytest.mark.parametrize("cli", [data_cli, train_cli], ids=["mmearth-data", "mmearth-train"])
def test_a_command_without_what_it_needs_shows_its_help(cli: click.Group) -> None:
    needy = [name for name, command in cli.commands.items() if any(p.required for p in command.params)]
    assert len(needy) > 4
    for name in (None, *needy):
        result = CliRunner().invoke(cli, [name] if name else [])
        assert result.exit_code == 2
        assert result.output.startswith("Usage: ")
        assert "--help" in result.output


@pytest.mark.parametrize(
    ("program", "start", "expected"),
    [
        ("mmearth-data", "mmearth-data rec", "recipes"),
        ("mmearth-data", "mmearth-data inspect --col", "--colour"),
        ("mmearth-data", "mmearth-data inspect --colour y", "year"),
        ("mmearth-train", "mmearth-train eval", "evaluate"),
        ("mmearth-train", "mmearth-train evaluate --protocol pa", "paper"),
    ],
)
def test_shells_complete_commands_options_and_values(program: str, start: str, expected: str) -> None:
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
    asked = {variable: "bash_complete", "COMP_WORDS": start, "COMP_CWORD": str(len(start.split()) - 1)}
    cli = data_cli if program == "mmearth-data" else train_cli
    result = CliRunner(env=asked).invoke(cli, [], prog_name=program)
    assert f"plain,{expected}" in result.stdout.splitlines()
    assert f'eval "$({variable}=bash_source {program})"' in run(cli, 80, "--help").stdout
    source = CliRunner(env={variable: "zsh_source"}).invoke(cli, [], prog_name=program).stdout
    assert f"#compdef {program}" in source


def test_a_build_without_an_account_says_how_to_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("EARTHENGINE_PROJECT", "GOOGLE_CLOUD_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    close_session()  # another test of this process may have signed in to its server
    result = CliRunner().invoke(data_cli, ["build", "--quiet"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "A new store needs no account with --source synthetic" in line
    assert list(tmp_path.iterdir()) == []
