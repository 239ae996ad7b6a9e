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
        TypeError: For what is no array of real numbers.
        ValueError: For another number of dimensions, an empty array, or NaN and infinite values.
    """
    try:
        tensor = torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"`{name}` must be an array of numbers, got {type(values).__name__}: {error}") from error
    if tensor.is_complex():
        raise TypeError(f"`{name}` must be an array of real numbers, got {tensor.dtype}.")
    tensor = tensor.to("cpu", torch.float64)
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
