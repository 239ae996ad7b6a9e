import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from leo_diffusers import LIAModel, LIAPipeline
from leo_diffusers.data.frame_labels import FrameLabels
from leo_diffusers.data.motion_codes import MotionCodes, hash_animator
from leo_diffusers.data.talking_head_labels import label_clip
from leo_diffusers.data.talking_heads import render_clip
from leo_diffusers.video_io import VideoWriter, to_frame


REPOSITORY = Path(__file__).resolve().parents[2]
CLIP_LENGTHS = {"a.mp4": 20, "deep/b.mp4": 12, "frames": 9}
LAUNCHERS = {
    "accelerate": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"],
    # `accelerate launch --cpu --num_processes 2` would start one process only.
    "two processes": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}
ENVIRONMENT = {
    **os.environ,
    "ACCELERATE_USE_CPU": "true",
    "HF_HUB_OFFLINE": "1",
    "https_proxy": "http://127.0.0.1:9",  # nothing listens there: downloads fail at once
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(REPOSITORY),
}
# `python script.py options`, again and again, in processes that find torch and diffusers imported: that takes longer
# than a step of a tiny network.
PYTHON = """
import json, os, runpy, sys, traceback
import accelerate, leo_diffusers, matplotlib.figure

for line in sys.stdin:
    *words, output = json.loads(line)
    if os.fork() == 0:
        code, file = 0, os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1), os.dup2(file, 2)
        sys.argv[:] = words
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = traceback.print_exc() or 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.fixture(scope="session")
def python(tmp_path_factory) -> Iterator[Callable[[list[str]], tuple[int, str]]]:
    """Runs `python` with words; returns the exit code and what was said."""
    folder, pipe = tmp_path_factory.mktemp("said"), subprocess.PIPE
    environment = {**ENVIRONMENT, "TORCH_HOME": str(tmp_path_factory.mktemp("torch"))}
    server = subprocess.Popen(
        [sys.executable, "-c", PYTHON], cwd=REPOSITORY, env=environment, stdin=pipe, stdout=pipe, text=True
    )

    def run(words: list[str]) -> tuple[int, str]:
        output = folder / str(len(list(folder.iterdir())))
        server.stdin.write(json.dumps([*words, str(output)]) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline()), output.read_text()

    with server:
        yield run
        server.stdin.close()


@pytest.fixture(scope="session")
def run_example(python) -> Callable[..., str]:
    """Runs a script of examples/ as a user would and returns what it said; it must end well unless `is_refused`."""

    def run(script: str, *options, launcher: str = "python", is_refused: bool = False) -> str:
        words = [f"examples/{script}", *map(str, options)]
        if launcher == "python":
            code, said = python(words)
        else:
            command = [sys.executable, *LAUNCHERS[launcher], *words]
            pipe = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            result = subprocess.run(command, check=False, cwd=REPOSITORY, env=ENVIRONMENT, text=True, **pipe)
            code, said = result.returncode, result.stdout
        assert code == (2 if is_refused else 0), said
        if is_refused:
            assert "Traceback" not in said
            assert said.splitlines()[-1].startswith(f"{script}: error: "), said
        return said

    return run


@pytest.fixture(scope="session")
def clips_folder(tmp_path_factory) -> Path:
    """Talking heads at 32 pixels, among them a file that is no video and a clip that is too short."""
    folder = tmp_path_factory.mktemp("data") / "clips"
    for seed, (name, num_frames) in enumerate([*CLIP_LENGTHS.items(), ("short.mp4", 3)]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(path, 25 + seed) as writer:
            for frame in render_clip(seed, seed, num_frames, 32).frames:
                writer.write(to_frame(frame))
    (folder / "broken.mp4").write_text("this is no video")
    return folder


@pytest.fixture(scope="session")
def labelled_folder(tmp_path_factory) -> Path:
    """Four talking heads with labels, as render_talking_heads.py writes them; two move alike, and other two."""
    folder = tmp_path_factory.mktemp("data") / "labelled"
    folder.mkdir()
    for seed in range(4):
        clip, path = render_clip(seed, seed // 2, 12, 32), folder / f"{seed}.mp4"
        label_clip(clip, motion_id=str(seed // 2)).save(FrameLabels.path_of(path))
        with VideoWriter(path, 25) as writer:
            for frame in clip.frames:
                writer.write(to_frame(frame))
    return folder


def save_animator(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    LIAPipeline(LIAModel(32, 32, 8, (16, 16, 32, 32), motion_head_layers=2)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def animator_folder(tmp_path_factory) -> Path:
    return save_animator(tmp_path_factory.mktemp("animator"), seed=0)


@pytest.fixture(scope="session")
def other_animator_folder(tmp_path_factory) -> Path:
    return save_animator(tmp_path_factory.mktemp("other_animator"), seed=1)


@pytest.fixture(scope="session")
def codes_folder(animator_folder, tmp_path_factory) -> Path:
    """Random walks as motion codes of the animator."""
    lengths = [40, 8, 24, 30]
    codes = torch.randn(sum(lengths), 8, generator=torch.Generator().manual_seed(0)).cumsum(dim=0) / 10
    animator_hash = hash_animator(LIAPipeline.from_pretrained(animator_folder).animator)
    names, offsets = [f"{i}.mp4" for i in range(4)], torch.tensor([0, *lengths]).cumsum(0)
    folder = tmp_path_factory.mktemp("codes")
    MotionCodes(codes, offsets, names, [25.0] * 4, animator_hash).save(folder)
    return folder


@pytest.fixture(scope="session")
def inputs(animator_folder, codes_folder) -> list:
    """The options that name an animator and its motion codes."""
    return ["--pretrained_model_name_or_path", animator_folder, "--motion_codes_dir", codes_folder]


@pytest.fixture(scope="session")
def read_lines() -> Callable[[Path], list[dict]]:
    def read(path: Path) -> list[dict]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    return read


@pytest.fixture(scope="session")
def kill_after_third_step() -> Callable[[Path, Path], None]:
    """Makes a folder what a run of four steps leaves that saves every second one and is killed after the third."""

    def kill(straight: Path, folder: Path) -> None:
        shutil.copytree(straight / "checkpoint-2", folder / "checkpoint-2")
        lines = (straight / "losses.jsonl").read_text().splitlines(keepends=True)
        (folder / "losses.jsonl").write_text("".join(lines[:3]))

    return kill


@pytest.fixture(scope="session")
def resume_after_third_step(run_example, kill_after_third_step, tmp_path_factory) -> Callable[..., Path]:
    """Resumes what a run of four steps leaves that is killed after the third; returns the folder."""

    def resume(script: str, straight: Path, *options) -> Path:
        folder = tmp_path_factory.mktemp("resumed") / straight.name
        kill_after_third_step(straight, folder)
        words = [*options, "--output_dir", folder, "--dataloader_num_workers", 1]
        run_example(script, *words, "--resume_from_checkpoint", "latest")
        return folder

    return resume


@pytest.fixture(scope="session")
def train_one_step(run_example, tmp_path_factory) -> Callable[..., Path]:
    """Runs one step of a script, on a batch in every process; returns the folder."""

    def train(script: str, options: list, launcher: str, train_batch_size: int, *more) -> Path:
        folder = tmp_path_factory.mktemp("one_step")
        words = [*options, "--output_dir", folder, "--report_to", "none"]
        words += ["--max_train_steps", 1, "--train_batch_size", train_batch_size]
        run_example(script, *words, *more, launcher=launcher)
        return folder

    return train


@pytest.fixture(scope="session")
def assert_card_shows() -> Callable[..., None]:
    """A run's card shows a sample, which lies beside it, and the curves, and tells what it was trained on."""

    def check(folder: Path, data: str) -> None:
        card = ModelCard.load(folder / "README.md")
        assert card.data.library_name == "leo_diffusers" and card.data.license == "other"
        parts = ["![sample](sample.jpg)", "## Training", "![training curves](curves.png)", "## Data", data, "## Use"]
        places = [card.text.index(part) for part in [*parts, "## Licence of the weights", "consent"]]
        assert places == sorted(places)
        for name in ("sample.jpg", "curves.png"):
            assert np.asarray(Image.open(folder / name).convert("L")).std() > 5, name

    return check


@pytest.fixture(scope="session")
def assert_same_run(read_lines) -> Callable[..., None]:
    """A run that was killed and resumed equals a straight one: its numbers, and the weights in these folders."""

    def check(resumed: Path, straight: Path, *parts: str) -> None:
        assert (resumed / "losses.jsonl").read_text() == (straight / "losses.jsonl").read_text()
        assert read_lines(resumed / "validation.jsonl") == read_lines(straight / "validation.jsonl")[1:]
        for part in parts:
            (path,) = (straight / part).glob("*.safetensors")
            ours, theirs = load_file(resumed / path.relative_to(straight)), load_file(path)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    return check


@pytest.fixture(scope="session")
def assert_same_gradients() -> Callable[..., None]:
    """The first step of two runs had the same gradients, of which every one or at least some were not zero."""

    def check(run: Path, other_run: Path, atol: float = 1e-7, each: bool = False) -> None:
        ours, theirs = (
            torch.load(folder / "checkpoint-1" / "optimizer.bin", weights_only=True)["state"]
            for folder in (run, other_run)
        )
        assert len(ours) == len(theirs) > 20
        for index in theirs:
            torch.testing.assert_close(ours[index]["exp_avg"], theirs[index]["exp_avg"], rtol=1e-3, atol=atol)
        reached = [bool(moments["exp_avg"].any()) for moments in theirs.values()]
        assert all(reached) if each else any(reached)

    return check
