import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from leo_diffusers import MotionPriorModel, load_components
from leo_diffusers.data.motion_codes import MotionCodes
from leo_diffusers.pipelines.denoising import denoise
from tests.support.loopback_hub import TOKEN


REPOSITORY = Path(__file__).resolve().parents[2]
NETWORK = ["--hidden_dim", 16, "--num_layers", 2]
VALIDATION = ["--num_validation_samples", 8, "--num_inference_steps", 2]
RECIPE = [
    *NETWORK,
    *VALIDATION,
    *("--max_train_steps", 4, "--checkpointing_steps", 2, "--validation_steps", 3, "--train_batch_size", 5),
    *("--gradient_accumulation_steps", 2, "--use_ema", "--ema_decay", 0.9, "--seed", 11),
    *("--lr_scheduler", "linear", "--prediction_type", "v_prediction", "--beta_schedule", "squaredcos_cap_v2"),
    *("--max_grad_norm", 1.0, "--learning_rate", 3e-3, "--report_to", "none"),
    *("--dropout", 0.3),  # its masks come from the random state
]


@pytest.fixture(scope="module")
def straight(run_example, inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "prior"
    run_example("train_motion_prior.py", *inputs, "--output_dir", folder, *RECIPE)
    return folder


def test_a_run_leaves_a_prior_that_draws_codes(straight, codes_folder):
    assert set(load_components(straight)) == {"motion_prior", "prior_scheduler"}
    prior = MotionPriorModel.from_pretrained(straight, subfolder="motion_prior")
    scheduler = DDIMScheduler.from_pretrained(straight, subfolder="prior_scheduler")
    assert (prior.config.motion_dim, prior.config.hidden_dim, prior.config.num_layers) == (8, 16, 2)
    motion_codes = MotionCodes.load(codes_folder)
    torch.testing.assert_close(torch.tensor(prior.config.motion_mean), motion_codes.mean)
    torch.testing.assert_close(torch.tensor(prior.config.motion_std), motion_codes.std)
    assert scheduler.config.prediction_type == "v_prediction" and not scheduler.config.clip_sample
    samples = denoise(prior, scheduler, torch.randn(3, 8), {}, num_inference_steps=4)
    assert prior.unstandardize(samples).shape == (3, 8) and samples.isfinite().all()


def test_a_run_shows_what_it_learned(straight, read_lines, codes_folder, assert_card_shows):
    losses, validations = read_lines(straight / "losses.jsonl"), read_lines(straight / "validation.jsonl")
    assert [line["step"] for line in losses] == [1, 2, 3, 4]
    assert all(set(line) == {"step", "loss", "lr"} and np.isfinite(line["loss"]) for line in losses)
    assert [line["step"] for line in validations] == [2, 3, 4]
    names = {"offset", "spread", "spread_min", "spread_max", "correlation"}
    assert set(validations[0]) == {"step", *(f"validation/{name}" for name in names)}
    assert_card_shows(straight, f"`{codes_folder.name}`: 4 clips, 102 frames, 4.1 seconds.")
    card = (straight / "README.md").read_text()
    assert "accelerate launch examples/train_motion_prior.py" in card and "--hidden_dim 16" in card
    assert str(codes_folder) not in card and f"--motion_codes_dir {codes_folder.name}" in card
    assert 'load_components("prior")' in card and f"spread {validations[-1]['validation/spread']:.3g}" in card


def test_the_moving_average_is_published(straight):
    average = torch.load(straight / "checkpoint-4" / "custom_checkpoint_0.pkl", weights_only=True)["shadow_params"]
    published = list(MotionPriorModel.from_pretrained(straight, subfolder="motion_prior").parameters())
    assert all(map(torch.equal, published, average))
    trained = load_file(straight / "checkpoint-4" / "model.safetensors")
    assert not torch.equal(trained["linear_out.weight"], average[-2])


def test_a_resumed_run_equals_one_that_was_not_stopped(inputs, straight, resume_after_third_step, assert_same_run):
    resumed = resume_after_third_step("train_motion_prior.py", straight, *inputs, *RECIPE)
    assert_same_run(resumed, straight, "checkpoint-4", "motion_prior")


@pytest.fixture(scope="module")
def one_step(train_one_step, inputs) -> Callable[..., Path]:
    return partial(train_one_step, "train_motion_prior.py", [*inputs, *NETWORK, *VALIDATION])


@pytest.fixture(scope="module")
def one_process(one_step) -> Path:
    return one_step("python", 8)


def test_two_processes_make_the_step_of_one_with_twice_the_batch(
    one_step, one_process, read_lines, assert_same_gradients
):
    two_processes = one_step("two processes", 4)
    (losses,), (expected,) = (read_lines(folder / "losses.jsonl") for folder in (two_processes, one_process))
    assert losses == pytest.approx(expected, abs=1e-5)
    assert_same_gradients(two_processes, one_process)


def test_a_seed_decides_data_noise_and_weights(one_step, one_process, read_lines):
    (losses,), (again,) = (read_lines(one_step("python", 8, "--seed", 5) / "losses.jsonl") for _ in range(2))
    (other,) = read_lines(one_process / "losses.jsonl")
    assert losses == again and losses["loss"] != other["loss"]


def test_codes_of_another_animator_are_refused(run_example, inputs, other_animator_folder, codes_folder, tmp_path):
    options = [*inputs, "--pretrained_model_name_or_path", other_animator_folder, "--output_dir", tmp_path / "out"]
    said = run_example("train_motion_prior.py", *options, *NETWORK, is_refused=True)
    assert "made by another animator" in said and str(codes_folder) in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--motion_codes_dir", "nowhere"], "There is no nowhere/motion_codes.safetensors"),
        (["--pretrained_model_name_or_path", "nowhere/animator"], "nowhere/animator"),
        (["--hidden_dim", 15], "`hidden_dim` must be even and at least 2, got 15"),
        (["--gradient_checkpointing"], "--gradient_checkpointing is nothing that MotionPriorModel supports"),
        (["--num_inference_steps", 2000], "--num_inference_steps must be from 1 to 1000, got 2000"),
        (["--resume_from_checkpoint", "checkpoint-7"], "checkpoint-7 is no checkpoint"),
    ],
)
def test_bad_input_is_refused_in_one_line(run_example, inputs, tmp_path, changes, message):
    options = [*inputs, "--output_dir", tmp_path / "out", *NETWORK, *VALIDATION, "--report_to", "none", *changes]
    said = run_example("train_motion_prior.py", *options, is_refused=True)
    assert re.search(message, said.splitlines()[-1])


def test_a_run_is_published(loopback_hub, inputs, codes_folder, tmp_path):
    """From its first request to the Hub to a user's download."""
    words = [*inputs, *NETWORK, *VALIDATION, "--max_train_steps", 1, "--report_to", "none", "--output_dir", "prior"]
    words += ["--push_to_hub", "--hub_token", TOKEN, "--license", "cc-by-4.0"]
    script = REPOSITORY / "examples" / "train_motion_prior.py"
    code = f"import runpy, sys\nsys.argv = {list(map(str, [script, *words]))}\n"
    loopback_hub.run(code + f"runpy.run_path({str(script)!r}, run_name='__main__')", tmp_path / "home")
    files = loopback_hub.repositories["me/prior"].files
    assert {"sample.jpg", "curves.png", "losses.jsonl", "motion_prior/config.json"} <= set(files)
    assert not [name for name in files if "checkpoint" in name or TOKEN.encode() in files[name]]
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "cc-by-4.0" and "--license cc-by-4.0" in card.text
    code = "from leo_diffusers import load_components; print(*load_components('me/prior'))"
    assert loopback_hub.run(code, tmp_path / "user").split() == ["motion_prior", "prior_scheduler"]
