"""What the tests of all commands share."""

from pathlib import Path

import pytest

from leo_diffusers.cli import main


@pytest.fixture
def photo_file(tmp_path, photo) -> Path:
    photo.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def run(tmp_path, photo_file, driving_video, lia_folder, leo_folder):
    """
    Runs a command with good arguments, some of them replaced: None leaves one out, a list repeats it, True is a flag.
    """
    good = {
        "animate": {"model": lia_folder, "image": photo_file, "driving-video": driving_video},
        "generate": {"model": leo_folder, "image": photo_file, "num-frames": 5, "num-inference-steps": 2},
        "manipulate": {"model": lia_folder, "image": photo_file, "direction": "3=0.5", "num-frames": 4},
        "stream": {"model": leo_folder, "image": photo_file, "num-frames": 5, "num-inference-steps": 2},
        "edit": {"model": lia_folder, "video": driving_video, "edited-frame": photo_file},
    }

    def run_command(command: str, **changes) -> int:
        changes = {name.replace("_", "-"): value for name, value in changes.items()}
        arguments = {"output": tmp_path / "out.mp4", **good[command], **changes}
        words = [command]
        for name, value in arguments.items():
            for one in value if isinstance(value, list) else [value]:
                words += [] if one is None else [f"--{name}"] if one is True else [f"--{name}={one}"]
        return main(words)

    return run_command
