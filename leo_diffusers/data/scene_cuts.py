"""Where a clip jumps from one shot to another: no motion leads from the frame before to the frame after."""

import numpy as np
from PIL import Image


THUMBNAIL_SIZE = 16
# Of 255. Between shots of different footage 40 and more, within a shot of real talking heads, Tai Chi and speakers 8.
SMALLEST_CUT = 12.0
CUT_OVER_MOTION = 4.0  # a cut stands out from the motion around it, a fast pan does not
WINDOW = 8  # frames to either side


def make_thumbnail(image: Image.Image) -> np.ndarray:
    r"""
    What [`find_scene_cuts`] needs to know of a frame.

    Args:
        image (`PIL.Image.Image`): Of mode "RGB".

    Returns:
        `np.ndarray` of shape `(16, 16, 3)`, uint8.
    """
    return np.asarray(image.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BOX))


def find_scene_cuts(thumbnails: list[np.ndarray]) -> list[int]:
    r"""
    Args:
        thumbnails (`list[np.ndarray]`): One per frame, of [`make_thumbnail`].

    Returns:
        `list[int]`: The first frame after each cut. Slow fades are not found.
    """
    if len(thumbnails) < 2:
        return []
    steps = np.abs(np.diff(np.stack(thumbnails).astype(np.float32), axis=0)).mean(axis=(1, 2, 3))  # (F - 1,)
    cuts = []
    for index in np.flatnonzero(steps >= SMALLEST_CUT):
        motion = np.median(steps[max(0, index - WINDOW) : index + WINDOW + 1])
        if steps[index] >= CUT_OVER_MOTION * motion:
            cuts.append(int(index) + 1)
    return cuts
