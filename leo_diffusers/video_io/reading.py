"""Videos, GIFs and folders of numbered images to frames, one at a time."""

import contextlib
import math
import os
import re
import subprocess
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .ffmpeg import (
    FOLDER_FRAMES_PER_SECOND,
    RESAMPLING,
    exact_frame_rate,
    ffmpeg_command,
    last_line,
    probe_video,
    run_ffmpeg,
    warn_of_damage,
)
from .files import IMAGE_SUFFIXES, PathLike, frame_number
from .images import check_crop, pixels_to_frame, read_pixels, to_pixels
from .squares import Square


SEEK_MARGIN = 8  # frames; containers index rounded times, so aim early and drop what comes too soon


class VideoReader(contextlib.AbstractContextManager):
    r"""
    Stream the frames of a video file, an animated GIF or a folder of numbered images, one at a time.

    Every loop over the reader starts again at `start_frame`. Files of variable frame rate are read at a constant one
    (frames repeat or drop out), so that sound stays in sync; rotation stored in the file is applied. A file that is
    cut off or damaged midway yields what can be decoded and then warns.

    Args:
        path (`str` or `os.PathLike`): The file or folder. Images in a folder are sorted by number: 2 before 10.
        frame_size (`int`, *optional*): Side of the frames, as in [`to_frame`]; the warning comes once per reader.
        start_frame (`int`): Index of the first frame to read, found by seeking.
        num_frames (`int`, *optional*): How many frames to read at most.
        frames_per_second (`float`, *optional*): Frame rate of a folder of images, which stores none.
        square ([`Square`], *optional*): Part of the picture to cut out instead of the central one.

    Attributes:
        frames_per_second (`float`): Frame rate; the mean one for a GIF.
        height, width (`int`): Size of the frames.
        source_height, source_width (`int`): Size that the video is shown at, before cropping and resizing.
        has_audio (`bool`): Whether the file has a sound track.

    Raises:
        FileNotFoundError: If `path` does not exist.
        ValueError: If `path` holds no frames that can be decoded, or none from `start_frame` on, or `square` does not
            lie inside of the picture.

    Examples:
        ```py
        >>> from leo_diffusers.video_io import VideoReader

        >>> with VideoReader("video.mp4", frame_size=64) as reader:
        ...     mean_brightness = [frame.mean().item() for frame in reader]  # one frame at a time
        >>> reader.num_frames, reader.frames_per_second
        (16, 25.0)
        ```
    """

    def __init__(
        self,
        path: PathLike,
        frame_size: int | None = None,
        start_frame: int = 0,
        num_frames: int | None = None,
        frames_per_second: float | None = None,
        square: Square | None = None,
    ):
        self.path = Path(path)
        if start_frame < 0 or (num_frames is not None and num_frames < 1):
            found = f"{start_frame} and {num_frames}"
            raise ValueError(f"`start_frame` must be at least 0 and `num_frames` at least 1, got {found}.")
        if not self.path.exists():
            raise FileNotFoundError(f"There is no video {self.path}.")
        if frames_per_second is not None and not self.path.is_dir():
            raise ValueError(f"`frames_per_second` is for folders of images; {self.path} has a frame rate of its own.")
        end_frame = None if num_frames is None else start_frame + num_frames
        if self.path.is_dir():
            self._source = _FolderSource(self.path, start_frame, end_frame, frames_per_second)
        elif self.path.suffix.lower() == ".gif":
            self._source = _GIFSource(self.path, start_frame, end_frame)
        else:
            self._source = _FFmpegSource(self.path, start_frame, end_frame)
        self.frames_per_second = self._source.frames_per_second
        self.has_audio = self._source.has_audio
        self.source_height, self.source_width = self._source.height, self._source.width
        if square is None:
            check_crop(str(self.path), self.source_height, self.source_width, frame_size)
        else:
            square.check(str(self.path), self.source_height, self.source_width)
        side = frame_size or (square and square.side)
        self.height, self.width = side or self.source_height, side or self.source_width
        self._frame_size, self._square = frame_size, square
        self._num_frames: int | None = None
        self._loops: weakref.WeakSet = weakref.WeakSet()

    @property
    def num_frames(self) -> int:
        r"""
        Exact number of frames that a loop yields. Before the first full loop, asking decodes a video file once.
        """
        if self._num_frames is None:
            self._num_frames = self._source.count()
        return self._num_frames

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[torch.Tensor]:
        loop = self._read()
        self._loops.add(loop)
        return loop

    def __exit__(self, *exception: object) -> None:
        for loop in list(self._loops):
            loop.close()

    def spread(self, count: int) -> Iterator[torch.Tensor]:
        r"""
        Looks at a whole video without reading it into memory.

        Args:
            count (`int`): How many frames at most.

        Yields:
            `torch.Tensor` of shape `(3, H, W)`: Frames evenly spaced over those that a loop yields.
        """
        step = math.ceil(self.num_frames / count)
        with contextlib.closing(self._source.pictures()) as pictures:
            for index, pixels in enumerate(pictures):
                if index % step == step // 2:
                    yield pixels_to_frame(pixels, self._frame_size, self._square)

    def _read(self) -> Iterator[torch.Tensor]:
        num_read = 0
        with contextlib.closing(self._source.pictures()) as pictures:
            for pixels in pictures:
                yield pixels_to_frame(pixels, self._frame_size, self._square)
                num_read += 1
        self._num_frames = num_read


def read_video(
    path: PathLike, frame_size: int | None = None, start_frame: int = 0, num_frames: int | None = None
) -> torch.Tensor:
    r"""
    Read a short clip at once; [`VideoReader`] streams long ones. Arguments and errors are those of [`VideoReader`].

    Returns:
        `torch.Tensor` of shape `(F, 3, H, W)`: The frames, in [-1, 1]; 786 kB each at 256 pixels.

    Examples:
        ```py
        >>> from leo_diffusers.video_io import read_video

        >>> read_video("video.mp4", frame_size=64, num_frames=8).shape
        torch.Size([8, 3, 64, 64])
        ```
    """
    with VideoReader(path, frame_size, start_frame, num_frames) as reader:
        return torch.stack(list(iter(reader)))  # list(reader) would ask for len() and so decode twice


class _FFmpegSource:
    def __init__(self, path: Path, start_frame: int, end_frame: int | None):
        self.path, self.start_frame, self.end_frame = path, start_frame, end_frame
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise ValueError(f"{path} is an image, not a video: use `read_image`.")
        stream = probe_video(path)
        self.height, self.width, self.has_audio = stream.height, stream.width, stream.has_audio
        self.frames_per_second = float(stream.frame_rate)
        # Reading on and seeking lay the frames on this one grid of times, so frame k is the same picture in both.
        self.grid = f"fps={stream.frame_rate}:start_time={stream.start_time:.6f}:round=near"
        self.input = ["-copyts"]
        # AVI and streams without an index seek to frames that cannot be decoded alone; those are read on.
        if start_frame > SEEK_MARGIN and path.suffix.lower() in (".mp4", ".mov", ".mkv", ".webm"):
            seconds = stream.start_time + float((start_frame - SEEK_MARGIN) / stream.frame_rate)
            # Not "accurate": that would drop a long frame that began before the time sought but is still shown.
            self.input += ["-noaccurate_seek", "-seek_timestamp", "1", "-ss", f"{seconds:.6f}"]
        self.input += ["-i", str(path.absolute()), "-map", "0:V:0", "-fps_mode", "passthrough"]
        if start_frame and not self.count(start_frame + 1):
            raise ValueError(f"`start_frame` is {start_frame}, but {path} has fewer frames.")

    def count(self, end_frame: int | None = None) -> int:
        filters = self._filters(end_frame or self.end_frame)
        command = ffmpeg_command(*self.input, "-vf", filters, "-progress", "pipe:1", "-f", "null", os.devnull)
        report = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True).stdout
        return int(re.findall(rb"^frame=\s*(\d+)", report, re.MULTILINE)[-1])

    def pictures(self) -> Iterator[np.ndarray]:
        r"""Yields (H, W, 3) uint8, always in the same memory: to be used before the next is asked for."""
        # A stream may change its size midway: the scale brings every picture to the size of the first.
        filters = f"{self._filters(self.end_frame)},scale={self.width}:{self.height}:{RESAMPLING},format=rgb24"
        command = ffmpeg_command(*self.input, "-vf", filters, "-f", "rawvideo", "pipe:1")
        num_read = 0
        with run_ffmpeg(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as (process, log):
            picture = np.empty((self.height, self.width, 3), np.uint8)
            while process.stdout.readinto(memoryview(picture).cast("B")) == picture.nbytes:
                yield picture
                num_read += 1
            if process.wait() != 0 or last_line(log):
                warn_of_damage(self.path, num_read, last_line(log))

    def _filters(self, end_frame: int | None) -> str:
        end = "" if end_frame is None else f":end_frame={end_frame}"
        return f"{self.grid},trim=start_frame={self.start_frame}{end}"


class _GIFSource:
    # PIL rather than ffmpeg: it lays partial frames over each other as browsers do.
    has_audio = False

    def __init__(self, path: Path, start_frame: int, end_frame: int | None):
        self.path, self.range = path, slice(start_frame, end_frame)
        self.height, self.width = read_pixels(path).shape[:2]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damage is reported by the loop that meets it
            durations = [image.info.get("duration", 0) for image in self._images()]
        self.num_total = len(durations)
        # Browsers show a frame of 10 ms or less for 100 ms.
        self.frames_per_second = 1000 * len(durations) / sum(time if time > 10 else 100 for time in durations)
        if start_frame >= self.num_total:
            raise ValueError(f"`start_frame` is {start_frame}, but {path} has {self.num_total} frames.")

    def count(self) -> int:
        return len(range(self.num_total)[self.range])

    def pictures(self) -> Iterator[np.ndarray]:
        for index, image in enumerate(self._images()):
            if index == self.range.stop:
                return
            if index >= self.range.start:
                yield to_pixels(image)

    def _images(self) -> Iterator[Image.Image]:
        index = 0
        with Image.open(self.path) as image:
            while True:
                try:
                    image.seek(index)
                    image.load()
                except EOFError:
                    return
                except (OSError, SyntaxError, ValueError) as error:
                    return warn_of_damage(self.path, index, str(error))
                yield image
                index += 1


class _FolderSource:
    has_audio = False

    def __init__(self, path: Path, start_frame: int, end_frame: int | None, frames_per_second: float | None):
        self.frames_per_second = float(exact_frame_rate(frames_per_second or FOLDER_FRAMES_PER_SECOND))
        files = [file for file in path.iterdir() if frame_number(file)]
        if not files:
            raise ValueError(f"{path} holds no numbered images ({', '.join(IMAGE_SUFFIXES)}), such as 000000.png.")
        series = sorted({f"{frame_number(file)[0]}*{file.suffix}" for file in files})
        if len(series) > 1:
            raise ValueError(f"{path} mixes several series of images ({', '.join(series[:4])}): separate them.")
        files.sort(key=lambda file: (frame_number(file)[1], file.name))
        self.files = files[start_frame:end_frame]
        if not self.files:
            raise ValueError(f"`start_frame` is {start_frame}, but {path} has {len(files)} frames.")
        self.height, self.width = read_pixels(self.files[0]).shape[:2]
        sizes = {_image_size(file): f"{file.name} is {'{}x{}'.format(*_image_size(file))}" for file in self.files}
        if len(sizes) > 1:
            raise ValueError(f"{path} holds images of different sizes ({', '.join(list(sizes.values())[:4])}).")

    def count(self) -> int:
        return len(self.files)

    def pictures(self) -> Iterator[np.ndarray]:
        return (read_pixels(file) for file in self.files)


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
