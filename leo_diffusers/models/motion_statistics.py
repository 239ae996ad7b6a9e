"""Mean and deviation of motion codes: what the diffusion models of motion standardise by."""

import math
from collections.abc import Callable

import torch
from torch import nn


class MotionStatistics(nn.Module):
    r"""
    Mean and standard deviation of the training codes, in float32 whatever the dtype of the network that holds them.

    Args:
        motion_dim (`int`): Size M of a motion code.
        motion_mean (`tuple[float, ...]`, *optional*): Mean per dimension; `None` for 0.
        motion_std (`tuple[float, ...]`, *optional*): Standard deviation per dimension; `None` for 1.

    Raises:
        ValueError: If they have another size than `motion_dim`, or are not finite, or a deviation is not positive.
    """

    def __init__(self, motion_dim: int, motion_mean: tuple[float, ...] | None, motion_std: tuple[float, ...] | None):
        super().__init__()
        _check_statistics("motion_mean", motion_mean, motion_dim)
        _check_statistics("motion_std", motion_std, motion_dim)
        if motion_std is not None and min(motion_std) <= 0:
            raise ValueError(
                f"`motion_std` must be positive in every dimension, got {motion_std}: give 1.0 where codes never vary."
            )
        self._values = (motion_mean or (0.0,) * motion_dim, motion_std or (1.0,) * motion_dim)
        # No buffers: what offloads a network takes its buffers away until a forward, which this module has not.
        self._reset(torch.device("cpu"))

    def standardize(self, motion_codes: torch.Tensor) -> torch.Tensor:
        r"""Codes `(..., M)` to `(code - mean) / std`, at least in float32."""
        return (motion_codes - self.mean.to(motion_codes.device)) / self.std.to(motion_codes.device)

    def unstandardize(self, sample: torch.Tensor) -> torch.Tensor:
        r"""The inverse of [`~MotionStatistics.standardize`]."""
        return sample * self.std.to(sample.device) + self.mean.to(sample.device)

    def clamp(self, motion_codes: torch.Tensor, limit: float) -> torch.Tensor:
        r"""Codes `(..., M)` with each number at most `limit` standard deviations from the mean; others unchanged."""
        standardized = self.standardize(motion_codes)
        # Where nothing is clamped the code itself comes back, not one that rounding has moved.
        is_within = standardized.abs() <= limit
        return torch.where(is_within, motion_codes, self.unstandardize(standardized.clamp(-limit, limit)))

    def _reset(self, device: torch.device) -> None:
        # With the dtype written out: `from_pretrained(dtype=torch.float16)` builds under that default dtype.
        self.mean, self.std = (torch.tensor(values, dtype=torch.float32, device=device) for values in self._values)

    def _apply(self, fn: Callable, recurse: bool = True) -> "MotionStatistics":
        super()._apply(fn, recurse)
        # Wherever `fn` moves a tensor to, but never rounded, as `.half()` and `.to(dtype)` would.
        self._reset(fn(torch.zeros(())).device)
        return self


def _check_statistics(name: str, values: tuple[float, ...] | None, motion_dim: int) -> None:
    if values is None:
        return
    if len(values) != motion_dim:
        raise ValueError(f"`{name}` must hold `motion_dim` ({motion_dim}) numbers, got {len(values)}.")
    # A tensor or its elements would pass as numbers here and fail much later, when the config is written as JSON.
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise ValueError(f"`{name}` must hold finite Python numbers, got {values}: convert tensors by `.tolist()`.")
