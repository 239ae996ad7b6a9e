"""What every pipeline of the package returns."""

from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput


@dataclass
class LEOPipelineOutput(BaseOutput):
    r"""
    Args:
        frames (`list[list[PIL.Image.Image]]`, `np.ndarray` or `torch.Tensor`): One clip per entry: lists of images,
            `(B, F, H, W, 3)` in [0, 1] for "np", `(B, F, 3, H, W)` in [0, 1] for "pt"; what was denoised, or the
            motion codes, for "latent".
        motion_codes (`torch.Tensor` of shape `(B, F, M)`): The motion code of every frame, float32.

    Examples:
        ```py
        >>> from PIL import Image
        >>> from leo_diffusers import DEMO_MODEL, LIAPipeline

        >>> pipeline = LIAPipeline.from_pretrained(DEMO_MODEL)
        >>> output = pipeline(Image.open("photo.png"), "driving.mp4")
        >>> output.frames[0][0].size  # the first frame of the first clip
        (128, 128)
        >>> output.motion_codes.shape
        torch.Size([1, 16, 20])
        >>> pipeline(Image.open("photo.png"), "driving.mp4", output_type="np").frames.shape
        (1, 16, 128, 128, 3)
        ```
    """

    frames: list[list[PIL.Image.Image]] | np.ndarray | torch.Tensor
    motion_codes: torch.Tensor | None = None
