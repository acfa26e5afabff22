"""Statistics of a store against numpy over all of its pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_making import make_store, small_layout

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.modality import Modality
from mmearth_data.catalog.tile import LEVEL_NAMES
from mmearth_data.store import Store, StoreLayout, open_store, verify
from mmearth_data.store.derived import derived
from mmearth_data.store.moments import PERCENTILES, Bins

LAYOUTS = {
    "made up": small_layout(),
    "shipped": StoreLayout(modalities=load_catalog().select(), tiles=37, size_px=16, tiles_per_shard=16),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished store."""
    path = tmp_path_factory.mktemp("statistics") / "s.zarr"
    make_store(path, LAYOUTS[request.param])
    return open_store(path)


def values_of(store: Store, m: Modality, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Raw values of some rows, derived ones too."""
    if m.stored:
        return store.read(m.name, slice(0, store.layout.tiles))[rows]
    return derived(m, {name: column[rows] for name, column in store.tile_columns.items()})


def rows_of(store: Store, split: str) -> np.ndarray[Any, Any]:
    return store.rows if split == "all" else store.select(split="train").rows


@pytest.mark.parametrize("split", ["train", "all"])
def test_statistics_equal_numpy(store: Store, split: str) -> None:
    continuous = [m for m in store.modalities.values() if m.kind.is_continuous]
    assert list(store.statistics[split]) == [m.name for m in continuous]
    rows = rows_of(store, split)
    levels = store.tile_columns["s2_level"][rows]
    compared = 0
    for m in continuous:
        values = values_of(store, m, rows)
        for level, bands in store.statistics[split][m.name].items():
            assert list(bands) == list(m.bands)
            codes = {name: code for code, name in LEVEL_NAMES.items()}
            here = values if level == "-" else values[levels == codes[level]]
            for k, band in enumerate(m.bands):
                raw = here[:, k]
                compare(bands[band], raw[m.observed(raw)].astype(np.float64), Bins.of(m, band).width)
                compared += 1
    assert compared > 10


def compare(found: dict[str, Any], seen: np.ndarray[Any, Any], width: float) -> None:
    """Compare statistics of one band with numpy."""
    assert found["count"] == len(seen)
    assert list(found) == ["count", "mean", "std", "min", "max", *PERCENTILES]
    if not len(seen):
        assert {value for key, value in found.items() if key != "count"} == {None}
        return
    assert found["min"] == seen.min()
    assert found["max"] == seen.max()
    assert found["mean"] == pytest.approx(seen.mean(), rel=1e-6, abs=1e-9)
    assert found["std"] == pytest.approx(seen.std(), rel=1e-6, abs=1e-9)
    for q in PERCENTILES.values():
        assert abs(found[f"p{q}"] - np.percentile(seen, q)) <= width * (1 + 1e-9)


def test_levels_are_kept_apart_where_the_catalog_asks_for_it(store: Store) -> None:
    for m in store.modalities.values():
        if m.kind.is_continuous:
            levels = list(store.statistics["all"][m.name])
            assert levels == (["L1C", "L2A"] if m.statistics_by == "s2_level" else ["-"])
    m = next(m for m in store.modalities.values() if m.statistics_by == "s2_level")
    lacking = next(band for band in m.bands if band not in m.bands_by_level["L2A"])
    found = store.statistics["all"][m.name]["L2A"][lacking]
    assert found == {"count": 0, **dict.fromkeys(list(found)[1:])}, "a band that a level lacks is null, not zero"
    assert store.statistics["all"][m.name]["L1C"][lacking]["count"] > 0


@pytest.mark.parametrize("split", ["train", "all"])
def test_class_histograms_equal_numpy(store: Store, split: str) -> None:
    labelled = [m for m in store.modalities.values() if m.classes]
    assert list(store.class_histograms[split]) == [m.name for m in labelled]
    rows = rows_of(store, split)
    for m in labelled:
        values = values_of(store, m, rows)
        found = store.class_histograms[split][m.name]
        assert {str(label.code) for label in m.classes} <= set(found)
        for code, entry in found.items():
            hits = (values == int(code)) & m.observed(values)
            assert entry["tiles"] == hits.reshape(len(rows), -1).any(axis=1).sum()
            assert entry.get("pixels", entry["tiles"]) == hits.sum()
            assert ("pixels" in entry) == m.kind.is_raster


def test_they_are_plain_json_in_the_root(store: Store) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    attributes = json.loads((Path(store.path) / "zarr.json").read_text(), parse_constant=refuse)["attributes"]
    assert json.loads(attributes["statistics"], parse_constant=refuse) == store.statistics
    assert json.loads(attributes["class_histograms"], parse_constant=refuse) == store.class_histograms


def test_a_store_that_was_finished_before_a_percentile_was_added_is_sound(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PERCENTILES, "p10", 10)
    assert verify(store.path).problems == ()
