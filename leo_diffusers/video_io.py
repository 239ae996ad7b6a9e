r"""
Files to frames and back: images, videos, GIFs and folders of numbered images.

A frame is a float32 RGB tensor of shape `(3, H, W)` in [-1, 1]. This file is the only place that scales pixels: a byte
p becomes p / 127.5 - 1, whatever else the clip holds. Readers and writers hold one frame at a time.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import uuid
import warnings
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, NamedTuple

import imageio_ffmpeg
import numpy as np
import torch
from PIL import Image, ImageOps


VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".webm", ".mkv", ".gif")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

RANGE_TOLERANCE = 1e-3  # half precision and resampling leave a range by this much, another convention by more
FOLDER_FRAMES_PER_SECOND = 25.0
MAX_GIF_FRAMES_PER_SECOND = 50  # players slow anything faster down to 10
SEEK_MARGIN = 8  # frames; containers index rounded times, so aim early and drop what comes too soon

# swscale's fast path, its default, darkens every pixel by 1 to 1.5 of 255 on the way from YUV to RGB.
RESAMPLING = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
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

PathLike = str | os.PathLike


# --------------------------------------------------------------------------------------------------------------------
# Images
# --------------------------------------------------------------------------------------------------------------------


def to_frame(image: Image.Image | np.ndarray | torch.Tensor, frame_size: int | None = None) -> torch.Tensor:
    r"""
    Turn an image into a frame.

    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            A PIL image of any mode but "F" and "LAB", turned as its EXIF tag says; an array of shape `(H, W)`,
            `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)`, uint8, uint16 or float in [0, 1]; or a float tensor of shape
            `(3, H, W)` or `(1, 3, H, W)` in [-1, 1]. Transparent pixels are laid on white.
        frame_size (`int`, *optional*):
            Side of the result: the central square of the image is cut out and resized with antialiasing. A warning
            says when the cut loses pixels.

    Returns:
        `torch.Tensor` of shape `(3, H, W)`: The frame, in [-1, 1]; on the device of `image` if that is a tensor.

    Raises:
        TypeError: If `image` is of another type or dtype.
        ValueError: If its shape or range is none of the above.
    """
    pixels = _to_pixels(image)
    _check_crop("The image", *pixels.shape[:2], frame_size)
    frame = _pixels_to_frame(pixels, frame_size)
    return frame.to(image.device) if isinstance(image, torch.Tensor) else frame


def to_uint8(frames: torch.Tensor) -> np.ndarray:
    r"""
    Turn frames into bytes, the inverse of [`to_frame`].

    Args:
        frames (`torch.Tensor` of shape `(3, H, W)` or `(F, 3, H, W)`):
            Frames in [-1, 1], on any device and of any float dtype; values outside are clamped.

    Returns:
        `np.ndarray` of shape `(H, W, 3)` or `(F, H, W, 3)`, uint8.

    Raises:
        TypeError: If `frames` is no float tensor.
        ValueError: If `frames` has another shape or holds NaN or infinity.
    """
    if not isinstance(frames, torch.Tensor) or not frames.is_floating_point():
        kind = getattr(frames, "dtype", type(frames).__name__)
        raise TypeError(f"`frames` must be a float tensor in [-1, 1], got {kind}: use `to_frame` to make one.")
    if frames.ndim not in (3, 4) or frames.shape[-3] != 3 or 0 in frames.shape[-2:]:
        raise ValueError(f"`frames` must have shape (3, H, W) or (F, 3, H, W), got {tuple(frames.shape)}.")
    values = frames.detach().float().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError("`frames` holds NaN or infinite values, so the model that made them has diverged.")
    pixels = ((values + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(pixels, -3, -1))


def to_pil(frame: torch.Tensor) -> Image.Image:
    r"""
    Turn one frame of shape `(3, H, W)` in [-1, 1] into a PIL image of mode "RGB".
    """
    pixels = to_uint8(frame)
    if pixels.ndim != 3:
        raise ValueError(f"`frame` must have shape (3, H, W), got {tuple(frame.shape)}: convert one at a time.")
    return Image.fromarray(pixels)


def to_unit_range(frames: torch.Tensor) -> torch.Tensor:
    r"""
    Map frames of any shape in [-1, 1] to float32 in [0, 1], clamped: the outputs "np" and "pt" of the pipelines.
    """
    return ((frames.float() + 1) / 2).clamp(0, 1)


def read_image(path: PathLike, frame_size: int | None = None) -> torch.Tensor:
    r"""
    Read an image file as a frame of shape `(3, H, W)` in [-1, 1]. `frame_size` is that of [`to_frame`].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no image or a damaged one.
    """
    pixels = _read_pixels(Path(path))
    _check_crop(str(path), *pixels.shape[:2], frame_size)
    return _pixels_to_frame(pixels, frame_size)


def write_image(path: PathLike, frame: torch.Tensor) -> None:
    r"""
    Write one frame of shape `(3, H, W)` in [-1, 1] to an image file, whole or not at all.

    Raises:
        FileNotFoundError: If the folder of `path` does not exist.
        ValueError: If the suffix of `path` is not one of `IMAGE_SUFFIXES`.
    """
    path = Path(path)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{path}: images are written as one of {', '.join(IMAGE_SUFFIXES)}.")
    temporary = _temporary_beside(path)
    try:
        to_pil(frame).save(temporary, quality=95)
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def _to_pixels(image: Image.Image | np.ndarray | torch.Tensor) -> np.ndarray:
    # (H, W, 3 or 4), either integers over the full range of their dtype or float32 in [-1, 1].
    if isinstance(image, torch.Tensor):
        return _tensor_to_pixels(image)
    if isinstance(image, Image.Image):
        image = _pil_to_array(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"`image` must be a PIL image, a NumPy array or a tensor, got {type(image).__name__}.")
    array = image[..., None] if image.ndim == 2 else image
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise ValueError(f"An image array must have shape (H, W) or (H, W, 1, 3 or 4), got {image.shape}.")
    if np.issubdtype(array.dtype, np.floating):
        _check_range("A float image array", array, 0, 1)
        array = array.clip(0, 1).astype(np.float32) * 2 - 1
    elif array.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"An image array must be uint8, uint16 or float in [0, 1], got {array.dtype}.")
    return array.repeat(3, axis=2) if array.shape[2] == 1 else array


def _tensor_to_pixels(image: torch.Tensor) -> np.ndarray:
    frame = image[0] if image.ndim == 4 and image.shape[0] == 1 else image
    if frame.ndim != 3 or frame.shape[0] != 3 or frame.numel() == 0:
        raise ValueError(f"An image tensor must have shape (3, H, W), got {tuple(image.shape)}.")
    if not image.is_floating_point():
        raise TypeError(f"An image tensor must be float in [-1, 1], got {image.dtype}: pass bytes as a NumPy array.")
    values = frame.detach().float().cpu().numpy()
    _check_range("An image tensor", values, -1, 1)
    return values.clip(-1, 1).transpose(1, 2, 0)


def _pil_to_array(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode in ("F", "LAB"):
        raise ValueError(f'PIL images of mode "{image.mode}" are not supported: pass "RGB" or floats in [0, 1].')
    if not image.mode.startswith("I"):
        return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    array = np.asarray(image)  # "I" and "I;16": PIL's own conversion to "RGB" clips them at 255
    if array.min() < 0 or array.max() > 65535:
        raise ValueError(f'PIL images of mode "{image.mode}" must hold values from 0 to 65535.')
    return array.astype(np.uint16)


def _pixels_to_frame(pixels: np.ndarray, frame_size: int | None) -> torch.Tensor:
    if frame_size is not None:
        side = min(pixels.shape[:2])
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    # NumPy, not torch: for arrays this small torch's threads cost more than they save, far more on a busy machine.
    frame = np.array(pixels.transpose(2, 0, 1), dtype=np.float32, order="C")
    if np.issubdtype(pixels.dtype, np.integer):
        frame = frame / np.float32(np.iinfo(pixels.dtype).max / 2) - 1
    if len(frame) == 4:
        alpha = (frame[3:] + 1) / 2
        frame = frame[:3] * alpha + (1 - alpha)
    if frame_size not in (None, frame.shape[-1]):
        size = (frame_size, frame_size)
        channels = [Image.fromarray(channel).resize(size, Image.Resampling.LANCZOS) for channel in frame]
        frame = np.stack([np.asarray(channel) for channel in channels]).clip(-1, 1)  # edges overshoot
    return torch.from_numpy(frame)


def _read_pixels(path: Path) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(f"There is no image {path}.")
    try:
        with Image.open(path) as image:
            return _to_pixels(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as an image, it may be damaged or no image at all: {error}"
        ) from error


def _check_range(name: str, values: np.ndarray, low: float, high: float) -> None:
    minimum, maximum = float(values.min()), float(values.max())
    if not (minimum >= low - RANGE_TOLERANCE and maximum <= high + RANGE_TOLERANCE):  # false for NaN too
        found = f"from {minimum:.4g} to {maximum:.4g}"
        raise ValueError(f"{name} must lie in [{low}, {high}] and hold no NaN, got values {found}: rescale it.")


def _check_crop(name: str, height: int, width: int, frame_size: int | None) -> None:
    if frame_size is None:
        return
    if isinstance(frame_size, bool) or not isinstance(frame_size, int) or frame_size < 1:
        raise ValueError(f"`frame_size` must be a positive integer, got {frame_size!r}.")
    if height != width:
        kept = f"{min(height, width)}x{min(height, width)}"
        message = f"{name} is {width}x{height}, and only its central {kept} square is used: crop it to choose another."
        warnings.warn(message, UserWarning, stacklevel=3)


# --------------------------------------------------------------------------------------------------------------------
# Reading videos
# --------------------------------------------------------------------------------------------------------------------


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

    Attributes:
        frames_per_second (`float`): Frame rate; the mean one for a GIF.
        height, width (`int`): Size of the frames.
        source_height, source_width (`int`): Size that the video is shown at, before cropping and resizing.
        has_audio (`bool`): Whether the file has a sound track.

    Raises:
        FileNotFoundError: If `path` does not exist.
        ValueError: If `path` holds no frames that can be decoded, or none from `start_frame` on.
    """

    def __init__(
        self,
        path: PathLike,
        frame_size: int | None = None,
        start_frame: int = 0,
        num_frames: int | None = None,
        frames_per_second: float | None = None,
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
        _check_crop(str(self.path), self.source_height, self.source_width, frame_size)
        self.height, self.width = frame_size or self.source_height, frame_size or self.source_width
        self._frame_size = frame_size
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

    def _read(self) -> Iterator[torch.Tensor]:
        num_read = 0
        with contextlib.closing(self._source.pictures()) as pictures:
            for pixels in pictures:
                yield _pixels_to_frame(pixels, self._frame_size)
                num_read += 1
        self._num_frames = num_read


def read_video(
    path: PathLike, frame_size: int | None = None, start_frame: int = 0, num_frames: int | None = None
) -> torch.Tensor:
    r"""
    Read a short clip at once; [`VideoReader`] streams long ones. Arguments and errors are those of [`VideoReader`].

    Returns:
        `torch.Tensor` of shape `(F, 3, H, W)`: The frames, in [-1, 1]; 786 kB each at 256 pixels.
    """
    with VideoReader(path, frame_size, start_frame, num_frames) as reader:
        return torch.stack(list(iter(reader)))  # list(reader) would ask for len() and so decode twice


def find_videos(folder: PathLike) -> list[Path]:
    r"""
    Find the videos below a folder, at any depth: video files, and folders that hold numbered images but no video file.

    Hidden files and folders are skipped. Each of the sorted paths suits [`VideoReader`].

    Raises:
        FileNotFoundError: If `folder` does not exist.
        ValueError: If `folder` is a file or holds no video.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: pass the folder that holds the videos.")
    videos = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        files = [Path(parent, name) for name in names if not name.startswith(".")]
        here = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
        videos += here or [Path(parent)] * any(_frame_number(path) for path in files)
    if not videos:
        suffixes = ", ".join(VIDEO_SUFFIXES)
        raise ValueError(f"{folder} holds no videos: looked for {suffixes} and folders of numbered images.")
    return sorted(videos)


class _FFmpegSource:
    def __init__(self, path: Path, start_frame: int, end_frame: int | None):
        self.path, self.start_frame, self.end_frame = path, start_frame, end_frame
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise ValueError(f"{path} is an image, not a video: use `read_image`.")
        stream = _probe(path)
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
        command = _ffmpeg(*self.input, "-vf", filters, "-progress", "pipe:1", "-f", "null", os.devnull)
        report = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True).stdout
        return int(re.findall(rb"^frame=\s*(\d+)", report, re.MULTILINE)[-1])

    def pictures(self) -> Iterator[np.ndarray]:
        # A stream may change its size midway: the scale brings every picture to the size of the first.
        filters = f"{self._filters(self.end_frame)},scale={self.width}:{self.height}:{RESAMPLING},format=rgb24"
        command = _ffmpeg(*self.input, "-vf", filters, "-f", "rawvideo", "pipe:1")
        num_read = 0
        with _running(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as (process, log):
            picture = np.empty((self.height, self.width, 3), np.uint8)
            while process.stdout.readinto(memoryview(picture).cast("B")) == picture.nbytes:
                yield picture
                num_read += 1
            if process.wait() != 0 or _last_line(log):
                _warn_of_damage(self.path, num_read, _last_line(log))

    def _filters(self, end_frame: int | None) -> str:
        end = "" if end_frame is None else f":end_frame={end_frame}"
        return f"{self.grid},trim=start_frame={self.start_frame}{end}"


class _GIFSource:
    # PIL rather than ffmpeg: it lays partial frames over each other as browsers do.
    has_audio = False

    def __init__(self, path: Path, start_frame: int, end_frame: int | None):
        self.path, self.range = path, slice(start_frame, end_frame)
        self.height, self.width = _read_pixels(path).shape[:2]
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
                yield _to_pixels(image)

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
                    return _warn_of_damage(self.path, index, str(error))
                yield image
                index += 1


class _FolderSource:
    has_audio = False

    def __init__(self, path: Path, start_frame: int, end_frame: int | None, frames_per_second: float | None):
        self.frames_per_second = float(_frame_rate(frames_per_second or FOLDER_FRAMES_PER_SECOND))
        files = [file for file in path.iterdir() if _frame_number(file)]
        if not files:
            raise ValueError(f"{path} holds no numbered images ({', '.join(IMAGE_SUFFIXES)}), such as 000000.png.")
        series = sorted({f"{_frame_number(file)[0]}*{file.suffix}" for file in files})
        if len(series) > 1:
            raise ValueError(f"{path} mixes several series of images ({', '.join(series[:4])}): separate them.")
        files.sort(key=lambda file: (_frame_number(file)[1], file.name))
        self.files = files[start_frame:end_frame]
        if not self.files:
            raise ValueError(f"`start_frame` is {start_frame}, but {path} has {len(files)} frames.")
        self.height, self.width = _read_pixels(self.files[0]).shape[:2]
        sizes = {_image_size(file): f"{file.name} is {'{}x{}'.format(*_image_size(file))}" for file in self.files}
        if len(sizes) > 1:
            raise ValueError(f"{path} holds images of different sizes ({', '.join(list(sizes.values())[:4])}).")

    def count(self) -> int:
        return len(self.files)

    def pictures(self) -> Iterator[np.ndarray]:
        return (_read_pixels(file) for file in self.files)


def _frame_number(path: Path) -> tuple[str, int] | None:
    match = re.fullmatch(r"(.*?)(\d+)", path.stem)
    if match is None or path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
        return None
    return match[1], int(match[2])


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


# --------------------------------------------------------------------------------------------------------------------
# Writing videos
# --------------------------------------------------------------------------------------------------------------------


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

    Raises:
        FileNotFoundError: If the folder of `path`, or `audio_from`, does not exist.
        PermissionError: If the folder of `path` cannot be written to.
        ValueError: If `path` is no possible output, or `frames_per_second` no frame rate it can have.
        RuntimeError: If ffmpeg fails.
    """

    def __init__(self, path: PathLike, frames_per_second: float, audio_from: PathLike | None = None):
        self.path = Path(path)
        self._suffix = self.path.suffix.lower()
        if self._suffix and self._suffix not in VIDEO_SUFFIXES:
            supported = ", ".join(VIDEO_SUFFIXES)
            raise ValueError(f"{path}: videos are written as one of {supported}, or to a folder (no suffix).")
        if self._suffix and self.path.is_dir():
            raise ValueError(f"{path} is a folder: remove it or choose another name for the video.")
        if not self._suffix and (self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir()))):
            raise ValueError(f"{path} exists and is not an empty folder: frames are written to a new folder only.")
        self._frame_rate = _frame_rate(frames_per_second)
        self.frames_per_second = float(self._frame_rate)
        if self._suffix == ".gif" and self._frame_rate > MAX_GIF_FRAMES_PER_SECOND:
            raise ValueError(f"GIFs show at most {MAX_GIF_FRAMES_PER_SECOND} frames/s, got {frames_per_second}.")
        self._sound = None if audio_from is None else _find_sound(Path(audio_from), self._suffix)
        self._temporary, self._with_sound = _temporary_beside(self.path), _temporary_beside(self.path)
        self._stack: contextlib.ExitStack | None = None
        self._picture_shape: tuple[int, ...] | None = None
        self._num_frames = 0

    def __enter__(self) -> "VideoWriter":
        self._stack = contextlib.ExitStack()
        self._stack.callback(_remove, self._temporary)
        self._stack.callback(_remove, self._with_sound)
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
            RuntimeError: If called outside the `with` block, or ffmpeg stops.
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
        command = _ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(self._frame_rate))
        command += ["-i", "pipe:0", *VIDEO_ENCODERS[self._suffix].split(), str(self._temporary.absolute())]
        running = _running(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self._process, self._log = self._stack.enter_context(running)

    def _append(self, picture: np.ndarray) -> None:
        if not self._suffix:
            Image.fromarray(picture).save(self._temporary / f"{self._num_frames:06d}.png")
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
        elif self.path.is_dir():
            self.path.rmdir()
        if self._sound is not None:
            finished = self._with_sound
            self._add_sound(*self._sound)
        os.replace(finished, self.path)

    def _add_sound(self, path: Path, start_time: float) -> None:
        # After the pictures, not along with them: ffmpeg buffers the sound of a slow writer without limit.
        seconds = float(self._num_frames / self._frame_rate)
        filters = f"asetpts=PTS-({start_time:.6f})/TB,aresample=async=1:first_pts=0"
        filters += f",aformat=channel_layouts=stereo|mono,apad,atrim=end={seconds:.6f}"
        command = _ffmpeg("-copyts", "-i", str(self._temporary.absolute()), "-i", str(path.absolute()))
        command += ["-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy", "-af", filters]
        command += [*AUDIO_ENCODERS[self._suffix].split(), str(self._with_sound.absolute())]
        with _running(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as (process, log):
            self._check(process.wait(), log)

    def _check(self, returncode: int, log: IO[bytes]) -> None:
        if returncode != 0:
            raise RuntimeError(f"ffmpeg failed to write {self.path}: {_last_line(log) or 'it left no message'}")


def _find_sound(path: Path, suffix: str) -> tuple[Path, float] | None:
    # The file with the sound and the time of its first picture; None where there is no sound, or no room for it.
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path} to take the sound from.")
    if path.is_dir() or suffix not in AUDIO_ENCODERS:
        return None
    header = _read_header(path)
    if "Input #0" not in header:
        raise ValueError(f"{path} cannot be read, so its sound cannot be taken: {_last_line(header)}")
    return (path, _start_time(header)) if _AUDIO_STREAM.search(header) else None


def _temporary_beside(path: Path) -> Path:
    # Checks that the folder can be written to. tempfile's own files would leave the output unreadable to others.
    folder = path.parent
    if not folder.exists():
        raise FileNotFoundError(f"The folder {folder} does not exist: create it first.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, so nothing can be written into it.")
    temporary = folder / f".{uuid.uuid4().hex}{path.suffix}"
    try:
        temporary.touch()
    except OSError as error:
        raise PermissionError(f"The folder {folder} cannot be written to: {error.strerror}.") from error
    temporary.unlink()
    return temporary


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _frame_rate(frames_per_second: float) -> Fraction:
    if isinstance(frames_per_second, bool) or not 0.01 <= frames_per_second <= 1000:  # false for NaN too
        raise ValueError(f"`frames_per_second` must be a number from 0.01 to 1000, got {frames_per_second!r}.")
    rate = Fraction(frames_per_second).limit_denominator(10000)
    broadcast_rate = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
    is_broadcast = rate.denominator > 1 and abs(rate - broadcast_rate) < Fraction(1, 1000)
    return broadcast_rate if is_broadcast else rate


# --------------------------------------------------------------------------------------------------------------------
# ffmpeg
# --------------------------------------------------------------------------------------------------------------------

_AUDIO_STREAM = re.compile(r"^\s+Stream #0:\d+.*: Audio: ", re.MULTILINE)
_VIDEO_STREAM = re.compile(r"^\s+Stream #0:\d+.*: Video: (?!.*attached pic).*$", re.MULTILINE)
_FIRST_FRAME = re.compile(
    r"config in time_base: (?P<time_base>\d+/\d+), frame_rate: (?P<frame_rate>\d+/\d+)"
    r"[\s\S]*?n: +\d+ pts: *(?P<pts>-?\d+) [^\n]* s:(?P<width>\d+)x(?P<height>\d+)"
)


class _VideoStream(NamedTuple):
    width: int
    height: int
    frame_rate: Fraction
    start_time: float  # of the first frame, in seconds
    has_audio: bool


def _probe(path: Path) -> _VideoStream:
    header = _read_header(path)
    if "Input #0" not in header:
        problem = f"is empty, cut off, damaged or no video ({_last_line(header)})"
        raise ValueError(f"{path} {problem}: check that it plays, or copy or convert it again.")
    stream, first_frame = _VIDEO_STREAM.search(header), _FIRST_FRAME.search(header)
    if stream is None:
        raise ValueError(f"{path} has no video stream, perhaps only sound: choose a file with pictures.")
    if first_frame is None:
        raise ValueError(f"{path} holds no frame that can be decoded ({_last_line(header)}): convert it again.")
    mean_rate = re.search(r", ([\d.]+) fps", stream[0])  # rounded to 1/100
    numerator, denominator = map(int, first_frame["frame_rate"].split("/"))
    if not mean_rate or not denominator:
        num_frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path.absolute()))
        frame_rate = _frame_rate(num_frames / seconds if seconds else FOLDER_FRAMES_PER_SECOND)
    elif abs(numerator / denominator / float(mean_rate[1]) - 1) < 0.02:
        frame_rate = Fraction(numerator, denominator)
    else:  # of variable rates ffmpeg guesses the finest grid, up to 1000 frames per second
        frame_rate = _frame_rate(float(mean_rate[1]))
    size = int(first_frame["width"]), int(first_frame["height"])
    return _VideoStream(*size, frame_rate, _start_time(header), bool(_AUDIO_STREAM.search(header)))


def _start_time(header: str) -> float:
    first_frame = _FIRST_FRAME.search(header)
    return float(Fraction(first_frame["time_base"]) * int(first_frame["pts"])) if first_frame else 0.0


def _read_header(path: Path) -> str:
    # What ffmpeg says of a file and its first frame. Only showinfo tells the exact frame rate and the turned size.
    show = ["-map", "0:V:0", "-vf", "showinfo=checksum=0", "-frames:v", "1", "-f", "null", os.devnull]
    command = _ffmpeg("-v", "info", "-copyts", "-i", str(path.absolute()), *show)
    result = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True)
    return result.stderr.decode(errors="replace")


def _ffmpeg(*options: str) -> list[str]:
    return [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-nostats", "-v", "error", "-y", *options]


@contextlib.contextmanager
def _running(command: list[str], **pipes: int) -> Iterator[tuple[subprocess.Popen, IO[bytes]]]:
    # Messages go to a file, which cannot fill up like a pipe. In a session of its own ffmpeg does not see Ctrl-C, so a
    # caller who catches it can still finish the video.
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


def _last_line(log: str | IO[bytes]) -> str:
    if not isinstance(log, str):
        log.seek(0)
        log = log.read().decode(errors="replace")
    lines = [re.sub(r"^(\[[^]]* @ \w+\] )+", "", line.strip()) for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Conversion failed!", "Error opening"))]
    return (telling or lines or [""])[-1]


def _warn_of_damage(path: Path, num_read: int, problem: str) -> None:
    message = f"{path} is damaged or cut off: {num_read} frames could be read ({problem})."
    warnings.warn(message, UserWarning, stacklevel=4)
