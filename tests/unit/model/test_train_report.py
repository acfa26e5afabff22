"""Reports: what they say is what the runs' own files say, whatever state the runs are in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from bokeh.models import ColumnDataSource
from bokeh.models.annotations import Span
from click.testing import CliRunner, Result
from PIL import Image
from toy_store import TINY, write_store

from mmearth_data import FileInputError, format_tile_id, open_store, render_page
from mmearth_model import Report, read_report
from mmearth_model.cli import cli
from mmearth_model.report.drawing import EPOCH_BYTES, EPOCH_PICTURES, draw_runs
from mmearth_model.report.forest import forest_figure
from mmearth_model.report.log import read_log_table
from mmearth_model.report.page import make_page
from mmearth_model.report.results import results_of

RECIPE = {
    **{key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items()},
    "epochs": 2,
    "batch_size": 12,
    "exclude": ["biome", "eco_region"],
    "figure_epochs": 1,
}
MOST_BYTES = 5 * 10**6
WIDTH = 80
HOSTILE = "<img src=x onerror=alert(1)> & \"q\" 'a'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, a finished run on it and its probes, made by the commands."""
    folder = tmp_path_factory.mktemp("report")
    write_store(folder / "toy.zarr", 48)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    for words in (
        ["pretrain", folder / "toy.zarr", "--recipe", folder / "tiny.yaml", "--out", folder / "run"],
        ["evaluate", folder / "run", "--task", "store:esa_worldcover", "--protocol", "knn", "--seeds", 1,
         "--baseline", "statistics", "--cache", folder / "cache", "--out", folder / "probes", "--html", folder / "probes.html"],
    ):  # fmt: skip
        result = run(*words, "--device", "cpu")
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of the run, to damage."""
    return shutil.copytree(folder / "run", tmp_path / "run")


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def curves(report: Report, name: str) -> dict[str, Any]:
    """Curves of a section of the page, by task."""
    plots = [
        part.model
        for section in make_page(report).sections
        for part in section.parts
        if getattr(part, "template", "") == "plot" and section.id == name
    ]
    data = plots[0].select_one({"type": ColumnDataSource, "name": f"{name}-curves"}) or next(
        found
        for found in plots[0].references()
        if isinstance(found, ColumnDataSource) and found.name == f"{name}-curves"
    )
    return {task: np.asarray(value) for task, value in zip(data.data["task"], data.data["value"], strict=True)}


class Elements(HTMLParser):
    """Tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


# ---------------------------------------------------------------- what is said


def test_json_says_what_the_log_and_the_results_say(folder: Path) -> None:
    found = json.loads(run("report", folder / "run", folder / "probes", "--json").stdout)
    log = pd.read_csv(folder / "run" / "log.csv")
    (one,) = found["runs"]
    assert one["losses"]["loss"] == {"first": log.loss.iloc[0], "last": log.loss.iloc[-1]}
    assert set(one["losses"]) == {"loss", *(c.removeprefix("weight:") for c in log.columns if c.startswith("weight:"))}
    assert one["weights"]["sentinel2"] == log["weight:sentinel2"].iloc[-1]
    assert (one["finished"], one["step"], one["steps"]) == (True, 6, 6)
    results = json.loads((folder / "probes" / "results.json").read_text())
    (entries,) = (part["entries"] for part in found["results"])
    assert [(e["encoder"], e["protocol"], e["mean"]) for e in entries] == [
        (s["encoder"], s["protocol"], s["mean"]) for s in results["summary"]
    ]


def test_the_summary_fits_80_columns(folder: Path, copied: Path) -> None:
    result = CliRunner().invoke(
        cli, ["report", str(folder / "run"), str(copied), str(folder / "probes")], env={"COLUMNS": "80"}
    )
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= WIDTH
    log = pd.read_csv(copied / "log.csv")
    assert f"{log.loss.iloc[-1]:.3f}" in result.stdout
    assert "store:esa_worldcover: accuracy, %" in result.stdout
    assert "All runs have the same recipe and store." in result.stdout


def test_the_page_has_the_curves_of_the_log_and_needs_no_network(folder: Path) -> None:
    page = folder / "page.html"
    result = run(
        "report", folder / "run", folder / "probes", "--html", page, "--tiles", 2, "--embeddings", 20, "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    elements = Elements(text).found
    assert page.stat().st_size < MOST_BYTES
    ids = [attributes.get("id") for tag, attributes in elements if tag == "section"]
    assert ids == [
        "runs",
        "losses",
        "weights",
        "speed",
        "reconstructions",
        "embeddings",
        "results-1",
        "recipes",
        "store",
    ]
    assert not [
        a
        for tag, a in elements
        if tag in ("script", "link", "img", "iframe") and (a.get("src") or "data:")[:5] != "data:"
    ]
    store = open_store(folder / "toy.zarr").select(split="test")
    named = [format_tile_id(int(tile)) for tile in store.coords["tile_id"]]
    assert named[0] in text
    assert named[-1] in text
    log = pd.read_csv(folder / "run" / "log.csv")
    found = curves(read_report([folder / "run"]), "losses")
    assert np.allclose(found["total"], log.loss)
    assert np.allclose(found["sentinel2"], log.sentinel2)


def test_evaluate_writes_a_page_of_its_results(folder: Path) -> None:
    ids = [
        a.get("id")
        for tag, a in Elements((folder / "probes.html").read_text(encoding="utf-8")).found
        if tag == "section"
    ]
    assert ids == ["results-1"]


def test_the_level_of_guessing_is_a_line_in_the_forest_plot(folder: Path) -> None:
    content = json.loads((folder / "probes" / "results.json").read_text())
    for row in content["rows"]:
        row["guess"] = 0.25
    found = results_of(content, "probes")
    (line,) = forest_figure(found.entries, ["knn-5", "knn-20"]).select({"type": Span})
    assert line.location == 25.0
    assert {entry.guessing for entry in found.entries} == {0.25}


def test_forest_plots_contain_all_intervals(folder: Path) -> None:
    (found,) = read_report([folder / "probes"]).results
    shown = forest_figure(found.entries, list(dict.fromkeys(entry.protocol for entry in found.entries)))
    assert shown.x_range.start <= 100 * min(entry.low for entry in found.entries)
    assert shown.x_range.end >= 100 * max(entry.high for entry in found.entries)


def test_recipes_are_compared_field_by_field(copied: Path, folder: Path) -> None:
    record = json.loads((copied / "run.json").read_text())
    record["recipe"]["base_lr"] = 0.5
    record["recipe"]["bands"] = {"sentinel2": ["B4"]}
    del record["recipe"]["schedule"]  # as a version wrote it that had no such field
    (copied / "run.json").write_text(json.dumps(record))
    report = read_report([folder / "run", copied])
    assert report.differences().keys() == {"base_lr", "bands.sentinel2"}
    assert report.differences()["base_lr"][1] == "0.5"


def test_a_summary_of_runs_does_not_wait_for_pytorch(folder: Path) -> None:
    code = "import sys; from mmearth_model.cli import cli; cli(sys.argv[1:], standalone_mode=False); print('torch' in sys.modules)"
    words = [sys.executable, "-c", code, "report", str(folder / "run"), str(folder / "probes")]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown[-1] == "False"


# ---------------------------------------------------------------- runs in all states


def test_an_unfinished_run_is_reported_as_far_as_it_is(copied: Path) -> None:
    for part in copied.glob("step-*"):
        shutil.rmtree(part)
    log = (copied / "log.csv").read_text()
    (copied / "log.csv").write_text(log[: len(log) - 20])
    result = run("report", copied, "--html", copied / "page.html")
    assert result.exit_code == 0, result.output
    assert "at step 3" in result.stdout
    assert "the last line of its log is incomplete and is ignored" in " ".join(result.stdout.split())
    assert "no predictions and no embeddings, because it has no checkpoint" in (copied / "page.html").read_text()


def test_a_run_without_a_log_says_so(copied: Path) -> None:
    (copied / "log.csv").unlink()
    result = run("report", copied)
    assert result.exit_code == 0, result.output
    assert "it has no log.csv yet" in result.stdout


@pytest.mark.parametrize("length", [0, 20])
def test_a_log_without_its_first_line_has_no_row(copied: Path, length: int) -> None:
    log = (copied / "log.csv").read_text()
    (copied / "log.csv").write_text(log[:length])
    result = run("report", copied)
    assert result.exit_code == 0, result.output
    assert "its log.csv has no row yet" in " ".join(result.stdout.split())


def test_losses_that_are_not_finite_are_named_and_leave_a_gap(copied: Path) -> None:
    head, first, *rest = (copied / "log.csv").read_text().splitlines()
    cells = first.split(",")
    cells[head.split(",").index("sentinel2")] = "nan"
    (copied / "log.csv").write_text("\n".join([head, ",".join(cells), *rest, ""]))
    result = run("report", copied)
    assert "sentinel2 is not a finite number in 1 of 2 rows, first at step 3" in " ".join(result.stdout.split())
    assert np.isnan(curves(read_report([copied]), "losses")["sentinel2"][0])
    json.loads(run("report", copied, "--json").stdout, parse_constant=lambda name: pytest.fail(name))


def test_a_run_whose_store_is_gone_has_curves_and_says_what_is_missing(copied: Path) -> None:
    record = json.loads((copied / "run.json").read_text())
    record["store"] |= {"path": "/nowhere/x.zarr", "relative": "../nowhere/x.zarr"}
    (copied / "run.json").write_text(json.dumps(record))
    result = run("report", copied, "--html", copied / "page.html")
    assert result.exit_code == 0, result.output
    text = (copied / "page.html").read_text()
    assert "no reconstructions" in text
    assert "/nowhere/x.zarr" in text


def test_pictures_from_the_training_are_shown_as_small_as_they_must_be(copied: Path) -> None:
    rng = np.random.default_rng(0)
    for step in range(10, 22):
        Image.fromarray(rng.integers(0, 256, (900, 640, 3), dtype=np.uint8)).save(
            copied / "figures" / f"step-{step:08d}.png"
        )
    drawn = draw_runs(read_report([copied]).runs, tiles=0, embedded=0)
    ((run, pictures),) = drawn.epochs.items()
    assert (run, len(pictures)) == (str(copied), EPOCH_PICTURES)
    assert sum(len(picture) for _, picture in pictures) <= EPOCH_BYTES
    steps = [step for step, _ in pictures]
    assert (steps[0], steps[-1], steps) == (3, 21, sorted(steps))


def test_twenty_runs_at_once(folder: Path, tmp_path: Path) -> None:
    runs = [tmp_path / f"{number}-{'long-' * 12}name" for number in range(20)]
    for number, one in enumerate(runs):
        one.mkdir()
        record = json.loads((folder / "run" / "run.json").read_text())
        record["recipe"]["seed"] = number
        (one / "run.json").write_text(json.dumps(record))
        shutil.copy(folder / "run" / "log.csv", one)
    result = CliRunner().invoke(
        cli, ["report", *map(str, runs), "--html", str(tmp_path / "x.html")], env={"COLUMNS": "80"}
    )
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= WIDTH
    assert (tmp_path / "x.html").stat().st_size < MOST_BYTES


def test_a_long_log_is_thinned_to_means(tmp_path: Path) -> None:
    steps = np.arange(1, 10_001)
    pd.DataFrame({"epoch": 1 + steps // 100, "step": steps, "loss": steps / 2}).to_csv(
        tmp_path / "log.csv", index=False
    )
    thin = read_log_table(tmp_path / "log.csv").thinned(100)
    assert len(thin) == 100
    assert thin.columns["step"].tolist() == list(range(100, 10_001, 100))
    assert np.allclose(thin.columns["loss"], (thin.columns["step"] - 49.5) / 2)


def test_names_are_text_in_page_and_terminal(folder: Path, tmp_path: Path) -> None:
    hostile = tmp_path / HOSTILE.replace("/", "")
    shutil.copytree(folder / "run", hostile)
    log = hostile / "log.csv"
    log.write_text(log.read_text().replace("sentinel2", "</script><script>alert(2)</script>"))
    text = render_page(make_page(read_report([hostile, folder / "run"])))
    assert HOSTILE not in text
    assert "alert(2)</script>" not in text
    tags = [tag for tag, attributes in Elements(text).found if "onerror" in attributes]
    assert not tags
    assert run("report", hostile).exit_code == 0


# ---------------------------------------------------------------- refusals


def damage(name: str, change: Any) -> Any:
    return lambda run: (run / name).write_text(change((run / name).read_text()))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (damage("log.csv", lambda t: t.replace("\n", "\nx", 1)), "log.csv:2: expected numbers, got 'x1'"),
        (damage("log.csv", lambda t: t[11:]), "log.csv:1: expected the log of a run"),
        (damage("log.csv", lambda t: t[:-100] + "\n"), "values, got"),
        (damage("log.csv", lambda t: t + t.splitlines()[1] + "\n"), "expected steps in ascending order"),
        (damage("run.json", lambda t: t[:50]), "run.json: expected the record of a run, got damaged JSON"),
        (damage("run.json", lambda t: "[]"), "run.json: expected the record of a run, got JSON that is not an object"),
        (damage("run.json", lambda t: "{}"), "with its recipe and store, got something else"),
        (lambda run: (run / "log.csv").write_bytes(bytes(range(256))), "log.csv: expected the log of a run, got"),
        (damage("step-00000006/config.json", lambda t: t[:99]), "config.json: expected the configuration of a checkpoint"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_refused_in_one_line(copied: Path, spoil: Any, expected: str) -> None:
    spoil(copied)
    result = run("report", copied)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert expected in result.stderr


def test_what_is_not_a_run_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"rows": [], "summary": [{"task": "x"}]}')
    for path, expected in (
        (folder / "nosuch", "got nothing there"),
        (folder / "tiny.yaml", "got a file"),
        (folder / "cache", "got a folder without these"),
        (folder / "toy.zarr", "for a store: mmearth-data inspect"),
        (folder / "run" / "step-00000006", "got a checkpoint; give"),
        (tmp_path, "it has no 'encoder'"),
    ):
        result = run("report", path)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
        assert expected in result.stderr
    assert "expected each path once" in run("report", folder / "run", folder / "run").stderr


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_drawn(folder: Path) -> None:
    result = run("report", folder / "run", "--html", folder / "tiny.yaml" / "x.html")
    assert result.exit_code == 2, result.output
    assert "predicting" not in result.stderr


def test_without_bokeh_the_summary_is_there_and_a_page_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)
    assert run("report", folder / "run").exit_code == 0
    result = run("report", folder / "run", "--html", folder / "x.html")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert 'pip install "mmearth[report]"' in result.stderr


def test_errors_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch,step,loss\n1,1,2.0\n1,2\n1,3,2.0\n")
    with pytest.raises(FileInputError, match=r"log.csv:3: expected 3 values, got 2"):
        read_log_table(tmp_path / "log.csv")
