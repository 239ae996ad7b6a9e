"""What every metric asks of the arrays it is given."""

from collections.abc import Sequence

import numpy as np
import torch


ArrayLike = np.ndarray | torch.Tensor | Sequence


def as_float64(name: str, values: ArrayLike, shape: str) -> torch.Tensor:
    r"""
    An array in the precision that metrics are computed in.

    Args:
        name (`str`): Of the argument, for messages.
        values (array): Numbers.
        shape (`str`): What it must be, such as "(N, D)": as many dimensions, none of them empty.

    Returns:
        `torch.Tensor`: On the CPU, float64.

    Raises:
        ValueError: For another number of dimensions, an empty array, or NaN and infinite values.
    """
    tensor = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if tensor.ndim != shape.count(",") + 1 or tensor.numel() == 0:
        raise ValueError(f"`{name}` must have the shape {shape}, got {tuple(tensor.shape)}.")
    is_finite = tensor.isfinite()
    if not is_finite.all():
        count = (~is_finite).sum().item()
        raise ValueError(f"`{name}` holds {count} values that are NaN or infinite: look at what they were made from.")
    return tensor


def check_same(name: str, real: torch.Tensor, fake: torch.Tensor, first_dim: int = 0) -> None:
    r"""Refuses two arrays whose shapes differ from `first_dim` on; `name` says what they hold."""
    if real.shape[first_dim:] != fake.shape[first_dim:]:
        raise ValueError(
            f"`real` and `fake` must hold {name} of one shape, got {tuple(real.shape)} and {tuple(fake.shape)}."
        )
