"""The commands of the README and of the documentation are executed in the order of the pages, as a reader would.

Blocks fenced as ``console`` (a session: lines that start with ``$``, output between them), ``python`` or ``yaml`` are run
one after the other in one temporary folder, by this process; each command must end with exit code 0. The folder starts
with nothing but links to ``catalog`` and ``pipelines``, which commands may name as they do in a checkout. A command that
an earlier page has run is not run again. `test_wheel` runs the installed programs as processes.

A comment before a block says what is special about it (`notes_before`): ``<!-- slow -->`` blocks run under `make prove`
only, together with all others; ``<!-- not run: REASON -->`` is required for blocks that nothing runs, such as those that
need an account; ``<!-- mapping file: NAME.yaml -->`` and the like write a YAML block to that file and read it (`READERS`); ``<!-- module: NAME.py -->`` writes a Python block to it.

`ELSEWHERE` lists the commands that would take too long here, each with where it runs instead. They are left
out whole. Running them with smaller settings would test another command than the one that the reader sees.

Every option of the two programs that a page mentions, run or not, must exist.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import ee
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from mmearth_data import make_recipe, resource_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = resource_path("catalog").parent
DOCS = REPOSITORY / "docs"


def pages() -> tuple[str, ...]:
    """The README, then the documentation in the order of its table of contents, without notebooks."""
    trees = re.findall(r"^```{toctree}\n(.*?)^```", (DOCS / "index.md").read_text(encoding="utf-8"), re.M | re.S)
    named = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    written = [f"docs/{name}.md" for name in named if not name.startswith("notebooks/")]
    return ("README.md", "CONTRIBUTING.md", *(page for page in written if (REPOSITORY / page).exists()))


PAGES = pages()
ELSEWHERE = {
    "make demo": "run from a fresh clone for every release, and timed; its parts run one by one in this suite",
    "make test": "is what runs this test",
    "make check": "is what runs `make test`",
    "make bench": "run before a release; its figures go into the notes",
    "make prove": "run before a release; its figures go into the notes",
}
NOT_RUN = ("text", "bibtex")
"""Fences of what is never run: each needs a reason."""
GENERATED = re.compile(r"\{.*")
"""Fences that are directives of the documentation."""


def _mapping(path: Path) -> object:
    return import_module("mmearth_data.sources.rasters.mapping").read_mapping(path)


def _chips(path: Path) -> object:
    return import_module("mmearth_data.sources.chips.description").Described(path)


def _task(path: Path) -> object:
    return import_module("mmearth_model.tasks.spec").read_spec(str(path))


def _entry(path: Path) -> object:
    return import_module("mmearth_data.catalog.entries").read_modality(path)


def _build(path: Path) -> object:
    return make_recipe(str(path), {})


def _training(path: Path) -> object:
    return import_module("mmearth_model").make_recipe(str(path))


def _experiment(path: Path) -> object:
    return import_module("mmearth_model.experiments.spec").read_experiment(str(path))


def _encoder(path: Path) -> object:
    return import_module("mmearth_model.evaluation.external.description").read_description(path)


READERS: dict[str, Callable[[Path], object]] = {
    "mapping file": _mapping,
    "chips file": _chips,
    "task file": _task,
    "catalog entry": _entry,
    "build recipe": _build,
    "training recipe": _training,
    "experiment": _experiment,
    "encoder": _encoder,
}
"""Kind of a YAML block -> what reads it."""
PROGRAMS = {"mmearth-data": "mmearth_data.cli", "mmearth-train": "mmearth_model.cli"}
"""Program -> module whose ``cli`` is its click command."""


@dataclass(frozen=True)
class Block:
    """A fenced block: the first word of its info string, its text, and the line on which it starts.

    ``page`` is its file relative to the repository; ``notes`` are the comments before it, such as ``slow``, with what
    follows their colon.
    """

    language: str
    text: str
    line: int
    notes: dict[str, str] = field(default_factory=dict)
    page: str = "README.md"

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.language not in NOT_RUN and "not run" not in self.notes and not GENERATED.match(self.language)


def blocks(markdown: str, page: str = "README.md") -> list[Block]:
    """All fenced blocks, in order; a fence closes at as many backticks as it opened with, or more."""
    found: list[Block] = []
    opened: re.Match[str] | None = None
    written = markdown.splitlines()
    for number, line in enumerate(written, start=1):
        fence = re.match(r"^ {0,3}(`{3,}) *([^\s`]*)[^`]*$", line)
        if opened is None and fence:
            opened, start, lines = fence, number, list[str]()
        elif opened is not None and fence and not fence[2] and len(fence[1]) >= len(opened[1]):
            found.append(Block(opened[2], "\n".join(lines), start, notes_before(written[: start - 1]), page))
            opened = None
        elif opened is not None:
            lines.append(line)
    assert opened is None, f"{page}: a fenced block is not closed"
    return found


def notes_before(lines: list[str]) -> dict[str, str]:
    """Comments directly before a block: ``<!-- NAME: TEXT -->``, one per line."""
    notes = {}
    for line in reversed(lines):
        comment = re.fullmatch(r"<!-- ([\w ]+?)(?:: (.+))? -->", line)
        if comment is None:
            break
        notes[comment[1]] = comment[2] or ""
    return notes


def commands(block: Block) -> list[str]:
    """Shell commands of a block; a backslash at the end of a line continues it, ``>`` continues a session's command."""
    if block.language not in ("console", "text"):
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


@cache
def all_blocks() -> tuple[Block, ...]:
    """Blocks of all pages, in order."""
    return tuple(block for page in PAGES for block in blocks((REPOSITORY / page).read_text(encoding="utf-8"), page))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("catalog", "pipelines"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(block: Block, done: set[str], names: dict[str, Any]) -> None:
    """Run one block in the working folder, its commands without those that run elsewhere or are done.

    ``names`` are those that earlier blocks of the page define.
    """
    if "module" in block.notes:
        Path(block.notes["module"]).write_text(block.text, encoding="utf-8")
    elif block.language == "python":
        exec(compile(block.text, block.where, "exec"), names)
    if block.language == "yaml":
        write_file(block)
    for command in map(strip_comment, commands(block)):
        if command in ELSEWHERE or command in done:
            continue
        name, *words = shlex.split(command)
        assert name in PROGRAMS, f"{block.where}: expected a call of one of {list(PROGRAMS)}, got {command!r}"
        result = CliRunner().invoke(program(name), words, prog_name=name)
        assert result.exit_code == 0, f"{block.where}: {command}\n{result.output[-6000:]}"
        done.add(command)


def write_file(block: Block) -> None:
    """Write a YAML block to the file that its comment names, and read it as what the comment calls it."""
    (kind,) = block.notes.keys() & READERS.keys()
    path = Path(block.notes[kind])
    path.write_text(block.text, encoding="utf-8")
    READERS[kind](path)


def run_all(chosen: list[Block]) -> None:
    done: set[str] = set()
    names: dict[str, dict[str, Any]] = {}
    for block in chosen:
        run(block, done, names.setdefault(block.where.partition(":")[0], {"__name__": "__main__"}))
    ee.Reset()  # one block signs the process's client in to a server that is gone


def test_every_quick_block_ends_well(folder: Path) -> None:
    chosen = [block for block in all_blocks() if block.runs and "slow" not in block.notes]
    assert {block.language for block in chosen} == {"console", "python", "yaml"}
    run_all(chosen)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of libraries that examples use: the reader sees them too
def test_every_block_ends_well(folder: Path) -> None:
    run_all([block for block in all_blocks() if block.runs])


def test_every_block_runs_or_says_why_not() -> None:
    known = {"slow", "not run", "module", *READERS}
    for block in all_blocks():
        assert block.notes.keys() <= known, f"{block.where}: expected {known}, got {block.notes}"
        assert block.runs or GENERATED.match(block.language) or block.notes.get("not run"), f"{block.where}: no reason"
        assert block.language != "yaml" or len(block.notes.keys() & READERS.keys()) == 1, f"{block.where}: what is it?"


def notebooks() -> list[Path]:
    return sorted((DOCS / "notebooks").glob("*.md"))


EXECUTE = """
import sys, nbclient
from pathlib import Path
from myst_nb.core.read import read_myst_markdown_notebook
text = Path(sys.argv[1]).read_text(encoding="utf-8")
notebook = read_myst_markdown_notebook(text, add_source_map=False)
nbclient.NotebookClient(notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
"""


def docs_python(*arguments: str, folder: Path) -> None:
    """Run Python in the environment of the documentation, which `make prove` sets up."""
    python = os.environ.get("DOCS_PYTHON", str(REPOSITORY / ".venv-docs" / "bin" / "python"))
    ipython = str(folder / "ipython")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MPLBACKEND": "Agg", "IPYTHONDIR": ipython}
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning_or_a_foreign_address(folder: Path) -> None:
    """As `make docs` builds them; whatever a page loads is beside it."""
    options = ["-q", "-W", "--keep-going", "-n", "-b", "html"]
    docs_python("-m", "sphinx", *options, str(DOCS), str(folder / "html"), folder=folder)
    built = [page for page in (folder / "html").rglob("*.html") if "_static" not in page.parts]
    assert len(built) > len(PAGES)
    loads = re.compile(r"<(?:script|img|iframe|source)[^>]+src=[\"']?https?:|<link[^>]+href=[\"']?https?:")
    assert [page.name for page in built if loads.search(page.read_text(encoding="utf-8"))] == []


@pytest.mark.slow
@pytest.mark.parametrize("notebook", notebooks(), ids=lambda path: path.stem)
def test_every_notebook_ends_well(notebook: Path, folder: Path) -> None:
    docs_python("-c", EXECUTE, str(notebook), folder=folder)


def entries_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models nested in a field's type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from entries_in(inner)


def test_every_entry_of_a_file_that_a_table_links_to_has_one_section() -> None:
    texts = [(REPOSITORY / page).read_text(encoding="utf-8") for page in PAGES]
    labels = [label for text in texts for label in re.findall(r"^\((\w+)\)=$", text, re.M)]
    assert sorted(labels) == sorted(set(labels))
    shown = [named for text in texts for named in re.findall(r"^```{model} ([\w.]+):(\w+)", text, re.M)]
    assert len(shown) > 10
    for module, name in shown:
        for about in getattr(import_module(module), name).model_fields.values():
            for entry in entries_in(about.annotation):
                assert entry.__name__.lower() in labels, f"{name} contains {entry.__name__}, which no page describes"


def test_no_help_contains_what_the_documentation_takes_for_a_link() -> None:
    """In reStructuredText, a word that ends in an underscore is a reference."""
    for name in PROGRAMS:
        group = program(name)
        assert isinstance(group, click.Group)
        for command in group.commands.values():
            helps = [getattr(parameter, "help", None) or "" for parameter in command.params]
            for text in (command.help or "", *helps):
                assert not re.search(r"\w_(?![\w`])", text), f"{name} {command.name}: {text}"


def test_every_option_that_a_page_mentions_exists() -> None:
    seen, wrong = set(), []
    for page in PAGES:
        for name, words, line in mentioned_options((REPOSITORY / page).read_text(encoding="utf-8")):
            seen.add(name)
            wrong += [f"{page}:{line}: {name} has no {option}" for option in unknown_options(name, words)]
    assert seen == set(PROGRAMS)
    assert not wrong, "\n".join(wrong)


def test_what_runs_elsewhere_is_what_the_readme_shows() -> None:
    """An entry of the list that the README does not show, or that make does not know, excuses nothing."""
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    shown = {strip_comment(command) for block in all_blocks() for command in commands(block)}
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

<!-- slow -->
<!-- not run: needs an account: really -->
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
    assert [block.line for block in found] == [5, 14, 18, 24]
    assert [block.notes for block in found] == [{}, {"slow": "", "not run": "needs an account: really"}, {}, {}]
    assert commands(found[0]) == ["mmearth-data build     --tiles 4", "make demo  # five minutes"]


def test_a_failing_command_fails_its_block() -> None:
    with pytest.raises(AssertionError, match=r"README\.md:24: mmearth-data catalog sentinel7"):
        run(blocks(SAMPLE)[-1], set(), {})
    with pytest.raises(AssertionError, match="expected a call of one of"):
        run(Block("console", "$ ls", 1), set(), {})
    with pytest.raises(ZeroDivisionError):
        run(Block("python", "1 / 0", 1), set(), {})
    run(Block("console", "$ make demo  # is run elsewhere", 1), set(), {})


def test_calls_are_found_in_fences_and_in_the_text() -> None:
    found = [(name, words) for name, words, _ in mentioned_options(SAMPLE)]
    assert ("mmearth-data", ["build", "--tiles", "4"]) in found
    assert ("mmearth-data", ["build", "--region", "global"]) in found
    assert ("mmearth-data", ["build", "--source", "earthengine"]) in found
    assert [line for *_, line in mentioned_options(SAMPLE)] == [5, 14, 24, 24, 3]


def test_only_options_that_a_program_takes_pass() -> None:
    assert unknown_options("mmearth-data", ["build", "--tiles", "4", "--tile-size=64", "--help"]) == []
    assert unknown_options("mmearth-data", ["build", "--figure", "x.png"]) == ["--figure"]
    assert unknown_options("mmearth-data", ["--figure"]) == []
    assert unknown_options("mmearth-train", ["--no-such-option"]) == ["--no-such-option"]
