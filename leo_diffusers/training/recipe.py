"""Recipes: scripts that make folders out of each other's, in turn or side by side, and go on after a stop."""

import argparse
import json
import os
import platform
import shlex
import signal
import string
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ..video_io.files import remove, temporary_beside
from .arguments import faster_precision


SMOKE_STEPS = 4  # of a training that only goes through
LONGEST_INTERVAL = 1000  # steps between two checkpoints
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Stage:
    r"""
    One script, and what it writes.

    Args:
        output (`str`): Name of its folder.
        script (`str`): File name of the script.
        arguments (`str`): With the folders of other stages by name, as in "--train_data_dir {clips}".
        steps (`int`): Optimisation steps; 0 where there are none.
        smoke (`str`): Further arguments of a run that only goes through.
        seed (`int`): Added to the recipe's seed.
        needs (`tuple[str, ...]`): Outputs of other stages that it needs beside those in its arguments.
    """

    output: str
    script: str
    arguments: str
    steps: int = 0
    smoke: str = ""
    seed: int = 0
    needs: tuple[str, ...] = ()

    @property
    def inputs(self) -> set[str]:
        r"""The folders that it needs."""
        return {field for _, field, _, _ in string.Formatter().parse(self.arguments) if field} | set(self.needs)


class Folders(dict):
    r"""Folders below one, by their names."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> Path:
        return self.folder / name


class Recipe:
    r"""
    Stages and where they stand. What made a folder is kept in it as stage.json: nothing is used that another command
    made, or that was made from what has changed since.

    Args:
        stages (`tuple[Stage, ...]`): Of those that are ready, the first ones are run first.
        scripts (`Path`): Folder of the scripts.
        output_dir (`Path`): The stages' folders lie in it.
        seed (`int`): Of the recipe.
        smoke (`bool`): Whether all only goes through, for results that show nothing.
        mixed_precision (`str`): Of the stages that train, as accelerate names it.

    Raises:
        ValueError: Where a folder was made by another command, or before one that it is made from.
    """

    def __init__(
        self,
        stages: tuple[Stage, ...],
        scripts: Path,
        output_dir: Path,
        seed: int = 0,
        smoke: bool = False,
        mixed_precision: str = "no",
    ):
        self.stages = stages
        self.scripts = scripts
        self.output_dir = output_dir
        self.seed = seed
        self.smoke = smoke
        self.mixed_precision = mixed_precision
        self.records = {stage.output: self.read(stage) for stage in stages}
        for stage in stages:
            missing = [name for name in sorted(stage.inputs & set(self.records)) if not self.is_done(name)]
            if missing and self.is_done(stage.output):
                raise ValueError(f"{output_dir / stage.output} was made before {missing[0]} is done: delete it.")

    def command(self, stage: Stage, folder: Path) -> list[str]:
        r"""The words of a stage's command, from the script's name on, with folders below `folder`."""
        arguments = shlex.split(f"{stage.arguments} {stage.smoke if self.smoke else ''}")
        words = [stage.script, *(word.format_map(Folders(folder)) for word in arguments)]
        if stage.steps:
            steps = SMOKE_STEPS if self.smoke else stage.steps
            interval = min(steps, LONGEST_INTERVAL)
            words += (
                f"--max_train_steps {steps} --checkpointing_steps {interval} --validation_steps {interval}".split()
            )
            words += f"--mixed_precision {self.mixed_precision} --resume_from_checkpoint latest".split()
            words += f"--seed {self.seed + stage.seed}".split()
        return [*words, "--output_dir", str(folder / stage.output)]

    def shown(self, stage: Stage) -> str:
        r"""The command of a stage as a user would write it."""
        return f"python {self.scripts.name}/{shlex.join(self.command(stage, Path('outputs')))}"

    def path_of(self, stage: Stage) -> Path:
        r"""The file of a stage's record."""
        return self.output_dir / stage.output / "stage.json"

    def read(self, stage: Stage) -> dict[str, object]:
        r"""The record of a stage: its `command`, whether it `is_done`, its `minutes` so far and the `machine`."""
        record = {"command": self.shown(stage), "is_done": False, "minutes": 0.0, "machine": describe_machine()}
        path = self.path_of(stage)
        if not path.is_file():
            return record
        found = json.loads(path.read_text())
        if found["command"] != record["command"]:
            raise ValueError(
                f"{path.parent} was made by another command ({found['command']}): delete it and what was made from "
                "it, or name another --output_dir."
            )
        return found

    def is_done(self, output: str) -> bool:
        r"""Whether a stage, by the name of its folder, is through."""
        return self.records[output]["is_done"]

    def write(self, stage: Stage, is_done: bool, minutes: float) -> None:
        r"""Counts the time that was spent on a stage, and whether it is through."""
        record = self.records[stage.output]
        record |= {"is_done": is_done, "minutes": record["minutes"] + minutes}
        path = self.path_of(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        try:
            temporary.write_text(json.dumps(record, indent=1))
            temporary.replace(path)
        finally:
            remove(temporary)

    def run(self, outputs: set[str] | None = None, num_parallel: int = 1) -> None:
        r"""
        Runs what is not done yet.

        Args:
            outputs (`set[str]`, *optional*): Only these stages, by the names of their folders.
            num_parallel (`int`): Stages side by side, each on its share of the cores and with what it says in log.txt
                of its folder.

        Raises:
            ValueError: Where a script fails.
        """
        waiting = [stage for stage in self.stages if outputs is None or stage.output in outputs]
        waiting = [stage for stage in waiting if not self.is_done(stage.output)]
        running: list[RunningStage] = []
        # Or what is at work would go on alone, beside the next run.
        killed: list[int] = []
        handler = signal.signal(signal.SIGTERM, lambda number, _: killed.append(number))
        try:
            while waiting or running:
                if killed:
                    sys.exit(128 + killed[0])
                for stage in [stage for stage in waiting if self.is_ready(stage)][: num_parallel - len(running)]:
                    waiting.remove(stage)
                    self.write(stage, is_done=False, minutes=0)
                    running.append(RunningStage(self, stage, num_parallel))
                if not running:
                    raise ValueError(f"{waiting[0].output} needs stages that are not run: {waiting[0].inputs}.")
                time.sleep(POLL_SECONDS)
                for ended in [one for one in running if one.process.poll() is not None]:
                    running.remove(ended)
                    ended.finish()
        finally:
            for one in running:
                one.process.terminate()
            for one in running:
                one.record_stop()
            signal.signal(signal.SIGTERM, handler)

    def is_ready(self, stage: Stage) -> bool:
        r"""Whether all that a stage needs of the others is done."""
        return all(self.is_done(name) for name in stage.inputs & set(self.records))


class RunningStage:
    r"""
    A stage at work.

    Args:
        recipe ([`Recipe`]): Whose it is.
        stage ([`Stage`]): The stage.
        num_parallel (`int`): Stages that may run side by side.
    """

    def __init__(self, recipe: Recipe, stage: Stage, num_parallel: int):
        self.recipe = recipe
        self.stage = stage
        script, *words = recipe.command(stage, recipe.output_dir)
        command = [sys.executable, str(recipe.scripts / script), *words]
        print(f"\n$ {shlex.join(command)}", flush=True)
        self.start = time.monotonic()
        self.log, environment = None, None
        if num_parallel > 1:
            self.log = (recipe.path_of(stage).parent / "log.txt").open("a")
            environment = {"OMP_NUM_THREADS": str(max(1, os.cpu_count() // num_parallel)), **os.environ}
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)

    def finish(self) -> None:
        r"""Records how it ended; a ValueError where it failed."""
        if self.log is not None:
            self.log.close()
        minutes = (time.monotonic() - self.start) / 60
        self.recipe.write(self.stage, self.process.returncode == 0, minutes)
        if self.process.returncode:
            place = "above" if self.log is None else f"in {self.log.name}"
            raise ValueError(f"{self.stage.script} failed; its message is {place}. Run this command again to go on.")
        print(f"{self.stage.output}: {minutes:.1f} min", flush=True)

    def record_stop(self) -> None:
        r"""Waits until it has ended before its time, and records it; its checkpoints stay."""
        self.process.wait()
        self.recipe.write(self.stage, is_done=False, minutes=(time.monotonic() - self.start) / 60)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    r"""Adds what every script that runs a recipe takes."""
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="all that is made is written here")
    add("--smoke", action="store_true", help="a few steps of everything")
    add("--num_parallel", type=int, default=1, help="stages side by side (default: %(default)s)")
    add(
        "--mixed_precision",
        choices=("no", "bf16"),
        default=faster_precision(),
        help="of the trainings (default: %(default)s, which is the faster one here)",
    )


def check_recipe_arguments(args: argparse.Namespace) -> None:
    r"""
    Refuses what [`add_recipe_arguments`] cannot know to be wrong.

    Raises:
        ValueError: Names the argument, its value and the fix.
    """
    if args.num_parallel < 1:
        raise ValueError(f"--num_parallel must be at least 1, got {args.num_parallel}.")


def describe_machine() -> str:
    r"""What a training runs on."""
    if torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name()}"
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.is_file() else []
    name = names[0].split(":")[1].strip() if names else platform.machine()
    return f"{os.cpu_count()} CPU cores ({name})"
