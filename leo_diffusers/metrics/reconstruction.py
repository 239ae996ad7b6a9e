"""How near a rendered video is to the real one, frame by frame: L1 and LPIPS (LIA Table I)."""

from collections.abc import Callable

import torch

from .arrays import ArrayLike, as_float64, check_same


CHUNK = 16  # frames that a network sees at once
FARTHEST = 10  # that a network's frames may lie from 0: beyond are 8-bit values, or a network that has diverged


def read_video_pair(real: ArrayLike, fake: ArrayLike) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Frames (F, 3, H, W) of both; the rendered ones cut to [-1, 1], as a file would cut what overshoots."""
    real, fake = as_float64("real", real, "(F, 3, H, W)"), as_float64("fake", fake, "(F, 3, H, W)")
    check_same("frames", real, fake)
    if real.shape[1] != 3:
        raise ValueError(f"`real` must have the shape (F, 3, H, W), got {tuple(real.shape)}.")
    if real.abs().max() > 1:
        raise ValueError(f"`real` must lie in [-1, 1], got {real.min():g} to {real.max():g}.")
    if fake.abs().max() > FARTHEST:
        raise ValueError(f"`fake` must be frames in about [-1, 1], got {fake.min():g} to {fake.max():g}.")
    return real, fake.clamp(-1, 1)


def average_l1_distance(real: ArrayLike, fake: ArrayLike) -> float:
    r"""
    Mean absolute difference of pixels in [0, 1]. A data set's number is the mean over its videos (LIA), not over
    their frames (FOMM).

    Args:
        real (array of shape `(F, 3, H, W)`): Frames of a real video in [-1, 1].
        fake (array of shape `(F, 3, H, W)`): The rendered ones.

    Returns:
        `float`: From 0 to 1.

    Raises:
        ValueError: For arrays of other or different shapes or another range, and values that are not finite.

    Examples:
        ```py
        >>> from leo_diffusers.metrics import average_l1_distance
        >>> from leo_diffusers.video_io import read_video

        >>> real = read_video("driving.mp4")
        >>> average_l1_distance(real, real)
        0.0
        >>> copied = average_l1_distance(real, real[:1].expand_as(real))  # of the first frame, shown again and again
        ```
    """
    real, fake = read_video_pair(real, fake)
    return (real - fake).abs().mean().item() / 2


@torch.no_grad()
def average_perceptual_distance(
    real: ArrayLike, fake: ArrayLike, network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> float:
    r"""
    LPIPS: the mean over frames of a network's distance of two pictures.

    Args:
        real (array of shape `(F, 3, H, W)`): Frames of a real video in [-1, 1].
        fake (array of shape `(F, 3, H, W)`): The rendered ones.
        network (`Callable`): [`LPIPS`], which LIA takes, or any function of two batches in [-1, 1] that gives one
            number per frame.

    Returns:
        `float`: At least 0.

    Raises:
        ValueError: As of [`average_l1_distance`], and where the network gives another number of values, or NaN.

    Examples:
        ```py
        >>> from leo_diffusers.metrics import average_perceptual_distance
        >>> from leo_diffusers.video_io import read_video

        >>> def mean_square(real, fake):  # in the place of LPIPS, which needs weights
        ...     return (real - fake).square().mean(dim=(1, 2, 3))
        >>> real = read_video("driving.mp4")
        >>> average_perceptual_distance(real, real, mean_square)
        0.0
        ```
    """
    real, fake = read_video_pair(real, fake)
    pairs = zip(real.float().split(CHUNK), fake.float().split(CHUNK))
    distances = torch.cat([network(ours, theirs).flatten() for ours, theirs in pairs])
    if len(distances) != len(real):
        raise ValueError(f"`network` must give one number per frame: {len(real)}, got {len(distances)}.")
    return as_float64("network(real, fake)", distances, "(F)").mean().item()
