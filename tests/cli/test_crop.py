import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers import LIAPipeline
from leo_diffusers.cli import main
from leo_diffusers.data.talking_heads import render_clip
from leo_diffusers.video_io import VideoReader, VideoWriter, load_face_detector, read_image, to_frame


@pytest.fixture
def wide_photo(tmp_path, photo) -> Path:
    """A photo of 61x47, the animator's frames being 32x32."""
    photo.resize((61, 47), Image.Resampling.BICUBIC).save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


@pytest.fixture
def wide_video(tmp_path, clip_frames) -> Path:
    with VideoWriter(tmp_path / "wide", 24) as writer:
        for frame in clip_frames:
            writer.write(to_frame(np.pad(frame, ((0, 0), (6, 10), (0, 0)), constant_values=255)))
    return tmp_path / "wide"


@pytest.fixture
def run(tmp_path):
    def run(command: str, *options: object, model: Path, output: str = "frames") -> int:
        return main([command, "--model", str(model), "--output", str(tmp_path / output), *map(str, options)])

    return run


def pictures(folder: Path) -> torch.Tensor:
    return torch.stack([read_image(path) for path in sorted(folder.iterdir())])


def assert_around_is(frames: torch.Tensor, original: torch.Tensor, left: int, right: int) -> None:
    """Columns before `left` and from `right` on are the original's; not those between."""
    tolerance = 1.01 / 127.5
    original = original.expand_as(frames)
    for columns in (slice(0, left), slice(right, None)):
        torch.testing.assert_close(frames[..., columns], original[..., columns], rtol=0, atol=tolerance)
    assert (frames[..., left + 6 : right - 6] - original[..., left + 6 : right - 6]).abs().max() > 10 * tolerance


@pytest.mark.filterwarnings("ignore:.*central")
def test_animate_puts_back(tmp_path, run, wide_photo, driving_video, lia_folder):
    options = ["--image", wide_photo, "--driving-video", driving_video, "--paste-back"]
    assert run("animate", *options, model=lia_folder) == 0
    frames = pictures(tmp_path / "frames")
    assert frames.shape == (7, 3, 47, 61)
    assert_around_is(frames, read_image(wide_photo), 7, 54)
    assert run("animate", *options, model=lia_folder, output="out.mp4") == 0
    video = VideoReader(tmp_path / "out.mp4")
    assert (video.width, video.height, len(video), video.has_audio) == (62, 48, 7, True)


@pytest.mark.filterwarnings("ignore:.*central")
def test_the_others_put_back(tmp_path, run, wide_photo, wide_video, lia_folder, full_folder):
    original = read_image(wide_photo)
    steps = ["--num-inference-steps", 2]
    for command, model, options in (
        ("manipulate", lia_folder, ["--direction", "0=2", "--num-frames", 3]),
        ("generate", full_folder, ["--num-frames", 5, *steps]),
        ("stream", full_folder, ["--num-frames", 20, *steps]),
    ):
        assert run(command, "--image", wide_photo, "--paste-back", *options, model=model, output=command) == 0
        assert_around_is(pictures(tmp_path / command), original, 7, 54)
    picture = ["--image", wide_photo, "--paste-back", "--direction", "0=2"]
    assert run("manipulate", *picture, model=lia_folder, output="moved.png") == 0
    assert_around_is(read_image(tmp_path / "moved.png"), original, 7, 54)

    first = read_image(sorted(wide_video.iterdir())[0])
    Image.fromarray(((1 - first.permute(1, 2, 0)) * 127.5).round().byte().numpy()).save(tmp_path / "edited.png")
    options = ["--video", wide_video, "--edited-frame", tmp_path / "edited.png", "--paste-back"]
    assert run("edit", *options, model=lia_folder, output="edited") == 0
    assert_around_is(pictures(tmp_path / "edited"), pictures(wide_video), 8, 40)


def test_streams_to_a_player_name_the_photo_s_size(tmp_path, wide_photo, full_folder):
    words = ["stream", "--model", full_folder, "--image", wide_photo, "--paste-back", "--output", "-"]
    words += ["--num-frames", 3, "--num-inference-steps", 2]
    result = subprocess.run(
        [sys.executable, "-m", "leo_diffusers", *map(str, words)], capture_output=True, cwd=tmp_path, timeout=120
    )
    assert "-video_size 61x47 " in result.stderr.decode()
    assert len(result.stdout) == 3 * 61 * 47 * 3


def test_pictures_that_are_not_square_can_be_refused(run, wide_photo, wide_video, photo, tmp_path, lia_folder, capsys):
    photo.save(tmp_path / "square.png")
    options = ["--crop", "none", "--driving-video", wide_video]
    assert run("animate", "--image", wide_photo, *options, model=lia_folder) == 2
    assert 'The image is 61x47, and `crop="none"` takes square ones only' in capsys.readouterr().err
    assert run("animate", "--image", tmp_path / "square.png", *options, model=lia_folder) == 2
    assert 'wide is 48x32, and `crop="none"` takes square ones only' in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "stream"])
def test_nothing_to_put_back_into(run, full_folder, capsys, command):
    assert run(command, "--paste-back", model=full_folder) == 2
    assert capsys.readouterr().err.endswith("--paste-back puts the result back into the photo: give --image.\n")


def test_the_face_is_cropped_to(tmp_path, run, lia_folder, driving_video):
    try:
        load_face_detector()
    except ImportError as error:
        pytest.skip(str(error))
    head = render_clip(identity_seed=1_000_003, motion_seed=2_000_003, num_frames=1, size=256).frames[0]
    Image.fromarray(np.pad(head, ((40, 64), (300, 84), (0, 0)), mode="edge")).save(tmp_path / "photo.png")
    options = ["--image", tmp_path / "photo.png", "--direction", "0=1", "--num-frames", 2]
    assert run("manipulate", "--crop", "auto", *options, model=lia_folder) == 0
    pipeline = LIAPipeline.from_pretrained(lia_folder)
    image = read_image(tmp_path / "photo.png")
    expected = pipeline.manipulate(image, {0: 1.0}, 2, output_type="pt", crop="auto").frames[0] * 2 - 1
    torch.testing.assert_close(pictures(tmp_path / "frames"), expected, rtol=0, atol=1.01 / 127.5)
    with pytest.warns(UserWarning, match="central"):
        centre = pipeline.manipulate(image, {0: 1.0}, 2, output_type="pt").frames[0] * 2 - 1
    assert (centre - expected).abs().mean() > 0.1
