"""Which square of an upload is used, and where what the model made of it is put back."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import gradio as gr
import numpy as np
import torch
import torch.nn.functional as F

from .. import video_io
from ..pipelines.cropping import NUM_LOOKS, Background
from ..video_io.faces import SMALLEST_SHARE, Box
from ..video_io.squares import Square, centre_square
from .components import AT_ONCE, PageParts
from .inputs import open_video, read_photo


BACKGROUND_SIDE = 1280  # pixels: browsers stutter at the size of photos
VIEW_HEIGHT = 170  # pixels


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

    @property
    def is_whole(self) -> bool:
        r"""Whether the model sees all of it."""
        return tuple(self.photo.shape[-2:]) == (self.square.side, self.square.side)

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


def crop_view(name: str) -> gr.Image:
    r"""A field for [`show_crop`], below an upload."""
    return gr.Image(
        label="What the model sees",
        height=VIEW_HEIGHT,
        interactive=False,
        visible=False,
        format="png",
        buttons=[],
        elem_id=f"{name}-view",
    )


def show_crop(
    parts: PageParts,
    view: gr.Image,
    upload: gr.Image | gr.Video,
    crop: gr.Radio,
    look: Callable[[str, str, int], CroppedPhoto],
) -> None:
    r"""
    Shows what the model sees of an upload, where that is not all of it, as soon as file and crop are chosen.

    Args:
        parts ([`PageParts`]): Of the page.
        view (`gradio.Image`): A [`crop_view`].
        upload (`gradio.Image` or `gradio.Video`): Whose file it is.
        crop (`gradio.Radio`): A [`crop_field`].
        look (`Callable`): [`crop_photo`], or what does the same with a video.
    """

    def show(request: gr.Request, path: str | None, crop: str) -> gr.Image:
        if path is None:
            return gr.Image(None, visible=False)
        with parts.sessions.job(request, "view") as job:
            seen = look(path, crop, parts.studio.frame_size)
            if seen.is_whole:
                return gr.Image(None, visible=False)
            file = job.session.new_file("view", ".png")
            video_io.write_image(file, seen.frame)
            return gr.Image(str(file), visible=True)

    gr.on([upload.change, crop.input], show, [upload, crop], view, **AT_ONCE)


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


def crop_first_frame(path: str, crop: str, frame_size: int, max_seconds: int) -> CroppedPhoto:
    r"""The first frame of a video, as [`crop_photo`] has a photo, with the square of the whole video."""
    video = open_video(path, max_seconds)
    frame, square = next(iter(video)), video_square(video, crop)
    return CroppedPhoto(video_io.to_frame(frame, frame_size, square), frame, square)


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
