"""Read users' YAML files strictly; errors name the line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mmearth_data.errors import FileInputError, InputError
from mmearth_data.findings import describe_validation, findings
from mmearth_data.words import closest, is_there, os_problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A file of ``field: value`` lines."""

    path: Path
    node: yaml.MappingNode
    """Parsed content with line numbers."""
    values: dict[str, Any]

    def line_of(self, keys: Sequence[str | int]) -> int:
        """1-based line of the deepest existing value on the path of keys."""
        lines = [line for _, line in way(self.node, keys)]
        return lines[-1] if lines else 1

    def refusal(self, error: ValidationError, model: type[BaseModel], whole: str = "file") -> FileInputError:
        """Error that names the first faulty line and counts the other findings."""
        found = findings(error, model, self.values, whole)
        first = min(found, key=lambda finding: self.line_of(finding.keys))
        more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
        end = "" if first.problem.endswith(("?", ".")) else "."
        return FileInputError(self.path, f"{first.problem}{end}{more}", self.line_of(first.keys))


def read_yaml(path: Path, expected: str) -> YamlFile:
    """Read a file of ``field: value`` lines.

    ``expected`` is what the file should be, such as ``a mapping file``, for messages. Raises FileInputError if it
    cannot be read, is not YAML or not a mapping, or has a field twice; with the line if known.
    """
    text = _read(path, expected)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _refuse_twice(node, path)
        values: dict[Any, Any] = {} if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        line = None if mark is None else mark.line + 1
        raise FileInputError(path, f"expected {expected}, got a file that is not YAML: {problem}; correct it.", line) from None  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise FileInputError(path, f"a value cannot be read: {error}; quote it if it is text.") from None
    if not isinstance(node, yaml.MappingNode):
        found = "an empty file" if node is None else "another form"
        raise FileInputError(path, f"expected {expected} of `field: value` lines, got {found}; correct it.")
    return YamlFile(path, node, {str(key): value for key, value in values.items()})


def validated(
    model: type[Model], values: dict[str, Any], file: YamlFile | None, overrides: Mapping[str, Any], whole: str
) -> Model:
    """Validate a file's values together with those that override them.

    Raises InputError with the field, what was expected and what was found; a FileInputError with the line if the file
    is wrong.
    """
    try:
        return model(**values)
    except ValidationError as error:
        mine = file is not None and not any(item["loc"] and item["loc"][0] in overrides for item in error.errors())
        if file is not None and mine:
            raise file.refusal(error, model, whole) from None
        raise InputError(describe_validation(error, model, values, whole)) from None


def named_file(text: str, folder: Path, names: Iterable[str], kind: str) -> Path:
    """Path of a file that ships with the package (by name), or of the user's own file.

    ``names`` are those of the shipped files in ``folder``; ``kind`` is what it should be, such as ``a recipe``. Raises
    InputError if ``text`` is neither a name nor a path, with the closest name.
    """
    known = list(names)
    if text in known:
        return folder / f"{text}.yaml"
    if text and is_there(Path(text)):
        return Path(text)
    meant = closest(text, known)
    remedy = f"did you mean {meant[0]!r}?" if meant else "no such file; correct the path."
    raise InputError(f"expected {kind} ({', '.join(known)}) or a YAML file, got {text!r}; {remedy}")


def _read(path: Path, expected: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileInputError(path, f"expected {expected}; {os_problem(error)}.") from None
    except UnicodeDecodeError:
        raise FileInputError(path, f"expected {expected} in UTF-8, got other bytes; save it as UTF-8.") from None
    except ValueError:
        raise InputError(f"expected the path of {expected}, got {str(path)!r}; correct it.") from None


def way(node: yaml.Node, keys: Sequence[str | int]) -> Iterator[tuple[str | int, int]]:
    """Follow a path of keys down from a node as far as it exists; yields each key with its 1-based line."""
    for wanted in keys:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(wanted)), None)
            if found is None:
                return
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(wanted, int) and wanted < len(node.value):
            node = node.value[wanted]
            line = node.start_mark.line + 1
        else:
            return
        yield wanted, line


def _refuse_twice(node: yaml.Node | None, path: Path) -> None:
    """Refuse duplicate keys, of which YAML would keep the last."""
    for mapping in _mappings(node):
        seen: set[str] = set()
        for key, _ in mapping.value:
            if str(key.value) in seen:
                raise FileInputError(
                    path, f"the field {key.value!r} is given twice; keep one.", key.start_mark.line + 1
                )
            seen.add(str(key.value))


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)
