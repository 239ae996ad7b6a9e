"""Average content distance (ACD): how much a person changes within a video."""

import torch

from .arrays import ArrayLike, as_float64


def average_content_distance(features: ArrayLike) -> float:
    r"""
    Mean over videos of the mean distance of every two frames: 2 / (F (F - 1)) sum_{i<j} |f_i - f_j|.

    Args:
        features (array of shape `(V, F, D)`): Identity features of every frame of V videos.

    Returns:
        `float`: 0 where no frame differs from another.

    Raises:
        ValueError: For fewer than two frames, or values that are not finite.

    Examples:
        ```py
        >>> import numpy as np
        >>> from leo_diffusers.metrics import average_content_distance

        >>> features = np.random.default_rng(0).normal(size=(2, 1, 512))  # of two people
        >>> average_content_distance(features.repeat(16, axis=1))  # who do not change in 16 frames
        0.0
        ```
    """
    features = as_float64("features", features, "(V, F, D)")
    if features.shape[1] < 2:
        raise ValueError(f"`features` must hold two frames or more of each video, got {features.shape[1]}.")
    return torch.stack([torch.nn.functional.pdist(video).mean() for video in features]).mean().item()
