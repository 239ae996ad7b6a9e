"""Where the chunks of an endless video meet, and how far their codes get."""

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from leo_diffusers import LEOInfinitePipeline, MotionUNet1DModel
from leo_diffusers.pipelines.pipeline_leo_infinite import ease_in, pull_back
from leo_diffusers.training.losses import denoising_loss, draw_noise
from tests.pipelines.conftest import seeded


MOTION_DIM, CHUNK = 8, 15  # frames that a chunk adds: one less than the sequence length
CODES = {"num_inference_steps": 3, "output_type": "latent"}


def streamed(pipeline: LEOInfinitePipeline, image, **arguments) -> torch.Tensor:
    """Codes (F, M)."""
    return torch.stack(list(pipeline.stream(image, **arguments)))


# --- position ---


def test_each_chunk_goes_on_from_the_last_code(make_full_pipeline, infinite_pipeline, photo):
    arguments = {**CODES, "num_frames": 1 + 3 * CHUNK, "seam_frames": 0}
    codes = streamed(infinite_pipeline, photo, **arguments, generator=seeded())
    short_pipeline, generator = make_full_pipeline(), seeded()  # makes a single chunk
    expected = short_pipeline(photo, num_frames=16, **CODES, generator=generator).motion_codes
    for _ in range(2):
        chunk = short_pipeline(
            photo, num_frames=16, **CODES, start_motion_code=expected[:, -1], generator=generator
        ).motion_codes
        expected = torch.cat([expected, chunk[:, 1:]], dim=1)
    torch.testing.assert_close(codes, expected[0])
    with torch.no_grad():
        own = infinite_pipeline.animator.encode_motion(infinite_pipeline.preprocess(photo))
    assert torch.equal(codes[:1], own)


# --- speed at the seams ---

PERIODS = torch.tensor([25.0, 32.0, 40.0, 50.0])  # frames
AMPLITUDES = torch.tensor([1.0, 0.5, 2.0, 1.0])  # of four directions


def smooth_motion(num_clips: int, num_frames: int) -> torch.Tensor:
    """Sums of slow sines with random phases, (N, F, 4)."""
    phases = 2 * math.pi * torch.rand(num_clips, 1, 4, len(PERIODS), generator=seeded())
    time = 2 * math.pi * torch.arange(num_frames)[:, None, None] / PERIODS
    return torch.sin(time + phases).mean(-1) * AMPLITUDES


@pytest.fixture(scope="session")
def trained_motion() -> tuple[MotionUNet1DModel, torch.Tensor]:
    """A network that has learned such motion, and what it learned from."""
    clips = smooth_motion(256, 128)
    mean, std = (statistic.tolist() for statistic in (clips.mean((0, 1)), clips.std((0, 1))))
    torch.manual_seed(0)
    unet = MotionUNet1DModel(
        motion_dim=4,
        sequence_length=16,
        block_out_channels=(32,),
        layers_per_block=1,
        attention_levels=(),
        motion_mean=tuple(mean),
        motion_std=tuple(std),
    )
    noise_scheduler = DDPMScheduler(prediction_type="sample", clip_sample=False)
    num_steps, batch_size, generator = 350, 64, seeded(1)
    optimizer = torch.optim.AdamW(unet.parameters())
    lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=num_steps)
    for step in range(num_steps):
        rows = torch.randint(len(clips), (batch_size,), generator=generator)
        first = torch.randint(128 - 15, (batch_size,), generator=generator)
        codes = clips[rows[:, None], first[:, None] + torch.arange(16)]
        sample, positions = unet.standardize(codes), step * batch_size + torch.arange(batch_size)
        noise, timesteps = draw_noise(0, positions, sample.shape[1:], 1000)
        loss = denoising_loss(unet, noise_scheduler, sample, noise, timesteps, unet.conditions_of(codes))
        loss.backward()
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
    return unet.eval(), clips


@pytest.mark.parametrize(("drift_limit", "seam_frames"), [(None, 0), (None, 8), (2.0, 8)])
def test_speed_across_seams_is_as_inside_of_chunks(make_animator, trained_motion, drift_limit, seam_frames):
    unet, clips = trained_motion
    scheduler = DDIMScheduler(prediction_type="sample", clip_sample=False, timestep_spacing="trailing")
    pipeline = LEOInfinitePipeline(make_animator(motion_dim=4), unet, scheduler)
    codes = streamed(
        pipeline,
        torch.zeros(3, 32, 32),
        num_frames=1 + 80 * CHUNK,
        num_inference_steps=10,
        start_motion_code=clips[0, 0],
        drift_limit=drift_limit,
        seam_frames=seam_frames,
        generator=seeded(),
        output_type="latent",
    )
    standardized = unet.statistics.standardize(codes)
    speeds = standardized.diff(dim=0).norm(dim=1)
    is_seam = torch.arange(len(speeds)) % CHUNK == 0  # the first step of every chunk
    is_seam[0] = False
    seams, inside = speeds[is_seam], speeds[~is_seam]
    assert len(codes) > 1024 and len(seams) == 79
    assert 0.25 * inside.median() < seams.median() <= inside.quantile(0.9)
    assert seams.max() <= 1.25 * inside.max()
    if seam_frames:
        turns = standardized.diff(n=2, dim=0).norm(dim=1)  # changes of velocity
        is_seam = (torch.arange(len(turns)) + 1) % CHUNK == 0
        assert turns[is_seam].median() < turns[~is_seam].median()
    # Nor does the motion fade or run away.
    learned = unet.statistics.standardize(clips)
    assert 0.5 < inside.median() / learned.diff(dim=1).norm(dim=2).median() < 2
    assert standardized.abs().amax() <= 1.35 * learned.abs().amax()
    assert (standardized[-300:].std(dim=0) > 0.5).all()


@pytest.mark.parametrize("num_frames", [1, 4, 13])
def test_easing_takes_a_jump_out(num_frames):
    line = torch.arange(20.0)[:, None] * torch.tensor([0.5, -1.0])  # (20, 2), motion of constant speed
    past, chunk = line[None, :5], line[None, 4:].clone()
    torch.testing.assert_close(ease_in(chunk, past, num_frames), chunk)
    chunk[:, 1:] += torch.tensor([3.0, 0.0])
    eased = ease_in(chunk, past, num_frames)
    torch.testing.assert_close(eased[:, :2], line[None, 4:6])
    assert torch.equal(eased[:, num_frames + 1 :], chunk[:, num_frames + 1 :])
    correction = (chunk - eased)[0, 1:, 0]
    assert (correction.diff() < 1e-6).all() and (correction >= 0).all()  # fades
    assert not (chunk - eased)[..., 1].any()
    assert torch.equal(ease_in(chunk, past, 0), chunk)


def test_easing_knows_no_past_of_the_first_frame():
    chunk = torch.tensor([0.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]).view(1, 7, 1)
    torch.testing.assert_close(ease_in(chunk, chunk[:, :1], 2)[0, :3, 0], torch.tensor([0.0, 1.0, 4.0]))


@pytest.mark.parametrize("length", [2, 3, 4, 6])
def test_easing_fits_into_a_short_chunk(length):
    chunk = torch.randn(2, length, 3, generator=seeded())
    eased = ease_in(chunk, chunk[:, :1], 8)
    assert torch.equal(eased[:, 0], chunk[:, 0]) and torch.equal(eased[:, -2:], chunk[:, -2:])


def test_transitions_are_eased_at_both_ends(infinite_pipeline, photo):
    arguments = {**CODES, "num_frames": 1 + 2 * CHUNK, "transition": "diffusion"}
    eased, drawn = (
        streamed(infinite_pipeline, photo, **arguments, seam_frames=seam_frames, generator=seeded())
        for seam_frames in (6, 0)
    )
    assert torch.equal(eased[CHUNK], drawn[CHUNK]) and torch.equal(eased[-1], drawn[-1])
    # Of the last step's jump remains what the correction has faded by, one frame earlier.
    jump, left = (codes.diff(n=2, dim=0)[-1] for codes in (drawn, eased))
    torch.testing.assert_close(left, -jump * (0.5 - 0.5 * math.cos(math.pi / 6)), rtol=1e-3, atol=1e-5)
    before = [codes[CHUNK - 1 : CHUNK + 3].diff(n=2, dim=0)[0].norm() for codes in (drawn, eased)]
    assert before[1] < before[0]


# --- drift ---


def test_pulling_back_bends_what_ends_too_far_off(make_motion_unet):
    statistics = {"motion_mean": tuple(range(8)), "motion_std": tuple(0.5 + i for i in range(8))}
    unet = make_motion_unet(**statistics)
    mean, std = torch.tensor(statistics["motion_mean"]), torch.tensor(statistics["motion_std"])
    codes = mean + std * torch.randn(3, 16, MOTION_DIM, generator=seeded()).cumsum(dim=1)
    bent = pull_back(codes, unet, 2.0)
    is_far = ((codes[:, -1] - mean) / std).abs() > 2
    assert is_far.any() and not is_far.all()
    assert torch.equal(bent[:, 0], codes[:, 0])
    assert ((bent[:, -1] - mean) / std).abs().amax() < 2 + 1e-5
    for row, direction in itertools.product(range(3), range(8)):
        shift = (codes - bent)[row, :, direction]
        if is_far[row, direction]:
            torch.testing.assert_close(shift, shift[-1] * torch.arange(16) / 15, rtol=1e-4, atol=1e-4)  # no jump
        else:
            assert not shift.any()  # not by a bit


def test_drift_is_bounded(infinite_pipeline, photo):
    statistics = infinite_pipeline.motion_unet.statistics
    start = torch.full((MOTION_DIM,), 3.0)  # 15 standard deviations off
    arguments = {**CODES, "num_frames": 1 + 6 * CHUNK, "start_motion_code": start}
    free = streamed(infinite_pipeline, photo, **arguments, generator=seeded())
    assert statistics.standardize(free[CHUNK]).abs().amax() > 5
    codes = streamed(infinite_pipeline, photo, **arguments, drift_limit=1.0, generator=seeded())
    assert torch.equal(codes[0], start)
    ends = statistics.standardize(codes[CHUNK::CHUNK])
    assert len(ends) == 6 and ends.abs().amax() < 1 + 1e-4
    assert codes.diff(dim=0)[:CHUNK].abs().amax() < 3  # the way back takes the whole chunk


def test_a_limit_that_nothing_reaches_changes_nothing(infinite_pipeline, photo):
    arguments = {**CODES, "num_frames": 50}
    free, guarded = (
        streamed(infinite_pipeline, photo, **arguments, drift_limit=drift_limit, generator=seeded())
        for drift_limit in (None, 1000.0)
    )
    assert torch.equal(free, guarded)


def test_transitions_end_within_the_drift_limit_too(infinite_pipeline, photo):
    arguments = {"num_frames": 80, "num_inference_steps": 3, "output_type": "latent", "transition": "diffusion"}
    limit = 0.1
    codes = streamed(infinite_pipeline, photo, **arguments, drift_limit=limit, generator=seeded())
    ends = infinite_pipeline.motion_unet.statistics.standardize(codes)[15::15]
    assert ends.abs().max() < limit + 1e-4
    free = streamed(infinite_pipeline, photo, **arguments, generator=seeded())
    assert infinite_pipeline.motion_unet.statistics.standardize(free)[15::15].abs().max() > 2 * limit
