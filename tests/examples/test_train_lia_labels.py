"""Stage 1 beyond the papers: supervision by labels, a label network as perceptual loss, in-painted colours."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from leo_diffusers import LIAPipeline
from leo_diffusers.data.frame_labels import FrameLabels
from leo_diffusers.data.talking_heads import MOTION_NAMES
from leo_diffusers.models.label_network import LabelNetwork


NETWORK = ["--resolution", 32, "--block_out_channels", 16, 16, 32, 32, "--latent_dim", 32, "--motion_dim", 8]
LABELS = [
    *("--keypoint_weight", 10, "--keypoint_steps", 3, "--motion_weight", 0.5, "--region_weight", 4),
    *("--regions", "mouth", "jaw", "--cross_identity", 0.5, "--no_horizontal_flip"),
]
RECIPE = [
    *NETWORK,
    *LABELS,
    *("--inpaint_rgb", "--warp_source_image", "--align_corners", "--perceptual_loss", "labels"),
    *("--train_batch_size", 2, "--gradient_accumulation_steps", 2, "--use_ema", "--max_train_steps", 4),
    *("--checkpointing_steps", 2, "--validation_steps", 3, "--seed", 3, "--validation_fraction", 0.2),
    *("--max_grad_norm", 100, "--color_jitter", 0.1, "--report_to", "none"),
]


@pytest.fixture(scope="module")
def label_network(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("label_network") / "label-network"
    LabelNetwork(32, 4, ["yaw"], [], [0.0], [10.0], block_out_channels=(4, 8)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def inputs(labelled_folder, label_network) -> list:
    return ["--train_data_dir", labelled_folder, "--label_network", label_network]


@pytest.fixture(scope="module")
def straight(run_example, inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "lia"
    run_example("train_lia.py", *inputs, "--output_dir", folder, *RECIPE, launcher="accelerate")
    return folder


def test_what_labels_teach_is_logged(straight, read_lines):
    losses = read_lines(straight / "losses.jsonl")
    always = {"step", "l1", "perceptual", "adversarial", "discriminator", "motion", "lr"}
    # The pull of the keypoints is gone after its steps.
    assert [set(line) for line in losses] == [always | {"keypoints"}] * 3 + [always]
    assert all(np.isfinite(list(line.values())).all() and min(line.values()) > 0 for line in losses)


def test_a_run_leaves_a_pipeline_without_what_only_training_needs(straight, labelled_folder):
    animator = LIAPipeline.from_pretrained(straight).animator
    assert animator.config.inpaint_rgb is True and animator.config.align_corners is True
    assert {path.name for path in straight.iterdir() if path.is_dir()} >= {"animator", "checkpoint-4"}
    assert not any("reader" in name for name in animator.state_dict())
    card = (straight / "README.md").read_text()
    assert "--inpaint_rgb" in card and "--regions mouth jaw" in card and "perceptual loss: labels" in card
    assert "--label_network label-network" in card and str(labelled_folder.parent) not in card


def test_all_that_learns_is_saved(straight):
    states = [load_file(path) for path in sorted((straight / "checkpoint-4").glob("model*.safetensors"))]
    readers = [state for state in states if state.keys() == {"weight", "bias"}]
    assert len(states) == 3 and len(readers) == 1
    assert readers[0]["weight"].shape == (len(MOTION_NAMES), 8)
    before = next(
        state
        for state in map(load_file, sorted((straight / "checkpoint-2").glob("model*.safetensors")))
        if state.keys() == {"weight", "bias"}
    )
    assert not torch.equal(before["weight"], readers[0]["weight"])


def test_a_resumed_run_equals_one_that_was_not_stopped(inputs, straight, resume_after_third_step, assert_same_run):
    resumed = resume_after_third_step("train_lia.py", straight, *inputs, *RECIPE)
    assert_same_run(resumed, straight, "animator")
    for path in (straight / "checkpoint-4").glob("model*.safetensors"):
        ours, theirs = load_file(resumed / path.relative_to(straight)), load_file(path)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- one step on four pairs ---


@pytest.fixture(scope="module")
def one_step(train_one_step, labelled_folder, animator_folder, read_lines):
    """Losses of a step from given weights, which still show the source unmoved."""
    options = ["--train_data_dir", labelled_folder, "--pretrained_model_name_or_path", animator_folder]
    options += ["--gan_weight", 0, "--perceptual_loss", "none", "--no_horizontal_flip"]

    def run(*more, launcher: str = "python", train_batch_size: int = 4) -> dict[str, float]:
        folder = train_one_step("train_lia.py", options, launcher, train_batch_size, *more)
        (losses,) = read_lines(folder / "losses.jsonl")
        assert losses.pop("step") == 1
        return losses

    return run


@pytest.fixture(scope="module")
def plain(one_step) -> dict[str, float]:
    return one_step()


def test_regions_weigh_their_pixels(one_step, plain):
    assert set(plain) == {"l1", "lr"}
    more, less, none = (one_step("--region_weight", weight)["l1"] for weight in (4, 0.5, 0))
    inside = (more - plain["l1"]) / 3  # the L1 that the boxes hold
    assert inside > 0
    assert less == pytest.approx(plain["l1"] - 0.5 * inside, rel=1e-4)
    assert none == pytest.approx(plain["l1"] - inside, rel=1e-4)
    other = one_step("--region_weight", 4, "--regions", "jaw")["l1"]
    assert other > more  # a larger box


def test_keypoints_pull_by_their_weight(one_step, plain):
    single, double = (one_step("--keypoint_weight", weight) for weight in (1, 2))
    assert set(single) == {"l1", "keypoints", "lr"} and single["l1"] == plain["l1"]
    assert single["keypoints"] > 0.01 and double["keypoints"] == pytest.approx(2 * single["keypoints"])


def test_another_person_may_drive(one_step, plain):
    alike, crossed = (one_step("--motion_weight", 1, *more) for more in ([], ["--cross_identity", 1]))
    assert set(alike) == {"l1", "motion", "lr"}
    # The target is the same; what is read is another frame, in the motion that the label tells.
    assert crossed["l1"] == alike["l1"] == plain["l1"] and crossed["motion"] != alike["motion"]
    assert crossed["motion"] == pytest.approx(alike["motion"], rel=0.5)


def test_two_processes_log_the_losses_of_one(one_step):
    options = ["--motion_weight", 1, "--keypoint_weight", 1, "--region_weight", 2, "--cross_identity", 0.5]
    expected = one_step(*options)
    assert one_step(*options, launcher="two processes", train_batch_size=2) == pytest.approx(expected, abs=1e-5)


def test_half_precision_comes_near(one_step, label_network):
    options = [*LABELS, "--perceptual_loss", "labels", "--label_network", label_network]
    expected = one_step(*options)
    losses = one_step(*options, "--mixed_precision", "bf16")
    assert set(losses) == {"l1", "perceptual", "keypoints", "motion", "lr"}
    assert losses == pytest.approx(expected, rel=0.03) and losses != expected


# --- bad input ---


@pytest.fixture(scope="module")
def folders(labelled_folder, clips_folder, animator_folder, tmp_path_factory) -> dict[str, Path]:
    """Data sets by what is wrong with them, and the folder of another model."""
    folders = {name: tmp_path_factory.mktemp("bad") / name for name in ("short", "alone", "bare")}
    for folder in folders.values():
        shutil.copytree(labelled_folder, folder)
    for index in range(4):
        path = labelled_folder / f"{index}.labels.safetensors"
        labels = FrameLabels.load(path)
        names = labels.keypoint_groups, labels.motion_names, labels.attribute_names
        values = labels.keypoints, labels.motion, labels.attributes
        FrameLabels(*values, *names).save(folders["alone"] / path.name)  # no motion is another's
        FrameLabels(labels.keypoints[:, :0], labels.motion[:, :0], labels.attributes[:0]).save(
            folders["bare"] / path.name
        )
        if index == 2:
            FrameLabels(values[0][:6], values[1][:6], values[2], *names).save(folders["short"] / path.name)
    return folders | {"unlabelled": clips_folder, "animator": animator_folder}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keypoint_weight", -1], "--keypoint_weight, .* must not be negative"),
        (["--motion_weight", -1], "--motion_weight and --region_weight must not be negative"),
        (["--region_weight", -0.5], "--region_weight must not be negative"),
        (["--keypoint_steps", 0], "--keypoint_steps be below 1, got 0"),
        (["--cross_identity", 1.5], "--cross_identity must be between 0 and 1, got 1.5"),
        (["--regions", "nose"], "--regions has no effect at --region_weight 1"),
        (["--regions", "tail", "--region_weight", 2], "--regions tail is none of the labels' groups: mouth, left_eye"),
        (["--regions", "left_iris", "--region_weight", 2], "--regions left_iris has no extent"),
        (["--perceptual_loss", "labels"], "--perceptual_loss labels and --label_network go together"),
        (["--label_network", "{animator}"], "--perceptual_loss labels and --label_network go together"),
        (["--perceptual_loss", "labels", "--label_network", "nowhere"], "no folder nowhere for --label_network"),
        (["--perceptual_loss", "labels", "--label_network", "{animator}"], "no file named config.json"),
        (["--perceptual_loss", "labels", "--label_network", "{animator}/animator"], "no LabelNetwork but a LIAModel"),
        (["--vgg19_weights", "vgg19.pth"], "--vgg19_weights has no effect with --perceptual_loss none"),
        (["--train_data_dir", "{unlabelled}", "--motion_weight", 1], r"There are no labels .*a\.labels\.safetensors"),
        (
            ["--train_data_dir", "{short}", "--region_weight", 0.5],
            r"The labels of 2\.mp4 tell of 6 frames, but it has",
        ),
        (["--train_data_dir", "{alone}", "--cross_identity", 0.5], "needs clips of different people in the same mot"),
        (["--train_data_dir", "{bare}", "--keypoint_weight", 1], "--keypoint_weight has no effect: .* no keypoint"),
        (["--train_data_dir", "{bare}", "--motion_weight", 1], "--motion_weight has no effect: .* no motion"),
        (["--train_data_dir", "{bare}", "--region_weight", 2], "--regions mouth is none of the labels' groups"),
        (["--pretrained_model_name_or_path", "{animator}", "--inpaint_rgb"], "--inpaint_rgb cannot be changed with"),
    ],
)
def test_bad_input_is_refused_in_one_line(run_example, labelled_folder, folders, tmp_path, options, message):
    options = [str(option).format_map(folders) for option in options]
    network = [] if "--pretrained_model_name_or_path" in options else NETWORK
    defaults = ["--train_data_dir", labelled_folder, "--output_dir", tmp_path / "out", "--report_to", "none"]
    defaults += ["--perceptual_loss", "none", "--no_horizontal_flip", "--max_train_steps", 1]
    said = run_example("train_lia.py", *defaults, *network, *options, is_refused=True)
    assert re.search(message, said.splitlines()[-1])


def test_mirrored_frames_have_no_labels(run_example, labelled_folder, tmp_path):
    defaults = ["--train_data_dir", labelled_folder, "--output_dir", tmp_path / "out", *NETWORK]
    for name, value in (("keypoint_weight", 1), ("motion_weight", 1), ("region_weight", 0.5), ("cross_identity", 1)):
        said = run_example("train_lia.py", *defaults, f"--{name}", value, is_refused=True)
        assert "Supervision by labels needs --no_horizontal_flip" in said.splitlines()[-1]
