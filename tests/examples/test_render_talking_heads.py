import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from leo_diffusers.data.frame_labels import FrameLabels, load_labels
from leo_diffusers.data.frame_pairs import partners_of
from leo_diffusers.data.talking_head_labels import label_clip
from leo_diffusers.data.talking_heads import FIRST_HELD_OUT_SEED, render_clip
from leo_diffusers.data.video_clips import find_clips
from leo_diffusers.video_io import read_video, to_frame


SEEDS = {"0000005.mp4": (5, 5), "0000006.mp4": (6, 5), "0000007.mp4": (7, 6)}
SETTINGS = ["--num_frames", 4, "--size", 16, "--people_per_motion", 2, "--first_seed", 5, "--num_workers", 1]


@pytest.fixture(scope="module")
def folder(run_example, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rendered") / "deep" / "clips"
    run_example("render_talking_heads.py", "--output_dir", folder, "--num_clips", 3, *SETTINGS)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """By file name; the names in a file of labels come in any order."""
    return {path.name: bytes(sorted(path.read_bytes())) for path in folder.iterdir()}


def test_clips_show_what_their_seeds_say(folder):
    clips, report = find_clips(folder)
    assert [clip.name for clip in clips] == list(SEEDS) and report.summary() == ""
    for clip, labels in zip(clips, load_labels(clips), strict=True):
        expected = render_clip(*SEEDS[clip.name], num_frames=4, size=16)
        frames = torch.stack([to_frame(frame) for frame in expected.frames])
        assert clip.frames_per_second == 25 and (read_video(clip.path) - frames).abs().mean() < 0.06  # H.264 is lossy
        expected_labels = label_clip(expected, motion_id=str(SEEDS[clip.name][1]))
        np.testing.assert_array_equal(labels.keypoints, expected_labels.keypoints)
        np.testing.assert_array_equal(labels.attributes, expected_labels.attributes)
        assert labels.motion_id == expected_labels.motion_id


def test_people_share_motions(folder):
    clips, _ = find_clips(folder)
    assert partners_of(load_labels(clips)) == [[1], [0], []]
    assert {path.suffix for path in folder.iterdir()} == {".mp4", ".safetensors"}


def test_a_stopped_run_goes_on(run_example, folder, tmp_path):
    expected, again = contents(folder), tmp_path / "clips"
    shutil.copytree(folder, again)
    (again / "0000005.mp4").unlink()  # was killed between labels and clip
    FrameLabels.path_of(again / "0000006.mp4").unlink()
    kept = again / "0000007.mp4"
    written = kept.stat().st_mtime_ns
    run_example("render_talking_heads.py", "--output_dir", again, "--num_clips", 3, *SETTINGS)
    assert contents(again) == expected and kept.stat().st_mtime_ns == written


def test_a_clip_that_cannot_be_written_ends_the_run(run_example, tmp_path):
    (tmp_path / "0000005.mp4").mkdir()
    options = ["--output_dir", tmp_path, "--num_clips", 20, *SETTINGS]
    said = run_example("render_talking_heads.py", *options, is_refused=True)
    assert "0000005.mp4 is a folder" in said.splitlines()[-1]
    assert len(find_clips(tmp_path)[0]) < 15  # what was not begun is left


@pytest.mark.parametrize(
    "changes", [["--size", 32], ["--num_frames", 5], ["--people_per_motion", 1], ["--people_per_motion", 3]]
)
def test_other_settings_need_another_folder(run_example, folder, changes):
    expected = contents(folder)
    options = ["--output_dir", folder, "--num_clips", 3, *SETTINGS, *changes]
    said = run_example("render_talking_heads.py", *options, is_refused=True)
    assert "0000007.mp4 was rendered with other settings (motion 6, 4 frames, 16 pixels)" in said.splitlines()[-1]
    assert contents(folder) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_clips", 0], "--num_clips must be at least 1, got 0"),
        (["--num_frames", 0], "--num_frames must be at least 1, got 0"),
        (["--size", 14], "--size must be at least 16, got 14"),
        (["--size", 33], "--size must be even, .* got 33"),
        (["--people_per_motion", 0], "--people_per_motion must be at least 1, got 0"),
        (["--first_seed", -1], "--first_seed must be at least 0, got -1"),
        (["--num_workers", 0], "--num_workers must be at least 1, got 0"),
        (["--first_seed", FIRST_HELD_OUT_SEED - 3, "--num_clips", 4], "would mix people to train on with those from"),
        (["--output_dir", "{file}"], "exists"),
    ],
)
def test_bad_input_is_refused_in_one_line(run_example, tmp_path, options, message):
    file = tmp_path / "file"
    file.touch()
    options = [str(option).format(file=file) for option in options]
    said = run_example("render_talking_heads.py", "--output_dir", tmp_path / "out", *options, is_refused=True)
    assert re.search(message, said.splitlines()[-1])
    assert not (tmp_path / "out").exists()
