import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers.video_io import (
    VideoReader,
    find_videos,
    read_video,
    to_frame,
    to_uint8,
    write_image,
)
from tests.conftest import REPOSITORY
from tests.video_io.conftest import ffmpeg, make_video


CLIPS = REPOSITORY.parent / "shared" / "clips"


def test_reader_describes_and_streams(tmp_path):
    path = make_video(tmp_path / "odd.mp4", size="101x75", rate="30000/1001", options=["-pix_fmt", "yuv444p"])
    with VideoReader(path) as reader:
        assert (reader.height, reader.width) == (reader.source_height, reader.source_width) == (75, 101)
        assert reader.frames_per_second == pytest.approx(30000 / 1001, abs=1e-9)
        assert len(reader) == reader.num_frames == 60
        assert reader.path == path and not reader.has_audio
        first = list(iter(reader))
        second = list(iter(reader))
    assert len(first) == 60 and first[0].shape == (3, 75, 101) and first[0].dtype == torch.float32
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first[0], first[1])


def test_colours_are_read_without_bias(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "color=0x808080:s=32x32:d=1", tmp_path / "grey.mp4")
    assert np.abs(to_uint8(read_video(tmp_path / "grey.mp4")).astype(int) - 128).max() <= 1


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts"])
def test_seeking_gives_the_frames_of_reading_on(tmp_path, suffix):
    codec = ["-c:v", "libx264", "-bf", "3", "-g", "48"]
    codec = {".webm": ["-c:v", "libvpx-vp9", "-cpu-used", "8"], ".avi": ["-c:v", "mpeg4", "-bf", "2"]}.get(
        suffix, codec
    )
    path = make_video(tmp_path / f"video{suffix}", seconds=4, rate="24000/1001", options=codec)
    frames = read_video(path)
    assert len(frames) == 96
    for start in (1, 8, 9, 47, 48, 50, 95):
        assert torch.equal(read_video(path, start_frame=start, num_frames=2), frames[start : start + 2])


def test_open_groups_of_pictures_are_sought_exactly(tmp_path):
    options = ["-c:v", "libx264", "-bf", "3", "-g", "12", "-x264-params", "open-gop=1"]
    path = make_video(tmp_path / "open.mp4", options=options)
    frames = read_video(path)
    for start in range(9, 50, 5):
        assert torch.equal(read_video(path, start_frame=start, num_frames=1)[0], frames[start])


def test_reading_deep_in_a_long_file_is_fast(tmp_path):
    path = make_video(tmp_path / "long.mp4", seconds=120, size="160x120", options=["-preset", "ultrafast"])
    begin = time.perf_counter()
    frames = read_video(path, start_frame=2900, num_frames=2)
    seeking = time.perf_counter() - begin
    begin = time.perf_counter()
    assert len(VideoReader(path)) == 3000
    counting = time.perf_counter() - begin
    assert len(frames) == 2
    assert seeking < counting


def test_ranges(tmp_path):
    path = make_video(tmp_path / "video.mp4")
    reader = VideoReader(path, start_frame=45, num_frames=20)
    assert len(reader) == 5 == len(list(iter(reader)))
    assert len(read_video(path, num_frames=7)) == 7
    with pytest.raises(ValueError, match="`start_frame` is 50"):
        VideoReader(path, start_frame=50)
    with pytest.raises(ValueError, match="at least 0"):
        VideoReader(path, start_frame=-1)
    with pytest.raises(ValueError, match="`num_frames` at least 1"):
        VideoReader(path, num_frames=0)
    with pytest.raises(ValueError, match="has a frame rate of its own"):
        VideoReader(path, frames_per_second=10)


def test_stored_rotation_is_applied(tmp_path):
    make_video(tmp_path / "flat.mp4", options=["-pix_fmt", "yuv444p"])
    ffmpeg("-display_rotation", "90", "-i", tmp_path / "flat.mp4", "-c", "copy", tmp_path / "turned.mp4")
    reader = VideoReader(tmp_path / "turned.mp4")
    assert (reader.height, reader.width) == (reader.source_height, reader.source_width) == (64, 48)
    turned, flat = next(iter(reader)), read_video(tmp_path / "flat.mp4", num_frames=1)[0]
    torch.testing.assert_close(turned, torch.rot90(flat, 1, (1, 2)), atol=0.02, rtol=0)


def test_frame_size_warns_once_per_video(tmp_path):
    path = make_video(tmp_path / "video.mp4")
    with pytest.warns(UserWarning, match=r"video\.mp4 is 64x48") as caught:
        reader = VideoReader(path, frame_size=32)
        frames = list(iter(reader))
    assert len(caught) == 1
    assert frames[0].shape == (3, 32, 32) and (reader.height, reader.width) == (32, 32)
    assert (reader.source_height, reader.source_width) == (48, 64)
    expected = to_frame(read_video(path, num_frames=1)[0][:, :, 8:56], frame_size=32)
    torch.testing.assert_close(frames[0], expected)


def test_variable_frame_rate_keeps_its_timing(tmp_path):
    # 25 pictures in the first second, then 25 pictures of twice the length: 3 seconds in all.
    slow = "setpts='if(lt(N,25),N,25+2*(N-25))/25/TB'"
    path = make_video(tmp_path / "vfr.mkv", options=["-vf", slow, "-fps_mode", "vfr"])
    reader = VideoReader(path)
    frames = torch.stack(list(iter(reader)))
    assert len(frames) / reader.frames_per_second == pytest.approx(3, abs=0.1)
    for start in (15, 40, len(frames) - 1):
        assert torch.equal(read_video(path, start_frame=start, num_frames=1)[0], frames[start])


def test_size_changes_midway_do_not_scramble(tmp_path):
    parts = [make_video(tmp_path / f"{size}.ts", seconds=1, size=size) for size in ("64x48", "96x80")]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frames = read_video(tmp_path / "both.ts")
    assert frames.shape[2:] == (48, 64) and len(frames) >= 25
    assert (frames[-1] - frames[20]).abs().mean() < 0.6


def test_broken_off_loops_leave_no_process(tmp_path):
    path = make_video(tmp_path / "video.mp4", seconds=20, size="320x240")
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text().split() if children.exists() else []
    with VideoReader(path) as reader:
        for _ in reader:
            break
        kept = iter(reader)
        next(kept)
    assert list(kept) == []
    if children.exists():
        assert set(children.read_text().split()) <= set(before)


def test_files_that_are_no_video_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.mp4"):
        VideoReader(tmp_path / "missing.mp4")
    for name, content in {"empty": b"", "text": b"no video " * 200, "noise": os.urandom(5000)}.items():
        (tmp_path / f"{name}.mp4").write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.mp4 (is empty, cut off|holds no frame)"):
            VideoReader(tmp_path / f"{name}.mp4")
    for name in ("sound.mp4", "sound.wav"):
        ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / name)
        with pytest.raises(ValueError, match=r"sound\.\w+ has no video stream"):
            VideoReader(tmp_path / name)
    write_image(tmp_path / "image.png", torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="use `read_image`"):
        VideoReader(tmp_path / "image.png")
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"broken\.gif"):
        VideoReader(tmp_path / "broken.gif")


def test_cover_art_is_no_video(tmp_path):
    write_image(tmp_path / "cover.png", torch.zeros(3, 16, 16))
    options = [
        "-i",
        tmp_path / "cover.png",
        "-map",
        "0",
        "-map",
        "1",
        "-c:v",
        "copy",
        "-disposition:v",
        "attached_pic",
    ]
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", *options, tmp_path / "song.m4a")
    with pytest.raises(ValueError, match="has no video stream"):
        VideoReader(tmp_path / "song.m4a")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif"])
def test_truncated_videos_yield_what_is_left(tmp_path, suffix):
    options = ["-movflags", "+faststart"] if suffix == ".mp4" else []
    path = make_video(tmp_path / f"whole{suffix}", seconds=4, options=options)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.warns(UserWarning, match=rf"cut\{suffix} is damaged or cut off") as caught:
        frames = read_video(cut)
    assert len(caught) == 1 and 20 < len(frames) < 100
    no_index = tmp_path / "no_index.mp4"
    no_index.write_bytes(make_video(tmp_path / "end.mp4").read_bytes()[:5000])
    with pytest.raises(ValueError, match="moov atom not found"):
        VideoReader(no_index)


def test_gif_composites_and_averages_durations(tmp_path):
    images = [Image.new("RGB", (9, 7), "red") for _ in range(3)]
    for index, image in enumerate(images):
        image.putpixel((index, 0), (0, 0, 255))
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 200, 300])
    reader = VideoReader(tmp_path / "a.gif")
    assert reader.frames_per_second == pytest.approx(5) and len(reader) == 3 and not reader.has_audio
    for frame, image in zip(reader, images, strict=True):
        np.testing.assert_array_equal(to_uint8(frame), np.asarray(image))
    assert len(read_video(tmp_path / "a.gif", start_frame=1, num_frames=1)) == 1
    with pytest.raises(ValueError, match="`start_frame` is 3"):
        VideoReader(tmp_path / "a.gif", start_frame=3)


def test_folders_are_sorted_by_number(tmp_path):
    for index in (1, 2, 10):
        write_image(tmp_path / f"frame{index}.png", torch.full((3, 5, 7), index / 10))
    (tmp_path / "notes.txt").touch()
    write_image(tmp_path / "cover.png", torch.zeros(3, 5, 7))
    reader = VideoReader(tmp_path)
    assert [round(frame.mean().item(), 1) for frame in reader] == [0.1, 0.2, 1.0]
    assert reader.frames_per_second == 25 and len(reader) == 3 and not reader.has_audio
    assert VideoReader(tmp_path, frames_per_second=10).frames_per_second == 10
    assert len(read_video(tmp_path, start_frame=1, num_frames=1)) == 1


def test_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no numbered images"):
        VideoReader(tmp_path)
    write_image(tmp_path / "frame1.png", torch.zeros(3, 5, 7))
    with pytest.raises(ValueError, match="`start_frame` is 1"):
        VideoReader(tmp_path, start_frame=1)
    write_image(tmp_path / "frame2.png", torch.zeros(3, 5, 8))
    with pytest.raises(ValueError, match="different sizes.*frame1.png is 7x5.*frame2.png is 8x5"):
        VideoReader(tmp_path)
    write_image(tmp_path / "mask1.png", torch.zeros(3, 5, 7))
    with pytest.raises(ValueError, match=r"several series.*frame\*\.png, mask\*\.png"):
        VideoReader(tmp_path)


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not here")
def test_real_clips():
    videos = find_videos(CLIPS)
    assert len(videos) == 5
    reader = VideoReader(CLIPS / "taichi" / "driving1.mp4")
    assert (reader.width, reader.height, reader.frames_per_second, len(reader)) == (256, 256, 10, 458)
    tail = read_video(reader.path, start_frame=450)
    assert torch.equal(tail, torch.stack(list(iter(reader))[450:]))
