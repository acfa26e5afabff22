"""The check against Earth Engine, run on the emulator: every fact, and the report when one does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import check_live
import ee
import pytest
from _asking import connect
from _fact import Alike, Answer, Answered, Both, Equal, Fact, OneOf, Outcome, Refused, Source, judge
from facts import FACTS, TOPICS

from mmearth_data.sources.earthengine.session import close_session

SUM = next(fact for fact in FACTS if fact.name == "numbers and lists: 1 and 2 are 3")


@pytest.fixture
def _own_session() -> Iterator[None]:
    close_session()
    yield
    close_session()


def test_each_topic_has_a_fact_and_each_fact_a_topic_and_a_name_of_its_own() -> None:
    assert {fact.topic for fact in FACTS} == TOPICS.keys()
    names = [fact.name for fact in FACTS]
    assert len(names) == len(set(names))


def test_what_no_source_decides_is_compared_between_the_servers() -> None:
    undecided = [fact for fact in FACTS if isinstance(fact.expected, OneOf | Answered) and fact.both is Both.NOT]
    alternatives = [fact.name for fact in undecided if fact.source is Source.MEMORY]
    assert alternatives == []


def test_every_fact_agrees_with_the_emulator(emulator_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = check_live.main(["--url", emulator_url])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("agrees ")] == [
        f"{len(FACTS)} facts: {len(FACTS)} agree, 0 differ, 0 could not be asked"
    ]
    assert status == 0


def test_a_wrong_statement_is_reported_with_both_values(emulator_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = replace(SUM, expected=Equal(4))
    assert check_live.report(check_live.check([SUM, wrong], emulator_url)) == 1
    assert capsys.readouterr().out.splitlines() == [
        "agrees              numbers and lists: 1 and 2 are 3 [reference]: 3",
        "differs             numbers and lists: 1 and 2 are 3 [reference]: expected 4, the server answered 3",
        "2 facts: 1 agree, 1 differ, 0 could not be asked",
    ]


@pytest.mark.usefixtures("_own_session")
def test_an_asset_that_cannot_be_read_is_reported_and_does_not_fail_the_check(
    emulator_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unreadable = Fact(
        "static assets",
        "an asset of another account has a band",
        Source.MEMORY,
        lambda: ee.Image("projects/somebody/assets/private").bandNames(),
        Equal(["b1"]),
    )
    given = connect(emulator_url).answers([unreadable, SUM])
    assert check_live.report(check_live.judged([unreadable, SUM], given, {})) == 0
    first, _, count = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "could not be asked  static assets: an asset of another account has a band [memory]: HTTP 400"
    )
    assert "projects/somebody/assets/private" in first
    assert count == "2 facts: 1 agree, 0 differ, 1 could not be asked"


@pytest.mark.parametrize(
    ("expected", "answer", "outcome"),
    [
        (Equal(1), Answer(value=1.0), Outcome.AGREES),
        (Equal(1), Answer(value=True), Outcome.DIFFERS),
        (Equal([1, {"a": 0.1}]), Answer(value=[1, {"a": 0.1 + 1e-12}]), Outcome.AGREES),
        (Equal([1, {"a": 0.1}]), Answer(value=[1, {"a": 0.2}]), Outcome.DIFFERS),
        (Equal(None), Answer(refused="HTTP 400: Bad date."), Outcome.DIFFERS),
        (Equal(1), Answer(refused="HTTP 400: Computation timed out."), Outcome.UNASKED),
        (Equal(1), Answer(refused="HTTP 400: User memory limit exceeded."), Outcome.UNASKED),
        (Equal(1), Answer(unasked="HTTP 429: too many requests"), Outcome.UNASKED),
        (Refused("timed out"), Answer(refused="HTTP 400: Computation timed out."), Outcome.AGREES),
        (Refused("HTTP 400"), Answer(value=1), Outcome.DIFFERS),
        (Refused("HTTP 400"), Answer(refused="HTTP 500: An internal error has occurred."), Outcome.DIFFERS),
        (Alike({"a": "x", "b": 1}), Answer(value={"b": 2.5, "a": "y"}), Outcome.AGREES),
        (Alike({"a": "x", "b": 1}), Answer(value={"a": "y"}), Outcome.DIFFERS),
        (Alike([""]), Answer(value=[]), Outcome.DIFFERS),
        (OneOf((Equal(0), Equal(1))), Answer(value=1), Outcome.AGREES),
        (OneOf((Equal(0), Equal(1))), Answer(value=2), Outcome.DIFFERS),
        (Answered(), Answer(value=None), Outcome.AGREES),
    ],
)
def test_answers_are_judged_by_what_is_expected(expected: Equal, answer: Answer, outcome: Outcome) -> None:
    assert judge(replace(SUM, expected=expected), answer).outcome is outcome


@pytest.mark.parametrize(
    ("both", "emulated", "outcome"),
    [
        (Both.NOT, Answer(value="b"), Outcome.AGREES),
        (Both.EQUAL, Answer(value="a"), Outcome.AGREES),
        (Both.EQUAL, Answer(value="b"), Outcome.DIFFERS),
        (Both.ALIKE, Answer(value="b"), Outcome.AGREES),
        (Both.ALIKE, Answer(value=1), Outcome.DIFFERS),
        (Both.EQUAL, Answer(refused="HTTP 400: no"), Outcome.DIFFERS),
    ],
)
def test_what_only_a_server_knows_is_compared_with_the_emulator(both: Both, emulated: Answer, outcome: Outcome) -> None:
    fact = replace(SUM, expected=Answered(), both=both)
    verdict = judge(fact, Answer(value="a"), emulated)
    assert verdict.outcome is outcome
    if outcome is Outcome.DIFFERS:
        assert f'the server answered "a", the emulator {emulated}' in str(verdict)


def test_without_credentials_one_line_says_how_to_sign_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HOME", "CLOUDSDK_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "EARTHENGINE_PROJECT", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    assert check_live.main([]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "earthengine authenticate" in err


@pytest.mark.parametrize("pattern", ["no such fact", "("])
def test_a_pattern_without_facts_is_refused_in_one_line(pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_live.main(["--only", pattern]) == 2
    assert capsys.readouterr().err.startswith("--only: expected a ")


def test_the_facts_are_listed_without_asking(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_live.main(["--list", "--only", "1 and 2 are 3"]) == 0
    assert capsys.readouterr().out == "numbers and lists: 1 and 2 are 3 [reference]: 3\n"
