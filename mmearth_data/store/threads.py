"""Threads that are reused for many shards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache


@lru_cache(maxsize=4)
def lasting_threads(purpose: str, count: int, process: int) -> ThreadPoolExecutor:
    """Return persistent threads: starting them per shard takes longer than their work. A forked process gets its own."""
    return ThreadPoolExecutor(count, thread_name_prefix=f"{purpose}-{process}")
