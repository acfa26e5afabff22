"""The benchmarks' own measure: what it times, and what it says."""

from __future__ import annotations

import json
import statistics
import time

import pytest
from _harness import Alternation, alternate, machine, report, table


def test_the_two_callables_take_turns_and_neither_is_always_first() -> None:
    calls: list[str] = []
    times = alternate(lambda: calls.append("a"), lambda: calls.append("b"), runs=4)
    assert calls[:2] == ["a", "b"]
    timed = ["".join(calls[2:][pair : pair + 2]) for pair in range(0, 8, 2)]
    assert timed == ["ab", "ba", "ab", "ba"]
    assert len(times.a_s) == len(times.b_s) == 4


def test_ratio_is_above_one_where_ours_is_faster() -> None:
    times = alternate(lambda: time.sleep(0.002), lambda: time.sleep(0.02), runs=3, warm_up=False)
    assert times.median_a_s == statistics.median(times.a_s)
    assert 0.002 <= times.median_a_s < times.median_b_s
    assert times.ratio > 2
    assert Alternation((1.0, 9.0, 2.0), (6.0, 4.0, 4.0)).ratio == 2.0


def test_no_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one run, got 0"):
        alternate(lambda: None, lambda: None, runs=0)


def test_stdout_ends_with_one_line_of_json_and_tables_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    table("Reading", ["engine", "tiles/s"], [["ours", 61.23456], ["baseline", 25]])
    report("reading", 2.44938271, {"ours": (61.23456789, "tiles/s"), "tiles": (256, "tiles")})
    streams = capsys.readouterr()
    assert "baseline" in streams.err
    assert "61.23" in streams.err
    assert streams.out.count("\n") == 1
    line = json.loads(streams.out)
    assert list(line) == ["bench", "ratio", "figures", "machine"]
    assert line["ratio"] == 2.44938
    assert line["figures"] == {
        "ours": {"value": 61.2346, "unit": "tiles/s"},
        "tiles": {"value": 256, "unit": "tiles"},
    }


def test_figures_that_json_cannot_say_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="finite number for loss, got nan"):
        report("training", None, {"loss": (float("nan"), "1")})
    assert capsys.readouterr().out == ""


def test_the_machine_says_what_figures_depend_on() -> None:
    facts = machine()
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert facts["python"].count(".") == 2
    assert "numpy" in facts["versions"]
    json.dumps(facts, allow_nan=False)
