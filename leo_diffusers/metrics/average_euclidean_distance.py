"""Average Euclidean distance (AED): whether a rendered person is the real one."""

import torch

from .arrays import ArrayLike, as_float64, check_same


def euclidean_distances(real: ArrayLike, fake: ArrayLike) -> torch.Tensor:
    r"""What [`average_euclidean_distance`] is the mean of, (F,)."""
    real, fake = as_float64("real", real, "(F, D)"), as_float64("fake", fake, "(F, D)")
    check_same("embeddings", real, fake)
    return (real - fake).square().sum(dim=1)


def average_euclidean_distance(real: ArrayLike, fake: ArrayLike) -> float:
    r"""
    Mean over frames, of a data set those of all its videos, of sum_k (f_k - g_k)^2: the squared distance, whatever
    the name says (pose-evaluation).

    Args:
        real (array of shape `(F, D)`): Embeddings of real frames.
        fake (array of shape `(F, D)`): Embeddings of the rendered frames.

    Returns:
        `float`: 0 for equal embeddings.

    Raises:
        ValueError: For arrays of different shapes, or values that are not finite.

    Examples:
        ```py
        >>> import numpy as np
        >>> from leo_diffusers.metrics import average_euclidean_distance

        >>> real, fake = np.zeros((16, 128)), np.full((16, 128), 0.5)
        >>> average_euclidean_distance(real, fake)  # 128 squares of 0.5
        32.0
        ```
    """
    return euclidean_distances(real, fake).mean().item()
