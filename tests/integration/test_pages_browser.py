"""The report of a store in a real browser: nothing is loaded, filters count right, everything works by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chromium import NO_WEBGL, WIDTHS, WatchedWindow, chromium_browser

from mmearth_data import build, make_recipe, open_store, store_report
from mmearth_data.inspection.report import places

pytestmark = pytest.mark.browser

TILES = 60


@pytest.fixture(scope="module")
def frame_and_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """Table of a store's tiles, and its report."""
    folder = tmp_path_factory.mktemp("browser")
    store = build(make_recipe("demo", {"tiles": TILES}), folder / "planet.zarr")
    page = folder / "report.html"
    assert store_report(open_store(store.path), page) < 5_000_000
    return pd.DataFrame(store.tiles.drop(columns="geometry")), page


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with chromium_browser() as running:
        yield running


class Window(WatchedWindow):
    """A window with the report."""

    def __init__(
        self, chromium: Any, page: Path, *, width: int = 1600, scheme: str = "light", script: str = ""
    ) -> None:
        options: dict[str, Any] = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
        super().__init__(chromium, "file://", script=script, **options)
        self.page.goto(page.as_uri())
        self.page.wait_for_function("globalThis.Bokeh?.documents[0]?.get_model_by_name('tiles')?.data.x.length > 0")

    def count(self) -> str:
        return str(self.page.inner_text("#count"))

    def choose(self, field: str, *labels: str) -> None:
        for label in labels:
            self.page.locator(f'fieldset[data-field="{field}"] label', has_text=label).first.click()

    def shown(self) -> dict[str, list[Any]]:
        """Columns of the points on the map."""
        code = "(() => { const d = Bokeh.documents[0].get_model_by_name('tiles').data; return {text: d.text, colour: d.colour, marker: d.marker}; })()"
        found: dict[str, list[Any]] = self.page.evaluate(code)
        return found

    def marked(self) -> list[str]:
        """Names of the chosen points."""
        code = "(() => { const s = Bokeh.documents[0].get_model_by_name('tiles'); return s.selected.indices.map((k) => s.data.name[k]); })()"
        return list(self.page.evaluate(code))


def test_nothing_is_loaded_and_nothing_is_complained_about(
    frame_and_page: tuple[pd.DataFrame, Path], chromium: Any
) -> None:
    frame, page = frame_and_page
    with Window(chromium, page) as window:
        assert window.count() == f"{len(frame)} of {len(frame)} tiles"
        # The policy refuses connections and scripts that are not part of the page.
        refused = "fetch('https://example.org/').then(() => 'loaded', () => 'refused')"
        assert window.page.evaluate(refused) == "refused"
        added = "(() => { const s = document.createElement('script'); s.textContent = 'globalThis.added = 1';"
        assert window.page.evaluate(f"{added} document.body.append(s); return globalThis.added ?? 0; }})()") == 0
        window.problems = [
            text for text in window.problems if "Content Security Policy" not in text and "example.org" not in text
        ]


def test_filters_count_what_pandas_counts(frame_and_page: tuple[pd.DataFrame, Path], chromium: Any) -> None:
    frame, page = frame_and_page
    with Window(chromium, page) as window:
        window.choose("split", "test")
        kept = frame[frame["split"] == "test"]
        assert window.count() == f"{len(kept)} of {len(frame)} tiles"
        assert len(window.shown()["text"]) == len(kept)
        ids = {f"{tile_id:016x}" for tile_id in kept["tile_id"]}
        assert {text.split()[1].rstrip(":") for text in window.shown()["text"]} == ids
        window.choose("split", "val")
        window.choose("year", "2018", "2020")
        years = frame["time"].dt.year
        kept = frame[frame["split"].isin(["val", "test"]) & years.isin([2018, 2020])]
        assert window.count() == f"{len(kept)} of {len(frame)} tiles"
        assert window.page.inner_text("#sampled") == f"{len(kept)} of {len(frame)} sampled tiles"
        window.page.click("#clear")
        assert window.count() == f"{len(frame)} of {len(frame)} tiles"
        window.page.select_option("#colour", "label")
        legend = window.page.locator("#map-legend li b").all_inner_texts()
        assert sorted(map(int, legend)) == sorted(n for n in frame["biome"].value_counts() if n)
        looks = window.shown()
        assert len(set(zip(looks["colour"], looks["marker"], strict=True))) == frame["biome"].nunique()


def test_distributions_follow_the_filters(frame_and_page: tuple[pd.DataFrame, Path], chromium: Any) -> None:
    frame, page = frame_and_page
    with Window(chromium, page) as window:
        biomes = window.page.locator(".panel", has_text="Biome").locator("li").all_inner_texts()
        shares = [float(text.split("\n")[-1].rstrip(" %")) for text in biomes]
        top = frame["biome"].value_counts(normalize=True).to_numpy() * 100
        assert shares[0] == pytest.approx(top[0], abs=0.06)
        path = window.page.locator(".histogram .part").first
        before = path.get_attribute("d")
        window.choose("split", "test")
        assert path.get_attribute("d") != before


def test_a_click_opens_the_tile_and_escape_closes_it(frame_and_page: tuple[pd.DataFrame, Path], chromium: Any) -> None:
    frame, page = frame_and_page
    with Window(chromium, page) as window:
        ids = set(frame["id"])
        thumbnail = window.page.locator(".thumbnail:visible").nth(3)
        name = str(thumbnail.get_attribute("data-dialog")).removeprefix("mosaic-")
        assert name in ids
        thumbnail.click()
        dialog = window.page.locator("dialog[open]")
        assert dialog.locator("h3").inner_text() == f"Tile {name}"
        row = frame[frame["tile_id"] == np.uint64(int(name, 16))].iloc[0]
        assert f"{abs(row['lat']):.4f}°" in dialog.inner_text()
        assert dialog.locator("img").count() >= 8
        window.page.keyboard.press("Escape")
        assert window.page.locator("dialog[open]").count() == 0


def test_a_click_on_the_map_names_the_tile(frame_and_page: tuple[pd.DataFrame, Path], chromium: Any) -> None:
    _, page = frame_and_page
    with Window(chromium, page) as window:
        code = """(() => { const d = Bokeh.documents[0].get_model_by_name('tiles').data;
            const view = [...Bokeh.documents[0].roots()].map((root) => Bokeh.index.find_one(root)).find((v) => v?.frame && v.model.x_scale && d.x.length && v.model.renderers.some((r) => r.name === 'points'));
            const box = view.canvas.el.getBoundingClientRect();
            const [x, y] = [view.frame.x_scale.compute(d.x[0]), view.frame.y_scale.compute(d.y[0])];
            window.scrollTo(0, window.scrollY + box.top - 100);
            const now = view.canvas.el.getBoundingClientRect();
            return [now.left + x, now.top + y, d.text[0]]; })()"""
        window.page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
        x, y, text = window.page.evaluate(code)
        window.page.mouse.click(x, y)
        window.page.wait_for_function("document.getElementById('selected').textContent !== ''")
        assert window.page.inner_text("#selected").startswith("Tile ")
        assert window.page.inner_text("#selected") in window.shown()["text"]
        assert text in window.shown()["text"]


def test_everything_works_by_keyboard(frame_and_page: tuple[pd.DataFrame, Path], chromium: Any) -> None:
    frame, page = frame_and_page
    with Window(chromium, page) as window:
        press = window.page.keyboard.press
        press("Tab")
        assert window.page.evaluate("document.activeElement.textContent") == "Skip to the content"
        press("Enter")
        assert window.page.evaluate("location.hash") == "#content"
        reached: list[str] = []
        for _ in range(400):
            press("Tab")
            what = window.page.evaluate(
                "(() => { const e = document.activeElement; return e.dataset?.dialog ? 'thumbnail' : e.name || e.className || e.tagName; })()"
            )
            reached.append(what)
            if what == "split" and "space" not in reached:
                press("Space")
                assert window.count() == f"{(frame['split'] == 'train').sum()} of {len(frame)} tiles"
                reached.append("space")
            if what == "thumbnail":
                press("Enter")
                assert window.page.locator("dialog[open]").count() == 1
                press("Escape")
                assert window.page.evaluate("document.activeElement.dataset.dialog") is not None
                break
        assert {"copy", "split", "label", "year", "choice", "thumbnail"} <= set(reached)
        outline = window.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"


def test_the_map_moves_and_zooms_by_keyboard(frame_and_page: tuple[pd.DataFrame, Path], chromium: Any) -> None:
    _, page = frame_and_page
    ranges = """(() => { const { x_range: x, y_range: y } = Bokeh.documents[0].get_model_by_name("map");
        return [x.end - x.start, x.start + x.end, y.start + y.end]; })()"""
    with Window(chromium, page) as window:
        window.page.locator("#map .plot").focus()
        span, x, y = window.page.evaluate(ranges)
        window.page.keyboard.press("+")
        window.page.keyboard.press("ArrowRight")
        window.page.keyboard.press("ArrowUp")
        closer, right, up = window.page.evaluate(ranges)
        assert closer == pytest.approx(0.8 * span, rel=0.02)
        assert right > x
        assert up > y
        window.page.keyboard.press("0")
        assert window.page.evaluate(ranges) == pytest.approx([span, x, y], rel=0.02, abs=1000)


def words_of(row: pd.Series[Any]) -> list[str]:
    """What a listener must hear about a tile."""
    return [row["id"], str(row["time"].date()), row["split"], row["biome"]]


def test_tiles_of_the_map_are_chosen_by_id_with_the_keyboard(
    frame_and_page: tuple[pd.DataFrame, Path], chromium: Any
) -> None:
    frame, page = frame_and_page
    store = open_store(page.with_name("planet.zarr"))
    with Window(chromium, page) as window:
        has_dialog = window.page.evaluate(
            "[...document.querySelectorAll('dialog')].map((dialog) => dialog.id.slice(7))"
        )
        shown = frame["tile_id"].map("{:016x}".format).isin(has_dialog)
        assert 0 < shown.sum() < len(frame)
        field = window.page.get_by_role("combobox", name="Tile id")
        said = window.page.locator("#selected[role=status]")
        assert window.page.locator("#finder-names option").count() == len(frame)
        for row in (frame[shown].iloc[-1], frame[~shown].iloc[0]):
            name = f"{row['tile_id']:016x}"
            field.fill("")
            field.press_sequentially(name.upper())
            assert all(word in said.inner_text() for word in words_of(row))
            assert window.marked() == [name]
            window.page.keyboard.press("Enter")
            if name in has_dialog:
                assert window.page.locator("dialog[open] h3").inner_text() == f"Tile {name}"
                window.page.keyboard.press("Escape")
                assert window.page.evaluate("document.activeElement.name") == "name"  # back in the field
            else:
                assert window.page.locator("dialog[open]").count() == 0
                assert f"mmearth-data inspect {store.path} --tile {name} --figure {name}.png" in said.inner_text()
        window.choose("split", "test")
        filtered = f"{frame[frame['split'] == 'train'].iloc[0]['tile_id']:016x}"
        for absent in ("0123456789abcdef", "a tile", filtered):
            field.fill(absent)
            field.press("Enter")
            assert said.inner_text().startswith("No tile is chosen")
            assert window.marked() == []


def test_tiles_of_the_map_are_stepped_through_by_keyboard(
    frame_and_page: tuple[pd.DataFrame, Path], chromium: Any
) -> None:
    frame, page = frame_and_page
    with Window(chromium, page) as window:
        window.choose("split", "val", "test")
        kept = frame[frame["split"] != "train"]
        names = [f"{tile_id:016x}" for tile_id in kept["tile_id"]]
        press, said = window.page.keyboard.press, window.page.locator("#selected")
        window.page.get_by_role("combobox", name="Tile id").focus()
        press("Tab")
        press("Tab")
        assert window.page.evaluate("document.activeElement.textContent") == "Next \u2192"
        assert window.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        for position, row in enumerate([*kept.itertuples(), next(kept.itertuples())]):
            press("Space" if position % 2 else "Enter")
            assert window.marked() == [names[position % len(names)]]
            assert all(word in said.inner_text() for word in words_of(pd.Series(row._asdict())))
        window.page.locator("#map .plot").focus()
        press("p")
        assert window.marked() == [names[-1]]
        for _ in range(12):
            press("+")
        press("n")
        assert window.marked() == [names[0]]
        inside = """(() => { const { x_range: x, y_range: y } = Bokeh.documents[0].get_model_by_name("map");
            const { data, selected } = Bokeh.documents[0].get_model_by_name("tiles"), k = selected.indices[0];
            return x.start < data.x[k] && data.x[k] < x.end && y.start < data.y[k] && data.y[k] < y.end; })()"""
        assert window.page.evaluate(inside)
        window.screenshot("report-chosen.png")
        press("p")
        window.choose("split", "val")  # no longer checked: only test tiles are left, and the last one is of these
        assert window.marked() == [names[-1]]
        window.choose("split", "test", "val")
        assert window.marked() == []


def test_tables_are_sorted_by_their_heads(frame_and_page: tuple[pd.DataFrame, Path], chromium: Any) -> None:
    _, page = frame_and_page
    with Window(chromium, page) as window:
        head = window.page.locator("#modalities th button", has_text="On disk")
        cells = "[...document.querySelectorAll('#modalities tbody tr')].map((row) => row.cells[6].dataset.key).filter(Boolean).map(Number)"
        head.click()
        up = window.page.evaluate(cells)
        assert up == sorted(up)
        head.click()
        assert window.page.evaluate(cells) == up[::-1]
        assert window.page.locator("#modalities th[aria-sort=descending]").count() == 1


def test_a_copy_button_copies(frame_and_page: tuple[pd.DataFrame, Path], chromium: Any) -> None:
    _, page = frame_and_page
    with Window(chromium, page) as window:
        window.context.grant_permissions(["clipboard-read", "clipboard-write"])
        block = window.page.locator("#licences figure.code", has_text="BibTeX")
        label = """button => { globalThis.label = new Promise((found) =>
            new MutationObserver(() => found(button.textContent)).observe(button, {childList: true})); }"""
        block.locator(".copy").evaluate(label)
        block.locator(".copy").click()
        assert window.page.evaluate("globalThis.label") == "Copied"
        assert window.page.evaluate("navigator.clipboard.readText()") == block.locator("code").inner_text()


def test_without_webgl_the_map_is_drawn(frame_and_page: tuple[pd.DataFrame, Path], chromium: Any) -> None:
    frame, page = frame_and_page
    with Window(chromium, page, script=NO_WEBGL) as window:
        assert window.page.evaluate("document.createElement('canvas').getContext('webgl')") is None
        assert len(window.shown()["text"]) == len(frame)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_phones_and_wide_windows_in_light_and_dark(
    frame_and_page: tuple[pd.DataFrame, Path], chromium: Any, width: int, scheme: str
) -> None:
    _, page = frame_and_page
    with Window(chromium, page, width=width, scheme=scheme) as window:
        assert window.page.evaluate("document.documentElement.scrollWidth") <= width
        paper = window.page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(",")))
        assert (brightness > 600) == (scheme == "light")
        map_pixel = """(() => { const root = Bokeh.documents[0].roots()[0]; const view = Bokeh.index.find_one(root);
            const canvas = view.canvas_view?.primary?.canvas ?? view.canvas.primary.canvas;
            return [...canvas.getContext('2d').getImageData(2, 2, 1, 1).data].slice(0, 3).reduce((a, b) => a + b, 0); })()"""
        assert (window.page.evaluate(map_pixel) > 600) == (scheme == "light")
        window.screenshot(f"report-{width}-{scheme}.png")


def test_figures_follow_the_scheme_when_it_changes(frame_and_page: tuple[pd.DataFrame, Path], chromium: Any) -> None:
    _, page = frame_and_page
    pixel = """(() => { const view = Bokeh.index.find_one(Bokeh.documents[0].roots()[0]);
        const canvas = view.canvas_view?.primary?.canvas ?? view.canvas.primary.canvas;
        return [...canvas.getContext('2d').getImageData(2, 2, 1, 1).data].slice(0, 3).reduce((a, b) => a + b, 0); })()"""
    with Window(chromium, page) as window:
        assert window.page.evaluate(pixel) > 600
        window.page.emulate_media(color_scheme="dark")
        window.page.wait_for_timeout(500)
        assert window.page.evaluate(pixel) < 200


def test_cells_of_a_large_store_count_exactly(
    frame_and_page: tuple[pd.DataFrame, Path], chromium: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    frame, page = frame_and_page
    monkeypatch.setattr(places, "MOST_POINTS", 10)
    monkeypatch.setattr(places, "MOST_CELLS", 12)
    store_report(open_store(page.with_name("planet.zarr")), tmp_path / "cells.html")
    with Window(chromium, tmp_path / "cells.html") as window:
        assert len(window.shown()["text"]) <= 12
        window.choose("split", "train")
        window.page.select_option("#colour", "label")
        kept = frame[frame["split"] == "train"]
        assert window.count() == f"{len(kept)} of {len(frame)} tiles"
        assert sum(int(text.split()[0]) for text in window.shown()["text"]) == len(kept)
        legend = window.page.locator("#map-legend li b").all_inner_texts()
        assert sum(map(int, legend)) == len(kept)
        window.page.select_option("#colour", "count")
        assert set(window.shown()["marker"]) == {"circle"}
        field = window.page.get_by_role("combobox", name="Cell")
        options = window.page.locator("#finder-names option").evaluate_all("all => all.map((one) => one.value)")
        assert len(options) == len(set(options)) == len(window.shown()["text"])
        said = window.page.locator("#selected")
        field.press_sequentially(options[1])
        assert window.marked() == [options[1]]
        assert said.inner_text() == window.shown()["text"][1]
        assert options[1] in said.inner_text()
        field.press("Enter")
        assert window.marked() == [options[1]]
        window.page.get_by_role("button", name="Next").press("Enter")
        assert window.marked() == [options[2 % len(options)]]
