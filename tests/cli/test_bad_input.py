import os
import shutil
from pathlib import Path

import pytest
import torch

from leo_diffusers.cli import main


def assert_refused(code: int | None, capsys, folder: Path, before: list[Path], message: str) -> None:
    error = capsys.readouterr().err
    assert code == 2, error
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if "error: " in line]
    assert len(lines) == 1 and lines[0].startswith("leo-diffusers"), error
    assert error.splitlines()[-1] == lines[0]  # progress bars may stand before it
    assert message in lines[0]
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        ("animate", {"image": "{tmp}/nowhere.png"}, "There is no image"),
        ("generate", {"image": "{tmp}/nowhere.png"}, "There is no image"),
        ("manipulate", {"image": "{tmp}/nowhere.png"}, "There is no image"),
        ("animate", {"image": "{tmp}/corrupt.png"}, "corrupt.png cannot be read as an image"),
        ("generate", {"image": "{tmp}/corrupt.png"}, "corrupt.png cannot be read as an image"),
        ("manipulate", {"image": "{tmp}/text.png"}, "text.png cannot be read as an image"),
        ("manipulate", {"image": "{tmp}"}, "cannot be read as an image"),
        ("animate", {"image": None}, "--image"),
        ("animate", {"driving_video": "{tmp}/nowhere.mp4"}, "nowhere.mp4"),
        ("animate", {"driving_video": "{tmp}/text.png"}, "text.png"),
        ("animate", {"driving_video": "{tmp}/corrupt.mp4"}, "corrupt.mp4"),
        ("animate", {"model": "{tmp}/nowhere"}, "nowhere"),
        ("generate", {"model": "{tmp}/nowhere"}, "nowhere"),
        ("generate", {"model": "{tmp}/empty"}, "empty"),
        ("generate", {"model": "{lia}"}, "motion_unet"),
        ("animate", {"motion_mode": "standard"}, "argument --motion-mode: invalid choice: 'standard'"),
        ("animate", {"reference_frame": "first"}, "'first' is neither \"auto\" nor the number of a frame"),
        ("animate", {"reference_frame": "-1"}, "`reference_frame` must be the index"),
        ("animate", {"reference_frame": "99"}, "`reference_frame` is 99, but the driving video has 7 frames"),
        ("animate", {"motion_scale": "much"}, "argument --motion-scale: invalid float value: 'much'"),
        ("animate", {"motion_scale": "nan"}, "`scale` must hold finite numbers, got nan"),
        ("animate", {"direction_scale": "3"}, "'3' is not of the form INDEX=NUMBER"),
        ("animate", {"direction_scale": "8=0"}, "`scale` must be indices from 0 to 7"),
        ("animate", {"direction_value": "8=0"}, "`values` must be indices from 0 to 7"),
        ("animate", {"direction_value": "3=inf"}, "`values` holds NaN or infinite values for 3"),
        ("animate", {"smoothing": -1}, "`smoothing` must be from 0 (off) to 100 frames, got -1.0"),
        ("animate", {"smoothing": "nan"}, "`smoothing` must hold finite numbers, got nan"),
        ("manipulate", {"direction": "6"}, "'6' is not of the form INDEX=NUMBER"),
        ("manipulate", {"direction": "six=1"}, "'six=1' is not of the form INDEX=NUMBER"),
        ("manipulate", {"direction": "1=much"}, "'1=much' is not of the form INDEX=NUMBER"),
        ("manipulate", {"direction": "8=1"}, "`directions` must be indices from 0 to 7"),
        ("manipulate", {"direction": "-1=1"}, "`directions` must be indices from 0 to 7"),
        ("manipulate", {"direction": "1=nan"}, "`directions` must hold finite numbers, got nan"),
        ("manipulate", {"direction": None}, "--direction"),
        ("manipulate", {"num_frames": 0}, "`num_frames` must be at least 1, got 0"),
        ("generate", {"num_frames": 1}, "`num_frames` must be at least 2, got 1"),
        ("generate", {"num_frames": 17}, "`num_frames` must be at most 16"),
        ("generate", {"num_frames": "many"}, "argument --num-frames: invalid int value: 'many'"),
        ("generate", {"num_inference_steps": 0}, "`num_inference_steps` must be at least 1, got 0"),
        ("generate", {"num_videos": 0}, "--num-videos must be at least 1, got 0"),
        ("generate", {"fps": 0}, "`frames_per_second` must be a number from 0.01 to 1000"),
        ("generate", {"output": "{tmp}/missing/out.mp4"}, "The folder"),
        ("animate", {"output": "{tmp}/missing/out.mp4"}, "The folder"),
        ("manipulate", {"output": "{tmp}/missing/out.png"}, "The folder"),
        ("generate", {"output": "{tmp}/text.png/out.mp4"}, "text.png is a file"),
        ("generate", {"output": "{tmp}/out.xyz"}, "out.xyz: videos are written as one of"),
        ("animate", {"output": "{tmp}/out.xyz"}, "out.xyz: videos are written as one of"),
        ("manipulate", {"output": "{tmp}/out.xyz"}, "out.xyz: videos are written as one of"),
        ("generate", {"output": "{tmp}/out.png"}, "out.png: videos are written as one of"),
        ("animate", {"dtype": "int8"}, "argument --dtype: invalid choice: 'int8'"),
        ("animate", {"device": "abacus"}, "abacus"),
        ("animate", {"seed": "x"}, "argument --seed: 'x' is no whole number"),
        ("generate", {"image": None}, "Video from nothing needs `first_frame_unet`, `first_frame_scheduler`"),
        ("generate", {"image": ["{photo}", "{tmp}/nowhere.png"]}, "There is no image"),
        ("generate", {"shared_motion": True}, "--shared-motion shows one motion on several photos: give --image two"),
        ("generate", {"prompt": "a man", "first_frame_model": "{tmp}/nowhere"}, "--image is a first frame already"),
        ("generate", {"prompt": "a man", "image": None}, "--prompt needs --first-frame-model"),
        ("generate", {"first_frame_model": "{tmp}/empty", "image": None}, "empty"),
        ("generate", {"num_frames": -3}, "`num_frames` must be at least 1, got -3"),
        ("generate", {"direction_scale": "8=0"}, "`scale` must be indices from 0 to 7"),
        ("stream", {"num_frames": 0}, "`num_frames` must be at least 1, got 0"),
        ("stream", {"num_frames": -3}, "`num_frames` must be at least 1, got -3"),
        ("stream", {"num_frames": 1}, "`num_frames` must be at least 2, got 1"),
        ("stream", {"num_frames": "many"}, "argument --num-frames: invalid int value: 'many'"),
        ("stream", {"num_frames": 0, "output": "-"}, "`num_frames` must be at least 1, got 0"),
        ("stream", {"num_inference_steps": 0}, "`num_inference_steps` must be at least 1, got 0"),
        ("stream", {"num_inference_steps": 9999}, "`num_inference_steps` must be at most 1000"),
        ("stream", {"image": "{tmp}/nowhere.png"}, "There is no image"),
        ("stream", {"image": "{tmp}/nowhere.png", "output": "-"}, "There is no image"),
        ("stream", {"image": None}, "Video from nothing needs `first_frame_unet`, `first_frame_scheduler`"),
        ("stream", {"transition": "fade"}, "argument --transition: invalid choice: 'fade'"),
        ("stream", {"transition": "diffusion"}, "needs `transition_unet` and `motion_prior`"),
        ("stream", {"transition_interval": 0}, "`transition_interval` must be at least 1, got 0"),
        ("stream", {"drift_limit": 0}, "`drift_limit` must be above 0 standard deviations, got 0.0"),
        ("stream", {"prompt": "a man", "image": None}, "--prompt needs --first-frame-model"),
        ("stream", {"smoothing": -1}, "`smoothing` must be from 0 (off) to 100 frames, got -1.0"),
        ("stream", {"model": "{lia}"}, "motion_unet"),
        ("stream", {"fps": 0}, "`frames_per_second` must be a number from 0.01 to 1000"),
        ("stream", {"fps": 0, "output": "-"}, "`frames_per_second` must be a number from 0.01 to 1000"),
        ("stream", {"seed": 2**63}, "argument --seed: 9223372036854775808 is out of range: seeds are"),
        ("stream", {"output": "{tmp}/missing/out.mp4"}, "The folder"),
        ("stream", {"output": "{tmp}/out.xyz"}, "out.xyz: videos are written as one of"),
        ("edit", {"video": None}, "--video"),
        ("edit", {"video": "{tmp}/nowhere.mp4"}, "nowhere.mp4"),
        ("edit", {"video": "{tmp}/empty.mp4"}, "empty.mp4 is empty, cut off, damaged or no video"),
        ("edit", {"video": "{tmp}/empty"}, "empty"),
        ("edit", {"edited_frame": "{tmp}/nowhere.png"}, "There is no image"),
        ("edit", {"edited_frame": None}, "Give either --edited-frame, or --prompt with --editor"),
        ("edit", {"edited_frame": None, "prompt": "an old man"}, "--prompt needs an editor: name a diffusers image"),
        ("edit", {"edited_frame": None, "prompt": "a", "editor": "{tmp}/nowhere"}, "nowhere"),
        ("edit", {"controlnet": "{tmp}/nowhere"}, "--controlnet is for --prompt"),
        ("edit", {"detector": "canny"}, "--detector is for --prompt"),
        ("edit", {"strength": 0.5}, "--strength is for --prompt"),
        ("edit", {"reference_frame": "99"}, "`reference_frame` is 99, but the driving video has 7 frames"),
        ("edit", {"motion_mode": "same"}, "argument --motion-mode: invalid choice: 'same'"),
        ("edit", {"output": "{tmp}/out.xyz"}, "out.xyz: videos are written as one of"),
    ],
)
def test_bad_input_is_one_line(tmp_path, run, photo_file, lia_folder, capsys, command, changes, message):
    (tmp_path / "text.png").write_text("this is text")
    (tmp_path / "corrupt.png").write_bytes(photo_file.read_bytes()[:200])
    (tmp_path / "corrupt.mp4").write_bytes(b"\x00\x00\x00\x20ftypisom" + bytes(500))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.mp4").touch()
    before = sorted(tmp_path.rglob("*"))

    def fill_in(value: object) -> object:
        if isinstance(value, list):
            return [fill_in(one) for one in value]
        places = {"tmp": tmp_path, "lia": lia_folder, "photo": photo_file}
        return value.format(**places) if isinstance(value, str) else value

    changes = {name: fill_in(value) for name, value in changes.items()}
    try:
        code = run(command, **changes)
    except SystemExit as stop:
        code = stop.code
    assert_refused(code, capsys, tmp_path, before, message)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_not_there(tmp_path, run, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert_refused(run("animate", device="cuda"), capsys, tmp_path, before, "--device cuda is not there")


def test_damaged_weights(tmp_path, run, lia_folder, capsys):
    shutil.copytree(lia_folder, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "animator" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    before = sorted(tmp_path.rglob("*"))
    assert_refused(run("animate", model=tmp_path / "damaged"), capsys, tmp_path, before, "")


def test_an_output_folder_that_cannot_be_written(tmp_path, run, capsys):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        folder = Path("/proc")  # root writes everywhere else
        if not folder.exists():
            pytest.skip("this user may write everywhere")
    before = sorted(tmp_path.rglob("*"))
    for command in ("animate", "generate", "manipulate", "stream", "edit"):
        code = run(command, output=folder / "out.mp4")
        assert_refused(code, capsys, tmp_path, before, f"The folder {folder} cannot be written to")


@pytest.mark.parametrize(
    ("command", "changes"),
    [
        ("animate", {"image": "nowhere.png"}),
        ("animate", {"reference_frame": "99"}),  # found out while the video is written
        ("generate", {"num_frames": 1}),
        ("manipulate", {"direction": "99=1"}),
        ("manipulate", {"model": "/nowhere/at/all"}),
        ("stream", {"num_frames": 0}),
        ("edit", {"reference_frame": "99"}),
    ],
)
def test_a_run_that_fails_leaves_an_older_output(tmp_path, run, capsys, command, changes):
    (tmp_path / "out.mp4").write_bytes(b"an older result")
    before = sorted(tmp_path.rglob("*"))
    code = run(command, **changes)
    assert_refused(code, capsys, tmp_path, before, "")
    assert (tmp_path / "out.mp4").read_bytes() == b"an older result"


def test_no_command(capsys):
    for words in ([], ["dance"], ["animate", "--colour", "red"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
