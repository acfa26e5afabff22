"""Bands of an image that are known by name before they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from mmearth_data.emulator.algorithms.image import Band

Makers: TypeAlias = Mapping[str, Callable[[], "Band"]]
"""Band name -> what makes it, in the order of the bands."""


class LazyBands(Sequence["Band"]):
    """Bands that are made when they are first looked at: most images of a search, and of what is selected from, never are."""

    __slots__ = ("_bands", "_find", "_makers")

    def __init__(self, makers: Callable[[], Makers]) -> None:
        self._find = makers
        self._makers: Makers | None = None
        self._bands: dict[str, Band] = {}

    def makers(self) -> Makers:
        """Give what makes each; the keys are the names of the bands, in order."""
        if self._makers is None:
            self._makers = self._find()
        return self._makers

    def named(self, name: str) -> Band | None:
        """Band of a name, if there is one."""
        found = self._bands.get(name)
        if found is None and name in self.makers():
            found = self._bands[name] = self.makers()[name]()
        return found

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - an index or a slice
        names = list(self.makers())[index]
        return tuple(map(self.named, names)) if isinstance(index, slice) else self.named(names)

    def __len__(self) -> int:
        return len(self.makers())
