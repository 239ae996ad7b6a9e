"""The Fréchet distance of two sets of features: FVD, FID and video FID, by what the features are of."""

import torch

from .arrays import ArrayLike, as_float64, check_same


def covariance_root(features: torch.Tensor, ddof: int) -> torch.Tensor:
    r"""A matrix R (K, D) with R^T R the covariance of features (N, D), and K no more than D."""
    centred = (features - features.mean(dim=0)) / (len(features) - ddof) ** 0.5
    return torch.linalg.qr(centred, mode="r").R


def frechet_distance(real: ArrayLike, fake: ArrayLike, ddof: int = 1) -> float:
    r"""
    Distance of two Gaussians that are fitted to features:
    |mu_r - mu_f|^2 + Tr(S_r + S_f - 2 (S_r S_f)^{1/2}).

    The trace of the root is the sum of the singular values of R_r R_f^T, where S = R^T R: no root of a matrix is
    drawn, which near-singular covariances would spoil.

    Args:
        real (array of shape `(N, D)`): Features of real videos.
        fake (array of shape `(M, D)`): Features of generated videos.
        ddof (`int`): 1: covariances of N - 1 (DIGAN, torchmetrics); 0: of N (StyleGAN-V).

    Returns:
        `float`: At least 0, 0 for equal sets. It falls with N and M: compare at equal counts only.

    Raises:
        ValueError: For fewer than two features, features of two widths, or values that are not finite.

    Examples:
        ```py
        >>> import numpy as np
        >>> from leo_diffusers.metrics import frechet_distance

        >>> real = np.random.default_rng(0).normal(size=(500, 8))
        >>> round(frechet_distance(real, real + 1), 6)  # the means differ by 1 in each of 8 numbers
        8.0
        ```
    """
    real, fake = as_float64("real", real, "(N, D)"), as_float64("fake", fake, "(N, D)")
    check_same("features", real, fake, first_dim=1)
    if ddof not in (0, 1):
        raise ValueError(f"`ddof` must be 0 or 1, got {ddof}.")
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"A covariance needs two features or more, got {len(real)} real and {len(fake)} fake.")
    roots = [covariance_root(features, ddof) for features in (real, fake)]
    between_means = (real.mean(dim=0) - fake.mean(dim=0)).square().sum()
    traces = sum(root.square().sum() for root in roots)
    trace_of_root = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return max(0.0, (between_means + traces - 2 * trace_of_root).item())
