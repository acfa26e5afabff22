"""What both command lines share: every error is one line and the exit code of its family."""

from __future__ import annotations

import errno
from typing import Any

import click

from mmearth_data.errors import EXIT_FAILURE, EXIT_INTERRUPTED, MMEarthError
from mmearth_data.words import describe_os_error


class CommandGroup(click.Group):
    """Group of commands whose errors end in one line: 1 failed, 2 wrong input, 130 interrupted."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        super().__init__(*args, context_settings={**settings, **attributes.pop("context_settings", {})}, **attributes)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever the command returns
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except MMEarthError as error:
            raise _refusal(str(error), error.exit_code) from None
        except ModuleNotFoundError as error:
            raise _refusal(_what_to_install(error), EXIT_FAILURE) from None
        except KeyboardInterrupt:
            raise _refusal("interrupted; run the same command to continue.", EXIT_INTERRUPTED) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of our output left: click ends quietly
                raise
            raise _refusal(describe_os_error(error), EXIT_FAILURE) from None


def _refusal(message: str, exit_code: int) -> click.ClickException:
    """Error as click shows it: one line on stderr, then exit with this code."""
    refusal = click.ClickException(message)
    setattr(refusal, "exit_code", exit_code)  # noqa: B010 - click reads it off the instance, but types it on the class
    return refusal


def _what_to_install(error: ModuleNotFoundError) -> str:
    return f"expected the library {error.name}, which is not installed; pip install 'mmearth[model]' brings it."
