"""The report of runs in a real browser: curves are chosen, pictures change, a click on the map names the right tile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import yaml
from chromium import WIDTHS, WatchedWindow, chromium_browser
from click.testing import CliRunner
from toy_store import TINY, write_store

from mmearth_data import format_tile_id, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.browser

RECIPE = {
    **{key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items()},
    "epochs": 3,
    "batch_size": 12,
    "figure_epochs": 1,
    "exclude": ["eco_region"],
}
VISIBLE = """(name) => { const source = Bokeh.documents[0].get_model_by_name(`${name}-curves`);
    const filter = [...Bokeh.documents[0]._all_models.values()].filter((m) => m.type === 'GlyphRenderer' && m.data_source === source)[0].view.filter;
    return [...filter.indices].map((i) => `${source.data.run[i]} ${source.data.task[i]}`); }"""
POINT = """(tile) => { const source = Bokeh.documents[0].get_model_by_name('embedding-source');
    const find = (view) => view.model.type === 'Figure' && view.model.renderers.some((r) => r.data_source === source) ? view
        : (view.child_views ?? []).map(find).find(Boolean);
    const view = Bokeh.documents[0].roots().map((root) => find(Bokeh.index.find_one(root))).find(Boolean);
    const place = [...source.data.tile].indexOf(tile), box = view.canvas.el.getBoundingClientRect();
    return [box.left + view.frame.x_scale.compute(source.data.x[place]), box.top + view.frame.y_scale.compute(source.data.y[place])]; }"""
"""Where the point of a tile is in the window, in pixels."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, probes of the first, and their page."""
    from mmearth_model.cli import cli

    folder = tmp_path_factory.mktemp("browser")
    write_store(folder / "toy.zarr", 48)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    train = ["pretrain", folder / "toy.zarr", "--recipe", folder / "tiny.yaml"]
    probe = ["evaluate", folder / "one", "--task", "store:esa_worldcover", "--seeds", 2, "--cache", folder / "cache"]
    for words in (
        [*train, "--out", folder / "one"],
        [*train, "--out", folder / "two", "--lr", "0.01", "--weighting", "unweighted"],
        [*probe, "--out", folder / "probes"],
        ["report", *(folder / name for name in ("one", "two", "probes")), "--html", folder / "report.html"],
    ):
        result = CliRunner().invoke(cli, [*map(str, words), "--device", "cpu"])
        assert result.exit_code == 0, result.output
    assert (folder / "report.html").stat().st_size < 5_000_000
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with chromium_browser() as running:
        yield running


class Window(WatchedWindow):
    """A window with the report."""

    def __init__(self, chromium: Any, page: Path, *, width: int = 1600, scheme: str = "light") -> None:
        options: dict[str, Any] = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
        super().__init__(chromium, "file://", reduced_motion="reduce", **options)
        self.page.goto(page.as_uri())
        self.page.wait_for_function("globalThis.Bokeh?.documents[0]?.is_idle")

    def section(self, name: str) -> Any:
        return self.page.locator(f"#{name}")

    def curves(self, name: str) -> list[str]:
        return list(self.page.evaluate(VISIBLE, name))


def test_choosing_tasks_and_runs_changes_the_curves(folder: Path, chromium: Any) -> None:
    tasks = [name.removeprefix("weight:") for name in pd.read_csv(folder / "one" / "log.csv").columns if ":" in name]
    with Window(chromium, folder / "report.html") as window:
        losses = window.section("losses")
        assert window.curves("losses") == ["one total", "two total"]
        losses.get_by_role("checkbox", name="era5").check()
        losses.get_by_role("checkbox", name="total").uncheck()
        assert window.curves("losses") == ["one era5", "two era5"]
        losses.get_by_role("checkbox", name="two").uncheck()
        assert window.curves("losses") == ["one era5"]
        losses.get_by_role("button", name="logarithmic").click()
        losses.get_by_text("epochs", exact=True).click()
        axes = (
            "[...Bokeh.documents[0]._all_models.values()].filter((m) => m.type === 'LogAxis').map((m) => m.axis_label)"
        )
        window.page.wait_for_function(f"({axes}).length === 2")
        assert window.curves("losses") == ["one era5"]
        assert sorted(window.curves("weights")) == sorted(f"one {task}" for task in tasks)  # the other run has none


def test_the_slider_and_the_lists_change_the_pictures(folder: Path, chromium: Any) -> None:
    test = open_store(folder / "toy.zarr").select(split="test")
    tiles = [format_tile_id(int(tile)) for tile in test.coords["tile_id"]]
    with Window(chromium, folder / "report.html") as window:
        section = window.section("reconstructions")
        assert section.locator(".stage.prediction").first.is_visible()
        assert not section.locator(".stage.truth").first.is_visible()
        section.locator(".noUi-handle").first.focus()
        window.page.keyboard.press("ArrowRight")
        section.locator(".stage.truth").first.wait_for(state="visible")
        section.get_by_text("Shown: truth").wait_for(state="visible")
        assert not section.locator(".stage.prediction").first.is_visible()
        for _ in range(3):
            window.page.keyboard.press("ArrowLeft")
        section.locator(".stage.input").first.wait_for(state="visible")
        section.get_by_label("all side by side").check()
        for stage in ("input", "mask", "prediction", "truth"):
            section.locator(f".stage.{stage}").first.wait_for(state="visible")
        assert tiles[0] in section.locator(".head").inner_text()
        section.get_by_role("combobox", name="Tile").select_option(index=3)
        section.get_by_text(f"Tile {tiles[-1]}").wait_for(state="visible")


def test_a_click_on_the_map_names_the_tile(folder: Path, chromium: Any) -> None:
    store = open_store(folder / "toy.zarr")
    with Window(chromium, folder / "report.html") as window:
        section = window.section("embeddings")
        section.scroll_into_view_if_needed()
        shown = section.locator(".chosen b")
        tile = format_tile_id(int(store.coords["tile_id"][17]))
        window.page.mouse.click(*window.page.evaluate(POINT, tile))
        window.page.wait_for_timeout(300)
        near = window.page.evaluate("Bokeh.documents[0].get_model_by_name('embedding-source').selected.indices.length")
        assert near >= 1
        chosen = shown.inner_text()
        assert section.get_by_role("combobox", name="Tile").locator("option:checked").inner_text().endswith(chosen)
        assert section.locator(f'.chosen > img[alt="tile {chosen}"]').count() == 1
        box = window.page.evaluate(POINT, tile), window.page.evaluate(POINT, chosen)
        assert max(abs(a - b) for a, b in zip(*box, strict=True)) < 12  # tiles of one kind overlap


def test_the_map_works_by_keyboard(folder: Path, chromium: Any) -> None:
    with Window(chromium, folder / "report.html") as window:
        section = window.section("embeddings")
        tiles = section.get_by_role("combobox", name="Tile")
        tiles.focus()
        before = section.locator(".chosen b").inner_text()
        window.page.keyboard.press("ArrowDown")
        window.page.wait_for_timeout(300)
        after = section.locator(".chosen b").inner_text()
        assert after != before
        assert tiles.locator("option:checked").inner_text().endswith(after)
        selected = "(() => { const s = Bokeh.documents[0].get_model_by_name('embedding-source'); return s.data.tile[s.selected.indices[0]]; })()"
        assert window.page.evaluate(selected) == after
        section.get_by_role("combobox", name="Run").select_option(label="two")
        window.page.wait_for_timeout(300)
        assert section.locator(".chosen b").inner_text() == after


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_phones_and_wide_windows_in_light_and_dark(folder: Path, chromium: Any, width: int, scheme: str) -> None:
    with Window(chromium, folder / "report.html", width=width, scheme=scheme) as window:
        assert window.page.evaluate("document.documentElement.scrollWidth") <= width
        paper = window.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, paper[4:-1].split(","))) > 600) == (scheme == "light")
        window.screenshot(f"train-report-{width}-{scheme}.png")
