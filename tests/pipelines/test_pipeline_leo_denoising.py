import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from leo_diffusers import LEOPipeline
from tests.pipelines.conftest import StepRecorder, code_of, seeded


SCHEDULERS = [
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
    HeunDiscreteScheduler,
    DEISMultistepScheduler,
    LCMScheduler,
]
NUM_FRAMES, MOTION_DIM = 16, 8
SHORT = {"num_frames": NUM_FRAMES, "num_inference_steps": 3, "output_type": "pt"}


# --- randomness ---


def test_same_seed_same_video(leo_pipeline, photo):
    first, second, other = (leo_pipeline(photo, **SHORT, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.motion_codes, second.motion_codes) and torch.equal(first.frames, second.frames)
    assert (first.motion_codes - other.motion_codes).abs().amax() > 0.01


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, DDPMScheduler, EulerAncestralDiscreteScheduler])
def test_one_generator_per_video_equals_single_calls(make_leo_pipeline, photo, scheduler_class):
    pipeline = make_leo_pipeline(scheduler_class())
    generators = [seeded(seed) for seed in (3, 4)]
    output = pipeline(photo, **SHORT, num_videos_per_prompt=2, generator=generators)
    for i, seed in enumerate((3, 4)):
        single = pipeline(photo, **SHORT, generator=seeded(seed))
        torch.testing.assert_close(output.motion_codes[i], single.motion_codes[0], rtol=5e-3, atol=1e-3)


def test_every_draw_takes_the_generator(make_leo_pipeline, photo):
    pipeline = make_leo_pipeline(DDPMScheduler())
    torch.manual_seed(0)
    first = pipeline(photo, **SHORT, generator=seeded()).motion_codes
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(pipeline(photo, **SHORT, generator=seeded()).motion_codes, first)
    assert torch.equal(torch.get_rng_state(), state)


def test_given_latents_are_reproducible(leo_pipeline, photo):
    latents = torch.randn(1, MOTION_DIM, NUM_FRAMES - 1, generator=seeded(5))
    before = latents.clone()
    outputs = [leo_pipeline(photo, **SHORT, latents=latents).motion_codes for _ in range(2)]
    assert torch.equal(*outputs) and torch.equal(latents, before)
    drawn = leo_pipeline(photo, **SHORT, generator=seeded(5)).motion_codes
    assert torch.equal(outputs[0], drawn)


# --- schedulers ---


@pytest.mark.parametrize("scheduler_class", SCHEDULERS)
def test_schedulers(make_leo_pipeline, photo, scheduler_class):
    pipeline = make_leo_pipeline(scheduler_class())
    first = pipeline(photo, **{**SHORT, "num_inference_steps": 5}, generator=seeded())
    assert torch.isfinite(first.motion_codes).all() and torch.isfinite(first.frames).all()
    assert torch.equal(first.motion_codes[:, 0], code_of(pipeline, photo))
    assert (first.motion_codes[:, 1:] - first.motion_codes[:, :1]).abs().amax() > 0.01
    assert pipeline.num_timesteps == len(pipeline.scheduler.timesteps)
    again = pipeline(photo, **{**SHORT, "num_inference_steps": 5}, generator=seeded())
    assert torch.equal(again.motion_codes, first.motion_codes)  # no state of a run is left for the next


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, DDPMScheduler, HeunDiscreteScheduler, PNDMScheduler])
def test_the_progress_bar_is_full_at_the_end(make_leo_pipeline, photo, scheduler_class, capfd):
    pipeline = make_leo_pipeline(scheduler_class())
    pipeline.set_progress_bar_config(disable=False)
    pipeline(photo, **{**SHORT, "num_inference_steps": 5})
    assert "5/5" in capfd.readouterr().err


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(),
        DDPMScheduler(),
        DDIMScheduler(clip_sample=False, thresholding=True),
        DPMSolverMultistepScheduler(thresholding=True),
    ],
)
def test_clipping_is_turned_off_and_saved_so(tmp_path, make_leo_pipeline, scheduler):
    pipeline = make_leo_pipeline(scheduler)
    assert type(pipeline.scheduler) is type(scheduler)
    pipeline.save_pretrained(tmp_path)
    for config in (pipeline.scheduler.config, type(scheduler).load_config(tmp_path / "scheduler")):
        assert not config.get("clip_sample") and not config.get("thresholding")
    loaded = LEOPipeline.from_pretrained(tmp_path)
    assert not loaded.scheduler.config.get("clip_sample") and not loaded.scheduler.config.get("thresholding")


def test_samples_are_not_clipped(make_leo_pipeline, photo):
    latents = 30 * torch.randn(1, MOTION_DIM, NUM_FRAMES - 1, generator=seeded())
    free, guarded = (
        make_leo_pipeline(scheduler)(photo, **{**SHORT, "output_type": "latent"}, latents=latents).frames
        for scheduler in (DDIMScheduler(clip_sample=False), DDIMScheduler())
    )
    assert free.abs().amax() > 5  # clipping would end within [-1, 1]
    assert torch.equal(guarded, free)


def test_a_scheduler_that_is_set_later_does_not_clip_either(leo_pipeline, photo):
    latents = 30 * torch.randn(1, MOTION_DIM, NUM_FRAMES - 1, generator=seeded())
    arguments = {**SHORT, "output_type": "latent", "latents": latents}
    config = UniPCMultistepScheduler().config  # which says nothing of `clip_sample`, and DDIM clips by default
    leo_pipeline.scheduler = DDIMScheduler.from_config(config, clip_sample=False)
    expected = leo_pipeline(photo, **arguments).frames
    leo_pipeline.scheduler = DDIMScheduler.from_config(config)
    torch.testing.assert_close(leo_pipeline(photo, **arguments).frames, expected)


# --- callbacks ---


def test_a_callback_replaces_the_latents(leo_pipeline, photo):
    seen = []

    def zero_at_the_end(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep), tensors["latents"].shape))
        if step == pipeline.num_timesteps - 1:
            tensors["latents"] = torch.zeros_like(tensors["latents"])
        return tensors

    arguments = {**SHORT, "output_type": "latent", "callback_on_step_end": zero_at_the_end}
    output = leo_pipeline(photo, **arguments)
    assert torch.equal(output.frames, torch.zeros(1, MOTION_DIM, NUM_FRAMES - 1))
    assert torch.equal(output.motion_codes, output.motion_codes[:, :1].expand(-1, NUM_FRAMES, -1))
    assert [step for step, _, _ in seen] == [0, 1, 2]
    assert [timestep for _, timestep, _ in seen] == leo_pipeline.scheduler.timesteps.tolist()
    assert all(shape == (1, MOTION_DIM, NUM_FRAMES - 1) for _, _, shape in seen)


def test_a_callback_interrupts(leo_pipeline, photo):
    steps = []

    def stop(pipeline, step, timestep, tensors):
        steps.append(step)
        pipeline._interrupt = step == 1
        return tensors

    stopped = leo_pipeline(photo, **{**SHORT, "num_inference_steps": 5}, generator=seeded(), callback_on_step_end=stop)
    assert steps == [0, 1] and leo_pipeline.interrupt
    assert torch.isfinite(stopped.frames).all()
    whole = leo_pipeline(photo, **{**SHORT, "num_inference_steps": 5}, generator=seeded())
    assert not leo_pipeline.interrupt
    assert not torch.equal(whole.motion_codes, stopped.motion_codes)


def test_what_a_callback_replaces_as_it_interrupts_is_kept(leo_pipeline, photo):
    def replace_and_stop(pipeline, step, timestep, tensors):
        pipeline._interrupt = True
        return {"latents": torch.ones_like(tensors["latents"])}

    arguments = {**SHORT, "output_type": "latent", "callback_on_step_end": replace_and_stop}
    assert torch.equal(leo_pipeline(photo, **arguments).frames, torch.ones(1, MOTION_DIM, NUM_FRAMES - 1))


def test_callback_objects_of_diffusers(leo_pipeline, photo):
    recorder = StepRecorder()
    leo_pipeline(photo, **SHORT, callback_on_step_end=recorder)
    assert recorder.steps == [0, 1, 2]


# --- precision ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(leo_folder, photo, dtype):
    pipeline = LEOPipeline.from_pretrained(leo_folder, dtype=dtype)
    assert pipeline.motion_unet.dtype == dtype
    assert pipeline.animator.flow_generator.constant.dtype == dtype
    assert pipeline.animator.motion_dictionary.directions.dtype == torch.float32
    output = pipeline(photo, **SHORT, generator=seeded())
    exact = LEOPipeline.from_pretrained(leo_folder)(photo, **SHORT, generator=seeded())
    assert output.motion_codes.dtype == output.frames.dtype == torch.float32
    assert (output.motion_codes - exact.motion_codes).norm() < 0.05 * exact.motion_codes.norm()
    assert (output.frames - exact.frames).abs().mean() < 0.02
