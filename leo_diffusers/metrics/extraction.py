"""Clips, one batch after another -> the features of all: what is held grows with features, not with videos."""

from collections.abc import Callable, Iterable

import numpy as np
import torch

from .arrays import as_float64
from .feature_extractor import read_frames


def extract(
    extractor: Callable[[torch.Tensor], torch.Tensor], clips: Iterable[torch.Tensor | np.ndarray]
) -> torch.Tensor:
    r"""
    Features of any number of clips. No batch is kept when the next is asked for.

    Args:
        extractor (`Callable`): Clips (B, F, 3, H, W) -> features (B, D), such as [`I3DFeatures`].
        clips (`Iterable` of arrays of shape `(B, F, 3, H, W)`): RGB, 8-bit or floats in [-1, 1]; a generator that
            decodes, or a data loader. B may differ between batches.

    Returns:
        `torch.Tensor` of shape `(N, D)`: In the order of the clips, float64 on the CPU.

    Raises:
        ValueError: At the first batch of another shape, type or range, with NaN, or of other frames than the batches
            before, and where the extractor gives something else than one finite feature for each clip.

    Examples:
        ```py
        >>> from leo_diffusers.metrics import RandomI3DFeatures, extract
        >>> from leo_diffusers.video_io import find_videos, read_video

        >>> clips = (read_video(path, num_frames=16)[None] for path in find_videos("clips"))
        >>> extract(RandomI3DFeatures(), clips).shape  # I3DFeatures for numbers to compare with published ones
        torch.Size([2, 400])
        ```
    """
    features, clip_shape = [], None
    for batch in clips:  # not enumerated: `enumerate` holds on to an item until it has the next
        index = len(features)
        batch = read_frames(f"clips[{index}]", batch, "(B, F, 3, H, W)")
        clip_shape = clip_shape or batch.shape[1:]
        if batch.shape[1:] != clip_shape:
            raise ValueError(
                f"`clips[{index}]` must hold clips of {tuple(clip_shape)}, as before, got {tuple(batch.shape[1:])}."
            )
        # A copy, for a view would keep the batch alive.
        found = as_float64(f"extractor(clips[{index}])", extractor(batch), "(N, D)").clone()
        expected = (len(batch), features[0].shape[1] if features else found.shape[1])
        if found.shape != expected:
            raise ValueError(
                f"`extractor` must give features of the shape {expected} for clips[{index}], got {tuple(found.shape)}."
            )
        features.append(found)
        del batch  # or it would be held while the next is decoded
    if not features:
        raise ValueError("`clips` must hold one batch or more, got none.")
    return torch.cat(features)
