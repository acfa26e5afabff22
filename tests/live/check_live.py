"""Check every claim of the emulator about Earth Engine against the service: ``make check-live``.

Needs an account, as `mmearth-data build` does, and a project: EARTHENGINE_PROJECT or GOOGLE_CLOUD_PROJECT. The facts
are listed in `facts`. Each server is queried in its own process, because the client can use only one server per
process. The report has one line per fact: it agrees, it differs (with both values), or it could not be asked (with the
reason).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from _asking import connect
from _fact import Answer, Both, Fact, Outcome, Verdict, judge, summary
from emulator_process import emulator
from facts import FACTS

from mmearth_data.errors import EXIT_FAILURE, EXIT_INPUT, EXIT_OK, InputError, MMEarthError

SERVICE = "service"


def ask(server: str, facts: Iterable[Fact]) -> dict[str, Answer]:
    """Answers of one server to some facts, from a separate process.

    Raises
    ------
    InputError
        Without credentials, or when the server refuses them.
    """
    command = [sys.executable, __file__, "--answer", server]
    names = json.dumps([fact.name for fact in facts])
    done = subprocess.run(command, input=names, capture_output=True, text=True, check=False)
    if done.returncode == EXIT_INPUT:
        raise InputError(done.stderr.strip())
    if done.returncode:
        raise RuntimeError(f"the process that asks {server} ended with {done.returncode}: {done.stderr.strip()}")
    return {name: Answer(**answer) for name, answer in json.loads(done.stdout).items()}


def answer(server: str, names: Sequence[str]) -> str:
    """Answers of one server, as JSON."""
    wanted = set(names)
    asked = [fact for fact in FACTS if fact.name in wanted]
    found = connect(None if server == SERVICE else server).answers(asked)
    return json.dumps({name: asdict(given) for name, given in found.items()})


def check(facts: Sequence[Fact], url: str | None) -> list[Verdict]:
    """Query the service, or the server at a URL instead, and judge the answers.

    Parameters
    ----------
    facts
        Facts to check; their questions are looked up in the table by name.
    url
        URL of an emulator, whose answers are judged by the statements alone; None queries the service, and also an
        emulator if only a server can give the value.
    """
    if url is not None:
        return judged(facts, ask(url, facts), {})
    given = ask(SERVICE, facts)
    compared = [fact for fact in facts if fact.both is not Both.NOT]
    if not compared:
        return judged(facts, given, {})
    with emulator(seed=0) as running:
        return judged(facts, given, ask(running.url, compared))


def judged(facts: Iterable[Fact], given: Mapping[str, Answer], emulated: Mapping[str, Answer]) -> list[Verdict]:
    """Judge each fact."""
    return [judge(fact, given[fact.name], emulated.get(fact.name)) for fact in facts]


def report(verdicts: Sequence[Verdict]) -> int:
    """Print one line per fact and the counts; return the exit code."""
    sys.stdout.write("".join(f"{verdict}\n" for verdict in verdicts))
    sys.stdout.write(f"{summary(verdicts)}\n")
    return EXIT_FAILURE if any(verdict.outcome is Outcome.DIFFERS for verdict in verdicts) else EXIT_OK


def selected(pattern: str) -> list[Fact]:
    """Facts whose name matches a pattern.

    Raises
    ------
    InputError
        When no fact matches, or the pattern is invalid.
    """
    try:
        found = [fact for fact in FACTS if re.search(pattern, fact.name, re.I)]
    except re.error as error:
        raise InputError(f"--only: expected a regular expression, got {pattern!r} ({error}).") from None
    if not found:
        raise InputError(f"--only: expected a pattern that matches a fact, got {pattern!r}; --list prints all facts.")
    return found


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description="Check every claim of the emulator about Earth Engine.")
    parser.add_argument("--url", help="query this server, an emulator, instead of the service; needs no account")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="check the facts whose topic or statement matches"
    )
    parser.add_argument("--list", action="store_true", help="print the facts and expected answers, and query nothing")
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, list, or answer for one server; return the exit code."""
    chosen = options(arguments)
    try:
        if chosen.answer:
            sys.stdout.write(answer(chosen.answer, json.load(sys.stdin)))
            return EXIT_OK
        facts = selected(chosen.only)
        if chosen.list:
            sys.stdout.write("".join(f"{fact.name} [{fact.source.value}]: {fact.expected}\n" for fact in facts))
            return EXIT_OK
        return report(check(facts, chosen.url))
    except MMEarthError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
