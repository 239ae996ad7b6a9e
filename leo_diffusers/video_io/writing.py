"""Frames to videos, GIFs and folders of images, as they come; the output appears when it is complete."""

import contextlib
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from .ffmpeg import (
    AUDIO_STREAM,
    RESAMPLING,
    FFmpegError,
    exact_frame_rate,
    ffmpeg_command,
    first_frame_time,
    last_line,
    read_header,
    run_ffmpeg,
)
from .files import VIDEO_SUFFIXES, PathLike, remove, temporary_beside
from .images import to_frame, to_uint8


MAX_GIF_FRAMES_PER_SECOND = 50  # players slow anything faster down to 10
GIF_HEADER_BYTES = 13  # signature and screen descriptor
SYNTHETIC = "Synthetic: generated with leo_diffusers, not a recording."

BT709 = f"-vf scale=out_color_matrix=bt709:out_range=tv:{RESAMPLING} -color_range tv -colorspace bt709 "
BT709 += "-color_primaries bt709 -color_trc bt709"
H264 = f"-c:v libx264 -crf 17 -pix_fmt yuv420p {BT709}"
VIDEO_ENCODERS = {
    ".mp4": f"{H264} -movflags +faststart",
    ".mov": f"{H264} -movflags +faststart",
    ".mkv": H264,
    # AVI stores no colour matrix, so everyone takes it for BT.601, which ffmpeg writes unless told otherwise.
    ".avi": "-c:v mpeg4 -q:v 2 -pix_fmt yuv420p",
    ".webm": f"-c:v libvpx-vp9 -crf 16 -b:v 0 -cpu-used 4 -row-mt 1 -pix_fmt yuv420p {BT709}",
    # A palette per frame: one for the whole clip would keep all its frames in memory.
    ".gif": "-vf split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:dither=sierra2_4a",
}
AUDIO_ENCODERS = {
    ".mp4": "-c:a aac -b:a 192k -movflags +faststart",
    ".mov": "-c:a aac -b:a 192k -movflags +faststart",
    ".mkv": "-c:a aac -b:a 192k",
    ".avi": "-c:a pcm_s16le",  # the delay of MP3 would shift the pictures: AVI has no other clock
    ".webm": "-c:a libopus -b:a 128k",
}


class VideoWriter(contextlib.AbstractContextManager):
    r"""
    Write frames to a video file, a GIF or, for a path without suffix, a folder of PNG files, as they come.

    The output appears under its name when the `with` block ends. When the block raises, or no frame was written,
    nothing appears and an older output stays as it was. Frames of odd height or width get their last row or column
    twice (not in GIF and PNG), because players of H.264 expect even sizes.

    Args:
        path (`str` or `os.PathLike`): The output; its suffix, one of `VIDEO_SUFFIXES` or none, names the format.
        frames_per_second (`float`): Frame rate; 23.976, 29.97 and their like mean the exact multiples of 1 / 1.001.
        audio_from (`str` or `os.PathLike`, *optional*):
            File whose sound goes into the output, beginning at that file's first picture, cut or padded with silence
            to the length of the frames. A file without sound and a format that holds none are no error.
        comment (`str`, *optional*):
            What the file's metadata say of it, in ASCII, at most 255 characters: that it is synthetic, if nothing else
            is named. None is for recordings.

    Raises:
        FileNotFoundError: If the folder of `path`, or `audio_from`, does not exist.
        PermissionError: If the folder of `path` cannot be written to.
        ValueError: If `path` is no possible output, `frames_per_second` no frame rate it can have, or `comment` no
            possible comment.
        FFmpegError: If ffmpeg fails.

    Examples:
        ```py
        >>> from leo_diffusers.video_io import VideoReader, VideoWriter

        >>> reader = VideoReader("video.mp4")
        >>> with VideoWriter("mirrored.mp4", reader.frames_per_second, audio_from="video.mp4", comment=None) as writer:
        ...     for frame in reader:
        ...         writer.write(frame.flip(-1))
        ```
    """

    def __init__(
        self,
        path: PathLike,
        frames_per_second: float,
        audio_from: PathLike | None = None,
        comment: str | None = SYNTHETIC,
    ):
        self.path = Path(path)
        self._suffix = self.path.suffix.lower()
        if self._suffix and self._suffix not in VIDEO_SUFFIXES:
            supported = ", ".join(VIDEO_SUFFIXES)
            raise ValueError(f"{path}: videos are written as one of {supported}, or to a folder (no suffix).")
        if self._suffix and self.path.is_dir():
            raise ValueError(f"{path} is a folder: remove it or choose another name for the video.")
        if not self._suffix and (self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir()))):
            raise ValueError(f"{path} exists and is not an empty folder: frames are written to a new folder only.")
        self._frame_rate = exact_frame_rate(frames_per_second)
        self.frames_per_second = float(self._frame_rate)
        if self._suffix == ".gif" and self._frame_rate > MAX_GIF_FRAMES_PER_SECOND:
            raise ValueError(f"GIFs show at most {MAX_GIF_FRAMES_PER_SECOND} frames/s, got {frames_per_second}.")
        if comment is not None and not (comment.isascii() and comment.isprintable() and 0 < len(comment) < 256):
            raise ValueError(f"`comment` must be 1 to 255 printable ASCII characters, got {comment!r}.")
        self._comment = comment
        self._sound = None if audio_from is None else _find_sound(Path(audio_from), self._suffix)
        self._temporary, self._second = temporary_beside(self.path), temporary_beside(self.path)
        self._stack: contextlib.ExitStack | None = None
        self._picture_shape: tuple[int, ...] | None = None
        self._num_frames = 0

    def __enter__(self) -> "VideoWriter":
        self._stack = contextlib.ExitStack()
        self._stack.callback(remove, self._temporary)
        self._stack.callback(remove, self._second)
        return self

    def __exit__(self, exception_type: type[BaseException] | None, exception: object, traceback: object) -> None:
        stack, self._stack = self._stack, None
        with stack:
            if exception_type is None and self._num_frames:
                self._finish()
            elif exception_type is None:
                warnings.warn(f"No frame was written, so there is no {self.path}.", UserWarning, stacklevel=2)

    def write(self, frames: torch.Tensor) -> None:
        r"""
        Append frames.

        Args:
            frames (`torch.Tensor` of shape `(3, H, W)` or `(F, 3, H, W)`): Frames in [-1, 1], on any device and of any
                float dtype; values outside are clamped. All calls must agree on H and W.

        Raises:
            ValueError: If the shape is none of these or differs from before, or `frames` holds NaN.
            RuntimeError: If called outside the `with` block.
            FFmpegError: If ffmpeg stops.
        """
        if self._stack is None:
            raise RuntimeError("Call `write` inside the `with` block of a VideoWriter.")
        pixels = to_uint8(frames)
        shape = pixels.shape[-3:]
        if self._picture_shape not in (None, shape):
            before, now = (f"{width}x{height}" for height, width, _ in (self._picture_shape, shape))
            raise ValueError(f"All frames of a video must have one size: got {now} after {before}.")
        for picture in pixels.reshape(-1, *shape):
            if self._picture_shape is None:
                self._picture_shape = shape
                self._open(*shape[:2])
            self._append(picture)
            self._num_frames += 1

    def _open(self, height: int, width: int) -> None:
        if not self._suffix:
            self._temporary.mkdir()
            return
        self._padding = ((0, 0),) * 3 if self._suffix == ".gif" else ((0, height % 2), (0, width % 2), (0, 0))
        size = f"{width + self._padding[1][1]}x{height + self._padding[0][1]}"
        command = ffmpeg_command("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(self._frame_rate))
        command += ["-i", "pipe:0", *VIDEO_ENCODERS[self._suffix].split()]
        if self._comment is not None:
            command += ["-metadata", f"comment={self._comment}"]
        command.append(str(self._temporary.absolute()))
        running = run_ffmpeg(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self._process, self._log = self._stack.enter_context(running)

    def _append(self, picture: np.ndarray) -> None:
        if not self._suffix:
            notes = PngImagePlugin.PngInfo()
            if self._comment is not None:
                notes.add_text("Comment", self._comment)
            Image.fromarray(picture).save(self._temporary / f"{self._num_frames:06d}.png", pnginfo=notes)
            return
        try:
            self._process.stdin.write(np.pad(picture, self._padding, mode="edge").tobytes())
        except OSError:  # ffmpeg has died; its log tells why
            self._process.wait()
            self._check(self._process.returncode or 1, self._log)

    def _finish(self) -> None:
        finished = self._temporary
        if self._suffix:
            with contextlib.suppress(OSError):  # as above
                self._process.stdin.close()
            self._check(self._process.wait(), self._log)
            if self._suffix == ".gif" and self._comment is not None:
                self._add_gif_comment(self._comment.encode("ascii"))
        elif self.path.is_dir():
            self.path.rmdir()
        if self._sound is not None:
            finished = self._second
            self._add_sound(*self._sound)
        os.replace(finished, self.path)

    def _add_sound(self, path: Path, start_time: float) -> None:
        # After the pictures, not along with them: ffmpeg buffers the sound of a slow writer without limit.
        seconds = float(self._num_frames / self._frame_rate)
        filters = f"asetpts=PTS-({start_time:.6f})/TB,aresample=async=1:first_pts=0"
        filters += f",aformat=channel_layouts=stereo|mono,apad,atrim=end={seconds:.6f}"
        command = ffmpeg_command("-copyts", "-i", str(self._temporary.absolute()), "-i", str(path.absolute()))
        command += ["-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy", "-af", filters]
        command += [*AUDIO_ENCODERS[self._suffix].split(), str(self._second.absolute())]
        with run_ffmpeg(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as (process, log):
            self._check(process.wait(), log)

    def _add_gif_comment(self, comment: bytes) -> None:
        # ffmpeg writes none. A comment extension (GIF89a, section 24), before the pictures, where readers look for it.
        with self._temporary.open("rb") as file, self._second.open("wb") as commented:
            start = file.read(GIF_HEADER_BYTES)
            palette_bytes = 3 * 2 ** ((start[10] & 7) + 1) if start[10] & 0x80 else 0
            commented.write(start + file.read(palette_bytes))
            commented.write(b"\x21\xfe" + bytes([len(comment)]) + comment + b"\x00")
            shutil.copyfileobj(file, commented)
        self._second.replace(self._temporary)

    def _check(self, returncode: int, log: IO[bytes]) -> None:
        if returncode != 0:
            raise FFmpegError(f"ffmpeg failed to write {self.path}: {last_line(log) or 'it left no message'}")


def write_video(
    path: PathLike,
    frames: Iterable[Image.Image | np.ndarray | torch.Tensor],
    frames_per_second: float,
    audio_from: PathLike | None = None,
    comment: str | None = SYNTHETIC,
) -> None:
    r"""
    Write a clip, such as one entry of a pipeline's `frames` for any `output_type` but "pt".

    Args:
        path (`str` or `os.PathLike`): See [`VideoWriter`].
        frames (iterable of `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): As [`to_frame`] takes them.
        frames_per_second (`float`): Frame rate.
        audio_from (`str` or `os.PathLike`, *optional*): File whose sound is taken.
        comment (`str`, *optional*): See [`VideoWriter`].

    Raises:
        ValueError: If `path` or a frame cannot be written.

    Examples:
        ```py
        >>> from leo_diffusers.video_io import read_video, write_video

        >>> frames = read_video("video.mp4")
        >>> write_video("backwards.gif", frames.flip(0), frames_per_second=25)
        >>> write_video("frames", frames, frames_per_second=25)  # a folder of PNG files
        ```
    """
    with VideoWriter(path, frames_per_second, audio_from, comment) as writer:
        for frame in frames:
            writer.write(to_frame(frame))


def _find_sound(path: Path, suffix: str) -> tuple[Path, float] | None:
    # The file with the sound and the time of its first picture; None where there is no sound, or no room for it.
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path} to take the sound from.")
    if path.is_dir() or suffix not in AUDIO_ENCODERS:
        return None
    header = read_header(path)
    if "Input #0" not in header:
        raise ValueError(f"{path} cannot be read, so its sound cannot be taken: {last_line(header)}")
    return (path, first_frame_time(header)) if AUDIO_STREAM.search(header) else None
