import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from leo_diffusers import LEOInfinitePipeline, MotionControl
from leo_diffusers.cli import main
from leo_diffusers.video_io import VideoReader, read_image, read_video, to_uint8


FRAME_BYTES = 32 * 32 * 3


@pytest.fixture
def words(photo_file, full_folder) -> list[str]:
    """The command with a model and a photo."""
    return ["stream", "--model", str(full_folder), "--image", str(photo_file), "--num-inference-steps", "2"]


def stream(folder: Path, image: object = None, **arguments) -> np.ndarray:
    """What the pipeline itself streams, (F, H, W, 3) uint8."""
    pipeline = LEOInfinitePipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(arguments.pop("seed", 0))
    frames = pipeline.stream(image, num_inference_steps=2, generator=generator, output_type="pt", **arguments)
    return to_uint8(torch.stack(list(frames)) * 2 - 1)


def pixels_of(folder: Path) -> np.ndarray:
    return np.stack([to_uint8(read_image(path)) for path in sorted(folder.iterdir())])


def assert_same_pixels(one: np.ndarray, other: np.ndarray) -> None:
    """Up to rounding: another process may add in another order."""
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other).max() <= 1


@contextlib.contextmanager
def running(words: list[str], **pipes) -> Iterator[subprocess.Popen]:
    """The command in a process of its own, which does not outlive the test."""
    process = subprocess.Popen([sys.executable, "-m", "leo_diffusers", *words], **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in filter(None, (process.stdout, process.stderr)):
            pipe.close()


# --- to a file ---


def test_to_a_file(tmp_path, words, photo, full_folder):
    assert main([*words, "--num-frames", "40", "--seed", "3", "--fps", "12.5", "--output", f"{tmp_path}/out.mp4"]) == 0
    video = VideoReader(tmp_path / "out.mp4")
    assert len(video) == 40 and video.frames_per_second == 12.5 and not video.has_audio
    expected = stream(full_folder, photo, num_frames=40, seed=3)
    assert np.abs(to_uint8(read_video(tmp_path / "out.mp4")).astype(float) - expected).mean() < 12


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["--transition", "diffusion"], {"transition": "diffusion"}),
        (
            ["--transition", "diffusion", "--transition-interval", "2", "--drift-limit", "0.5"],
            {"transition": "diffusion", "transition_interval": 2, "drift_limit": 0.5},
        ),
        (["--motion-scale", "0.5", "--smoothing", "2"], {"motion_control": MotionControl(0.5, smoothing=2)}),
        (["--direction-value", "1=0.5"], {"motion_control": MotionControl(values={1: 0.5})}),
    ],
)
def test_options(tmp_path, words, photo, full_folder, options, arguments):
    assert main([*words, *options, "--num-frames", "50", "--output", str(tmp_path / "frames")]) == 0
    assert_same_pixels(pixels_of(tmp_path / "frames"), stream(full_folder, photo, num_frames=50, **arguments))


def test_from_nothing(tmp_path, full_folder):
    words = ["stream", "--model", str(full_folder), "--num-inference-steps", "2", "--num-frames", "20"]
    assert main([*words, "--output", str(tmp_path / "frames")]) == 0
    assert_same_pixels(pixels_of(tmp_path / "frames"), stream(full_folder, num_frames=20))


def test_a_file_ends_without_being_told(tmp_path, words):
    assert main([*words[:-1], "1", "--output", str(tmp_path / "frames")]) == 0
    assert len(list((tmp_path / "frames").iterdir())) == 1024


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM] * 3])
def test_a_stopped_stream_keeps_its_frames(tmp_path, words, signals):
    output = tmp_path / "long.mp4"
    with open(tmp_path / "log", "wb") as log:
        with running([*words, "--num-frames", "100000", "--output", str(output)], stdout=log, stderr=log) as process:
            before = time.monotonic()
            while b"/100000 [" not in (tmp_path / "log").read_bytes() and time.monotonic() < before + 120:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
            time.sleep(0.3)
            for number in signals:
                process.send_signal(number)
                time.sleep(0.005)
            returncode = process.wait(timeout=60)
    text = (tmp_path / "log").read_text()
    # Of several signals the last may hit the interpreter on its way out, but none may hit a file that is not finished.
    assert returncode == 0 or (len(signals) > 1 and returncode == -signal.SIGTERM), text
    assert "Traceback" not in text, text
    assert "Stopped: what was generated so far is kept." in text
    num_frames = len(VideoReader(output))
    assert 0 < num_frames < 100000 and len(read_video(output)) == num_frames
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "long.mp4", "photo.png"]


# --- to standard output ---


def test_to_standard_output(tmp_path, words, photo, full_folder):
    words = [*words, "--output", "-", "--num-frames", "12", "--seed", "3"]
    result = subprocess.run(
        [sys.executable, "-m", "leo_diffusers", *words], capture_output=True, cwd=tmp_path, timeout=120
    )
    assert result.returncode == 0, result.stderr.decode()
    assert len(result.stdout) == 12 * FRAME_BYTES  # and nothing else
    frames = np.frombuffer(result.stdout, np.uint8).reshape(12, 32, 32, 3)
    assert_same_pixels(frames, stream(full_folder, photo, num_frames=12, seed=3))
    player = "ffplay -f rawvideo -pixel_format rgb24 -video_size 32x32 -framerate 25 -"
    assert f"Raw video, to be piped into: {player}" in result.stderr.decode()
    assert not list(tmp_path.glob("-*"))


def test_a_reader_that_leaves_ends_an_endless_stream(words):
    with running([*words, "--output", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        frames = process.stdout.read(40 * FRAME_BYTES)
        assert len(frames) == 40 * FRAME_BYTES
        process.stdout.close()
        returncode, text = process.wait(timeout=60), process.stderr.read().decode()
    assert returncode == 0 and "Traceback" not in text and "BrokenPipe" not in text, text


def test_a_stopped_stream_to_standard_output(words):
    with running([*words, "--output", "-"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        first = process.stdout.read(FRAME_BYTES)
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(timeout=60) == 0
    assert len(first) == FRAME_BYTES and len(rest) % FRAME_BYTES == 0  # no frame is torn


def test_what_a_first_frame_model_says_is_no_video(full_folder, stable_diffusion_folder, capsysbinary):
    words = ["stream", "--model", str(full_folder), "--num-inference-steps", "2", "--num-frames", "2"]
    words += ["--prompt", "a man", "--first-frame-model", str(stable_diffusion_folder), "--output", "-"]
    assert main(words) == 0
    assert len(capsysbinary.readouterr().out) == 2 * FRAME_BYTES


def test_a_stream_that_fails_leaves_a_playable_file(
    tmp_path, photo_file, make_full_pipeline, make_motion_unet, capsys
):
    unet = make_motion_unet(motion_std=(3e38,) * 8)  # after the first frame there are no finite codes
    make_full_pipeline(LEOInfinitePipeline, motion_unet=unet).save_pretrained(tmp_path / "model")
    words = ["stream", "--model", str(tmp_path / "model"), "--image", str(photo_file), "--num-inference-steps", "2"]
    assert main([*words, "--output", str(tmp_path / "out.mp4"), "--num-frames", "40"]) == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]
    assert len(VideoReader(tmp_path / "out.mp4")) >= 1
