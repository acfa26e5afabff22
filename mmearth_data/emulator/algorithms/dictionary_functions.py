"""``Dictionary`` and ``Dictionary.*``. Keys come out sorted, as Earth Engine keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.patterns import all_matching
from mmearth_data.emulator.graph.registry import function, functions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmearth_data.emulator.graph.registry import Context, Value

    Entries = dict[str, Value]


def _missing(name: str, key: str) -> EmulatorError:
    return EmulatorError(f"{name}: Dictionary does not contain key: '{key}'.")


@function("Dictionary")
def make(input: Value = None) -> Entries:
    """Make a dictionary of one, of a list of pairs in turn, or of nothing."""
    if input is None:
        return {}
    if isinstance(input, dict):
        return input
    if isinstance(input, list) and len(input) % 2 == 0 and all(isinstance(key, str) for key in input[::2]):
        return dict(zip(input[::2], input[1::2], strict=True))
    raise EmulatorError("Dictionary: expected a dictionary, or a list of keys and values in turn.")


@function("Dictionary.fromLists")
def from_lists(keys: list[str], values: list[Value]) -> Entries:
    """Entries of two lists."""
    if len(keys) != len(values):
        raise EmulatorError(f"Dictionary.fromLists: {len(keys)} keys, but {len(values)} values.")
    return dict(zip(keys, values, strict=True))


@function("Dictionary.get")
def get(dictionary: Entries, key: str, defaultValue: Value = None) -> Value:
    """Value of a key."""
    value = dictionary.get(key, defaultValue)
    if value is None and key not in dictionary:
        raise _missing("Dictionary.get", key)
    return value


@function("Dictionary.values")
def values(dictionary: Entries, keys: list[str] | None = None) -> list[Value]:
    """Values in the order of the keys."""
    chosen = sorted(dictionary) if keys is None else keys
    if lost := [key for key in chosen if key not in dictionary]:
        raise _missing("Dictionary.values", lost[0])
    return [dictionary[key] for key in chosen]


def _matches(name: str, dictionary: Entries, selectors: Iterable[str], *, ignore: bool) -> list[str]:
    """Keys that selectors name, by themselves or as regular expressions."""
    found: list[str] = []
    for selector in selectors:
        matched = [selector] if selector in dictionary else all_matching(name, selector, sorted(dictionary))
        if not matched and not ignore:
            raise _missing(name, selector)
        found += matched
    return found


@function("Dictionary.select")
def select(dictionary: Entries, selectors: list[str], ignoreMissing: bool = False) -> Entries:
    """Keep some entries."""
    return {key: dictionary[key] for key in _matches("Dictionary.select", dictionary, selectors, ignore=ignoreMissing)}


@function("Dictionary.remove")
def remove(dictionary: Entries, selectors: list[str], ignoreMissing: bool = False) -> Entries:
    """Leave some entries out."""
    gone = set(_matches("Dictionary.remove", dictionary, selectors, ignore=ignoreMissing))
    return {key: value for key, value in dictionary.items() if key not in gone}


@function("Dictionary.rename")
def rename(dictionary: Entries, from_: list[str], to: list[str], overwrite: bool = False) -> Entries:
    """Give entries other keys."""
    if len(from_) != len(to):
        raise EmulatorError("Dictionary.rename: The from and to lists must have the same length.")
    names = dict(zip(from_, to, strict=True))
    if lost := [key for key in from_ if key not in dictionary]:
        raise _missing("Dictionary.rename", lost[0])
    kept = {key: value for key, value in dictionary.items() if key not in names}
    if clash := [key for key in to if key in kept and not overwrite]:
        raise EmulatorError(f"Dictionary.rename: Key '{clash[0]}' already exists.")
    return kept | {names[key]: dictionary[key] for key in from_}


@function("Dictionary.toImage")
def to_image(dictionary: Entries, context: Context, names: list[str] | None = None) -> Value:
    """Constant image with one band an entry."""
    chosen = sorted(dictionary) if names is None else names
    image = context.call("Image.constant", value=[dictionary[name] for name in chosen])
    return context.call("Image.rename", input=image, names=chosen)


functions(
    "Dictionary",
    {
        "combine": lambda first, second, overwrite=True: first | second if overwrite else second | first,
        "contains": lambda dictionary, key: key in dictionary,
        "getNumber getString getGeometry": lambda dictionary, key: get(dictionary, key),
        "keys": lambda dictionary: sorted(dictionary),
        "map": lambda dictionary, baseAlgorithm: {k: baseAlgorithm(k, dictionary[k]) for k in sorted(dictionary)},
        "set": lambda dictionary, key, value: dictionary | {key: value},
        "size": lambda dictionary: len(dictionary),
    },
)
