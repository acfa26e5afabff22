"""Parts of cards in Markdown, for stores and for networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CITATION = """\
@inproceedings{nedungadi2024mmearth,
  title     = {MMEarth: Exploring Multi-Modal Pretext Tasks For Geospatial Representation Learning},
  author    = {Nedungadi, Vishal and Kariryaa, Ankit and Oehmcke, Stefan and Belongie, Serge and Igel, Christian and
               Lang, Nico},
  booktitle = {European Conference on Computer Vision (ECCV 2024)},
  year      = {2024},
  url       = {https://arxiv.org/abs/2405.02771}
}"""
"""How to cite MMEarth, as BibTeX."""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Markdown table; the columns ``right`` are aligned to the right. Empty text if there are no rows."""
    lines = [[_cell(text) for text in row] for row in rows]
    if not lines:
        return ""
    rule = ["---:" if column in right else "---" for column in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def markdown_text(text: str) -> str:
    """Text for one line of Markdown: HTML tags are shown, not interpreted."""
    return " ".join(text.split()).replace("<", "&lt;")


def _cell(text: str) -> str:
    return markdown_text(text).replace("|", "\\|")


def markdown_list(texts: Iterable[str]) -> str:
    """List with a bullet for each text."""
    return "\n".join(f"- {markdown_text(text)}" for text in texts)


def markdown_code(language: str, text: str) -> str:
    """Block of code."""
    return f"```{language}\n{text.strip()}\n```"
