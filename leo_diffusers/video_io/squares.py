"""Squares of a picture: where they lie, cutting them out, putting them back."""

from dataclasses import dataclass

import numpy as np
import torch


FEATHER = 1 / 10  # of the side: a narrower seam shows as a line, a wider one mixes the face with what it covers


@dataclass(frozen=True)
class Square:
    r"""
    A square part of a picture, in pixels of the picture as it is shown (turned by its EXIF tag or rotation).

    Args:
        top (`int`): First row.
        left (`int`): First column.
        side (`int`): Number of rows and of columns.

    Examples:
        ```py
        >>> from leo_diffusers.video_io import Square, VideoReader

        >>> left_part = Square(top=30, left=0, side=150)
        >>> reader = VideoReader("interview.mp4", square=left_part)
        >>> reader.source_width, reader.width
        (320, 150)
        ```
    """

    top: int
    left: int
    side: int

    def check(self, name: str, height: int, width: int) -> None:
        r"""Refuses a square that does not lie inside of the picture `name`."""
        is_inside = 0 <= self.top <= height - self.side and 0 <= self.left <= width - self.side
        if self.side < 1 or not is_inside:
            raise ValueError(f"{name} is {width}x{height}, and {self} does not lie inside of it: choose another.")

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        r"""The part of a picture of shape `(H, W, C)`, without a copy."""
        self.check("The image", *pixels.shape[:2])
        return pixels[self.top : self.top + self.side, self.left : self.left + self.side]

    def paste(self, picture: torch.Tensor, patch: torch.Tensor) -> torch.Tensor:
        r"""
        Puts a patch into the square's place. At the square's border it fades into the picture, but not where that is
        the picture's border too; no pixel outside of the square changes.

        Args:
            picture (`torch.Tensor` of shape `(3, H, W)`): In [-1, 1].
            patch (`torch.Tensor` of shape `(3, side, side)`): In [-1, 1].

        Returns:
            `torch.Tensor` of shape `(3, H, W)`: A new picture.

        Raises:
            ValueError: Where the square does not lie inside of the picture, or the patch has another size.
        """
        height, width = picture.shape[-2:]
        self.check("The picture", height, width)
        if patch.shape[-2:] != (self.side, self.side):
            found = "x".join(map(str, patch.shape[:-3:-1]))
            raise ValueError(f"`patch` is {found}, but the square has a side of {self.side}: resize it.")
        weights = self._fade(self.top, height)[:, None] * self._fade(self.left, width)  # (side, side), 1 = patch
        result = picture.clone()
        part = result[:, self.top : self.top + self.side, self.left : self.left + self.side]
        part.copy_(torch.lerp(part, patch.to(part), weights.to(part)))
        return result

    def _fade(self, start: int, size: int) -> torch.Tensor:
        # Weight of the patch along one axis: a cosine ramp at each end that lies inside of the picture.
        steps = (torch.arange(self.side) + 0.5) / (FEATHER * self.side)
        ramp = (1 - torch.cos(torch.pi * steps.clamp(max=1))) / 2
        weights = torch.ones(self.side)
        if start > 0:
            weights = weights * ramp
        if start + self.side < size:
            weights = weights * ramp.flip(0)
        return weights


def centre_square(height: int, width: int) -> Square:
    r"""
    The central square of a picture, as large as it fits.

    Examples:
        ```py
        >>> from leo_diffusers.video_io import centre_square

        >>> centre_square(height=180, width=320)
        Square(top=0, left=70, side=180)
        ```
    """
    side = min(height, width)
    return Square((height - side) // 2, (width - side) // 2, side)
