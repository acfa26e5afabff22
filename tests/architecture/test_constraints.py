"""constraints.txt: everything that ``make`` installs, in the releases that were tested."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mmearth_data import resource_path

REPOSITORY = resource_path("catalog").parent
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = [
    line
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
PINS = [Requirement(line) for line in LINES]

INSTALLED_BY_MAKE = ("model", "dev")
OF_THE_MACHINE = re.compile(r"^(cuda|nvidia|triton)\b")
"""PyTorch asks for one release of each itself, on machines that have a use for it."""

PYTHONS = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
SYSTEMS = {"Linux": ("linux", "posix"), "Darwin": ("darwin", "posix"), "Windows": ("win32", "nt")}


def environment(python: str, system: str) -> dict[str, str]:
    """Values of markers on another Python and another system."""
    sys_platform, os_name = SYSTEMS[system]
    machine = "arm64" if system == "Darwin" else "x86_64"
    return {
        **{key: str(value) for key, value in default_environment().items()},
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": sys_platform,
        "os_name": os_name,
        "platform_system": system,
        "platform_machine": machine,
    }


def pins_for(values: dict[str, str]) -> dict[str, list[Requirement]]:
    """Pins that count in an environment, by name."""
    found: dict[str, list[Requirement]] = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(values):
            found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def declared() -> list[Requirement]:
    """Return what pyproject.toml asks for, with all extras."""
    return [
        Requirement(line)
        for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for line in lines
    ]


def needed_here() -> set[str]:
    """Names of the distributions that `make` installs: ours, theirs, and so on."""
    lines = [(line, "") for line in PROJECT["dependencies"]]
    lines += [(line, "") for extra in INSTALLED_BY_MAKE for line in PROJECT["optional-dependencies"][extra]]
    names, seen = set(), set()
    while lines:
        line, extra = lines.pop()
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if OF_THE_MACHINE.match(name) or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        names.add(name)
        for wanted in {"", *requirement.extras} - {one for known, one in seen if known == name}:
            seen.add((name, wanted))
            lines += [(line, wanted) for line in distribution(name).requires or []]
    return names


def test_what_is_needed_includes_what_is_needed_indirectly() -> None:
    names = needed_here()
    assert {"torch", "zarr", "donfig", "werkzeug", "sympy"} <= names
    assert len(names) > len({canonicalize_name(one.name) for one in declared()})


def test_every_installed_release_is_the_pinned_one() -> None:
    pins = pins_for({key: str(value) for key, value in default_environment().items()})
    wrong = []
    for name in sorted(needed_here()):
        found = Version(distribution(name).version)
        if not any(pin.specifier.contains(Version(found.public), prereleases=True) for pin in pins.get(name, [])):
            wrong.append(f"{name} {found}, pinned: {[str(pin) for pin in pins.get(name, [])]}")
    assert not wrong, f"{wrong}; run make constraints, or make again"


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_one_release_of_each_fits_every_python_and_system(python: str, system: str) -> None:
    values = environment(python, system)
    pins = pins_for(values)
    assert not {name: found for name, found in pins.items() if len(found) > 1}
    for asked in declared():
        if OF_THE_MACHINE.match(asked.name) or (asked.marker and not asked.marker.evaluate(values)):
            continue
        (pin,) = pins.get(canonicalize_name(asked.name), [None])
        assert pin is not None, f"{asked} is not pinned"
        (release,) = pin.specifier
        assert asked.specifier.contains(release.version, prereleases=True), f"{asked} refuses {pin}"


def test_pins_are_exact_releases_without_a_url_or_path() -> None:
    for line, pin in zip(LINES, PINS, strict=True):
        assert pin.url is None
        assert [one.operator for one in pin.specifier] == ["=="], line
        assert not re.search(r"[/\\@]|--|\*", line.partition(";")[0]), line
        assert not OF_THE_MACHINE.match(pin.name), f"{line}: PyTorch pins it itself"


def test_python_has_a_lowest_release_and_no_highest() -> None:
    # Every pin has wheels for releases of Python that came after the last one tested here.
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
