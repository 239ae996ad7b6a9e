import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers.video_io import (
    IMAGE_SUFFIXES,
    SYNTHETIC,
    VideoReader,
    VideoWriter,
    find_videos,
    read_image,
    read_video,
    to_frame,
    to_pil,
    to_uint8,
    to_unit_range,
    write_image,
    write_video,
)


CLIPS = Path(__file__).parents[1].parent / "shared" / "clips"


def ffmpeg(*options):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, options)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def header(path):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-i", str(path)]
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True).stderr


def audio_samples(path):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-i", str(path), "-map", "0:a:0"]
    command += ["-f", "f32le", "-ac", "1", "-ar", "8000", "-"]
    result = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return np.frombuffer(result.stdout, np.float32)


def make_video(path, seconds=2, rate="25", size="64x48", options=()):
    source = f"testsrc=s={size}:r={rate}:d={seconds},noise=alls=20:allf=t"
    ffmpeg("-f", "lavfi", "-i", source, "-threads", "1", *options, path)
    return path


def make_sound_video(path, seconds=2, rate="25"):
    inputs = ["-f", "lavfi", "-i", f"testsrc=s=64x48:r={rate}:d={seconds}", "-f", "lavfi", "-i", f"sine=d={seconds}"]
    ffmpeg(*inputs, path)
    return path


def smooth_frames(num_frames=20, height=48, width=64):
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    shifts = torch.linspace(0, 1, num_frames)
    return torch.stack([torch.stack([x, y, ((x + s) * 2).sin()]) * 0.9 for s in shifts])


def byte_image(height=6, width=8, channels=3):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (height, width, channels), dtype=np.uint8)


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# --- images ---


def test_bytes_map_to_frames_and_back_exactly():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    frame = to_frame(ramp)
    assert frame.shape == (3, 16, 16) and frame.dtype == torch.float32 and frame.is_contiguous()
    assert frame.min() == -1 and frame.max() == 1
    torch.testing.assert_close(frame[0], torch.from_numpy(ramp.astype(np.float32) / 127.5 - 1))
    np.testing.assert_array_equal(to_uint8(frame), np.repeat(ramp[..., None], 3, axis=2))
    np.testing.assert_array_equal(np.asarray(to_pil(frame))[..., 0], ramp)


def test_pixels_are_never_stretched_per_image():
    assert torch.allclose(to_frame(np.full((4, 4, 3), 100, np.uint8)), torch.tensor(100 / 127.5 - 1))


def test_arrays_of_every_dtype_and_layout_agree():
    pixels = byte_image()
    expected = to_frame(pixels)
    torch.testing.assert_close(to_frame(pixels.astype(np.uint16) * 257), expected)
    torch.testing.assert_close(to_frame(pixels.astype(np.float64) / 255), expected)
    torch.testing.assert_close(to_frame(pixels[:, ::-1].copy()[:, ::-1]), expected)
    torch.testing.assert_close(to_frame(expected[None]), expected)
    torch.testing.assert_close(to_frame(expected.half()), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(to_frame(pixels[..., :1]), to_frame(pixels[..., 0]))


def test_transparent_pixels_are_laid_on_white():
    pixels = byte_image(channels=4)
    pixels[..., 3] = 0
    assert torch.all(to_frame(pixels) == 1)
    assert torch.all(to_frame(Image.fromarray(pixels)) == 1)
    pixels[..., 3] = 255
    torch.testing.assert_close(to_frame(pixels), to_frame(pixels[..., :3]))
    assert torch.all(to_frame(Image.new("LA", (4, 4), (0, 0))) == 1)
    half = to_frame(Image.new("RGBA", (4, 4), (0, 0, 0, 51)))
    torch.testing.assert_close(half, torch.full((3, 4, 4), 0.6))


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "palette.png", transparency=0)
    frame = read_image(tmp_path / "palette.png")
    assert frame[:, 0, 0].tolist() == [1, -1, -1]
    assert torch.all(frame[:, 1:] == 1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"])
def test_pil_modes(mode):
    image = Image.fromarray(byte_image()).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(to_uint8(to_frame(image)), expected)


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    expected = torch.from_numpy(levels.astype(np.float32) / 32767.5 - 1)
    torch.testing.assert_close(read_image(tmp_path / "grey.png")[1], expected)
    torch.testing.assert_close(to_frame(Image.fromarray(levels.astype(np.int32)))[1], expected)
    with pytest.raises(ValueError, match="from 0 to 65535"):
        to_frame(Image.new("I", (2, 2), 70000))


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(byte_image(6, 8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    torch.testing.assert_close(read_image(tmp_path / "turned.png"), to_frame(image.rotate(-90, expand=True)))


def test_frame_size_crops_the_centre_with_a_warning():
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, 5:15] = 255
    with pytest.warns(UserWarning, match="20x10.*10x10"):
        frame = to_frame(pixels, frame_size=4)
    assert frame.shape == (3, 4, 4)
    assert torch.all(frame == 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_frame(pixels[:, 5:15], frame_size=16).shape == (3, 16, 16)


def test_resizing_agrees_with_pil_and_antialiases():
    pixels = byte_image(64, 64)
    expected = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.LANCZOS))
    resized = to_frame(pixels, frame_size=16)
    assert np.abs(to_uint8(resized).astype(int) - expected).max() <= 1
    torch.testing.assert_close(to_frame(to_frame(pixels), frame_size=16), resized)
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    assert to_frame(stripes, frame_size=16).abs().max() < 0.1


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("image.png", TypeError, "must be a PIL image"),
        ([1, 2], TypeError, "got list"),
        (np.zeros((3, 8, 9), np.uint8), ValueError, "must have shape"),
        (np.zeros((2, 8, 9, 3), np.uint8), ValueError, "must have shape"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, "must have shape"),
        (np.zeros((8, 8, 3), np.int64), TypeError, "got int64"),
        (np.full((8, 8, 3), 255.0), ValueError, "from 255 to 255"),
        (np.full((8, 8, 3), -0.5), ValueError, r"lie in \[0, 1\]"),
        (np.full((8, 8, 3), np.nan), ValueError, "no NaN"),
        (torch.full((3, 8, 8), 1.5), ValueError, r"lie in \[-1, 1\]"),
        (torch.full((3, 8, 8), torch.nan), ValueError, "no NaN"),
        (torch.zeros(8, 8, 3), ValueError, r"shape \(3, H, W\)"),
        (torch.zeros(2, 3, 8, 8), ValueError, r"got \(2, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), TypeError, "NumPy array"),
        (Image.new("F", (4, 4)), ValueError, 'mode "F"'),
        (Image.new("LAB", (4, 4)), ValueError, 'mode "LAB"'),
    ],
)
def test_to_frame_refuses(image, error, message):
    with pytest.raises(error, match=message):
        to_frame(image)


@pytest.mark.parametrize("frame_size", [0, -4, 2.5, True, "256"])
def test_frame_size_is_checked(frame_size):
    with pytest.raises(ValueError, match="`frame_size` must be a positive integer"):
        to_frame(np.zeros((4, 4), np.uint8), frame_size)


def test_to_uint8_clamps_and_rounds():
    frames = torch.tensor([-3.0, -1.0, 0.0, 1.0, 9.0]).expand(2, 3, 1, 5)
    assert to_uint8(frames).shape == (2, 1, 5, 3)
    assert to_uint8(frames)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(frames.bfloat16())[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    torch.testing.assert_close(to_unit_range(frames)[0, 0, 0], torch.tensor([0, 0, 0.5, 1, 1]))


def test_to_uint8_and_to_pil_refuse():
    with pytest.raises(ValueError, match="NaN or infinite"):
        to_uint8(torch.full((3, 4, 4), torch.inf))
    with pytest.raises(ValueError, match="must have shape"):
        to_uint8(torch.zeros(4, 4, 3))
    with pytest.raises(TypeError, match="got uint8"):
        to_uint8(np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="one at a time"):
        to_pil(torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_image_files_round_trip(tmp_path, suffix):
    frame = smooth_frames(1)[0]
    write_image(tmp_path / f"image{suffix}", frame)
    read = read_image(tmp_path / f"image{suffix}")
    assert (read - frame).abs().mean() < 0.02
    if suffix in (".png", ".bmp", ".tif", ".tiff"):
        np.testing.assert_array_equal(to_uint8(read), to_uint8(frame))
    assert leftovers(tmp_path) == []


def test_image_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        read_image(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png cannot be read as an image"):
        read_image(tmp_path / "text.png")
    Image.fromarray(byte_image(64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cut\.png cannot be read as an image"):
        read_image(tmp_path / "cut.png")
    with pytest.raises(ValueError, match="written as one of .png"):
        write_image(tmp_path / "image.xyz", torch.zeros(3, 4, 4))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_image(tmp_path / "nowhere" / "image.png", torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="NaN"):
        write_image(tmp_path / "whole.png", torch.full((3, 4, 4), torch.nan))
    assert read_image(tmp_path / "whole.png").shape == (3, 64, 64)
    assert leftovers(tmp_path) == []


# --- reading ---


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


def test_find_videos(tmp_path):
    for name in ("b.mp4", "a/x.webm", "a/still1.png", ".hidden/y.mp4", "c/0001.png", "c/0002.png", "d/cover.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_videos(tmp_path) == [tmp_path / "a/x.webm", tmp_path / "b.mp4", tmp_path / "c"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_videos(tmp_path / "missing")
    with pytest.raises(ValueError, match="is a file"):
        find_videos(tmp_path / "b.mp4")
    with pytest.raises(ValueError, match=r"\.mp4, \.mov"):
        find_videos(tmp_path / "d")


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not here")
def test_real_clips():
    videos = find_videos(CLIPS)
    assert len(videos) == 5
    reader = VideoReader(CLIPS / "taichi" / "driving1.mp4")
    assert (reader.width, reader.height, reader.frames_per_second, len(reader)) == (256, 256, 10, 458)
    tail = read_video(reader.path, start_frame=450)
    assert torch.equal(tail, torch.stack(list(iter(reader))[450:]))


# --- writing ---


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".webm", ".gif"])
@pytest.mark.parametrize("rate", [23.976, 10, 29.97])
def test_videos_round_trip(tmp_path, suffix, rate):
    frames = smooth_frames()
    path = tmp_path / f"video{suffix}"
    with VideoWriter(path, rate) as writer:
        writer.write(frames[0])
        writer.write(frames[1:])
        assert not path.exists()
    reader = VideoReader(path)
    # GIF counts in hundredths of a second.
    assert reader.frames_per_second == pytest.approx(rate, rel=0.02 if suffix == ".gif" else 1e-4)
    read = torch.stack(list(iter(reader)))
    assert read.shape == frames.shape
    assert (read - frames).abs().mean() * 127.5 < (6 if suffix == ".gif" else 2)  # a GIF has 256 colours per frame
    assert ((read - frames) * 127.5).mean().abs() < 0.5
    assert leftovers(tmp_path) == []
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_png_folders_round_trip_exactly(tmp_path):
    frames = smooth_frames(12, 33, 35)
    with VideoWriter(tmp_path / "frames", 25) as writer:
        writer.write(frames)
    assert sorted(os.listdir(tmp_path / "frames"))[::11] == ["000000.png", "000011.png"]
    np.testing.assert_array_equal(to_uint8(read_video(tmp_path / "frames")), to_uint8(frames))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi", ".gif"])
def test_odd_sizes_repeat_the_last_row_and_column(tmp_path, suffix):
    frames = smooth_frames(5, 47, 63)
    with VideoWriter(tmp_path / f"odd{suffix}", 10) as writer:
        writer.write(frames)
    read = read_video(tmp_path / f"odd{suffix}")
    assert read.shape[2:] == ((47, 63) if suffix == ".gif" else (48, 64))
    assert (read[..., :47, :63] - frames).abs().mean() < 0.05
    if suffix != ".gif":
        assert (read[..., 46, :] - read[..., 47, :]).abs().mean() < 0.03


def test_mp4_plays_everywhere(tmp_path):
    with VideoWriter(tmp_path / "video.mp4", 25) as writer:
        writer.write(smooth_frames(5))
    assert re.search(r"h264 .*yuv420p\(tv, bt709", header(tmp_path / "video.mp4"))
    content = (tmp_path / "video.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_repeated_frames_stay_in_gifs(tmp_path):
    with VideoWriter(tmp_path / "still.gif", 10) as writer:
        writer.write(smooth_frames(1).expand(6, -1, -1, -1))
    reader = VideoReader(tmp_path / "still.gif")
    assert len(reader) / reader.frames_per_second == pytest.approx(0.6)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".webm"])
@pytest.mark.parametrize("num_frames", [25, 75])
def test_sound_is_kept_and_fits_the_frames(tmp_path, suffix, num_frames):
    source = make_sound_video(tmp_path / "source.mp4", seconds=2)
    path = tmp_path / f"video{suffix}"
    with VideoWriter(path, 25, audio_from=source) as writer:
        writer.write(smooth_frames(num_frames))
    reader = VideoReader(path)
    assert reader.has_audio and len(list(iter(reader))) == num_frames
    samples = audio_samples(path)
    assert len(samples) / 8000 == pytest.approx(num_frames / 25, abs=0.1)
    assert np.abs(samples[4000:6000]).max() > 0.05
    assert (np.abs(samples[-2000:]).max() > 0.05) == (num_frames == 25)  # 2 seconds of sound under 1 or 3 of frames
    assert leftovers(tmp_path) == []


def test_sound_starts_with_the_first_picture(tmp_path):
    # The pictures begin half a second after the sound: that half second must go.
    ffmpeg("-f", "lavfi", "-i", "aevalsrc='if(lt(t,1),0,sin(2500*t))':d=3", tmp_path / "click.wav")
    make_video(tmp_path / "silent.mp4", seconds=2)
    late = ["-itsoffset", "0.5", "-i", tmp_path / "silent.mp4", "-i", tmp_path / "click.wav"]
    ffmpeg(*late, "-map", "0:v", "-map", "1:a", "-c:v", "copy", tmp_path / "late.mkv")
    with VideoWriter(tmp_path / "out.mp4", 25, audio_from=tmp_path / "late.mkv") as writer:
        writer.write(smooth_frames(25))
    onset = np.argmax(np.abs(audio_samples(tmp_path / "out.mp4")) > 0.2) / 8000
    assert onset == pytest.approx(0.5, abs=0.03)


def test_sound_is_ignored_where_there_is_none_or_no_room(tmp_path):
    silent = make_video(tmp_path / "silent.mp4", seconds=1)
    sound = make_sound_video(tmp_path / "sound.mp4", seconds=1)
    for name, source in {"a.mp4": silent, "b.gif": sound, "frames": sound}.items():
        with VideoWriter(tmp_path / name, 10, audio_from=source) as writer:
            writer.write(smooth_frames(3))
        assert not VideoReader(tmp_path / name).has_audio
    with pytest.raises(FileNotFoundError, match=r"no file .*missing\.mp4"):
        VideoWriter(tmp_path / "c.mp4", 10, audio_from=tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4 cannot be read"):
        VideoWriter(tmp_path / "c.mp4", 10, audio_from=tmp_path / "text.mp4")


def test_a_video_can_replace_the_one_it_came_from(tmp_path):
    path = make_sound_video(tmp_path / "video.mp4")
    with VideoReader(path, num_frames=10) as reader:
        with VideoWriter(path, reader.frames_per_second, audio_from=path) as writer:
            for frame in reader:
                writer.write(-frame)
    assert len(VideoReader(path)) == 10 and VideoReader(path).has_audio


@pytest.mark.parametrize("name", ["video.mp4", "video.gif", "frames"])
def test_failures_leave_nothing_behind(tmp_path, name):
    class Interruption(BaseException):
        pass

    with pytest.raises(Interruption):
        with VideoWriter(tmp_path / name, 25) as writer:
            writer.write(smooth_frames(3))
            raise Interruption
    with pytest.warns(UserWarning, match="No frame was written"):
        with VideoWriter(tmp_path / name, 25):
            pass
    with pytest.raises(ValueError, match="NaN"):
        with VideoWriter(tmp_path / name, 25) as writer:
            writer.write(smooth_frames(3))
            writer.write(torch.full((3, 48, 64), torch.nan))
    with pytest.raises(ValueError, match="one size: got 48x48 after 64x48"):
        with VideoWriter(tmp_path / name, 25) as writer:
            writer.write(smooth_frames(3))
            writer.write(torch.zeros(3, 48, 48))
    assert list(tmp_path.iterdir()) == []


def test_failures_keep_the_older_output(tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"older")
    with pytest.raises(KeyError):
        with VideoWriter(path, 25) as writer:
            writer.write(smooth_frames(3))
            raise KeyError
    with pytest.raises(RuntimeError, match=r"ffmpeg failed to write .*video\.mp4"):
        with VideoWriter(path, 25) as writer:
            writer.write(smooth_frames(1))
            writer._process.kill()
            for _ in range(100):
                writer.write(smooth_frames(10))
    assert path.read_bytes() == b"older" and leftovers(tmp_path) == []
    with VideoWriter(path, 25) as writer:
        writer.write(smooth_frames(3))
    assert len(VideoReader(path)) == 3


def test_writer_refuses_outputs_early(tmp_path):
    with pytest.raises(ValueError, match=r"one of \.mp4, .*no suffix"):
        VideoWriter(tmp_path / "video.xyz", 25)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        VideoWriter(tmp_path / "nowhere" / "video.mp4", 25)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file"):
        VideoWriter(tmp_path / "file" / "video.mp4", 25)
    with pytest.raises(ValueError, match="not an empty folder"):
        VideoWriter(tmp_path / "file", 25)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        VideoWriter(tmp_path / "folder.mp4", 25)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "0.png").touch()
    with pytest.raises(ValueError, match="not an empty folder"):
        VideoWriter(tmp_path / "full", 25)
    with pytest.raises(ValueError, match="at most 50 frames/s"):
        VideoWriter(tmp_path / "fast.gif", 60)
    for rate in (0, -1, float("nan"), float("inf"), True):
        with pytest.raises(ValueError, match="`frames_per_second` must be"):
            VideoWriter(tmp_path / "video.mp4", rate)
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that refuses new files")
def test_writer_refuses_folders_without_permission():
    with pytest.raises(PermissionError, match="/proc/self cannot be written to"):
        VideoWriter("/proc/self/video.mp4", 25)


def test_writer_refuses_calls_and_frames(tmp_path):
    writer = VideoWriter(tmp_path / "video.mp4", 25)
    with pytest.raises(RuntimeError, match="inside the `with` block"):
        writer.write(smooth_frames(1))
    with pytest.raises(ValueError, match="must have shape"):
        with writer:
            writer.write(torch.zeros(48, 64, 3))
    with pytest.raises(TypeError, match="float tensor"):
        with writer:
            writer.write(np.zeros((3, 48, 64)))


STREAMING = """
import resource, torch
from leo_diffusers.video_io import VideoReader, VideoWriter

def stream(path, num_frames):
    with VideoReader("source.mp4", num_frames=num_frames) as reader, VideoWriter(path, 25) as writer:
        for frame in reader:
            writer.write(frame)
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        print(resource.getrusage(who).ru_maxrss // 1024)

stream("short.mp4", 50)
stream("long.mp4", 1000)
stream("short.gif", 20)
stream("long.gif", 200)
"""


def test_streaming_needs_constant_memory(tmp_path):
    make_video(tmp_path / "source.mp4", seconds=40, size="160x160", options=["-preset", "ultrafast"])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STREAMING]
    result = subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    here, children = np.array(result.stdout.split(), int).reshape(4, 2).T  # peaks so far in MB
    # 950 more frames are 292 MB as floats and 73 MB as bytes; 180 more for the GIF 18 MB as RGBA.
    assert here[1] - here[0] < 20 and here[3] - here[2] < 10, here
    assert children[1] - children[0] < 20 and children[3] - children[2] < 10, children


def test_clips_of_any_frames_are_written_at_once(tmp_path):
    frames = [torch.full((3, 16, 16), value) for value in (-1.0, 0.0, 1.0)]
    write_video(tmp_path / "tensors", frames, 25)
    write_video(tmp_path / "images", [to_pil(frame) for frame in frames], 25)
    assert torch.equal(read_video(tmp_path / "tensors"), read_video(tmp_path / "images"))
    assert [round(value, 1) for value in read_video(tmp_path / "tensors")[:, 0, 0, 0].tolist()] == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".webm", ".gif", ""])
@pytest.mark.parametrize("comment", [SYNTHETIC, "a recording of mine", None])
def test_files_say_what_they_are(tmp_path, suffix, comment):
    path = tmp_path / f"clip{suffix}"
    with VideoWriter(path, 25, make_sound_video(tmp_path / "sound.mp4"), comment) as writer:
        writer.write(torch.zeros(3, 3, 16, 16))
    picture = path if suffix else path / "000002.png"
    if suffix in (".gif", ""):
        with Image.open(picture) as image:
            notes = image.info.get("comment", image.info.get("Comment"))
            assert (notes.decode() if isinstance(notes, bytes) else notes) == comment
    else:
        found = re.search(r"comment\s*: (.+)", header(picture), re.IGNORECASE)
        assert (found and found[1]) == comment
    assert len(VideoReader(path)) == 3


@pytest.mark.parametrize("comment", ["", "Künstlich", "two\nlines", "x" * 256])
def test_comments_that_no_format_holds_are_refused(tmp_path, comment):
    with pytest.raises(ValueError, match="`comment` must be 1 to 255 printable ASCII characters, got"):
        VideoWriter(tmp_path / "clip.mp4", 25, comment=comment)
