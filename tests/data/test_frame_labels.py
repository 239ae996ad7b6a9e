import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from leo_diffusers.data.frame_labels import FrameLabels, load_labels
from leo_diffusers.data.video_clips import VideoClip, find_clips


def make_labels(num_frames: int = 5, **changes) -> FrameLabels:
    random = np.random.default_rng(num_frames)
    values = {
        "keypoints": random.random((num_frames, 4, 2), np.float32),
        "motion": random.random((num_frames, 3), np.float32),
        "attributes": random.random(2, np.float32),
        "keypoint_groups": {"mouth": [0, 1], "nose": [3]},
        "motion_names": ["yaw", "blink", "µ"],
        "attribute_names": ["skin.red", "glasses=round"],
        "motion_id": "7",
    }
    return FrameLabels(**{**values, **changes})


def make_clip(path: Path) -> VideoClip:
    return VideoClip(path, path.name, num_frames=5, frames_per_second=25)


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_equal(first: FrameLabels, second: FrameLabels) -> None:
    for field in dataclasses.fields(FrameLabels):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == np.float32
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert ours == theirs


# --- one file ---


def test_labels_round_trip(tmp_path):
    labels = make_labels()
    labels.save(tmp_path / "a.labels.safetensors")
    check_equal(FrameLabels.load(tmp_path / "a.labels.safetensors"), labels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.labels.safetensors"]


def test_other_numbers_come_back_as_float32(tmp_path):
    labels = make_labels()
    wide = make_labels(
        keypoints=labels.keypoints.astype(np.float64)[:, ::-1], motion=np.ones((5, 3), int), motion_id=""
    )
    wide.save(tmp_path / "a")
    loaded = FrameLabels.load(tmp_path / "a")
    np.testing.assert_array_equal(loaded.keypoints, labels.keypoints[:, ::-1])  # not as it lies in memory
    assert {getattr(loaded, name).dtype for name in ("keypoints", "motion")} == {np.dtype(np.float32)}
    assert loaded.motion.sum() == 15 and loaded.motion_id == ""


def test_a_detector_may_find_less(tmp_path):
    labels = FrameLabels(np.zeros((2, 0, 2)), np.zeros((2, 0)), np.zeros(0))
    labels.save(tmp_path / "a")
    assert FrameLabels.load(tmp_path / "a").description() == labels.description()


def test_the_file_is_an_ordinary_one(tmp_path):
    make_labels().save(tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    labels = make_labels()
    labels.save(tmp_path / "a")
    with pytest.raises(TypeError):  # JSON knows no such numbers
        make_labels(keypoint_groups={"mouth": [np.int64(1)]}).save(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(OSError):
        labels.save(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    check_equal(FrameLabels.load(tmp_path / "a"), labels)


@pytest.mark.parametrize("wrong", [{"keypoint_groups": [[0, 1]]}, {"motion_id": 3}])
def test_names_of_another_type_are_refused(wrong):
    with pytest.raises(ValueError, match="must be a dictionary and `motion_id` a text"):
        make_labels(**wrong)


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="The folder .*nowhere does not exist"):
        make_labels().save(tmp_path / "nowhere" / "a")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There are no labels .*a\.labels\.safetensors: render clips with"):
        FrameLabels.load(tmp_path / "a.labels.safetensors")


TENSORS = {"keypoints": np.zeros((2, 1, 2)), "motion": np.zeros((2, 0)), "attributes": np.zeros(0)}
NAMES = {"keypoint_groups": "{}", "motion_names": "[]", "attribute_names": "[]", "motion_id": '""'}


def test_the_smallest_file_is_one_of_labels(tmp_path):
    save_file(TENSORS, tmp_path / "a", NAMES)
    assert FrameLabels.load(tmp_path / "a").keypoints.shape == (2, 1, 2)


@pytest.mark.parametrize(
    ("tensors", "names"),
    [
        (TENSORS, None),
        (TENSORS, {name: value for name, value in NAMES.items() if name != "motion_id"}),
        (TENSORS, {**NAMES, "motion_names": "[broken"}),
        (TENSORS, {**NAMES, "motion_names": '["yaw"]'}),
        ({name: value for name, value in TENSORS.items() if name != "motion"}, NAMES),
        ({**TENSORS, "keypoints": np.zeros((2, 2))}, NAMES),
    ],
)
def test_a_file_of_other_things_is_no_labels_file(tmp_path, tensors, names):
    save_file(tensors, tmp_path / "a", names)
    with pytest.raises(ValueError, match="a holds no labels of frames"):
        FrameLabels.load(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"this is no safetensors file", b"\xff" * 64])
def test_a_broken_file_is_no_labels_file(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="a holds no labels of frames"):
        FrameLabels.load(tmp_path / "a")


# --- what fits each other ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoints": np.zeros((5, 8))}, r"must have the shapes .* got \(5, 8\), \(5, 3\), \(2,\)"),
        ({"keypoints": np.zeros((5, 4, 3))}, r"got \(5, 4, 3\)"),
        ({"keypoints": np.zeros((4, 4, 2))}, r"got \(4, 4, 2\), \(5, 3\)"),
        ({"attributes": np.zeros((5, 2))}, r"got .* \(5, 2\)"),
        ({"motion": np.full((5, 3), np.nan)}, "must be finite"),
        ({"motion_names": ["yaw"]}, "must name 3 and 2 numbers, got 1 and 2 names"),
        ({"attribute_names": []}, "must name 3 and 2 numbers, got 3 and 0 names"),
        ({"keypoint_groups": {"mouth": [3, 4]}}, r"lists others than the 4 keypoints in 'mouth': \[3, 4\]"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_labels(**changes)


# --- beside clips ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("head.mp4", "head.labels.safetensors"),
        ("head.v2.MOV", "head.v2.labels.safetensors"),
        ("frames", "frames.labels.safetensors"),
        ("take.1", "take.1.labels.safetensors"),  # a folder of frames, not to be confused with take.2
    ],
)
def test_labels_lie_beside_the_clip_whether_it_is_there_or_not(tmp_path, name, expected):
    path = tmp_path / name
    assert FrameLabels.path_of(path) == tmp_path / expected
    path.touch() if name.lower().endswith(("mp4", "mov")) else path.mkdir()
    assert FrameLabels.path_of(path) == tmp_path / expected


def test_labels_of_videos_and_folders_are_found(tmp_path, write_clip):
    frames = torch.zeros(5, 3, 16, 16)
    write_clip(tmp_path / "a.mp4", frames)
    (tmp_path / "b.1").mkdir()
    for frame in write_clip(tmp_path / "frames", frames).iterdir():
        frame.rename(tmp_path / "b.1" / frame.name)
    (tmp_path / "frames").rmdir()
    for name, motion_id in (("a", "1"), ("b.1", "2")):
        make_labels(motion_id=motion_id).save(tmp_path / f"{name}.labels.safetensors")
    clips, report = find_clips(tmp_path)
    assert [clip.name for clip in clips] == ["a.mp4", "b.1"] and report.summary() == ""  # labels are no clips
    assert [labels.motion_id for labels in load_labels(clips)] == ["1", "2"]


def test_a_clip_without_labels_is_told(tmp_path):
    make_labels().save(tmp_path / "a.labels.safetensors")
    with pytest.raises(FileNotFoundError, match=r"There are no labels .*b\.labels\.safetensors"):
        load_labels([make_clip(tmp_path / name) for name in ("a.mp4", "b.mp4")])


@pytest.mark.parametrize(
    "changes",
    [
        {"keypoints": np.zeros((5, 5, 2))},
        {"keypoint_groups": {"mouth": [0, 1]}},
        {"motion_names": ["yaw", "blink", "smile"]},
        {"attributes": np.zeros(1), "attribute_names": ["skin.red"]},
    ],
)
def test_labels_of_a_data_set_are_of_one_kind(tmp_path, changes):
    clips = [make_clip(tmp_path / name) for name in ("a.mp4", "b.mp4")]
    make_labels().save(FrameLabels.path_of(clips[0].path))
    make_labels(num_frames=9, motion_id="8").save(FrameLabels.path_of(clips[1].path))
    assert len(load_labels(clips)) == 2  # lengths and motions differ
    make_labels(**changes).save(FrameLabels.path_of(clips[1].path))
    with pytest.raises(ValueError, match=r"The labels of b\.mp4 have other sizes or names than those of a\.mp4"):
        load_labels(clips)
