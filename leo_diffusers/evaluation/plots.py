"""Pictures of an evaluation: numbers of variants, curves, motion codes over time, and contact sheets of videos."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from ..training.validation import frame_grid
from ..video_io import to_frame, to_uint8, write_image
from ..video_io.files import remove, temporary_beside
from .paper_tables import METRICS, MeasuredRow
from .parts import Part


NUM_SHOWN = 6  # videos on a picture
NUM_COLUMNS = 12  # frames of each
THUMBNAIL_SIZE = 128  # pixels at most: parts keep what is shown of a video


def new_figure(width: float, height: float) -> object:
    r"""An empty matplotlib figure, of so many inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Curves need matplotlib: `pip install "leo_diffusers[eval]"`.') from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: object, path: Path) -> None:
    r"""Writes a figure, whole or not at all."""
    temporary = temporary_beside(path)
    try:
        figure.savefig(temporary, dpi=100)
        temporary.replace(path)
    finally:
        remove(temporary)


def plot_curves(
    values: dict[str, Sequence[float]],
    x: Sequence[float | str],
    x_label: str,
    y_label: str,
    path: Path,
    deviations: dict[str, Sequence[float]] | None = None,
) -> None:
    r"""
    Args:
        values (`dict[str, Sequence[float]]`): One curve by name, each of as many numbers as `x`.
        x (`Sequence[float | str]`): Where they are; texts stand side by side.
        x_label (`str`): What `x` is.
        y_label (`str`): What the values are.
        path (`Path`): The picture; written whole or not at all.
        deviations (`dict[str, Sequence[float]]`, *optional*): By name the standard deviations of a curve, as bars.

    Raises:
        ImportError: Where matplotlib is missing.
        ValueError: Where there are no curves, or one of another length.
    """
    if not values:
        raise ValueError("`values` must hold at least one curve, got none.")
    for name, curve in values.items():
        if len(curve) != len(x):
            raise ValueError(f"`values` gives {name} {len(curve)} numbers, but `x` has {len(x)}.")
    figure = new_figure(8, 5)
    axis = figure.subplots()
    for name, curve in values.items():
        axis.errorbar(x, curve, yerr=(deviations or {}).get(name), capsize=4, marker="o", label=name)
    axis.set(xlabel=x_label, ylabel=y_label)
    axis.legend()
    save_figure(figure, path)


def plot_variants(rows: Sequence[MeasuredRow], path: Path) -> None:
    r"""
    A panel for each metric with a point for each row, and its deviation as a bar.

    Args:
        rows (`Sequence[MeasuredRow]`): From above to below; where one lacks a number its place is empty.
        path (`Path`): The picture; written whole or not at all.

    Raises:
        ImportError: Where matplotlib is missing.
        ValueError: Where there are no numbers.
    """
    metrics = [name for name in METRICS if any(name in row.values for row in rows)]
    if not metrics:
        raise ValueError("`rows` must hold at least one number, got none.")
    figure = new_figure(3 + 2 * len(metrics), 1 + 0.4 * len(rows))
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, metrics):
        for place, row in enumerate(rows):
            if name in row.values:
                axis.errorbar(row.values[name], place, xerr=row.deviations.get(name), fmt="o", capsize=4, color="C0")
        axis.set_title(METRICS[name][0])
        axis.margins(0.15)
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(rows)), [row.method for row in rows])
    axes[0].invert_yaxis()
    save_figure(figure, path)


def plot_trajectories(codes: dict[str, torch.Tensor], path: Path) -> None:
    r"""
    Motion codes over time, each video above the next on one scale, with a line per direction.

    Args:
        codes (`dict[str, torch.Tensor]`): By name the codes (F, M) of a video, of any lengths.
        path (`Path`): The picture; written whole or not at all.

    Raises:
        ImportError: Where matplotlib is missing.
        ValueError: Where there are no codes, or of another shape.
    """
    if not codes:
        raise ValueError("`codes` must hold those of at least one video, got none.")
    for name, trajectory in codes.items():
        if trajectory.ndim != 2:
            raise ValueError(f"`codes` must have the shape (F, M), got {tuple(trajectory.shape)} for {name}.")
    figure = new_figure(10, 1 + 2.5 * len(codes))
    axes = figure.subplots(len(codes), sharex=True, sharey=True, squeeze=False)
    for axis, (name, trajectory) in zip(axes.flat, codes.items()):
        axis.plot(trajectory.float().cpu().numpy(), linewidth=0.8)
        axis.set(title=name, ylabel="motion code")
    axes.flat[-1].set_xlabel("frame")
    save_figure(figure, path)


def spaced(num_frames: int, columns: int) -> torch.Tensor:
    r"""Indices of `columns` frames, evenly from the first to the last; some twice where there are fewer."""
    return torch.linspace(0, num_frames - 1, columns).round().long()


def contact_sheet(videos: list[torch.Tensor], path: Path, columns: int = NUM_COLUMNS) -> None:
    r"""
    Videos as rows of one picture.

    Args:
        videos (`list[torch.Tensor]`): Each (F, 3, H, W) in [-1, 1], of any length but one size.
        path (`Path`): The picture; written whole or not at all.
        columns (`int`): Frames of each, evenly from its first to its last.

    Raises:
        ValueError: Where there are no videos, or of several sizes, or `columns` is below 1.
    """
    sizes = dict.fromkeys(tuple(video.shape[1:]) for video in videos)
    if len(sizes) != 1:
        raise ValueError(f"`videos` must be at least one, all of one size, got the sizes {list(sizes)}.")
    if columns < 1:
        raise ValueError(f"`columns` must be at least 1, got {columns}.")
    write_image(path, frame_grid([video[spaced(len(video), columns)].cpu() for video in videos]))


class Thumbnails:
    r"""
    What a contact sheet shows of videos that are seen a few frames at a time.

    Args:
        num_frames (`int`): Frames of each video.
    """

    def __init__(self, num_frames: int):
        self.indices = spaced(num_frames, NUM_COLUMNS)
        self.num_seen = 0
        self.columns: list[torch.Tensor] = []

    def add(self, *videos: torch.Tensor) -> None:
        r"""The next frames (n, 3, H, W) of each video, in [-1, 1]."""
        indices = self.indices - self.num_seen
        indices = indices[(indices >= 0) & (indices < len(videos[0]))]
        self.num_seen += len(videos[0])
        if len(indices):
            self.columns.append(torch.stack([self.shrink(video[indices]) for video in videos]))

    @staticmethod
    def shrink(frames: torch.Tensor) -> torch.Tensor:
        r"""Frames (n, 3, H, W) in [-1, 1] -> (n, S, S, 3), uint8."""
        if max(frames.shape[-2:]) > THUMBNAIL_SIZE:
            size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
            frames = F.interpolate(frames, size, mode="bilinear", antialias=True)
        return torch.from_numpy(to_uint8(frames))

    def pixels(self) -> torch.Tensor:
        r"""Of shape (videos, `NUM_COLUMNS`, S, S, 3), uint8: "shown" in a part."""
        return torch.cat(self.columns, dim=1)


def sheet_of_parts(parts: dict[str, Part], path: Path) -> None:
    r"""The contact sheet of the parts with thumbnails ("shown"); none where all of them were left out."""
    rows = [row for part in parts.values() if "shown" in part for row in part["shown"].numpy()]
    if rows:
        contact_sheet([torch.stack([to_frame(frame) for frame in row]) for row in rows], path)
