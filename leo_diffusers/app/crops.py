"""Which square of an upload the model sees, and where what it made of it is put back."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import gradio as gr
import numpy as np
import torch
import torch.nn.functional as F

from .. import video_io
from ..pipelines.cropping import Background, Crop, find_image_square, find_video_square
from ..video_io.faces import Box
from ..video_io.squares import Square, centre_square
from .inputs import read_photo


BACKGROUND_SIDE = 1280  # pixels: browsers stutter at the size of photos


class FaceFinder:
    r"""The detector of `crop="auto"`, which remembers whether it found anything."""

    def __init__(self):
        self.detect = video_io.load_face_detector()
        self.has_found = False

    def __call__(self, picture: np.ndarray) -> list[Box]:
        boxes = self.detect(picture)
        self.has_found |= len(boxes) > 0
        return boxes


def crop_field(name: str) -> gr.Radio:
    r"""What is used of an upload; faces are looked for where a detector is installed."""
    choices = [("Around the face", "auto"), ("The centre", "center"), ("All of it, which must be square", "none")]
    try:
        video_io.load_face_detector()
    except ImportError:
        del choices[0]
    return gr.Radio(
        choices,
        value=choices[0][1],
        label="Crop",
        info="The square that the model sees of a picture.",
        elem_id=f"{name}-crop",
    )


def paste_field(name: str, picture: str) -> gr.Checkbox:
    r"""Whether the result goes back into the `picture` that the square is of."""
    return gr.Checkbox(
        label=f"Put back into the {picture}",
        info=f"Shows the result inside of the whole {picture}.",
        elem_id=f"{name}-paste",
    )


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
        r"""
        Frames (3, S, S) in [-1, 1] -> the photo with them in their place, made smaller where no browser could play a
        video of its size.
        """
        scale = min(1.0, BACKGROUND_SIDE / max(self.photo.shape[-2:]))
        size = [round(scale * side) for side in self.photo.shape[-2:]]
        picture = F.interpolate(self.photo[None], size, mode="bicubic", antialias=True)[0].clamp(-1, 1)
        side = min(max(1, round(scale * self.square.side)), *size)
        corner = (self.square.top, self.square.left)
        top, left = (min(round(scale * start), length - side) for start, length in zip(corner, size))
        return Background(itertools.repeat(picture), Square(top, left, side)).paste(frames)


def crop_photo(path: str | None, crop: str, frame_size: int) -> CroppedPhoto:
    r"""
    Args:
        path (`str`, *optional*): An uploaded photo.
        crop (`str`): The value of a [`crop_field`].
        frame_size (`int`): Side of what the model sees.

    Returns:
        [`CroppedPhoto`]: A message tells the visitor where no face was found.

    Raises:
        ValueError: As of [`read_photo`]; for "none", of a photo that is not square.
    """
    photo = read_photo(path)
    square = _find_square("photo", *photo.shape[-2:], lambda crop: find_image_square(photo, crop), crop)
    return CroppedPhoto(video_io.to_frame(photo, frame_size, square), photo, square)


def video_square(video: video_io.VideoReader, crop: str) -> Square:
    r"""The square of [`crop_photo`] of a video: one for all frames."""
    return _find_square("video", video.height, video.width, lambda crop: find_video_square(video, crop)[1], crop)


def _find_square(name: str, height: int, width: int, find: Callable[[Crop], Square | None], crop: str) -> Square:
    if crop != "auto":
        return find(crop) or centre_square(height, width)
    finder = FaceFinder()
    square = find(finder)
    if not finder.has_found and height != width:
        gr.Warning(f"No face was found in the {name}: its centre is used.")
    return square
