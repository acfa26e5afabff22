"""Command groups of both command lines: every error is one line and has the exit code of its family."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

import click

from mmearth_data.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_TERMINATED, MMEarthError
from mmearth_data.fields import Group
from mmearth_data.files.writing import FULL, describe_failure, error_number
from mmearth_data.terminal.options import Option
from mmearth_data.terminal.streams import printable_streams
from mmearth_data.terminal.volume import shown_logs, volume_options
from mmearth_data.words import describe_os_error, os_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals of Ctrl-C and of schedulers and containers before they kill a process."""
AGAIN_S = 0.02
"""Seconds until a signal is sent again whose exception Python could not raise where it arrived."""
RESUMES = f"{__name__}.resumes"
WORDS = f"{__name__}.words"
"""Keys of a context's ``meta``: whether the same command resumes (None for a server), and its command line."""
OURS = ("mmearth_data", "mmearth_model")
"""Our own packages, which are not third-party libraries."""
FIRST = "Most used"
"""Section of the help with the options that matter most."""
HYPHEN, SPACE = "\u2011", "\xa0"
"""What replaces ``-`` and spaces while lines are broken."""
NAMES_WIDTH = 26
"""Columns of help for the names of options; descriptions of longer ones begin on the next line."""


class Terminated(KeyboardInterrupt):
    """SIGTERM; it ends a command like Ctrl-C, with another exit code."""


class HelpFormatter(click.HelpFormatter):
    """Help in which no line breaks at a hyphen or in a short remark in brackets: options and values stay whole."""

    def write_text(self, text: str) -> None:
        """Write a paragraph."""
        write_paragraph = super().write_text
        write_paragraph(_unbroken(text))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write names with their descriptions."""
        super().write_dl([(name, _unbroken(text)) for name, text in rows], col_max, col_spacing)

    def getvalue(self) -> str:
        """Return what was written."""
        return super().getvalue().replace(HYPHEN, "-").replace(SPACE, " ")


def _unbroken(text: str) -> str:
    return re.sub(r"\[[^]]{1,30}\]", lambda remark: remark[0].replace(" ", SPACE), text).replace("-", HYPHEN)


class Context(click.Context):
    """Context whose help is written by `HelpFormatter`."""

    formatter_class = HelpFormatter


class Command(click.Command):
    """Command with options in sections; it records whether running it again resumes interrupted work.

    Parameters
    ----------
    resumes
        Whether running it again resumes, as a function of the command's parameters.
    first
        Parameters whose options come first in the help: the most used ones.
    serves
        Whether it is a server, which runs until it is stopped.
    """

    context_class = Context

    def __init__(
        self,
        *args: Any,
        resumes: Callable[[Mapping[str, Any]], bool] = lambda given: False,
        first: Sequence[str] = (),
        serves: bool = False,
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.no_args_is_help = any(parameter.required for parameter in self.params)
        self.params += volume_options(Option)
        self._resumes, self._first, self._serves = resumes, tuple(first), serves

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever the command returns
        """Run the command."""
        ctx.meta[RESUMES] = None if self._serves else self._resumes(ctx.params)
        with shown_logs(ctx):
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the most used options, then the others by `Group`, with all descriptions in one column."""
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in (FIRST, *Group)}
        rank = {name: number for number, name in enumerate(self._first)}
        for parameter in sorted(self.get_params(ctx), key=lambda each: rank.get(str(each.name), len(rank))):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                group = FIRST if parameter.name in rank else getattr(parameter, "group", Group.OTHER)
                sections[group].append(record)
        width = max(len(name) for rows in sections.values() for name, _ in rows if len(name) <= NAMES_WIDTH)
        for group, rows in sections.items():
            if rows:
                with formatter.section(group):
                    formatter.write_dl([(name.ljust(width), text) for name, text in rows], width)


class CommandGroup(click.Group):
    """Command group whose errors are one line; exit codes: 1 failed, 2 wrong input, 130 Ctrl-C, 143 SIGTERM."""

    command_class = Command
    context_class = Context

    def __init__(self, *args: Any, **attributes: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        super().__init__(*args, context_settings={**settings, **attributes.pop("context_settings", {})}, **attributes)
        self.params += volume_options(Option)
        self._is_process = False

    def main(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as click declares it
        """Run the program; characters that its streams cannot encode are replaced, also in errors."""
        self._is_process = not (args or options)  # called so by the script, which then ends
        with printable_streams():
            return super().main(*args, **options)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the command line, and remember it."""
        words = [info_name or "", *args]
        try:
            ctx = super().make_context(info_name, args, parent, **extra)
        except OSError as error:  # help could not be written
            raise _system_refusal(error) from None
        ctx.meta[WORDS] = words
        return ctx

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever the command returns
        """Run the chosen command."""
        try:
            with stop_signals(is_process=self._is_process):
                return super().invoke(ctx)
        except MMEarthError as error:
            raise _refusal(str(error), error.exit_code) from None
        except ModuleNotFoundError as error:
            raise _refusal(_what_to_install(error), EXIT_FAILURE) from None
        except KeyboardInterrupt as stop:
            exit_code = EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED
            raise _refusal(_stopped(ctx, exit_code), exit_code) from None
        except Exception as error:
            library = _broken_library(error)
            if library is not None:
                raise _refusal(_what_is_broken(library, error), EXIT_FAILURE) from None
            if isinstance(error, OSError):
                raise _system_refusal(error) from None
            raise


def ignore_stop_signals() -> None:
    """Ignore further stop signals: the command's work cannot be undone, and running it again would repeat it."""
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def stop_signals(*, is_process: bool = False) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM raise KeyboardInterrupt or `Terminated`; the next one ends the process at once.

    Only the main thread can handle signals; a signal that the parent process ignores (``nohup``) stays ignored. Handlers
    are restored, unless the process does nothing after the block (``is_process``) and it called `ignore_stop_signals`.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    process = os.getpid()
    received: list[KeyboardInterrupt] = []

    def stop(number: int, _frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        if os.getpid() != process:  # a forked child ends as if it had no handler
            os.kill(os.getpid(), number)
        received.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        raise received[-1]

    def stop_again(swallowed: sys.UnraisableHookArgs) -> None:
        # Finalizers and callbacks of weak references cannot raise: send the signal again once they are done.
        if not isinstance(swallowed.exc_value, KeyboardInterrupt):
            hook(swallowed)
            return
        for each in before:
            signal.signal(each, stop)
        again = signal.SIGTERM if isinstance(swallowed.exc_value, Terminated) else signal.SIGINT
        threading.Timer(AGAIN_S, os.kill, (process, again)).start()

    hook = sys.unraisablehook
    if before:
        sys.unraisablehook = stop_again
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except Exception as error:
        # What the signal interrupted may fail in its own way: a library whose import is cut short, above all.
        if received:
            raise received[-1] from error
        raise
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            if not (is_process and signal.getsignal(number) is signal.SIG_IGN):
                signal.signal(number, handler)


def _stopped(ctx: click.Context, exit_code: int) -> str:
    """Return the message about what is kept and how to resume."""
    begin = "terminated" if exit_code == EXIT_TERMINATED else "interrupted"
    command = shlex.join(ctx.meta[WORDS])
    if RESUMES not in ctx.meta:
        return f"{begin} before anything was done. Run the same command again: {command}"
    if ctx.meta[RESUMES] is None:
        return f"{begin}; the server is stopped"
    if ctx.meta[RESUMES]:
        return f"{begin}; finished work is kept. Run the same command to resume: {command}"
    return f"{begin}; no incomplete file is left. The same command starts from the beginning: {command}"


def _refusal(message: str, exit_code: int) -> click.ClickException:
    """Error for click: one line on stderr, and this exit code."""
    refusal = click.ClickException(message)
    setattr(refusal, "exit_code", exit_code)  # noqa: B010 - click reads it off the instance, but types it on the class
    return refusal


def _system_refusal(error: OSError) -> OSError | click.ClickException:
    """Error for click after a failed system call."""
    if error.errno == errno.EPIPE:  # the reader of our output left: click ends quietly
        return error
    failure = _system_failure(error)
    return _refusal(str(failure), failure.exit_code)


def _system_failure(error: OSError) -> MMEarthError:
    """One-line error for a failed system call, with the file."""
    if error.filename is None and error_number(error) in FULL:
        _abandon_output()
        return MMEarthError(f"the output cannot be written: {os_problem(error)}.")
    named = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    found = describe_failure(error, named) if named else None
    if found is not None:
        return found
    return MMEarthError(describe_os_error(error))


def _abandon_output() -> None:
    """Discard unwritten output, so that Python does not try to write it again at exit."""
    output = sys.stdout
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, output.fileno())
        os.close(nowhere)


def _what_to_install(error: ModuleNotFoundError) -> str:
    return f"expected the library {error.name}, which is not installed; run: pip install 'mmearth[model]'."


def _broken_library(error: Exception) -> str | None:
    """Name of the library whose import raised the error; None if nothing was imported, or only our own modules."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    modules = [frame.f_globals["__name__"].partition(".")[0] for frame in frames if frame.f_code.co_name == "<module>"]
    last = modules[-1] if modules else None
    if last in (None, *OURS) and isinstance(error, ImportError) and error.name:  # compiled modules have no frame
        last = error.name.partition(".")[0]
    return None if last in OURS else last


def _what_is_broken(library: str, error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return (
        f"expected the library {library} to load, got: {reason}; install a release that is compatible with "
        "the other libraries, or uninstall it if nothing needs it."
    )
