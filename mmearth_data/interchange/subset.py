"""Make a store from a part of another one."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import HEX_ID, as_integer, check_tile_size, format_tile_id, is_tile_id, parse_tile_id
from mmearth_data.errors import FileInputError, InputError
from mmearth_data.files.tables import PARQUET_SUFFIXES, read_table, read_text
from mmearth_data.interchange.copying import Copier, cover_recipe, plan_copy
from mmearth_data.interchange.entries import PUBLISHED_ID
from mmearth_data.interchange.targets import check_finished
from mmearth_data.recipes import file_digest
from mmearth_data.store.commits import read_commit
from mmearth_data.store.encoding import digest_of
from mmearth_data.store.selection import four_numbers, listed
from mmearth_data.store.session import NewStore, fill_store
from mmearth_data.words import is_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from mmearth_data.store.reader import Store
    from mmearth_data.store.selection import TileName
    from mmearth_data.store.storage.protocol import StoreUrl

ID_COLUMN = "tile_id"
"""Column of a table of ids; the column ``id`` with their text is accepted too."""
TEXT_COLUMN = "id"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Tiles and modalities to take; None means no condition.

    Attributes
    ----------
    region, split, biome
        As in `Store.select`.
    modalities
        Names to keep.
    share
        Random share of the tiles that meet the other conditions, above 0 and at most 1.
    seed
        Seed of the random share.
    ids
        Tile ids in either form (text of 16 hex digits, or numbers), or published ids.
    crop
        Pixels per side of the centre crop of each tile.
    """

    region: str | None = None
    split: Sequence[str] | None = None
    biome: Sequence[str | int] | None = None
    modalities: Sequence[str] | None = None
    share: float | None = None
    seed: int = 0
    ids: Sequence[str] | None = None
    crop: int | None = None

    def identity(self) -> dict[str, Any]:
        """JSON-ready form for the recipe of a store; files and lists of ids are replaced by their digests."""
        entry: dict[str, Any] = {}
        for name in ("split", "biome", "modalities"):
            if getattr(self, name) is not None:
                entry[name] = list(getattr(self, name))
        if self.region is not None:
            entry["region"] = file_digest(Path(self.region)) if is_file(self.region) else self.region
        if self.share is not None:
            entry |= {"share": self.share, "seed": self.seed}
        if self.ids is not None:
            entry["ids"] = digest_of("\n".join(sorted(set(self.ids))).encode())
        if self.crop is not None:
            entry["crop"] = self.crop
        return entry


def make_subset(
    store: Store,
    out: str | Path | StoreUrl,
    part: Part,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Copy a part of a store; see `mmearth_data.subset`."""
    check_finished(store)
    part = _as_text(part)
    size_px = _size(store, part.crop)
    selected = store.select(region=part.region, split=part.split, modalities=part.modalities, biome=part.biome)
    rows = selected.rows
    if part.ids is not None:
        rows = rows[np.isin(rows, _rows_of(store, part.ids))]
    if part.share is not None:
        rows = random_share(rows, store.content.column("tile_id")[rows], part.share, part.seed)
    if not len(rows):
        raise InputError(
            f"{store.path}: expected conditions that at least one tile meets, got none that does; relax them."
        )
    plan = plan_copy([store], [rows], tuple(selected.modalities.values()), size_px)
    new = NewStore(
        layout=plan.layout,
        recipe={"subset": {"of": [store.digest], **part.identity()}, **cover_recipe([store], size_px)},
        source=store.source,
        synthetic=store.synthetic,
    )
    fill_store(out, new, Copier(plan).fill, report=report, note=note)


def _size(store: Store, crop: int | None) -> int:
    size_px = store.layout.size_px
    if crop is None:
        return size_px
    if check_tile_size(crop) > size_px:
        raise InputError(f"--crop: expected at most the {size_px} px that the tiles have, got {crop}.")
    return crop


def random_share(rows: NDArray[np.intp], tile_id: NDArray[np.uint64], share: float, seed: int) -> NDArray[np.intp]:
    """Choose the rows (n,) whose tile ids have the smallest hashes (blake2b, 8 bytes, keyed by the seed).

    A larger share with the same seed contains the smaller one. Raises InputError unless it is above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise InputError(f"--share: expected a number above 0 and at most 1, got {share}.")
    key = seed.to_bytes(8, "little")
    ids = tile_id.astype("<u8").tobytes()
    hashes = [hashlib.blake2b(ids[k : k + 8], digest_size=8, key=key).digest() for k in range(0, len(ids), 8)]
    order = np.lexsort([rows, np.frombuffer(b"".join(hashes), dtype=">u8")])
    return np.sort(rows[order[: max(1, round(share * len(rows)))]])


def read_ids(text: str) -> list[str]:
    """Ids separated by commas, or from a file: the column ``tile_id`` or ``id`` of a table, or the lines of a text.

    Raises
    ------
    FileInputError
        If the file is neither, or is empty.
    """
    path = Path(text)
    if not is_file(path):
        return [part.strip() for part in text.split(",") if part.strip()]
    if path.suffix.lower() not in PARQUET_SUFFIXES:
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        if not lines:
            raise FileInputError(path, "expected one tile id per line, got an empty file.")
        if not {ID_COLUMN, TEXT_COLUMN} & set(re.split(r"[\s,;\"]+", lines[0])):
            return lines
    table = read_table(path)
    if ID_COLUMN not in table.columns and TEXT_COLUMN in table.columns:
        return [str(text).strip() for text in table.columns[TEXT_COLUMN]]
    table.require([ID_COLUMN])
    return [format_tile_id(number) for number in table.tile_ids(ID_COLUMN).tolist()]


def _as_text(part: Part) -> Part:
    """Part with region and ids as text, as they are recorded: tile ids as 16 hex digits, published ids unchanged."""
    region, ids = part.region, part.ids
    if region is not None and not isinstance(region, str | Path):
        box = four_numbers(region)
        if not box:
            raise InputError(
                f"region: expected a name, 'bbox:W,S,E,N', four numbers or a vector file, which a subset can record, got "
                f"{type(region).__name__}; for other regions, pass ids, such as those of store.select(region=...).tiles."
            )
        region = f"bbox:{box}"
    if ids is not None:
        one = isinstance(ids, str) or as_integer(ids) is not None
        several: list[Any] = [ids] if one else listed("ids", "tile ids", ids)
        ids = _id_names(several)
    return replace(
        part,
        region=None if region is None else str(region),
        ids=ids,
        split=_several(part.split),
        biome=_several(part.biome),
        modalities=_several(part.modalities),
    )


def _several(value: Any) -> Any:  # noqa: ANN401 - names, or one of them
    return [value] if isinstance(value, str | int) else value


def _id_names(ids: Iterable[TileName]) -> list[str]:
    return [
        one if isinstance(one, str) and not HEX_ID.fullmatch(one) else format_tile_id(parse_tile_id(one)) for one in ids
    ]


def _rows_of(store: Store, ids: Sequence[str]) -> NDArray[np.intp]:
    """Store rows of tile ids, or of published ids.

    Raises
    ------
    InputError
        When there is no such tile.
    """
    tile_id = store.content.column("tile_id")
    number_of = {text: parse_tile_id(text) for text in ids if is_tile_id(text)}
    numbers = np.array(sorted(set(number_of.values())), dtype=np.uint64)
    found = set(numbers[np.isin(numbers, tile_id)].tolist())
    rows = np.flatnonzero(np.isin(tile_id, numbers) & (tile_id != 0))
    others = {text for text in ids if number_of.get(text) not in found}
    known = _published_ids(store) if others else {}
    missing = sorted(text for text in others if text not in known)
    rows = np.union1d(rows, [row for text in others for row in known.get(text, ())]).astype(np.intp)
    if missing:
        raise InputError(
            f"--ids: expected ids of tiles in {store.path}, got {len(missing)} of others, the first is {missing[0]!r}; "
            "tile ids have 16 hex digits, published ids are those of the imported data set."
        )
    return rows


def _published_ids(store: Store) -> dict[str, list[int]]:
    """Store rows by published id."""
    found: dict[str, list[int]] = {}
    for shard in range(store.layout.shards):
        commit = read_commit(store.content.objects, store.layout, shard)
        for row, text in zip(commit.rows.tolist(), commit.facts, strict=True):
            published_id = json.loads(text).get(PUBLISHED_ID)
            if published_id is not None:
                found.setdefault(published_id, []).append(row)
    return found
