import re
import shutil
from pathlib import Path

import pytest
import torch

from leo_diffusers import LIAPipeline, load_components
from leo_diffusers.data.motion_codes import MotionCodes
from leo_diffusers.data.shard_writing import write_shard


SHARED = ["--train_batch_size", 2, "--report_to", "none", "--seed", 3, "--validation_fraction", 0.3]
LIA = [
    *("--resolution", 32, "--block_out_channels", 16, 16, 32, 32, "--latent_dim", 32, "--motion_dim", 8),
    *("--perceptual_loss", "ssim", "--gan_weight", 0, "--num_validation_clips", 2, *SHARED),
    *("--max_train_steps", 4, "--checkpointing_steps", 2, "--validation_steps", 3),
    *("--gradient_accumulation_steps", 2, "--color_jitter", 0.1),
]
FIRST_FRAME = [
    *("--block_out_channels", 32, 32, "--layers_per_block", 1, "--num_inference_steps", 2),
    *("--num_validation_samples", 4, "--max_train_steps", 2, *SHARED),
]


@pytest.fixture(scope="module")
def videos_folder(clips_folder, tmp_path_factory) -> Path:
    """Video files only: to `datasets` a folder of numbered frames is no video."""
    folder = tmp_path_factory.mktemp("streams") / "videos"
    shutil.copytree(clips_folder, folder, ignore=shutil.ignore_patterns("frames"))
    shutil.copyfile(folder / "a.mp4", folder / "c.mp4")
    return folder


@pytest.fixture(scope="module")
def tars_folder(videos_folder) -> Path:
    """What prepare_dataset.py --format webdataset writes of it."""
    folder = videos_folder.parent / "tars"
    folder.mkdir()
    files = sorted(videos_folder.rglob("*.mp4"))
    for shard in range(2):
        samples = [({"id": file.stem, "split": "train"}, file) for file in files[shard::2]]
        write_shard(folder / f"train-{shard:06d}.tar", samples)
    return folder


@pytest.fixture(scope="module")
def straight(run_example, tars_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "lia"
    said = run_example("train_lia.py", "--dataset_name", tars_folder, "--output_dir", folder, *LIA)
    assert re.search(r"train_lia.py: warning: Skipped broken.mp4 \(.*\); \d skipped so far", said)
    assert "Skipped short.mp4 (3 frames)" in said
    return folder


def test_an_animator_is_trained_on_tar_shards(straight, tars_folder, read_lines):
    assert LIAPipeline.from_pretrained(straight).animator.config.frame_size == 32
    assert len(read_lines(straight / "losses.jsonl")) == 4
    assert {line["step"] for line in read_lines(straight / "validation.jsonl")} == {2, 3, 4}
    assert (straight / "validation" / "reconstruction-0000004.mp4").is_file()
    card = (straight / "README.md").read_text()
    assert "`tars`, split train: streamed from 2 shards." in card
    assert "--dataset_name tars" in card and str(tars_folder) not in card


def test_a_resumed_run_equals_one_that_was_not_stopped(
    straight, tars_folder, resume_after_third_step, assert_same_run
):
    resumed = resume_after_third_step("train_lia.py", straight, "--dataset_name", tars_folder, *LIA)
    assert_same_run(resumed, straight, "checkpoint-4", "animator")


def test_a_stream_is_not_continued_with_other_workers(run_example, straight, tars_folder, tmp_path):
    shutil.copytree(straight / "checkpoint-2", tmp_path / "checkpoint-2")
    options = ["--dataset_name", tars_folder, "--output_dir", tmp_path, *LIA, "--dataloader_num_workers", 2]
    said = run_example("train_lia.py", *options, "--resume_from_checkpoint", "latest", is_refused=True)
    assert "was written with the --dataloader_num_workers at 1, not 2" in said.splitlines()[-1]


def test_a_first_frame_model_is_trained_on_a_streamed_folder(run_example, inputs, videos_folder, tmp_path, read_lines):
    options = [*inputs, "--dataset_name", videos_folder, "--output_dir", tmp_path, *FIRST_FRAME]
    run_example("train_first_frame.py", *options)
    assert set(load_components(tmp_path)) == {"first_frame_unet", "first_frame_scheduler"}
    assert len(read_lines(tmp_path / "losses.jsonl")) == 2
    assert (tmp_path / "validation" / "first_frames-0000002.png").is_file()


@pytest.mark.parametrize("source", ["videos_folder", "tars_folder"])
def test_two_processes_of_two_workers_extract_the_codes_of_the_folder(
    run_example, request, source, videos_folder, animator_folder, tmp_path
):
    options = ["--pretrained_model_name_or_path", animator_folder, "--min_frames", 8, "--batch_size", 5]
    options += ["--horizontal_flip"]
    run_example("extract_motion_codes.py", *options, "--train_data_dir", videos_folder, "--output_dir", tmp_path / "a")
    streamed = ["--dataset_name", request.getfixturevalue(source), "--dataloader_num_workers", 2]
    said = run_example(
        "extract_motion_codes.py", *options, *streamed, "--output_dir", tmp_path / "b", launcher="two processes"
    )
    assert "Skipped broken.mp4" in said and "Skipped short.mp4 (3 frames)" in said
    expected, codes = MotionCodes.load(tmp_path / "a"), MotionCodes.load(tmp_path / "b")
    names = [name.replace("deep/", "") if source == "tars_folder" else name for name in expected.clip_names]
    by_name = dict(zip(names, zip(expected.clips(), expected.frames_per_second)))
    assert len(by_name) == 6 and set(codes.clip_names) == set(names)
    if source == "videos_folder":
        assert codes.clip_names == names
        assert torch.equal(codes.codes, expected.codes)
    for name, clip, rate in zip(codes.clip_names, codes.clips(), codes.frames_per_second):
        assert torch.equal(clip, by_name[name][0]) and rate == by_name[name][1]


def test_a_stopped_extraction_goes_on(run_example, tars_folder, animator_folder, tmp_path):
    options = ["--pretrained_model_name_or_path", animator_folder, "--min_frames", 8, "--output_dir", tmp_path]
    # Clips are encoded, but the result cannot be written: its name is taken by a folder.
    (tmp_path / "motion_codes.json" / "taken").mkdir(parents=True)
    with pytest.raises(AssertionError):
        run_example("extract_motion_codes.py", *options, "--dataset_name", tars_folder)
    (finished,) = tmp_path.glob(".clips-*")
    clips = sorted(finished.glob("*.safetensors"))
    assert len(clips) == 3
    times = [clip.stat().st_mtime_ns for clip in clips[1:]]
    clips[0].unlink()
    with pytest.raises(AssertionError):
        run_example("extract_motion_codes.py", *options, "--dataset_name", tars_folder)
    assert clips[0].exists() and [clip.stat().st_mtime_ns for clip in clips[1:]] == times
    shutil.rmtree(tmp_path / "motion_codes.json")
    run_example("extract_motion_codes.py", *options, "--dataset_name", tars_folder)
    assert len(MotionCodes.load(tmp_path).clip_names) == 3 and not finished.exists()


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("train_lia.py", [], "Give one of --train_data_dir and --dataset_name, got neither"),
        ("train_lia.py", ["--dataset_name", "{tars}", "--train_data_dir", "{tars}"], "--dataset_name, got both"),
        ("train_lia.py", ["--train_data_dir", "{tars}", "--video_column", "x"], "--video_column has no effect with"),
        ("train_lia.py", ["--dataset_name", "{tars}", "--video_column", "x"], "There is no --video_column x"),
        ("train_lia.py", ["--dataset_name", "{tars}", "--dataset_split", "tost"], "tost"),
        ("train_lia.py", ["--dataset_name", "nowhere/to-be-found"], "nowhere/to-be-found"),
        (
            "train_lia.py",
            ["--dataset_name", "{tars}", "--motion_weight", "1", "--no_horizontal_flip"],
            "Supervision by labels needs --train_data_dir",
        ),
        ("train_label_network.py", ["--dataset_name", "{tars}"], "--train_data_dir is needed: labels lie beside"),
        ("extract_motion_codes.py", ["--dataset_name", "{tars}", "--min_frames", "64"], "No clip of .*tars can be"),
        (
            "extract_motion_codes.py",
            ["--train_data_dir", "{tars}", "--dataloader_num_workers", "2"],
            "--dataloader_num_workers has no effect with --train_data_dir",
        ),
        ("extract_motion_codes.py", [], "got neither"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    run_example, tars_folder, animator_folder, tmp_path, script, options, message
):
    options = [option.format(tars=tars_folder) for option in options]
    options += ["--pretrained_model_name_or_path", animator_folder] if script == "extract_motion_codes.py" else []
    said = run_example(script, *options, "--output_dir", tmp_path / "out", is_refused=True)
    assert re.search(message, said.splitlines()[-1])


def test_a_stream_without_a_usable_clip_is_refused(run_example, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.mp4").write_text("this is no video")
    options = ["--dataset_name", tmp_path / "bad", "--output_dir", tmp_path / "out", *LIA]
    said = run_example("train_lia.py", *options, is_refused=True)
    assert re.search("No clip of .*bad can be used: 1 cannot be read", said.splitlines()[-1])
