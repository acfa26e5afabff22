"""Published results: the table of the catalog, users' tables, and their comparison with measured results."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from matplotlib import image
from rich.console import Console

from mmearth_data import InputError, resource_path
from mmearth_model.cli import cli
from mmearth_model.evaluation import Evaluation, Row, beside_dict, write_results
from mmearth_model.evaluation.results import results_figure
from mmearth_model.evaluation.terminal import render_results
from mmearth_model.published import COLUMNS, Beside, read_published
from mmearth_model.report.gather import Report, read_report
from mmearth_model.report.page import write_results_page
from mmearth_model.tasks import task_names

TABLE = resource_path("catalog") / "published_results.csv"
GOOD = {
    "task": "m-so2sat",
    "metric": "accuracy",
    "protocol": "linear",
    "encoder": "theirs",
    "value": "0.5",
    "ci_lower": "0.4",
    "ci_upper": "0.6",
    "source": "https://example.org",
    "page": "table 2",
    "date": "2025-03",
}


def table(folder: Path, *changes: dict[str, str]) -> Path:
    """Write a table with a row for each of the changes to `GOOD`."""
    path = folder / "theirs.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows([GOOD | change for change in changes])
    return path


def row(task: str, encoder: str, protocol: str, hits: int, labels: str = "100%") -> tuple[Row, np.ndarray]:
    """Row of 100 test samples, of which some are right."""
    sums = np.stack([np.arange(100) < hits, np.ones(100)], axis=1).astype(float)
    value = hits / 100
    found = Row(
        task=task,
        kind="single-label",
        encoder=encoder,
        seed=0,
        protocol=protocol,
        labels=labels,
        metric="accuracy",
        value=value,
        low=value - 0.1,
        high=value + 0.1,
        metrics={"accuracy": value},
        validation=None,
        converged=True,
        chosen="",
        leaky=False,
        train_tiles=300,
        test_tiles=100,
    )
    return found, sums


def evaluation(*found: tuple[Row, np.ndarray]) -> Evaluation:
    rows, sums = zip(*found, strict=True)
    return Evaluation(rows, sums)


OURS = evaluation(
    row("m-so2sat", "ours", "knn-5", 40),
    row("m-so2sat", "ours", "linear", 45),
    row("m-so2sat", "ours, few labels", "linear", 30, "5%"),
    row("other", "ours", "linear", 70),
)


def test_the_table_of_the_catalog_has_known_tasks_and_a_source_for_each_result() -> None:
    """Tasks are files of catalog/tasks, and their metric is one that results of this kind have; sources can be found."""
    metrics = {
        "single-label": {"accuracy"},
        "multi-label": {"f1", "map", "micro_map"},
        "segmentation": {"jaccard"},
    }
    found = read_published()
    assert {result.task for result in found} <= set(task_names())
    for result in found:
        kind = yaml.safe_load((resource_path("catalog") / "tasks" / f"{result.task}.yaml").read_text())["kind"]
        assert result.metric in metrics[kind], result
        assert result.source.startswith("https://")
        assert "commit" in result.page or "arxiv.org" in result.source, result
    with TABLE.open() as file:
        assert len(list(csv.DictReader(file))) == len(found)


def test_the_papers_results_are_in_the_table() -> None:
    """The figures of the paper for atto, 64 px, all modalities: fine-tuned and probed."""
    found = {(r.task, r.protocol): 100 * r.value for r in read_published() if r.encoder.endswith("all modalities")}
    assert {key: round(value, 1) for key, value in found.items()} == {
        ("m-bigearthnet", "finetune-paper"): 68.2,
        ("m-bigearthnet", "paper"): 40.9,
        ("m-so2sat", "finetune-paper"): 54.0,
        ("m-so2sat", "paper"): 41.7,
        ("m-cashew-plantation", "finetune-paper"): 81.6,
        ("m-SA-crop-type", "finetune-paper"): 39.7,
    }


def test_results_are_compared_within_one_task_metric_and_protocol_only(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        {},
        {"encoder": "better", "value": "0.55"},
        {"protocol": "their own"},
        {"metric": "accuracy_macro"},
        {"task": "m-eurosat"},
    )
    beside = OURS.beside(read_published(path))
    found = {(c.task, c.metric, c.protocol): [(x.encoder, x.kind) for x in c.lines] for c in beside.comparisons}
    assert found == {
        ("m-so2sat", "accuracy", "linear"): [
            ("ours", "measured here"),
            ("better", "published"),
            ("theirs", "published"),
        ],
        ("m-so2sat", "accuracy", "their own"): [("theirs", "published")],
        ("m-so2sat", "accuracy_macro", "linear"): [("theirs", "published")],
    }
    assert beside.without == ("other",)
    assert [c.measured for c in beside.comparisons] == [True, False, False]
    assert Beside.from_dict(json.loads(json.dumps(beside.to_dict()))) == beside


def test_what_is_published_is_shown_and_said_not_to_be_measured_here(tmp_path: Path) -> None:
    """In the terminal, Markdown, JSON, figure, page and report; the CSV has only what was measured."""
    beside = OURS.beside(read_published(table(tmp_path, {}, {"protocol": "their own", "ci_lower": "", "ci_upper": ""})))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render_results("Frozen encoders", OURS, beside=beside))
    shown = " ".join(console.export_text().split())
    write_results(OURS, tmp_path / "out", {"store": None}, beside)
    markdown = (tmp_path / "out" / "results.md").read_text()
    for text in (shown, markdown):
        assert "m-so2sat, protocol linear: measured here and published by others" in text
        assert "m-so2sat, protocol their own: published by others, none measured here" in text
        assert "https://example.org, table 2" in text
        assert "they are quoted, not reproduced" in text
        assert "other: the table of published results contains none for this task." in text
    assert "theirs" not in (tmp_path / "out" / "results.csv").read_text()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["beside"] == beside_dict(beside)["beside"]
    assert image.imread(tmp_path / "out" / "results.png").std() > 0
    titles = [axis.get_title(loc="left") for axis in results_figure(OURS, beside=beside).axes]
    assert titles[-2:] == [comparison.heading for comparison in beside.comparisons]
    page = tmp_path / "page.html"
    write_results_page({"store": None, **OURS.to_dict(), **beside_dict(beside)}, "Frozen encoders", page)
    assert "none measured here" in page.read_text()
    (kept,) = read_report([tmp_path / "out"]).results
    assert kept.beside == beside
    (again,) = read_report([tmp_path / "out"]).beside(read_published(table(tmp_path, {"task": "other"}))).results
    assert again.beside is not None
    assert [c.task for c in again.beside.comparisons] == ["other"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"value": "97.3", "ci_lower": "", "ci_upper": ""},
            "value: expected accuracy between 0 and 1, got 97.3; divide",
        ),
        ({"value": "half"}, "value: expected a number, got 'half'"),
        ({"value": "nan"}, "value: expected a number, got 'nan'"),
        ({"value": ""}, "value: expected a number, got none"),
        ({"ci_lower": ""}, "expected both ends of an interval or neither"),
        ({"ci_lower": "0.6", "ci_upper": "0.4"}, "expected an interval around 0.5, got 0.6 to 0.4"),
        ({"metric": "accurcy"}, "metric: expected accuracy"),
        ({"metric": "rmse", "value": "-1", "ci_lower": "", "ci_upper": ""}, "expected rmse between 0 and inf, got -1"),
        ({"task": " "}, "task: expected text, got none"),
        ({"source": ""}, "source: expected text, got none"),
        ({"page": ""}, "page: expected text, got none"),
        ({"date": "2025-13"}, "date: expected a year, month or day"),
        ({"date": "last year"}, "date: expected a year, month or day"),
        ({"encoder": "a\x1b[31mb"}, "encoder: expected up to 300 printable characters"),
        ({"encoder": "x" * 301}, "encoder: expected up to 300 printable characters"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(tmp_path: Path, change: dict[str, str], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        read_published(table(tmp_path, {"encoder": "fine"}, change))
    (line,) = str(caught.value).splitlines()
    assert "theirs.csv:3: " in line
    assert expected in line


def test_every_wrong_value_has_a_line_of_its_own_up_to_twenty(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_published(table(tmp_path, {"value": "x", "source": ""}, {}, {}, {"date": "1"}))
    lines = [line.rpartition("theirs.csv:")[2].partition(": ")[0] for line in str(caught.value).splitlines()]
    assert lines == ["2", "2", "4", "5"]
    with pytest.raises(InputError, match="7 more invalid values") as caught:
        read_published(table(tmp_path, *({"value": f"x{k}"} for k in range(27))))
    assert len(str(caught.value).splitlines()) == 21


def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path) -> None:
    wrong = {
        "empty.csv": (b"", "got an empty file"),
        "heads.csv": (",".join(COLUMNS).encode() + b"\n", "got only the header"),
        "short.csv": (b"task,metric\na,b\n", "lacks protocol, encoder"),
        "binary.csv": (b"\0\1\2", "a binary file"),
        "cut.csv": (TABLE.read_bytes()[:-200], "expected 10 columns"),
    }
    for name, (content, expected) in wrong.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=expected):
            read_published(tmp_path / name)
    for given, expected in (("publishd", "did you mean"), ("results.json", "or a CSV file"), (str(tmp_path / "no.csv"), "no such file")):  # fmt: skip
        with pytest.raises(InputError, match=expected):
            read_published(given)
    with (tmp_path / "huge.csv").open("wb") as file:
        file.truncate(11_000_000)
    with pytest.raises(InputError, match="expected at most 10 MB"):
        read_published(tmp_path / "huge.csv")


def test_the_table_is_read_before_anything_is_computed(tmp_path: Path) -> None:
    """The data of the task do not exist either; the table is refused first. A report of runs alone has nothing to compare."""
    command = ["evaluate", "--task", f"m-so2sat={tmp_path / 'absent'}", "--beside"]
    refused = CliRunner().invoke(cli, [*command, str(table(tmp_path, {"value": "2"}))])
    assert refused.exit_code == 2
    assert "expected accuracy between 0 and 1, got 2" in refused.output
    assert "absent" not in refused.output
    with pytest.raises(InputError, match="expected results of evaluate, finetune or an experiment, got only runs"):
        Report().beside(read_published())


def test_report_shows_published_results_of_a_folder(tmp_path: Path) -> None:
    write_results(OURS, tmp_path / "out", {"store": None})
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "out"), "--beside", str(table(tmp_path, {})), "--json"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.output)["results"]
    (comparison,) = found["beside"]["comparisons"]
    assert [(x["encoder"], x["source"]) for x in comparison["lines"]] == [("ours", ""), ("theirs", "https://example.org, table 2")]  # fmt: skip
