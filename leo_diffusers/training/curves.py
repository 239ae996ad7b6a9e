"""Pictures of a training: its losses and measurements over the steps, and motion codes."""

import json
import logging
from pathlib import Path

import torch

from ..video_io.files import remove, temporary_beside


logger = logging.getLogger(__name__)
NUM_COLUMNS = 4
NUM_POINTS = 100  # of a curve: each is the mean of so many steps as there are for it


def new_figure(width: float, height: float) -> object | None:
    r"""An empty matplotlib figure of so many inches; None, and a word of it, where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning('The model card shows no curves without matplotlib: `pip install "leo_diffusers[train]"`.')
        return None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: object, path: Path) -> None:
    r"""Writes a figure, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    temporary = temporary_beside(path)
    try:
        figure.savefig(temporary, dpi=80)
        temporary.replace(path)
    finally:
        remove(temporary)


def plot_losses(axis: object, path: Path) -> None:
    r"""
    Draws the losses of a run.

    Args:
        axis (`matplotlib.axes.Axes`): To draw on.
        path (`Path`): The run's `losses.jsonl`.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    width = max(1, len(lines) // NUM_POINTS)
    parts = [lines[start : start + width] for start in range(0, len(lines), width)]
    for name in dict.fromkeys(name for line in lines for name in line if name not in ("step", "lr")):
        logged = [(part[0]["step"], [line[name] for line in part if name in line]) for part in parts]
        axis.semilogy(
            [step for step, values in logged if values],
            [sum(values) / len(values) for _, values in logged if values],
            label=name,
        )


def draw_training_curves(run: Path, path: Path) -> bool:
    r"""
    Draws what a run logged: its losses, and what was measured on the way.

    Args:
        run (`Path`): Its output folder, with losses.jsonl and validation.jsonl.
        path (`Path`): The picture.

    Returns:
        `bool`: False where nothing was drawn, as nothing was logged or matplotlib is missing.
    """
    if not (run / "losses.jsonl").exists() or not (run / "validation.jsonl").exists():
        return False
    lines = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    names = [name for name in lines[-1] if name != "step"]  # each has a scale of its own
    rows = -(-(1 + len(names)) // NUM_COLUMNS)
    figure = new_figure(3.5 * NUM_COLUMNS, 2.8 * rows)
    if figure is None:
        return False
    axes = figure.subplots(rows, NUM_COLUMNS, squeeze=False).flat
    plot_losses(axes[0], run / "losses.jsonl")
    axes[0].set_title("losses")
    axes[0].legend(fontsize=7)
    for axis, name in zip(axes[1:], names):
        measured = [(line["step"], line[name]) for line in lines if name in line]
        axis.plot(*zip(*measured), marker=".")
        axis.set_title(name)
    for axis in axes[1 + len(names) :]:
        axis.remove()
    figure.supxlabel("step")
    save_figure(figure, path)
    return True


def draw_motion(codes: dict[str, torch.Tensor], path: Path) -> None:
    r"""
    Draws sequences of motion codes side by side on one scale, a line per direction; nothing where matplotlib is
    missing.

    Args:
        codes (`dict[str, torch.Tensor]`): By name the codes (F, M) of a clip.
        path (`Path`): The picture; its folder is made where it is missing.
    """
    figure = new_figure(12, 3.5)
    if figure is None:
        return
    axes = figure.subplots(1, len(codes), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (name, sequence) in zip(axes, codes.items()):
        axis.plot(sequence.float().cpu().numpy(), linewidth=0.8)
        axis.set(title=name, xlabel="frame")
    axes[0].set_ylabel("motion code")
    save_figure(figure, path)


def draw_spread(codes: dict[str, torch.Tensor], path: Path) -> None:
    r"""
    Draws mean and standard deviation of single motion codes by direction; nothing where matplotlib is missing.

    Args:
        codes (`dict[str, torch.Tensor]`): By name the codes (N, M).
        path (`Path`): The picture; its folder is made where it is missing.
    """
    figure = new_figure(12, 3.5)
    if figure is None:
        return
    axis = figure.subplots()
    for index, (name, values) in enumerate(codes.items()):
        mean, deviation = values.float().mean(dim=0).cpu(), values.float().std(dim=0).cpu()
        directions = torch.arange(len(mean)) + 0.2 * index  # side by side
        axis.errorbar(directions, mean, yerr=deviation, fmt="o", capsize=3, label=name)
    axis.set(xlabel="motion direction", ylabel="mean and standard deviation")
    axis.legend()
    save_figure(figure, path)
