"""Which square of an upload is used, and where what the model made of it is put back."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import gradio as gr
import numpy as np
import torch
import torch.nn.functional as F

from .. import video_io
from ..pipelines.cropping import NUM_LOOKS, Background
from ..video_io.faces import SMALLEST_SHARE, Box
from ..video_io.squares import Square, centre_square
from .inputs import read_photo


BACKGROUND_SIDE = 1280  # pixels: browsers stutter at the size of photos


@dataclass(frozen=True)
class Cropping:
    r"""
    What visitors choose.

    Args:
        crop (`str`): "auto", "center" or "none", as of the pipelines.
        paste_back (`bool`): Whether the result goes back into the picture.
    """

    crop: str
    paste_back: bool = False


@dataclass
class CroppedPhoto:
    r"""
    A photo, and what of it the model sees.

    Args:
        frame (`torch.Tensor` of shape `(3, S, S)`): What the model sees, in [-1, 1].
        photo (`torch.Tensor` of shape `(3, H, W)`): All of it.
        square ([`Square`]): Where the frame is in it.
    """

    frame: torch.Tensor
    photo: torch.Tensor
    square: Square

    def paste(self, frames: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        r"""Frames (3, S, S) in [-1, 1] -> the photo with them in their place."""
        return paste_into(itertools.repeat(shrink(self.photo)), self.photo.shape[-2:], self.square, frames)


class FaceFinder:
    r"""The face detector, which counts the pictures with several faces."""

    def __init__(self):
        self.detect = video_io.load_face_detector()
        self.num_pictures, self.num_crowded = 0, 0

    def __call__(self, picture: np.ndarray) -> list[Box]:
        boxes = self.detect(picture)
        self.num_pictures += 1
        self.num_crowded += len(boxes) > 1
        return boxes


def crop_field(name: str) -> gr.Radio:
    r"""What is used of an upload; faces are looked for where a detector is installed."""
    choices = [("Around the face", "auto"), ("The centre", "center"), ("All of it, if it is square", "none")]
    try:
        video_io.load_face_detector()
    except ImportError:
        del choices[0]
    return gr.Radio(
        choices,
        value=choices[0][1],
        label="Crop",
        info="The part of an upload that is used, always a square.",
        elem_id=f"{name}-crop",
    )


def paste_field(name: str, picture: str) -> gr.Checkbox:
    r"""Whether the result goes back into the `picture` that the square is of."""
    return gr.Checkbox(
        label=f"Put back into the {picture}",
        info="What is around the square stays as it is.",
        elem_id=f"{name}-paste",
    )


def crop_photo(path: str | None, crop: str, frame_size: int) -> CroppedPhoto:
    r"""
    Args:
        path (`str`, *optional*): An uploaded photo.
        crop (`str`): The value of a [`crop_field`].
        frame_size (`int`): Side of what the model sees.

    Returns:
        [`CroppedPhoto`]: A message tells the visitor where no face was found, or several.

    Raises:
        ValueError: As of [`read_photo`]; for "none", of a photo that is not square.
    """
    photo = read_photo(path)
    square = choose_square("photo", *photo.shape[-2:], [photo], crop)
    return CroppedPhoto(video_io.to_frame(photo, frame_size, square), photo, square)


def video_square(video: video_io.VideoReader, crop: str) -> Square:
    r"""The square of [`crop_photo`] of a video: one for all frames."""
    return choose_square("video", video.height, video.width, video.spread(NUM_LOOKS), crop)


def choose_square(name: str, height: int, width: int, frames: Iterable[torch.Tensor], crop: str) -> Square:
    r"""The square of a photo or video by some of its frames, which are read only where faces are looked for."""
    if crop == "none" and height != width:
        raise ValueError(f"The {name} is {width}x{height} pixels and not square: choose another Crop in Settings.")
    if crop != "auto":
        return centre_square(height, width)
    finder = FaceFinder()
    square = video_io.find_face_square(frames, finder, f"The {name}")
    if square is None and height != width:
        gr.Warning(f"No face was found in the {name}: its centre is used.")
    if square is not None and finder.num_crowded >= SMALLEST_SHARE * finder.num_pictures:
        gr.Warning(f"There are several faces in the {name}: the largest is used.")
    return square or centre_square(height, width)


def shrink(picture: torch.Tensor) -> torch.Tensor:
    r"""A picture (3, H, W), made smaller where no browser could play a video of its size."""
    size = shrunk_size(*picture.shape[-2:])
    if size == tuple(picture.shape[-2:]):
        return picture
    return F.interpolate(picture[None], size, mode="bicubic", antialias=True)[0].clamp(-1, 1)


def shrunk_size(height: int, width: int) -> tuple[int, int]:
    r"""Height and width of a picture after [`shrink`]."""
    scale = min(1.0, BACKGROUND_SIDE / max(height, width))
    return round(scale * height), round(scale * width)


def paste_into(
    pictures: Iterator[torch.Tensor], size: tuple[int, int], square: Square, frames: Iterable[torch.Tensor]
) -> Iterator[torch.Tensor]:
    r"""
    Args:
        pictures (`Iterator` of `torch.Tensor` of shape `(3, h, w)`): After [`shrink`], one for every frame.
        size (`tuple[int, int]`): Height and width before.
        square ([`Square`]): A part of the pictures before.
        frames (iterable of `torch.Tensor` of shape `(3, S, S)`): In [-1, 1].

    Returns:
        `Iterator` of `torch.Tensor` of shape `(3, h, w)`: The pictures with the frames in their place.
    """
    height, width = shrunk_size(*size)
    scale = height / size[0]
    side = min(max(1, round(scale * square.side)), height, width)
    top, left = min(round(scale * square.top), height - side), min(round(scale * square.left), width - side)
    return Background(pictures, Square(top, left, side)).paste(frames)
