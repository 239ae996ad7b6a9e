"""Average keypoint distance (AKD) and missing keypoint rate (MKR): whether a rendered person is posed as the real."""

import torch

from .arrays import ArrayLike, as_float64, check_same


MISSING = -1  # both coordinates of a keypoint that a detector did not find


def read_keypoints(real: ArrayLike, fake: ArrayLike) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Keypoints (F, K, 2) of both, and which of them were found, (F, K)."""
    real, fake = as_float64("real", real, "(F, K, 2)"), as_float64("fake", fake, "(F, K, 2)")
    check_same("keypoints", real, fake)
    if real.shape[-1] != 2:
        raise ValueError(f"`real` must have the shape (F, K, 2), got {tuple(real.shape)}.")
    return real, fake, ~(real == MISSING).all(dim=-1), ~(fake == MISSING).all(dim=-1)


def average_keypoint_distance(real: ArrayLike, fake: ArrayLike) -> float:
    r"""
    Mean absolute difference of x and of y (not the Euclidean distance), per frame over the keypoints that were found
    in both, then over the frames that have any (pose-evaluation).

    Args:
        real (array of shape `(F, K, 2)`): Keypoints of real frames, in pixels; missing ones are -1, -1.
        fake (array of shape `(F, K, 2)`): Those of the rendered frames.

    Returns:
        `float`: In pixels; NaN where no keypoint was found in both.

    Raises:
        ValueError: For arrays of other or different shapes, or values that are not finite.
    """
    real, fake, is_real, is_fake = read_keypoints(real, fake)
    is_found = is_real & is_fake
    count = is_found.sum(dim=1)
    sums = ((real - fake).abs().mean(dim=-1) * is_found).sum(dim=1)
    return (sums[count > 0] / count[count > 0]).mean().item()


def missing_keypoint_rate(real: ArrayLike, fake: ArrayLike) -> float:
    r"""
    Share of the real frame's keypoints that are missing in the rendered one, over the frames that have any.

    Args:
        real (array of shape `(F, K, 2)`): Keypoints of real frames, in pixels; missing ones are -1, -1.
        fake (array of shape `(F, K, 2)`): Those of the rendered frames.

    Returns:
        `float`: From 0 to 1; NaN where no real frame has keypoints.

    Raises:
        ValueError: For arrays of other or different shapes, or values that are not finite.
    """
    _, _, is_real, is_fake = read_keypoints(real, fake)
    count = is_real.sum(dim=1)
    missing = (is_real & ~is_fake).sum(dim=1)
    return (missing[count > 0] / count[count > 0].double()).mean().item()
