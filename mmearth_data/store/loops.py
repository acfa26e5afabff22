"""Load modules of compiled loops on demand: in one thread at a time, and never while the process forks.

Loading takes almost a second. Numba's modules import each other, so two threads could deadlock; and a child forked
meanwhile would wait for an import that never ends.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_TURN = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_TURN.acquire, after_in_parent=_TURN.release, after_in_child=_TURN.release)


def load(bring: Callable[[], Any]) -> Any:  # noqa: ANN401 - a module
    """Call a function that imports a module; None if the module needs something that is not installed."""
    with _TURN:
        try:
            return bring()
        except ImportError:
            return None
