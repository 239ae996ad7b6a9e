"""What visitors upload: read with care, refused with a clear message."""

from pathlib import Path

import torch

from .. import video_io


def read_photo(path: str | None) -> torch.Tensor:
    r"""
    Args:
        path (`str`, *optional*): An uploaded photo.

    Returns:
        `torch.Tensor` of shape `(3, H, W)`: What the pipelines are given; they crop and resize it.

    Raises:
        ValueError: Where nothing was uploaded, or no image.
    """
    if path is None:
        raise ValueError("There is no photo yet: upload one, or choose an example below.")
    return video_io.read_image(path)


def open_video(path: str | None, max_seconds: int) -> video_io.VideoReader:
    r"""
    Args:
        path (`str`, *optional*): An uploaded video.
        max_seconds (`int`): Its length at most.

    Returns:
        [`~video_io.VideoReader`]: Whose length is known and allowed.

    Raises:
        ValueError: Where nothing was uploaded, no video, one without motion, or one that is too long.
    """
    if path is None:
        raise ValueError("There is no video yet: upload one, or choose an example below.")
    name = Path(path).name
    max_frames = round(max_seconds * video_io.VideoReader(path).frames_per_second)
    video = video_io.VideoReader(path, num_frames=max_frames + 1)  # no more than these are ever decoded to count
    if len(video) < 2:
        raise ValueError(f"{name} has a single frame, which holds no motion: choose a longer video.")
    if len(video) > max_frames:
        raise ValueError(f"{name} is longer than the {max_seconds} seconds that are allowed here: cut it first.")
    return video
