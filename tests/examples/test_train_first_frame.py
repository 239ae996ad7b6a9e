import argparse
import json
import re
import runpy
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from leo_diffusers import LEOPipeline, LIAPipeline, load_components
from leo_diffusers.data.motion_codes import MotionCodes
from leo_diffusers.data.video_clips import VideoClip


NETWORK = ["--block_out_channels", 32, 32, "--layers_per_block", 1]
VALIDATION = ["--num_validation_samples", 4, "--num_inference_steps", 2]
RECIPE = [
    *NETWORK,
    *VALIDATION,
    *("--max_train_steps", 4, "--checkpointing_steps", 2, "--validation_steps", 3, "--train_batch_size", 2),
    *("--gradient_accumulation_steps", 2, "--use_ema", "--ema_decay", 0.9, "--seed", 11),
    *("--lr_scheduler", "linear", "--prediction_type", "v_prediction", "--max_grad_norm", 1.0),
    *("--learning_rate", 3e-3, "--report_to", "none"),
    *("--dropout", 0.3),  # its masks come from the random state
]


@pytest.fixture(scope="module")
def inputs(inputs, clips_folder) -> list:
    return [*inputs, "--train_data_dir", clips_folder]


@pytest.fixture(scope="module")
def script() -> dict:
    """What the script defines, by name."""
    return runpy.run_path(str(Path(__file__).parents[2] / "examples" / "train_first_frame.py"))


@pytest.fixture(scope="module")
def straight(run_example, inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "first-frame"
    said = run_example("train_first_frame.py", *inputs, "--output_dir", folder, *RECIPE)
    assert "broken.mp4" in said  # a clip that is left out is named
    return folder


def test_a_run_leaves_a_model_that_draws_a_frame_of_a_pose(straight):
    assert set(load_components(straight)) == {"first_frame_unet", "first_frame_scheduler"}
    unet = UNet2DConditionModel.from_pretrained(straight, subfolder="first_frame_unet")
    scheduler = DDIMScheduler.from_pretrained(straight, subfolder="first_frame_scheduler")
    assert unet.config.sample_size == 32 and unet.config.projection_class_embeddings_input_dim == 8
    assert scheduler.config.prediction_type == "v_prediction" and scheduler.config.clip_sample
    noise, codes = torch.randn(1, 3, 32, 32), torch.randn(2, 8)
    frames = [unet(noise, 500, None, class_labels=code[None]).sample for code in codes]
    assert frames[0].shape == (1, 3, 32, 32) and (frames[0] - frames[1]).abs().max() > 1e-4  # the pose is heard


def test_a_run_shows_what_it_learned(straight, read_lines, clips_folder, assert_card_shows):
    losses, validations = read_lines(straight / "losses.jsonl"), read_lines(straight / "validation.jsonl")
    assert [line["step"] for line in losses] == [1, 2, 3, 4]
    assert all(set(line) == {"step", "loss", "lr"} and np.isfinite(line["loss"]) for line in losses)
    assert [line["step"] for line in validations] == [2, 3, 4]
    assert set(validations[0]) == {"step", "validation/pose_error", "validation/other_pose_error"}
    picture = Image.open(straight / "validation" / "first_frames-0000004.png")
    assert picture.size == (4 * 32, 2 * 32)  # real frames above drawn ones
    assert_card_shows(straight, f"`{clips_folder.name}`: ")
    card = (straight / "README.md").read_text()
    assert "accelerate launch examples/train_first_frame.py" in card and "--block_out_channels 32 32" in card
    assert str(clips_folder) not in card and f"--train_data_dir {clips_folder.name}" in card
    assert 'load_components("first-frame")' in card and "at 32 pixels" in card


def test_the_moving_average_is_published(straight):
    average = torch.load(straight / "checkpoint-4" / "custom_checkpoint_0.pkl", weights_only=True)["shadow_params"]
    unet = UNet2DConditionModel.from_pretrained(straight, subfolder="first_frame_unet")
    assert all(map(torch.equal, unet.parameters(), average))
    trained = load_file(straight / "checkpoint-4" / "model.safetensors")
    assert not torch.equal(trained["conv_out.weight"], unet.conv_out.weight)


def test_a_resumed_run_equals_one_that_was_not_stopped(inputs, straight, resume_after_third_step, assert_same_run):
    resumed = resume_after_third_step("train_first_frame.py", straight, *inputs, *RECIPE)
    assert_same_run(resumed, straight, "checkpoint-4", "first_frame_unet")


@pytest.fixture(scope="module")
def one_step(train_one_step, inputs) -> Callable[..., Path]:
    return partial(train_one_step, "train_first_frame.py", [*inputs, *NETWORK, *VALIDATION])


@pytest.fixture(scope="module")
def one_process(one_step) -> Path:
    return one_step("python", 4)


def test_two_processes_make_the_step_of_one_with_twice_the_batch(
    one_step, one_process, read_lines, assert_same_gradients
):
    two_processes = one_step("two processes", 2)
    (losses,), (expected,) = (read_lines(folder / "losses.jsonl") for folder in (two_processes, one_process))
    assert losses == pytest.approx(expected, abs=1e-5)
    assert_same_gradients(two_processes, one_process, atol=1e-6, each=True)  # the layer of motion codes among them


def test_recomputed_activations_change_nothing(one_step, one_process, read_lines):
    folder = one_step("python", 4, "--gradient_checkpointing")
    assert read_lines(folder / "losses.jsonl") == read_lines(one_process / "losses.jsonl")


def test_a_seed_decides_data_noise_and_weights(one_step, one_process, read_lines):
    (losses,), (again,) = (read_lines(one_step("python", 4, "--seed", 5) / "losses.jsonl") for _ in range(2))
    (other,) = read_lines(one_process / "losses.jsonl")
    assert losses == again and losses["loss"] != other["loss"]


def test_frames_may_be_smaller_than_the_animators(one_step, animator_folder, make_motion_unet):
    folder = one_step("python", 2, "--resolution", 16)
    animator = LIAPipeline.from_pretrained(animator_folder).animator
    pipeline = LEOPipeline(animator, make_motion_unet(), DDIMScheduler(), **load_components(folder))
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.first_frame_unet.config.sample_size == 16
    options = {"start_motion_code": torch.zeros(8), "num_frames": 2, "num_inference_steps": 2, "output_type": "pt"}
    assert pipeline(**options).frames.shape == (1, 2, 3, 32, 32)


@pytest.mark.parametrize("patch_size", [2, 4])
def test_frames_may_be_drawn_in_patches(one_step, one_process, animator_folder, make_motion_unet, patch_size):
    folder = one_step("python", 2, "--patch_size", patch_size)
    animator = LIAPipeline.from_pretrained(animator_folder).animator
    pipeline = LEOPipeline(animator, make_motion_unet(), DDIMScheduler(), **load_components(folder))
    pipeline.set_progress_bar_config(disable=True)
    config = pipeline.first_frame_unet.config
    channels = 3 * patch_size**2
    assert (config.sample_size, config.in_channels, config.out_channels) == (32 // patch_size, channels, channels)
    options = {"start_motion_code": torch.zeros(8), "num_frames": 2, "num_inference_steps": 2, "output_type": "pt"}
    assert pipeline(**options).frames.shape == (1, 2, 3, 32, 32)
    card = (folder / "README.md").read_text()
    assert "at 32 pixels" in card and f"--patch_size {patch_size}" in card
    pictures = [Image.open(run / "validation" / "first_frames-0000001.png") for run in (folder, one_process)]
    assert pictures[0].size == (4 * 32, 2 * 32)
    real, expected = (np.asarray(picture.crop((0, 0, 4 * 32, 32))) for picture in pictures)
    np.testing.assert_array_equal(real, expected)  # real frames are not cut


@pytest.mark.parametrize(("attention_size", "levels"), [(32, 2), (16, 1), (8, 0)])
def test_only_small_maps_have_attention(script, codes_folder, attention_size, levels):
    args = argparse.Namespace(
        block_out_channels=[32, 32],
        patch_size=1,
        attention_size=attention_size,
        layers_per_block=1,
        attention_head_dim=32,
        dropout=0.0,
    )
    config = script["build_unet"](MotionCodes.load(codes_folder), 32, args).config
    assert sum(name == "AttnDownBlock2D" for name in config.down_block_types) == levels
    assert sum(name == "AttnUpBlock2D" for name in config.up_block_types) == levels


def test_what_is_not_mirrored_need_not_be_encoded(script, codes_folder):
    motion_codes = MotionCodes.load(codes_folder)
    clips = [VideoClip(Path(name), name, 8, 25.0) for name in ("2.mp4", "0.mp4")]
    found = script["find_codes"](clips, motion_codes, argparse.Namespace(no_horizontal_flip=True))
    assert [len(codes) for codes in found] == [24, 40] and torch.equal(found[1], motion_codes.codes[:40])
    assert script["find_codes"](clips, motion_codes, argparse.Namespace(no_horizontal_flip=False)) is None
    unknown = [*clips, VideoClip(Path("9.mp4"), "9.mp4", 8, 25.0)]
    assert script["find_codes"](unknown, motion_codes, argparse.Namespace(no_horizontal_flip=True)) is None


@pytest.fixture(scope="module")
def own_codes(run_example, animator_folder, clips_folder, tmp_path_factory) -> Path:
    """The codes that the animator gives the clips."""
    folder = tmp_path_factory.mktemp("own_codes")
    options = ["--pretrained_model_name_or_path", animator_folder, "--train_data_dir", clips_folder]
    run_example("extract_motion_codes.py", *options, "--output_dir", folder, "--min_frames", 2)
    return folder


def test_extracted_codes_train_as_encoded_ones_do(one_step, own_codes, read_lines, tmp_path):
    shutil.copytree(own_codes, tmp_path / "unknown")
    description = json.loads((own_codes / "motion_codes.json").read_text())
    names = [f"other-{name}" for name in description["clip_names"]]  # so that frames must be encoded
    (tmp_path / "unknown" / "motion_codes.json").write_text(json.dumps({**description, "clip_names": names}))
    folders = [
        one_step("python", 4, "--no_horizontal_flip", "--motion_codes_dir", codes)
        for codes in (own_codes, tmp_path / "unknown")
    ]
    (extracted,), (encoded,) = (read_lines(folder / "losses.jsonl") for folder in folders)
    assert extracted["loss"] == pytest.approx(encoded["loss"], rel=1e-5)


def test_the_first_layer_begins_as_if_codes_were_standardised(script, codes_folder):
    motion_codes = MotionCodes.load(codes_folder)
    linear, raw = torch.nn.Linear(8, 6), motion_codes.codes[:5]
    expected = linear((raw - motion_codes.mean) / motion_codes.std)
    script["standardize_input"](linear, motion_codes)
    torch.testing.assert_close(linear(raw), expected, rtol=1e-4, atol=1e-5)


def test_the_pose_of_a_frame_does_not_hang_on_its_size(script, animator_folder):
    animator = LIAPipeline.from_pretrained(animator_folder).animator
    frames = torch.nn.functional.interpolate(torch.rand(3, 3, 4, 4) * 2 - 1, (32, 32), mode="bicubic").clamp(-1, 1)
    with torch.no_grad():
        expected = animator.encode_motion(frames)
    assert torch.equal(script["encode_motion"](animator, frames), expected)
    larger = torch.nn.functional.interpolate(frames, (64, 64), mode="bicubic")
    assert (script["encode_motion"](animator, larger) - expected).norm() < 0.1 * expected.norm()


def test_codes_of_another_animator_are_refused(run_example, inputs, other_animator_folder, codes_folder, tmp_path):
    options = [*inputs, "--pretrained_model_name_or_path", other_animator_folder, "--output_dir", tmp_path / "out"]
    said = run_example("train_first_frame.py", *options, *NETWORK, is_refused=True)
    assert "made by another animator" in said and str(codes_folder) in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], r"--resolution must be one of \[64, 128, 256\], got 32: for another, give --block_out_channels too"),
        (["--resolution", 100], r"--resolution must be one of \[64, 128, 256\], got 100"),
        (
            [*NETWORK, "--resolution", 33],
            "--resolution must be a multiple of 2, as patches of 1 are halved 1 times, got 33",
        ),
        ([*NETWORK, "--resolution", 0], "--resolution must be a multiple of 2, .* got 0"),
        (["--block_out_channels", 32, 48], r"--block_out_channels must be multiples of 32, .* got \[32, 48\]"),
        ([*NETWORK, "--patch_size", 0], "--patch_size must be at least 1, got 0"),
        (
            [*NETWORK, "--patch_size", 3],
            "--resolution must be a multiple of 6, as patches of 3 are halved 1 times, got 32",
        ),
        ([*NETWORK, "--patch_size", 32], "--resolution must be a multiple of 64, .* got 32"),
        ([*NETWORK, "--attention_size", -1], "--attention_size must be at least 0, for no attention, got -1"),
        ([*NETWORK, "--layers_per_block", 0], "--layers_per_block must be at least 1, got 0"),
        ([*NETWORK, "--attention_head_dim", 64], "--attention_head_dim must be from 1 to 32, .* got 64"),
        ([*NETWORK, "--train_data_dir", "nowhere"], "nowhere"),
        ([*NETWORK, "--motion_codes_dir", "nowhere"], "There is no nowhere/motion_codes.safetensors"),
        ([*NETWORK, "--num_validation_samples", 1], "--num_validation_samples must be at least 2, got 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(run_example, inputs, tmp_path, changes, message):
    options = [*inputs, "--output_dir", tmp_path / "out", *VALIDATION, "--report_to", "none", *changes]
    said = run_example("train_first_frame.py", *options, is_refused=True)
    assert re.search(message, said.splitlines()[-1])
