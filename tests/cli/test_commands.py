import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from leo_diffusers import LEOPipeline, LIAPipeline, MotionControl, __version__, cli, commands
from leo_diffusers.cli import main
from leo_diffusers.video_io import VideoReader, read_image, read_video, to_uint8


COMMANDS = ["demo", "animate", "generate", "manipulate", "stream", "edit", "convert"]


def pixels_of(path: Path) -> np.ndarray:
    return to_uint8(read_video(path))


def assert_close_video(path: Path, frames: torch.Tensor) -> None:
    """The file shows `frames` (F, 3, H, W) in [0, 1], up to what H.264 loses."""
    written = pixels_of(path).astype(np.float32)
    expected = frames.permute(0, 2, 3, 1).numpy() * 255
    assert written.shape == expected.shape
    assert np.abs(written - expected).mean() < 12


def images_of(folder: Path) -> torch.Tensor:
    """Frames (F, 3, H, W) in [0, 1] of a folder of PNG files, which lose nothing but rounding."""
    return (torch.stack([read_image(path) for path in sorted(folder.iterdir())]) + 1) / 2


def assert_equal_images(folder: Path, frames: torch.Tensor) -> None:
    torch.testing.assert_close(images_of(folder), frames, rtol=0, atol=1.01 / 255)


# --- what the commands write ---


def test_animate(tmp_path, run, photo, driving_video, lia_folder):
    assert run("animate") == 0
    video = VideoReader(tmp_path / "out.mp4")
    assert len(video) == len(VideoReader(driving_video)) == 7
    assert video.frames_per_second == VideoReader(driving_video).frames_per_second == 24
    assert (video.height, video.width) == (32, 32)
    assert video.has_audio
    pipeline = LIAPipeline.from_pretrained(lia_folder)
    expected = pipeline(photo, driving_video, reference_frame="auto", output_type="pt").frames[0]
    assert_close_video(tmp_path / "out.mp4", expected)


@pytest.mark.parametrize("command", ["animate", "generate", "manipulate", "stream", "edit"])
def test_commands_say_what_they_wrote(tmp_path, run, capsys, command):
    assert run(command) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'out.mp4'}.\n" and (tmp_path / "out.mp4").is_file()


def test_several_videos_are_named(tmp_path, run, capsys):
    assert run("generate", num_videos=2) == 0
    assert capsys.readouterr().out == "".join(f"Wrote {tmp_path / f'out-{i}.mp4'}.\n" for i in range(2))


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"motion_mode": "absolute"}, {"motion_mode": "absolute"}),
        ({"reference_frame": "4"}, {"reference_frame": 4}),
        ({"reference_frame": "auto"}, {"reference_frame": "auto"}),
        ({"dtype": "bfloat16", "device": "cpu"}, {}),
        ({"motion_scale": 0.5}, {"motion_control": MotionControl(scale=0.5)}),
        ({"smoothing": 1.5}, {"motion_control": MotionControl(smoothing=1.5)}),
        (
            {"direction_scale": ["0=0", "3=2"], "direction_value": ["1=0.5", "2=-1"]},
            {"motion_control": MotionControl(scale={0: 0.0, 3: 2.0}, values={1: 0.5, 2: -1.0})},
        ),
    ],
)
def test_animate_options(tmp_path, run, photo, driving_video, lia_folder, options, arguments):
    assert run("animate", output=tmp_path / "frames", **options) == 0  # a folder of PNG files loses nothing
    pipeline = LIAPipeline.from_pretrained(lia_folder)
    expected = pipeline(photo, driving_video, output_type="pt", **{"reference_frame": "auto"} | arguments).frames[0]
    written = torch.stack([read_image(path) for path in sorted((tmp_path / "frames").iterdir())])
    assert written.shape == expected.shape
    error = ((written + 1) / 2 - expected).abs()
    assert error.mean() < (0.02 if "dtype" in options else 0.003)


def test_direction_scale_stands_in_for_motion_scale():
    words = "animate --model m --image i --driving-video v --output o --motion-scale 1.5 --direction-scale 2=0".split()
    control = commands.motion_control_of(cli.build_parser().parse_args(words), 4)
    assert control == MotionControl(scale={0: 1.5, 1: 1.5, 2: 0.0, 3: 1.5})
    assert commands.motion_control_of(cli.build_parser().parse_args(words[:-4]), 4) is None


def test_generate(tmp_path, run, photo, leo_folder):
    assert run("generate", seed=3, fps=12.5) == 0
    video = VideoReader(tmp_path / "out.mp4")
    assert len(video) == 5 and video.frames_per_second == 12.5 and not video.has_audio
    pipeline = LEOPipeline.from_pretrained(leo_folder)
    generator = torch.Generator().manual_seed(3)
    output = pipeline(photo, num_frames=5, num_inference_steps=2, generator=generator, output_type="pt")
    assert_close_video(tmp_path / "out.mp4", output.frames[0])


def test_generate_several_videos(tmp_path, run):
    assert run("generate", num_videos=2, seed=6) == 0
    written = sorted(path.name for path in tmp_path.glob("*.mp4"))
    assert written == ["out-0.mp4", "out-1.mp4"]
    first, second = (pixels_of(tmp_path / name) for name in written)
    assert len(first) == len(second) == 5 and not np.array_equal(first, second)
    assert run("generate", output=tmp_path / "alone.mp4", seed=7) == 0
    assert np.array_equal(pixels_of(tmp_path / "alone.mp4"), second)  # video i is that of seed + i


def test_generate_from_nothing(tmp_path, run, full_folder):
    assert run("generate", model=full_folder, image=None, seed=3, output=tmp_path / "frames") == 0
    pipeline = LEOPipeline.from_pretrained(full_folder)
    generator = torch.Generator().manual_seed(3)
    output = pipeline(num_frames=5, num_inference_steps=2, generator=generator, output_type="pt")
    assert_equal_images(tmp_path / "frames", output.frames[0])


def test_generate_from_a_prompt(tmp_path, run, leo_folder, stable_diffusion_folder):
    options = {"prompt": "a man", "first_frame_model": stable_diffusion_folder, "output": tmp_path / "frames"}
    assert run("generate", image=None, **options) == 0
    source = DiffusionPipeline.from_pretrained(stable_diffusion_folder)
    arguments = {"prompt": "a man", "first_frame_source": source, "generator": torch.Generator().manual_seed(0)}
    output = LEOPipeline.from_pretrained(leo_folder)(
        num_frames=5, num_inference_steps=2, **arguments, output_type="pt"
    )
    assert_equal_images(tmp_path / "frames", output.frames[0])


@pytest.fixture
def other_photo_file(tmp_path, photo) -> Path:
    photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "other.png")
    return tmp_path / "other.png"


def test_generate_from_several_photos(tmp_path, run, photo_file, other_photo_file):
    photos = [photo_file, other_photo_file]
    assert run("generate", image=photos, num_videos=2, seed=6, output=tmp_path / "out") == 0
    assert sorted(path.name for path in tmp_path.glob("out-*")) == ["out-0", "out-1", "out-2", "out-3"]
    for i in range(4):
        alone = tmp_path / f"alone-{i}"
        assert run("generate", image=photos[i % 2], seed=6 + i // 2, output=alone) == 0
        assert_equal_images(tmp_path / f"out-{i}", images_of(alone))


def test_generate_with_shared_motion(tmp_path, run, photo_file, other_photo_file, leo_folder):
    control = {"motion_scale": 0.5, "direction_value": "2=0.7", "smoothing": 1}
    options = {"image": [photo_file, other_photo_file], "shared_motion": True, "num_videos": 2}
    assert run("generate", **options, **control, seed=6, output=tmp_path / "out") == 0
    pipeline = LEOPipeline.from_pretrained(leo_folder)
    arguments = {"num_frames": 5, "num_inference_steps": 2, "output_type": "pt"}
    control = MotionControl(scale=dict.fromkeys(range(8), 0.5), values={2: 0.7}, smoothing=1)
    for i in range(4):
        generator = torch.Generator().manual_seed(6 + i // 2)
        codes = pipeline(read_image(photo_file), **arguments, generator=generator).motion_codes
        image = read_image((photo_file, other_photo_file)[i % 2])
        transfer = {"motion_codes": codes, "motion_mode": "relative", "motion_control": control}
        assert_equal_images(tmp_path / f"out-{i}", pipeline(image, **arguments, **transfer).frames[0])


def test_generate_at_another_strength(tmp_path, run):
    assert run("generate", motion_scale=0, output=tmp_path / "still") == 0
    frames = images_of(tmp_path / "still")
    assert torch.equal(frames, frames[:1].expand_as(frames))


def test_photos_after_one_option_or_several():
    words = "generate --model m --output o --image a b --image c".split()
    assert cli.build_parser().parse_args(words).image == ["a", "b", "c"]
    assert cli.build_parser().parse_args(words[:5]).image == []


def test_the_same_seed_writes_the_same_video(tmp_path, run):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("generate", output=tmp_path / f"{name}.mp4", seed=seed) == 0
    a, b, c = (pixels_of(tmp_path / f"{name}.mp4") for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_manipulate_to_an_image(tmp_path, run, photo, lia_folder, suffix):
    output = tmp_path / f"moved{suffix}"
    assert run("manipulate", output=output, direction=["3=0.5", "0=-2"]) == 0
    expected = LIAPipeline.from_pretrained(lia_folder).manipulate(photo, {3: 0.5, 0: -2.0}, output_type="pt")
    error = ((read_image(output) + 1) / 2 - expected.frames[0, 0]).abs().mean()
    assert error < (0.003 if suffix == ".png" else 0.05)


def test_manipulate_to_a_video(tmp_path, run, photo, lia_folder):
    assert run("manipulate") == 0
    expected = LIAPipeline.from_pretrained(lia_folder).manipulate(photo, {3: 0.5}, num_frames=4, output_type="pt")
    assert_close_video(tmp_path / "out.mp4", expected.frames[0])


def test_convert(tmp_path, released_checkpoint, photo_file):
    assert main(["convert", str(released_checkpoint), str(tmp_path / "converted")]) == 0
    words = ["--image", str(photo_file), "--direction", "1=1", "--output", str(tmp_path / "out.png")]
    assert main(["manipulate", "--model", str(tmp_path / "converted"), *words]) == 0
    assert read_image(tmp_path / "out.png").shape == (3, 32, 32)


def test_an_older_output_is_replaced(tmp_path, run):
    (tmp_path / "out.mp4").write_bytes(b"old")
    assert run("manipulate") == 0
    assert len(VideoReader(tmp_path / "out.mp4")) == 4


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16", "1", "LA", "CMYK"])
def test_image_modes(tmp_path, run, photo, lia_folder, mode):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    if mode == "I;16":
        Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(tmp_path / "image.png")
    else:
        photo.convert(mode).save(tmp_path / f"image{suffix}")
    with Image.open(tmp_path / f"image{suffix}") as image:
        assert image.mode == mode
    assert run("manipulate", image=tmp_path / f"image{suffix}", output=tmp_path / "out.png") == 0
    comparable = photo.convert("L" if mode in ("L", "LA", "I;16") else "RGB")
    expected = LIAPipeline.from_pretrained(lia_folder).manipulate(comparable, {3: 0.5}, output_type="pt").frames[0, 0]
    if mode not in ("P", "1", "CMYK"):  # which lose colours
        assert ((read_image(tmp_path / "out.png") + 1) / 2 - expected).abs().mean() < 0.003


# --- what they say ---


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*([command] if command else []), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: leo-diffusers")
    if command is None:
        assert all(name in text for name in COMMANDS)
    elif command != "convert":
        for option in ("--model", "--output", "--seed", "--device", "--dtype"):
            assert option in text
    assert "%(" not in text and "None" not in text


def test_every_option_explains_itself():
    parser = cli.build_parser()
    commands = next(action for action in parser._actions if action.dest == "command").choices
    assert set(COMMANDS) <= set(commands)
    for name, command in commands.items():
        assert all(action.help for action in command._actions), name


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out.strip() == __version__


def test_as_a_module(tmp_path):
    command = [sys.executable, "-m", "leo_diffusers"]
    result = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert result.returncode == 0 and result.stdout.startswith("usage: leo-diffusers")
    words = ["manipulate", "--model=m", "--image=none.png", "--direction=0=1", "--output=out.png"]
    result = subprocess.run([*command, *words], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.splitlines()[-1] == "leo-diffusers: error: There is no image none.png."
