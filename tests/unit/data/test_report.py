"""Report of a store: what the page says is counted a second time, and bad stores give a page that says so."""

from __future__ import annotations

import ast
import base64
import html as markup
import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import store_making
import yaml
from click.testing import CliRunner, Result
from pyproj import Geod

from mmearth_data import open_store, store_report
from mmearth_data.cli import cli
from mmearth_data.inspection.report import facts, places
from mmearth_data.inspection.report.fields import fields_of
from mmearth_data.inspection.report.places import map_rows
from mmearth_data.opened import Store
from mmearth_data.pages.parts import Tone
from mmearth_data.store.ledger import write_ledger

TILES = 18  # 21 rows, three of them without a tile
SECTIONS = ["what", "map", "tiles", "modalities", "missing", "splits", "built", "licences"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "made.zarr"
    store_making.make_store(path)
    return path


@pytest.fixture(scope="module")
def html(path: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("page") / "report.html"
    size = store_report(open_store(path), target)
    assert target.stat().st_size == size
    return target.read_text(encoding="utf-8")


def data_of(html: str) -> dict[str, Any]:
    """Values that the script of a report reads."""
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    values: dict[str, Any] = json.loads(found[1])
    return values


def numbers(text: str, dtype: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), dtype)


def code_of(html: str) -> str:
    """Text of the code blocks of a page."""
    return "\n".join(map(markup.unescape, re.findall(r"<code[^>]*>(.*?)</code>", html, re.DOTALL)))


def notices(html: str) -> list[str]:
    return re.findall(r'<p class="notice[^>]*>(.*?)</p>', html, re.DOTALL)


def test_sections_are_in_the_order_of_reading(html: str) -> None:
    assert re.findall(r'<section id="([a-z]+)"', html) == SECTIONS
    assert len(html.encode()) < 5_000_000


def test_rows_of_the_map_count_every_tile(html: str, path: Path) -> None:
    data, frame = data_of(html), open_store(path).tiles
    assert data["tiles"] == len(frame) == numbers(data["count"], "<u4").sum()
    assert data["ids"] == [f"{tile_id:016x}" for tile_id in frame["tile_id"]]
    split = next(field for field in data["fields"] if field["name"] == "split")
    found = Counter(split["values"][code] for code in numbers(split["codes"], "u1"))
    assert found == Counter(frame["split"])
    year = next(field for field in data["fields"] if field["name"] == "year")
    shown = [year["values"][code] for code in numbers(year["codes"], "u1")]
    years = frame["time"].dt.year
    assert shown == ["no date" if known != known else f"{known:.0f}" for known in years]


def test_cells_count_every_combination_of_the_fields(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(path)
    fields = fields_of(store)
    points = map_rows(store, fields)
    monkeypatch.setattr(places, "MOST_POINTS", 3)
    monkeypatch.setattr(places, "MOST_CELLS", 5)
    cells = map_rows(store, fields)
    assert cells.tiles is None
    assert cells.side_m > 0
    assert len(cells.x) <= 5
    expected = Counter(zip(*(code.tolist() for code in points.codes), strict=True))
    found: Counter[tuple[int, ...]] = Counter()
    for *codes, count in zip(*(code.tolist() for code in cells.codes), cells.count.tolist(), strict=True):
        found[tuple(codes)] += count
    assert found == expected
    tiles = np.bincount(cells.point, weights=cells.count)
    assert np.isclose((cells.x * tiles).sum(), points.x.sum())


def test_distances_are_those_along_the_ellipsoid() -> None:
    rng = np.random.default_rng(5)
    lon, lat = rng.uniform(-180, 180, 60), rng.uniform(-85, 85, 60)
    lon[:2], lat[:2] = (179.999, -179.999), (10.0, 10.0)  # neighbours across 180 degrees
    split = np.array([0, 1] * 30, dtype=np.uint8)
    found = facts.nearest_train(lon, lat, split)["val"]
    geod = Geod(ellps="WGS84")
    for metres, k in zip(found, np.flatnonzero(split == 1), strict=True):
        others = np.flatnonzero(split == 0)
        along = [geod.inv(lon[k], lat[k], lon[other], lat[other])[2] for other in others]
        assert metres == pytest.approx(min(along), rel=0.01)
    assert found[0] < 300


def test_overlapping_splits_are_reported_as_leakage() -> None:
    lon, lat = np.array([10.0, 10.001, 20.0]), np.array([50.0, 50.0, 50.0])
    split = np.array([0, 2, 2], dtype=np.uint8)
    assert "Leakage" in facts._verdict(lon, lat, split, 64).text
    assert "No leakage" in facts._verdict(lon[::2], lat[::2], split[::2], 64).text


def test_tiles_overlap_across_180_degrees() -> None:
    split = np.array([0, 1, 0], dtype=np.uint8)
    lat = np.array([66.0, 66.0, -66.0])
    for lon in ([179.9999, -179.9999, 0.0], [-179.9999, 179.9999, 0.0], [180.0, -180.0, 0.0]):
        assert "Leakage" in facts._verdict(np.array(lon), lat, split, 64).text
    assert "No leakage" in facts._verdict(np.array([179.9, -179.9, 0.0]), lat, split, 64).text


def test_one_split_is_not_praised_for_leaking_nothing() -> None:
    lon, lat = np.array([10.0, 10.1]), np.array([50.0, 50.0])
    for split, words in ((0, "one split"), (255, "no split")):
        notice = facts._verdict(lon, lat, np.full(2, split, dtype=np.uint8), 64)
        assert notice.tone is not Tone.GOOD
        assert words in notice.text


def test_hidden_names_cannot_become_markup(path: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "<img src=x onerror=alert(1)>.zarr"
    shutil.copytree(path, hostile)
    target = tmp_path / "report.html"
    store_report(open_store(hostile), target)
    assert "<img src=x" not in target.read_text(encoding="utf-8")


def test_commands_to_copy_are_quoted(path: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "my 'store' $(touch x).zarr"
    shutil.copytree(path, hostile)
    store_report(open_store(hostile), tmp_path / "report.html")
    page = code_of((tmp_path / "report.html").read_text(encoding="utf-8"))
    commands = [shlex.split(line) for line in page.splitlines() if re.match("mmearth-data (verify|inspect) ", line)]
    assert len(commands) > 1
    assert all(words[2] == str(hostile) for words in commands)
    literal = re.search(r"open_store\((.*)\)", page)
    assert literal is not None
    assert ast.literal_eval(literal[1]) == str(hostile)


def test_an_unfinished_store_shows_what_is_committed(tmp_path: Path) -> None:
    writer = store_making.begin_store(tmp_path / "part.zarr")
    store_making.write_shard(writer, 0)
    html = report_of(open_store(tmp_path / "part.zarr"), tmp_path)
    assert any("Not finished" in notice and "1 of 3 shards" in notice for notice in notices(html))
    assert data_of(html)["tiles"] == 7


def test_a_store_without_tiles_still_gives_a_page(tmp_path: Path, path: Path) -> None:
    store = open_store(path)
    html = report_of(store.select(where=np.zeros(len(store), dtype=bool)), tmp_path)
    assert re.findall(r'<section id="([a-z]+)"', html) == SECTIONS
    assert any("no map" in notice for notice in notices(html))


def test_damage_is_named_and_the_rest_is_shown(tmp_path: Path, path: Path) -> None:
    broken = tmp_path / "broken.zarr"
    shutil.copytree(path, broken)
    shard = next(
        file for file in sorted((broken / "optical").rglob("*")) if file.is_file() and file.name != "zarr.json"
    )
    shard.write_bytes(b"\0" * shard.stat().st_size)
    record = broken / "_commits" / "1.parquet"
    record.write_bytes(record.read_bytes() + b"x")
    lost = next(file for file in sorted((broken / "height").rglob("*")) if file.is_file() and file.name != "zarr.json")
    lost.unlink()
    html = report_of(open_store(broken), tmp_path)
    text = " ".join(notices(html))
    assert f"{lost.relative_to(broken).as_posix()} is missing" in text
    assert "optical" in text
    assert "_commits/1.parquet has" in text
    assert re.search(rf"\d+ of {TILES} tiles, the others cannot be read", html)
    assert "at random" not in html
    assert re.findall(r'<section id="([a-z]+)"', html) == SECTIONS


def report_of(store: Store, folder: Path) -> str:
    target = folder / "report.html"
    store_report(store, target)
    return target.read_text(encoding="utf-8")


def test_the_citation_is_that_of_the_repository(repository: Path) -> None:
    paper = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))["references"][0]
    for author in paper["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in " ".join(facts.CITATION.split())
    for key in ("title", "url", "year"):
        assert str(paper[key]) in facts.CITATION


def command(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_the_page_goes_with_the_other_outputs(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "report.html"
    done = command("inspect", path, "--json", "--map", tmp_path / "map.png", "--html", target)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["tiles"] == TILES
    assert f"Wrote {target} ({target.stat().st_size / 1e6:.1f} MB)" in done.stderr.splitlines()
    assert (tmp_path / "map.png").exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_work(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "folder.html").mkdir()
    for wrong, words in ((tmp_path / "folder.html", "folder"), (tmp_path / "file" / "r.html", "--html")):
        done = command("inspect", path, "--html", wrong)
        assert done.exit_code == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_requests_are_shown_with_their_rates(path: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.zarr"
    shutil.copytree(path, asked)
    write_ledger(asked, "first", {"requests": {"computePixels": 300}, "retries": {"429": 30}, "seconds": 60.0})
    write_ledger(asked, "second", {"requests": {"computePixels": 100}, "retries": {"503": 10}, "seconds": 20.0})
    html = report_of(open_store(asked), tmp_path)
    rows = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", html))
    assert rows["requests: computePixels"] == "400"
    assert rows["retries: 429"] == "30"
    assert rows["seconds per request"] == "0.20"
    assert rows["retries per request"] == "0.100"
    assert "sentinel2_nodata" in html
