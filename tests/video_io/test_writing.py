import os
import re
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers.video_io import (
    SYNTHETIC,
    VideoReader,
    VideoWriter,
    read_video,
    to_pil,
    to_uint8,
    write_video,
)
from tests.conftest import REPOSITORY
from tests.video_io.conftest import ffmpeg, leftovers, make_video, smooth_frames


def header(path):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-i", str(path)]
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True).stderr


def audio_samples(path):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-i", str(path), "-map", "0:a:0"]
    command += ["-f", "f32le", "-ac", "1", "-ar", "8000", "-"]
    result = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return np.frombuffer(result.stdout, np.float32)


def make_sound_video(path, seconds=2, rate="25"):
    inputs = ["-f", "lavfi", "-i", f"testsrc=s=64x48:r={rate}:d={seconds}", "-f", "lavfi", "-i", f"sine=d={seconds}"]
    ffmpeg(*inputs, path)
    return path


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
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
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
