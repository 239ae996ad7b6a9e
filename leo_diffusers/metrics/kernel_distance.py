"""The kernel distance of two sets of features: KVD and KID, by what the features are of."""

import torch

from .arrays import ArrayLike, as_float64, check_same


DEGREE = 3
BLOCK = 1024  # rows of a kernel matrix that are held at once


def kernel_sum(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    r"""Sum of (x . y / D + 1)^3 over all pairs of rows of (N, D) and (M, D)."""
    width = first.shape[1]
    return sum(((block @ second.T / width + 1) ** DEGREE).sum() for block in first.split(BLOCK))


def mean_of_others(features: torch.Tensor) -> torch.Tensor:
    r"""Mean of the kernel over all pairs of two different rows."""
    count = len(features)
    of_itself = ((features.square().mean(dim=1) + 1) ** DEGREE).sum()
    return (kernel_sum(features, features) - of_itself) / (count * (count - 1))


def kernel_distance(real: ArrayLike, fake: ArrayLike) -> float:
    r"""
    Unbiased squared maximum mean discrepancy with the kernel (x . y / D + 1)^3, over whole sets, unscaled (DIGAN).

    Args:
        real (array of shape `(N, D)`): Features of real videos.
        fake (array of shape `(M, D)`): Features of generated videos.

    Returns:
        `float`: About 0 for sets of one distribution, below it as often as above.

    Raises:
        ValueError: For fewer than two features, features of two widths, or values that are not finite.

    Examples:
        ```py
        >>> import numpy as np
        >>> from leo_diffusers.metrics import kernel_distance

        >>> real, fake, other = np.random.default_rng(0).normal(size=(3, 500, 8))
        >>> kernel_distance(real, fake) < kernel_distance(real, 2 * other)
        True
        ```
    """
    real, fake = as_float64("real", real, "(N, D)"), as_float64("fake", fake, "(N, D)")
    check_same("features", real, fake, first_dim=1)
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"Pairs need two features or more, got {len(real)} real and {len(fake)} fake.")
    between = kernel_sum(real, fake) / (len(real) * len(fake))
    return (mean_of_others(real) + mean_of_others(fake) - 2 * between).item()
