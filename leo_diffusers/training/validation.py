"""What a run shows of itself: numbers as JSON lines, pictures and videos on disk and in TensorBoard."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from .. import video_io


def log_validation(accelerator: Accelerator, folder: Path, step: int, values: dict[str, float]) -> None:
    r"""
    Logs measured numbers, to the trackers and as a line of `validation.jsonl`.

    Args:
        accelerator ([`Accelerator`]): Of the run.
        folder (`Path`): The run's folder.
        step (`int`): Optimisation steps so far; lines of later steps, of a run that was left behind, go.
        values (`dict[str, float]`): Numbers by name.
    """
    accelerator.log(values, step=step)
    path = folder / "validation.jsonl"
    lines = [*read_json_lines(path, step - 1), {"step": step, **values}]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    partial.replace(path)


def read_json_lines(path: Path, last_step: int) -> list[dict]:
    r"""The lines of a log up to a step; none where there is no file. A line that a killed run cut off is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return [entry for entry in entries if entry["step"] <= last_step]


def frame_grid(rows: list[torch.Tensor]) -> torch.Tensor:
    r"""Rows of frames, each (n, 3, H, W) -> one picture (3, rows * H, n * W)."""
    return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)


def write_grid(accelerator: Accelerator, folder: Path, name: str, step: int, rows: list[torch.Tensor]) -> None:
    r"""
    Writes rows of frames as one picture, to disk and to the trackers.

    Args:
        accelerator ([`Accelerator`]): Of the run.
        folder (`Path`): The run's folder; the picture goes to its `validation`.
        name (`str`): What is shown.
        step (`int`): Optimisation steps so far.
        rows (`list[torch.Tensor]`): Frames (n, 3, H, W) in [-1, 1].
    """
    grid = frame_grid(rows).cpu()
    (folder / "validation").mkdir(exist_ok=True)
    video_io.write_image(folder / "validation" / f"{name}-{step:07d}.png", grid)
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: video_io.to_uint8(grid)[None]}, step=step, **layout)


def write_clip(
    accelerator: Accelerator, folder: Path, name: str, step: int, frames: torch.Tensor, frames_per_second: float
) -> None:
    r"""
    Writes a clip as mp4, and to TensorBoard.

    Args:
        accelerator ([`Accelerator`]): Of the run.
        folder (`Path`): The run's folder; the clip goes to its `validation`.
        name (`str`): What is shown.
        step (`int`): Optimisation steps so far.
        frames (`torch.Tensor` of shape `(F, 3, H, W)`): In [-1, 1].
        frames_per_second (`float`): Frame rate.
    """
    (folder / "validation").mkdir(exist_ok=True)
    with video_io.VideoWriter(folder / "validation" / f"{name}-{step:07d}.mp4", frames_per_second) as writer:
        writer.write(frames)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            log_animation(tracker.writer, name, step, frames, frames_per_second)


def log_animation(writer: object, name: str, step: int, frames: torch.Tensor, frames_per_second: float) -> None:
    r"""Hands TensorBoard a clip as an animated GIF, which its image panel plays; `add_video` would need moviepy."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    images = [video_io.to_pil(frame) for frame in frames.cpu()]
    buffer = io.BytesIO()
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], duration=round(1000 / frames_per_second), loop=0
    )
    image = Summary.Image(
        height=images[0].height, width=images[0].width, colorspace=3, encoded_image_string=buffer.getvalue()
    )
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)


def reconstruction_metrics(frames: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    r"""
    Args:
        frames (`torch.Tensor` of shape `(F, 3, H, W)`): Rendered, about [-1, 1].
        targets (`torch.Tensor` of shape `(F, 3, H, W)`): Real, [-1, 1].

    Returns:
        `dict[str, float]`: Mean "l1" with pixels in [0, 1], as the papers give it, and mean "psnr" in decibels.
    """
    errors = (video_io.to_unit_range(frames) - video_io.to_unit_range(targets)).float()
    mse = errors.square().mean(dim=(1, 2, 3)).clamp(min=1e-10)  # equal frames have no finite PSNR
    return {"l1": errors.abs().mean().item(), "psnr": (-10 * mse.log10()).mean().item()}


def describe(metrics: dict[str, float]) -> str:
    r"""Measured numbers as one line of text, without the names' prefixes."""
    return ", ".join(f"{name.split('/')[-1]} {value:.3g}" for name, value in metrics.items())


def code_statistics(samples: torch.Tensor, data: torch.Tensor) -> dict[str, float]:
    r"""
    How generated single codes compare with real ones.

    Args:
        samples (`torch.Tensor` of shape `(N, M)`): Generated codes.
        data (`torch.Tensor` of shape `(N', M)`): Real codes.

    Returns:
        `dict[str, float]`: Distance of the means in real standard deviations ("offset", 0 is equal), ratios of
        standard deviation ("spread", its lowest and highest direction; 1 is equal) and the mean absolute difference
        of the correlations between directions ("correlation", 0 is equal).
    """
    std = data.std(dim=0).clamp(min=1e-8)
    spread = samples.std(dim=0) / std
    correlations = [torch.corrcoef(codes.T).nan_to_num() for codes in (samples, data)]
    return {
        "offset": ((samples.mean(dim=0) - data.mean(dim=0)) / std).abs().mean().item(),
        "spread": spread.mean().item(),
        "spread_min": spread.min().item(),
        "spread_max": spread.max().item(),
        "correlation": (correlations[0] - correlations[1]).abs().mean().item(),
    }


def motion_statistics(samples: torch.Tensor, data: torch.Tensor) -> dict[str, float]:
    r"""
    How generated motion compares with real motion: 1 is equal.

    Args:
        samples (`torch.Tensor` of shape `(N, L, M)`): Generated codes.
        data (`torch.Tensor` of shape `(N, L, M)`): Real codes.

    Returns:
        `dict[str, float]`: Ratios of standard deviation ("spread", its lowest and highest direction) and of the power
        of velocities in the lowest and the highest third of frequencies ("slow", "fast").
    """
    spread = samples.std(dim=(0, 1)) / data.std(dim=(0, 1)).clamp(min=1e-8)

    def velocity_spectrum(codes: torch.Tensor) -> np.ndarray:
        scaled = codes.diff(dim=1) / data.std(dim=(0, 1)).clamp(min=1e-8)
        return torch.fft.rfft(scaled, dim=1).abs().square().mean(dim=(0, 2)).cpu().numpy()

    real, fake = velocity_spectrum(data), velocity_spectrum(samples)
    third = max(1, len(real) // 3)
    return {
        "spread": spread.mean().item(),
        "spread_min": spread.min().item(),
        "spread_max": spread.max().item(),
        "slow": float(fake[:third].sum() / real[:third].sum()),
        "fast": float(fake[-third:].sum() / real[-third:].sum()),
    }
