"""One quota over all processes and threads of a build, and one account of what they asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dask
import pytest
from build_making import build_known, tiles_read

from mmearth_data.building.executor import Progress
from mmearth_data.store.ledger import merge_ledgers

IN_FLIGHT, PER_SECOND = 3, 25.0


def spans(log: Path) -> list[tuple[float, float]]:
    """Begin and end of every request, by a clock that all processes of a machine share."""
    begun: dict[str, list[float]] = {}
    found = []
    for line in log.read_text().splitlines():
        tile, what, moment = line.split()
        if what == "begin":
            begun.setdefault(tile, []).append(float(moment))
        else:
            found.append((begun[tile].pop(0), float(moment)))
    return found


def test_two_processes_of_many_threads_keep_to_the_limits(tmp_path: Path) -> None:
    log, seen = tmp_path / "log", list[Progress]()
    limits = {"in_flight": IN_FLIGHT, "per_second": PER_SECOND}
    store = tmp_path / "s.zarr"

    def report(progress: Progress) -> None:
        seen.append(progress)
        assert dask.config.get("scheduler", None) is None, "the caller's own arrays are computed as before"

    build_known(store, log, workers=2, threads=6, read_ms=80, limits=limits, report=report)
    requests = spans(log)
    assert len(requests) == len(tiles_read(log))
    at_once = [sum(begin <= moment < end for begin, end in requests) for moment, _ in requests]
    assert max(at_once) <= IN_FLIGHT
    assert max(at_once) == IN_FLIGHT, "what is allowed is used"
    starts = sorted(begin for begin, _ in requests)
    # Spaced evenly when they are let go; those that were on their way, at most so many, may come closer together.
    within = max(sum(start <= other < start + 1 for other in starts) for start in starts)
    assert within <= PER_SECOND + IN_FLIGHT
    accounts = seen[-1].accounts
    assert len(accounts) == 2, "both processes worked"
    assert merge_ledgers(list(accounts.values()))["requests"] == {"read": len(requests)}


STUCK = """
import os, signal
from mmearth_data.building.cluster import local_cluster

if __name__ == "__main__":
    with local_cluster(2) as cluster:
        pids = list(cluster._client.run(os.getpid).values())
        print(*pids)
        os.kill(pids[0], signal.SIGSTOP)  # as if the machine were too busy for it to answer
"""


@pytest.mark.slow
def test_a_worker_that_does_not_end_is_ended_without_a_word(tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
