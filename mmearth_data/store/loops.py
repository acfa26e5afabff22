"""Load modules of compiled loops on demand: in one thread at a time, and never while the process forks.

Loading takes almost a second. Numba's modules import each other, so two threads could deadlock; and a child forked
meanwhile would wait for an import that never ends.
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import Any, Literal

_TURN = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_TURN.acquire, after_in_parent=_TURN.release, after_in_child=_TURN.release)


def load(name: Literal["bitplanes", "counting", "packing"]) -> Any:  # noqa: ANN401 - a module
    """Import a module of `mmearth_data.store`; None if it needs Zstandard functions that are not available."""
    with _TURN:
        try:
            match name:
                case "bitplanes":
                    return import_module("mmearth_data.store.bitplanes")
                case "counting":
                    return import_module("mmearth_data.store.counting")
                case "packing":
                    return import_module("mmearth_data.store.packing")
        except ImportError:
            return None
