"""Pictures of single tiles for the page: a thumbnail immediately, and the figure of all modalities in the background."""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from mmearth_data.catalog.tile import LEVEL_NAMES
from mmearth_data.inspection.figures import draw_tile, enlarge
from mmearth_data.inspection.panels import main_raster, plan_panels
from mmearth_data.inspection.summary import source_notes

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    import numpy as np

    from mmearth_data.store import Store

Result = TypeVar("Result")

KEPT = 32
"""Figures kept in memory, each about half a megabyte."""
WAITING = 4
"""Maximum number of queued figures; beyond it, the oldest one is cancelled."""
THUMBNAIL_PX = 128


class Pictures:
    """Pictures of the tiles of one store, made in one thread, because matplotlib is not thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="figures")
        self._other = ThreadPoolExecutor(1, thread_name_prefix="neighbours")
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._waiting: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._main = main_raster(store.layout.rasters)

    def figure(self, position: int) -> Future[bytes]:
        """Future with a PNG of all modalities of a tile; the future raises errors of the store."""
        for done in [at for at, future in self._waiting.items() if future.done()]:
            del self._waiting[done]
        if position in self._waiting:
            return self._waiting[position]
        while len(self._waiting) >= WAITING:
            _, oldest = self._waiting.popitem(last=False)
            oldest.cancel()
        future = self._pool.submit(self._draw, position)
        self._waiting[position] = future
        return future

    def run(self, work: Callable[[], Result]) -> Future[Result]:
        """Run another task in the background."""
        return self._other.submit(work)

    def _draw(self, position: int) -> bytes:
        if position in self._kept:
            self._kept.move_to_end(position)
            return self._kept[position]
        store = self._store
        png = draw_tile(store[position], tuple(store.modalities.values()), store.synthetic, source_notes(store.source))
        self._kept[position] = png
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return png

    def thumbnail(self, position: int, side: int = THUMBNAIL_PX) -> bytes | None:
        """Small PNG of the first raster of a tile; None if none of it was observed.

        Raises
        ------
        StoreDamaged
            If the shard of the tile is missing or corrupt.
        """
        m = self._main
        if m is None:
            return None
        row = int(self._store.rows[position])
        values = self._store.read(m.name, slice(row, row + 1))[0]
        level = LEVEL_NAMES.get(int(self._store.content.column("s2_level")[row]))
        image = plan_panels({m.name: values}, [m], level)[0].panels[0].image
        return None if image is None else _png(enlarge(image, side))

    def close(self) -> None:
        """Cancel unfinished work."""
        for pool in (self._pool, self._other):
            pool.shutdown(wait=False, cancel_futures=True)


def data_uri(png: bytes) -> str:
    """Picture as the source of an ``img``."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _png(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
