"""Training recipes and run folders."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mmearth_data import FileInputError, InputError
from mmearth_model.training.log import read_log
from mmearth_model.training.loggers import wandb_id
from mmearth_model.training.recipe import TRAIN_RECIPES, make_recipe
from mmearth_model.training.runs import Run, RunTaken
from mmearth_model.weights.checkpoints import checkpoints_of


def test_every_shipped_recipe_is_whole() -> None:
    paper = {f"paper-{size}-{tile}" for size in ("atto", "tiny") for tile in (64, 128)}
    assert {"default", "demo", "taster"} | paper <= set(TRAIN_RECIPES.names())
    for name in TRAIN_RECIPES.names():
        assert make_recipe(name).description


def test_the_paper_trains_as_it_says() -> None:
    """arXiv 2405.02771, section 5 and appendix."""
    recipe = make_recipe("paper-atto-64")
    assert recipe.peak_lr == pytest.approx(1.5e-4 * 4096 / 256)
    assert (recipe.epochs, recipe.epochs * recipe.warmup) == (200, 40)
    assert (recipe.betas, recipe.weight_decay, recipe.mask_ratio) == ((0.9, 0.95), 0.05, 0.6)
    assert (recipe.size, recipe.image_size, recipe.patch_size) == ("atto", 56, 8)
    assert recipe.accumulate * recipe.micro_batch == 4096


@pytest.mark.parametrize("size", ["atto", "tiny"])
@pytest.mark.parametrize(("tile", "image", "patch"), [(64, 56, 8), (128, 112, 16)])
def test_the_papers_runs_differ_in_size_and_tile_only(size: str, tile: int, image: int, patch: int) -> None:
    first, recipe = (make_recipe(name) for name in ("paper-atto-64", f"paper-{size}-{tile}"))
    assert (recipe.size, recipe.image_size, recipe.patch_size) == (size, image, patch)
    other = {"size", "image_size", "patch_size", "device_batch", "description"}
    assert first.model_dump(exclude=other) == recipe.model_dump(exclude=other)
    assert recipe.accumulate * recipe.micro_batch == 4096


def test_options_override_a_written_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 3\nexclude: [biome]\n")
    recipe = make_recipe(str(file), {"epochs": 4})
    assert (recipe.epochs, recipe.exclude) == (4, ("biome",))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("mask_ratio", 1.5, "mask_ratio"),
        ("epochs", 0, "epochs"),
        ("epohcs", 3, "epohcs"),
        ("size", "gigantic", "atto"),
        ("weighting", "fair", "unweighted"),
        ("betas", (1.5, 2), r"betas\.0: expected a number below 1\.0, got 1\.5"),
        ("betas", (0.9, 1.0), r"betas\.1: expected a number below 1\.0, got 1\.0"),
        ("depths", (-1, 1, 1, 1), r"depths\.0: expected a number of at least 1, got -1"),
        ("depths", (0, 0, 0, 0), r"depths\.0: expected a number of at least 1, got 0"),
        ("depths", (1, 1, 1), "depths: expected"),
        ("widths", (0, 8, 8, 8), r"widths\.0: expected a number of at least 1, got 0"),
        (
            "min_lr",
            1.0,
            r"min_lr: expected at most the peak learning rate 0\.001 \(0\.008 x batch size 32 / 256\), got 1;",
        ),
        ("batch_size", 257, "batch_size: expected a number with a divisor near device_batch 32, got 257"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(field: str, value: object, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as error:
        make_recipe("demo", {field: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("batch", "parts"), [(64, 2), (100, 4), (32, 1), (7, 1), (1000, 40)])
def test_a_batch_is_accumulated_from_equal_parts_of_at_most_the_device_batch(batch: int, parts: int) -> None:
    recipe = make_recipe("demo", {"batch_size": batch, "device_batch": 32})
    assert recipe.accumulate == parts
    assert recipe.micro_batch * parts == batch


@pytest.mark.parametrize("content", ["- a\n- b\n", "epochs: [3\n", None])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "broken.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=r"broken\.yaml") as error:
        make_recipe(str(file))
    assert "\n" not in str(error.value)


IDENTITY = {"recipe": {"epochs": 3, "seed": 0}, "store": {"digest": "abc"}, "version": "1"}


def test_a_run_is_continued_by_the_same_recipe_only(tmp_path: Path) -> None:
    with Run.check(tmp_path / "run", IDENTITY).hold(IDENTITY, None):
        pass
    Run.check(tmp_path / "run", IDENTITY)
    other = {**IDENTITY, "recipe": {"epochs": 4, "seed": 0}, "store": {"digest": "def"}}
    with pytest.raises(InputError, match=r"epochs: 3 -> 4; digest: 'abc' -> 'def'"):
        Run.check(tmp_path / "run", other)


def test_wandb_knows_runs_in_folders_of_one_name_apart(tmp_path: Path) -> None:
    """All runs of an experiment are in folders called pretrain."""
    one, two, old = (tmp_path / part / "pretrain" for part in ("one", "two", "old"))
    (old / "wandb").mkdir(parents=True)  # of an earlier version, which used the name
    ids = [wandb_id(run) for run in (one, two, old)]
    assert len(set(ids)) == 3
    assert ids[2] == "pretrain"
    (one / "wandb").mkdir()
    moved = one.rename(tmp_path / "moved")
    assert [wandb_id(run) for run in (moved, two, old)] == ids, "a run keeps its id"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="choose another --out"):
        Run.check(tmp_path, IDENTITY)
    with pytest.raises(InputError, match="choose another --out"):
        Run.check(tmp_path / "thesis.tex", IDENTITY)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"recipe": 3, "store": {}}', '{"recipe": {}}', "\0" * 9]
)
def test_a_record_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json: expected the record of a run, .* choose another --out"):
        Run.check(tmp_path, IDENTITY)


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = Run(tmp_path / "file" / "run")
    with pytest.raises(InputError, match="to be a folder, found a file"), run.hold(IDENTITY, None):
        pass


def test_only_whole_checkpoints_count_and_the_last_ones_are_kept(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.hold(IDENTITY, None):
        pass
    (run.folder / ".partial-step-00000099").mkdir()
    (run.folder / ".partial-log.csv").write_text("half a li")
    for step in (9, 10, 100):
        run.publish(step, lambda folder: None, keep=2)
    assert [p.name for p in checkpoints_of(run.folder)] == ["step-00000010", "step-00000100"]
    with run.hold(IDENTITY, run.latest()):
        assert not list(run.folder.glob(".partial-*"))
    assert json.loads((run.folder / "run.json").read_text())["recipe"] == IDENTITY["recipe"]


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    """The second one writes and removes nothing, and does not continue from a checkpoint that is no longer the last."""
    run = Run(tmp_path / "run")
    with run.hold(IDENTITY, None):
        (run.folder / ".partial-step-00000009").mkdir()
        with pytest.raises(RunTaken, match="another process is training this run; wait"), run.hold(IDENTITY, None):
            pytest.fail("it is held")
        assert (run.folder / ".partial-step-00000009").is_dir()
        run.publish(9, lambda folder: None, keep=1)
    with pytest.raises(RunTaken), run.hold(IDENTITY, None):
        pytest.fail("there is a checkpoint now")
    changed = {**IDENTITY, "recipe": {**IDENTITY["recipe"], "seed": 5}}
    with pytest.raises(InputError, match="seed: 0 -> 5"), run.hold(changed, run.latest()):
        pytest.fail("it is another run")
    assert not (run.folder / ".claim").exists()


def test_a_process_that_was_killed_does_not_block_its_run(tmp_path: Path) -> None:
    """Nor does the predecessor of a container that was restarted, whose host name and number this process has."""
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    for number in (int(dead.stdout), os.getpid()):
        (run.folder / ".claim").write_text(json.dumps({"host": socket.gethostname(), "pid": number}))
        with run.hold(IDENTITY, None):
            assert (run.folder / "run.json").is_file()
        assert not (run.folder / ".claim").exists()


def test_a_log_is_rewound_to_where_a_run_continues(tmp_path: Path) -> None:
    run = Run(tmp_path)
    log = run.log(["epoch", "step", "loss"])
    log.rewind(0)
    for step in (1, 2, 3):
        log.append({"epoch": 1, "step": step, "loss": 1 / step})
    log.rewind(2)
    log.append({"epoch": 2, "step": 3})
    assert [(row["step"], row["loss"]) for row in read_log(log.path)] == [("1", "1.0"), ("2", "0.5"), ("3", "")]


@pytest.mark.parametrize("left", ["2", "2,", "2,6", "2,6,", "2,6,0.2", "2,6,0.25\r"])
def test_what_a_killed_process_left_of_a_row_is_removed(tmp_path: Path, left: str) -> None:
    log = Run(tmp_path).log(["epoch", "step", "loss"])
    log.path.write_bytes(b"epoch,step,loss\r\n1,3,0.5\r\n" + left.encode())
    assert read_log(log.path) == [{"epoch": "1", "step": "3", "loss": "0.5"}]
    log.rewind(6)
    log.append({"epoch": 2, "step": 6, "loss": 0.25})
    assert log.path.read_bytes() == b"epoch,step,loss\r\n1,3,0.5\r\n2,6,0.25\r\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a,b\n1,2\n", "log.csv:1: expected the columns epoch,step,loss, got 'a,b'"),
        (b"epoch,step,loss,more\n1,3,0.5,1\n", "log.csv:1: expected the columns epoch,step,loss, got 'epoch,step,loss,more'"),
        (b"epoch,loss,step\n1,0.5,3\n", "log.csv:1: expected the columns"),
        (b"epoch,step,loss\n1,3\n2,6,0.5\n", "log.csv:2: expected 3 numbers, got '1,3'"),
        (b"epoch,step,loss\n1,3,0.5\n2,,0.5\n", "log.csv:3: expected 3 numbers, got '2,,0.5'"),
        (b"epoch,step,loss\n1,x,0.5\n", "log.csv:2: expected 3 numbers"),
        (b"epoch,step,loss\n1,3,half\n", "log.csv:2: expected 3 numbers"),
        (b"\xff\xfe\n", "log.csv: expected the log of a run, got: "),
    ],
)  # fmt: skip
def test_a_damaged_log_is_named_and_left_as_it_is(tmp_path: Path, content: bytes, expected: str) -> None:
    log = Run(tmp_path).log(["epoch", "step", "loss"])
    log.path.write_bytes(content)
    with pytest.raises(FileInputError, match=f"{expected}.*move it away") as error:
        log.rewind(6)
    assert "\n" not in str(error.value)
    assert log.path.read_bytes() == content
