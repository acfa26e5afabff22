"""The session that every command which makes a store goes through: what it refuses, resumes, and takes back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from small_disk import small_disk
from store_making import begin_store, digests, make_store, small_layout, write_shard
from test_store_building import FullDisk

from mmearth_data.errors import InputError, MMEarthError
from mmearth_data.store import StoreWriter, open_store, verify
from mmearth_data.store.session import NewStore, fill_store, find_store, session
from mmearth_data.store.storage.lock import StoreTaken

NEW = NewStore(layout=small_layout(), recipe={"seed": 3, "tiles": 21}, source={"name": "made up"}, synthetic=True)
"""What `make_store` makes."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same store, made without a session."""
    path = tmp_path_factory.mktemp("made") / "s.zarr"
    make_store(path)
    return path


def test_a_new_store_is_filled_and_sealed(made: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    fill_store(tmp_path / "s.zarr", NEW, write_shard, report=lambda *rows: progress.append(rows))
    assert digests(tmp_path / "s.zarr") == digests(made)
    assert progress == [(0, 21), (8, 21), (16, 21), (21, 21)]


def test_an_interrupted_one_is_resumed_and_a_finished_one_left_alone(made: Path, tmp_path: Path) -> None:
    out, notes, filled = tmp_path / "s.zarr", [], []
    write_shard(begin_store(out), 1)

    def fill(writer: StoreWriter, shard: int) -> None:
        filled.append(shard)
        write_shard(writer, shard)

    for _ in range(2):
        fill_store(out, NEW, fill, note=notes.append)
    assert filled == [0, 2]
    assert notes == [f"Resuming {out}: 1 of 3 shards are done."]
    assert digests(out) == digests(made)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"recipe": {"seed": 4, "tiles": 21}}, "recipe.seed: 3 -> 4"),
        ({"source": {"name": "measured"}}, "source.name: 'made up' -> 'measured'"),
        ({"synthetic": False}, "source.synthetic: True -> False"),
        ({"layout": small_layout(tiles=22)}, "layout.tiles: 21 -> 22"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_was_begun_from_something_else_is_refused(
    other: dict[str, object], difference: str, tmp_path: Path
) -> None:
    out = tmp_path / "s.zarr"
    begin_store(out)
    before = digests(out)
    with pytest.raises(InputError, match="was begun with") as caught:
        fill_store(out, replace(NEW, **other), write_shard)
    assert difference in str(caught.value)
    assert "\n" not in str(caught.value)
    assert digests(out) == before


def test_what_is_no_store_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name, words in (("file", "found a file"), ("folder", r"got other files \(notes.txt\)")):
        with pytest.raises(InputError, match=words):
            fill_store(tmp_path / name, NEW, write_shard)
    assert (tmp_path / "folder" / "notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert find_store(tmp_path / "empty") is None
    assert find_store(tmp_path / "absent") is None
    assert not any((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("path", ["b.zarr\0", "x" * 5000, "a/" * 3000])
def test_a_path_that_no_system_has_is_refused_in_one_line(path: str) -> None:
    for use in (open_store, find_store, verify):
        with pytest.raises(InputError, match="Expected the path or URL of a store, got") as caught:
            use(path)
        assert len(str(caught.value)) < 150
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("committed", [0, 1])
def test_a_store_without_a_tile_is_taken_back_when_an_input_fails(committed: int, tmp_path: Path) -> None:
    def fill(writer: StoreWriter, shard: int) -> None:
        if shard == committed:
            raise InputError("the input ends here")
        write_shard(writer, shard)

    out = tmp_path / "s.zarr"
    with pytest.raises(InputError, match="ends here"):
        fill_store(out, NEW, fill)
    assert out.exists() == bool(committed)
    fill_store(out, NEW, write_shard)
    assert verify(out).problems == ()


@pytest.mark.parametrize("kind", ["link", "folder"])
@pytest.mark.parametrize("fails", ["input", "disk"])
def test_a_folder_that_was_there_is_emptied_and_stays(
    kind: str, fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a symbolic link, which cannot be removed as a folder; the first error is the one that is reported."""
    real = tmp_path / "real"
    real.mkdir()
    out = tmp_path / "out"
    out.symlink_to(real) if kind == "link" else real.rename(out)

    def fill(writer: StoreWriter, shard: int) -> None:
        raise InputError("the input ends here")

    with monkeypatch.context() as patch:
        if fails == "disk":
            patch.setattr(os, "fsync", FullDisk(4))
        with pytest.raises(MMEarthError) as caught:
            fill_store(out, NEW, fill)
    assert ("the input ends here" if fails == "input" else "disk is full") in str(caught.value)
    assert out.is_symlink() == (kind == "link")
    assert list(out.iterdir()) == []
    fill_store(out, NEW, write_shard)
    assert verify(out).problems == ()


def test_a_mount_point_is_emptied(tmp_path: Path) -> None:
    def fill(writer: StoreWriter, shard: int) -> None:
        raise InputError("the input ends here")

    with small_disk(tmp_path) as disk:
        with pytest.raises(InputError, match="ends here"):
            fill_store(disk.path, NEW, fill)
        assert list(disk.path.iterdir()) == []


def test_what_cannot_be_removed_does_not_hide_the_first_error(tmp_path: Path) -> None:
    def fill(writer: StoreWriter, shard: int) -> None:
        (tmp_path / "s.zarr").rename(tmp_path / "moved")
        raise InputError("the input ends here")

    with pytest.raises(InputError, match="ends here"):
        fill_store(tmp_path / "s.zarr", NEW, fill)


def test_a_store_that_was_there_is_never_taken_back(tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    begin_store(out)

    def fill(writer: StoreWriter, shard: int) -> None:
        raise InputError("the input ends here")

    with pytest.raises(InputError, match="ends here"):
        fill_store(out, NEW, fill)
    assert not open_store(out).finished


def test_one_command_at_a_time(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    begin_store(out)
    with session(out) as work:
        work.hold()
        with pytest.raises(StoreTaken, match="is building"):
            fill_store(out, NEW, write_shard)
    fill_store(out, NEW, write_shard)
    assert digests(out) == digests(made)
