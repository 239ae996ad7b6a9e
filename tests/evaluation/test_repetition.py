import json
import math

import pytest
import torch
from accelerate import Accelerator

from leo_diffusers import LEOInfinitePipeline
from leo_diffusers.data.motion_codes import MotionCodes
from leo_diffusers.evaluation.parts import EvaluationParts
from leo_diffusers.evaluation.recurrence import calibrate_threshold, recurrence, share_of_repeating
from leo_diffusers.evaluation.repetition import (
    MotionDrawer,
    RepetitionSettings,
    describe_drift,
    describe_repetition,
    evaluate_repetition,
    repetition_settings,
    wilson_interval,
)
from leo_diffusers.evaluation.video_maker import seeded


WINDOW = 16
STD = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0, 0.2])
SETTINGS = RepetitionSettings(3, 40, 2, window=WINDOW)


def smooth_motion(seed: int, num_frames: int) -> torch.Tensor:
    """Random motion without fast parts (F, 8), of the spread `STD`, in a pose of its own."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(8, 1, num_frames + 40, generator=generator)
    kernel = torch.signal.windows.gaussian(41, std=4.0)
    motion = torch.nn.functional.conv1d(noise, kernel[None, None] / kernel.square().sum().sqrt())[:, 0]
    return (motion.T[:num_frames] + torch.randn(8, generator=generator)) * STD


@pytest.fixture(scope="module")
def clips() -> list[torch.Tensor]:
    return [smooth_motion(seed, 2 * WINDOW) for seed in range(300)]


@pytest.fixture(scope="module")
def reference(clips) -> MotionCodes:
    offsets = torch.arange(len(clips) + 1) * 2 * WINDOW
    names = [str(index) for index in range(len(clips))]
    return MotionCodes(torch.cat(clips), offsets, names, [25.0] * len(clips), "0" * 16)


# --- recurrence ---


def test_recurrence_by_its_definition():
    codes, window = smooth_motion(0, 40), 5
    expected = math.inf
    for first in range(40 - window + 1):
        for second in range(first + window, 40 - window + 1):
            pair = [codes[start : start + window].double() / STD for start in (first, second)]
            x, y = (stretch - stretch.mean(dim=0) for stretch in pair)
            if min(x.square().mean(), y.square().mean()) >= 0.1**2:
                expected = min(expected, ((x - y).norm() / (x.norm() ** 2 + y.norm() ** 2).sqrt()).item())
    assert recurrence(codes, STD, window, 0.1) == pytest.approx(expected, rel=1e-6)


def test_a_copy_is_found_wherever_it_is_and_in_another_pose():
    codes = smooth_motion(0, 300)
    codes[211 : 211 + WINDOW] = codes[37 : 37 + WINDOW] + torch.randn(8)
    assert recurrence(codes, STD, WINDOW, 0.1) == pytest.approx(0, abs=1e-6)
    assert recurrence(codes[:220], STD, WINDOW, 0.1) > 0.1


def test_opposite_motion_is_far_and_larger_motion_near():
    stretch = smooth_motion(0, WINDOW)
    opposite, larger = (torch.cat([stretch, factor * stretch]) for factor in (-1, 1.2))
    # Stretches across the seam overlap both, so the only pair is the first and the last.
    assert recurrence(opposite, STD, WINDOW, 0.1) == pytest.approx(2**0.5)
    assert recurrence(larger, STD, WINDOW, 0.1) == pytest.approx(0.2 / 2.44**0.5, abs=1e-6)


def test_what_stands_still_does_not_repeat():
    assert recurrence(torch.ones(100, 8), STD, WINDOW, 0.1) == math.inf
    assert recurrence(0.01 * smooth_motion(0, 100).repeat(2, 1), STD, WINDOW, 0.1) == math.inf


# --- threshold ---


def test_repeating_videos_are_told_from_fresh_ones(clips, reference):
    threshold = calibrate_threshold(clips, STD, 256, WINDOW, 0.05)
    fresh = [smooth_motion(1000 + seed, 256) for seed in range(100)]
    again = [torch.cat([codes[:128], codes[:128]]) for codes in fresh]
    assert describe_repetition(again, reference, WINDOW, threshold)["share"] == 1
    described = describe_repetition(fresh, reference, WINDOW, threshold)
    assert described["share"] <= 0.15  # 0.05 of 100: more than 0.15 in one of 10,000 cases
    assert described["interval"][0] < described["share"] < described["interval"][1]
    assert described["moving_share"] > 0.9


def test_drift_is_how_far_codes_come_from_the_data(reference):
    videos = [reference.mean.repeat(40, 1) for _ in range(3)]
    for number, codes in enumerate(videos):
        codes[2, 1] -= 2 * reference.std[1]
        codes[-1, 4] += (number + 1) * reference.std[4]
    drift = describe_drift(videos, reference, WINDOW)
    assert drift["first"] == pytest.approx([2, 2], abs=1e-4)
    assert drift["last"] == pytest.approx([2, 2.8], abs=1e-4)


def test_longer_videos_may_come_nearer_to_themselves_by_chance(clips):
    thresholds = [calibrate_threshold(clips, STD, num_frames, WINDOW, 0.05) for num_frames in (32, 64, 256)]
    distances = [threshold.distance for threshold in thresholds]
    assert sorted(distances, reverse=True) == distances and distances[2] < distances[0]
    # 1 pair of stretches, 33 * 34 / 2 and 225 * 226 / 2, where two clips have 17 * 17.
    assert [threshold.clips_per_set for threshold in thresholds] == [2, 3, 14]


def test_a_threshold_can_be_found_again_and_follows_its_rate(clips):
    rates = {rate: calibrate_threshold(clips, STD, 64, WINDOW, rate) for rate in (0.01, 0.05, 0.5)}
    assert rates[0.05] == calibrate_threshold(clips, STD, 64, WINDOW, 0.05)
    assert rates[0.01].distance < rates[0.05].distance < rates[0.5].distance


def test_shares():
    threshold = calibrate_threshold([smooth_motion(seed, 32) for seed in range(20)], STD, 32, WINDOW, 0.5)
    assert share_of_repeating([0, threshold.distance, math.inf, threshold.distance / 2], threshold) == 0.5


@pytest.mark.parametrize(
    ("count", "total", "interval"), [(0, 10, (0, 0.2775)), (5, 10, (0.2366, 0.7634)), (90, 200, (0.3826, 0.5193))]
)
def test_intervals(count, total, interval):
    assert wilson_interval(count / total, total) == pytest.approx(interval, abs=1e-4)


# --- a model ---


def evaluate(pipeline, reference, folder, images=None, settings=SETTINGS) -> dict:
    described = repetition_settings(pipeline, reference, settings)
    parts = EvaluationParts(folder, described, Accelerator(cpu=True))
    return evaluate_repetition(pipeline, images, reference, parts, settings)


def test_a_result_says_what_it_is_of_and_can_be_found_again(infinite_pipeline, reference, make_frames, tmp_path):
    images = list(make_frames(2))
    result = evaluate(infinite_pipeline, reference, tmp_path / "first", images)
    assert evaluate(infinite_pipeline, reference, tmp_path / "second", images) == result
    assert json.loads(json.dumps(result))["transitions"] == result["transitions"]
    assert list(result["transitions"]) == ["none", "diffusion"] and result["left_out"] == {}
    for described in result["transitions"].values():
        assert described["num_videos"] == 3 and 0 <= described["share"] <= 1
    assert 0 < result["threshold"]["distance"] < 2**0.5 and result["repetition"]["window"] == WINDOW


def test_a_first_video_that_failed_is_left_out(infinite_pipeline, reference, tmp_path, monkeypatch):
    draw = MotionDrawer.__call__

    def fail_at_first(drawer: MotionDrawer, index: int, transition: str) -> torch.Tensor:
        if index == 0:
            raise ValueError("NaN")
        return draw(drawer, index, transition)

    monkeypatch.setattr(MotionDrawer, "__call__", fail_at_first)
    result = evaluate(infinite_pipeline, reference, tmp_path)
    assert set(result["left_out"]) == {"none/0", "diffusion/0"}
    assert result["transitions"]["none"]["num_videos"] == 2 and (tmp_path / "trajectories.png").is_file()


def test_a_stopped_evaluation_goes_on(infinite_pipeline, reference, tmp_path):
    result = evaluate(infinite_pipeline, reference, tmp_path)
    kept, gone = (tmp_path / "parts" / f"none%2F{index}.safetensors" for index in (0, 1))
    gone.unlink()
    time = kept.stat().st_mtime_ns
    assert evaluate(infinite_pipeline, reference, tmp_path) == result
    assert kept.stat().st_mtime_ns == time and gone.is_file()


@pytest.mark.parametrize("transition", ["none", "diffusion"])
def test_the_motion_is_that_of_the_endless_pipeline(infinite_pipeline, make_frames, transition):
    draw = MotionDrawer(infinite_pipeline, make_frames(2), SETTINGS)
    for index in (1, 3):  # the images begin again
        output = infinite_pipeline(
            make_frames(2)[1], 40, 2, transition, generator=seeded(0, index), output_type="latent"
        )
        torch.testing.assert_close(draw(index, transition), output.motion_codes[0])


def test_from_nothing_videos_begin_in_poses_of_the_prior(infinite_pipeline):
    draw = MotionDrawer(infinite_pipeline, None, SETTINGS)
    starts = [draw(index, "none")[0] for index in range(2)]
    assert torch.equal(starts[0], draw(0, "diffusion")[0]) and not torch.equal(*starts)
    torch.testing.assert_close(starts[1], infinite_pipeline.draw_start_codes(1, 2, seeded(0, 1))[0])


# --- refusals ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_videos": 0}, "`num_videos` must be at least 1, got 0"),
        ({"transitions": ()}, "`transitions` is empty"),
        ({"window": 1}, "`window` must be at least 2, got 1"),
        ({"window": 21}, "`num_frames` must be at least 42, two of `window`, got 40"),
        ({"false_positive_rate": 0.0}, "`false_positive_rate` must lie between 0 and 1, got 0.0"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RepetitionSettings(**{**vars(SETTINGS), **changes})


def test_too_few_clips_or_still_ones_are_refused(clips):
    with pytest.raises(ValueError, match="`clips` has 5 of 16 frames and more, too few for videos of 64 frames"):
        calibrate_threshold([*clips[:5], clips[5][:15]], STD, 64, WINDOW, 0.05)
    with pytest.raises(ValueError, match="`clips` stand still"):
        calibrate_threshold([torch.ones(32, 8)] * 20, STD, 64, WINDOW, 0.05)
    with pytest.raises(ValueError, match="`num_frames` must be at least 32"):
        recurrence(clips[0][:31], STD, WINDOW, 0.1)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ({"motion_prior": None}, "Videos from nothing need a `motion_prior`"),
        ({"transition_unet": None}, 'transition="diffusion"` needs `transition_unet`'),
    ],
)
def test_a_model_that_lacks_something_is_refused(make_full_pipeline, reference, tmp_path, missing, message):
    pipeline = make_full_pipeline(LEOInfinitePipeline, **missing)
    with pytest.raises(ValueError, match=message):
        evaluate(pipeline, reference, tmp_path)
    assert not list((tmp_path / "parts").iterdir())


def test_codes_of_another_animator_and_no_images_are_refused(infinite_pipeline, reference, tmp_path):
    with pytest.raises(ValueError, match="`images` is empty"):
        evaluate(infinite_pipeline, reference, tmp_path, images=[])
    reference = MotionCodes(reference.codes[:, :5], reference.offsets, reference.clip_names, [], "0" * 16)
    with pytest.raises(ValueError, match="`reference` has codes of 5 numbers, the animator of 8"):
        evaluate(infinite_pipeline, reference, tmp_path)
