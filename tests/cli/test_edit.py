import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from leo_diffusers import LEOEditPipeline, MotionControl
from leo_diffusers.cli import main
from leo_diffusers.video_io import VideoReader, read_image, read_video, to_uint8


@pytest.fixture
def edited_file(tmp_path, clip_frames) -> Path:
    """The video's first frame, edited elsewhere."""
    ImageOps.invert(Image.fromarray(clip_frames[0])).save(tmp_path / "edited.png")
    return tmp_path / "edited.png"


@pytest.fixture
def edit(tmp_path, lia_folder, driving_video):
    """Runs the command; the frames come as PNG files, which lose nothing but rounding."""

    def run(*options: object, output: Path = tmp_path / "frames") -> int:
        words = ["edit", "--model", lia_folder, "--video", driving_video, "--output", output, *options]
        return main([str(word) for word in words])

    return run


def assert_images(folder: Path, frames: torch.Tensor) -> None:
    written = (torch.stack([read_image(path) for path in sorted(folder.iterdir())]) + 1) / 2
    torch.testing.assert_close(written, frames, rtol=0, atol=1.01 / 255)


# --- a frame that was edited elsewhere ---


def test_keeps_audio_and_rate(tmp_path, edit, edited_file, driving_video, lia_folder):
    assert edit("--edited-frame", edited_file, output=tmp_path / "out.mp4") == 0
    video, before = VideoReader(tmp_path / "out.mp4"), VideoReader(driving_video)
    assert len(video) == len(before) == 7 and video.frames_per_second == before.frames_per_second == 24
    assert video.has_audio and (video.height, video.width) == (32, 32)
    pipeline = LEOEditPipeline.from_pretrained(lia_folder)
    expected = pipeline(driving_video, edited_frame=read_image(edited_file), output_type="np").frames[0]
    written = to_uint8(read_video(tmp_path / "out.mp4"))
    assert np.abs(written - expected * 255).mean() < 12


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ([], {}),
        (["--motion-mode", "absolute"], {"motion_mode": "absolute"}),
        (["--reference-frame", "3"], {"reference_frame": 3}),
        (["--reference-frame", "auto"], {"reference_frame": "auto"}),
        (["--motion-scale", "2", "--smoothing", "1"], {"motion_control": MotionControl(2.0, smoothing=1.0)}),
    ],
)
def test_options(tmp_path, edit, edited_file, driving_video, lia_folder, options, arguments):
    assert edit("--edited-frame", edited_file, *options) == 0
    pipeline = LEOEditPipeline.from_pretrained(lia_folder)
    output = pipeline(driving_video, edited_frame=read_image(edited_file), output_type="pt", **arguments)
    assert_images(tmp_path / "frames", output.frames[0])


def test_a_frame_of_another_size_is_resized_with_a_warning(tmp_path, edit, edited_file, driving_video, capsys):
    large = Image.open(edited_file).resize((64, 64))
    large.save(tmp_path / "large.png")
    assert edit("--edited-frame", tmp_path / "large.png") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    message = "`edited_frame` is 64x64: it is resized to 32x32, the animator's frames."
    assert lines == [f"leo-diffusers: warning: {message}"]
    assert len(list((tmp_path / "frames").iterdir())) == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert edit("--edited-frame", edited_file, output=tmp_path / "same") == 0
    assert "warning" not in capsys.readouterr().err


# --- an editor ---


def edited_video(folder: Path, video: Path, seed: int = 0, **loading) -> torch.Tensor:
    """What the pipeline itself makes of a prompt."""
    pipeline = LEOEditPipeline.from_pretrained(folder, **loading)
    arguments = {"editor_arguments": {"strength": 1.0, "num_inference_steps": 2}, "output_type": "pt"}
    return pipeline(video, "an old man", generator=torch.Generator().manual_seed(seed), **arguments).frames[0]


PROMPT = ["--prompt", "an old man", "--strength", "1", "--num-inference-steps", "2"]


def test_a_prompt_and_an_editor(tmp_path, edit, driving_video, lia_folder, stable_diffusion_folder):
    for seed in (0, 1):
        output = tmp_path / f"frames-{seed}"
        assert edit(*PROMPT, "--editor", stable_diffusion_folder, "--seed", seed, output=output) == 0
        assert_images(output, edited_video(lia_folder, driving_video, seed, editor=stable_diffusion_folder))


def test_a_controlnet_and_its_detector(
    tmp_path, detectors, edit, driving_video, lia_folder, stable_diffusion_folder, controlnet_folder
):
    loading = {"editor": stable_diffusion_folder, "controlnet": controlnet_folder, "detector": "canny"}
    options = [word for name, value in loading.items() for word in (f"--{name}", value)]
    assert edit(*PROMPT, *options) == 0
    assert_images(tmp_path / "frames", edited_video(lia_folder, driving_video, **loading))


def test_the_sound_of_an_edited_video(tmp_path, edit, stable_diffusion_folder):
    assert edit(*PROMPT, "--editor", stable_diffusion_folder, output=tmp_path / "out.mp4") == 0
    assert VideoReader(tmp_path / "out.mp4").has_audio


# --- bad input, beside that of test_bad_input.py ---


def assert_one_line(capsys, code: int, message: str) -> None:
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and lines[-1].startswith("leo-diffusers: error: ") and message in lines[-1]
    assert sum("error: " in line for line in lines) == 1


def test_editors_that_do_not_fit(tmp_path, edit, capsys, stable_diffusion_folder, controlnet_folder):
    guided = ["--editor", stable_diffusion_folder, "--controlnet", controlnet_folder]
    for options, message in (
        ([*PROMPT, *guided], "is guided by a control image: pass a `detector`"),
        ([*PROMPT, *guided, "--detector", "nose"], "`detector"),
        (["--editor", stable_diffusion_folder], "Give either --edited-frame, or --prompt with --editor"),
        (["--edited-frame", "nowhere.png"], "There is no image nowhere.png"),
    ):
        assert_one_line(capsys, edit(*options), message)
    assert not list(tmp_path.iterdir())


def test_a_prompt_and_a_frame(edit, capsys, edited_file, stable_diffusion_folder):
    code = edit(*PROMPT, "--editor", stable_diffusion_folder, "--edited-frame", edited_file)
    assert_one_line(capsys, code, "Give either --edited-frame, or --prompt with --editor")
