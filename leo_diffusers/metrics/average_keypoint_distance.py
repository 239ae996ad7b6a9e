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


def keypoint_distances(real: ArrayLike, fake: ArrayLike) -> torch.Tensor:
    r"""What [`average_keypoint_distance`] is the mean of: (F,), NaN where no keypoint was found in both frames."""
    real, fake, is_real, is_fake = read_keypoints(real, fake)
    is_found = is_real & is_fake
    return ((real - fake).abs().mean(dim=-1) * is_found).sum(dim=1) / is_found.sum(dim=1)


def missing_keypoints(real: ArrayLike, fake: ArrayLike) -> torch.Tensor:
    r"""What [`missing_keypoint_rate`] is the mean of: (F,), NaN where the real frame has no keypoints."""
    _, _, is_real, is_fake = read_keypoints(real, fake)
    return (is_real & ~is_fake).sum(dim=1).double() / is_real.sum(dim=1)


def average_keypoint_distance(real: ArrayLike, fake: ArrayLike) -> float:
    r"""
    Mean absolute difference of x and of y (not the Euclidean distance), per frame over the keypoints that were found
    in both, then over the frames that have any (pose-evaluation). A data set's number is the mean over the frames of
    all its videos, of 256 x 256 pixels each.

    Args:
        real (array of shape `(F, K, 2)`): Keypoints of real frames, in pixels; missing ones are -1, -1.
        fake (array of shape `(F, K, 2)`): Those of the rendered frames.

    Returns:
        `float`: In pixels; NaN where no keypoint was found in both.

    Raises:
        ValueError: For arrays of other or different shapes, or values that are not finite.

    Examples:
        ```py
        >>> import numpy as np
        >>> from leo_diffusers.metrics import average_keypoint_distance

        >>> real = np.array([[[10.0, 20.0], [30.0, 40.0]]])  # one frame of two keypoints
        >>> fake = np.array([[[14.0, 20.0], [-1.0, -1.0]]])  # the second was not found
        >>> average_keypoint_distance(real, fake)  # of 4 and 0 pixels
        2.0
        ```
    """
    return keypoint_distances(real, fake).nanmean().item()


def missing_keypoint_rate(real: ArrayLike, fake: ArrayLike) -> float:
    r"""
    Share of the real frame's keypoints that are missing in the rendered one, over the frames that have any: of a data
    set those of all its videos.

    Args:
        real (array of shape `(F, K, 2)`): Keypoints of real frames, in pixels; missing ones are -1, -1.
        fake (array of shape `(F, K, 2)`): Those of the rendered frames.

    Returns:
        `float`: From 0 to 1; NaN where no real frame has keypoints.

    Raises:
        ValueError: For arrays of other or different shapes, or values that are not finite.

    Examples:
        ```py
        >>> import numpy as np
        >>> from leo_diffusers.metrics import missing_keypoint_rate

        >>> real = np.array([[[10.0, 20.0], [30.0, 40.0]]])  # one frame of two keypoints
        >>> fake = np.array([[[14.0, 20.0], [-1.0, -1.0]]])  # the second was not found
        >>> missing_keypoint_rate(real, fake)
        0.5
        ```
    """
    return missing_keypoints(real, fake).nanmean().item()
