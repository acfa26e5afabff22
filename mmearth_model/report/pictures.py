"""Reconstructions for a page: tiles to choose from, and a slider over input, mask, prediction and truth."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from bokeh.layouts import column
from bokeh.models import CustomJS, InlineStyleSheet

from mmearth_data import Details, Plot, Section
from mmearth_model.report.widgets import boxes, choice, html, slider

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bokeh.models.ui import UIElement

    from mmearth_data import Part
    from mmearth_model.report.reconstructions import RasterPictures, Reconstruction

STAGES = ("input", "mask", "prediction", "truth")
STAGE_TEXTS = {
    "input": "input: what the encoder sees",
    "mask": "mask: hidden patches",
    "prediction": "prediction of the hidden patches",
    "truth": "truth",
}
FIRST_STAGE = 2
CSS = """
.bk-clearfix { display: block !important; width: 100%; }
.head { margin: 0 0 0.7rem; color: var(--soft); }
.head b { color: var(--ink); }
.rasters { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(46%, 180px), 1fr)); gap: 1.1rem; }
.all .rasters { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 0.86rem; line-height: 1.35; margin: 0 0 0.35rem; overflow-wrap: anywhere; }
figcaption span { color: var(--soft); display: block; }
.stages { display: grid; gap: 4px; }
.all .stages { grid-template-columns: repeat(4, 1fr); }
.one .stage { display: none; }
.one[data-stage="input"] .input, .one[data-stage="mask"] .mask, .one[data-stage="prediction"] .prediction,
.one[data-stage="truth"] .truth { display: block; }
.stage { position: relative; aspect-ratio: 1; border-radius: 4px; overflow: hidden; background: var(--panel); }
.stage i { position: absolute; inset: 0; background-size: 100% 100%; image-rendering: pixelated; }
.stage .t { background-image: var(--truth); }
.stage .p { background-image: var(--prediction); }
.stage .v { background-image: var(--veil); }
.mask .v { opacity: 0.72; }
.prediction .t { opacity: 0.28; }
.stage em { position: absolute; inset: 0; display: grid; place-items: center; color: var(--soft); font-style: normal; font-size: 0.85rem; text-align: center; padding: 0.5rem; }
.label { display: none; font-size: 0.75rem; color: var(--soft); text-align: center; }
.all .label { display: block; }
table { border-collapse: collapse; margin-top: 1.1rem; font-size: 0.86rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.25rem 1.1rem 0.25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
.scroll { overflow-x: auto; }
"""
SHOW = """
const run = run_list.value, tile = tile_list.value;
const found = pages[`${run} ${tile}`] ?? "";
const stage = stages[stages_slider.value];
const view = side.active.length ? "all" : "one";
stages_slider.title = view === "all" ? "Shown: all" : `Shown: ${texts[stages_slider.value]}`;
panel.text = found.replace('data-stage="prediction"', `data-stage="${stage}"`).replace('class="tile one"', `class="tile ${view}"`);
"""


def reconstruction_section(
    drawn: Mapping[str, Sequence[Reconstruction]], epochs: Mapping[str, Sequence[tuple[int, bytes]]]
) -> Section | None:
    """Lay out reconstructions; None if there are none."""
    parts: list[Part] = []
    if drawn:
        tiles = next(iter(drawn.values()))
        which = {"test": "the test split", "val": "the validation split"}.get(tiles[0].split, "the training split")
        lead = f"Predictions for tiles of {which} from their visible patches; move the slider to compare them with the truth."
        parts.append(Plot(_browser(drawn), "Input, mask, prediction and truth of every modality of a tile"))
    else:
        lead = "Pictures that the runs saved during training."
    for run, pictures in epochs.items():
        course = Plot(_course(run, pictures), f"Reconstructions saved by {run}, by step")
        parts.append(Details(f"Pictures from the training of {run}", [course], open=not drawn))
    return Section("reconstructions", "Reconstructions", parts, lead=lead) if parts else None


def _browser(drawn: Mapping[str, Sequence[Reconstruction]]) -> UIElement:
    pages = {f"{r} {t}": tile_html(tile) for r, tiles in enumerate(drawn.values()) for t, tile in enumerate(tiles)}
    most = max(drawn.values(), key=len)
    run_list = choice([(str(r), run) for r, run in enumerate(drawn)], "Run", "reconstructions-run")
    tile_list = choice([(str(t), f"{tile.tile}  ({tile.lat:.2f}, {tile.lon:.2f})") for t, tile in enumerate(most)], "Tile", "reconstructions-tile")  # fmt: skip
    stages = slider(
        len(STAGES) - 1, f"Shown: {STAGE_TEXTS[STAGES[FIRST_STAGE]]}", "reconstructions-stage", value=FIRST_STAGE
    )
    side = boxes(["all side by side"], [], "reconstructions-all")
    panel = html(pages["0 0"], "reconstructions-panel")
    panel.stylesheets.append(InlineStyleSheet(css=CSS))
    arguments = {
        "pages": pages, "run_list": run_list, "tile_list": tile_list, "stages_slider": stages, "side": side, "panel": panel,
        "stages": list(STAGES), "texts": [STAGE_TEXTS[stage] for stage in STAGES],
    }  # fmt: skip
    show = CustomJS(args=arguments, code=SHOW)
    for widget, attribute in ((run_list, "value"), (tile_list, "value"), (stages, "value"), (side, "active")):
        widget.js_on_change(attribute, show)
    lists = [run_list, tile_list] if len(drawn) > 1 else [tile_list]
    return column(*lists, stages, side, panel, sizing_mode="stretch_width")


def tile_html(tile: Reconstruction) -> str:
    """HTML of a tile with all stages of all modalities, of which the style sheet shows some."""
    figures = "".join(_figure_html(raster) for raster in tile.rasters)
    where = f"{tile.lat:.3f}, {tile.lon:.3f}, split {escape(tile.split)}"
    return (
        f'<div class="tile one" data-stage="prediction" style="--veil:{_url(tile.mask)}">'
        f'<p class="head">Tile <b>{escape(tile.tile)}</b> ({where})</p><div class="rasters">{figures}</div>{_values_html(tile)}</div>'
    )


def _figure_html(raster: RasterPictures) -> str:
    fed = '<i class="t"></i><i class="v"></i>' if raster.fed else "<em>not an input</em>"
    layers = {
        "input": fed,
        "mask": '<i class="t"></i><i class="v"></i>',
        "prediction": '<i class="t"></i><i class="p"></i>',
        "truth": '<i class="t"></i>',
    }
    name = escape(raster.name)
    stages = "".join(
        f'<div><div class="stage {stage}" role="img" aria-label="{name}: {escape(STAGE_TEXTS[stage])}">{layers[stage]}</div>'
        f'<div class="label">{stage}</div></div>'
        for stage in STAGES
    )
    return (
        f'<figure style="--truth:{_url(raster.truth)};--prediction:{_url(raster.prediction)}">'
        f"<figcaption><b>{name}</b><span>{escape(raster.title)}: {escape(raster.shows)}</span></figcaption>"
        f'<div class="stages">{stages}</div></figure>'
    )


def _values_html(tile: Reconstruction) -> str:
    if not tile.values:
        return ""
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in tile.values)
    head = "<tr><th>per tile, standardised</th><th>prediction</th><th>truth</th></tr>"
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _url(picture: bytes) -> str:
    return f"url(data:image/webp;base64,{base64.b64encode(picture).decode()})"


def _course(run: str, pictures: Sequence[tuple[int, bytes]]) -> UIElement:
    """Slider over the pictures that a run saved during training."""
    pages = [
        f'<img alt="Reconstruction at step {step}" style="max-width:100%;background:white" src="data:image/webp;base64,{base64.b64encode(picture).decode()}">'
        for step, picture in pictures
    ]
    texts = [f"{run}, step {step:,}" for step, _ in pictures]
    panel = html(pages[-1], "course-panel")
    if len(pages) == 1:
        return column(html(escape(texts[0])), panel, sizing_mode="stretch_width")
    steps = slider(len(pages) - 1, texts[-1], "course-step", value=len(pages) - 1)
    code = "panel.text = pages[steps.value]; steps.title = texts[steps.value];"
    steps.js_on_change(
        "value", CustomJS(args={"panel": panel, "steps": steps, "pages": pages, "texts": texts}, code=code)
    )
    return column(steps, panel, sizing_mode="stretch_width")
