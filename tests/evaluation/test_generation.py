import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from leo_diffusers import LEOInfinitePipeline, LEOPipeline
from leo_diffusers.data.talking_heads import render_clip
from leo_diffusers.data.video_clips import VideoClip, find_clips
from leo_diffusers.evaluation.generation import (
    evaluate_generation,
    generation_settings,
    plan_trials,
    real_settings,
    smaller,
    trial_numbers,
)
from leo_diffusers.evaluation.parts import EvaluationParts
from leo_diffusers.evaluation.readers import Readers
from leo_diffusers.evaluation.real_clips import read_clip
from leo_diffusers.evaluation.video_maker import GenerationSettings, VideoMaker, seeded
from leo_diffusers.metrics.protocols import DIGAN, STYLEGAN_V, ClipPosition
from leo_diffusers.video_io import to_frame, to_uint8, write_image
from tests.conftest import REPOSITORY, build_full_pipeline


PROTOCOL = smaller(DIGAN, 3, 2)
SETTINGS = GenerationSettings(4, 2, 2, conditional=True, num_inference_steps=2)
TWO_PROCESSES = """
import json, sys
from pathlib import Path
from tests.evaluation.test_generation import evaluate

result = evaluate(Path(sys.argv[1]), Path(sys.argv[2]))
Path(sys.argv[2], f"result-{result.pop('rank')}.json").write_text(json.dumps(result))
"""


def pooled(frames: torch.Tensor) -> torch.Tensor:
    """Frames (..., 3, H, W) -> the mean colours of their quarters, (..., 12)."""
    return F.adaptive_avg_pool2d(frames.flatten(0, -4), 2).flatten(1).unflatten(0, frames.shape[:-3])


def clip_features(clips: torch.Tensor) -> torch.Tensor:
    return torch.cat([pooled(clips).mean(dim=1), pooled(clips).std(dim=1)], dim=1)


READERS = Readers(clip=clip_features, identity=pooled)


def write_frames(folder: Path, frames: torch.Tensor) -> None:
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        write_image(folder / f"{index:03d}.png", frame)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Three talking heads of 24 frames and 48 x 32 pixels, without loss."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        frames = torch.stack([to_frame(frame) for frame in render_clip(seed, seed, 24, 48).frames])
        write_frames(folder / f"person#{seed}", frames[:, :, 8:40])
    return folder


def evaluate(videos, folder, protocol=PROTOCOL, settings=SETTINGS, readers=READERS, pipeline=None) -> dict:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    pipeline = pipeline or build_full_pipeline(LEOInfinitePipeline)
    described = generation_settings(pipeline, readers, protocol, settings)
    parts = EvaluationParts(folder, described, accelerator)
    real = real_settings(pipeline.animator.config.frame_size, readers, protocol, settings)
    real_parts = EvaluationParts(folder / "real", real, accelerator)
    result = evaluate_generation(pipeline, find_clips(videos)[0], readers, real_parts, parts, protocol, settings)
    return {**result, "rank": accelerator.process_index}


@pytest.fixture(scope="module")
def measured(videos, tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("evaluation")
    return evaluate(videos, folder), folder


# --- numbers ---


def test_a_result_says_what_it_is_of(measured):
    result, folder = measured
    assert json.loads(json.dumps(result)) == {**result, "generation": vars(SETTINGS)}
    assert result["protocol"]["name"] == "digan, 3 clips, 2 trials" and result["protocol"]["repeats"] == 2
    assert (result["num_real"], result["num_fake"], result["num_frames"], result["frame_stride"]) == (3, 3, 4, 2)
    assert result["codecs"] == {"folder of .png": 3} and result["left_out"] == {}
    assert set(result["readers"]) == {"clip", "identity"} and "motion_unet" in result["model"]["networks"]
    for name in ("fvd", "kvd", "acd", "acd_real"):
        values = torch.tensor(result[name]["trials"], dtype=torch.float64)
        assert len(values) == 2 and values[0] != values[1]
        assert result[name]["mean"] == pytest.approx(values.mean().item())
        assert result[name]["std"] == pytest.approx(values.std(correction=0).item())
    assert len(list((folder / "parts").glob("fake*.safetensors"))) == 6


def test_videos_that_are_the_real_ones_are_at_no_distance(tmp_path, full_pipeline):
    protocol, settings = smaller(STYLEGAN_V, 3, 1), GenerationSettings(6, 1, 1, False, 2)
    make_video = VideoMaker(full_pipeline, settings)
    for index in range(3):
        write_frames(tmp_path / "videos" / str(index), make_video(None, seeded(protocol.seed, 0, index)))
    result = evaluate(tmp_path / "videos", tmp_path / "out", protocol, settings, pipeline=full_pipeline)
    assert result["fvd"]["mean"] == pytest.approx(0, abs=1e-9)
    assert result["acd"]["mean"] == pytest.approx(result["acd_real"]["mean"]) and result["acd"]["mean"] > 0


def test_equal_features_are_at_no_distance():
    parts = [{"clip": torch.randn(5), "acd": torch.tensor(1.0)} for _ in range(20)]
    numbers = trial_numbers(parts, parts, ddof=1)
    assert numbers["fvd"] == pytest.approx(0, abs=1e-6) and numbers["acd"] == numbers["acd_real"] == 1


@pytest.mark.parametrize("ddof", [0, 1])
def test_covariances_are_those_of_the_protocol(ddof):
    generator = np.random.default_rng(0)
    real, fake = generator.normal(size=(9, 3)), generator.normal(size=(7, 3)) * 2 + 1
    sides = [[{"clip": torch.from_numpy(features)} for features in side] for side in (real, fake)]
    covariances = [np.cov(side, rowvar=False, ddof=ddof) for side in (real, fake)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((real.mean(axis=0) - fake.mean(axis=0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)
    assert trial_numbers(*sides, ddof)["fvd"] == pytest.approx(expected, rel=1e-6)


def test_what_no_network_reads_is_not_measured(videos, tmp_path):
    result = evaluate(videos, tmp_path, readers=Readers(identity=pooled))
    assert "acd" in result and "fvd" not in result and "kvd" not in result


# --- the same numbers, however they are come by ---


def test_a_stopped_evaluation_goes_on(measured, videos, tmp_path):
    result, folder = measured
    evaluate(videos, tmp_path)
    files = sorted(tmp_path.rglob("parts/*.safetensors"))
    assert {path.parent.parent.name for path in files[1::2]} == {tmp_path.name, "real"}
    times = {path: path.stat().st_mtime_ns for path in files[::2]}
    for path in files[1::2]:
        path.unlink()
    assert evaluate(videos, tmp_path) == result
    assert sorted(tmp_path.rglob("parts/*.safetensors")) == files
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_two_processes_find_what_one_does(measured, videos, tmp_path):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", tmp_path / "two.py"]
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words), str(videos), str(tmp_path)]
    subprocess.run(command, check=True, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL)
    expected = json.loads(json.dumps({key: value for key, value in measured[0].items() if key != "rank"}))
    for rank in range(2):
        assert json.loads((tmp_path / f"result-{rank}.json").read_text()) == expected


def test_what_cannot_be_read_is_left_out_and_named(videos, tmp_path):
    clips, _ = find_clips(videos)
    clips[1] = replace(clips[1], path=tmp_path / "gone")
    pipeline = build_full_pipeline()
    settings = replace(SETTINGS, conditional=False)
    parts = [EvaluationParts(tmp_path / name, {}, Accelerator(cpu=True)) for name in ("real", "fake")]
    result = evaluate_generation(pipeline, clips, READERS, *parts, smaller(STYLEGAN_V, 3, 1), settings)
    assert result["num_real"] == 2 and result["num_fake"] == 3
    ((name, reason),) = result["left_out"].items()
    assert name.startswith("real/person#1/") and "There is no video" in reason


# --- generated videos ---


@pytest.mark.parametrize("transition", ["none", "diffusion"])
def test_long_videos_are_those_of_the_endless_pipeline(infinite_pipeline, make_frames, transition):
    settings = GenerationSettings(5, 1, 8, True, 2, transition)
    image = make_frames()[0]
    frames = VideoMaker(infinite_pipeline, settings)(image, seeded(0))
    output = infinite_pipeline(image, 40, 2, transition, generator=seeded(0), output_type="pt")
    torch.testing.assert_close(frames, output.frames[0, ::8] * 2 - 1)


def test_short_videos_are_those_of_the_short_pipeline(infinite_pipeline, full_pipeline):
    frames = VideoMaker(infinite_pipeline, GenerationSettings(4, 1, 4, False, 2))(None, seeded(0))
    output = full_pipeline(None, 16, 2, generator=seeded(0), output_type="pt")
    torch.testing.assert_close(frames, output.frames[0, ::4] * 2 - 1)


def test_short_videos_with_a_first_frame_are_those_of_the_short_pipeline(full_pipeline, make_frames):
    image = make_frames()[0]
    frames = VideoMaker(full_pipeline, GenerationSettings(4, 1, 4, True, 2))(image, seeded(0))
    output = full_pipeline(image, num_frames=16, num_inference_steps=2, generator=seeded(0), output_type="pt")
    torch.testing.assert_close(frames, output.frames[0, ::4] * 2 - 1)


def test_videos_from_nothing_may_begin_in_given_poses(full_pipeline):
    settings, codes = GenerationSettings(4, 1, 1, False, 2), torch.randn(3, 8)
    without_prior = full_pipeline.from_pipe(full_pipeline, motion_prior=None)
    frames = VideoMaker(without_prior, settings, codes)(None, seeded(5))
    generator = seeded(5)
    start = codes[torch.randint(3, (), generator=generator)]
    output = full_pipeline(None, 4, 2, start_motion_code=start, generator=generator, output_type="pt")
    torch.testing.assert_close(frames, output.frames[0] * 2 - 1)


@pytest.mark.parametrize(
    ("conditional", "num_directions", "message"),
    [(True, 8, "`start_codes` are for videos from nothing"), (False, 5, "`start_motion_code`")],
)
def test_poses_that_nothing_begins_in_are_refused(full_pipeline, conditional, num_directions, message):
    with pytest.raises(ValueError, match=message):
        VideoMaker(full_pipeline, replace(SETTINGS, conditional=conditional), torch.randn(3, num_directions))


def test_diverged_motion_is_not_measured(full_pipeline, make_frames):
    for parameter in full_pipeline.motion_unet.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the model has diverged"):
        VideoMaker(full_pipeline, SETTINGS)(make_frames()[0], seeded(0))


def test_a_diverged_model_is_not_measured(full_pipeline, make_frames):
    full_pipeline.animator.flow_generator.constant.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the model has diverged"):
        VideoMaker(full_pipeline, SETTINGS)(make_frames()[0], seeded(0))


# --- real clips ---


def test_frames_are_strided_and_no_pixel_is_changed_without_need(videos):
    clip = find_clips(videos)[0][0]
    square = read_clip(clip, ClipPosition(0, 1, 3), 4, 32, DIGAN)
    assert square.shape == (4, 3, 32, 32)
    frames = render_clip(0, 0, 24, 48).frames[[1, 4, 7, 10]]
    assert (to_uint8(square) == frames[:, 8:40, 8:40]).all()
    assert torch.equal(square, read_clip(clip, ClipPosition(0, 1, 3), 4, 32, STYLEGAN_V))


def test_digan_resizes_without_smoothing_and_rounds_down(videos):
    clip = find_clips(videos)[0][0]
    pixels = torch.from_numpy(render_clip(0, 0, 24, 48).frames[:2, 8:40, 8:40]).permute(0, 3, 1, 2).float()
    expected = F.interpolate(pixels, (12, 12), mode="bilinear").to(torch.uint8)
    found = read_clip(clip, ClipPosition(0, 0, 1), 2, 12, DIGAN)
    assert (torch.from_numpy(to_uint8(found)).permute(0, 3, 1, 2) == expected).all()
    smooth = read_clip(clip, ClipPosition(0, 0, 1), 2, 12, STYLEGAN_V)
    assert (found - smooth).abs().mean() > 0.01


def test_a_clip_that_is_cut_off_is_refused(videos):
    with pytest.raises(ValueError, match="ends 3 frames of 4 after its frame 15"):
        read_clip(find_clips(videos)[0][0], ClipPosition(0, 15, 3), 4, 32, DIGAN)


def test_videos_begin_as_the_real_clips_and_the_others_within_their_videos():
    clips = [VideoClip(Path(name), name, 40, 25.0) for name in "ab"]
    (trial,) = plan_trials(clips, smaller(STYLEGAN_V, 50, 1), SETTINGS)
    starts = list(trial.fake.values())
    assert starts[:2] == list(trial.real.values()) and len(starts) == 50
    assert {start.video_index for start in starts} == {0, 1} and len({start.start for start in starts}) > 15
    assert all(0 <= start.start < 40 for start in starts)


# --- protocols ---


def test_smaller_protocols_are_named_so():
    assert smaller(DIGAN, 2048, 10) == DIGAN
    assert smaller(DIGAN, 256, 10) == replace(DIGAN, name="digan, 256 clips", num_clips=256)
    assert smaller(STYLEGAN_V, 256, 1).name == "stylegan_v, 256 clips"


# --- refusals ---


@pytest.mark.parametrize(("num_clips", "repeats"), [(1, 10), (2049, 10), (256, 0), (256, 11)])
def test_protocols_that_are_not_smaller_are_refused(num_clips, repeats):
    with pytest.raises(ValueError, match="must be from . to .*, as digan has it"):
        smaller(DIGAN, num_clips, repeats)


@pytest.mark.parametrize("name", ["num_frames", "frame_stride", "fake_stride"])
def test_bad_numbers_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least ., got 0"):
        replace(SETTINGS, **{name: 0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": DIGAN}, "3 videos hold 18 clips of 4 frames at stride 2, and the protocol compares 2048"),
        ({"settings": replace(SETTINGS, frame_stride=8)}, "hold 0 clips"),
        ({"settings": replace(SETTINGS, transition="diffusion")}, "`transition` is for videos of more than the 16"),
        ({"settings": replace(SETTINGS, num_inference_steps=0)}, "`num_inference_steps` must be at least 1"),
        ({"settings": replace(SETTINGS, fake_stride=8, transition="cut")}, "`transition` must be one of"),
        ({"readers": Readers()}, "`readers` must have a `clip`"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(videos, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(videos, tmp_path, **changes)
    assert not list((tmp_path / "parts").iterdir())


@pytest.mark.parametrize("fake_stride", [2, 8])
def test_a_model_that_makes_no_first_frames_makes_nothing_from_nothing(make_full_pipeline, fake_stride):
    pipeline = make_full_pipeline(LEOPipeline, first_frame_unet=None)
    with pytest.raises(ValueError, match="Video from nothing needs `first_frame_unet`"):
        VideoMaker(pipeline, replace(SETTINGS, conditional=False, fake_stride=fake_stride))


def test_a_model_without_condition_continues_no_frame(make_full_pipeline, make_motion_unet):
    pipeline = make_full_pipeline(LEOPipeline, motion_unet=make_motion_unet(condition="none"))
    with pytest.raises(ValueError, match='needs a `motion_unet` with `condition="start"`'):
        VideoMaker(pipeline, SETTINGS)
    assert VideoMaker(pipeline, replace(SETTINGS, conditional=False))(None, seeded(0)).shape == (4, 3, 32, 32)
