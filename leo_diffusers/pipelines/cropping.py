"""Which square of pictures and videos the animator sees, and where what it made is put back."""

import itertools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from .. import video_io
from ..video_io.faces import FaceDetector
from ..video_io.images import to_pixels
from ..video_io.squares import Square, centre_square


Image = PIL.Image.Image | np.ndarray | torch.Tensor
DrivingVideo = str | Path | video_io.VideoReader | Iterable
Crop = str | FaceDetector

CROPS = ("auto", "center", "none")
NUM_LOOKS = 16  # frames of a video in which faces are looked for


def check_crop(crop: Crop, paste_back: bool, output_type: str) -> None:
    r"""Refuses an unknown `crop`, and to put back what is not rendered."""
    if crop not in CROPS and not callable(crop):
        raise ValueError(f"`crop` must be one of {CROPS}, or a function that finds faces, got {crop!r}.")
    if paste_back and output_type == "latent":
        raise ValueError('`paste_back` needs frames, and `output_type="latent"` renders none: leave one of them out.')


def find_image_square(image: Image, crop: Crop) -> Square | None:
    r"""
    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): See [`~video_io.to_frame`].
        crop (`str` or `Callable`): "auto" for a square around the face, by OpenCV; a function that finds faces (see
            [`~video_io.load_face_detector`]) for the same by another detector; "center"; or "none", which refuses what
            is not square.

    Returns:
        [`~video_io.Square`] or `None`: None for the central square, about which [`~video_io.to_frame`] warns.

    Raises:
        ValueError: Where nothing may be cropped, but must be.
    """
    if crop == "center":
        return None
    frame = video_io.to_frame(image)
    return _find_square("The image", *frame.shape[-2:], [frame], crop)


def find_video_square(video: DrivingVideo, crop: Crop) -> tuple[DrivingVideo, Square | None]:
    r"""
    One square for all frames of a video, in constant memory: of a file, frames spread over its length are looked at,
    of an iterator, its first ones.

    Args:
        video (`str`, `Path`, [`~video_io.VideoReader`] or iterable): A file, or frames.
        crop (`str` or `Callable`): As of [`find_image_square`].

    Returns:
        `tuple`: The video, to be read in place of `video`, which may be an iterator, and the square.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where it cannot be read, or may not be cropped, but must be.
    """
    if crop == "center":
        return video, None
    if isinstance(video, (str, Path, video_io.VideoReader)):
        reader = video if isinstance(video, video_io.VideoReader) else video_io.VideoReader(video)
        return video, _find_square(str(reader.path), reader.height, reader.width, reader.spread(NUM_LOOKS), crop)
    if hasattr(video, "__len__") and hasattr(video, "__getitem__"):
        looks = [video[index] for index in range(0, len(video), max(1, -(-len(video) // NUM_LOOKS)))]
    else:
        frames = iter(video)
        looks = list(itertools.islice(frames, NUM_LOOKS))
        video = itertools.chain(looks, frames)
    if not looks:  # refused where the video is read
        return video, None
    return video, _find_square(
        "The video", *video_io.to_frame(looks[0]).shape[-2:], map(video_io.to_frame, looks), crop
    )


def _find_square(name: str, height: int, width: int, frames: Iterable[torch.Tensor], crop: Crop) -> Square:
    if crop == "none":
        if height != width:
            raise ValueError(
                f'{name} is {width}x{height}, and `crop="none"` takes square ones only: crop it, or pass "auto" or '
                '"center".'
            )
        return centre_square(height, width)
    square = centre_square(height, width)
    used = f"its central {square.side}x{square.side} square is used"
    try:
        detector = video_io.load_face_detector() if crop == "auto" else crop
    except ImportError as error:
        warnings.warn(f"{name} is not searched for faces, and {used}: {error}.", UserWarning, stacklevel=4)
        return square
    found = video_io.find_face_square(frames, detector, name)
    if found is None:
        message = f"{name} is {width}x{height} and shows no face that was found, so {used}: crop it to choose another."
        warnings.warn(message, UserWarning, stacklevel=4)
    return found or square


def fit_edited_frame(
    edited_frame: Image, frame_size: int, first: Image | None = None, square: Square | None = None
) -> PIL.Image.Image:
    r"""
    A frame that was edited elsewhere, at the animator's size; a warning says where it had another one.

    Args:
        edited_frame (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): The edited frame: as large as `first`, or
            the square that was cut out of it.
        frame_size (`int`): Side of the animator's frames.
        first (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`, *optional*): The video's frame.
        square ([`~video_io.Square`], *optional*): The part of `first` that is used, instead of the central one.

    Returns:
        `PIL.Image.Image`: The edited square.

    Raises:
        ValueError: Where `edited_frame` is neither, or could be either.
    """
    height, width = to_pixels(edited_frame).shape[:2]
    if square is not None:
        video_size = to_pixels(first).shape[:2]
        is_whole = (height, width) == video_size
        found = f"`edited_frame` is {width}x{height}, the video {video_size[1]}x{video_size[0]}"
        if not is_whole and height != width:
            raise ValueError(f"{found}: edit a frame of the video's size, or the square of `edit_first_frame`.")
        if is_whole and height == width == frame_size and square.side < width:
            raise ValueError(
                f"{found} and the animator's frames too: it may be all of a frame, or the square of "
                '`edit_first_frame`. Pass `crop="center"`, for all of it.'
            )
        if is_whole:
            return video_io.to_pil(video_io.to_frame(edited_frame, frame_size, square))
    if min(height, width) != frame_size:
        warnings.warn(
            f"`edited_frame` is {width}x{height}: it is resized to {frame_size}x{frame_size}, the animator's frames.",
            UserWarning,
            stacklevel=3,
        )
    return video_io.to_pil(video_io.to_frame(edited_frame, frame_size))


@dataclass
class Background:
    r"""
    The pictures that rendered squares are put back into.

    Args:
        pictures (`Iterator` of `torch.Tensor` of shape `(3, H, W)`): One for every frame, in [-1, 1].
        square ([`~video_io.Square`]): Where.
    """

    pictures: Iterator[torch.Tensor]
    square: Square

    @classmethod
    def of_image(cls, image: Image, square: Square | None) -> "Background":
        r"""A still picture, and its square as of [`find_image_square`]."""
        picture = video_io.to_frame(image).cpu()
        return cls(itertools.repeat(picture), square or centre_square(*picture.shape[-2:]))

    @classmethod
    def of_video(cls, video: DrivingVideo, first: Image, square: Square | None) -> "Background":
        r"""A video, which is read along, its first frame, and its square as of [`find_video_square`]."""
        frames = video_io.VideoReader(video) if isinstance(video, (str, Path)) else video
        size = video_io.to_frame(first).shape[-2:]
        return cls((video_io.to_frame(frame).cpu() for frame in frames), square or centre_square(*size))

    def paste(self, frames: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        r"""Frames (3, S, S) in about [-1, 1] -> pictures (3, H, W) with them in their place."""
        for frame in frames:
            patch = video_io.to_frame(frame.clamp(-1, 1), self.square.side)
            yield self.square.paste(next(self.pictures), patch)
