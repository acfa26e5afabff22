"""Tables of labelled rasters as spreadsheets write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_task_files import rgb, table

from mmearth_model.tasks import open_files

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_a_table_from_a_spreadsheet_is_the_same_as_a_plain_one(tmp_path: Path) -> None:
    rows = [["path", "label", "part"], *([f"{n}.tif", "aé"[n % 2], ["train", "test"][n // 2]] for n in range(4))]
    plain = table(tmp_path / "plain", "\n".join(",".join(row) for row in rows))
    sheet = table(tmp_path / "sheet", "")
    sheet.write_bytes("\r\n".join([*(";".join(row) + ";" for row in rows), ";;;"]).encode("utf-8-sig"))
    one, other = (open_files(rgb(layout="table", splits={"column": "part"}), path) for path in (plain, sheet))
    assert other.classes == one.classes == ("a", "é")
    assert other.labels.tolist() == one.labels.tolist() == [0, 1, 0, 1]
    assert other.parts.test.tolist() == one.parts.test.tolist() == [2, 3]
    assert other.ids == one.ids
