from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from leo_diffusers import LIAPipeline
from leo_diffusers.data.frame_labels import FrameLabels
from leo_diffusers.data.talking_head_labels import label_clip
from leo_diffusers.data.talking_heads import render_clip
from leo_diffusers.evaluation.parts import EvaluationParts
from leo_diffusers.evaluation.readers import Readers, label_readers
from leo_diffusers.models.label_network import LabelNetwork
from leo_diffusers.video_io import VideoWriter, to_frame
from tests.conftest import build_animator, build_label_network


SIZE, NUM_FRAMES = 32, 9


def write_labelled_clip(path: Path, identity_seed: int, motion_seed: int, num_frames: int = NUM_FRAMES) -> None:
    """A talking head and its labels, as render_talking_heads.py writes them; frames without suffix are lossless."""
    clip = render_clip(identity_seed, motion_seed, num_frames, SIZE)
    label_clip(clip, motion_id=str(motion_seed)).save(FrameLabels.path_of(path))
    with VideoWriter(path, 25) as writer:
        for frame in clip.frames:
            writer.write(to_frame(frame))


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """In place of LPIPS."""
    return (ours - theirs).square().mean(dim=(1, 2, 3))


def clip_features(clips: torch.Tensor) -> torch.Tensor:
    """In place of the video FID's network."""
    return torch.cat([values.std(dim=(1, 3, 4)) for values in (clips, clips.diff(dim=1))], dim=1)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """Of this test alone: accelerate shares the state of all accelerators of a process."""
    for is_over in (False, True):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        if not is_over:
            yield Accelerator(cpu=True)


@pytest.fixture
def make_parts(accelerator, tmp_path) -> Callable[..., EvaluationParts]:
    """Parts of an evaluation in a folder of a name, all of one set of settings."""

    def make(name: str = "evaluation", **settings) -> EvaluationParts:
        return EvaluationParts(tmp_path / name, settings, accelerator)

    return make


@pytest.fixture
def make_clip() -> Callable[..., None]:
    return write_labelled_clip


@pytest.fixture(scope="session")
def labelled_folder(tmp_path_factory) -> Path:
    """Three people in motions of their own, with labels: one video, two folders of frames."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "deep").mkdir()
    for seed, name in enumerate(("a.mp4", "b", "deep/c")):
        write_labelled_clip(folder / name, seed, seed)
    return folder


@pytest.fixture(scope="session")
def pipeline() -> LIAPipeline:
    return LIAPipeline(build_animator())


@pytest.fixture(scope="session")
def label_network() -> LabelNetwork:
    return build_label_network()


@pytest.fixture(scope="session")
def readers(label_network) -> Readers:
    """Everything that can be read off frames."""
    return Readers(perceptual=distance, clip=clip_features, **label_readers(label_network))
