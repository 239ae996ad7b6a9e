"""The embedded model: what every pipeline loads without a download."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open

from leo_diffusers import DEMO_MODEL, LEOEditPipeline, LEOInfinitePipeline, LEOPipeline, LIAModel, LIAPipeline
from leo_diffusers.data.talking_heads import (
    FIRST_HELD_OUT_SEED,
    MOTION_NAMES,
    render_motion,
    sample_identity,
    sample_motion,
)
from leo_diffusers.video_io import to_frame


FOLDER = Path(DEMO_MODEL)
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())
PIPELINES = (LIAPipeline, LEOEditPipeline, LEOPipeline, LEOInfinitePipeline)
MEGABYTE = 2**20


@pytest.mark.parametrize("pipeline_class", PIPELINES)
def test_every_pipeline_loads_it_whole(pipeline_class):
    pipeline = pipeline_class.from_pretrained(DEMO_MODEL)
    missing = [name for name, component in pipeline.components.items() if component is None]
    assert missing in ([], ["editor"])
    networks = [component for component in pipeline.components.values() if isinstance(component, torch.nn.Module)]
    assert {parameter.dtype for network in networks for parameter in network.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for network in networks for parameter in network.parameters())


def test_it_is_an_infinite_pipeline():
    assert isinstance(DiffusionPipeline.from_pretrained(DEMO_MODEL), LEOInfinitePipeline)


def test_it_is_small():
    assert sum(path.stat().st_size for path in FILES) <= 40 * MEGABYTE
    assert max(path.stat().st_size for path in FILES) <= 16 * MEGABYTE


def test_it_holds_weights_settings_and_a_card_with_its_pictures_only():
    assert {path.suffix for path in FILES} == {".safetensors", ".json", ".md", ".png"}
    assert [path for path in FILES if path.suffix == ".md"] == [FOLDER / "README.md"]
    card = (FOLDER / "README.md").read_text()
    assert all(f"({path.name})" in card for path in FILES if path.suffix == ".png")
    for name in json.loads((FOLDER / "model_index.json").read_text()):
        assert name.startswith("_") or (FOLDER / name).is_dir()
    weights = [path for path in FILES if path.suffix == ".safetensors"]
    assert {path.name for path in weights} == {"diffusion_pytorch_model.safetensors"}  # no variant


def test_weights_are_in_half_precision():
    for path in FILES:
        if path.suffix != ".safetensors":
            continue
        kept = set(LIAModel._keep_in_fp32_modules if path.parent.name == "animator" else ())
        with safe_open(path, framework="pt") as weights:
            wide = {name for name in weights.keys() if weights.get_slice(name).get_dtype() in ("F32", "F64")}  # noqa: SIM118
        assert {name.split(".")[0] for name in wide} <= kept, path


# --- what it has learned ---

SEEDS = (FIRST_HELD_OUT_SEED + 500, FIRST_HELD_OUT_SEED + 501)


@pytest.fixture(scope="module")
def leo() -> LEOPipeline:
    pipeline = LEOPipeline.from_pretrained(DEMO_MODEL)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def render(identity_seed: int, motion: np.ndarray, size: int) -> torch.Tensor:
    """Frames (F, 3, H, W) in [-1, 1]."""
    return torch.stack([to_frame(frame) for frame in render_motion(sample_identity(identity_seed), motion, size)[0]])


def squared_error(frames: torch.Tensor, truth: torch.Tensor) -> float:
    return (frames - truth).square().mean().item()


@pytest.mark.parametrize("driver", ["the same person", "another person"])
@pytest.mark.parametrize("seed", SEEDS)
@torch.no_grad()
def test_people_whom_it_never_saw_move_as_the_driver(leo, seed, driver):
    motion = sample_motion(seed, 64)[::8]
    size = leo.animator.config.frame_size
    truth = render(seed, motion, size)
    driving = truth if driver == "the same person" else render(seed + 100, motion, size)
    frames = LIAPipeline.from_pipe(leo)(truth[0], driving, output_type="pt").frames[0] * 2 - 1
    still = squared_error(truth[:1].expand_as(truth)[1:], truth[1:])
    assert squared_error(frames[1:], truth[1:]) < 0.4 * still


@pytest.mark.parametrize(("name", "value"), [("blink", 1.0), ("mouth", 0.9), ("yaw", 20.0), ("roll", 10.0)])
def test_single_motions_arrive(leo, name, value):
    """Nearer to what was asked for than to its absence, where it shows."""
    motion = np.zeros((2, len(MOTION_NAMES)))
    motion[:, MOTION_NAMES.index("scale")] = sample_motion(0, 2)[:, MOTION_NAMES.index("scale")].mean()
    motion[1, MOTION_NAMES.index(name)] = value
    size = leo.animator.config.frame_size
    truth, driving = render(SEEDS[0], motion, size), render(SEEDS[1], motion, size)
    frame = LIAPipeline.from_pipe(leo)(truth[0], driving, output_type="pt").frames[0, 1] * 2 - 1
    changed = (truth[1] - truth[0]).abs() > 0.1
    distances = [(frame - other).abs()[changed].mean().item() for other in truth]
    assert distances[1] < 0.6 * distances[0]


@torch.no_grad()
def test_drawn_motion_spreads_like_true_motion(leo):
    """Away from the first frame of each clip, over people whom it never saw."""
    size = leo.animator.config.frame_size
    clips = [render(seed, sample_motion(seed, 64)[::7], size) for seed in range(SEEDS[0], SEEDS[0] + 12)]
    true = torch.stack([leo.animator.encode_motion(clip) for clip in clips])
    options = {"num_inference_steps": 20, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    drawn = leo([clip[0] for clip in clips], num_frames=64, **options).motion_codes[:, ::7]
    spreads = [(codes - codes[:, :1]).std(dim=(0, 1)) for codes in (drawn, true)]
    assert 0.7 < (spreads[0] / spreads[1]).mean().item() < 1.3


@pytest.fixture(scope="module")
def drawn(leo) -> tuple[torch.Tensor, torch.Tensor]:
    """People from nothing: first frames (8, 3, H, W) in [-1, 1], and the codes (8, M) that they were drawn for."""
    options = {"num_videos_per_prompt": 8, "num_frames": 2, "num_inference_steps": 25, "output_type": "pt"}
    output = leo(**options, generator=torch.Generator().manual_seed(0))
    return output.frames[:, 0] * 2 - 1, output.motion_codes[:, 0]


@torch.no_grad()
def test_people_from_nothing_are_in_the_pose_that_was_drawn(leo, drawn):
    frames, codes = drawn
    found = leo.animator.encode_motion(frames)
    distances = torch.cdist(found / codes.std(dim=0), codes / codes.std(dim=0))
    assert (distances.argmin(dim=1) == torch.arange(8)).float().mean() >= 0.75
    others = distances[~torch.eye(8, dtype=torch.bool)]
    assert distances.diagonal().mean() < 0.75 * others.mean()


def test_people_from_nothing_are_as_vivid_as_true_ones_and_differ(leo, drawn):
    frames, _ = drawn
    size = leo.animator.config.frame_size
    true = torch.cat([render(seed, sample_motion(seed, 1), size) for seed in range(SEEDS[0], SEEDS[0] + 8)])

    def contrast(people: torch.Tensor) -> float:
        return people.std(dim=(1, 2, 3)).mean().item()

    def variety(people: torch.Tensor) -> float:
        return people.std(dim=0).mean().item()

    assert contrast(frames) > 0.7 * contrast(true)
    assert variety(frames) > 0.6 * variety(true)
