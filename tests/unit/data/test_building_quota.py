"""The book of leases: limits, storms, restricted mode, and workers that die."""

from __future__ import annotations

import itertools

import pytest

from mmearth_data.building.quota import Quota, QuotaBook
from mmearth_data.sources.earthengine.quota import FIRST_PAUSE_S, SLACK, STORM_LEAST


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_book(**limits: float) -> tuple[QuotaBook, Clock]:
    clock = Clock()
    values: dict[str, float] = {"in_flight": 3, "per_second": 10.0, **limits}
    return QuotaBook(Quota(**values), lease_s=60.0, clock=clock), clock  # type: ignore[arg-type]


def test_no_more_than_the_limit_at_once_over_all_holders() -> None:
    book, clock = make_book()
    assert [book.acquire(holder)[0] for holder in ("a", "b", "a", "b", "c")] == [True, True, True, False, False]
    clock.now += 1
    book.release("b")
    assert book.acquire("c")[0]
    assert not book.acquire("b")[0]
    assert book.in_flight == 3


def test_starts_are_spaced_so_that_no_second_holds_more() -> None:
    book, clock = make_book(in_flight=1000)
    starts = []
    for k in range(100):
        granted, wait_s = book.acquire(f"holder {k % 7}")
        assert granted
        starts.append(clock.now + wait_s)
        clock.now += 0.01 * (k % 5)
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert min(gaps) >= SLACK / 10 - 1e-9
    assert max(sum(start <= other < start + 1 for other in starts) for start in starts) <= 10


def test_a_holder_that_is_not_heard_of_loses_its_leases() -> None:
    book, clock = make_book()
    for _ in range(3):
        assert book.acquire("dead")[0]
    clock.now += 59
    assert not book.acquire("alive")[0]
    clock.now += 2
    assert book.acquire("alive")[0]
    book.release("dead")  # it comes back to life: what it gives back is not counted twice
    assert book.in_flight == 1


def test_a_holder_that_beats_keeps_them() -> None:
    book, clock = make_book()
    for _ in range(3):
        assert book.acquire("slow")[0]
    for _ in range(20):
        clock.now += 10
        book.beat("slow")
    assert not book.acquire("other")[0]


def test_a_storm_pauses_everybody_and_twice_as_long_the_next_time() -> None:
    book, clock = make_book(in_flight=1000)
    for pause in (FIRST_PAUSE_S, 2 * FIRST_PAUSE_S):
        for _ in range(STORM_LEAST):
            book.throttled(None)
        granted, wait_s = book.acquire("a")
        assert not granted
        assert wait_s == pytest.approx(pause)
        clock.now += pause + 0.001
        assert book.acquire("a")[0]


def test_restricted_mode_lets_one_through() -> None:
    book, _ = make_book()
    book.restrict()
    assert book.acquire("a")[0]
    assert not book.acquire("b")[0]
    book.release("a")
    assert book.acquire("b")[0]
