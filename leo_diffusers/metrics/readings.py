"""What a network reads off frames, compared: rendered frames with true ones, the end of a video with its start."""

import torch


def agreement(found: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    r"""
    How well one motion is followed, whatever pose each clip begins in.

    Args:
        found (`torch.Tensor` of shape `(V, F)`): Read off the frames of V clips.
        truth (`torch.Tensor` of shape `(V, F)`): Read off the true frames.

    Returns:
        `dict[str, float]`: "correlation" of the two after each clip's mean is taken off, and "slope", how much of the
        true motion is made; 1 and 1 are equal. NaN where nothing moves.
    """
    found, truth = (values - values.mean(dim=1, keepdim=True) for values in (found, truth))
    covariance, variance = (found * truth).mean(), truth.square().mean()
    return {
        "correlation": (covariance / (found.square().mean() * variance).sqrt()).item(),
        "slope": (covariance / variance).item(),
    }


def kinds(attributes: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    r"""
    Which of several kinds each person is.

    Args:
        attributes (`torch.Tensor` of shape `(N, A)`): Scores by attribute.
        names (`list[str]`): Names of the attributes; those that read "kind=value" belong to one kind.

    Returns:
        `dict[str, torch.Tensor]`: By kind the number of its value, (N,).
    """
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        if "=" in name:
            columns.setdefault(name.split("=")[0], []).append(column)
    return {kind: attributes[:, indices].argmax(dim=1) for kind, indices in columns.items()}


def same_kinds(before: torch.Tensor, after: torch.Tensor, names: list[str]) -> dict[str, float]:
    r"""
    Whether people stay who they are.

    Args:
        before (`torch.Tensor` of shape `(N, A)`): Attributes read off one frame of each of N people.
        after (`torch.Tensor` of shape `(N, A)`): The same, off another frame.
        names (`list[str]`): Names of the attributes, as of [`kinds`].

    Returns:
        `dict[str, float]`: By kind the share of people who are of the same, and their "mean".

    Raises:
        ValueError: Where no attribute is one of several kinds.
    """
    first, last = kinds(before, names), kinds(after, names)
    if not first:
        raise ValueError(f"`names` must hold some that read 'kind=value', got {names}.")
    shares = {kind: (first[kind] == last[kind]).float().mean().item() for kind in first}
    return {"mean": sum(shares.values()) / len(shares), **shares}
