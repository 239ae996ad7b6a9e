"""One row of a data set's list -> its clip: cut out of the video, cropped, resized, checked and written."""

import contextlib
import errno
import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

import torch
from PIL import Image

from .. import video_io
from ..video_io.files import remove
from .annotations import ClipAnnotation
from .cropping import centre_box, cut_out, mask_extent, padded_box, scaled_box, square_box, union
from .manifest import COMPLETE, DROPPED, FAILED
from .scene_cuts import find_scene_cuts, make_thumbnail
from .video_clips import detail_size


FORMATS = ("png", "jpg", "mp4", "webdataset")
CROPS = ("centre", "scaled_box", "square_box", "mask", "wide_mask")
RESAMPLINGS = {"lanczos": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # every other clip would fail too


@dataclass(frozen=True)
class PreparationSettings:
    r"""
    What the pixels of a prepared data set depend on.

    Args:
        size (`int`): Height and width in pixels.
        crop (`str`): One of `CROPS`: the central square, the box of the list as it is, its central square, around the
            face of each frame, or around all of them.
        resampling (`str`): "lanczos" or "bicubic", both with antialiasing.
        format (`str`): One of `FORMATS`.
        jpeg_quality (`int`): Of "jpg".
        min_frames (`int`): Shorter clips are dropped.
        fps (`float`, *optional*): Frame rate to bring clips to; by default each keeps its own.
        drop_scene_cuts (`bool`): Whether clips of several shots are dropped, rather than only marked.
        drop_upscaled (`bool`): Whether clips with less detail than `size` are dropped, rather than only marked.
    """

    size: int
    crop: str
    resampling: str = "lanczos"
    format: str = "png"
    jpeg_quality: int = 75
    min_frames: int = 64
    fps: float | None = None
    drop_scene_cuts: bool = False
    drop_upscaled: bool = False


class DroppedClip(Exception):
    r"""A clip that can be read, but is not wanted; the message says why."""


def make_record(annotation: ClipAnnotation, settings: PreparationSettings) -> dict:
    r"""
    The line of the manifest for a clip that was not looked at yet.

    Args:
        annotation ([`ClipAnnotation`]): The clip.
        settings ([`PreparationSettings`]): How it is prepared.

    Returns:
        `dict`: `id`, `split`, `source`, `start`, `end`, `annotated_fps` and `bbox` as in the list; `fps`,
        `num_frames`, `size`, `sha256` of the clip; `status` ("complete", "dropped", "failed") and its reason,
        `failure`; `scene_cuts`, `detail_size`, `upscaled`, `skipped_frames` and `warnings`: what was found on the way.
    """
    return {
        "id": annotation.id,
        "split": annotation.split,
        "source": annotation.source,
        "start": annotation.start,
        "end": annotation.end,
        "annotated_fps": annotation.fps,
        "bbox": None if annotation.bbox is None else list(annotation.bbox),
        "fps": None,
        "num_frames": 0,
        "size": settings.size,
        "sha256": None,
        "status": FAILED,
        "failure": None,
        "scene_cuts": [],
        "detail_size": None,
        "upscaled": None,
        "skipped_frames": 0,
        "warnings": [],
    }


def prepare_clip(
    annotation: ClipAnnotation,
    video: Path,
    mask: Path | None,
    settings: PreparationSettings,
    output: Path,
    work_folder: Path,
) -> dict:
    r"""
    Prepares one clip. It appears under its name when it is complete.

    Args:
        annotation ([`ClipAnnotation`]): The clip.
        video (`Path`): Its video.
        mask (`Path`, *optional*): The video of its masks.
        settings ([`PreparationSettings`]): How it is prepared.
        output (`Path`): The video file, or folder of frames, to write; an older one is removed first.
        work_folder (`Path`): Of this clip alone, on the file system of `output`; removed at the end.

    Returns:
        `dict`: The clip's record, see [`make_record`]. A clip that cannot be read is no error but a record.

    Raises:
        OSError: Where nothing can be written any more.
    """
    record = make_record(annotation, settings)
    for leftover in (work_folder, output):  # of a run that was killed
        remove(leftover)
    work_folder.mkdir(parents=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            written = _write_clip(annotation, video, mask, settings, work_folder, record)
        output.parent.mkdir(parents=True, exist_ok=True)
        os.replace(written, output)
        record |= {"status": COMPLETE, "sha256": hash_clip(output)}
        said = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
        record["warnings"] = [message.replace(str(video), annotation.source) for message in said]
    except DroppedClip as reason:
        record |= {"status": DROPPED, "failure": str(reason)}
    except Exception as error:  # whatever is wrong with one video must not stop the others
        if getattr(error, "errno", None) in NO_ROOM or os.strerror(errno.ENOSPC) in str(error):
            raise OSError(f"Cannot write {output}: {error}") from error
        message = str(error).replace(str(video), annotation.source) or type(error).__name__
        record |= {"status": FAILED, "failure": message}
    finally:
        remove(work_folder)
    return record


def frame_range(annotation: ClipAnnotation, frames_per_second: float) -> tuple[int, int | None]:
    r"""
    Which frames of a video are the clip, at the rate that the video has.

    Args:
        annotation ([`ClipAnnotation`]): With or without `start` and `end`.
        frames_per_second (`float`): Of the video.

    Returns:
        `tuple[int, int | None]`: The first frame, and the first one after the clip, None for the video's end.
    """
    if annotation.start is None:
        return 0, None
    if annotation.fps is None:
        factor = Fraction(frames_per_second)
    else:
        # Both rates as the lists were made, rounded to 1/100: with the exact rate of 30000/1001 in place of 29.97
        # clips would begin one frame late.
        factor = Fraction(f"{frames_per_second:.2f}") / Fraction(str(annotation.fps))
    return math.ceil(Fraction(str(annotation.start)) * factor), math.ceil(Fraction(str(annotation.end)) * factor)


def hash_clip(path: Path) -> str:
    r"""SHA-256 of a video file, or of the frames of a folder one after the other."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _write_clip(
    annotation: ClipAnnotation,
    video: Path,
    mask: Path | None,
    settings: PreparationSettings,
    work_folder: Path,
    record: dict,
) -> Path:
    # Fills in the record on the way, so that a clip that is dropped tells as much as was seen of it.
    reader = video_io.VideoReader(video)
    rate = reader.frames_per_second
    start_frame, end_frame = frame_range(annotation, rate)
    if end_frame is not None:
        reader = video_io.VideoReader(video, start_frame=start_frame, num_frames=end_frame - start_frame)
    if mask is not None:
        crops = _masked_crops(reader, video_io.VideoReader(mask), settings.crop == "wide_mask", record)
    else:
        box = _fixed_box(annotation, settings.crop, reader.height, reader.width)
        crops = (cut_out(frame, box) for frame in reader)
    record["fps"] = settings.fps or rate
    thumbnails = []
    with _open_output(work_folder, settings, record["fps"]) as (path, write):
        for crop in _at_rate(crops, rate, settings.fps):
            size = (settings.size, settings.size)
            image = video_io.to_pil(crop).resize(size, RESAMPLINGS[settings.resampling])
            write(image)
            if not thumbnails:
                record["detail_size"] = detail_size(video_io.to_frame(image))
            record["detail_size"] = min(record["detail_size"], *crop.shape[-2:])
            thumbnails.append(make_thumbnail(image))
        record["num_frames"] = len(thumbnails)
        if end_frame is not None and len(thumbnails) < end_frame - start_frame:
            warnings.warn(f"it ends {end_frame - start_frame - len(thumbnails)} frames before the clip", stacklevel=2)
        record["scene_cuts"] = find_scene_cuts(thumbnails)
        record["upscaled"] = bool(thumbnails) and record["detail_size"] < settings.size
        _check_wanted(record, settings)
    return path


def _check_wanted(record: dict, settings: PreparationSettings) -> None:
    if record["num_frames"] < settings.min_frames:
        raise DroppedClip(f"too short: {record['num_frames']} frames of at least {settings.min_frames}")
    if settings.drop_scene_cuts and record["scene_cuts"]:
        raise DroppedClip(f"several shots: new ones begin at frames {', '.join(map(str, record['scene_cuts']))}")
    if settings.drop_upscaled and record["upscaled"]:
        raise DroppedClip(f"upscaled: the detail of {record['detail_size']} pixels")


def _fixed_box(annotation: ClipAnnotation, crop: str, height: int, width: int) -> tuple[int, int, int, int]:
    if crop == "centre":
        return centre_box(height, width)
    return (scaled_box if crop == "scaled_box" else square_box)(annotation, height, width)


def _masked_crops(
    reader: video_io.VideoReader, masks: video_io.VideoReader, is_wide: bool, record: dict
) -> Iterator[torch.Tensor]:
    size = masks.height, masks.width
    if size != (reader.height, reader.width):
        raise ValueError(f"the mask is {size[1]}x{size[0]}, the video {reader.width}x{reader.height}")
    wide = padded_box(union([_extent(mask, index) for index, mask in enumerate(masks)]), *size) if is_wide else None
    if is_wide and wide is None:
        raise ValueError("the square around all its faces begins outside of the picture")
    for index, (frame, mask) in enumerate(zip_longest(reader, masks)):
        if frame is None or mask is None:
            raise ValueError("video and mask have different numbers of frames")
        box = wide or padded_box(_extent(mask, index), *size)
        if box is None:
            record["skipped_frames"] += 1
        else:
            yield cut_out(frame, box)


def _extent(mask: torch.Tensor, index: int) -> tuple[int, int, int, int]:
    extent = mask_extent(mask)
    if extent is None:
        raise ValueError(f"the mask of frame {index} shows no face")
    return extent


def _at_rate(frames: Iterator[torch.Tensor], rate: float, wanted: float | None) -> Iterator[torch.Tensor]:
    # Drops or repeats frames: frame k of the output is the one shown nearest to the time k / wanted.
    num_written = 0
    for index, frame in enumerate(frames):
        while wanted is not None and int(num_written * rate / wanted + 0.5) <= index:
            yield frame
            num_written += 1
        if wanted is None:
            yield frame


@contextlib.contextmanager
def _open_output(
    folder: Path, settings: PreparationSettings, frames_per_second: float
) -> Iterator[tuple[Path, Callable[[Image.Image], None]]]:
    if settings.format in ("mp4", "webdataset"):
        path = folder / "clip.mp4"
        with video_io.VideoWriter(path, frames_per_second, comment=None) as writer:  # recordings
            yield path, lambda image: writer.write(video_io.to_frame(image))
        return
    path, numbers = folder / "frames", iter(range(10**7))
    path.mkdir()
    suffix, options = settings.format, {"quality": settings.jpeg_quality} if settings.format == "jpg" else {}
    yield path, lambda image: image.save(path / f"{next(numbers):07d}.{suffix}", **options)
