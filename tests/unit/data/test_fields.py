"""Fields that describe themselves: help, docstrings and documentation say what the declarations say."""

from __future__ import annotations

import re
from pathlib import Path

import click
import field_tables
import pytest
from annotated_types import Interval
from click.testing import CliRunner

from mmearth_data import BuildFields, BuildRecipe, Group
from mmearth_data.cli import cli as data_cli
from mmearth_data.fields import fields_of, within
from mmearth_model import TrainRecipe
from mmearth_model.cli import cli as train_cli
from mmearth_model.fields import FineTuneFields, TrainFields, WorkFields

PROGRAMS = {"mmearth-data": data_cli, "mmearth-train": train_cli}
COMMANDS = [(program, command) for program, group in PROGRAMS.items() for command in ("", *group.commands)]
MADE_OF = {
    "build": BuildFields,
    "pretrain": TrainFields,
    "finetune": FineTuneFields,
    "bench": WorkFields,
}
"""Command -> declaration of which it has every field with an option."""


def help_of(program: str, command: str) -> str:
    """Help in a terminal of 80 columns, of which click leaves two free."""
    result = CliRunner().invoke(PROGRAMS[program], [command, "--help"] if command else ["--help"], terminal_width=78)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_help_fits_80_columns_and_breaks_no_word(program: str, command: str) -> None:
    lines = help_of(program, command).splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if re.search(r"\w-$|\.\.\.$", line) and "[OPTIONS]" not in line]
    assert "None" not in " ".join(lines)


@pytest.mark.parametrize(("program", "command"), [pair for pair in COMMANDS if pair[1]])
def test_every_option_is_in_a_section(program: str, command: str) -> None:
    sections = re.findall(r"^([\w ]+):\n((?:  .*\n)+)", help_of(program, command), flags=re.MULTILINE)
    titles = [title for title, _ in sections if title not in ("Usage", "Most used")]
    assert titles == [group for group in Group if group in titles]
    assert re.findall(r"^  (-[\w-]+)", dict(sections)["Other"], flags=re.MULTILINE) == ["-q", "-v", "-h"]


@pytest.mark.parametrize("command", MADE_OF)
def test_help_says_what_the_fields_say(command: str) -> None:
    (program,) = (name for name, group in PROGRAMS.items() if command in group.commands)
    text = " ".join(help_of(program, command).split())
    for field in fields_of(MADE_OF[command]).values():
        if field.flag:
            remark = f" [{field.extra}]" if field.extra else ""
            assert f"{field.about.text}{' Repeatable.' * field.about.repeated}{remark}" in text, field.name


def test_the_page_of_recipes_says_what_the_fields_say() -> None:
    text = field_tables.PAGE.read_text(encoding="utf-8")
    assert field_tables.page(text) == text, "run `python tests/field_tables.py`"


@pytest.mark.parametrize(("recipe", "declaration"), [(BuildRecipe, BuildFields), (TrainRecipe, TrainFields)])
def test_a_recipe_validates_and_documents_all_declared_fields(
    recipe: type[BuildRecipe] | type[TrainRecipe], declaration: type
) -> None:
    fields = fields_of(declaration)
    assert list(recipe.model_fields) == list(fields)
    for name, field in fields.items():
        assert recipe.model_fields[name].default == field.value
        assert f"{name}\n    {field.about.text}" in str(recipe.__doc__)


def test_the_command_lines_do_not_repeat_descriptions(repository: Path) -> None:
    files = [repository / "mmearth_data" / "cli.py", *(repository / "mmearth_model" / "cli").glob("*.py")]
    sources = [path.read_text(encoding="utf-8") for path in files]
    assert sum(source.count("@option(") for source in sources) > 50
    for declaration in MADE_OF.values():
        for field in fields_of(declaration).values():
            assert not [source for source in sources if field.about.text in source], field.about.text


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        (Interval(ge=1, le=3), (1, 3), (0, 4)),
        (Interval(gt=0, lt=1), (0.1, 0.9), (0, 1, float("nan"))),
        (Interval(), (-1e300, 1e300), ()),
    ],
)
def test_ranges(limits: Interval, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    assert all(within(limits, number) for number in inside)
    assert not any(within(limits, number) for number in outside)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--tiles", "0"], "--tiles: expected a whole number, 1 to 10000000000, got '0'"),
        (["--cloud", "101"], "--cloud: expected a finite number, above 0, at most 100, got '101'"),
        (["--per-second", "inf"], "--per-second: expected a finite number"),
        (["--tiles", "9" * 400], "--tiles: expected a whole number, 1 to 10000000000, got '999"),
        (["--asset", "a=x/y", "--asset", "a=x/z"], "--asset: expected each name once, got a twice"),
        (["--years", ","], "--years: expected values separated by commas"),
    ],
)
def test_a_wrong_value_is_refused_with_the_option(words: list[str], problem: str) -> None:
    result = CliRunner().invoke(data_cli, ["build", "--dry-run", *words])
    assert result.exit_code == click.UsageError.exit_code
    assert result.stderr.startswith(f"Error: {problem}")
    assert result.stderr.count("\n") == 1
