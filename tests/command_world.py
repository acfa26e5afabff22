"""Command lines of all commands that write, and a folder of small inputs for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml
from click.testing import CliRunner, Result
from map_world import make_network, numbers, write_scene
from published_world import NAME, make_published
from toy_store import TINY, write_store

from mmearth_data import format_tile_id, open_store
from mmearth_data.cli import cli as data_cli
from mmearth_model import save_network
from mmearth_model.cli import cli as train_cli

if TYPE_CHECKING:
    from pathlib import Path

    import click

BUILD = "build --source synthetic --tiles 48 --tile-size 32 --tiles-per-shard 4 --threads 2 --out OUT/s.zarr"
EVALUATE = "evaluate IN/run --task store:esa_worldcover --protocol knn --seeds 3 --cache OUT/cache --device cpu"
SHARDS = "s.zarr/_commits/*.parquet"


@dataclass(frozen=True, slots=True)
class Case:
    """A command line; IN is the folder of its inputs, OUT the folder that it writes to.

    Attributes
    ----------
    keeps
        Pattern below OUT of the finished parts from which the same command resumes; None if it starts from the
        beginning.
    resumes
        What the command says when it resumes.
    """

    name: str
    words: str
    cli: click.Group = data_cli
    keeps: str | None = None
    resumes: str = "Resuming"

    def argv(self, inputs: Path, out: Path) -> list[str]:
        """Words of the command line after the program."""
        tile = format_tile_id(int(open_store(inputs / "toy.zarr").coords["tile_id"][0]))
        parts = {"IN/": f"{inputs}/", "OUT/": f"{out}/", "TILE": tile}
        words = self.words.split()
        for part, value in parts.items():
            words = [word.replace(part, value) for word in words]
        return words

    def run(self, inputs: Path, out: Path) -> Result:
        """Run the command in this process."""
        return CliRunner().invoke(self.cli, self.argv(inputs, out))


CASES = {
    case.name: case
    for case in (
        Case("build", BUILD, keeps=SHARDS),
        Case("append", f"{BUILD} --append 16", keeps=SHARDS),
        Case("sample", "sample --source synthetic --tiles 600 --tile-size 64 --out OUT/s.parquet --map OUT/map.png"),
        Case("subset", "subset IN/one.zarr --out OUT/s.zarr --crop 32 --share 0.8", keeps=SHARDS),
        Case("merge", "merge IN/train.zarr IN/rest.zarr --out OUT/s.zarr", keeps=SHARDS),
        Case("import", "import IN/published --out OUT/s.zarr", keeps=SHARDS),
        Case(
            "export-h5",
            f"export IN/one.zarr --format mmearth-h5 --name {NAME} --out OUT/h5",
            keeps=f"h5/.{NAME}.partial/[0-9]*.json",
        ),
        Case("export-geotiff", "export IN/one.zarr --format geotiff --out OUT/tif", keeps="tif/*/[!.]*.tif"),
        Case("describe", "describe IN/one.zarr --out OUT/cards"),
        Case("inspect", "inspect IN/one.zarr --figure OUT/tile.png --map OUT/map.png"),
        Case("pretrain", "pretrain IN/toy.zarr --recipe IN/tiny.yaml --out OUT/run --device cpu", train_cli, "run/step-*"),
        Case("evaluate", f"{EVALUATE} --out OUT/results", train_cli, "cache/[!.]*.npy", resumes=""),
        Case(
            "evaluate-keep-probe",
            f"{EVALUATE.replace('knn', 'linear')} --keep-probe OUT/probe",
            train_cli,
            "cache/[!.]*.npy",
            resumes="",
        ),
        Case(
            "finetune",
            "finetune IN/run --task store:esa_worldcover --epochs 1 --seed 1 --out OUT/tuned --device cpu",
            train_cli,
        ),
        Case(
            "embed",
            "embed IN/toy.zarr --checkpoint IN/run --out OUT/x.parquet --out OUT/x.zarr --map OUT/map.png "
            "--neighbours TILE --figure OUT/near.png --cache OUT/cache --device cpu",
            train_cli,
        ),
        Case(
            "predict",
            "predict IN/network IN/scene.tif --out OUT/map.tif --scores --overlap 16 --workers 1 --device cpu",
            train_cli,
            ".map.tif.work/block-*.npz",
        ),
        Case(
            "embed-dense",
            "embed IN/scene.tif --dense --checkpoint IN/run --out OUT/x.zarr --picture OUT/p.png --workers 1 --device cpu",
            train_cli,
            ".x.zarr.work/block-*.npz",
        ),
        Case("report", "report IN/run --html OUT/report.html --tiles 1 --embeddings 0 --device cpu", train_cli),
        Case("convert", "convert IN/run --out OUT/again", train_cli),
        Case("export-program", "export IN/run --to torch-export --out OUT/run.pt2", train_cli),
        Case("convert-to", "convert IN/run --to finetune --out OUT/tuned.pth", train_cli),
        Case(
            "experiment",
            "experiment IN/toy.yaml --store IN/toy.zarr --out OUT/exp --device cpu",
            train_cli,
            "exp/runs/*/result.json",
            resumes="known runs finished",
        ),
    )
}  # fmt: skip
"""Commands that write, by name."""
OTHERS = {
    case.name: case
    for case in (
        Case("build --workers", f"{BUILD} --workers 2", keeps=SHARDS),
        Case("verify", "verify IN/one.zarr"),
        Case("catalog", "catalog"),
        Case("bench", "bench --runs 2 --batch-size 4 --device cpu", train_cli),
    )
}
"""Commands that write nothing, or nothing that `CASES` does not cover."""

RECIPE = {
    **{key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items()},
    "epochs": 24,
    "batch_size": 18,
    "checkpoint_epochs": 3,
    "figure_epochs": 24,
    "exclude": ["biome", "eco_region"],
}
EXPERIMENT = {
    "name": "toy",
    "question": "Does training help?",
    "baseline": "random",
    "variants": {"sentinel2": {"train": {"modalities": ["sentinel2"]}}, "random": {"network": "random"}},
    "scales": {
        "demo": {
            "recipe": "demo",
            "train": {**{key: RECIPE[key] for key in TINY}, "epochs": 2, "batch_size": 12},
            "tasks": ["store:esa_worldcover"],
            "protocols": ["knn"],
            "seeds": 1,
        }
    },
}


def make_inputs(folder: Path, rows: int) -> Path:
    """Make the inputs of all commands: stores and a published data set with ``rows`` rows, a toy store, and a run on
    it."""
    store, published = folder / "one.zarr", folder / "published"
    make_published(published, rows=rows, size_px=48)
    run(data_cli, "import", published, "--out", store)
    run(data_cli, "subset", store, "--split", "train", "--out", folder / "train.zarr")
    run(data_cli, "subset", store, "--split", "val", "--split", "test", "--out", folder / "rest.zarr")
    toy, recipe = write_store(folder / "toy.zarr").path, folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    (folder / "toy.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    save_network(folder / "network", make_network())
    write_scene(folder / "scene.tif", numbers(rows * 110, 24))  # five blocks for 20 rows
    run(train_cli, "pretrain", toy, "--recipe", recipe, "--epochs", 1, "--out", folder / "run", "--device", "cpu")
    return folder


def run(cli: click.Group, *words: object) -> None:
    """Run a command in this process; it must succeed."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, (result.stderr, result.exception)
