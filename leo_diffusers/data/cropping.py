"""The part of the picture that each data set's official script cuts out, as (left, top, right, bottom) in pixels."""

import numpy as np
import torch

from .. import video_io
from .annotations import ClipAnnotation


Box = tuple[int, int, int, int]

SQUARE_MARGIN = 0.02  # of CelebV-HQ, on each side
MASK_THRESHOLD = 5  # of FaceForensics: mean of a row or column of the inverted mask, its three channels added


def centre_box(height: int, width: int) -> Box:
    r"""The central square of a picture."""
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def scaled_box(annotation: ClipAnnotation, height: int, width: int) -> Box:
    r"""
    The box of TaichiHD, VoxCeleb and TED-talks, brought to the size at which the video was downloaded.

    Args:
        annotation ([`ClipAnnotation`]): With `bbox` and `picture_size`.
        height (`int`): Of the video.
        width (`int`): Of the video.

    Raises:
        ValueError: Where the box lies outside of the picture.
    """
    reference_width, reference_height = annotation.picture_size
    left, top, right, bottom = annotation.bbox
    # Rounded down, and cut at the right and the lower border only, as the reference script does.
    left, right = int(left / (reference_width / width)), int(right / (reference_width / width))
    top, bottom = int(top / (reference_height / height)), int(bottom / (reference_height / height))
    return _inside((left, top, min(right, width), min(bottom, height)), annotation.bbox, height, width)


def square_box(annotation: ClipAnnotation, height: int, width: int) -> Box:
    r"""
    The box of CelebV-HQ: given from 0 to 1, widened by a margin, then cut to its central square. Arguments and errors
    are those of [`scaled_box`].
    """
    left, top, right, bottom = annotation.bbox
    top, bottom = (round(min(max(edge, 0), 1) * height) for edge in (top - SQUARE_MARGIN, bottom + SQUARE_MARGIN))
    left, right = (round(min(max(edge, 0), 1) * width) for edge in (left - SQUARE_MARGIN, right + SQUARE_MARGIN))
    half = min(bottom - top, right - left) // 2
    left, top = int((left + right) / 2 - half), int((top + bottom) / 2 - half)
    return _inside((left, top, left + 2 * half, top + 2 * half), annotation.bbox, height, width)


def mask_extent(mask: torch.Tensor) -> Box | None:
    r"""
    Where the mask of a FaceForensics frame is dark, that is, where the face is.

    Args:
        mask (`torch.Tensor` of shape `(3, H, W)`): In [-1, 1].

    Returns:
        `Box` or `None`: First and last column and row, None where there is no face.
    """
    darkness = 255.0 * 3 - video_io.to_uint8(mask).sum(axis=2, dtype=np.float64)  # (H, W)
    columns = np.flatnonzero(darkness.mean(axis=0) > MASK_THRESHOLD)
    rows = np.flatnonzero(darkness.mean(axis=1) > MASK_THRESHOLD)
    if not len(columns) or not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def padded_box(extent: Box, height: int, width: int) -> Box | None:
    r"""
    The crop of FaceForensics: the shorter side of the extent is widened to the longer.

    Args:
        extent (`Box`): Of [`mask_extent`].
        height (`int`): Of the picture.
        width (`int`): Of the picture.

    Returns:
        `Box` or `None`: None where it would begin outside of the picture: the reference scripts leave such frames out.
        One that ends outside is cut there, so that the frame is stretched a little, as theirs is.
    """
    left, top, right, bottom = extent
    padding = abs((bottom - top) - (right - left))
    before, after = padding // 2, padding // 2 + padding % 2
    if right - left < bottom - top:
        left, right = left - before, right + after
    else:
        top, bottom = top - before, bottom + after
    if min(left, top) < 0 or left == right or top == bottom:
        return None
    return left, top, min(right, width), min(bottom, height)


def union(boxes: list[Box]) -> Box:
    r"""The smallest box around all of them."""
    left, top, right, bottom = zip(*boxes)
    return min(left), min(top), max(right), max(bottom)


def cut_out(frame: torch.Tensor, box: Box) -> torch.Tensor:
    r"""The part `box` of a frame of shape `(3, H, W)`, without a copy."""
    left, top, right, bottom = box
    return frame[:, top:bottom, left:right]


def _inside(box: Box, bbox: tuple, height: int, width: int) -> Box:
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"its bbox {bbox} leaves nothing of the {width}x{height} picture: is this the right video?")
    return box
