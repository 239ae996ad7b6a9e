"""Flat polygons, the only thing a synthetic talking head is made of, and how they become frames."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw


RGB = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Layer:
    r"""
    One polygon that moves through a clip.

    Args:
        points (`np.ndarray` of shape `(F, N, 2)`): Corners (x, y) in pixels of the large canvas.
        color (`tuple` of `int`): RGB, or RGBA for a see-through layer; 0 to 255.
        visible (`np.ndarray` of shape `(F,)`, *optional*): Boolean; frames in which the layer is drawn.
    """

    points: np.ndarray
    color: tuple[int, ...]
    visible: np.ndarray | None = None


def mix(first: RGB, second: RGB, amount: float) -> RGB:
    r"""
    Blends two colours.

    Args:
        first (`tuple` of `int`): RGB, 0 to 255.
        second (`tuple` of `int`): RGB, 0 to 255.
        amount (`float`): Share of `second`, 0 to 1.

    Returns:
        `tuple` of `int`: RGB, 0 to 255.
    """
    return tuple(round(a + (b - a) * amount) for a, b in zip(first, second))


def supersampling(size: int) -> int:
    r"""
    How many canvas pixels make one side of a frame pixel.

    Args:
        size (`int`): Side of the frame in pixels.

    Returns:
        `int`: 2 to 4.
    """
    # Pillow rounds corners to whole pixels: small frames need a finer canvas or slow motion would tick.
    if size <= 96:
        return 4
    return 3 if size <= 192 else 2


def paint(layers: list[Layer], background: Image.Image, num_frames: int, size: int) -> np.ndarray:
    r"""
    Draws the layers, first to last, on a still background.

    Args:
        layers (`list` of `Layer`): The polygons, those behind first.
        background (`PIL.Image.Image`): RGB, `size * supersampling(size)` pixels a side.
        num_frames (`int`): Number F of frames.
        size (`int`): Side of the frames in pixels.

    Returns:
        `np.ndarray` of shape `(F, size, size, 3)` and type uint8.
    """
    # Pillow reads float32 buffers without making Python numbers of them. It truncates, hence the half pixel.
    corners = [np.ascontiguousarray(layer.points + 0.5, dtype=np.float32) for layer in layers]
    frames = np.empty((num_frames, size, size, 3), dtype=np.uint8)
    for frame_index in range(num_frames):
        canvas = background.copy()
        opaque, blended = ImageDraw.Draw(canvas), ImageDraw.Draw(canvas, "RGBA")
        for layer, points in zip(layers, corners):
            if layer.visible is None or layer.visible[frame_index]:
                draw = opaque if len(layer.color) == 3 else blended
                draw.polygon(points[frame_index], fill=layer.color)
        frames[frame_index] = np.asarray(canvas.reduce(supersampling(size)))
    return frames
