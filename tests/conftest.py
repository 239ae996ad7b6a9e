import json
import math
import os
import wave
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image

from leo_diffusers import (
    LEOInfinitePipeline,
    LEOPipeline,
    LIAModel,
    LIAPipeline,
    MotionPriorModel,
    MotionUNet1DModel,
)
from leo_diffusers.data.talking_head_labels import label_clip
from leo_diffusers.data.talking_heads import render_clip
from leo_diffusers.models.label_network import LabelNetwork
from leo_diffusers.pipelines.image_editor import load_detector
from leo_diffusers.pipelines.motion_pipeline import MotionPipeline
from leo_diffusers.video_io import VideoWriter, to_frame
from tests.support.loopback_hub import LoopbackHub
from tests.support.tiny_diffusers import controlnet, stable_diffusion


if "PYTEST_XDIST_WORKER" in os.environ:
    # Every worker and what it starts has a core of its own.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parents[1]
ANIMATOR_CONFIG = {
    "frame_size": 32,
    "latent_dim": 32,
    "motion_dim": 8,
    "block_out_channels": (16, 16, 32, 32),
    "motion_head_layers": 2,
}
MOTION_UNET_CONFIG = {
    "motion_dim": 8,
    "sequence_length": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "attention_levels": (1,),
}
MOTION_PRIOR_CONFIG = {"motion_dim": 8, "hidden_dim": 32, "num_layers": 2}
# As examples/train_first_frame.py builds it.
FIRST_FRAME_CONFIG = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 16,
    "resnet_time_scale_shift": "scale_shift",
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 8,
}
DRIVING_FRAMES, DRIVING_RATE = 7, 24.0


def perturb(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Moves the parameters that start at zero or one, so that every one of them reaches the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def build_animator(seed: int = 0, **config) -> LIAModel:
    torch.manual_seed(seed)
    return perturb(LIAModel(**{**ANIMATOR_CONFIG, **config}), seed)


def build_motion_unet(seed: int = 0, **config) -> MotionUNet1DModel:
    torch.manual_seed(seed)
    return perturb(MotionUNet1DModel(**{**MOTION_UNET_CONFIG, **config}), seed)


def build_leo_pipeline(scheduler=None) -> LEOPipeline:
    pipeline = LEOPipeline(build_animator(), build_motion_unet(), scheduler or DDIMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_motion_prior(seed: int = 0, **config) -> MotionPriorModel:
    torch.manual_seed(seed)
    return perturb(MotionPriorModel(**{**MOTION_PRIOR_CONFIG, **config}), seed)


def build_first_frame_unet(seed: int = 0, **config) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return perturb(UNet2DConditionModel(**{**FIRST_FRAME_CONFIG, **config}), seed)


def build_label_network(seed: int = 0) -> LabelNetwork:
    """An untrained network that reads the labels of talking heads of 32 pixels."""
    labels = label_clip(render_clip(0, 0, 1, 32))
    num_labels = len(labels.motion_names) + len(labels.attribute_names)
    torch.manual_seed(seed)
    network = LabelNetwork(
        frame_size=32,
        num_keypoints=labels.keypoints.shape[1],
        motion_names=labels.motion_names,
        attribute_names=labels.attribute_names,
        label_mean=[0.5] * num_labels,
        label_std=[2.0] * num_labels,
        block_out_channels=[8, 16],
    )
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)  # as it is built, it says nearly the same of all frames
    return network.eval()


def code_scheduler() -> DDIMScheduler:
    """For random networks whose prediction is taken for the sample: it stays small, however long a video gets."""
    return DDIMScheduler(prediction_type="sample", clip_sample=False, timestep_spacing="trailing")


def build_full_pipeline(pipeline_class: type[MotionPipeline] = LEOPipeline, **components) -> MotionPipeline:
    """A pipeline with all of its optional components."""
    full = {
        "animator": build_animator(),
        "motion_unet": build_motion_unet(motion_std=(0.2,) * 8),
        "scheduler": code_scheduler(),
        "motion_prior": build_motion_prior(),
        "prior_scheduler": code_scheduler(),
        "first_frame_unet": build_first_frame_unet(),
        "first_frame_scheduler": DDIMScheduler(timestep_spacing="trailing"),
    }
    if pipeline_class is LEOInfinitePipeline:
        transition_unet = build_motion_unet(seed=1, condition="start_end", motion_std=(0.2,) * 8)
        full |= {"transition_unet": transition_unet, "transition_scheduler": code_scheduler()}
    pipeline = pipeline_class(**{**full, **components})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def make_animator():
    return build_animator


@pytest.fixture
def make_motion_unet():
    return build_motion_unet


@pytest.fixture
def make_motion_prior():
    return build_motion_prior


@pytest.fixture
def make_first_frame_unet():
    return build_first_frame_unet


@pytest.fixture
def make_full_pipeline():
    return build_full_pipeline


@pytest.fixture
def animator() -> LIAModel:
    return build_animator()


@pytest.fixture
def motion_unet() -> MotionUNet1DModel:
    return build_motion_unet()


@pytest.fixture
def full_pipeline() -> LEOPipeline:
    return build_full_pipeline()


@pytest.fixture
def infinite_pipeline() -> LEOInfinitePipeline:
    return build_full_pipeline(LEOInfinitePipeline)


@pytest.fixture
def lia_pipeline() -> LIAPipeline:
    return LIAPipeline(build_animator())


@pytest.fixture(scope="session")
def lia_folder(tmp_path_factory) -> Path:
    """A saved LIAPipeline."""
    folder = tmp_path_factory.mktemp("models") / "lia"
    LIAPipeline(build_animator()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def leo_folder(tmp_path_factory) -> Path:
    """A saved LEOPipeline."""
    folder = tmp_path_factory.mktemp("models") / "leo"
    build_leo_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def full_folder(tmp_path_factory) -> Path:
    """A saved LEOInfinitePipeline with everything, which is a LEOPipeline too."""
    folder = tmp_path_factory.mktemp("models") / "full"
    build_full_pipeline(LEOInfinitePipeline).save_pretrained(folder)
    return folder


@pytest.fixture
def make_frames():
    """Noise frames (B, 3, S, S) in [-1, 1]."""

    def make(batch_size: int = 1, size: int = 32, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(batch_size, 3, size, size, generator=generator) * 2 - 1

    return make


@pytest.fixture(scope="session")
def clip_frames() -> np.ndarray:
    """A talking head, (F, H, W, 3) uint8."""
    return render_clip(identity_seed=1, motion_seed=2, num_frames=DRIVING_FRAMES, size=32).frames


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """Another talking head, at the tiny animator's size."""
    return Image.fromarray(render_clip(identity_seed=5, motion_seed=6, num_frames=1, size=32).frames[0])


@pytest.fixture(scope="session")
def driving_video(tmp_path_factory, clip_frames) -> Path:
    """The talking head as a video file with sound."""
    folder = tmp_path_factory.mktemp("videos")
    rate = 16000
    tone = [math.sin(2 * math.pi * 440 * i / rate) for i in range(int(rate * DRIVING_FRAMES / DRIVING_RATE))]
    with wave.open(str(folder / "tone.wav"), "wb") as sound:
        sound.setparams((1, 2, rate, len(tone), "NONE", ""))
        sound.writeframes((np.array(tone) * 20000).astype("<i2").tobytes())
    with VideoWriter(folder / "driving.mp4", DRIVING_RATE, audio_from=folder / "tone.wav") as writer:
        for frame in clip_frames:
            writer.write(to_frame(frame))
    return folder / "driving.mp4"


@pytest.fixture
def loopback_hub() -> Iterator[LoopbackHub]:
    """The Hub on this machine; clients are processes of their own, started by its `run`."""
    with LoopbackHub().running() as hub:
        yield hub


# --- a tiny Stable Diffusion ---


@pytest.fixture(scope="session")
def stable_diffusion_folder(tmp_path_factory) -> Path:
    """A saved text-to-image pipeline, as most models of the Hub are."""
    folder = tmp_path_factory.mktemp("editors") / "stable-diffusion"
    torch.manual_seed(0)
    stable_diffusion("StableDiffusionPipeline").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def controlnet_folder(tmp_path_factory) -> Path:
    """A saved ControlNet alone."""
    folder = tmp_path_factory.mktemp("editors") / "controlnet"
    torch.manual_seed(1)
    controlnet().save_pretrained(folder)
    return folder


@pytest.fixture
def detectors() -> None:
    """For tests of controlnet-aux, which `pip install .[test]` brings along."""
    if find_spec("controlnet_aux") is None:
        pytest.skip('controlnet-aux is not installed: `pip install ".[test]"`')
    load_detector("canny")  # its import is silent, unlike one in a test


# --- the published networks ---


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Recorded outputs of the published networks; no part of the repository."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}, which holds the recorded outputs of the published networks")
    return folder


def recipe_tensor(salt: str, key: str, shape: list[int]) -> torch.Tensor:
    """The weights of the recorded networks: see shared/reference/README.md."""
    if key.endswith(".kernel"):
        kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64
        return torch.from_numpy(kernel * (4 if key.startswith("dec.") else 1))
    random = np.random.RandomState(zlib.crc32((salt + key).encode()) & 0xFFFFFFFF)
    values = random.standard_normal(tuple(shape)).astype(np.float32)
    if key.endswith("modulation.bias"):
        values = 1 + 0.1 * values
    elif key.endswith(".bias"):
        values = 0.1 * values
    return torch.from_numpy(values)


@pytest.fixture
def reference_checkpoint(shared_dir, tmp_path):
    """Writes a checkpoint in the released format with the recorded networks' weights."""

    def write(size: int) -> Path:
        shapes = json.loads((shared_dir / "reference" / "lia_state_dict_shapes.json").read_text())[str(size)]
        state_dict = {key: recipe_tensor(f"leo-{size}-", key, shape) for key, shape in shapes.items()}
        path = tmp_path / f"reference-{size}.pt"
        torch.save({"gen": state_dict, "args": {"note": "other keys are ignored"}}, path)
        return path

    return write


def released_shapes(frame_size: int = 32, width: int = 6, latent_dim: int = 10, motion_dim: int = 4, num_fc: int = 2):
    """Keys and shapes of LIA's released generator, for another frame size and narrow layers, each scale its own."""
    num_blocks = int(math.log2(frame_size)) - 2
    widths = [width + 2 * i for i in range(num_blocks + 1)]  # from the frame's size down to 4 pixels
    shapes = {
        "enc.net_app.convs.0.0.weight": (widths[0], 3, 1, 1),
        "enc.net_app.convs.0.1.bias": (1, widths[0], 1, 1),
        f"enc.net_app.convs.{num_blocks + 1}.weight": (latent_dim, widths[-1], 4, 4),
    }
    for i in range(num_blocks):
        before, after, prefix = widths[i], widths[i + 1], f"enc.net_app.convs.{i + 1}"
        shapes |= {
            f"{prefix}.conv1.0.weight": (before, before, 3, 3),
            f"{prefix}.conv1.1.bias": (1, before, 1, 1),
            f"{prefix}.conv2.0.kernel": (4, 4),
            f"{prefix}.conv2.1.weight": (after, before, 3, 3),
            f"{prefix}.conv2.2.bias": (1, after, 1, 1),
            f"{prefix}.skip.0.kernel": (4, 4),
            f"{prefix}.skip.1.weight": (after, before, 1, 1),
        }
    for i in range(num_fc):
        size = motion_dim if i == num_fc - 1 else latent_dim
        shapes |= {f"enc.fc.{i}.weight": (size, latent_dim), f"enc.fc.{i}.bias": (size,)}
    shapes["dec.direction.weight"] = (latent_dim, motion_dim)
    shapes["dec.input.input"] = (1, widths[-1], 4, 4)
    up = widths[::-1]
    styled = [("dec.conv1", up[0], up[0], False)]
    for i in range(num_blocks):
        styled.append((f"dec.convs.{2 * i}", up[i], up[i + 1], True))
        styled.append((f"dec.convs.{2 * i + 1}", up[i + 1], up[i + 1], False))
    for prefix, before, after, upsamples in styled:
        shapes |= {
            f"{prefix}.conv.weight": (1, after, before, 3, 3),
            f"{prefix}.conv.modulation.weight": (before, latent_dim),
            f"{prefix}.conv.modulation.bias": (before,),
            f"{prefix}.noise.weight": (1,),
            f"{prefix}.activate.bias": (1, after, 1, 1),
        }
        if upsamples:
            shapes[f"{prefix}.conv.blur.kernel"] = (4, 4)
    rgb_heads = [("dec.to_rgb1", up[0])] + [(f"dec.to_rgbs.{i}", up[i + 1]) for i in range(num_blocks)]
    for prefix, channels in rgb_heads:
        shapes |= {
            f"{prefix}.bias": (1, 3, 1, 1),
            f"{prefix}.conv.0.weight": (3, channels, 1, 1),
            f"{prefix}.conv.1.bias": (1, 3, 1, 1),
        }
    for i in range(num_blocks):
        prefix, channels = f"dec.to_flows.{i}", up[i + 1]
        shapes |= {
            f"dec.to_rgbs.{i}.upsample.kernel": (4, 4),
            f"{prefix}.bias": (1, 3, 1, 1),
            f"{prefix}.upsample.kernel": (4, 4),
            f"{prefix}.conv.weight": (1, 3, channels, 1, 1),
            f"{prefix}.conv.modulation.weight": (channels, latent_dim),
            f"{prefix}.conv.modulation.bias": (channels,),
        }
    return shapes


@pytest.fixture
def make_released_state_dict():
    """Made-up weights in the released format, of a tiny generator."""

    def make(**config) -> dict[str, torch.Tensor]:
        return {key: recipe_tensor("tiny-", key, shape) for key, shape in released_shapes(**config).items()}

    return make


@pytest.fixture
def released_checkpoint(make_released_state_dict, tmp_path) -> Path:
    path = tmp_path / "tiny.pt"
    torch.save({"gen": make_released_state_dict(), "args": {"size": 32}}, path)
    return path
