import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from leo_diffusers import LEOPipeline, LEOPipelineOutput, MotionControl
from leo_diffusers.pipelines.denoising import denoise
from tests.pipelines.conftest import seeded


NUM_FRAMES, MOTION_DIM = 16, 8
SHORT = {"num_frames": NUM_FRAMES, "num_inference_steps": 3, "output_type": "pt"}
OPTIONAL = ("motion_prior", "prior_scheduler", "first_frame_unet", "first_frame_scheduler")


def random_codes(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, MOTION_DIM, generator=seeded(seed))


@pytest.fixture
def motion_only_pipeline(make_full_pipeline, make_motion_unet) -> LEOPipeline:
    """The paper's ablation without Linear Motion Condition, and without a prior, which it does not need."""
    unet = make_motion_unet(condition="none", motion_mean=tuple(range(8)), motion_std=(0.5,) * 8)
    return make_full_pipeline(motion_unet=unet, motion_prior=None, prior_scheduler=None)


# --- from nothing ---


@torch.no_grad()
def test_is_a_pose_then_its_frame_then_motion(full_pipeline):
    output = full_pipeline(**SHORT, generator=seeded())
    assert isinstance(output, LEOPipelineOutput) and output.frames.shape == (1, NUM_FRAMES, 3, 32, 32)

    generator, prior = seeded(), full_pipeline.motion_prior
    noise = torch.randn(1, MOTION_DIM, generator=generator)
    start = prior.unstandardize(denoise(prior, full_pipeline.prior_scheduler, noise, {}, 3))
    noise = torch.randn(1, 3, 32, 32, generator=generator)
    conditions = {"encoder_hidden_states": None, "class_labels": start}
    frame = denoise(full_pipeline.first_frame_unet, full_pipeline.first_frame_scheduler, noise, conditions, 3)
    expected = full_pipeline(frame.clamp(-1, 1), **SHORT, start_motion_code=start, generator=generator)
    torch.testing.assert_close(output.motion_codes[:, 0], start)
    torch.testing.assert_close(output.motion_codes, expected.motion_codes)
    torch.testing.assert_close(output.frames, expected.frames, rtol=0, atol=1e-4)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_output_types(full_pipeline, output_type):
    output = full_pipeline(**{**SHORT, "output_type": output_type}, num_videos_per_prompt=2, generator=seeded())
    assert output.motion_codes.shape == (2, NUM_FRAMES, MOTION_DIM) and len(output.frames) == 2
    if output_type == "pil":
        assert [frame.size for clip in output.frames for frame in clip] == [(32, 32)] * 2 * NUM_FRAMES
    else:
        shapes = {"np": (2, 16, 32, 32, 3), "pt": (2, 16, 3, 32, 32), "latent": (2, 8, 15)}
        assert output.frames.shape == shapes[output_type]
    frames, motion_codes = full_pipeline(
        **{**SHORT, "output_type": output_type}, num_videos_per_prompt=2, generator=seeded(), return_dict=False
    )
    assert torch.equal(motion_codes, output.motion_codes)
    assert np.array_equal(np.asarray(frames[1][3]), np.asarray(output.frames[1][3]))


def test_same_seed_same_video(full_pipeline):
    first, second, other = (full_pipeline(**SHORT, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.frames, second.frames) and torch.equal(first.motion_codes, second.motion_codes)
    assert (first.frames[0, 0] - other.frames[0, 0]).abs().mean() > 0.01  # another person
    assert (first.motion_codes[:, 0] - other.motion_codes[:, 0]).abs().amax() > 0.01  # in another pose


def test_every_draw_takes_the_generator(make_full_pipeline):
    pipeline = make_full_pipeline(
        scheduler=DDPMScheduler(prediction_type="sample"),
        prior_scheduler=DDPMScheduler(prediction_type="sample"),
        first_frame_scheduler=DDPMScheduler(),
    )
    torch.manual_seed(0)
    first = pipeline(**SHORT, generator=seeded())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(pipeline(**SHORT, generator=seeded()).frames, first.frames)
    assert torch.equal(torch.get_rng_state(), state)


def test_videos_of_a_batch_differ(full_pipeline):
    output = full_pipeline(**SHORT, num_videos_per_prompt=3, generator=seeded())
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (output.frames[i, 0] - output.frames[j, 0]).abs().mean() > 0.01
        assert (output.motion_codes[i] - output.motion_codes[j]).abs().amax() > 0.01
    again = full_pipeline(**SHORT, num_videos_per_prompt=3, generator=seeded())
    assert torch.equal(output.frames, again.frames)


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, DDPMScheduler])
def test_one_generator_per_video_equals_single_calls(make_full_pipeline, scheduler_class):
    pipeline = make_full_pipeline(
        scheduler=scheduler_class(prediction_type="sample"), prior_scheduler=scheduler_class(prediction_type="sample")
    )
    output = pipeline(**SHORT, num_videos_per_prompt=3, generator=[seeded(seed) for seed in (3, 4, 5)])
    for i, seed in enumerate((3, 4, 5)):
        single = pipeline(**SHORT, generator=seeded(seed))
        torch.testing.assert_close(output.motion_codes[i], single.motion_codes[0], rtol=5e-3, atol=1e-3)
        torch.testing.assert_close(output.frames[i], single.frames[0], rtol=0, atol=1e-2)


@pytest.mark.parametrize("shape", [(MOTION_DIM,), (2, MOTION_DIM)])
def test_a_given_pose_needs_no_prior(make_full_pipeline, shape):
    pipeline = make_full_pipeline(motion_prior=None, prior_scheduler=None)
    start = torch.randn(shape, generator=seeded(7))
    output = pipeline(**SHORT, num_videos_per_prompt=2, start_motion_code=start, generator=seeded())
    assert torch.equal(output.motion_codes[:, 0], start.expand(2, MOTION_DIM))
    other = pipeline(**SHORT, num_videos_per_prompt=2, start_motion_code=start + 1, generator=seeded())
    assert (output.frames[:, 0] - other.frames[:, 0]).abs().mean() > 1e-3


def test_the_frame_is_drawn_for_its_pose(full_pipeline):
    start_codes = random_codes(2)
    frames = full_pipeline.draw_first_frames(start_codes, 3, [seeded(), seeded()])
    assert frames.shape == (2, 3, 32, 32) and frames.abs().amax() <= 1
    assert (frames[0] - frames[1]).abs().mean() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("sample_size", [16, 64])
def test_a_frame_of_another_size_is_resized(make_full_pipeline, make_first_frame_unet, sample_size):
    pipeline = make_full_pipeline(first_frame_unet=make_first_frame_unet(sample_size=sample_size))
    start = random_codes(1)
    frames = pipeline.draw_first_frames(start, 3, seeded())
    noise = torch.randn(1, 3, sample_size, sample_size, generator=seeded())
    conditions = {"encoder_hidden_states": None, "class_labels": start}
    drawn = denoise(pipeline.first_frame_unet, pipeline.first_frame_scheduler, noise, conditions, 3)
    expected = F.interpolate(drawn, (32, 32), mode="bicubic", antialias=True).clamp(-1, 1)
    torch.testing.assert_close(frames, expected)
    assert pipeline(**SHORT, generator=seeded()).frames.shape == (1, NUM_FRAMES, 3, 32, 32)


def test_callbacks_see_the_motion_alone(full_pipeline):
    seen = []

    def zero_at_the_end(pipeline, step, timestep, tensors):
        seen.append(tensors["latents"].shape)
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else tensors

    output = full_pipeline(**SHORT, generator=seeded(), callback_on_step_end=zero_at_the_end)
    assert seen == [(1, MOTION_DIM, NUM_FRAMES - 1)] * 3 and full_pipeline.num_timesteps == 3
    assert torch.equal(output.motion_codes, output.motion_codes[:, :1].expand(-1, NUM_FRAMES, -1))


def test_given_latents(full_pipeline):
    latents = torch.randn(2, MOTION_DIM, NUM_FRAMES - 1, generator=seeded(5))
    outputs = [
        full_pipeline(**SHORT, num_videos_per_prompt=2, latents=one, generator=seeded()) for one in (latents, -latents)
    ]
    assert torch.equal(outputs[0].motion_codes[:, 0], outputs[1].motion_codes[:, 0])
    assert not torch.equal(outputs[0].motion_codes, outputs[1].motion_codes)


def test_half_precision(full_folder):
    pipeline = LEOPipeline.from_pretrained(full_folder, dtype=torch.bfloat16)
    assert pipeline.motion_prior.dtype == pipeline.first_frame_unet.dtype == torch.bfloat16
    output, exact = (one(**SHORT, generator=seeded()) for one in (pipeline, LEOPipeline.from_pretrained(full_folder)))
    assert output.motion_codes.dtype == output.frames.dtype == torch.float32
    assert (output.motion_codes - exact.motion_codes).norm() < 0.1 * exact.motion_codes.norm()
    assert (output.frames - exact.frames).abs().mean() < 0.05


# --- without a condition ---


def test_motion_without_a_condition_comes_first(motion_only_pipeline):
    pipeline = motion_only_pipeline
    output = pipeline(**SHORT, num_videos_per_prompt=2, generator=seeded())
    assert output.frames.shape == (2, NUM_FRAMES, 3, 32, 32)
    assert output.motion_codes.shape == (2, NUM_FRAMES, MOTION_DIM)

    generator = seeded()
    noise = torch.randn(2, MOTION_DIM, NUM_FRAMES, generator=generator)  # no frame is given
    codes = pipeline.motion_unet.unstandardize(denoise(pipeline.motion_unet, pipeline.scheduler, noise, {}, 3))
    torch.testing.assert_close(output.motion_codes, codes)
    frames = pipeline.draw_first_frames(codes[:, 0], 3, generator)
    expected = pipeline([*frames], motion_codes=codes, output_type="pt")
    torch.testing.assert_close(output.frames, expected.frames, rtol=0, atol=1e-3)


def test_motion_without_a_condition_in_each_output_type(motion_only_pipeline):
    latents = motion_only_pipeline(**{**SHORT, "output_type": "latent"}, generator=seeded()).frames
    assert latents.shape == (1, MOTION_DIM, NUM_FRAMES)
    short = motion_only_pipeline(**{**SHORT, "num_frames": 5, "output_type": "pil"}, generator=seeded())
    assert len(short.frames[0]) == short.motion_codes.shape[1] == 5


def test_one_generator_per_video_without_a_condition(motion_only_pipeline):
    output = motion_only_pipeline(**SHORT, num_videos_per_prompt=2, generator=[seeded(3), seeded(4)])
    single = motion_only_pipeline(**SHORT, generator=seeded(4))
    torch.testing.assert_close(output.motion_codes[1], single.motion_codes[0], rtol=5e-3, atol=1e-3)


def test_motion_without_a_condition_goes_on_from_no_frame(motion_only_pipeline, photo):
    for arguments in ({"image": photo}, {"first_frame_source": lambda: photo}):
        with pytest.raises(ValueError, match="needs a `motion_unet` with `condition=\"start\"`, this one has 'none'"):
            motion_only_pipeline(**arguments, **SHORT)
    with pytest.raises(ValueError, match='`start_motion_code` .*leave it out .* with `condition="none"`'):
        motion_only_pipeline(**SHORT, start_motion_code=torch.zeros(MOTION_DIM))
    codes = random_codes(5)
    assert torch.equal(motion_only_pipeline(photo, motion_codes=codes, output_type="pt").motion_codes[0], codes)


# --- what is missing ---


@pytest.mark.parametrize(
    ("absent", "arguments", "named"),
    [
        (("motion_prior", "prior_scheduler"), {}, ["motion_prior"]),
        (("first_frame_unet",), {}, ["first_frame_unet"]),
        (("first_frame_scheduler",), {}, ["first_frame_scheduler"]),
        (OPTIONAL, {}, ["first_frame_unet", "first_frame_scheduler", "motion_prior"]),
        (OPTIONAL, {"start_motion_code": torch.zeros(8)}, ["first_frame_unet", "first_frame_scheduler"]),
        (OPTIONAL, {"motion_codes": torch.zeros(5, 8)}, ["first_frame_unet", "first_frame_scheduler"]),
    ],
)
def test_missing_components_are_named(make_full_pipeline, absent, arguments, named):
    pipeline = make_full_pipeline(**dict.fromkeys(absent))
    names = ", ".join(f"`{name}`" for name in named)
    with pytest.raises(ValueError, match=f"^Video from nothing needs {names}: train with"):
        pipeline(**SHORT, **arguments)


def test_the_prior_shares_the_scheduler_if_it_has_none(make_full_pipeline):
    expected = make_full_pipeline()(**SHORT, generator=seeded())
    output = make_full_pipeline(prior_scheduler=None)(**SHORT, generator=seeded())
    assert torch.equal(output.motion_codes, expected.motion_codes)


# --- schedulers ---


def test_codes_are_not_clipped_but_frames_are(make_full_pipeline, tmp_path):
    schedulers = {name: DDIMScheduler() for name in ("scheduler", "prior_scheduler", "first_frame_scheduler")}
    pipeline = make_full_pipeline(**schedulers)
    pipeline.save_pretrained(tmp_path)
    for one in (pipeline, LEOPipeline.from_pretrained(tmp_path)):
        clips = {name: getattr(one, name).config.clip_sample for name in schedulers}
        assert clips == {"scheduler": False, "prior_scheduler": False, "first_frame_scheduler": True}


def test_schedulers_that_are_set_later_do_not_clip_either(full_pipeline):
    full_pipeline.prior_scheduler = DDIMScheduler(prediction_type="sample")
    full_pipeline.scheduler = DDIMScheduler(prediction_type="sample")
    full_pipeline(**SHORT)
    assert not full_pipeline.prior_scheduler.config.clip_sample and not full_pipeline.scheduler.config.clip_sample
    assert full_pipeline.first_frame_scheduler.config.clip_sample
    full_pipeline.prior_scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="`prior_scheduler` is a FlowMatchEulerDiscreteScheduler, .*flow matching"):
        full_pipeline(**SHORT)


# --- saved and loaded ---


@pytest.mark.parametrize("loader", [LEOPipeline, DiffusionPipeline])
def test_with_its_optional_components(tmp_path, full_pipeline, loader):
    full_pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["motion_prior"] == ["leo_diffusers", "MotionPriorModel"]
    assert index["first_frame_unet"] == ["diffusers", "UNet2DConditionModel"]
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is LEOPipeline
    output, expected = (pipeline(**SHORT, generator=seeded()) for pipeline in (loaded, full_pipeline))
    torch.testing.assert_close(output.motion_codes, expected.motion_codes)
    torch.testing.assert_close(output.frames, expected.frames, rtol=0, atol=1e-4)


def test_with_some_of_its_optional_components(tmp_path, make_full_pipeline):
    make_full_pipeline(first_frame_unet=None, first_frame_scheduler=None).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["first_frame_unet"] == [None, None] and not (tmp_path / "first_frame_unet").exists()
    loaded = LEOPipeline.from_pretrained(tmp_path)
    assert loaded.first_frame_unet is None and loaded.motion_prior is not None


def test_components_are_added_while_loading(leo_folder, full_pipeline):
    added = {name: getattr(full_pipeline, name) for name in OPTIONAL}
    bare = LEOPipeline.from_pretrained(leo_folder)
    assert all(getattr(bare, name) is None for name in OPTIONAL)
    pipeline = LEOPipeline.from_pretrained(leo_folder, **added)
    assert pipeline(**SHORT, generator=seeded()).frames.shape == (1, NUM_FRAMES, 3, 32, 32)


def test_components_make_another_pipeline(full_pipeline):
    components = full_pipeline.components
    assert set(components) == {"animator", "motion_unet", "scheduler", *OPTIONAL}
    output, expected = (
        pipeline(**SHORT, generator=seeded()) for pipeline in (LEOPipeline(**components), full_pipeline)
    )
    assert torch.equal(output.frames, expected.frames)


# --- refusals ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"prompt": "a man"},
            ValueError,
            "`prompt` needs `first_frame_source`, for example a diffusers text-to-image",
        ),
        ({"image": "photo", "prompt": "a man"}, ValueError, "`image` is a first frame already: leave out `prompt`"),
        ({"image": "photo", "first_frame_source": print}, ValueError, "`image` is a first frame already"),
        ({"first_frame_source": "someone/sd"}, TypeError, "`first_frame_source` must be a diffusers pipeline .* str"),
        ({"first_frame_source": print, "prompt": []}, ValueError, "`prompt` is an empty list"),
        ({"first_frame_source": lambda prompt: None, "prompt": "a"}, ValueError, "returned no image, but NoneType"),
        ({"first_frame_source": lambda: None, "prompt": "a"}, ValueError, "takes no prompt"),
        ({"num_videos_per_prompt": 2, "generator": [seeded()]}, ValueError, "holds 1 generators for 2 videos"),
        (
            {"first_frame_source": print, "num_videos_per_prompt": 2, "generator": [seeded()]},
            ValueError,
            "`generator` holds 1 generators for 2 videos",
        ),
        ({"start_motion_code": torch.zeros(2, 8)}, ValueError, r"`start_motion_code` must have the shape .*\(2, 8\)"),
        ({"motion_codes": torch.zeros(2, 5, 8)}, ValueError, r"`motion_codes` must have the shape .*\(2, 5, 8\)"),
        ({"motion_mode": "relative"}, ValueError, '`motion_mode="relative"` needs `motion_codes`'),
        ({"motion_mode": "same"}, ValueError, '`motion_mode` must be "absolute" or "relative", got \'same\''),
        ({"motion_control": 2}, TypeError, "`motion_control` must be a MotionControl, got int"),
        ({"motion_control": MotionControl({8: 0.0})}, ValueError, "`scale` must be indices from 0 to 7"),
    ],
)
def test_refuses_bad_arguments(full_pipeline, photo, arguments, error, message):
    if "image" in arguments:
        arguments = {**arguments, "image": photo}
    calls = []
    for network in (full_pipeline.motion_prior, full_pipeline.first_frame_unet, full_pipeline.motion_unet):
        network.register_forward_hook(lambda *_: calls.append(None))
    with pytest.raises(error, match=message):
        full_pipeline(**SHORT, **arguments)
    assert not calls  # nothing was denoised for it


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"projection_class_embeddings_input_dim": 5}, "codes of 8 numbers, got 3, 3 and 5"),
        ({"class_embed_type": None, "projection_class_embeddings_input_dim": None}, "got 3, 3 and None"),
        ({"in_channels": 4}, "got 4, 3 and 8: train one with examples/train_first_frame.py"),
    ],
)
def test_refuses_another_first_frame_model(make_full_pipeline, make_first_frame_unet, config, message):
    with pytest.raises(ValueError, match=f"`first_frame_unet` must have 3 channels .*{message}"):
        make_full_pipeline(first_frame_unet=make_first_frame_unet(**config))


def test_refuses_another_prior(make_full_pipeline, make_motion_prior):
    with pytest.raises(ValueError, match="codes of 8 numbers, `motion_prior` of 5: they were not trained together"):
        make_full_pipeline(motion_prior=make_motion_prior(motion_dim=5))


def test_contradictions_are_refused_before_anything_is_drawn(full_pipeline):
    def source(generator):
        raise AssertionError("asked for a frame")

    for arguments, message in (
        ({"motion_codes": torch.zeros(5, 3)}, "`motion_codes` must have 8 numbers per frame"),
        ({"start_motion_code": torch.zeros(3)}, "`start_motion_code` must have 8 numbers per frame"),
        ({"latents": torch.zeros(1, 3, 3)}, r"`latents` must have the shape \(1, 8, 15\)"),
        ({"latents": torch.zeros(1, 8, 15), "motion_codes": torch.zeros(5, 8)}, "leave them out with `motion_codes`"),
        ({"generator": [seeded(), seeded()]}, "`generator` holds 2 generators for 1 videos"),
        ({"motion_control": MotionControl(values={0: [0.0, 1.0]})}, "a curve of 2 frames, but the video has more"),
    ):
        with pytest.raises(ValueError, match=message):
            full_pipeline(first_frame_source=source, **{**SHORT, **arguments})


def test_the_first_frames_scheduler_must_fit_too(make_full_pipeline):
    pipeline = make_full_pipeline(first_frame_scheduler=FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="`first_frame_scheduler` is a FlowMatchEulerDiscreteScheduler"):
        pipeline(**SHORT)


def test_whole_numbers_of_numpy_are_numbers(full_pipeline):
    assert full_pipeline(**{**SHORT, "num_frames": np.int64(4)}).frames.shape[1] == 4
