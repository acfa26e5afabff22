"""A walk over every option of a command line: each is shown to be followed or refused, by running it.

An option has witnesses: command lines to which it is added. With it, the command must do something else than
without (other results, other files, another refusal), or refuse it in one line that names it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click
from click.testing import CliRunner, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ALWAYS = frozenset({"--help", "--version", "--quiet", "--verbose"})
"""Options that click itself follows, and those that every command has (see test_terminal_progress.py)."""
TESTS = Path(__file__).parent


class Witness(Protocol):
    """Shows what an option does."""

    def show(self, option: str, walk: Walk) -> None:
        """Assert it."""


@dataclass(slots=True)
class Walk:
    """Runs commands, each in a new folder beside the same inputs.

    Attributes
    ----------
    cli
        The program.
    inputs
        Folder whose entries every command finds in its current folder.
    scratch
        Where the folders are made.
    copied
        Inputs that commands change: each command that names one gets its own copy.
    """

    cli: click.Group
    inputs: Path
    scratch: Path
    copied: tuple[str, ...] = ()
    seen: dict[Any, Any] = field(default_factory=dict)

    def run(
        self, command_line: Sequence[str], look: Callable[[Result], Any] = lambda result: None
    ) -> tuple[Result, Any]:
        """Run a command; what ``look`` reads off, or the line that says what is wrong."""
        folder = self.scratch / str(len(list(self.scratch.iterdir())))
        folder.mkdir()
        for entry in self.inputs.iterdir():
            if entry.name in self.copied and entry.name in command_line:
                copy = shutil.copytree if entry.is_dir() else shutil.copyfile
                copy(entry, folder / entry.name)
            else:
                (folder / entry.name).symlink_to(entry)
        with inside(folder):
            result = CliRunner().invoke(self.cli, list(command_line))
            assert result.exception is None or isinstance(result.exception, SystemExit), (
                command_line,
                result.exception,
            )
            bad = result.exit_code and "Error: " in result.stderr  # `verify` reports damage on stdout
            return result, error_of(result) if bad else look(result)

    def prepare(self, *command_line: str) -> None:
        """Run a command among the inputs, which must succeed."""
        with inside(self.inputs):
            result = CliRunner().invoke(self.cli, list(command_line))
        assert result.exit_code == 0, result.output

    def without(self, base: Sequence[str], look: Callable[[Result], Any]) -> Any:
        """Do what a command line does without the option; once."""
        key = (tuple(base), look)
        if key not in self.seen:
            self.seen[key] = self.run(base, look)[1]
        return self.seen[key]


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Make a folder the current one for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@dataclass(frozen=True, slots=True)
class Followed:
    """The option changes what the command does.

    Attributes
    ----------
    base, given
        Command line without the option, and what is added to it.
    look
        Reads off what was done, in the folder where it was done; never an echo of what was asked.
    """

    base: Sequence[str]
    given: Sequence[str]
    look: Callable[[Result], Any]

    def show(self, option: str, walk: Walk) -> None:
        """See `Witness`."""
        assert option in self.given
        with_it = walk.run([*self.base, *self.given], self.look)[1]
        assert with_it != walk.without(self.base, self.look), f"{option} changes nothing: {[*self.base, *self.given]}"


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The option concerns speed, and its promise is that nothing else changes."""

    base: Sequence[str]
    given: Sequence[str]
    look: Callable[[Result], Any]

    def show(self, option: str, walk: Walk) -> None:
        """See `Witness`."""
        assert option in self.given
        result, with_it = walk.run([*self.base, *self.given], self.look)
        assert result.exit_code == 0, result.output
        assert with_it == walk.without(self.base, self.look)


@dataclass(frozen=True, slots=True)
class Refused:
    """The option is refused here, in one line that names it."""

    command_line: Sequence[str]

    def show(self, option: str, walk: Walk) -> None:
        """See `Witness`."""
        place = self.command_line.index(option)
        refused(walk.run(self.command_line)[0], *self.command_line[place : place + 2])


@dataclass(frozen=True, slots=True)
class Chosen:
    """The option changes a value that the command works with, for what cannot be run here.

    Attributes
    ----------
    base, given
        Command line without the option, and what is added to it.
    value
        Makes the value from a command line, the way the command does.
    """

    base: Sequence[str]
    given: Sequence[str]
    value: Callable[[Sequence[str]], Any]

    def show(self, option: str, walk: Walk) -> None:
        """See `Witness`."""
        assert option in self.given
        key = (tuple(self.base), self.value)
        with inside(walk.inputs):
            if key not in walk.seen:
                walk.seen[key] = self.value(self.base)
            assert self.value([*self.base, *self.given]) != walk.seen[key], f"{option} changes nothing"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another test runs it, because it takes processes or minutes.

    Attributes
    ----------
    file, test
        Below ``tests``, and the name of a test in it.
    word
        What the test passes.
    """

    file: str
    test: str
    word: str

    def show(self, option: str, walk: Walk) -> None:
        """See `Witness`."""
        _, found, after = (TESTS / self.file).read_text(encoding="utf-8").partition(f"def {self.test}(")
        assert found, f"{self.file} has no {self.test}"
        assert self.word in after.partition("\ndef ")[0], f"{option}: {self.test} does not pass {self.word}"


NUMBERS = {
    "integer": ("", "x", "nan", "1.5", "9" * 30),
    "float": ("", "x", "nan", "inf", "-inf"),
}
"""Click's name of a type -> texts that are no value of it, or none that any option has."""
TEXTS = (
    "",
    "nosuch",
    "nosuch=",
    "=",
    ",",
    "snow \u2603",
    "a\0b",
    "x" * 300,
    "nosuch.yaml",
    "nosuch/x.csv",
    "folder",
    "binary",
)
"""Texts that few options take; ``folder`` and ``binary`` are a folder and a file of bytes."""
NAMES = frozenset({"nosuch=", "=", ",", "nosuch.yaml"})
"""Texts that an option which takes the name ``nosuch`` takes as well: its command does all of its work for each."""


def bad_values(option: click.Option) -> tuple[tuple[str, ...], bool]:
    """Texts to give an option, and whether it must refuse each."""
    name = option.type.name
    numbers = next((texts for key, texts in NUMBERS.items() if name.startswith(key)), None)
    if numbers is not None:
        return numbers, True
    return (("", "nosuch", "snow \u2603"), True) if isinstance(option.type, click.Choice) else (TEXTS, False)


def fuzz(walk: Walk, command: str, option: click.Option, base: Sequence[str], *, thorough: bool = True) -> list[str]:
    """Give an option each bad text; return what is wrong with the answers.

    Unless ``thorough``, an option that takes ``nosuch`` as a name is not given further names.
    """
    texts, must_refuse = bad_values(option)
    problems: list[str] = []
    names = False
    for text in texts:
        if thorough or not (names and text in NAMES):
            problem, accepted = _answer(walk, command, option, base, text, must_refuse)
            problems += [problem] if problem else []
            names |= accepted and text == "nosuch"
    return problems


def _answer(
    walk: Walk, command: str, option: click.Option, base: Sequence[str], text: str, must_refuse: bool
) -> tuple[str, bool]:
    """Say what is wrong with the answer to a text, empty if nothing is, and whether the command did its work."""
    name, accepted = option.opts[-1], False
    try:
        result, _ = walk.run([command, *base, name, text])
        accepted = result.exit_code == 0
        if accepted:
            assert not must_refuse, "accepted"
        else:
            refused(result, name, text, (1, 2))
    except AssertionError as problem:
        return f"{command} {name} {text[:20]!r}: {' '.join(str(problem).split())[:300]}", accepted
    return "", accepted


def options_of(cli: click.Group) -> list[tuple[str, str]]:
    """Every (command, option) of a program; of an option's names the long one."""
    return [
        (name, option.opts[-1])
        for name, command in sorted(cli.commands.items())
        for option in command.params
        if isinstance(option, click.Option) and not ALWAYS & set(option.opts)
    ]


def cases(witnesses: Mapping[str, Mapping[str, Sequence[Witness]]]) -> list[tuple[str, str, Witness]]:
    """Every (command, option, witness)."""
    return [
        (command, option, witness)
        for command, options in witnesses.items()
        for option, found in options.items()
        for witness in found
    ]


def check_complete(cli: click.Group, witnesses: Mapping[str, Mapping[str, Sequence[Witness]]]) -> None:
    """Assert that each option has a witness, and each witness its option."""
    known = set(options_of(cli))
    shown = {(command, option) for command, option, _ in cases(witnesses)}
    assert known - shown == set(), "options without a witness: nothing shows that they are followed"
    assert shown - known == set(), "witnesses of options that there are not"


def error_of(result: Result) -> str:
    """The one line that says what is wrong."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, (result.exit_code, result.output)
    return lines[0]


def refused(result: Result, name: str, value: str = "", exit_codes: tuple[int, ...] = (2,)) -> str:
    """Assert that a command ended in one clear line that names an option, the field that it fills, or the file given."""
    assert result.exit_code in exit_codes, (result.exit_code, result.output, result.exception)
    assert "Traceback" not in result.output
    line = error_of(result)
    plain = line.lower().replace("-", "_")
    named = (
        name in line
        or name.lstrip("-").replace("-", "_") in plain
        or (
            value and (repr(value) in line or line.startswith(f"Error: {value}:") or (len(value) > 2 and value in line))
        )
    )
    assert named, (name, line)
    for word in ("Errno", "got: None", "got None", "Input should", "pydantic", "validation error"):
        assert word not in line, line
    return line


def files_here(suffix: str = "") -> dict[str, str]:
    """Digest of each file that a command left in its folder."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path().rglob(f"*{suffix}"))
        if path.is_file() and not path.is_symlink()
    }


def left(result: Result) -> list[str]:
    """Names of the files that were written."""
    return sorted(files_here())


def printed(result: Result) -> str:
    """What went to stdout."""
    return result.stdout


def is_json(result: Result) -> bool:
    """Whether stdout is JSON."""
    return bool(re.match(r"[\[{]", result.stdout))
