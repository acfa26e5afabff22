"""Extensions of STAC documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def used_extensions(document: Any, schemas: Mapping[str, str]) -> list[str]:  # noqa: ANN401 - nested JSON
    """Schemas, by the prefix of their fields, of the extensions whose fields occur anywhere in a document."""
    used = {name.partition(":")[0] for name in _names(document) if ":" in name}
    return [url for prefix, url in schemas.items() if prefix in used]


def _names(value: Any) -> Iterator[str]:  # noqa: ANN401 - nested JSON
    for part in value if isinstance(value, list) else ():
        yield from _names(part)
    for name, part in value.items() if isinstance(value, dict) else ():
        yield name
        yield from _names(part)
