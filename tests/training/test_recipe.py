import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leo_diffusers.training.recipe import Recipe, Stage


# Writes the number of a folder plus one; counts its runs; fails or waits for another's start where it is told to.
SCRIPT = """
import argparse, os, pathlib, sys, time

parser = argparse.ArgumentParser()
for name in ("--input", "--output_dir", "--fail_unless", "--wait_for", "--max_train_steps", "--seed", "--small"):
    parser.add_argument(name)
for name in ("--checkpointing_steps", "--validation_steps", "--resume_from_checkpoint", "--mixed_precision"):
    parser.add_argument(name)
args = parser.parse_args()
folder = pathlib.Path(args.output_dir)
folder.mkdir(exist_ok=True)
(folder / "process").write_text(str(os.getpid()))
with (folder / "runs").open("a") as runs:
    runs.write("|")
print("at work", args.seed, args.max_train_steps, args.small)
if args.wait_for:
    until = time.monotonic() + 60
    while not pathlib.Path(args.wait_for, "runs").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert pathlib.Path(args.wait_for, "runs").exists()
if args.fail_unless and not pathlib.Path(args.fail_unless).exists():
    sys.exit("it failed")
before = int(pathlib.Path(args.input, "number").read_text()) if args.input else 0
(folder / "number").write_text(str(before + 1))
"""

CHAIN = (
    Stage("first", "count.py", ""),
    Stage("second", "count.py", "--input {first}", steps=2500, smoke="--small yes", seed=3),
    Stage("third", "count.py", "--input {second}", needs=("aside",)),
    Stage("aside", "count.py", ""),
)


@pytest.fixture
def scripts(tmp_path) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "count.py").write_text(SCRIPT)
    return folder


@pytest.fixture
def output_dir(tmp_path) -> Path:
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


def read(folder: Path, name: str, file: str = "number") -> str:
    return (folder / name / file).read_text()


@pytest.mark.parametrize("num_parallel", [1, 2, 9])
def test_every_stage_is_run_once_after_what_it_needs(scripts, output_dir, num_parallel):
    recipe = Recipe(CHAIN, scripts, output_dir)
    recipe.run(num_parallel=num_parallel)
    assert [read(output_dir, name) for name in ("first", "second", "third", "aside")] == ["1", "2", "3", "1"]
    assert all(recipe.is_done(stage.output) and recipe.records[stage.output]["minutes"] > 0 for stage in CHAIN)
    Recipe(CHAIN, scripts, output_dir).run(num_parallel=num_parallel)
    assert {read(output_dir, stage.output, "runs") for stage in CHAIN} == {"|"}


def test_only_what_is_asked_for_is_run(scripts, output_dir):
    recipe = Recipe(CHAIN, scripts, output_dir)
    recipe.run({"first"})
    assert [path.name for path in output_dir.iterdir()] == ["first"]
    with pytest.raises(ValueError, match="third needs stages that are not run"):
        recipe.run({"third"})


@pytest.mark.parametrize(
    ("smoke", "expected"),
    [
        (False, "--max_train_steps 2500 --checkpointing_steps 1000 --validation_steps 1000"),
        (True, "--small yes --max_train_steps 4 --checkpointing_steps 4 --validation_steps 4"),
    ],
)
def test_commands_are_shown_as_a_user_would_write_them(scripts, output_dir, smoke, expected):
    shown = Recipe(CHAIN, scripts, output_dir, seed=7, smoke=smoke, mixed_precision="bf16").shown(CHAIN[1])
    assert shown == (
        f"python scripts/count.py --input outputs/first {expected} --mixed_precision bf16 "
        "--resume_from_checkpoint latest --seed 10 --output_dir outputs/second"
    )


def test_stages_run_side_by_side(scripts, output_dir):
    """Each waits for the other's start."""
    stages = tuple(
        Stage(name, "count.py", f"--wait_for {output_dir / other}") for name, other in (("a", "b"), ("b", "a"))
    )
    Recipe(stages, scripts, output_dir).run(num_parallel=2)
    assert read(output_dir, "a", "log.txt") == read(output_dir, "b", "log.txt") == "at work None None None\n"


@pytest.mark.parametrize("num_parallel", [1, 2])
def test_a_stage_that_failed_is_run_again(scripts, output_dir, tmp_path, num_parallel):
    stages = (*CHAIN[:1], Stage("second", "count.py", f"--input {{first}} --fail_unless {tmp_path / 'mended'}"))
    place = "above" if num_parallel == 1 else "in .*log.txt"
    with pytest.raises(ValueError, match=rf"count\.py failed; its message is {place}\. Run this command again"):
        Recipe(stages, scripts, output_dir).run(num_parallel=num_parallel)
    assert not Recipe(stages, scripts, output_dir).is_done("second")
    (tmp_path / "mended").touch()
    Recipe(stages, scripts, output_dir).run(num_parallel=num_parallel)
    assert read(output_dir, "second") == "2"
    assert (read(output_dir, "first", "runs"), read(output_dir, "second", "runs")) == ("|", "||")


def test_a_failure_ends_what_runs_beside_it(scripts, output_dir, tmp_path):
    stages = (
        Stage("patient", "count.py", f"--wait_for {tmp_path / 'nowhere'}"),
        Stage("failing", "count.py", f"--fail_unless {tmp_path / 'nowhere'}"),
    )
    with pytest.raises(ValueError, match="failed"):
        Recipe(stages, scripts, output_dir).run(num_parallel=2)
    assert not (output_dir / "patient" / "number").exists()
    assert json.loads(read(output_dir, "patient", "stage.json"))["minutes"] > 0


def is_at_work(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


RUN = """
import sys
from pathlib import Path
from leo_diffusers.training.recipe import Recipe, Stage

stages = (Stage("waits", "count.py", "--wait_for {nobody}"),)
Recipe(stages, Path(sys.argv[1]), Path(sys.argv[2])).run()
"""


def test_what_runs_ends_with_a_recipe_that_is_killed(scripts, output_dir):
    with subprocess.Popen([sys.executable, "-c", RUN, str(scripts), str(output_dir)]) as recipe:
        until = time.monotonic() + 120
        while not (output_dir / "waits" / "runs").exists() and time.monotonic() < until:
            time.sleep(0.02)
        recipe.send_signal(signal.SIGTERM)
    assert recipe.returncode == 128 + signal.SIGTERM
    record = json.loads((output_dir / "waits" / "stage.json").read_text())
    assert record["is_done"] is False and record["minutes"] > 0
    assert not is_at_work(int(read(output_dir, "waits", "process")))


def test_what_another_command_made_is_refused(scripts, output_dir):
    Recipe(CHAIN, scripts, output_dir).run()
    with pytest.raises(ValueError, match=rf"{re.escape(str(output_dir / 'second'))} was made by another command"):
        Recipe(CHAIN, scripts, output_dir, seed=1)


@pytest.mark.parametrize(("gone", "stale"), [("first", "second"), ("aside", "third")])
def test_what_was_made_from_a_stage_that_is_gone_is_refused(scripts, output_dir, gone, stale):
    Recipe(CHAIN, scripts, output_dir).run()
    shutil.rmtree(output_dir / gone)
    with pytest.raises(ValueError, match=f"{stale} was made before {gone} is done: delete it"):
        Recipe(CHAIN, scripts, output_dir)
