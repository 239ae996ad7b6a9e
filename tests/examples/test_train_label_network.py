import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from leo_diffusers.data.frame_labels import FrameLabels
from leo_diffusers.data.talking_heads import MOTION_NAMES
from leo_diffusers.models.label_network import LabelNetwork
from leo_diffusers.video_io import read_video


NETWORK = ["--resolution", 32, "--block_out_channels", 4, 8, "--layers_per_block", 1]
RECIPE = [
    *NETWORK,
    *("--max_train_steps", 4, "--checkpointing_steps", 2, "--validation_steps", 3, "--train_batch_size", 2),
    *("--gradient_accumulation_steps", 2, "--use_ema", "--ema_decay", 0.9, "--seed", 11, "--max_grad_norm", 1.0),
    *("--lr_scheduler", "linear", "--report_to", "none"),
    *("--blur", 0.5),  # how much comes from the random state
]


@pytest.fixture(scope="module")
def straight(run_example, labelled_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "label-network"
    options = ["--train_data_dir", labelled_folder, "--output_dir", folder, *RECIPE]
    run_example("train_label_network.py", *options, launcher="accelerate")
    return folder


@pytest.fixture(scope="module")
def train(run_example, labelled_folder, tmp_path_factory):
    """Runs two steps; returns the folder."""

    def run(*more) -> Path:
        folder = tmp_path_factory.mktemp("brief") / "label-network"
        options = ["--train_data_dir", labelled_folder, "--output_dir", folder, *NETWORK, "--report_to", "none"]
        run_example("train_label_network.py", *options, "--max_train_steps", 2, "--train_batch_size", 4, *more)
        return folder

    return run


def test_a_run_leaves_a_network_that_reads(straight, labelled_folder):
    network = LabelNetwork.from_pretrained(straight)
    labels = FrameLabels.load(labelled_folder / "3.labels.safetensors")
    motion, attributes, keypoints = network.read(read_video(labelled_folder / "3.mp4", num_frames=2))
    assert motion.shape == (2, len(MOTION_NAMES)) and list(network.config.motion_names) == list(MOTION_NAMES)
    assert attributes.shape == (2, len(labels.attributes))
    assert list(network.config.attribute_names) == labels.attribute_names
    assert keypoints.shape == (2, *labels.keypoints.shape[1:]) and keypoints.isfinite().all()


def test_labels_are_standardised_by_the_training_clips(straight, labelled_folder):
    network = LabelNetwork.from_pretrained(straight)
    # The first clip is held out.
    labels = [FrameLabels.load(labelled_folder / f"{i}.labels.safetensors") for i in (1, 2, 3)]
    motion = torch.from_numpy(np.concatenate([clip_labels.motion for clip_labels in labels]))
    count = motion.shape[1]
    torch.testing.assert_close(network.mean[:count], motion.mean(dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.std[:count], motion.std(dim=0).clamp(min=1e-3), rtol=1e-4, atol=1e-5)
    attributes = torch.from_numpy(np.stack([clip_labels.attributes for clip_labels in labels]))
    torch.testing.assert_close(network.mean[count:], attributes.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_a_run_shows_what_it_learned(straight, read_lines, labelled_folder, assert_card_shows):
    losses, validations = read_lines(straight / "losses.jsonl"), read_lines(straight / "validation.jsonl")
    assert [line["step"] for line in losses] == [1, 2, 3, 4]
    for line in losses:
        assert set(line) == {"step", "labels", "keypoints", "lr"} and np.isfinite(list(line.values())).all()
    assert [line["step"] for line in validations] == [2, 3, 4]
    names = {*MOTION_NAMES, "attribute_error", "keypoint_pixels"}
    assert set(validations[0]) == {"step", *(f"validation/{name}" for name in names)}
    assert all(np.isfinite(list(line.values())).all() for line in validations)
    assert 0 < validations[-1]["validation/keypoint_pixels"] < 32
    assert_card_shows(straight, f"`{labelled_folder.name}`: 4 clips, 48 frames, 1.9 seconds.")
    card = (straight / "README.md").read_text()
    assert "accelerate launch examples/train_label_network.py" in card and "--block_out_channels 4 8" in card
    assert str(labelled_folder) not in card and f"--train_data_dir {labelled_folder.name}" in card


def test_the_snippet_of_the_card_runs(straight, monkeypatch):
    (snippet,) = re.findall(r"```python\n(.*?)```", (straight / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(straight.parent)
    names = {}
    exec(snippet, names)
    assert names["motion"].shape == (1, len(MOTION_NAMES)) and names["keypoints"].shape[0] == 1


def test_the_moving_average_is_published(straight):
    average = torch.load(straight / "checkpoint-4" / "custom_checkpoint_0.pkl", weights_only=True)["shadow_params"]
    network = LabelNetwork.from_pretrained(straight)
    assert all(map(torch.equal, network.parameters(), average))
    trained = load_file(straight / "checkpoint-4" / "model.safetensors")
    assert not torch.equal(trained["keypoint_head.weight"], network.keypoint_head.weight)


def test_a_resumed_run_equals_one_that_was_not_stopped(
    labelled_folder, straight, resume_after_third_step, assert_same_run
):
    options = ["--train_data_dir", labelled_folder, *RECIPE]
    resumed = resume_after_third_step("train_label_network.py", straight, *options)
    assert_same_run(resumed, straight, "checkpoint-4", ".")


def test_without_keypoints(train, read_lines):
    folder = train("--no_keypoints", "--kernel_size", 5)
    assert set(read_lines(folder / "losses.jsonl")[0]) == {"step", "labels", "lr"}
    assert "validation/keypoint_pixels" not in read_lines(folder / "validation.jsonl")[-1]
    network = LabelNetwork.from_pretrained(folder)
    assert network.config.num_keypoints == 0 and network.config.kernel_size == 5


def test_frames_are_softened_as_far_as_is_asked_for(train, read_lines):
    plain, soft, again = (
        read_lines(train(*more) / "losses.jsonl")[0] for more in ([], ["--blur", 0.5], ["--blur", 0.5])
    )
    assert soft == again and soft["labels"] != plain["labels"]


def test_most_clips_may_be_held_out(train):
    """At least one is trained on."""
    network = LabelNetwork.from_pretrained(train("--validation_fraction", 0.89))
    assert network.std.min() == pytest.approx(1e-3)  # of the attributes of one person


def test_it_learns(train, read_lines):
    folder = train("--max_train_steps", 40, "--learning_rate", 0.01, "--validation_steps", 40)
    losses = read_lines(folder / "losses.jsonl")
    for name in ("labels", "keypoints"):
        first, last = (np.mean([line[name] for line in part]) for part in (losses[:5], losses[-5:]))
        assert last < 0.8 * first, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train_data_dir", "nowhere"], "nowhere"),
        (["--train_data_dir", "{unlabelled}"], r"There are no labels .*0\.labels\.safetensors: render clips with"),
        (["--train_data_dir", "{short}"], "The labels of 1.mp4 tell of 5 frames, but it has 12"),
        (["--train_data_dir", "{single}"], "holds one clip only: one more is needed"),
        (["--train_data_dir", "{bare}"], "hold neither motion nor attributes to be learned"),
        (["--validation_fraction", 0], "--validation_fraction must be between 0 and 0.9, got 0"),
        (["--train_batch_size", 1], "--train_batch_size must be at least 2, .* got 1"),
        (["--blur", 1.5], "--blur must be between 0 and 1, got 1.5"),
        (["--blur", 0.1, "--train_batch_size", 4], "--blur 0.1 of --train_batch_size 4 is not one frame"),
        (["--gradient_checkpointing"], "--gradient_checkpointing is nothing that LabelNetwork supports"),
        (["--resolution", 34], "`frame_size` must be a multiple of 4, as 2 levels halve it, got 34"),
        (["--resolution", 0], "`frame_size` must be a multiple of 4, .* got 0"),
        (["--block_out_channels", 8], "`block_out_channels` must hold at least two numbers"),
        (["--block_out_channels", 8, 0], "`block_out_channels` must hold at least two numbers above 0"),
        (["--kernel_size", 4], "`kernel_size` must be odd, got 4"),
        (["--layers_per_block", 0], "`layers_per_block` must be at least 1, got 0"),
        (["--resume_from_checkpoint", "checkpoint-7"], "checkpoint-7 is no checkpoint"),
    ],
)
def test_bad_input_is_refused_in_one_line(run_example, labelled_folder, bad_folders, tmp_path, options, message):
    options = [str(option).format_map(bad_folders) for option in options]
    defaults = ["--train_data_dir", labelled_folder, "--output_dir", tmp_path / "out", "--report_to", "none", *NETWORK]
    said = run_example("train_label_network.py", *defaults, *options, is_refused=True)
    assert re.search(message, said.splitlines()[-1])


@pytest.fixture(scope="module")
def bad_folders(labelled_folder, tmp_path_factory) -> dict[str, Path]:
    """Data sets by what is wrong with them."""
    folders = {name: tmp_path_factory.mktemp("bad") / name for name in ("unlabelled", "short", "single", "bare")}
    for folder in folders.values():
        shutil.copytree(labelled_folder, folder)
    (folders["unlabelled"] / "0.labels.safetensors").unlink()
    labels = FrameLabels.load(labelled_folder / "1.labels.safetensors")
    names = labels.keypoint_groups, labels.motion_names, labels.attribute_names
    short = FrameLabels(labels.keypoints[:5], labels.motion[:5], labels.attributes, *names)
    short.save(folders["short"] / "1.labels.safetensors")
    for index in range(1, 4):
        (folders["single"] / f"{index}.mp4").unlink()
    for index in range(4):
        bare = FrameLabels(labels.keypoints, labels.motion[:, :0], labels.attributes[:0])
        bare.save(folders["bare"] / f"{index}.labels.safetensors")
    return folders
