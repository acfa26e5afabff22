"""The Earth Engine source: surveys of many locations, and one pixels request per tile."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from mmearth_data.errors import InputError, TileUnavailable
from mmearth_data.recipes import PLACING, SCENES, SERVICE
from mmearth_data.sources.base import FIELDS_OF_ALL, OfCatalog, Rejection, Survey, refuse_gaps
from mmearth_data.sources.earthengine.estimate import SURVEY_BATCH
from mmearth_data.sources.earthengine.failures import TooDear, TooMuch
from mmearth_data.sources.earthengine.ledger import Ledger
from mmearth_data.sources.earthengine.pixels import (
    PixelTemplates,
    asks_of,
    dearest_apart,
    decoder,
    halves,
    masked_shares,
    place_bands,
)
from mmearth_data.sources.earthengine.preflight import described, needed_assets, require_assets
from mmearth_data.sources.earthengine.profiles import Profiles, eecu_seconds, profile_request
from mmearth_data.sources.earthengine.quota import LocalLimiter
from mmearth_data.sources.earthengine.recipes import RECIPES, Found
from mmearth_data.sources.earthengine.session import Session, SessionOptions, open_session
from mmearth_data.sources.earthengine.survey import SceneRules, SurveyPlan, base_modality, outside, scene_levels
from mmearth_data.sources.earthengine.tables import (
    cached_ecoregions,
    ecoregion_table,
    fetch_ecoregions,
    keep_ecoregions,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.catalog.modality import Modality
    from mmearth_data.catalog.tile import Place
    from mmearth_data.geography.zones import ZonePart
    from mmearth_data.sources.earthengine.pixels import Asks
    from mmearth_data.sources.earthengine.quota import Limiter
    from mmearth_data.sources.earthengine.survey import Question

    Answered: TypeAlias = Mapping[str, Any] | Rejection | None


class EarthEngineSource(OfCatalog):
    """Tiles directly from Earth Engine; signs in at the first request.

    Parameters
    ----------
    catalog
        Defines the base scene.
    modalities
        Modalities that will be read; the survey fetches what they need.
    rules
        Which scenes are eligible.
    options
        How to reach the service.
    limiter
        Shared by all that send requests; by default, a limiter of this process.

    Examples
    --------
    >>> from mmearth_data.catalog.entries import load_catalog
    >>> catalog = load_catalog()
    >>> rules = SceneRules(seed=0, years=(2019,), levels=("L2A",), cloud_percent=10)
    >>> EarthEngineSource(catalog, catalog.select(["sentinel2"]), rules).identity()["years"]
    [2019]
    """

    name = "earthengine"
    recipe_fields: ClassVar[frozenset[str]] = FIELDS_OF_ALL | PLACING | SCENES | SERVICE | {"era5_window", "assets"}

    def __init__(
        self,
        catalog: Catalog,
        modalities: Sequence[Modality],
        rules: SceneRules,
        options: SessionOptions | None = None,
        limiter: Limiter | None = None,
    ) -> None:
        self.catalog = catalog
        self.rules = rules
        self.options = options or SessionOptions()
        self.limiter: Limiter = limiter or LocalLimiter(self.options.connections)
        self.ledger = Ledger()
        self._wanted = self.modalities(modalities)
        self._base = base_modality(tuple(catalog.modalities.values()))
        self._lock = threading.Lock()
        self._plan: SurveyPlan | None = None
        self._templates = PixelTemplates()
        self._batch = [SURVEY_BATCH, SURVEY_BATCH]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the session, which each process opens for itself."""
        return type(self), (self.catalog, self._wanted, self.rules, self.options, self.limiter)

    @property
    def in_flight(self) -> int:
        """Requests that may be in flight at once; reading threads mostly wait for answers."""
        return self.options.connections

    @property
    def synthetic(self) -> bool:
        """True if the server is an emulator, whose pixels are not measurements."""
        return self.options.url is not None and self._session().emulator is not None

    def connect(self) -> None:
        """Sign in now rather than at the first request, and check every asset that the build reads.

        Raises `InputError` when signing in fails, or an asset is missing or cannot be read.
        """
        needed = needed_assets(self._wanted, self._base, scene_levels(self._base, self.rules))
        require_assets(needed, self._describe, self._base, self._wanted)

    def _describe(self, asset_id: str) -> dict[str, Any]:
        return self._session().asset(asset_id, described, self.limiter, self.ledger)

    def account(self) -> dict[str, Any]:
        """Report the requests made so far."""
        return self.ledger.to_dict()

    def stop(self) -> None:
        """End all waits for the service permanently; see `mmearth_data.sources.earthengine.stopping`."""
        self.limiter.switch.set()

    @contextmanager
    def profiling(self) -> Iterator[dict[str, dict[str, Any]]]:
        """Let the service profile the requests within a block.

        The result is filled when the block ends: kind of request -> ``requests``, total ``seconds``, total
        ``eecu_seconds`` (None if the service did not profile all of them).
        """
        session, profiles = self._session(), Profiles()
        found: dict[str, dict[str, Any]] = {}
        session.profiles = profiles
        try:
            yield found
        finally:
            session.profiles = None
        for kind, (ids, count, seconds) in profiles.kinds().items():
            table = (
                session.compute_value(profile_request(ids), self.limiter, self.ledger) if len(ids) == count else None
            )
            found[kind] = {"requests": count, "seconds": seconds, "eecu_seconds": eecu_seconds(table)}

    def identity(self) -> dict[str, Any]:
        """Everything that determines the pixels."""
        return {
            "name": self.name,
            **self._period_identity,
            "levels": list(self.rules.levels),
            "cloud_percent": self.rules.cloud_percent,
        }

    @property
    def _period_identity(self) -> dict[str, Any]:
        """Choice of scenes: random ones of some years, the least cloudy ones of a period, or those nearest to dates."""
        if self.rules.near is not None:
            return {"days": self.rules.near.days}
        if self.rules.period is not None:
            return {"date_range": self.rules.period.identity()}
        return {"seed": self.rules.seed, "years": list(self.rules.years)}

    def modalities(self, wanted: Sequence[Modality]) -> tuple[Modality, ...]:
        """Return the requested modalities whose recipe is known here."""
        return tuple(m for m in wanted if m.stored and m.recipe.get("name") in RECIPES and m.asset)

    def places(self, size_px: int) -> list[Place]:
        """Return no locations: they are sampled."""
        return []

    def area(self) -> tuple[ZonePart, ...]:
        """Return no area: the recipe gives the region."""
        return ()

    def ecoregions(self) -> GeoDataFrame:
        """Ecoregion polygons; cached for the service itself, fetched each time from any other server."""
        genuine = self.options.url is None
        table = ecoregion_table(self.catalog)
        found = cached_ecoregions(table) if genuine else None
        if found is None:
            try:
                found = fetch_ecoregions(self._session(), table, self.limiter, self.ledger)
            except TileUnavailable as refusal:
                raise InputError(
                    f"Earth Engine refused its ecoregions, {table!r}: {refusal}. To continue, give --ecoregions FILE, or "
                    "name another table with --asset eco_region=ID."
                ) from refusal
            if genuine:
                keep_ecoregions(found, table)
        return found

    def survey(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        """One answer per location, in order."""
        near = self.rules.near
        found = self._survey(places) if near is None else near.survey(places, self._survey)
        for answer in found:
            if isinstance(answer, Rejection):
                self.ledger.rejection(answer.reason)
        return found

    def _survey(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        plan = self._survey_plan()
        answers: dict[int, Answered] = {}
        questions: dict[int, Question] = {}
        for i, place in enumerate(places):
            try:
                questions[i] = plan.question(place)
            except TileUnavailable as refusal:
                answers[i] = outside(place, refusal)
        answers |= self._asked(questions, again=False)
        further = {
            i: question
            for i, first in questions.items()
            if not isinstance(scene := answers[i], Rejection) and (question := plan.further(first, scene)) is not None
        }
        answers |= self._asked(further, again=True)
        read = (a if isinstance(a := answers[i], Rejection) else plan.read(place, a) for i, place in enumerate(places))
        return list(read)

    def _asked(self, questions: Mapping[int, Question], *, again: bool) -> dict[int, Answered]:
        """Answers of one survey, in requests of as many questions as the service has been shown to handle."""
        listed = list(questions.values())
        size = self._batch[again]
        batches = [listed[k : k + size] for k in range(0, len(listed), size)]
        with ThreadPoolExecutor(max(1, min(len(batches), self.in_flight))) as pool:
            try:
                found = list(pool.map(partial(self._survey_batch, again=again), batches))
            except KeyboardInterrupt:  # it does not reach the threads of the pool, which end before the block does
                self.stop()
                raise
        return dict(zip(questions, chain.from_iterable(found), strict=True))

    def _survey_batch(self, batch: Sequence[Question], *, again: bool) -> list[Answered]:
        """Answers of one request; a refused batch is halved, down to the faulty candidate."""
        plan = self._survey_plan()
        try:
            expression = plan.expression(batch, again=again)
            session, divisible = self._session(), len(batch) > 1
            decode = partial(plan.answers, batch, again=again)
            found = session.compute_value(expression, self.limiter, self.ledger, decode=decode, divisible=divisible)
        except TileUnavailable as refusal:
            if len(batch) == 1:
                return [outside(batch[0].place, refusal)]
            middle = -(-len(batch) // 2)
            if isinstance(refusal, TooMuch):
                self._batch[again] = min(self._batch[again], middle)
            return self._survey_batch(batch[:middle], again=again) + self._survey_batch(batch[middle:], again=again)
        return [*found]

    def read(self, survey: Survey, modalities: Sequence[Modality]) -> dict[str, NDArray[Any]]:
        """Arrays of one tile, as stored: one request, or two if one would be too large.

        Raises `TileUnavailable` ``sentinel2_nodata``, if too many of the 10 m pixels are masked (`refuse_gaps`); or the service's
        refusal; `RetryLater` if the service did not answer in any of the attempts; `InputError` if it refuses this
        account.
        """
        found = survey.request
        assert isinstance(found, Found)
        rasters = [m for m in modalities if m.kind.is_raster]
        arrays = {m.name: m.empty(m.array_shape(found.grid.size_px)) for m in rasters}
        asks = asks_of(found, rasters)
        try:
            self._fill(arrays, asks, found)
            for m in rasters:
                for masked in masked_shares(m, arrays[m.name]):
                    refuse_gaps(masked, survey.place)
        except TileUnavailable as refusal:
            self.ledger.rejection(refusal.reason)
            raise
        return arrays

    def _fill(self, arrays: dict[str, NDArray[Any]], asks: Asks, found: Found) -> None:
        if not asks:
            return
        try:
            self._fill_at_once(arrays, asks, found)
        except TooMuch as refusal:
            if len(asks) < 2:
                raise
            for part in (dearest_apart if isinstance(refusal, TooDear) else halves)(asks):
                self._fill_at_once(arrays, part, found)

    def _fill_at_once(self, arrays: dict[str, NDArray[Any]], asks: Asks, found: Found) -> None:
        session = self._session()
        expression, fields, bands = self._templates.request(asks, found.grid)
        decode = decoder(bands, found.grid.size_px)
        divisible = len(asks) > 1
        pixels = session.compute_pixels(expression, fields, decode, self.limiter, self.ledger, divisible=divisible)
        place_bands(arrays, pixels, bands)

    def _session(self) -> Session:
        return open_session(self.options)

    def _survey_plan(self) -> SurveyPlan:
        self._session()  # the client can build expressions only after it has loaded the service's functions
        with self._lock:
            if self._plan is None:
                self._plan = SurveyPlan(self._base, self._wanted, self.rules)
            return self._plan


if TYPE_CHECKING:
    from mmearth_data.sources.base import SourceOverNetwork

    _: type[SourceOverNetwork] = EarthEngineSource
