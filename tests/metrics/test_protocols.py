import json
from collections import Counter

import pytest
import torch

from leo_diffusers.metrics.protocols import DIGAN, PROTOCOLS, STYLEGAN_V, quantize


def frames_of(clip, num_frames: int) -> list[int]:
    return [clip.start + index * clip.stride for index in range(num_frames)]


def test_the_protocols_are_those_of_the_published_code():
    """Of TF-GAN's covariance, which StyleGAN-V took over, and of numpy's, which DIGAN has."""
    assert (STYLEGAN_V.ddof, DIGAN.ddof) == (0, 1)
    assert (STYLEGAN_V.num_clips, DIGAN.num_clips) == (2048, 2048)
    assert (STYLEGAN_V.repeats, DIGAN.repeats) == (1, 10)


# --- one clip of each video ---


@pytest.mark.parametrize("stride", [1, 8])
def test_every_long_enough_video_gives_one_clip_within_it(stride):
    lengths = [16, 15 * stride, 15 * stride + 1, 400, 7]
    clips = STYLEGAN_V.real_clips(lengths, 16, stride)
    assert sorted(clip.video_index for clip in clips) == ([0, 2, 3] if stride == 1 else [2, 3])
    assert all(0 <= clip.start and frames_of(clip, 16)[-1] < lengths[clip.video_index] for clip in clips)


def test_no_more_clips_than_the_protocol_has():
    clips = STYLEGAN_V.real_clips([20] * 3000, 16)
    assert len(clips) == 2048 == len({clip.video_index for clip in clips})
    assert Counter(clip.start for clip in clips).keys() == set(range(5))


def test_videos_that_are_all_too_short_are_refused():
    with pytest.raises(ValueError, match="None of 2 videos has the 121 frames of a clip"):
        STYLEGAN_V.real_clips([120, 100], 16, 8)


# --- clips that videos are cut into ---


def test_chunks_interleave_and_do_not_overlap():
    clips = DIGAN.real_clips([64 * 600 + 63, 63], 16, 4)
    assert len(clips) == 2048 == len(set(clips)) and {clip.video_index for clip in clips} == {0}
    shown = [frame for clip in clips for frame in frames_of(clip, 16)]
    assert len(shown) == len(set(shown)) and max(shown) < 64 * 600


def test_long_videos_count_more():
    counts = Counter(clip.video_index for clip in DIGAN.real_clips([16 * 3000, 16 * 1000], 16))
    assert 0.7 < counts[0] / 2048 < 0.8


def test_trials_draw_other_clips_and_the_same_trial_the_same():
    lengths = [16 * 3000]
    first, again, second = (DIGAN.real_clips(lengths, 16, trial=trial) for trial in (0, 0, 1))
    assert first == again and set(first) != set(second)


def test_too_few_clips_are_refused():
    with pytest.raises(
        ValueError, match="1 videos hold 4 clips of 16 frames at stride 4, and the protocol compares 2048"
    ):
        DIGAN.real_clips([64], 16, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 1, 0), "must be at least 1, got 0 and 1"), ((16, 0, 0), "got 16 and 0"), ((16, 1, 1), "`trial` .* got 1")],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        STYLEGAN_V.real_clips([100], *arguments)


# --- conversion, description ---


def test_quantizing_rounds_or_cuts():
    values = torch.arange(256) / 127.5 - 1
    assert torch.equal(quantize(values, "nearest"), torch.arange(256, dtype=torch.uint8))
    between = (torch.arange(255) + 0.6) / 127.5 - 1
    assert torch.equal(quantize(between, "down"), torch.arange(255, dtype=torch.uint8))
    assert quantize(torch.tensor([-2.0, 2.0]), "down").tolist() == [0, 255]


@pytest.mark.parametrize("name", ["digan", "stylegan_v"])
def test_a_result_says_what_it_was_measured_by(name):
    described = PROTOCOLS[name].describe(16, 4, num_real=704, num_fake=2048)
    assert json.loads(json.dumps(described)) == described
    assert described["protocol"]["name"] == name and described["num_real"] == 704 and described["frame_stride"] == 4
