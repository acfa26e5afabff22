"""What an editor or an operating system leaves in a folder is no data, wherever a folder is listed."""

from __future__ import annotations

from pathlib import Path

import pytest
import zarr
from click.testing import CliRunner
from store_making import make_store

from mmearth_data import load_catalog
from mmearth_data.cli import cli
from mmearth_data.errors import InputError
from mmearth_data.interchange.hdf5_folder import find_files
from mmearth_data.resources import resource_path

LEFT = b"\0\5\x16\7" * 20
"""Begins as the files with which macOS keeps attributes on other file systems."""


def test_a_catalog_folder(tmp_path: Path) -> None:
    shipped = resource_path("catalog") / "modalities" / "aster.yaml"
    (tmp_path / "mine.yaml").write_text(shipped.read_text().replace("name: aster", "name: mine"))
    (tmp_path / "._mine.yaml").write_bytes(LEFT)
    assert "mine" in load_catalog(tmp_path).modalities
    (tmp_path / "mine.yaml").unlink()
    with pytest.raises(InputError, match="found nothing"):
        load_catalog(tmp_path)


def test_a_folder_of_a_published_data_set(tmp_path: Path) -> None:
    for name in ("x.h5", "x_band_stats.json", "x_splits.json", "x_tile_info.json", "._x.h5", ".y.h5"):
        (tmp_path / name).write_bytes(LEFT)
    (tmp_path / ".x.partial").mkdir()
    (tmp_path / ".x.partial" / "0.h5").write_bytes(LEFT)
    assert find_files(tmp_path, None).h5 == tmp_path / "x.h5"


def test_the_only_store_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.zarr", ".b.zarr", "__MACOSX"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["inspect"])
    assert "a.zarr" in done.output
    assert "Expected one store" not in done.output
    zarr.create_array(tmp_path / "other.zarr", shape=(2,), dtype="u1")
    assert CliRunner().invoke(cli, ["inspect"]).output == done.output
    make_store(tmp_path / "whole.zarr")
    monkeypatch.chdir(tmp_path / "whole.zarr")  # whose folders are arrays
    within = CliRunner().invoke(cli, ["inspect"])
    assert within.exit_code == 0, within.output
