from pathlib import Path

import numpy as np
import pytest
import torch

from leo_diffusers.data.scene_cuts import find_scene_cuts, make_thumbnail
from leo_diffusers.video_io import VideoReader, to_pil


CLIPS = Path(__file__).resolve().parents[2].parent / "shared" / "clips"


def thumbnails(frames) -> list[np.ndarray]:
    return [make_thumbnail(to_pil(frame)) for frame in frames]


def test_cuts_are_found_where_they_are(talking_head):
    one, other = (thumbnails(talking_head(seed, 12, 64)) for seed in (0, 7))
    assert find_scene_cuts(one) == find_scene_cuts(other) == []
    assert find_scene_cuts(one + other + one) == [12, 24]
    assert find_scene_cuts([]) == find_scene_cuts(one[:1]) == []


def test_fast_motion_is_no_cut():
    columns = torch.linspace(0, 12, 64)
    frames = [torch.sin(columns + step).expand(3, 64, 64) for step in range(20)]
    steps = [np.abs(np.subtract(a, b, dtype=float)).mean() for a, b in zip(thumbnails(frames), thumbnails(frames)[1:])]
    assert min(steps) > 30  # more than many a cut
    assert find_scene_cuts(thumbnails(frames)) == []


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are no part of the repository")
def test_real_clips():
    shots = [thumbnails(VideoReader(path, num_frames=110)) for path in sorted(CLIPS.rglob("*.mp4"))]
    assert len(shots) == 5
    assert [find_scene_cuts(shot) for shot in shots] == [[]] * 5
    assert find_scene_cuts(sum(shots, [])) == [110, 220, 330, 440]
