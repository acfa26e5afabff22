"""Words of messages: errors of the operating system, without its numbers and with what to do."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from mmearth_data import describe_os_error, os_problem

if TYPE_CHECKING:
    from pathlib import Path


def _refused(path: Path) -> OSError:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - whichever subclass the system raises
        path.read_bytes()
    return caught.value


def test_refusals_of_the_system_name_the_file_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    missing, folder, below = tmp_path / "missing.csv", tmp_path, tmp_path / "file" / "x"
    assert describe_os_error(_refused(missing)) == f"{missing}: no such file or folder; correct the path."
    assert describe_os_error(_refused(folder)) == f"{folder}: expected a file, got a folder; correct the path."
    assert "a part of the path is a file" in describe_os_error(_refused(below))


def test_no_number_of_the_system_is_shown() -> None:
    for number in errno.errorcode:
        text = describe_os_error(OSError(number, "as the system says it", "x"))
        assert text.startswith("x: ")
        assert text.endswith(".")
        assert "Errno" not in text


def test_words_of_a_library_are_kept_in_one_line() -> None:
    assert os_problem(OSError("unable to open\n  the file.")) == "unable to open the file"
    assert describe_os_error(OSError("[Errno 2] gone")) == "Gone."
    assert os_problem(OSError()) != ""
