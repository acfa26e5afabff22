"""Pages: valid HTML whatever the texts are, no connection, resources once, and nothing half-written."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mmearth_data import (
    Amount,
    Badge,
    Button,
    Choices,
    CodeBlock,
    Columns,
    Data,
    Details,
    Facts,
    Gallery,
    GalleryItem,
    InputError,
    Legend,
    Link,
    Notice,
    Page,
    PageTable,
    Paragraph,
    Picture,
    Pictures,
    Plot,
    Row,
    Section,
    Select,
    Share,
    Sidebar,
    Slot,
    Status,
    Tone,
    WriteFailed,
    class_styles,
    page_figure,
    render_page,
    write_page,
)
from mmearth_data.pages.parts import Finder

HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>\"'&$$x^2$$"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Elements of a page with their texts; every element that is opened has to be closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID and tag != "path":
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def values(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


def everything(text: str) -> Page:
    """A page with every part, all of whose texts are ``text``."""
    figure = page_figure(text, x_axis_label=text)
    figure.scatter([1, 2], [1, 2], legend_label=text)
    picture = Picture(PNG, text, text)
    table = PageTable([text, "n"], [[text, 1], [Badge(text, Tone.BAD), 2.5], [Link(text, "#b"), None]], text)
    item = GalleryItem("one", picture, text, [Facts([(text, text), ("n", 12345)])], ["first"])
    parts = [
        *(Paragraph(text, Link(text, "https://example.org/?a=1&b=2")), Status("count", text), Notice(text), table),
        *(
            CodeBlock(text, text),
            Pictures([picture]),
            Gallery("g", [item], [("first", text)]),
            Plot(figure, text, text),
        ),
        *(Choices("c", text, [(text, text)]), Select("s", text, [(text, text)]), Button("button", text), Slot("slot")),
        *(
            Data("values", {text: [text, 1]}),
            Row([Sidebar(text, [Paragraph(text)], [])], sticky=True),
            PageTable([text], [[Share(0.25)], [Amount(3, text)]]),
            Finder("finder", text, text, text),
        ),
        *(Legend(class_styles([text])), Columns([Details(text, [Plot(page_figure(text), text)])])),
    ]
    return Page(text, [Section("a", text, parts, text), Section("b", "B", [])], text, [Badge(text)], text)


def executed(page: Reader) -> list[str]:
    """Texts of scripts that a browser runs."""
    kinds = [attributes.get("type") for tag, attributes in page.tags if tag == "script"]
    return [text for text, kind in zip(page.texts["script"], kinds, strict=True) if kind is None]


def test_texts_are_never_markup() -> None:
    html = render_page(everything(HOSTILE))
    page = Reader(html)
    plain = Reader(render_page(everything("plain")))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert page.texts["h1"] == [HOSTILE]
    assert page.texts["code"] == [HOSTILE]
    values = next(
        text
        for text, (_, a) in zip(page.texts["script"], [tag for tag in page.tags if tag[0] == "script"], strict=True)
        if a.get("id")
    )
    assert json.loads(values) == {HOSTILE: [HOSTILE, 1]}
    assert not any(attribute.startswith("on") for _, attributes in page.tags for attribute in attributes)


def test_nothing_is_loaded_and_only_own_scripts_run() -> None:
    html = render_page(everything(HOSTILE))
    page = Reader(html)
    policy = next(a["content"] or "" for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert "connect-src" not in directives
    assert "'unsafe-" not in directives["script-src"]
    for script in executed(page):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in directives["script-src"]
    assert all(value.startswith("data:") for value in page.values("src"))
    assert all(re.match(r"data:|#|https://example\.org/\?a=1&b=2$", value) for value in page.values("href"))


def test_bokeh_is_embedded_once_without_what_no_figure_needs() -> None:
    scripts = Reader(render_page(everything("$$x$$"))).texts["script"]
    assert len([text for text in scripts if "BokehJS" in text[:500] or "Copyright (c) Anaconda" in text[:500]]) == 1
    assert not any("MathJax" in text[:2000] for text in scripts)
    assert sum(map(len, scripts)) < 1_550_000
    bare = render_page(Page("No figure", [Section("a", "A", [Paragraph("text")])]))
    assert len(bare.encode()) < 25_000


def test_a_page_has_one_main_head_and_landmarks() -> None:
    page = Reader(render_page(everything("plain")))
    names = [tag for tag, _ in page.tags]
    assert [names.count(tag) for tag in ("h1", "main", "nav", "header", "footer")] == [1, 1, 1, 1, 1]
    assert page.values("href").count("#content") == 1
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == ["a", "b"]
    assert [href for href in page.values("href") if href.startswith("#")][1:3] == ["#a", "#b"]
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set(page.values("aria-labelledby")) <= set(ids)
    assert set(page.values("data-dialog")) <= set(ids)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")


def test_fourteen_classes_differ_by_more_than_colour() -> None:
    styles = class_styles([f"class {number}" for number in range(14)])
    assert len({(style.colour, style.marker) for style in styles}) == 14
    assert len({style.marker for style in styles}) == 14
    assert len({style.path for style in styles}) == 14


def test_bokeh_knows_every_marker() -> None:
    from bokeh.core.enums import MarkerType

    assert {style.marker for style in class_styles(["x"] * 14)} <= set(MarkerType)


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "page.html"
    size = write_page(everything("plain"), target)
    assert target.stat().st_size == size
    assert [file.name for file in target.parent.iterdir()] == ["page.html"]
    with pytest.raises(InputError, match="folder"):
        write_page(everything("plain"), tmp_path / "new")
    with pytest.raises((WriteFailed, InputError)):
        write_page(everything("plain"), target / "below.html")


@pytest.mark.parametrize(
    "address",
    ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "", "//x/y.html", "/y.html", "x:y.html"],
)
def test_links_lead_to_the_web_to_the_page_or_to_one_nearby(address: str) -> None:
    with pytest.raises(InputError, match="https://"):
        Link("text", address)
    assert Link("text", "../demo/store%20x.html").address == "../demo/store%20x.html"
