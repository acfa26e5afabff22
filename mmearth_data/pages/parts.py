"""Components of a page, as data classes; `mmearth_data.pages.writing` renders them as HTML.

All texts are plain text: the templates escape them, so that a name from a store cannot become markup.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from mmearth_data.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bokeh.models.ui.ui_element import UIElement

    from mmearth_data.pages.style import ClassStyle

Cell: TypeAlias = "str | int | float | Link | Badge | Share | Amount | None"
"""Content of a table's cell or of a list's row; None is empty, numbers are sorted as numbers."""

NEARBY = re.compile(r"(?!/)[\w./%~-]+\.html")
"""Addresses relative to the page, percent-encoded."""


class Tone(StrEnum):
    """Meaning of a badge or a notice; the text must convey it too, because colour alone is not enough."""

    PLAIN = "plain"
    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


class Part(Protocol):
    """One block of a section."""

    template: ClassVar[str]
    """File in ``templates`` that renders it, without its ending."""

    @property
    def inner(self) -> Sequence[Part]:
        """Blocks inside of this one."""
        ...


class _Leaf:
    """A block without blocks inside."""

    __slots__ = ()

    @property
    def inner(self) -> Sequence[Part]:
        """No blocks."""
        return ()


@dataclass(frozen=True, slots=True)
class Link:
    """A text that leads to an address: ``https://``, ``#id`` of an element of the page, or another page near this one.

    Raises
    ------
    InputError
        If the address is anything else, such as one with another scheme.
    """

    text: str
    address: str

    def __post_init__(self) -> None:
        if not self.address.startswith(("https://", "http://", "#")) and not NEARBY.fullmatch(self.address):
            raise InputError(
                f"expected a link to https://, #id or a relative path, got {self.address!r}; use one of these."
            )


@dataclass(frozen=True, slots=True)
class Badge:
    """A short label, such as ``synthetic``."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Amount:
    """A number in a table with its own text, such as 15,204 as "14.8 KiB"; it is sorted as a number."""

    amount: float
    text: str


@dataclass(frozen=True, slots=True)
class Share:
    """A share of 0 to 1 in a table, as text on a bar of that length.

    Raises
    ------
    InputError
        If it is outside of 0 to 1.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"expected a share of 0 to 1, got {self.share}; divide the part by the whole.")


@dataclass(frozen=True, slots=True)
class Paragraph(_Leaf):
    """Text, in pieces if some of them are links."""

    template: ClassVar[str] = "paragraph"
    pieces: tuple[str | Link, ...]

    def __init__(self, *pieces: str | Link) -> None:
        object.__setattr__(self, "pieces", pieces)


@dataclass(frozen=True, slots=True)
class Status(_Leaf):
    """Line of text that scripts change and screen readers announce, such as "128 of 256 tiles".

    A script finds it by its ``id``: ``document.getElementById(id).textContent = ...``.
    """

    template: ClassVar[str] = "status"
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Facts(_Leaf):
    """Names and values, one pair per row."""

    template: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, Cell]]


@dataclass(frozen=True, slots=True)
class PageTable(_Leaf):
    """A table that users sort by clicking (or pressing Enter on) the heading of a column.

    Attributes
    ----------
    columns
        Heads.
    rows
        Cells, one per column; numbers are aligned to the right.
    caption
        What the table shows, for screen readers and above the table.
    sortable
        Whether the heads are buttons.
    """

    template: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    sortable: bool = True


@dataclass(frozen=True, slots=True)
class CodeBlock(_Leaf):
    """Code or a citation, with a button that copies it."""

    template: ClassVar[str] = "code"
    text: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Notice(_Leaf):
    """A highlighted sentence, such as a warning or a note about missing data."""

    template: ClassVar[str] = "notice"
    text: str
    tone: Tone = Tone.WARNING


@dataclass(frozen=True, slots=True)
class Picture(_Leaf):
    """An image inside the page.

    Attributes
    ----------
    data
        Contents of a PNG, WebP, JPEG or SVG file.
    alt
        Alternative text.
    caption, title
        Text below, and a highlighted line before it.
    pixelated
        Whether pixels stay square when the image is enlarged.
    """

    template: ClassVar[str] = "picture"
    data: bytes
    alt: str
    caption: str = ""
    pixelated: bool = False
    title: str = ""


@dataclass(frozen=True, slots=True)
class Pictures:
    """A grid of images.

    Attributes
    ----------
    pictures
        Images, in the order of reading.
    width_px
        Least width of a column.
    """

    template: ClassVar[str] = "pictures"
    pictures: Sequence[Picture]
    width_px: int = 160

    @property
    def inner(self) -> Sequence[Part]:
        """All pictures."""
        return self.pictures


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """A thumbnail that opens a dialog.

    Attributes
    ----------
    id
        Name within the page, such as a tile id; letters, digits, ``-`` and ``_``.
    picture
        Thumbnail.
    title
        Head of the dialog.
    detail
        Content of the dialog.
    groups
        Groups to which it belongs; the gallery shows one group at a time.
    """

    id: str
    picture: Picture
    title: str
    detail: Sequence[Part]
    groups: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Gallery:
    """A grid of thumbnails; a click or Enter opens the details in a dialog, Escape closes it.

    Attributes
    ----------
    id
        Name within the page.
    items
        Thumbnails.
    groups
        Name -> label of the buttons that choose which items are visible; the first is shown at the start.
    """

    template: ClassVar[str] = "gallery"
    id: str
    items: Sequence[GalleryItem]
    groups: Sequence[tuple[str, str]] = ()
    width_px: int = 96

    @property
    def inner(self) -> Sequence[Part]:
        """Contents of all dialogs."""
        return tuple(part for item in self.items for part in item.detail)


@dataclass(frozen=True, slots=True)
class Plot(_Leaf):
    """A figure, widget or layout of Bokeh; all plots of a page share one document, so that they can be linked.

    Attributes
    ----------
    model
        Figure, from `figure`, or a layout of figures and widgets.
    description
        Alternative text.
    """

    template: ClassVar[str] = "plot"
    model: UIElement
    description: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Legend(_Leaf):
    """Names of classes with their colours and shapes, for plots that use `class_styles`."""

    template: ClassVar[str] = "legend"
    styles: Sequence[ClassStyle]


@dataclass(frozen=True, slots=True)
class Choices(_Leaf):
    """Check boxes with a name for the group; a script of the page reads them.

    Attributes
    ----------
    name
        Name of the inputs.
    title
        Head of the group.
    options
        Value and label of each box; none is checked at the start.
    """

    template: ClassVar[str] = "choices"
    name: str
    title: str
    options: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Select(_Leaf):
    """A list from which users choose one entry, initially the first; a script of the page reads it."""

    template: ClassVar[str] = "select"
    id: str
    title: str
    options: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Button(_Leaf):
    """A button that a script of the page finds by its id."""

    template: ClassVar[str] = "button"
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Finder(_Leaf):
    """A text field that completes names, and buttons that step through them, for a script of the page.

    Attributes
    ----------
    id
        Name of the form within the page; the list of completions is ``{id}-names``.
    title, hint
        Label of the field, and the text in it while it is empty.
    details
        Text of the button that submits the form, as Enter in the field does; "" for none.
    """

    template: ClassVar[str] = "finder"
    id: str
    title: str
    hint: str
    details: str = ""


@dataclass(frozen=True, slots=True)
class Slot(_Leaf):
    """An empty element that a script of the page fills."""

    template: ClassVar[str] = "slot"
    id: str


@dataclass(frozen=True, slots=True)
class Data(_Leaf):
    """Values for the scripts of the page: ``JSON.parse(document.getElementById(id).textContent)``.

    Attributes
    ----------
    id
        Name within the page.
    value
        Dictionaries, lists, texts, numbers, None.
    """

    template: ClassVar[str] = "data"
    id: str
    value: Any


@dataclass(frozen=True, slots=True)
class Row:
    """Blocks in one line, such as a list and a button; they wrap in a narrow window."""

    template: ClassVar[str] = "row"
    parts: Sequence[Part]
    sticky: bool = False
    """Whether it stays at the top of the window while its section is read."""

    @property
    def inner(self) -> Sequence[Part]:
        """All blocks."""
        return self.parts


@dataclass(frozen=True, slots=True)
class Sidebar:
    """Blocks in a side column if the window is wide enough, otherwise collapsed above the main blocks."""

    template: ClassVar[str] = "sidebar"
    title: str
    side: Sequence[Part]
    main: Sequence[Part]

    @property
    def inner(self) -> Sequence[Part]:
        """All blocks."""
        return (*self.side, *self.main)


@dataclass(frozen=True, slots=True)
class Columns:
    """Blocks side by side if the window is wide enough, otherwise one below the other."""

    template: ClassVar[str] = "columns"
    parts: Sequence[Part]
    width_px: int = 360

    @property
    def inner(self) -> Sequence[Part]:
        """All blocks."""
        return self.parts


@dataclass(frozen=True, slots=True)
class Details:
    """Collapsible blocks with a heading that opens and closes them."""

    template: ClassVar[str] = "details"
    summary: str
    parts: Sequence[Part]
    open: bool = False

    @property
    def inner(self) -> Sequence[Part]:
        """All blocks."""
        return self.parts


@dataclass(frozen=True, slots=True)
class Section:
    """Section of a page with a heading and an entry in the table of contents.

    Attributes
    ----------
    id
        Name within the page (``#id``); letters, digits, ``-`` and ``_``.
    title
        Head.
    parts
        Blocks, in the order of reading.
    lead
        Sentence below the head.
    """

    id: str
    title: str
    parts: Sequence[Part]
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes
    ----------
    title
        Its one main head, and the window's title.
    lead
        One or two sentences below.
    badges
        Labels next to the title.
    sections
        Sections, in the order of reading.
    footer
        Last line, such as what made the page.
    scripts
        JavaScript of the page's own, run after Bokeh's.
    """

    title: str
    sections: Sequence[Section]
    lead: str = ""
    badges: Sequence[Badge] = ()
    footer: str = ""
    scripts: Sequence[str] = ()


def walk(parts: Sequence[Part]) -> list[Part]:
    """All blocks, those inside of others included, in the order of reading."""
    return [found for part in parts for found in (part, *walk(part.inner))]


def plots_of(page: Page) -> list[Any]:
    """Bokeh's models of a page, in the order of reading."""
    parts = [part for section in page.sections for part in walk(section.parts)]
    return [part.model for part in parts if isinstance(part, Plot)]
