import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from leo_diffusers import LEOPipeline, LIAPipeline, load_components
from leo_diffusers.data.motion_codes import MotionCodes, hash_animator
from leo_diffusers.video_io import VideoReader, read_video, write_image


NETWORK = ["--sequence_length", 16, "--block_out_channels", 16, 32, "--attention_levels", 1, "--layers_per_block", 1]
VALIDATION = ["--num_validation_samples", 4, "--num_inference_steps", 2]
RECIPE = [
    *NETWORK,
    *VALIDATION,
    *("--max_train_steps", 4, "--checkpointing_steps", 2, "--validation_steps", 3, "--train_batch_size", 3),
    *("--gradient_accumulation_steps", 2, "--use_ema", "--ema_decay", 0.9, "--seed", 11),
    *("--lr_scheduler", "linear", "--lr_warmup_steps", 1, "--snr_gamma", 5, "--prediction_type", "v_prediction"),
    *("--adam_weight_decay", 0.01, "--max_grad_norm", 1.0, "--learning_rate", 3e-3),
    *("--dropout", 0.3),  # its masks come from the random state
]


@pytest.fixture(scope="module")
def image(clips_folder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("image") / "photo.png"
    write_image(path, read_video(clips_folder / "a.mp4", num_frames=1)[0])
    return path


@pytest.fixture(scope="module")
def straight(run_example, inputs, image, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "leo"
    options = [*inputs, "--output_dir", folder, *RECIPE, "--validation_image", image]
    run_example("train_lmdm.py", *options, launcher="accelerate")
    return folder


def test_a_run_leaves_a_pipeline_that_turns_an_image_into_a_video(straight, image, codes_folder):
    pipeline = LEOPipeline.from_pretrained(straight)
    pipeline.set_progress_bar_config(disable=True)
    motion_codes, config = MotionCodes.load(codes_folder), pipeline.motion_unet.config
    assert config.condition == "start" and config.sequence_length == 16
    torch.testing.assert_close(torch.tensor(config.motion_mean), motion_codes.mean)
    torch.testing.assert_close(torch.tensor(config.motion_std), motion_codes.std)
    assert pipeline.scheduler.config.prediction_type == "v_prediction" and not pipeline.scheduler.config.clip_sample
    frame = read_video(straight / "validation" / "generated-0000004.mp4", num_frames=1)
    output = pipeline(frame[0], num_frames=16, num_inference_steps=2, output_type="np")
    assert output.frames.shape == (1, 16, 32, 32, 3) and np.isfinite(output.frames).all()


def test_a_run_shows_what_it_learned(straight, read_lines, codes_folder, assert_card_shows):
    assert_card_shows(straight, f"`{codes_folder.name}`: 4 clips, 102 frames, 4.1 seconds.")
    assert (straight / "sample.mp4").is_file()
    losses, validations = read_lines(straight / "losses.jsonl"), read_lines(straight / "validation.jsonl")
    assert [line["step"] for line in losses] == [1, 2, 3, 4]
    assert all(set(line) == {"step", "loss", "lr"} and np.isfinite(line["loss"]) for line in losses)
    assert [line["lr"] for line in losses] == pytest.approx([3e-3, 2e-3, 1e-3, 0])
    assert [line["step"] for line in validations] == [2, 3, 4]
    names = {"spread", "spread_min", "spread_max", "slow", "fast"}
    assert set(validations[0]) == {"step", *(f"validation/{name}" for name in names)}
    assert (straight / "validation" / "generated-0000003.png").is_file()
    assert len(VideoReader(straight / "validation" / "generated-0000004.mp4")) == 16
    card = (straight / "README.md").read_text()
    assert "accelerate launch examples/train_lmdm.py" in card and "--snr_gamma 5" in card
    assert str(codes_folder) not in card and str(straight.parent) not in card
    assert f"--motion_codes_dir {codes_folder.name}" in card and "--validation_image photo.png" in card


def test_a_resumed_run_equals_one_that_was_not_stopped(
    inputs, image, straight, resume_after_third_step, assert_same_run
):
    options = [*inputs, *RECIPE, "--validation_image", image, "--report_to", "none"]
    resumed = resume_after_third_step("train_lmdm.py", straight, *options)
    assert_same_run(resumed, straight, "checkpoint-4", "motion_unet", "animator")


def test_the_animator_stays_as_it_was(straight, animator_folder):
    ours, theirs = (LIAPipeline.from_pretrained(folder).animator for folder in (straight, animator_folder))
    assert hash_animator(ours) == hash_animator(theirs)
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


@pytest.mark.parametrize("condition", ["none", "start_end"])
def test_runs_of_the_other_conditions(run_example, inputs, tmp_path, read_lines, assert_card_shows, condition):
    """Two steps, then the second of them once more, resumed."""
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    options = [*inputs, *NETWORK, *VALIDATION, "--condition", condition, "--checkpointing_steps", 1, "--use_ema"]
    options += ["--max_train_steps", 2, "--train_batch_size", 2, "--report_to", "none", "--dropout", 0.3]
    run_example("train_lmdm.py", *options, "--output_dir", straight)
    shutil.copytree(straight, resumed)
    shutil.rmtree(resumed / "checkpoint-2")
    run_example("train_lmdm.py", *options, "--output_dir", resumed, "--resume_from_checkpoint", "latest")

    unet_name, scheduler_name = {
        "none": ("motion_unet", "scheduler"),
        "start_end": ("transition_unet", "transition_scheduler"),
    }[condition]
    components = load_components(straight)
    assert set(components) == {unet_name, scheduler_name}
    unet, scheduler = components[unet_name], components[scheduler_name]
    assert unet.config.condition == condition
    assert unet.num_sample_frames == {"none": 16, "start_end": 14}[condition]
    assert scheduler.config.prediction_type == "epsilon" and not scheduler.config.clip_sample
    if condition == "none":
        assert LEOPipeline.from_pretrained(straight).motion_unet.config.condition == "none"
    average = torch.load(straight / "checkpoint-2" / "custom_checkpoint_0.pkl", weights_only=True)["shadow_params"]
    assert all(map(torch.equal, unet.parameters(), average))

    assert read_lines(resumed / "losses.jsonl") == read_lines(straight / "losses.jsonl")
    assert [line["step"] for line in read_lines(straight / "losses.jsonl")] == [1, 2]
    assert read_lines(resumed / "validation.jsonl") == read_lines(straight / "validation.jsonl")
    assert all(map(torch.equal, load_components(resumed)[unet_name].parameters(), unet.parameters()))
    assert_card_shows(straight, "4 clips, 102 frames")
    card = ModelCard.load(straight / "README.md")
    assert f"--condition {condition}" in card.text and f"condition {condition}" in card.text
    assert "image-to-video" not in card.data.tags  # a photo is nothing that these can start from


@pytest.fixture(scope="module")
def one_step(train_one_step, inputs) -> Callable[..., Path]:
    return partial(train_one_step, "train_lmdm.py", [*inputs, *NETWORK, *VALIDATION])


@pytest.fixture(scope="module")
def one_process(one_step) -> Path:
    return one_step("python", 8)


@pytest.fixture(scope="module", params=["start", "start_end"])
def two_and_one(request, one_step) -> tuple[Path, Path]:
    """One step by two processes, and by one with twice the batch."""
    condition = ["--condition", request.param]
    return one_step("two processes", 4, *condition), one_step("python", 8, *condition)


def test_two_processes_make_the_step_of_one_with_twice_the_batch(two_and_one, assert_same_gradients):
    assert_same_gradients(*two_and_one)


def test_two_processes_log_the_loss_of_the_whole_batch(two_and_one, read_lines):
    (losses,), (expected,) = (read_lines(folder / "losses.jsonl") for folder in two_and_one)
    assert losses == pytest.approx(expected, abs=1e-5)


def test_recomputed_activations_change_nothing(one_step, one_process, read_lines):
    folder = one_step("python", 8, "--gradient_checkpointing")
    assert read_lines(folder / "losses.jsonl") == read_lines(one_process / "losses.jsonl")


@pytest.mark.parametrize("seed", [1, 20240131])
def test_a_seed_decides_data_noise_and_weights(one_step, one_process, read_lines, seed):
    (losses,), (again,) = (read_lines(one_step("python", 8, "--seed", seed) / "losses.jsonl") for _ in range(2))
    (other,) = read_lines(one_process / "losses.jsonl")
    assert losses == again and losses["loss"] != other["loss"]


def test_codes_of_another_animator_are_refused(run_example, inputs, other_animator_folder, codes_folder, tmp_path):
    options = [*inputs, "--pretrained_model_name_or_path", other_animator_folder, "--output_dir", tmp_path / "out"]
    said = run_example("train_lmdm.py", *options, *NETWORK, is_refused=True)
    assert "made by another animator" in said and str(codes_folder) in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--motion_codes_dir", "nowhere"], "There is no nowhere/motion_codes.safetensors"),
        (["--sequence_length", 64], "No clip has the 64 frames .* the longest has 40"),
        (["--num_inference_steps", 2000], "--num_inference_steps must be from 1 to 1000, got 2000"),
        (["--resume_from_checkpoint", "checkpoint-7"], "checkpoint-7 is no checkpoint"),
        (["--num_attention_heads", 5], r"`num_attention_heads` \(5\) must divide the 32 channels"),
        (["--condition", "none", "--validation_image", "photo.png"], "--validation_image needs --condition start"),
        (["--validation_image", "photo.png"], "There is no image photo.png for --validation_image"),
    ],
)
def test_bad_input_is_refused_in_one_line(run_example, inputs, tmp_path, changes, message):
    options = [*inputs, "--output_dir", tmp_path / "out", *NETWORK, *VALIDATION, "--report_to", "none", *changes]
    said = run_example("train_lmdm.py", *options, is_refused=True)
    assert re.search(message, said.splitlines()[-1])
