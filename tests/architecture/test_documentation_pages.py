"""The README and the pages of the documentation: short, complete, and with links that lead somewhere.

`make docs` also checks the links between pages and their anchors; here, files are checked as readers of the repository see
them. Nothing is requested from the network.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WRITTEN = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for pattern in ("*.md", "*.rst") for page in DOCS.rglob(pattern) if "_build" not in page.parts),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
README_LINES = 150
PAGE_WORDS = 100


def prose(text: str) -> str:
    """Text without fenced blocks and comments."""
    return re.sub(r"^(`{3,}).*?^\1|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and MyST make them, and those that it names itself."""
    text = prose(page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return made | set(re.findall(r"^\((\S+)\)=$", text, flags=re.MULTILINE))


def problem_of(link: str, page: Path) -> str | None:
    """What is wrong with a link; None for a good one."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        wellformed = parts.scheme == "https" and re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc)
        return None if wellformed else "expected an https URL"
    target = (page.parent / parts.path).resolve() if parts.path else page
    if not target.exists() or not target.is_relative_to(ROOT):
        return "leads nowhere"
    if parts.fragment and target.suffix == ".md" and parts.fragment not in anchors(target):
        return "has no such heading"
    return None


def test_every_link_leads_somewhere() -> None:
    found = [(page, link) for page in WRITTEN for link in LINK.findall(prose(page.read_text(encoding="utf-8")))]
    assert len(found) > 60
    wrong = [
        f"{page.relative_to(ROOT)}: {link} {problem_of(link, page)}" for page, link in found if problem_of(link, page)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "link", ["http://zarr.dev", "https://nowhere", "docs/missing.md", "docs/faq.md#missing", "../.."]
)
def test_a_wrong_link_is_found(link: str) -> None:
    assert problem_of(link, ROOT / "README.md")


def test_the_readme_is_short_and_shows_one_picture() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert (ROOT / picture).stat().st_size > 10_000


def test_every_page_is_in_the_table_of_contents_and_none_is_empty() -> None:
    trees = re.findall(r"^```{toctree}\n(.*?)^```", (DOCS / "index.md").read_text(encoding="utf-8"), re.M | re.S)
    named = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    pages = {page.relative_to(DOCS).with_suffix("").as_posix(): page for page in WRITTEN if page.is_relative_to(DOCS)}
    assert sorted(["index", *named]) == sorted(pages)
    texts = {name: page.read_text(encoding="utf-8") for name, page in pages.items()}
    generated = re.compile(r"{(?:include|model|recipes|fields|eval-rst)}|^\.\. click::", flags=re.MULTILINE)
    short = [n for n, text in texts.items() if len(prose(text).split()) < PAGE_WORDS and not generated.search(text)]
    assert short == []
