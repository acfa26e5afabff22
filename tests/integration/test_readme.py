"""The README's commands are executed in the order of the document, as a reader would.

Blocks fenced as ``console`` (a session: lines that start with ``$``, output between them) or ``python`` are run one after
the other in one temporary folder, by this process; each command must end with exit code 0. The folder starts with
nothing but links to ``catalog`` and ``pipelines``, which commands may name as they do in a checkout. What needs an
account, a network, a shell or a checkout of its own is fenced as ``text`` and is not run. `test_wheel` runs the installed
programs as processes.

`ELSEWHERE` lists the commands that would take too long here, each with where it runs instead. They are left
out whole. Running them with smaller settings would test another command than the one that the reader sees.

Every option of the two programs that the README mentions, run or not, must exist.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

import click
import ee
import pytest
from click.testing import CliRunner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ELSEWHERE = {
    "make demo": "run from a fresh clone for every release, and timed; its parts run one by one in this suite",
    "make test": "is what runs this test",
    "make check": "is what runs `make test`",
    "make bench": "run before a release; its figures go into the notes",
    "make prove": "run before a release; its figures go into the notes",
}
SHOWN = ("text", "yaml")
"""Fences of what is not run."""
PROGRAMS = {"mmearth-data": "mmearth_data.cli", "mmearth-train": "mmearth_model.cli"}
"""Program -> module whose ``cli`` is its click command."""


@dataclass(frozen=True)
class Block:
    """A fenced block: the first word of its info string, its text, and the line on which it starts."""

    language: str
    text: str
    line: int


def blocks(markdown: str) -> list[Block]:
    """All fenced blocks, in order; a fence closes at as many backticks as it opened with, or more."""
    found: list[Block] = []
    opened: re.Match[str] | None = None
    for number, line in enumerate(markdown.splitlines(), start=1):
        fence = re.match(r"^ {0,3}(`{3,}) *(\w*)[^`]*$", line)
        if opened is None and fence:
            opened, start, lines = fence, number, list[str]()
        elif opened is not None and fence and not fence[2] and len(fence[1]) >= len(opened[1]):
            found.append(Block(opened[2], "\n".join(lines), start))
            opened = None
        elif opened is not None:
            lines.append(line)
    assert opened is None, "a fenced block of the README is not closed"
    return found


def commands(block: Block) -> list[str]:
    """Shell commands of a block; a backslash at the end of a line continues it, ``>`` continues a session's command."""
    if block.language == "python":
        return []
    lines = re.sub(r"\\\n(> )?", "", block.text).splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def strip_comment(command: str) -> str:
    return re.sub(r"\s+#.*$", "", command).strip()


def mentioned_options(markdown: str) -> Iterator[tuple[str, list[str], int]]:
    """(program, words after it, line) of every call of the two programs in a fence or between backticks."""
    for block in blocks(markdown):
        for command in commands(block):
            yield from ((*call, block.line) for call in calls(command))
    outside = re.sub(r"^ {0,3}```.*?^ {0,3}```", lambda m: "\n" * m[0].count("\n"), markdown, flags=re.M | re.S)
    for span in re.finditer(r"`([^`]+)`", outside):
        line = outside.count("\n", 0, span.start()) + 1
        yield from ((*call, line) for call in calls(" ".join(span[1].split())))


def calls(command: str) -> Iterator[tuple[str, list[str]]]:
    """Calls of the two programs within a shell command, which may chain or pipe several."""
    for part in re.split(r"\|\||&&|[|;]", strip_comment(command)):
        try:
            words = shlex.split(part)
        except ValueError:  # prose between backticks, with an apostrophe
            continue
        for program in PROGRAMS:
            if program in words:
                yield program, words[words.index(program) + 1 :]


@cache
def program(name: str) -> click.Command:
    """Click's description of a program, from the program itself."""
    command = import_module(PROGRAMS[name]).cli
    assert isinstance(command, click.Command)
    return command


def unknown_options(name: str, words: list[str]) -> list[str]:
    """Options among the words that neither the program nor the subcommand they name takes."""
    command = program(name)
    known = {"--help"} | options(command)
    if isinstance(command, click.Group):
        context = click.Context(command)
        subcommand = next((word for word in words if word in command.list_commands(context)), None)
        named = [subcommand] if subcommand else command.list_commands(context)
        for candidate in named:
            found = command.get_command(context, candidate)
            assert found is not None
            known |= options(found)
    spelled = (word.split("=")[0].rstrip(".,:;") for word in words if re.match(r"--?[A-Za-z]", word))
    return [word for word in spelled if word not in known]


def options(command: click.Command) -> set[str]:
    return {spelling for parameter in command.params for spelling in (*parameter.opts, *parameter.secondary_opts)}


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shared = tmp_path_factory.mktemp("readme")
    for name in ("catalog", "pipelines"):
        (shared / name).symlink_to(repository / name)
    return shared


def run(block: Block) -> None:
    """Run one block in the working folder, its commands without those that run elsewhere."""
    if block.language == "python":
        exec(compile(block.text, f"README.md:{block.line}", "exec"), {"__name__": "__main__"})
    for command in map(strip_comment, commands(block)):
        if command in ELSEWHERE:
            continue
        name, *words = shlex.split(command)
        assert name in PROGRAMS, f"README.md:{block.line}: expected a call of one of {list(PROGRAMS)}, got {command!r}"
        done = CliRunner().invoke(program(name), words, prog_name=name)
        assert done.exit_code == 0, f"README.md:{block.line}: {command}\n{done.output[-6000:]}"


def test_every_runnable_block_ends_well(readme: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    runnable = [block for block in blocks(readme) if block.language not in SHOWN]
    assert {block.language for block in runnable} == {"console", "python"}
    for block in runnable:
        run(block)
    ee.Reset()  # one block signs the process's client in to a server that is gone


def test_every_option_that_the_readme_mentions_exists(readme: str) -> None:
    mentioned = list(mentioned_options(readme))
    assert {name for name, _, _ in mentioned} == set(PROGRAMS)
    wrong = [
        f"README.md:{line}: {name} has no {option}"
        for name, words, line in mentioned
        for option in unknown_options(name, words)
    ]
    assert not wrong, "\n".join(wrong)


def test_what_runs_elsewhere_is_what_the_readme_shows(readme: str, repository: Path) -> None:
    """An entry of the list that the README does not show, or that make does not know, excuses nothing."""
    targets = set(re.findall(r"^([\w-]+):", (repository / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    shown = {strip_comment(command) for block in blocks(readme) for command in commands(block)}
    for command in ELSEWHERE:
        assert command.removeprefix("make ") in targets
    assert "make demo" in shown


SAMPLE = """
# Title
Use `mmearth-data build --region global` with care; `mmearth-data's` is prose.

```console
$ mmearth-data build \\
>     --tiles 4
shown output, not run
$ make demo  # five minutes
```

```text
$ mmearth-data build --source earthengine
```

````markdown
```bash
not a block of its own
```
````

```console
$ mmearth-data catalog sentinel2  # a comment
$ mmearth-data catalog sentinel7
```
"""


def test_blocks_are_read_as_markdown_fences_them() -> None:
    found = blocks(SAMPLE)
    assert [block.language for block in found] == ["console", "text", "markdown", "console"]
    assert [block.line for block in found] == [5, 12, 16, 22]
    assert commands(found[0]) == ["mmearth-data build     --tiles 4", "make demo  # five minutes"]


def test_a_failing_command_fails_its_block() -> None:
    with pytest.raises(AssertionError, match=r"README\.md:22: mmearth-data catalog sentinel7"):
        run(blocks(SAMPLE)[-1])
    with pytest.raises(AssertionError, match="expected a call of one of"):
        run(Block("console", "$ ls", 1))
    with pytest.raises(ZeroDivisionError):
        run(Block("python", "1 / 0", 1))
    run(Block("console", "$ make demo  # is run elsewhere", 1))


def test_calls_are_found_in_fences_and_in_the_text() -> None:
    found = [(name, words) for name, words, _ in mentioned_options(SAMPLE)]
    assert ("mmearth-data", ["build", "--tiles", "4"]) in found
    assert ("mmearth-data", ["build", "--region", "global"]) in found
    assert ("mmearth-data", ["build", "--source", "earthengine"]) in found
    assert [line for *_, line in mentioned_options(SAMPLE)] == [5, 12, 22, 22, 3]


def test_only_options_that_a_program_takes_pass() -> None:
    assert unknown_options("mmearth-data", ["build", "--tiles", "4", "--tile-size=64", "--help"]) == []
    assert unknown_options("mmearth-data", ["build", "--figure", "x.png"]) == ["--figure"]
    assert unknown_options("mmearth-data", ["--figure"]) == []
    assert unknown_options("mmearth-train", ["--no-such-option"]) == ["--no-such-option"]
