"""Modules of compiled loops, loaded when they are needed: by one thread at a time, and never while the process forks.

Loading takes most of a second. Modules of numba import each other, so that two threads could wait in a circle for each
other's; and a child that is forked meanwhile would wait for an import that nobody ends.
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
    """Import a module of `mmearth_data.store`; None where it needs functions of Zstandard's package that this build lacks."""
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
