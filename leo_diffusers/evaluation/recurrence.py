r"""
Whether long videos repeat themselves: a computed stand-in for LEO's Table 5, where people were asked.

A stretch of `window` motion codes *recurs* in a video where a later stretch, which it does not overlap, is the same
motion. How far two stretches x and y are from each other is

    |x - y| / sqrt(|x|^2 + |y|^2)

with codes in units of the data's spread and each stretch less its mean: 0 is a copy, 1 is unrelated, and the square
root of 2 is the opposite motion. The mean is taken off since a gesture in a pose a little aside is the same gesture to
who looks, and since it differs between people, whose stretches are compared below. The size is divided by so that
small gestures count as large ones do, down to a quarter of the movement that the median stretch of real motion has:
what moves less does not count. A repetition at another speed is not found.

A video *repeats itself* where its nearest two stretches are nearer than a threshold. Motion that never repeats has
near stretches too, by chance, and the nearer the longer it is. So the threshold is calibrated on sets of real clips,
in which stretches of different clips are compared, as many pairs as a video has: a `false_positive_rate` of these
sets, 5 of 100 say, would be called repeating, and so would be that share of videos that are as fresh as real ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


MOVEMENT_SHARE = 0.25  # of the movement of the median real stretch
NUM_SETS = 1000  # of real clips, for a threshold
SETS_WORTH = 8  # of which so many could have no clip in common


@dataclass(frozen=True)
class RepetitionThreshold:
    r"""
    What counts as repeated motion, of [`calibrate_threshold`].

    Args:
        distance (`float`): Stretches that are nearer than this repeat.
        movement (`float`): Stretches of less movement do not count, in units of the data's spread.
        num_clips (`int`): Real clips that it was calibrated on.
        clips_per_set (`int`): How many of them have as many pairs of stretches as a video.
    """

    distance: float
    movement: float
    num_clips: int
    clips_per_set: int


def check_window(num_frames: int, window: int) -> None:
    r"""Refuses stretches that hold no motion, or of which a video has not two."""
    if window < 2:
        raise ValueError(f"`window` must be at least 2, got {window}: one frame holds no motion.")
    if num_frames < 2 * window:
        raise ValueError(f"`num_frames` must be at least {2 * window}, two of `window`, got {num_frames}.")


# --------------------------------------------------------------------------------------------------------- stretches


def stretches_of(codes: torch.Tensor, std: torch.Tensor, window: int) -> torch.Tensor:
    r"""
    Args:
        codes (`torch.Tensor` of shape `(F, M)`): Of one video.
        std (`torch.Tensor` of shape `(M,)`): The data's spread.
        window (`int`): Frames of a stretch, at most F.

    Returns:
        `torch.Tensor` of shape `(F - window + 1, M * window)`: Every stretch, less its mean, float64.
    """
    stretches = (codes / std).double().unfold(0, window, 1)  # (n, M, window)
    return (stretches - stretches.mean(dim=-1, keepdim=True)).flatten(1)


def movement_of(stretches: torch.Tensor) -> torch.Tensor:
    r"""Stretches (n, D) -> the root of their mean square, (n,)."""
    return stretches.square().mean(dim=1).sqrt()


def distances_between(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    r"""Stretches (n, D) and (m, D), none of which stands still -> how far each two are from each other, (n, m)."""
    energy = first.square().sum(dim=1)[:, None] + second.square().sum(dim=1)
    return (1 - 2 * (first @ second.T) / energy).clamp(min=0).sqrt()


def recurrence(codes: torch.Tensor, std: torch.Tensor, window: int, movement: float) -> float:
    r"""
    How near the nearest two stretches of a video are that do not overlap.

    Args:
        codes (`torch.Tensor` of shape `(F, M)`): Motion codes.
        std (`torch.Tensor` of shape `(M,)`): The data's spread.
        window (`int`): Frames of a stretch.
        movement (`float`): Above 0. Stretches of less do not count.

    Returns:
        `float`: From 0, a copy, to the square root of 2; infinite where there are no two that count.

    Raises:
        ValueError: Where the video is shorter than two stretches.
    """
    check_window(len(codes), window)
    stretches = stretches_of(codes, std, window)
    starts = (movement_of(stretches) >= movement).nonzero()[:, 0]
    distances = distances_between(stretches[starts], stretches[starts])
    apart = distances[starts[None] - starts[:, None] >= window]
    return apart.min().item() if len(apart) else math.inf


# --------------------------------------------------------------------------------------------------------- threshold


def nearest_of_clips(clips: Sequence[torch.Tensor], movement: float) -> np.ndarray:
    r"""Stretches (n, D) of N clips -> how near the nearest of two clips are, (N, N); of a clip and itself infinite."""
    moving = [stretches[movement_of(stretches) >= movement] for stretches in clips]
    owners = torch.arange(len(clips)).repeat_interleave(torch.tensor([len(stretches) for stretches in moving]))
    everything, nearest = torch.cat(moving), torch.full((len(clips), len(clips)), math.inf, dtype=torch.float64)
    for row, stretches in zip(nearest, moving):
        if len(stretches):
            row.scatter_reduce_(0, owners, distances_between(stretches, everything).amin(dim=0), "amin")
    return nearest.fill_diagonal_(math.inf).numpy()


def count_pairs(counts: np.ndarray) -> np.ndarray:
    r"""How many stretches clips have -> pairs of stretches of different ones, among the first 1, 2, ... clips."""
    return (counts.cumsum() ** 2 - (counts**2).cumsum()) // 2


def calibrate_threshold(
    clips: Sequence[torch.Tensor],
    std: torch.Tensor,
    num_frames: int,
    window: int,
    false_positive_rate: float,
    seed: int = 0,
) -> RepetitionThreshold:
    r"""
    How near the stretches of real motion come to each other by chance, in as many pairs as a video has.

    Args:
        clips (`Sequence[torch.Tensor]` of shape `(F, M)`): Motion codes of real clips, of which no two show the same
            motion. Of each the first `2 * window` frames count, so that many clips are in every set.
        std (`torch.Tensor` of shape `(M,)`): The data's spread.
        num_frames (`int`): Frames of a video.
        window (`int`): Frames of a stretch.
        false_positive_rate (`float`): Share of sets of real clips that would be called repeating.
        seed (`int`): Of the draws.

    Returns:
        [`RepetitionThreshold`]: The threshold.

    Raises:
        ValueError: Where the clips are too few, or do not move.
    """
    check_window(num_frames, window)
    generator = np.random.default_rng(seed)
    usable = [clip for clip in clips if len(clip) >= window]
    usable = [usable[index][: 2 * window] for index in generator.permutation(len(usable))]
    counts = np.array([len(clip) - window + 1 for clip in usable], dtype=np.int64)
    num_lags = num_frames - 2 * window + 1  # stretches that others can follow without overlap
    pairs = count_pairs(counts)
    per_set = int(np.searchsorted(pairs, num_lags * (num_lags + 1) // 2)) + 1
    if 2 * per_set > len(usable):
        raise ValueError(
            f"`clips` has {len(usable)} of {window} frames and more, too few for videos of {num_frames} frames: give "
            "more, or search shorter videos."
        )
    usable = [stretches_of(clip, std, window) for clip in usable[: SETS_WORTH * per_set]]
    movement = MOVEMENT_SHARE * movement_of(torch.cat(usable)).median().item()
    if not movement > 0:
        raise ValueError("`clips` stand still: half of their stretches or more do not move at all.")
    nearest = nearest_of_clips(usable, movement)
    sets = (generator.permutation(len(usable))[:per_set] for _ in range(NUM_SETS))
    minima = [nearest[np.ix_(chosen, chosen)].min() for chosen in sets]
    distance = float(np.quantile(minima, false_positive_rate, method="lower"))
    return RepetitionThreshold(distance, movement, len(usable), per_set)


def share_of_repeating(recurrences: Sequence[float], threshold: RepetitionThreshold) -> float:
    r"""The share of videos whose [`recurrence`] is below the threshold."""
    return float(np.mean(np.asarray(recurrences) < threshold.distance))
