import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers.data.annotations import ClipAnnotation
from leo_diffusers.data.preparation import PreparationSettings, frame_range, hash_clip, prepare_clip
from leo_diffusers.video_io import VideoReader, read_video, to_pil


BOXED = ClipAnnotation("a", "train", "video", 3, 8, 25.0, (4, 2, 60, 40), (64, 48))
SETTINGS = PreparationSettings(size=16, crop="scaled_box", resampling="bicubic", min_frames=2)
CENTRED = replace(SETTINGS, crop="centre", resampling="lanczos")
WHOLE = ClipAnnotation("a", "train", "video")


def numbered_frames(num_frames: int, height: int = 48, width: int = 64) -> torch.Tensor:
    """A ramp from left to right; frame k is lighter than frame k - 1 by 1/40 of the range."""
    ramp = torch.linspace(-1, -0.5, width).expand(num_frames, 3, height, width)
    return ramp + torch.arange(num_frames).reshape(-1, 1, 1, 1) / 20


@pytest.fixture
def prepare(tmp_path):
    def run(annotation, video, settings=SETTINGS, mask=None) -> tuple[dict, Path]:
        output = tmp_path / "out" / ("clip" if settings.format in ("png", "jpg") else "clip.mp4")
        record = prepare_clip(annotation, video, mask, settings, output, tmp_path / ".work")
        assert not (tmp_path / ".work").exists()
        assert output.exists() == (record["status"] == "complete")
        assert record["sha256"] == (hash_clip(output) if output.exists() else None)
        return record, output

    return run


def read_pictures(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def test_frames_are_those_of_the_list_cropped_and_resized(tmp_path, write_clip, prepare):
    video = write_clip(tmp_path / "video.mp4", numbered_frames(12))
    record, output = prepare(BOXED, video)
    assert sorted(os.listdir(output)) == [f"{index:07d}.png" for index in range(5)]
    expected = [
        to_pil(frame).crop((4, 2, 60, 40)).resize((16, 16), Image.Resampling.BICUBIC)
        for frame in read_video(video)[3:8]
    ]
    np.testing.assert_array_equal(read_pictures(output), np.stack(expected))
    assert record == {
        "id": "a",
        "split": "train",
        "source": "video",
        "start": 3,
        "end": 8,
        "annotated_fps": 25.0,
        "bbox": [4, 2, 60, 40],
        "fps": 25.0,
        "num_frames": 5,
        "size": 16,
        "sha256": hashlib.sha256(b"".join(path.read_bytes() for path in sorted(output.iterdir()))).hexdigest(),
        "status": "complete",
        "failure": None,
        "scene_cuts": [],
        "detail_size": 16,
        "upscaled": False,
        "skipped_frames": 0,
        "warnings": [],
    }


def test_formats(tmp_path, write_clip, prepare):
    video = write_clip(tmp_path / "video.mp4", numbered_frames(6), 24)
    _, folder = prepare(WHOLE, video, CENTRED)
    exact = np.stack(read_pictures(folder))
    box = (8, 0, 56, 48)
    expected = to_pil(read_video(video)[2]).crop(box).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(exact[2], np.asarray(expected))

    _, folder = prepare(WHOLE, video, replace(CENTRED, format="jpg", jpeg_quality=75))
    assert sorted(os.listdir(folder))[0] == "0000000.jpg" and len(read_pictures(folder)) == 6
    expected.save(tmp_path / "as_published.jpg")  # without a quality, as the reference scripts really do it
    assert (folder / "0000002.jpg").read_bytes() == (tmp_path / "as_published.jpg").read_bytes()

    record, path = prepare(WHOLE, video, replace(CENTRED, format="mp4"))
    assert VideoReader(path).frames_per_second == record["fps"] == 24
    frames = torch.from_numpy(exact).permute(0, 3, 1, 2) / 127.5 - 1
    assert (read_video(path) - frames).abs().mean() < 0.02  # H.264 is lossy


def test_the_rates_of_the_lists_are_rounded():
    row = ClipAnnotation("a", "train", "x", 3000, 3128, 29.97, (0, 0, 1, 1), (1, 1))
    assert frame_range(row, 30000 / 1001) == (3000, 3128)
    assert frame_range(row, 60000 / 1001) == (6000, 6256)
    # The reference takes frame i where i * 29.97 >= start * rate and i * 29.97 < end * rate.
    taken = [i for i in range(4000) if 3000 * 25 <= i * 29.97 < 3128 * 25]
    assert frame_range(row, 25) == (taken[0], taken[-1] + 1)
    seconds = ClipAnnotation("a", "train", "x", 1.5, 2.02)
    assert frame_range(seconds, 25) == (38, 51)  # 37.5 and 50.5
    assert frame_range(WHOLE, 25) == (0, None)


@pytest.mark.parametrize(("fps", "shown"), [(12.5, [0, 2, 4, 6]), (50, [0, 1, 1, 2, 2, 3, 3, 4]), (10, [0, 3, 5])])
def test_other_frame_rates_drop_or_repeat_frames(tmp_path, write_clip, prepare, fps, shown):
    video = write_clip(tmp_path / "video", numbered_frames(8))
    _, output = prepare(WHOLE, video, CENTRED)
    originals = read_pictures(output)
    record, output = prepare(WHOLE, video, replace(CENTRED, fps=fps))
    assert record["fps"] == fps and record["num_frames"] == len(list(output.iterdir()))
    for index, picture in zip(shown, read_pictures(output)):
        np.testing.assert_array_equal(picture, originals[index])


def faces(num_frames: int) -> list[tuple[int, int, int, int]]:
    """First and last column and row of a face that moves to the right."""
    return [(10 + 2 * index, 5, 29 + 2 * index, 34) for index in range(num_frames)]


def write_masks(write_clip, path: Path, extents, size=(48, 64)) -> Path:
    masks = torch.ones(len(extents), 3, *size)
    for mask, (left, top, right, bottom) in zip(masks, extents):
        mask[:, top : bottom + 1, left : right + 1] = -1
    return write_clip(path, masks)


def test_masks_crop_each_frame_or_all_alike(tmp_path, write_clip, prepare):
    frames = torch.rand(4, 3, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    video = write_clip(tmp_path / "video", frames)
    mask = write_masks(write_clip, tmp_path / "mask", faces(4))
    record, output = prepare(WHOLE, video, replace(SETTINGS, crop="mask"), mask)
    assert record["status"] == "complete" and record["skipped_frames"] == 0
    for index, picture in enumerate(read_pictures(output)):
        box = (5 + 2 * index, 5, 34 + 2 * index, 34)
        expected = to_pil(read_video(video)[index]).crop(box).resize((16, 16), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(picture, np.asarray(expected))
    _, output = prepare(WHOLE, video, replace(SETTINGS, crop="wide_mask"), mask)
    box = (8, 5, 37, 34)  # columns 10 to 35, rows 5 to 34: 25 and 29
    expected = to_pil(read_video(video)[3]).crop(box).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(read_pictures(output)[3], np.asarray(expected))


@pytest.mark.parametrize(
    ("extents", "size", "message"),
    [
        (faces(3), (48, 64), "video and mask have different numbers of frames"),
        (faces(5), (48, 64), "video and mask have different numbers of frames"),
        ([*faces(3), (60, 40, 10, 5)], (48, 64), "the mask of frame 3 shows no face"),
        (faces(4), (50, 66), "the mask is 66x50, the video 64x48"),
    ],
)
def test_masks_that_do_not_fit_are_failures(tmp_path, write_clip, prepare, extents, size, message):
    video = write_clip(tmp_path / "video", numbered_frames(4))
    mask = write_masks(write_clip, tmp_path / "mask", extents, size)
    record, _ = prepare(WHOLE, video, replace(SETTINGS, crop="mask"), mask)
    assert (record["status"], record["failure"]) == ("failed", message)


def test_frames_whose_face_is_too_near_to_the_border_are_left_out(tmp_path, write_clip, prepare):
    video = write_clip(tmp_path / "video", numbered_frames(4))
    mask = write_masks(write_clip, tmp_path / "mask", [*faces(3), (0, 5, 9, 34)])
    record, output = prepare(WHOLE, video, replace(SETTINGS, crop="mask"), mask)
    assert (record["num_frames"], record["skipped_frames"], len(read_pictures(output))) == (3, 1, 3)
    record, _ = prepare(WHOLE, video, replace(SETTINGS, crop="wide_mask"), mask)
    assert record["status"] == "complete"  # columns 0 to 33
    mask = write_masks(write_clip, tmp_path / "left", [(0, 5, 9, 34)] * 4)
    record, _ = prepare(WHOLE, video, replace(SETTINGS, crop="wide_mask"), mask)
    assert record["failure"] == "the square around all its faces begins outside of the picture"


def test_unwanted_clips_are_dropped_and_others_marked(tmp_path, talking_head, write_clip, prepare):
    shots = torch.cat([talking_head(seed, 6, 64) for seed in (0, 7)])
    video = write_clip(tmp_path / "video.mp4", shots)
    record, _ = prepare(WHOLE, video, replace(CENTRED, min_frames=13))
    assert (record["status"], record["failure"]) == ("dropped", "too short: 12 frames of at least 13")
    record, _ = prepare(WHOLE, video, CENTRED)
    assert (record["status"], record["scene_cuts"], record["upscaled"]) == ("complete", [6], False)
    record, _ = prepare(WHOLE, video, replace(CENTRED, drop_scene_cuts=True))
    assert (record["status"], record["failure"]) == ("dropped", "several shots: new ones begin at frames 6")


def test_upscaled_clips_are_dropped_on_request(tmp_path, talking_head, write_clip, prepare):
    head = talking_head(0, 2, 128)
    video = write_clip(tmp_path / "small", head)
    settings = replace(CENTRED, size=256)
    record, _ = prepare(WHOLE, video, settings)
    assert (record["status"], record["detail_size"], record["upscaled"]) == ("complete", 128, True)
    record, _ = prepare(WHOLE, video, replace(settings, drop_upscaled=True))
    assert (record["status"], record["failure"]) == ("dropped", "upscaled: the detail of 128 pixels")
    # The file may already be enlarged.
    large = torch.nn.functional.interpolate(head, scale_factor=2, mode="bicubic", align_corners=False).clamp(-1, 1)
    record, _ = prepare(WHOLE, write_clip(tmp_path / "large", large), settings)
    assert record["upscaled"]
    record, _ = prepare(WHOLE, write_clip(tmp_path / "sharp", talking_head(0, 2, 256)), settings)
    assert not record["upscaled"]


def test_videos_that_cannot_be_read_are_failures(tmp_path, write_clip, prepare):
    (tmp_path / "text.mp4").write_text("this is no video")
    record, _ = prepare(WHOLE, tmp_path / "text.mp4")
    assert record["status"] == "failed" and record["failure"].startswith(
        "video is empty, cut off, damaged or no video"
    )
    video = write_clip(tmp_path / "video.mp4", numbered_frames(3))
    record, _ = prepare(replace(BOXED, start=4), video)
    assert record["failure"] == "`start_frame` is 4, but video has fewer frames."
    record, _ = prepare(replace(BOXED, start=0, bbox=(200, 2, 300, 40), picture_size=(200, 48)), video)
    assert "leaves nothing of the 64x48 picture" in record["failure"]
    record, _ = prepare(replace(BOXED, start=1), video)
    assert (record["num_frames"], record["warnings"]) == (2, ["it ends 5 frames before the clip"])


def test_damage_is_noted(tmp_path, write_clip, prepare):
    noise = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = write_clip(tmp_path / "whole.mp4", noise).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    record, _ = prepare(WHOLE, tmp_path / "cut.mp4", CENTRED)
    assert record["status"] == "complete" and record["num_frames"] < 20
    assert len(record["warnings"]) == 1 and record["warnings"][0].startswith("video is damaged or cut off")


def test_what_a_killed_run_left_is_removed(tmp_path, write_clip, prepare):
    video = write_clip(tmp_path / "video.mp4", numbered_frames(9))
    first, output = prepare(BOXED, video)
    (output / "9999999.png").touch()
    (tmp_path / ".work").mkdir()
    assert prepare(BOXED, video)[0] == first
    assert len(list(output.iterdir())) == 5
    (tmp_path / ".work").mkdir()
    assert prepare(BOXED, tmp_path / "gone.mp4")[0]["status"] == "failed"


def test_a_full_disk_ends_the_run(tmp_path, write_clip, monkeypatch):
    video = write_clip(tmp_path / "video.mp4", numbered_frames(9))

    def replace_nothing(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", replace_nothing)
    with pytest.raises(OSError, match="Cannot write .*clip: .*No space left on device"):
        prepare_clip(BOXED, video, None, SETTINGS, tmp_path / "clip", tmp_path / ".work")
    assert not (tmp_path / ".work").exists()
