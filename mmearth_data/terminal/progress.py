"""Progress of all commands on stderr: one live line on a terminal, otherwise a line of text at intervals."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from mmearth_data.terminal.volume import is_quiet

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_LINE_S = 1.0
"""Seconds after which the first line is written without a terminal: shorter commands write none."""
LINE_EVERY_S, LONGEST_S, SHARE = 10.0, 60.0, 0.01
"""Minimum and maximum seconds between lines without a terminal; in between, a share of the time since the start."""
MEMORY_S = 300.0
"""Seconds over which the rate is measured."""
TITLE_SHARE = 0.36
"""Share of a terminal's width that a title takes at most."""
NARROW = 100
"""Columns of a terminal below which the bar is short."""


class Meter:
    """Progress of a command; call it with the amount of finished work.

    ``title`` describes what the command does; it may change.
    """

    def __init__(self, title: str, unit: str, remark: str, bar: Progress) -> None:
        self.unit, self._bar = unit, bar
        self._start = time.monotonic()
        self._task = bar.add_task(title, total=None, remark=remark, title=_fitted(title, bar.console.width))

    def __call__(self, done: float, total: float | None = None, remark: str = "", *, title: str | None = None) -> None:
        """Show progress.

        Parameters
        ----------
        done, total
            In the unit of the meter; None if the total is not known.
        remark
            Further text to show.
        title
            New title, if the command begins another step. The rate is then measured afresh.
        """
        if title is not None and title != self.title:
            fitted = _fitted(title, self._bar.console.width)
            self._bar.reset(self._task, description=title, total=total, title=fitted)
        self._bar.update(self._task, completed=done, total=total, remark=remark)

    @property
    def title(self) -> str:
        """What the command does."""
        return self._bar.tasks[0].description

    @property
    def counted(self) -> bool:
        """Whether a total is known."""
        return bool(self._bar.tasks[0].total)

    def line(self) -> str:
        """Describe the progress in a line."""
        return f"{self.title}: {figures(self._bar.tasks[0], self.unit, time.monotonic() - self._start)}"


def _fitted(title: str, width: int) -> str:
    """Shorten a title to its first word and its end."""
    most = int(TITLE_SHARE * width)
    if len(title) <= most:
        return title
    first = title.split(" ", 1)[0]
    return f"{first} …{title[len(first) + 2 - most :]}"


@contextmanager
def meter(title: str, unit: str, remark: str = "") -> Iterator[Meter]:
    """Show progress on stderr while the block runs.

    On a terminal, that is one line with a bar, rate and remaining time, from the beginning. Otherwise, a line of text is
    written after a second, then at most every ten seconds, and at the end. With ``--quiet``, nothing is shown.

    Parameters
    ----------
    title
        What the command does: ``Building planet.zarr``.
    unit
        What is counted: ``tiles``.
    remark
        Text shown before the first report.
    """
    console = Console(stderr=True)
    live = console.is_terminal and not console.is_dumb_terminal
    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn(
            "{task.fields[title]}",
            table_column=Column(no_wrap=True, min_width=min(len(title), int(TITLE_SHARE * console.width))),
            markup=False,
        ),
        BarColumn(bar_width=10 if console.width < NARROW else 30),
        _Figures(unit),
    )
    quiet = is_quiet()
    with Progress(*columns, console=console, disable=quiet or not live, speed_estimate_period=MEMORY_S) as bar:
        shown = Meter(title, unit, remark, bar)
        with _lines(shown, console) if not (quiet or live) else bar:
            yield shown


@contextmanager
def _lines(shown: Meter, console: Console) -> Iterator[None]:
    """Write a line at intervals, from a thread, because the next report may take minutes."""
    ended = threading.Event()

    def write() -> None:
        start, pause = time.monotonic(), FIRST_LINE_S
        while not ended.wait(pause):
            console.out(shown.line(), highlight=False)
            pause = min(LONGEST_S, max(LINE_EVERY_S, SHARE * (time.monotonic() - start)))

    thread = threading.Thread(target=write, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if shown.counted:
        console.out(shown.line(), highlight=False)


class _Figures(ProgressColumn):
    """Counts, rate and remaining time."""

    def __init__(self, unit: str) -> None:
        super().__init__(Column(no_wrap=True))
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Describe a task."""
        return Text(figures(task, self.unit, task.elapsed or 0.0))


def figures(task: Task, unit: str, elapsed_s: float) -> str:
    """Describe a task: what is done, the rate, the remaining or elapsed time, and its remark."""
    remark = str(task.fields["remark"])
    if not task.total:
        return ", ".join(filter(None, (remark, f"{clock(elapsed_s)} elapsed")))
    done = f"{task.completed:,.0f}/{task.total:,.0f} {unit}"
    speed = task.finished_speed or task.speed
    parts = [done, rate(speed) if speed else ""]
    if task.completed >= task.total or not speed:
        parts.append(f"{clock(elapsed_s)} elapsed")
    else:
        parts.append(f"{clock((task.total - task.completed) / speed)} left")
    return ", ".join(filter(None, (*parts, remark)))


def rate(per_s: float) -> str:
    """Format a rate per second, or per minute if it is slower.

    Examples
    --------
    >>> rate(1234.5), rate(8.14), rate(0.05)
    ('1,234/s', '8.1/s', '3.0/min')
    """
    if per_s < 1:
        return f"{60 * per_s:.1f}/min"
    return f"{per_s:,.0f}/s" if per_s >= 10 else f"{per_s:.1f}/s"


def clock(seconds: float) -> str:
    """Format a duration.

    Examples
    --------
    >>> clock(75), clock(3675), clock(200_000)
    ('1:15', '1:01:15', '55:33:20')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
