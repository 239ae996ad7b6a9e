"""What ffmpeg says and does: streams of a file, running it, its messages."""

import contextlib
import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import IO, NamedTuple


FOLDER_FRAMES_PER_SECOND = 25.0

# swscale's fast path, its default, darkens every pixel by 1 to 1.5 of 255 on the way from YUV to RGB.
RESAMPLING = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"

AUDIO_STREAM = re.compile(r"^\s+Stream #0:\d+.*: Audio: ", re.MULTILINE)
_VIDEO_STREAM = re.compile(r"^\s+Stream #0:\d+.*: Video: (?!.*attached pic).*$", re.MULTILINE)
_FIRST_FRAME = re.compile(
    r"config in time_base: (?P<time_base>\d+/\d+), frame_rate: (?P<frame_rate>\d+/\d+)"
    r"[\s\S]*?n: +\d+ pts: *(?P<pts>-?\d+) [^\n]* s:(?P<width>\d+)x(?P<height>\d+)"
)


class FFmpegError(RuntimeError):
    r"""
    ffmpeg failed; the message is its own.

    Examples:
        ```py
        >>> from leo_diffusers.video_io import FFmpegError, read_video, write_video

        >>> frames = read_video("video.mp4")
        >>> try:
        ...     write_video("copy.webm", frames, frames_per_second=25)
        ... except FFmpegError as error:
        ...     print(f"No WebM: {error}")  # an ffmpeg without this encoder, a full disk
        ```
    """


class _VideoStream(NamedTuple):
    width: int
    height: int
    frame_rate: Fraction
    start_time: float  # of the first frame, in seconds
    has_audio: bool


def probe_video(path: Path) -> _VideoStream:
    r"""What is known of a video file before it is read; ValueError where there is nothing to read."""
    header = read_header(path)
    if "Input #0" not in header:
        problem = f"is empty, cut off, damaged or no video ({last_line(header)})"
        raise ValueError(f"{path} {problem}: check that it plays, or copy or convert it again.")
    stream, first_frame = _VIDEO_STREAM.search(header), _FIRST_FRAME.search(header)
    if stream is None:
        raise ValueError(f"{path} has no video stream, perhaps only sound: choose a file with pictures.")
    if first_frame is None:
        raise ValueError(f"{path} holds no frame that can be decoded ({last_line(header)}): convert it again.")
    mean_rate = re.search(r", ([\d.]+) fps", stream[0])  # rounded to 1/100
    numerator, denominator = map(int, first_frame["frame_rate"].split("/"))
    if not mean_rate or not denominator:
        num_frames, seconds = require_ffmpeg().count_frames_and_secs(str(path.absolute()))
        frame_rate = exact_frame_rate(num_frames / seconds if seconds else FOLDER_FRAMES_PER_SECOND)
    elif abs(numerator / denominator / float(mean_rate[1]) - 1) < 0.02:
        frame_rate = Fraction(numerator, denominator)
    else:  # of variable rates ffmpeg guesses the finest grid, up to 1000 frames per second
        frame_rate = exact_frame_rate(float(mean_rate[1]))
    size = int(first_frame["width"]), int(first_frame["height"])
    return _VideoStream(*size, frame_rate, first_frame_time(header), bool(AUDIO_STREAM.search(header)))


def first_frame_time(header: str) -> float:
    r"""Time of the first frame, in seconds, from [`read_header`]."""
    first_frame = _FIRST_FRAME.search(header)
    return float(Fraction(first_frame["time_base"]) * int(first_frame["pts"])) if first_frame else 0.0


def read_header(path: Path) -> str:
    r"""
    What ffmpeg says of a file and its first frame. Only showinfo tells the exact frame rate and the turned size.
    """
    show = ["-map", "0:V:0", "-vf", "showinfo=checksum=0", "-frames:v", "1", "-f", "null", os.devnull]
    command = ffmpeg_command("-v", "info", "-copyts", "-i", str(path.absolute()), *show)
    result = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True)
    return result.stderr.decode(errors="replace")


def require_ffmpeg() -> ModuleType:
    r"""The package that brings ffmpeg along; pictures and tensors do without it."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise FFmpegError("Video files need ffmpeg: `pip install imageio-ffmpeg`.") from error
    return imageio_ffmpeg


def ffmpeg_command(*options: str) -> list[str]:
    r"""A quiet ffmpeg that never reads the caller's standard input."""
    return [require_ffmpeg().get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-nostats", "-v", "error", "-y", *options]


@contextlib.contextmanager
def run_ffmpeg(command: list[str], **pipes: int) -> Iterator[tuple[subprocess.Popen, IO[bytes]]]:
    r"""
    Messages go to a file, which cannot fill up like a pipe. In a session of its own ffmpeg does not see Ctrl-C, so a
    caller who catches it can still finish the video.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stderr=log, start_new_session=True, **pipes)
        try:
            yield process, log
        finally:
            process.kill()
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with contextlib.suppress(OSError):  # what was still to be written has no reader
                    pipe.close()


def last_line(log: str | IO[bytes]) -> str:
    r"""The most telling last line of what ffmpeg said, empty where it said nothing."""
    if not isinstance(log, str):
        log.seek(0)
        log = log.read().decode(errors="replace")
    lines = [re.sub(r"^(\[[^]]* @ \w+\] )+", "", line.strip()) for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Conversion failed!", "Error opening"))]
    return (telling or lines or [""])[-1]


def warn_of_damage(path: Path, num_read: int, problem: str) -> None:
    r"""Warns that a file ended before its time."""
    message = f"{path} is damaged or cut off: {num_read} frames could be read ({problem})."
    warnings.warn(message, UserWarning, stacklevel=4)


def exact_frame_rate(frames_per_second: float) -> Fraction:
    r"""The rate as a fraction; 29.97 and its like are multiples of 1 / 1.001. ValueError outside of 0.01 to 1000."""
    if isinstance(frames_per_second, bool) or not 0.01 <= frames_per_second <= 1000:  # false for NaN too
        raise ValueError(f"`frames_per_second` must be a number from 0.01 to 1000, got {frames_per_second!r}.")
    rate = Fraction(frames_per_second).limit_denominator(10000)
    broadcast_rate = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
    is_broadcast = rate.denominator > 1 and abs(rate - broadcast_rate) < Fraction(1, 1000)
    return broadcast_rate if is_broadcast else rate
