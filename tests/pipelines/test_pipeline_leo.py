import warnings

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image

from leo_diffusers import LEOPipeline, LEOPipelineOutput
from leo_diffusers.models.lia import LIASource
from tests.pipelines.conftest import code_of, seeded


NUM_FRAMES, MOTION_DIM = 16, 8
SHORT = {"num_frames": NUM_FRAMES, "num_inference_steps": 3, "output_type": "pt"}


def decode_by_hand(pipeline: LEOPipeline, image: Image.Image, motion_codes: torch.Tensor) -> torch.Tensor:
    """(F, M) -> (F, 3, H, W) in [0, 1]."""
    with torch.no_grad():
        source = pipeline.animator.encode_source(pipeline.preprocess(image))
        frames = torch.cat([pipeline.animator.decode(source, code[None]).sample for code in motion_codes])
    return ((frames + 1) / 2).clamp(0, 1)


# --- what comes out ---


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_output_types(leo_pipeline, photo, output_type):
    output = leo_pipeline(photo, **{**SHORT, "output_type": output_type}, generator=seeded())
    assert isinstance(output, LEOPipelineOutput)
    assert output.motion_codes.shape == (1, NUM_FRAMES, MOTION_DIM) and output.motion_codes.dtype == torch.float32
    frames = output.frames
    if output_type == "pil":
        assert len(frames) == 1 and len(frames[0]) == NUM_FRAMES
        assert all(frame.size == (32, 32) and frame.mode == "RGB" for frame in frames[0])
    elif output_type == "np":
        assert isinstance(frames, np.ndarray) and frames.dtype == np.float32
        assert frames.shape == (1, NUM_FRAMES, 32, 32, 3)
        assert 0 <= frames.min() < frames.max() <= 1
    elif output_type == "pt":
        assert frames.shape == (1, NUM_FRAMES, 3, 32, 32) and frames.dtype == torch.float32
        assert 0 <= frames.min() < frames.max() <= 1
    else:
        assert frames.shape == (1, MOTION_DIM, NUM_FRAMES - 1)


def test_output_types_show_the_same_frames(leo_pipeline, photo):
    pil, array, tensor = (
        leo_pipeline(photo, **{**SHORT, "output_type": output_type}, generator=seeded()).frames
        for output_type in ("pil", "np", "pt")
    )
    np.testing.assert_array_equal(array, tensor.permute(0, 1, 3, 4, 2).numpy())
    pixels = np.stack([np.asarray(frame) for frame in pil[0]])
    assert np.abs(pixels.astype(np.float32) - array[0] * 255).max() <= 0.51


def test_tuple_output(leo_pipeline, photo):
    output = leo_pipeline(photo, **SHORT, generator=seeded())
    frames, motion_codes = leo_pipeline(photo, **SHORT, generator=seeded(), return_dict=False)
    assert torch.equal(frames, output.frames) and torch.equal(motion_codes, output.motion_codes)


@pytest.mark.parametrize("value", [-1.0, -0.5, 0.0, 0.25, 1.0])
def test_pixels_are_mapped_by_fixed_numbers(leo_pipeline, value):
    frames = torch.full((2, 3, 3, 4, 4), value)  # a constant clip: stretching it would change or break it
    expected = (value + 1) / 2
    for output_type in ("np", "pt"):
        output = leo_pipeline.postprocess(frames, output_type)
        np.testing.assert_allclose(np.asarray(output), expected, atol=1e-6)
    pixels = np.asarray(leo_pipeline.postprocess(frames, "pil")[1][2])
    assert abs(pixels.astype(float) - expected * 255).max() <= 0.51


def test_pixels_outside_of_the_range_are_clamped(leo_pipeline):
    frames = torch.tensor([-3.0, 3.0]).view(1, 2, 1, 1, 1).expand(-1, -1, 3, 4, 4)
    assert torch.equal(leo_pipeline.postprocess(frames, "pt")[0, :, 0, 0, 0], torch.tensor([0.0, 1.0]))
    first, last = leo_pipeline.postprocess(frames, "pil")[0]
    assert not np.asarray(first).any() and np.all(np.asarray(last) == 255)


def test_nothing_is_left_to_learn(leo_pipeline, photo):
    output = leo_pipeline(photo, **SHORT)
    assert not output.frames.requires_grad and not output.motion_codes.requires_grad
    assert all(parameter.requires_grad for parameter in leo_pipeline.motion_unet.parameters())


# --- motion codes and frames ---


def test_the_motion_starts_at_the_images_own_code(leo_pipeline, photo):
    output = leo_pipeline(photo, **SHORT, generator=seeded())
    assert torch.equal(output.motion_codes[:, 0], code_of(leo_pipeline, photo))


def test_codes_are_the_start_plus_the_denoised_residuals(make_motion_unet, animator, photo):
    statistics = {"motion_mean": tuple(range(8)), "motion_std": tuple(0.5 + i for i in range(8))}
    pipeline = LEOPipeline(animator, make_motion_unet(**statistics), DDIMScheduler(clip_sample=False))
    residuals = pipeline(photo, **{**SHORT, "output_type": "latent"}, generator=seeded()).frames
    output = pipeline(photo, **SHORT, generator=seeded())
    std = torch.tensor(statistics["motion_std"])
    expected = output.motion_codes[:, :1] + residuals.transpose(1, 2) * std
    torch.testing.assert_close(output.motion_codes[:, 1:], expected)


def test_frames_are_those_of_the_codes(leo_pipeline, photo):
    output = leo_pipeline(photo, **SHORT, generator=seeded())
    expected = decode_by_hand(leo_pipeline, photo, output.motion_codes[0])
    torch.testing.assert_close(output.frames[0], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(MOTION_DIM,), (1, MOTION_DIM), (2, MOTION_DIM)])
def test_another_start(leo_pipeline, photo, shape):
    start = torch.randn(shape, generator=seeded(7))
    output = leo_pipeline(photo, **SHORT, num_videos_per_prompt=2, start_motion_code=start, generator=seeded())
    assert torch.equal(output.motion_codes[:, 0], start.expand(2, MOTION_DIM))
    own = leo_pipeline(photo, **SHORT, num_videos_per_prompt=2, generator=seeded())
    residuals, own_residuals = (codes - codes[:, :1] for codes in (output.motion_codes, own.motion_codes))
    assert (residuals - own_residuals).abs().amax() > 1e-3  # the start conditions the motion


@pytest.mark.parametrize("as_list", [False, True])
def test_codes_rendered_on_another_image(leo_pipeline, photo, other_photo, as_list):
    codes = leo_pipeline(photo, **SHORT, generator=seeded()).motion_codes
    given = codes[0].tolist() if as_list else codes
    output = leo_pipeline(other_photo, motion_codes=given, num_frames=NUM_FRAMES, output_type="pt")
    torch.testing.assert_close(output.motion_codes, codes, rtol=0, atol=0)
    expected = decode_by_hand(leo_pipeline, other_photo, codes[0])
    torch.testing.assert_close(output.frames[0], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("num_codes", [1, 5, 40])
def test_given_codes_bring_their_own_length(leo_pipeline, photo, num_codes):
    codes = torch.randn(num_codes, MOTION_DIM, generator=seeded())
    output = leo_pipeline(photo, motion_codes=codes, output_type="pt")
    assert output.frames.shape == (1, num_codes, 3, 32, 32)
    assert torch.equal(output.motion_codes[0], codes)


def test_given_codes_of_every_video(leo_pipeline, photo, other_photo):
    codes = torch.randn(2, 5, MOTION_DIM, generator=seeded())
    output = leo_pipeline([photo, other_photo], motion_codes=codes, num_frames=5, output_type="pt")
    for i, image in enumerate((photo, other_photo)):
        expected = decode_by_hand(leo_pipeline, image, codes[i])
        torch.testing.assert_close(output.frames[i], expected, rtol=0, atol=1e-3)
    shared = leo_pipeline([photo, other_photo], motion_codes=codes[0], num_frames=5, output_type="latent")
    assert torch.equal(shared.motion_codes, codes[:1].expand(2, -1, -1))
    assert torch.equal(shared.frames, shared.motion_codes)


@pytest.mark.parametrize("num_frames", [2, 5, 15])
def test_fewer_frames_are_the_beginning(leo_pipeline, photo, num_frames):
    whole = leo_pipeline(photo, **SHORT, generator=seeded())
    short = leo_pipeline(photo, **{**SHORT, "num_frames": num_frames}, generator=seeded())
    assert short.frames.shape[1] == num_frames
    assert torch.equal(short.motion_codes, whole.motion_codes[:, :num_frames])
    torch.testing.assert_close(short.frames, whole.frames[:, :num_frames], rtol=0, atol=1e-3)


@pytest.mark.parametrize("decode_chunk_size", [1, 3, 16, 100])
def test_chunks_do_not_change_the_result(leo_pipeline, photo, decode_chunk_size):
    expected = leo_pipeline(photo, **SHORT, generator=seeded())
    output = leo_pipeline(photo, **SHORT, generator=seeded(), decode_chunk_size=decode_chunk_size)
    assert torch.equal(output.motion_codes, expected.motion_codes)
    torch.testing.assert_close(output.frames, expected.frames, rtol=0, atol=1e-3)


# --- images ---


def test_images_arrays_and_tensors_agree(leo_pipeline, photo):
    pixels = np.asarray(photo)
    tensor = torch.tensor(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)
    kinds = [photo, pixels, pixels.astype(np.float32) / 255, tensor, tensor[None]]
    codes = [leo_pipeline(kind, **SHORT, generator=seeded()).motion_codes for kind in kinds]
    for other in codes[1:]:
        torch.testing.assert_close(other, codes[0], rtol=1e-4, atol=1e-4)


def test_a_batch_of_images(leo_pipeline, photo, other_photo):
    generators = [seeded(i) for i in range(2)]
    output = leo_pipeline([photo, other_photo], **SHORT, generator=generators)
    assert output.frames.shape == (2, NUM_FRAMES, 3, 32, 32)
    for i, image in enumerate((photo, other_photo)):
        single = leo_pipeline(image, **SHORT, generator=seeded(i))
        torch.testing.assert_close(output.motion_codes[i], single.motion_codes[0], rtol=5e-3, atol=1e-3)
        torch.testing.assert_close(output.frames[i], single.frames[0], rtol=0, atol=1e-2)
    stacked = np.stack([np.asarray(photo), np.asarray(other_photo)])
    array_output = leo_pipeline(stacked, **SHORT, generator=[seeded(i) for i in range(2)])
    torch.testing.assert_close(array_output.motion_codes, output.motion_codes)


def test_videos_per_image_stand_next_to_each_other(leo_pipeline, photo, other_photo):
    generators = [seeded(i) for i in range(4)]
    output = leo_pipeline([photo, other_photo], **SHORT, num_videos_per_prompt=2, generator=generators)
    assert output.frames.shape == (4, NUM_FRAMES, 3, 32, 32)
    for i, image in enumerate((photo, photo, other_photo, other_photo)):
        start = code_of(leo_pipeline, image)[0]
        torch.testing.assert_close(output.motion_codes[i, 0], start, rtol=1e-4, atol=1e-5)
        expected = decode_by_hand(leo_pipeline, image, output.motion_codes[i])
        torch.testing.assert_close(output.frames[i], expected, rtol=0, atol=1e-2)
    assert not torch.equal(output.motion_codes[0], output.motion_codes[1])


def test_cropping_warns(leo_pipeline, photo):
    with pytest.warns(UserWarning, match="64x32, and only its central 32x32 square is used"):
        leo_pipeline(photo.resize((64, 32)), **SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        leo_pipeline(photo.resize((48, 48)), **SHORT)  # resizing loses nothing


# --- refusals ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": None}, "Video from nothing needs `first_frame_unet`, `first_frame_scheduler`, `motion_prior`"),
        ({"image": []}, "`image` is an empty list: give at least one image, or None"),
        ({"num_frames": 1}, "`num_frames` must be at least 2, got 1: one frame holds no motion"),
        ({"num_frames": 17}, "`num_frames` must be at most 16, the sequence length .* got 17"),
        ({"num_inference_steps": 0}, "`num_inference_steps` must be at least 1, got 0"),
        ({"num_inference_steps": 1001}, "`num_inference_steps` must be at most 1000, the timesteps of `scheduler`"),
        ({"num_videos_per_prompt": 0}, "`num_videos_per_prompt` must be at least 1, got 0"),
        ({"decode_chunk_size": 0}, "`decode_chunk_size` must be at least 1, got 0"),
        ({"output_type": "jpeg"}, "`output_type` must be one of .* got 'jpeg'"),
        ({"latents": torch.zeros(1, 8, 16)}, r"`latents` must have the shape \(1, 8, 15\), got \(1, 8, 16\)"),
        ({"generator": [seeded(), seeded()]}, "`generator` holds 2 generators for 1 videos"),
        ({"start_motion_code": torch.zeros(9)}, r"`start_motion_code` must have 8 numbers .* got the shape \(9,\)"),
        ({"start_motion_code": torch.zeros(3, 8)}, r"`start_motion_code` must have the shape .* got \(3, 8\)"),
        ({"start_motion_code": torch.full((8,), torch.nan)}, "`start_motion_code` holds NaN"),
        ({"motion_codes": torch.zeros(4, 7)}, r"`motion_codes` must have 8 numbers .* got the shape \(4, 7\)"),
        ({"motion_codes": torch.zeros(8)}, r"`motion_codes` must have the shape \(F, M\) .* got \(8,\)"),
        ({"motion_codes": torch.zeros(3, 4, 8)}, r"`motion_codes` must have the shape .* got \(3, 4, 8\)"),
        ({"motion_codes": torch.zeros(0, 8)}, r"`motion_codes` must have the shape .* got \(1, 0, 8\)"),
        ({"motion_codes": torch.full((4, 8), torch.inf)}, "`motion_codes` holds NaN or infinite values"),
        (
            {"motion_codes": torch.zeros(4, 8), "start_motion_code": torch.zeros(8)},
            "leave it out with `motion_codes`",
        ),
        (
            {"callback_on_step_end_tensor_inputs": ["latents", "noise"]},
            r"`callback_on_step_end_tensor_inputs` can name \['latents'\], got \['noise'\]",
        ),
    ],
)
def test_refuses_bad_arguments(leo_pipeline, photo, arguments, message):
    with pytest.raises(ValueError, match=message):
        leo_pipeline(**{"image": photo, **SHORT, **arguments})


def test_refuses_what_is_no_image(leo_pipeline):
    with pytest.raises(TypeError, match="`image` must be a PIL image, a NumPy array or a tensor, got str"):
        leo_pipeline("photo.png", **SHORT)


def test_refuses_networks_that_were_not_trained_together(animator, make_motion_unet):
    with pytest.raises(ValueError, match="codes of 8 numbers, `motion_unet` of 5: they were not trained together"):
        LEOPipeline(animator, make_motion_unet(motion_dim=5), DDIMScheduler(clip_sample=False))


def test_refuses_a_network_of_another_condition(animator, make_motion_unet):
    with pytest.raises(ValueError, match="`motion_unet` must have the condition 'start' or 'none', got 'start_end'"):
        LEOPipeline(animator, make_motion_unet(condition="start_end"), DDIMScheduler(clip_sample=False))


def test_animate_keeps_the_order_of_a_stream(leo_pipeline, photo):
    codes = torch.randn(7, MOTION_DIM, generator=seeded())
    with torch.no_grad():
        source = leo_pipeline.animator.encode_source(leo_pipeline.preprocess(photo))
    assert isinstance(source, LIASource)
    chunks = list(leo_pipeline.animate(source, iter([codes[:5], codes[5:]]), decode_chunk_size=2))
    assert [len(chunk) for chunk in chunks] == [2, 2, 1, 2]
    expected = decode_by_hand(leo_pipeline, photo, codes)
    torch.testing.assert_close(((torch.cat(chunks) + 1) / 2).clamp(0, 1), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("scheduler_class", [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler])
def test_the_first_call_equals_the_second(make_leo_pipeline, photo, scheduler_class):
    # The scale of the first noise depends on the timesteps, which a new scheduler does not have yet.
    pipeline = make_leo_pipeline(scheduler_class(timestep_spacing="leading"))
    first, second = (pipeline(photo, **SHORT, generator=seeded()).motion_codes for _ in range(2))
    assert torch.equal(first, second)


def test_refuses_noise_that_is_not_finite(leo_pipeline, photo):
    latents = torch.full((1, 8, 15), torch.nan)
    with pytest.raises(ValueError, match="`latents` holds NaN"):
        leo_pipeline(photo, **SHORT, latents=latents)


def test_refuses_a_scheduler_of_flow_matching(make_leo_pipeline, photo):
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler.*flow matching"):
        make_leo_pipeline(FlowMatchEulerDiscreteScheduler())(photo, **SHORT)


def test_refuses_a_chunk_size_before_denoising(leo_pipeline, photo):
    steps = []

    def on_step(pipeline, step, timestep, tensors):
        steps.append(step)
        return tensors

    with pytest.raises(ValueError, match="`decode_chunk_size` must be at least 1, got 0"):
        leo_pipeline(photo, **SHORT, decode_chunk_size=0, callback_on_step_end=on_step)
    assert steps == []


def test_refuses_counts_that_are_no_integers(leo_pipeline, photo):
    with pytest.raises(TypeError, match="`num_frames` must be an integer, got 2.5"):
        leo_pipeline(photo, num_frames=2.5)
