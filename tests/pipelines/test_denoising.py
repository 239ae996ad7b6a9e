import copy

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from tqdm import tqdm

from leo_diffusers.pipelines.denoising import PendingMotion, denoise, denoising_steps, without_clipping
from tests.pipelines.conftest import seeded


MOTION_DIM, NUM_SAMPLE_FRAMES, NUM_STEPS = 8, 15, 4


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(2, MOTION_DIM, NUM_SAMPLE_FRAMES, generator=seeded(1))


@pytest.fixture
def conditions() -> dict[str, torch.Tensor]:
    return {"start_motion_code": torch.randn(2, MOTION_DIM, generator=seeded(2))}


@pytest.fixture
def count_steps(motion_unet):
    """How often the real network has run."""
    calls = []
    motion_unet.register_forward_hook(lambda *_: calls.append(None))
    return lambda: len(calls)


# --- schedulers that do not clip ---


def test_a_scheduler_that_clips_nothing_stays_as_it_is():
    scheduler = DDIMScheduler(clip_sample=False)
    assert without_clipping(scheduler) is scheduler


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(prediction_type="v_prediction", beta_end=0.03),
        DDPMScheduler(thresholding=True, num_train_timesteps=500),
        DPMSolverMultistepScheduler(thresholding=True),
    ],
)
def test_clipping_is_all_that_changes(scheduler):
    before = dict(scheduler.config)
    free = without_clipping(scheduler)
    assert type(free) is type(scheduler)
    changed = {name for name, value in before.items() if not name.startswith("_") and free.config[name] != value}
    assert changed == {name for name in ("clip_sample", "thresholding") if before.get(name)}
    assert not any(free.config.get(name) for name in ("clip_sample", "thresholding"))
    assert dict(scheduler.config) == before  # another pipeline may use it


# --- step by step ---


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, DDPMScheduler])
def test_is_the_usual_loop(motion_unet, noise, conditions, scheduler_class):
    scheduler = scheduler_class(clip_sample=False)
    steps = list(denoising_steps(motion_unet, scheduler, noise, conditions, NUM_STEPS, seeded()))
    assert [index for index, _, _ in steps] == list(range(NUM_STEPS))

    scheduler, generator, latents = scheduler_class(clip_sample=False), seeded(), noise
    scheduler.set_timesteps(NUM_STEPS)
    for timestep, (_, found_timestep, found) in zip(scheduler.timesteps, steps, strict=True):
        with torch.no_grad():
            prediction = motion_unet(latents, timestep, **conditions).sample
        latents = scheduler.step(prediction, timestep, latents, generator=generator).prev_sample
        assert found_timestep == timestep
        torch.testing.assert_close(found, latents, rtol=1e-3, atol=1e-3)


def test_one_step_of_a_network_that_predicts_the_sample(motion_unet, noise, conditions):
    # DDIM's last step ends at the predicted sample itself.
    scheduler = DDIMScheduler(prediction_type="sample", clip_sample=False, timestep_spacing="trailing")
    with torch.no_grad():
        expected = motion_unet(noise, 999, **conditions).sample
    torch.testing.assert_close(denoise(motion_unet, scheduler, noise, conditions, 1), expected)


def test_noise_is_scaled_as_the_scheduler_wants_it(motion_unet, noise, conditions):
    scheduler = EulerDiscreteScheduler(timestep_spacing="leading")
    given = []
    motion_unet.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    next(denoising_steps(motion_unet, scheduler, noise, conditions, NUM_STEPS))
    sigma = scheduler.sigmas[0]
    assert scheduler.init_noise_sigma > 1.5
    torch.testing.assert_close(given[0], noise * scheduler.init_noise_sigma / (sigma**2 + 1) ** 0.5)


def test_latents_that_are_sent_back_go_on(motion_unet, noise, conditions):
    scheduler = DDIMScheduler(clip_sample=False)
    given = []
    motion_unet.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    steps = denoising_steps(motion_unet, scheduler, noise, conditions, NUM_STEPS)
    _, _, latents = next(steps)
    steps.send(torch.ones_like(latents))
    assert torch.equal(given[1], torch.ones_like(latents))
    assert not torch.equal(latents, torch.ones_like(latents))


def test_nothing_is_computed_before_it_is_asked_for(motion_unet, noise, conditions, count_steps):
    steps = denoising_steps(motion_unet, DDIMScheduler(clip_sample=False), noise, conditions, NUM_STEPS)
    assert count_steps() == 0
    for num_done in range(1, NUM_STEPS + 1):
        _, _, latents = next(steps)
        assert count_steps() == num_done
        assert not latents.requires_grad and torch.is_grad_enabled()  # the caller's own mode is left alone
    assert next(steps, None) is None and count_steps() == NUM_STEPS


def test_latents_stay_in_float32(motion_unet, noise, conditions):
    exact = denoise(motion_unet, DDIMScheduler(clip_sample=False), noise, conditions, NUM_STEPS)
    motion_unet.to(torch.bfloat16)
    rounded = denoise(motion_unet, DDIMScheduler(clip_sample=False), noise, conditions, NUM_STEPS)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.05 * exact.norm()


# --- to the end ---


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler])
def test_to_the_end(motion_unet, noise, conditions, scheduler_class, capfd):
    with tqdm(total=NUM_STEPS) as progress_bar:
        latents = denoise(
            motion_unet, scheduler_class(), noise, conditions, NUM_STEPS, seeded(), progress_bar=progress_bar
        )
        assert progress_bar.n == NUM_STEPS  # however often a scheduler visits a step
    *_, (_, _, expected) = denoising_steps(motion_unet, scheduler_class(), noise, conditions, NUM_STEPS, seeded())
    assert torch.equal(latents, expected)


def test_on_step_sees_and_replaces_the_latents(motion_unet, noise, conditions, count_steps):
    seen = []

    def on_step(index, timestep, latents):
        seen.append((index, int(timestep)))
        return (torch.zeros_like(latents) if index == NUM_STEPS - 1 else latents), True

    scheduler = DDIMScheduler(clip_sample=False)
    latents = denoise(motion_unet, scheduler, noise, conditions, NUM_STEPS, on_step=on_step)
    assert seen == list(enumerate(scheduler.timesteps.tolist())) and count_steps() == NUM_STEPS
    assert torch.equal(latents, torch.zeros_like(noise))


def test_on_step_ends_the_process(motion_unet, noise, conditions, count_steps):
    latents = denoise(
        motion_unet,
        DDIMScheduler(clip_sample=False),
        noise,
        conditions,
        NUM_STEPS,
        on_step=lambda index, timestep, latents: (latents + 1, index < 1),
    )
    assert count_steps() == 2
    steps = denoising_steps(motion_unet, DDIMScheduler(clip_sample=False), noise, conditions, NUM_STEPS)
    _, _, first = next(steps)
    _, _, second = steps.send(first + 1)
    assert torch.equal(latents, second + 1)


# --- between other work ---


def pending(unet, scheduler, noise, conditions) -> PendingMotion:
    steps = denoising_steps(unet, scheduler, noise, conditions, NUM_STEPS)
    return PendingMotion(steps, NUM_STEPS, lambda latents: unet.unstandardize(latents, **conditions))


def test_a_share_at_a_time(motion_unet, noise, conditions, count_steps):
    motion = pending(motion_unet, DDIMScheduler(clip_sample=False), noise, conditions)
    for share, expected in ((0, 0), (0.1, 1), (0.25, 1), (0.3, 2), (0.2, 2), (1, 4), (1, 4)):
        motion.advance(share)
        assert count_steps() == expected
    codes = motion.result()
    assert count_steps() == NUM_STEPS
    latents = denoise(motion_unet, DDIMScheduler(clip_sample=False), noise, conditions, NUM_STEPS)
    assert torch.equal(codes, motion_unet.unstandardize(latents, **conditions))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_result_waits_for_the_rest(motion_unet, noise, conditions, count_steps, share):
    motion = pending(motion_unet, DDIMScheduler(clip_sample=False), noise, conditions)
    motion.advance(share)
    assert motion.result().shape == (2, NUM_SAMPLE_FRAMES + 1, MOTION_DIM)
    assert count_steps() == NUM_STEPS


def test_side_by_side_with_a_scheduler_each(motion_unet, noise, conditions):
    scheduler = UniPCMultistepScheduler()  # remembers its last predictions
    alone = [pending(motion_unet, copy.deepcopy(scheduler), one, conditions).result() for one in (noise, -noise)]
    both = [pending(motion_unet, copy.deepcopy(scheduler), one, conditions) for one in (noise, -noise)]
    for step in range(1, NUM_STEPS + 1):
        for motion in both:
            motion.advance(step / NUM_STEPS)
    assert all(torch.equal(motion.result(), expected) for motion, expected in zip(both, alone, strict=True))
