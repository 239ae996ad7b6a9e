from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from leo_diffusers.data.talking_heads import render_clip
from leo_diffusers.video_io import VideoWriter, to_frame


@pytest.fixture(scope="session")
def talking_head() -> Callable[..., torch.Tensor]:
    """Renders frames (F, 3, S, S) in [-1, 1]."""

    def render(seed: int = 0, num_frames: int = 6, size: int = 32) -> torch.Tensor:
        return torch.stack([to_frame(frame) for frame in render_clip(seed, seed, num_frames, size).frames])

    return render


@pytest.fixture(scope="session")
def write_clip() -> Callable[[Path, torch.Tensor], Path]:
    """Writes frames to a video file or, for a path without suffix, to a folder of lossless images."""

    def write(path: Path, frames: torch.Tensor, frames_per_second: float = 25) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(path, frames_per_second) as writer:
            writer.write(frames)
        return path

    return write
