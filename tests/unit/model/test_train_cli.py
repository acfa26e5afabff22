"""The command ``mmearth-train``."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from toy_store import write_store

from mmearth_model import TrainingInterrupted
from mmearth_model.benchmarking import PEAK_SIDE
from mmearth_model.cli import cli
from mmearth_model.cli.training import only_first_prints

RECIPE = """
depths: [1, 1, 1, 1]
widths: [8, 12, 16, 24]
image_size: 24
patch_size: 8
decoder_dim: 16
precision: float32
epochs: 1
batch_size: 12
exclude: [biome, eco_region]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_store(folder / "toy.zarr")
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_without_arguments_it_helps() -> None:
    result = run()
    assert "mmearth-train STORE is short for mmearth-train pretrain STORE" in result.output
    assert "evaluate" in result.output


@pytest.mark.parametrize(("rank", "printed"), [("0", True), ("1", False)])
def test_only_the_first_of_several_processes_prints(
    here: Path, monkeypatch: pytest.MonkeyPatch, rank: str, printed: bool
) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    result = run("pretrain", "toy.zarr", "--recipe", "tiny.yaml", "--dry-run")
    assert (result.exit_code, bool(result.stdout)) == (0, printed)
    result = run("pretrain", "nosuch.zarr")
    assert result.exit_code == 2
    assert "nosuch.zarr" in result.stderr, "its own errors are printed by every process"


@pytest.mark.parametrize(("rank", "raised"), [("0", TrainingInterrupted), ("1", click.exceptions.Exit)])
def test_only_the_first_of_several_processes_says_that_it_was_interrupted(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], rank: str, raised: type[Exception]
) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)

    @only_first_prints()
    def interrupted() -> None:
        click.echo("result")
        click.echo("note", err=True)
        raise TrainingInterrupted("Interrupted", signal.SIGTERM)

    with pytest.raises(raised) as error:
        interrupted()
    assert error.value.exit_code == 143  # type: ignore[attr-defined]
    assert tuple(capfd.readouterr()) == (("result\n", "note\n") if rank == "0" else ("", ""))


@pytest.mark.parametrize("long_form", [True, False])
def test_a_store_alone_is_pretrained_on_and_then_probed(here: Path, long_form: bool) -> None:
    out = f"runs/{long_form}"
    result = run(
        *["pretrain"] * long_form, "toy.zarr", "--recipe", "tiny.yaml", "--out", out, "--device", "cpu", "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"run": out, "checkpoint": f"{out}/step-00000003"}
    assert "images/s" in result.stderr
    assert (here / out / "step-00000003" / "model.safetensors").is_file()
    longer = run("toy.zarr", "--recipe", "tiny.yaml", "--epochs", "3", "--out", out, "--device", "cpu", "--dry-run")
    plan = json.loads(longer.stdout)
    assert plan["hours_left"] == pytest.approx(6 * 12 / plan["images_per_s"] / 3600, abs=1e-3), "6 of 9 steps are left"

    probed = run("evaluate", out, "--task", "store:biome", "--task", "store:esa_worldcover", "--seeds", "1", "--protocol", "knn", "--json")  # fmt: skip
    assert probed.exit_code == 0, probed.output
    answer = json.loads(probed.stdout)
    assert answer["synthetic"] is True
    leaky = {(row["task"], row["encoder"]) for row in answer["rows"] if row["leaky"]}
    assert leaky == {("store:esa_worldcover", f"{out}/step-00000003")}


def test_people_get_a_table_that_says_what_is_leaky_and_synthetic(here: Path) -> None:
    run("toy.zarr", "--recipe", "tiny.yaml", "--out", "runs/table", "--device", "cpu")
    result = run("evaluate", "runs/table", "--task", "store:dynamic_world", "--seeds", "2", "--store", "toy.zarr")
    assert result.exit_code == 0, result.output
    assert "synthetic" in result.stdout
    assert "leaky" in result.stdout
    assert "random" in result.stdout


def test_a_dry_run_tells_the_plan_and_leaves_nothing(here: Path) -> None:
    result = run("toy.zarr", "--recipe", "tiny.yaml", "--out", "runs/dry", "--dry-run")
    plan = json.loads(result.stdout)
    assert (plan["tiles"], plan["steps"], plan["visible_patches"]) == (36, 3, int(9 * 0.4))
    assert "biome" not in plan["tasks"]
    assert plan["hours_left"] is plan["images_per_s"] is None, "the speed is not known yet"
    assert not (here / "runs" / "dry").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evalute", "x"], "Did you mean evaluate?"),
        (["nothing.zarr"], "nothing.zarr: expected"),
        (["tiny.yaml"], "tiny.yaml: expected"),
        (["empty"], "empty: expected"),
        (["toy.zarr", "--recipe", "nosuch"], "expected a recipe (chips, default, demo, learning, paper-atto-128"),
        (["toy.zarr", "--recipe", "tiny.yaml", "--batch-size", "1000"], "lower --batch-size"),
        (["toy.zarr", "--recipe", "tiny.yaml", "--epochs", "0"], "epochs"),
        (["toy.zarr", "--recipe", "tiny.yaml", "--exclude", "biom"], "did you mean biome"),
        (["toy.zarr", "--recipe", "tiny.yaml", "--bands", "B4,B3,B2"], "expected MODALITY=A,B,..., got 'B4,B3,B2'"),
        (["toy.zarr", "--recipe", "tiny.yaml", "--bands", "sentinel2=red"], "got red of sentinel2"),
        (["toy.zarr", "--bands", "sentinel2=B2", "--bands", "sentinel2=B3"], "expected each name once"),
        (["toy.zarr", "--recipe", "tiny.yaml", "--out", "tiny.yaml/run"], "to be a folder, found a file"),
        (["toy.zarr", "--recipe", "tiny.yaml", "--device", "warp"], "--device"),
        (["evaluate", "empty", "--task", "store:biome"], "expected a checkpoint"),
        (["evaluate", "empty"], "Missing option '--task'"),
        (["convert", "nothing.pth", "--out", "x"], "nothing.pth: expected a checkpoint"),
        (["convert", "tiny.yaml", "--out", "x"], "tiny.yaml: expected a checkpoint"),
        (["convert", "mmearth64-atto-all-uncertainy", "--out", "x"], "did you mean 'mmearth64-atto-all-uncertainty'"),
        (["bench", "--size", "giant"], "'--size': 'giant' is not one of 'atto'"),
        (["bench", "--device", "warp"], "--device"),
        (["bench", "--mask-ratio", "1"], "--mask-ratio: expected a finite number, at least 0, below 1"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(here: Path, arguments: list[str], expected: str) -> None:
    (here / "empty").mkdir(exist_ok=True)
    before = sorted(here.rglob("*"))
    result = run(*arguments)
    assert result.exit_code == 2
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert expected in error
    assert "Traceback" not in result.output
    assert sorted(here.rglob("*")) == before


def test_bench_tells_of_every_form(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEAK_SIDE, "cpu", 256)
    small = ["--batch-size", "2", "--image-size", "16", "--runs", "1", "--device", "cpu"]
    result = run("bench", *small, "--mask-ratio", "0.5", "--json")
    assert result.exit_code == 0, result.output
    found = {timing["form"]: timing for timing in json.loads(result.stdout)}
    assert list(found) == ["sparse", "masked", "unmasked"]
    for timing in found.values():
        assert timing["images_per_s"] > 0
        assert 0 < timing["share_of_peak"] < 1
        assert list(timing["parts_ms"]) == ["targets", "forward", "losses", "backward", "optimiser"]
    # Half of the patches are hidden: half of the linear layers' arithmetic and memory is left out.
    assert found["sparse"]["gflop"] < 0.9 * found["masked"]["gflop"]
    assert found["sparse"]["memory_mib"] < 0.9 * found["masked"]["memory_mib"]
    table = run("bench", *small, "--form", "sparse")
    assert table.exit_code == 0, table.output
    refused = run("bench", *small, "--form", "fused")
    assert refused.exit_code == 2
    assert "'fused' is not one of 'sparse', 'masked', 'unmasked'" in refused.output
    assert "% of peak" in table.stdout


def test_results_are_written_and_a_run_is_fine_tuned(here: Path) -> None:
    run("toy.zarr", "--recipe", "tiny.yaml", "--out", "runs/tuned", "--device", "cpu")
    probed = run("evaluate", "runs/tuned", "--task", "store:biome", "--baseline", "statistics", "--protocol", "knn", "--labels", "50%,100%", "--seeds", "1", "--out", "report", "--cache", "features")  # fmt: skip
    assert probed.exit_code == 0, probed.output
    assert {path.name for path in (here / "report").iterdir()} == {f"results.{kind}" for kind in ("md", "csv", "json", "png", "pdf", "svg")}  # fmt: skip
    assert len(list((here / "features").glob("*.npy"))) == 2
    tuned = run("finetune", "runs/tuned", "--task", "store:biome", "--epochs", "2", "--out", "tuned", "--json")
    assert tuned.exit_code == 0, tuned.output
    (row,) = json.loads(tuned.stdout)["rows"]
    assert (row["protocol"], row["metric"], row["leaky"]) == ("finetune", "accuracy", False)
    assert (here / "tuned" / "model.safetensors").is_file()
    shown = run("finetune", "runs/tuned", "--task", "store:biome", "--epochs", "1")
    assert shown.stdout.startswith("Fine-tuned encoders on toy.zarr")
