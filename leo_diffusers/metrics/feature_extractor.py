"""What extractors of features have in common: frames as they come are checked, and brought to a network's size."""

import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

from .protocols import quantize


RANGE_TOLERANCE = 1e-3  # of floats around [-1, 1], for the rounding of networks in half precision


def read_frames(name: str, frames: torch.Tensor | np.ndarray, shape: str) -> torch.Tensor:
    r"""
    Frames as every extractor takes them.

    Args:
        name (`str`): Of the argument, for messages.
        frames (`torch.Tensor` or `np.ndarray`): RGB, 8-bit or floats in [-1, 1].
        shape (`str`): What it must be: "(F, 3, H, W)" or "(B, F, 3, H, W)".

    Returns:
        `torch.Tensor`: 8-bit, or float32 in [-1, 1].

    Raises:
        ValueError: For another shape, type or range, and NaN.
    """
    frames = torch.as_tensor(frames)
    if frames.ndim != shape.count(",") + 1 or frames.shape[-3] != 3 or frames.numel() == 0:
        raise ValueError(f"`{name}` must have the shape {shape}, got {tuple(frames.shape)}.")
    if frames.dtype == torch.uint8:
        return frames
    if not frames.is_floating_point():
        raise ValueError(f"`{name}` must be 8-bit (uint8) or floats in [-1, 1], got {frames.dtype}.")
    frames = frames.float()
    low, high = (bound.item() for bound in frames.aminmax())
    if not -1 - RANGE_TOLERANCE <= low <= high <= 1 + RANGE_TOLERANCE:  # NaN fails this too
        raise ValueError(f"`{name}` must lie in [-1, 1] where they are floats, got {low:g} to {high:g}.")
    return frames.clamp(-1, 1)


def to_signed(frames: torch.Tensor) -> torch.Tensor:
    r"""Frames of `read_frames` -> float32 in [-1, 1]."""
    return frames.float() / 127.5 - 1 if frames.dtype == torch.uint8 else frames


def to_8bit(frames: torch.Tensor) -> torch.Tensor:
    r"""Frames of `read_frames` -> uint8, rounded to the nearest."""
    return frames if frames.dtype == torch.uint8 else quantize(frames, "nearest")


def pillow_resize(frames: torch.Tensor, size: tuple[int, int], resampling: Image.Resampling) -> torch.Tensor:
    r"""8-bit frames (F, 3, H, W) -> 8-bit frames of `size`, height and width: anti-aliased, each step rounded."""
    images = [Image.fromarray(frame) for frame in frames.permute(0, 2, 3, 1).cpu().numpy()]
    resized = np.stack([np.asarray(image.resize(size[::-1], resampling)) for image in images])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).to(frames.device)


def resize_and_crop(frames: torch.Tensor, size: int) -> torch.Tensor:
    r"""Frames (F, 3, H, W) -> their shorter side made `size`, not anti-aliased, and the middle square cut (DIGAN)."""
    height, width = frames.shape[-2:]
    shorter = min(height, width)
    target = [size if side == shorter else math.ceil(side * size / shorter) for side in (height, width)]
    resized = F.interpolate(frames, target, mode="bilinear", align_corners=False)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return resized[..., top : top + size, left : left + size]


def normalize(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    r"""Frames (F, 3, H, W) -> colours less `mean`, over `std`."""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (mean, std))
    return (pixels - mean) / std


class FeatureExtractor(nn.Module):
    r"""
    What all extractors share: a frozen network and the hash of its weights. Any callable that gives features (N, D)
    can take an extractor's place.

    Args:
        network (`nn.Module`): What reads prepared frames.
        weights_hash (`str`): The SHA-256 of its weights' file, for results.
    """

    def __init__(self, network: nn.Module, weights_hash: str):
        super().__init__()
        self.network = network.eval()
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        self.weights_hash = weights_hash
        # Moves with the network, and tells where it is: a TorchScript file need not have parameters.
        self.register_buffer("place", torch.empty(0), persistent=False)

    def train(self, mode: bool = True) -> "FeatureExtractor":
        r"""Changes nothing: an extractor is never trained."""
        return self

    def read(self, name: str, frames: torch.Tensor | np.ndarray, shape: str) -> torch.Tensor:
        r"""`read_frames`, brought to where the network is."""
        return read_frames(name, frames, shape).to(self.place.device)
