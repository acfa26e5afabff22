"""What a recipe costs: closed forms, and the tables of the documentation against the code that computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmearth_data import make_recipe, profile
from mmearth_data.building.price import EECU_HOURS_PER_MONTH, how_long, price, profile_lines, store_objects
from mmearth_data.building.profile import profile_tiles
from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import Place
from mmearth_data.errors import InputError
from mmearth_data.sources.base import Rejection
from mmearth_data.sources.earthengine.profiles import eecu_seconds
from mmearth_data.store.schema import StoreLayout

MILLION = 1_000_000


def priced(size_px: int, **measured: float) -> tuple[StoreLayout, dict[str, Any]]:
    modalities = load_catalog().select()
    layout = StoreLayout(modalities=modalities, tiles=MILLION, size_px=size_px, tiles_per_shard=256)
    return layout, price(layout, tiles=MILLION, in_flight=40, per_second=100, **measured)


def test_the_price_of_a_million_tiles() -> None:
    layout, found = priced(64)
    assert found["requests"]["total"] == 1_050_000
    assert found["hours_at_rate_limit"] == pytest.approx(1_050_000 / 100 / 3600, abs=1e-4)
    assert found["hours"]["5"] == pytest.approx(1_050_000 * 5 / 40 / 3600, abs=1e-4)
    assert found["months_of_compute"]["5"]["1000"] == pytest.approx(MILLION * 5 / 3600 / 1000, abs=1e-4)
    _, measured = priced(64, eecu_per_tile=3.6, latency_s=2.0)
    assert measured["months_of_compute"] == {"3.6": {"150": 6.6667, "1000": 1.0, "100000": 0.01}}
    # 9 rasters and a commit for each of 3,907 shards; 16 chunks of 12 coordinates, era5, biome and eco_region.
    names = len(layout.arrays) + sum(1 for m in layout.stored if m.bands)
    assert store_objects(layout) == 3907 * 10 + 16 * 15 + names + 5


def test_replacements_are_counted() -> None:
    """Each of 1.3 locations per tile is surveyed twice, 20 at a time, and read."""
    _, found = priced(64, oversample=1.3)
    assert found["requests"]["total"] == 1_050_000, "if no location is rejected"
    assert found["requests_at_most"] == {
        "value:compute": 2 * 65_000, "image:computePixels": 1_300_000, "total": 1_430_000,
    }  # fmt: skip
    assert found["hours_at_most"]["5"] == pytest.approx(1_430_000 * 5 / 40 / 3600, abs=1e-4)
    _, measured = priced(64, oversample=1.3, latency_s=2.0)
    assert measured["hours_at_most"] == pytest.approx(1_430_000 * 2 / 40 / 3600, abs=1e-4)


def test_the_documentation_says_what_the_code_computes(repository: Path) -> None:
    page = (repository / "docs" / "guides" / "earth-engine.md").read_text(encoding="utf-8")
    prices = [priced(size, oversample=1.3) for size in (64, 128)]
    hours = [[found["hours_at_rate_limit"], *found["hours"].values()] for _, found in prices]
    rows = [
        ("requests", [f"{found['requests']['total']:,}" for _, found in prices]),
        ("requests at most, with all replacements", [f"{found['requests_at_most']['total']:,}" for _, found in prices]),
        ("hours at 100 requests a second", [f"{of[0]:.1f}" for of in hours]),
        ("hours at 40 requests in flight, 1, 5 or 20 s each", [", ".join(f"{h:.3g}" for h in of[1:]) for of in hours]),
        ("bytes, before compression", [f"{found['download_bytes'] / 1e9:,.0f} GB" for _, found in prices]),
        ("objects in the store", [f"{store_objects(layout):,}" for layout, _ in prices]),
    ]
    lines = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
    months = prices[0][1]["months_of_compute"]
    lines.append(
        "| EECU-seconds per tile | "
        + " | ".join(f"{h:,} a month ({t})" for t, h in EECU_HOURS_PER_MONTH.items())
        + " |"
    )
    lines += [f"| {seconds} | {' | '.join(map(how_long, of.values()))} |" for seconds, of in months.items()]
    assert [line for line in lines if line not in page] == []


# ---------------------------------------------------------------- measuring


TABLE = " EECU·s PeakMem Count  Description\n  0.072     47k    44  (plumbing)\n  1.500    124k    14  Algorithm Image.reduce\n   -        59k    12  Loading\n"
"""As the service words it."""


def test_the_seconds_of_a_profile_are_its_first_column() -> None:
    assert eecu_seconds(TABLE) == pytest.approx(1.572)
    assert eecu_seconds(TABLE.replace("EECU·s", "Compute")) is None, "a column that we do not know is not guessed"
    assert eecu_seconds("") is None
    assert eecu_seconds({"profiles": []}) is None


class NothingThere:
    """A source that refuses every location."""

    name, synthetic = "nothing", True

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def modalities(self, wanted: Any) -> Any:
        return tuple(wanted)

    def survey(self, places: Any) -> Any:
        return [Rejection(place=place, reason="no_scene") for place in places]

    def read(self, survey: Any, modalities: Any) -> Any:
        raise AssertionError("nothing to read")


def test_where_nothing_can_be_had_there_is_no_price() -> None:
    layout = StoreLayout(modalities=load_catalog().select(["sentinel2"]), tiles=2, size_px=16, tiles_per_shard=2)
    places = [Place(tile_id=k, lon=0.1 * k, lat=0.0, size_px=16) for k in (1, 2)]
    with pytest.raises(InputError, match=r"got 2 rejected \(no_scene 2\)"):
        profile_tiles(NothingThere(), places, layout)


def test_no_tiles_cannot_be_measured() -> None:
    with pytest.raises(InputError, match="at least one tile, got 0"):
        profile(make_recipe(None, {"source": "synthetic"}), 0)


def test_what_was_not_told_is_said_to_be_unknown() -> None:
    _, needs = priced(64, latency_s=2.0)
    kinds = {
        "value:compute": {"requests": 1, "seconds": 1.5, "eecu_seconds": 0.25},
        "image:computePixels": {"requests": 20, "seconds": 40.0, "eecu_seconds": None},
    }
    found = {
        "source": "earthengine",
        "places": 20,
        "tiles": 20,
        "rejected": 0,
        "seconds_per_tile": 2.0,
        "requests": kinds,
        "eecu_per_tile": None,
        "notes": ["The service gave no profile of image:computePixels: its compute is not known."],
        "recipe": {"tiles": MILLION, "estimate": needs},
    }
    text = "\n".join(profile_lines(found))
    assert "image:computePixels: 20 requests, 40 s, no EECU-seconds given" in text
    assert "a tile takes 2 s" in text
    assert "9.3 months at 150 EECU-hours per month" in text, "assumptions where nothing was measured"
    assert "its compute is not known" in text
