import argparse
import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from leo_diffusers import MotionPriorModel
from leo_diffusers.command_line import OneLineParser
from leo_diffusers.data.motion_codes import MotionCodes, MotionSequences
from leo_diffusers.training.arguments import add_training_arguments
from leo_diffusers.training.denoising import (
    add_denoising_arguments,
    build_schedulers,
    check_denoising_arguments,
    train_denoiser,
)


MOTION_DIM = 8


@pytest.fixture
def make_args(tmp_path):
    """Arguments of a script that trains a diffusion model: the defaults, and what is named."""

    def make(**values) -> argparse.Namespace:
        parser = OneLineParser(prog="train.py")
        add_training_arguments(parser, learning_rate=1e-3, train_batch_size=4, max_train_steps=2, ema_decay=0.9)
        add_denoising_arguments(parser)
        words = ["--output_dir", "run", "--pretrained_model_name_or_path", "animator", "--motion_codes_dir", "codes"]
        args = parser.parse_args([*words, "--report_to", "none"])
        assert set(values) <= set(vars(args))
        vars(args).update({"output_dir": tmp_path / "run", **values})
        return args

    return make


def make_codes() -> MotionCodes:
    codes = 2 * torch.randn(30, MOTION_DIM, generator=torch.Generator().manual_seed(0)) + 1
    return MotionCodes(codes, torch.tensor([0, 12, 30]), ["a.mp4", "b.mp4"], [25.0, 25.0], "0123456789abcdef")


# --- arguments ---


def test_the_defaults_are_the_papers(make_args):
    args = make_args()
    check_denoising_arguments(args)
    noise_scheduler, scheduler = build_schedulers(args, clip_sample=False)
    betas = torch.linspace(1e-4, 0.02, 1000)
    torch.testing.assert_close(noise_scheduler.alphas_cumprod, (1 - betas).cumprod(dim=0))
    assert noise_scheduler.config.prediction_type == "epsilon"


@pytest.mark.parametrize("clip_sample", [True, False])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_sampling_has_the_schedule_of_training_and_begins_at_its_end(make_args, beta_schedule, clip_sample):
    args = make_args(beta_schedule=beta_schedule, prediction_type="v_prediction", num_train_timesteps=100)
    noise_scheduler, scheduler = build_schedulers(args, clip_sample)
    assert torch.equal(noise_scheduler.alphas_cumprod, scheduler.alphas_cumprod)
    for one in (noise_scheduler, scheduler):
        assert one.config.prediction_type == "v_prediction" and one.config.clip_sample == clip_sample
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [99, 74, 49, 24]


def test_noise_is_not_predicted_where_there_is_nothing_else(make_args):
    args = make_args(beta_schedule="squaredcos_cap_v2")
    for clip_sample, least in ((False, 1e-4), (True, 0)):  # a predicted frame is put back into its range
        _, scheduler = build_schedulers(args, clip_sample)
        scheduler.set_timesteps(50)
        assert scheduler.alphas_cumprod[scheduler.timesteps[0]] > least


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_validation_samples": 1}, "--num_validation_samples must be at least 2, got 1"),
        ({"num_inference_steps": 0}, "--num_inference_steps must be from 1 to 1000, got 0"),
        ({"num_train_timesteps": 20}, "--num_inference_steps must be from 1 to 20, got 50"),
        ({"train_batch_size": 0}, "--train_batch_size must be at least 1, got 0"),  # as of all training scripts
    ],
)
def test_refusals(make_args, changes, message):
    with pytest.raises(ValueError, match=message):
        check_denoising_arguments(make_args(**changes))


# --- the loop ---


@pytest.fixture
def train(clean_state):
    """Trains a tiny prior; returns what it published: (step, whether it was in training, its last bias)."""

    def run(args: argparse.Namespace) -> list[tuple[int, bool, torch.Tensor]]:
        clean_state()
        args.output_dir.mkdir()
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=args.gradient_accumulation_steps)
        torch.manual_seed(0)
        prior, published = MotionPriorModel(MOTION_DIM, hidden_dim=16, num_layers=1), []

        def prepare_batch(prior: MotionPriorModel, batch: dict) -> tuple[torch.Tensor, dict]:
            return prior.standardize(batch["motion_codes"][:, 0]), {}

        def publish(prior: MotionPriorModel, step: int) -> None:
            published.append((step, prior.training, prior.linear_out.bias.detach().clone()))

        noise_scheduler, _ = build_schedulers(args, clip_sample=False)
        sequences = MotionSequences(make_codes(), sequence_length=1, seed=args.seed)
        train_denoiser(accelerator, args, "toy", prior, noise_scheduler, sequences, prepare_batch, publish)
        return published

    return run


def gradients_of(folder: Path) -> list[torch.Tensor]:
    """The gradients of a run's first step, from the first moments of its optimiser."""
    state = torch.load(folder / "checkpoint-1" / "optimizer.bin", weights_only=True)["state"]
    return [moments["exp_avg"] / (1 - 0.9) for moments in state.values()]


def test_a_run_publishes_and_saves_when_it_is_due(make_args, train):
    args = make_args(max_train_steps=7, validation_steps=2, checkpointing_steps=3)
    published = train(args)
    assert [step for step, _, _ in published] == [2, 3, 4, 6, 7]
    assert not any(is_training for _, is_training, _ in published)
    assert sorted(path.name for path in args.output_dir.glob("checkpoint-*")) == [
        f"checkpoint-{step}" for step in (3, 6, 7)
    ]
    lines = [json.loads(line) for line in (args.output_dir / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert all(set(line) == {"step", "loss", "lr"} for line in lines)


def test_the_moving_average_is_published(make_args, train, tmp_path):
    ((_, _, plain),) = train(make_args(output_dir=tmp_path / "plain", max_train_steps=4))
    ((_, _, average),) = train(make_args(output_dir=tmp_path / "average", max_train_steps=4, use_ema=True))
    assert not torch.equal(average, plain)
    state = torch.load(tmp_path / "average" / "checkpoint-4" / "custom_checkpoint_0.pkl", weights_only=True)
    assert torch.equal(state["shadow_params"][-1], average)


def test_accumulated_gradients_are_those_of_the_whole_batch(make_args, train, tmp_path):
    for name, batch_size, num_batches in (("one", 8, 1), ("four", 2, 4)):
        options = {"train_batch_size": batch_size, "gradient_accumulation_steps": num_batches, "max_train_steps": 1}
        train(make_args(output_dir=tmp_path / name, **options))
    expected = gradients_of(tmp_path / "one")
    assert sum(gradient.abs().sum() for gradient in expected) > 0
    torch.testing.assert_close(gradients_of(tmp_path / "four"), expected, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_as_a_whole(make_args, train):
    args = make_args(max_train_steps=1, max_grad_norm=0.01)
    train(args)
    norm = torch.cat([gradient.flatten() for gradient in gradients_of(args.output_dir)]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_gradient_checkpointing_is_refused_where_there_is_none(make_args, train):
    args = make_args(gradient_checkpointing=True)
    with pytest.raises(ValueError, match="--gradient_checkpointing is nothing that MotionPriorModel supports"):
        train(args)
    assert list(args.output_dir.iterdir()) == []
