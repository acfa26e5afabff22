"""Files appear whole or not at all, on a disk that is really full or closed, and every failure is one line."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from small_disk import SmallDisk, small_disk

from mmearth_data import (
    CommandGroup,
    FileInputError,
    InputError,
    MMEarthError,
    WriteFailed,
    append_text,
    check_output,
    create_file,
    remove_partial,
    staged_array,
    staged_file,
    staged_folder,
    staged_stream,
    write_bytes,
    write_errors,
    write_text,
)
from mmearth_data.interchange.hdf5_writing import new_hdf5

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOISE = np.random.default_rng(0).integers(0, 256, 2**20, dtype=np.uint8)
"""More than the disk has free, and what no library compresses."""
FREE = 2**18


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("small")) as disk:
        yield disk


@pytest.fixture
def disk(mounted: SmallDisk) -> Iterator[SmallDisk]:
    """256 KiB free, and an older file."""
    (mounted.path / "old").write_text("old")
    mounted.fill(FREE)
    yield mounted
    mounted.free()
    for path in mounted.path.iterdir():
        path.unlink() if path.is_file() else os.rmdir(path)  # noqa: PTH106


def by_parquet(path: Path) -> None:
    with staged_file(path) as beside:
        pq.write_table(pa.table({"a": NOISE}), beside)


def by_hdf5(path: Path) -> None:
    """HDF5 that writes to a full disk itself ends the process when it closes the file."""
    with new_hdf5(path) as file:
        file.create_dataset("a", data=NOISE, chunks=(2**16,))


def by_numpy(path: Path) -> None:
    """NumPy reports a full disk without the system's number: "1048576 requested and 262016 written"."""
    with staged_file(path) as beside:
        NOISE.tofile(beside)


def by_stream(path: Path) -> None:
    with staged_stream(path) as stream:
        stream.write(NOISE.tobytes())


def by_array(path: Path) -> None:
    """Without the allocation, the system would end this very process."""
    with staged_array(path, np.uint8, NOISE.shape) as mapped:
        mapped[:] = NOISE


def by_folder(path: Path) -> None:
    with staged_folder(path) as beside:
        (beside / "first").write_text("small")
        (beside / "second").write_bytes(NOISE.tobytes())


WRITERS: list[Callable[[Path], None]] = [
    by_parquet,
    by_hdf5,
    by_numpy,
    by_stream,
    by_array,
    by_folder,
    lambda path: write_bytes(path, NOISE.tobytes()),
    lambda path: write_text(path, "x" * 2**20),
]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["new", "old"])
def test_a_full_disk_is_one_line_and_leaves_nothing(disk: SmallDisk, write: Callable[[Path], None], name: str) -> None:
    if write is by_folder and name == "old":
        (disk.path / "old").unlink()
    before = disk.files()
    with pytest.raises(
        WriteFailed, match=r"cannot be written: the disk is full .* run the same command again"
    ) as caught:
        write(disk.path / name)
    assert "\n" not in str(caught.value)
    assert "Errno" not in str(caught.value)
    assert str(disk.path / name) in str(caught.value)
    assert caught.value.exit_code == 1
    assert disk.files() == before
    disk.free()
    write(disk.path / name)
    assert len([path for path in disk.path.rglob("*") if path.name.startswith(".")]) == 0
    if write is by_folder:
        (disk.path / name / "first").unlink()
        (disk.path / name / "second").unlink()


def test_what_is_needed_is_said_where_it_is_known(disk: SmallDisk) -> None:
    with pytest.raises(WriteFailed, match=r"1\.0 MiB needed, 256\.0 KiB free"):
        write_bytes(disk.path / "new", NOISE.tobytes())
    with pytest.raises(WriteFailed, match=r"3\.0 GiB needed"), staged_file(disk.path / "new", needed_bytes=3 * 2**30):
        pytest.fail("known to be too large, and begun")


def test_a_log_keeps_its_whole_lines(disk: SmallDisk) -> None:
    write_text(disk.path / "log.csv", "step\n")
    disk.fill()
    whole = "step\n"
    refused = None
    while refused is None:
        line = f"{len(whole)}," * 100 + "\n"
        try:
            append_text(disk.path / "log.csv", line)
            whole += line
        except WriteFailed as error:
            refused = error
    assert "the disk is full" in str(refused)
    assert (disk.path / "log.csv").read_text() == whole


def test_a_claim_without_room_is_not_taken(disk: SmallDisk) -> None:
    disk.fill()
    with pytest.raises(WriteFailed, match="the disk is full"):
        create_file(disk.path / "claim", "me")
    assert not (disk.path / "claim").exists()
    disk.free()
    assert create_file(disk.path / "claim", "me")
    assert not create_file(disk.path / "claim", "you")
    assert (disk.path / "claim").read_text() == "me"


def test_a_disk_that_takes_no_files(disk: SmallDisk) -> None:
    disk.free()
    disk.remount("ro")
    try:
        for attempt in (*WRITERS, check_output, lambda path: append_text(path, "x")):
            with pytest.raises(WriteFailed, match=r"its folder is not writable \(Read-only file system\)"):
                attempt(disk.path / "new")
    finally:
        disk.remount("rw")


def test_an_output_is_tried_before_the_work(disk: SmallDisk) -> None:
    before = disk.files()
    check_output(disk.path / "a" / "b" / "c.parquet")
    check_output(disk.path / "run", folder=True)
    check_output("s3://bucket/store.zarr")
    assert disk.files() == before
    disk.fill()
    with pytest.raises(WriteFailed, match="the disk is full"):
        check_output(disk.path / "a" / "b" / "c.parquet")
    assert disk.files() == before


@pytest.mark.parametrize(
    ("path", "folder", "message"),
    [
        ("folder", False, "expected the name of a file to write, found a folder; choose another --map"),
        ("file", True, "expected the name of a folder to write, found a file; choose another --map"),
        ("file/below/x", False, "expected .*file to be a folder, found a file; choose another --map"),
    ],
)
def test_an_output_of_the_wrong_kind_is_refused(tmp_path: Path, path: str, folder: bool, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=message):
        check_output(tmp_path / path, folder=folder, option="--map")


@pytest.mark.parametrize("path", ["map.tif", "maps/map.tif", "../link/map.tif"])
def test_an_output_inside_a_store_is_refused(tmp_path: Path, path: str) -> None:
    store = tmp_path / "planet.zarr"
    (store / "tile_id").mkdir(parents=True)
    (store / "tile_id" / "zarr.json").write_text("{}")
    (tmp_path / "link").symlink_to(store)
    with pytest.raises(InputError, match=r"expected a path outside the store .*planet\.zarr"):
        check_output(store / path)
    check_output(store, folder=True)  # the store itself can be built on
    assert [file.name for file in store.iterdir()] == ["tile_id"]


@pytest.mark.parametrize("path", [".", "..", "sub/.."])
def test_the_folder_that_one_is_in_can_be_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    check_output(path, folder=True)
    with pytest.raises(InputError, match="expected the name of a file to write, found a folder"):
        check_output(path)


@pytest.mark.parametrize("write", [by_stream, lambda path: write_text(path, "x")])
def test_a_target_of_the_wrong_kind_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileInputError, match="expected the name of a file to write, found a folder"):
        write(tmp_path / "folder")
    with pytest.raises(FileInputError, match="expected a folder to write into, found a file"):
        write(tmp_path / "file" / "x")
    with pytest.raises(FileInputError, match=r"expected a folder to write into, found a file .*file\)"):
        by_folder(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"


def test_missing_folders_are_created_and_links_kept(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "text\r\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"text\r\n"
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b.txt")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a" / "b.txt").read_text() == "new"
    write_text(tmp_path / ("x" * 255), "the longest name")


def interrupted(path: Path) -> None:
    path.write_text("new")
    raise KeyboardInterrupt


def test_an_interrupted_writer_leaves_the_older_version(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with staged_folder(tmp_path / "folder") as beside:
        (beside / "x").write_text("old")
    with pytest.raises(KeyboardInterrupt), staged_file(tmp_path / "file") as beside:
        interrupted(beside)
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "folder") as beside:
        interrupted(beside / "y")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["file", "folder", "folder/x"]
    assert (tmp_path / "file").read_text() == "old"
    with staged_folder(tmp_path / "folder") as beside:
        (beside / "y").write_text("new")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["file", "folder", "folder/y"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with staged_file(tmp_path / "x") as first, staged_file(tmp_path / "x") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "x").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_a_killed_writer_left_is_removed_by_the_holder(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from mmearth_data import staged_file, staged_folder\n"
        "root = Path(sys.argv[1])\n"
        "with staged_file(root / 'x') as a, staged_folder(root / 'y') as b:\n"
        "    a.write_text('half'); (b / 'z').write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_errors_that_are_no_failures_to_write_pass(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged_file(tmp_path / "x"):
        _ = 1 / 0
    with pytest.raises(FileNotFoundError), staged_file(tmp_path / "x"):
        (tmp_path / "input").read_text()
    with pytest.raises(PermissionError), write_errors(tmp_path / "x"):
        raise PermissionError(13, "Permission denied", "/somewhere/else")
    with pytest.raises(MMEarthError, match="mine"), staged_folder(tmp_path / "x"):
        raise MMEarthError("mine")
    assert list(tmp_path.iterdir()) == []


def test_a_limit_of_the_user_is_named(tmp_path: Path) -> None:
    """RLIMIT_FSIZE, as `ulimit -f` sets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(WriteFailed, match=r"larger than .*ulimit -f.*choose another path") as caught:
            write_bytes(tmp_path / "x", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_names_the_file_and_no_number(tmp_path: Path) -> None:
    group = CommandGroup("group")

    @group.command()
    def read() -> None:
        (tmp_path / "missing").read_text()

    result = CliRunner().invoke(group, ["read"])
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path / 'missing'}: no such file or folder; correct the path.\n"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (
            "other.py",
            b"import broken_inside",
            "operator broken::nms does not exist",
        ),  # like torchvision built for another PyTorch
        ("broken.py", b"raise ValueError('numpy.dtype size changed\\nmore')", "numpy.dtype size changed"),
        ("broken.py", b"from json import no_such_name", "cannot import name 'no_such_name'"),
        (f"broken{EXTENSION_SUFFIXES[0]}", b"", "file too short"),
    ],
)
def test_an_installed_library_that_does_not_load_is_named(
    file: str, content: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_inside.py").write_text("raise RuntimeError('operator broken::nms does not exist')")
    (tmp_path / file).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    name = file.partition(".")[0]
    monkeypatch.delitem(sys.modules, name, raising=False)
    group = CommandGroup("group")

    @group.command()
    def work() -> None:
        importlib.import_module(name)

    result = CliRunner().invoke(group, ["work"])
    blamed = "broken_inside" if name == "other" else "broken"
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: expected the library {blamed} to load, got: ")
    assert reason in result.stderr
    assert result.stderr.endswith(
        "; install a release that is compatible with the other libraries, or uninstall it if nothing needs it.\n"
    )
    assert result.stderr.count("\n") == 1


def test_an_error_of_our_own_is_not_blamed_on_a_library() -> None:
    group = CommandGroup("group")

    @group.command()
    def work() -> None:
        raise RuntimeError("operator broken::nms does not exist")

    result = CliRunner().invoke(group, ["work"])
    assert isinstance(result.exception, RuntimeError)


@pytest.mark.parametrize("words", [["catalog", "--json"], ["--help"], ["catalog", "--help"]], ids=" ".join)
def test_a_full_disk_under_the_output_is_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        code = "from mmearth_data.cli import cli; cli(sys.argv[1:])"
        result = subprocess.run(
            [sys.executable, "-c", f"import sys; {code}", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == (
        "Error: the output cannot be written: the disk is full; free some space and run the same command again.\n"
    )


KILLED = """
import sys, time
from mmearth_data import staged_array, staged_file, staged_folder
with staged_folder(sys.argv[1] + "/run") as folder, staged_array(sys.argv[1] + "/a.npy", "f4", (3,)) as values:
    (folder / "part").write_text("part")
    with staged_file(sys.argv[1] + "/t.csv") as beside:
        beside.write_text("part")
        print("writing", flush=True)
        time.sleep(60)
"""
"""Write a folder, an array and a file, and never finish."""


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is writing to the folder."""
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def write_all(folder: Path) -> None:
    check_output(folder / "t.csv")
    write_text(folder / "t.csv", "new")
    with staged_folder(folder / "run") as run, staged_array(folder / "a.npy", "f4", (3,)) as values:
        (run / "part").write_text("whole")
        values[:] = 1


def test_what_a_killed_writer_left_is_removed_when_its_target_is_written(
    writing: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / ".partial-of-somebody-else").touch()
    writing.kill()
    writing.wait()
    assert len(list(tmp_path.glob(".partial-*"))) == 4
    write_all(tmp_path)
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"t.csv", "run", "a.npy", ".partial-of-somebody-else"}


def test_what_a_running_process_writes_is_kept(writing: subprocess.Popen[str], tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    write_all(tmp_path)
    assert before <= set(tmp_path.iterdir())
    assert len(before) == 3


def test_an_older_version_that_was_moved_aside_is_kept_until_a_new_one_is_whole(tmp_path: Path) -> None:
    """A process that is killed while it replaces a folder leaves the older version under a temporary name only."""
    code = "import sys, mmearth_data.files.temporary as t; from pathlib import Path; print(t.temporary_path(Path(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    older = Path(done.stdout.strip())
    older.mkdir()
    check_output(tmp_path / "run", folder=True)
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "run"):
        raise RuntimeError
    assert older.is_dir()
    with staged_folder(tmp_path / "run"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
