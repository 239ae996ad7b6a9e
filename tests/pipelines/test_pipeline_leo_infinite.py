import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils import logging
from PIL import Image

from leo_diffusers import LEOInfinitePipeline, LEOPipeline, LEOPipelineOutput, MotionControl
from tests.pipelines.conftest import seeded


MOTION_DIM, CHUNK = 8, 15  # frames that a chunk adds: one less than the sequence length
NUM_STEPS = 3
SHORT = {"num_inference_steps": NUM_STEPS, "output_type": "pt"}
CODES = {"num_inference_steps": NUM_STEPS, "output_type": "latent"}


def streamed(pipeline: LEOInfinitePipeline, image=None, **arguments) -> torch.Tensor:
    """Frames (F, 3, H, W), or codes (F, M)."""
    return torch.stack(list(pipeline.stream(image, **arguments)))


def count_calls(network: torch.nn.Module) -> list[None]:
    calls = []
    network.register_forward_hook(lambda *_: calls.append(None))
    return calls


# --- what comes out ---


@pytest.mark.parametrize("num_frames", [2, 16, 17, 40])
def test_as_many_frames_as_asked_for(infinite_pipeline, photo, num_frames):
    frames = streamed(infinite_pipeline, photo, num_frames=num_frames, **SHORT, generator=seeded())
    assert frames.shape == (num_frames, 3, 32, 32) and frames.dtype == torch.float32
    assert 0 <= frames.min() < frames.max() <= 1
    longer = streamed(infinite_pipeline, photo, num_frames=50, **SHORT, generator=seeded())
    torch.testing.assert_close(longer[:num_frames], frames, rtol=0, atol=1e-4)


def test_goes_on_for_ever(infinite_pipeline, photo):
    stream = infinite_pipeline.stream(photo, **SHORT, generator=seeded())
    frames = torch.stack(list(itertools.islice(stream, 200)))
    assert frames.shape == (200, 3, 32, 32) and torch.isfinite(frames).all()
    assert next(stream).shape == (3, 32, 32)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_output_types(infinite_pipeline, photo, output_type):
    arguments = {"num_frames": 20, "num_inference_steps": NUM_STEPS, "output_type": output_type}
    output = infinite_pipeline(photo, **arguments, generator=seeded())
    assert isinstance(output, LEOPipelineOutput) and output.motion_codes.shape == (1, 20, MOTION_DIM)
    frames, motion_codes = infinite_pipeline(photo, **arguments, generator=seeded(), return_dict=False)
    assert torch.equal(motion_codes, output.motion_codes) and len(frames) == 1
    stream = list(infinite_pipeline.stream(photo, **arguments, generator=seeded()))
    assert len(stream) == len(output.frames[0]) == 20
    for streamed_frame, frame in zip(stream, output.frames[0], strict=True):
        assert type(streamed_frame) is type(frame)
        one, other = (np.asarray(each, dtype=np.float32) for each in (streamed_frame, frame))
        np.testing.assert_allclose(one, other, atol=1.01 if output_type == "pil" else 1e-4)


@pytest.mark.parametrize("decode_chunk_size", [1, 4, 100])
@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, DDPMScheduler])
def test_the_stream_is_the_call(make_full_pipeline, photo, scheduler_class, decode_chunk_size):
    pipeline = make_full_pipeline(LEOInfinitePipeline, scheduler=scheduler_class(prediction_type="sample"))
    output = pipeline(photo, num_frames=40, **SHORT, generator=seeded())
    arguments = {"num_frames": 40, "generator": seeded(), "decode_chunk_size": decode_chunk_size}
    frames = streamed(pipeline, photo, **SHORT, **arguments)
    torch.testing.assert_close(frames, output.frames[0], rtol=0, atol=1e-4)
    codes = streamed(pipeline, photo, **CODES, **{**arguments, "generator": seeded()})
    assert torch.equal(codes, output.motion_codes[0])


def test_same_seed_same_video(infinite_pipeline, photo):
    first, second, other = (
        streamed(infinite_pipeline, photo, num_frames=40, **CODES, generator=seeded(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second) and (first - other).abs().amax() > 0.01


def test_the_callers_modes_are_left_alone(infinite_pipeline, photo):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for frame in infinite_pipeline.stream(photo, num_frames=20, **SHORT, generator=seeded()):
        assert torch.is_grad_enabled() and not frame.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


# --- chunk after chunk ---


@pytest.mark.parametrize(
    ("decode_chunk_size", "scheduler", "num_steps"),
    [
        (1, DDIMScheduler(prediction_type="sample"), 6),
        (5, DDIMScheduler(prediction_type="sample"), 6),
        (4, HeunDiscreteScheduler(prediction_type="sample"), 11),  # visits steps twice
    ],
)
def test_denoising_is_spread_between_the_frames(make_full_pipeline, photo, decode_chunk_size, scheduler, num_steps):
    pipeline = make_full_pipeline(LEOInfinitePipeline, scheduler=scheduler)
    calls, counts = count_calls(pipeline.motion_unet), []
    stream = pipeline.stream(photo, num_inference_steps=6, decode_chunk_size=decode_chunk_size, output_type="pt")
    for _ in range(1 + 4 * CHUNK):
        next(stream)
        counts.append(len(calls))
    assert counts[0] == 0  # the first frame is out before any motion is drawn
    assert counts[1] == num_steps  # nobody can wait less for the second
    waits = np.diff(counts[1:])
    assert waits.max() <= math.ceil(num_steps * decode_chunk_size / CHUNK)
    assert counts[1 + CHUNK] == 2 * num_steps and counts[1 + 3 * CHUNK] == 4 * num_steps


def test_no_chunk_is_drawn_that_nobody_sees(infinite_pipeline, photo):
    calls = count_calls(infinite_pipeline.motion_unet)
    streamed(infinite_pipeline, photo, num_frames=1 + 2 * CHUNK, **CODES)
    assert len(calls) == 2 * NUM_STEPS
    infinite_pipeline(photo, num_frames=2, **CODES)
    assert len(calls) == 3 * NUM_STEPS


@pytest.mark.parametrize("transition", ["none", "diffusion"])
def test_two_streams_of_one_pipeline(make_full_pipeline, photo, other_photo, transition):
    schedulers = {  # which remember their last predictions
        name: UniPCMultistepScheduler(prediction_type="sample")
        for name in ("scheduler", "prior_scheduler", "transition_scheduler")
    }
    pipeline = make_full_pipeline(LEOInfinitePipeline, **schedulers)
    arguments = {**CODES, "num_inference_steps": 6, "transition": transition, "decode_chunk_size": 2}
    images = (photo, other_photo)
    alone = [
        streamed(pipeline, image, num_frames=60, **arguments, generator=seeded(i)) for i, image in enumerate(images)
    ]
    both = [pipeline.stream(image, **arguments, generator=seeded(i)) for i, image in enumerate(images)]
    alternate = [torch.stack(codes) for codes in zip(*itertools.islice(zip(*both), 60))]
    assert torch.equal(alternate[0], alone[0]) and torch.equal(alternate[1], alone[1])


def test_a_stream_that_is_closed_puts_its_models_away(infinite_pipeline, photo):
    infinite_pipeline.enable_model_cpu_offload(device="cpu")
    for num_read in (1, 20):
        hooks = infinite_pipeline._all_hooks
        stream = infinite_pipeline.stream(photo, **SHORT)
        assert len(list(itertools.islice(stream, num_read))) == num_read
        assert infinite_pipeline._all_hooks is hooks
        stream.close()
        assert infinite_pipeline._all_hooks is not hooks  # each time they are made anew
        assert next(stream, None) is None


def test_memory_does_not_grow_with_the_stream():
    code = """
import itertools, resource, torch
from diffusers import DDIMScheduler
from leo_diffusers import LEOInfinitePipeline, LIAModel, MotionUNet1DModel

torch.manual_seed(0)
torch.set_num_threads(1)
pipeline = LEOInfinitePipeline(
    LIAModel(frame_size=32, latent_dim=32, block_out_channels=(8, 8, 16, 16), motion_head_layers=1).eval(),
    MotionUNet1DModel(sequence_length=16, block_out_channels=(32,), layers_per_block=1, attention_levels=()).eval(),
    DDIMScheduler(prediction_type="sample", clip_sample=False),
)
stream = pipeline.stream(torch.zeros(3, 32, 32), num_inference_steps=2, output_type="pt")
for num_frames in (200, 1800):
    for frame in itertools.islice(stream, num_frames):
        pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    after_200, after_2000 = map(int, result.stdout.split())
    assert after_2000 < 1.02 * after_200, f"{after_200} kB after 200 frames, {after_2000} kB after 2,000"


# --- transitions ---


@pytest.mark.parametrize("transition_interval", [1, 3])
@pytest.mark.parametrize("transition_length", [8, 16])
def test_transitions_end_at_fresh_poses(
    make_full_pipeline, make_motion_unet, photo, transition_interval, transition_length
):
    transition_unet = make_motion_unet(condition="start_end", sequence_length=transition_length)
    pipeline = make_full_pipeline(LEOInfinitePipeline, transition_unet=transition_unet)
    drawn = []  # what the prior predicts at its last step is what it draws
    pipeline.motion_prior.register_forward_hook(lambda _, inputs, output: drawn.append(output.sample))
    cycle = transition_interval * CHUNK + transition_length - 1
    arguments = {"transition": "diffusion", "transition_interval": transition_interval, "decode_chunk_size": 4}
    codes = streamed(pipeline, photo, num_frames=1 + 3 * cycle, **CODES, **arguments, generator=seeded())
    targets = pipeline.motion_prior.unstandardize(torch.cat(drawn[NUM_STEPS - 1 :: NUM_STEPS]))  # (3, M)
    assert len(targets) == 3 and (targets[0] - targets[1]).abs().amax() > 1e-3
    distances = (codes[:, None] - targets).abs().amax(dim=2)  # (F, 3)
    places = [(distances[:, i] < 1e-5).nonzero().flatten().tolist() for i in range(3)]
    assert places == [[cycle], [2 * cycle], [3 * cycle]]


def test_the_way_there_is_the_transition_models(make_full_pipeline, photo):
    pipeline = make_full_pipeline(LEOInfinitePipeline)
    motion_calls, transition_calls = count_calls(pipeline.motion_unet), count_calls(pipeline.transition_unet)
    arguments = {**CODES, "transition": "diffusion", "transition_interval": 2, "generator": seeded()}
    codes = streamed(pipeline, photo, num_frames=1 + 6 * CHUNK, **arguments)
    assert (len(motion_calls), len(transition_calls)) == (4 * NUM_STEPS, 2 * NUM_STEPS)
    plain = streamed(pipeline, photo, num_frames=1 + 6 * CHUNK, **CODES, generator=seeded())
    assert torch.equal(codes[: 1 + 2 * CHUNK], plain[: 1 + 2 * CHUNK])
    assert not torch.equal(codes[1 + 2 * CHUNK], plain[1 + 2 * CHUNK])
    assert len(transition_calls) == 2 * NUM_STEPS  # "none" needs none


def test_transitions_of_the_stream_are_those_of_the_call(infinite_pipeline, photo):
    arguments = {"num_frames": 80, "transition": "diffusion", "drift_limit": 2.0}
    output = infinite_pipeline(photo, **SHORT, **arguments, generator=seeded())
    frames = streamed(infinite_pipeline, photo, **SHORT, **arguments, generator=seeded(), decode_chunk_size=4)
    torch.testing.assert_close(frames, output.frames[0], rtol=0, atol=1e-4)


def test_transitions_are_spread_between_the_frames_too(infinite_pipeline, photo):
    calls, counts = count_calls(infinite_pipeline.transition_unet), []
    arguments = {"num_inference_steps": 6, "transition": "diffusion", "decode_chunk_size": 5, "output_type": "pt"}
    for _ in itertools.islice(infinite_pipeline.stream(photo, **arguments), 1 + 4 * CHUNK):
        counts.append(len(calls))
    assert np.diff(counts).max() <= 2 and counts[1 + CHUNK] == 6


# --- from nothing, from a prompt, in batches ---


def test_from_nothing(infinite_pipeline, make_full_pipeline):
    arguments = {"num_frames": 40, "seam_frames": 0, **SHORT}
    frames = streamed(infinite_pipeline, **arguments, generator=seeded())
    output = infinite_pipeline(**arguments, generator=seeded())
    torch.testing.assert_close(frames, output.frames[0], rtol=0, atol=1e-4)
    chunk = make_full_pipeline()(num_frames=16, **SHORT, generator=seeded())
    torch.testing.assert_close(output.motion_codes[:, :16], chunk.motion_codes)
    torch.testing.assert_close(output.frames[:, :16], chunk.frames, rtol=0, atol=1e-4)
    other = infinite_pipeline(**arguments, generator=seeded(1))
    assert (other.frames[0, 0] - output.frames[0, 0]).abs().mean() > 0.01


def test_from_nothing_in_a_given_pose(make_full_pipeline):
    pipeline = make_full_pipeline(LEOInfinitePipeline, motion_prior=None)
    start = torch.randn(MOTION_DIM, generator=seeded(7))
    codes = streamed(pipeline, num_frames=20, **CODES, start_motion_code=start, generator=seeded())
    assert torch.equal(codes[0], start)


def test_from_a_source_of_first_frames(infinite_pipeline, photo, other_photo):
    images = {"a man": photo, "a woman": other_photo}
    arguments = {"num_frames": 20, **CODES}

    def draw(prompt: str) -> Image.Image:
        return images[prompt]

    codes = streamed(infinite_pipeline, prompt="a man", first_frame_source=draw, **arguments, generator=seeded())
    assert torch.equal(codes, streamed(infinite_pipeline, photo, **arguments, generator=seeded()))
    output = infinite_pipeline(prompt=["a man", "a woman"], first_frame_source=draw, **arguments, generator=seeded())
    expected = infinite_pipeline([photo, other_photo], **arguments, generator=seeded())
    assert torch.equal(output.motion_codes, expected.motion_codes)


@pytest.mark.parametrize("transition", ["none", "diffusion"])
def test_videos_of_a_batch_are_independent(infinite_pipeline, photo, other_photo, transition):
    arguments = {"num_frames": 40, **SHORT, "transition": transition}
    generators = [seeded(seed) for seed in range(4)]
    output = infinite_pipeline([photo, other_photo], **arguments, num_videos_per_prompt=2, generator=generators)
    assert output.frames.shape == (4, 40, 3, 32, 32) and output.motion_codes.shape == (4, 40, MOTION_DIM)
    for i, image in enumerate((photo, photo, other_photo, other_photo)):
        single = infinite_pipeline(image, **arguments, generator=seeded(i))
        torch.testing.assert_close(output.motion_codes[i], single.motion_codes[0], rtol=5e-3, atol=1e-3)
        torch.testing.assert_close(output.frames[i], single.frames[0], rtol=0, atol=1e-2)


def test_videos_from_nothing_are_independent(infinite_pipeline):
    arguments = {"num_frames": 20, **SHORT}
    output = infinite_pipeline(**arguments, num_videos_per_prompt=2, generator=[seeded(3), seeded(4)])
    single = infinite_pipeline(**arguments, generator=seeded(4))
    torch.testing.assert_close(output.motion_codes[1], single.motion_codes[0], rtol=5e-3, atol=1e-3)
    torch.testing.assert_close(output.frames[1], single.frames[0], rtol=0, atol=1e-2)


def test_half_precision(full_folder, photo):
    arguments = {"num_frames": 40, **SHORT, "transition": "diffusion", "drift_limit": 2.0}
    pipeline = LEOInfinitePipeline.from_pretrained(full_folder, dtype=torch.bfloat16)
    frames = streamed(pipeline, photo, **arguments, generator=seeded())
    exact = streamed(LEOInfinitePipeline.from_pretrained(full_folder), photo, **arguments, generator=seeded())
    assert frames.dtype == torch.float32 and (frames - exact).abs().mean() < 0.05


# --- motion control ---


@pytest.mark.parametrize("smoothing", [0.0, 2.0])
def test_motion_control(infinite_pipeline, photo, smoothing):
    control = MotionControl(scale=0.5, values={1: 2.0}, smoothing=smoothing)
    arguments = {"num_frames": 40, **CODES}
    free = streamed(infinite_pipeline, photo, **arguments, generator=seeded())
    expected = torch.cat(list(control.apply([free], free[0])))
    codes = streamed(
        infinite_pipeline, photo, **arguments, motion_control=control, decode_chunk_size=3, generator=seeded()
    )
    torch.testing.assert_close(codes, expected)
    output = infinite_pipeline(photo, **arguments, motion_control=control, generator=seeded())
    assert torch.equal(output.motion_codes[0], codes)


def test_motion_control_of_a_batch_counts_from_each_frame(infinite_pipeline, photo, other_photo):
    output = infinite_pipeline(
        [photo, other_photo], num_frames=20, **CODES, num_videos_per_prompt=2, motion_control=MotionControl(scale=0)
    )
    for i, image in enumerate((photo, photo, other_photo, other_photo)):
        with torch.no_grad():
            own = infinite_pipeline.animator.encode_motion(infinite_pipeline.preprocess(image))
        torch.testing.assert_close(output.motion_codes[i], own.expand(20, -1), rtol=1e-4, atol=1e-5)


# --- saved and loaded ---


@pytest.mark.parametrize("loader", [LEOInfinitePipeline, DiffusionPipeline])
def test_with_everything(full_folder, infinite_pipeline, photo, loader):
    index = json.loads((full_folder / "model_index.json").read_text())
    assert index["_class_name"] == "LEOInfinitePipeline"
    assert index["transition_unet"] == ["leo_diffusers", "MotionUNet1DModel"]
    loaded = loader.from_pretrained(full_folder)
    assert type(loaded) is LEOInfinitePipeline and loaded.transition_unet.config.condition == "start_end"
    arguments = {"num_frames": 50, **CODES, "transition": "diffusion"}
    codes, expected = (streamed(one, photo, **arguments, generator=seeded()) for one in (loaded, infinite_pipeline))
    torch.testing.assert_close(codes, expected)


def test_from_a_folder_of_leo_and_back(tmp_path, leo_folder, full_folder, photo):
    pipeline = LEOInfinitePipeline.from_pretrained(leo_folder)
    assert type(pipeline) is LEOInfinitePipeline and pipeline.transition_unet is None
    pipeline.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["transition_unet"] == [None, None]
    assert len(list(LEOInfinitePipeline.from_pretrained(tmp_path).stream(photo, num_frames=20, **SHORT))) == 20
    short_pipeline = LEOPipeline.from_pretrained(full_folder)
    assert type(short_pipeline) is LEOPipeline and short_pipeline.motion_prior is not None
    assert short_pipeline(num_frames=16, **SHORT).frames.shape == (1, 16, 3, 32, 32)


def test_from_pipe(tmp_path, make_full_pipeline, photo):
    short_pipeline = make_full_pipeline()
    infinite = LEOInfinitePipeline.from_pipe(short_pipeline)
    assert infinite.motion_unet is short_pipeline.motion_unet and infinite.transition_unet is None
    expected = short_pipeline(photo, num_frames=16, **SHORT, generator=seeded()).motion_codes[0]
    codes = streamed(infinite, photo, num_frames=16, seam_frames=0, **CODES, generator=seeded())
    torch.testing.assert_close(codes, expected)

    full = make_full_pipeline(LEOInfinitePipeline)
    with_transition = LEOInfinitePipeline.from_pipe(short_pipeline, transition_unet=full.transition_unet)
    assert len(streamed(with_transition, photo, num_frames=40, **CODES, transition="diffusion")) == 40
    back = LEOPipeline.from_pipe(full)
    assert type(back) is LEOPipeline and back.first_frame_unet is full.first_frame_unet
    back.save_pretrained(tmp_path)
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is LEOPipeline


def test_from_pipe_casts_nothing(full_folder):
    infinite = LEOInfinitePipeline.from_pretrained(full_folder, dtype=torch.bfloat16)
    short_pipeline = LEOPipeline.from_pipe(infinite)
    for pipeline in (infinite, short_pipeline):
        assert pipeline.dtype == torch.bfloat16
        assert pipeline.animator.motion_head.layers[0].weight.dtype == torch.float32  # as it was loaded
    assert LEOPipeline.from_pipe(infinite, dtype=torch.float32).dtype == torch.float32


def test_networks_of_other_codes_are_warned_of(make_full_pipeline, make_motion_prior, caplog, monkeypatch):
    monkeypatch.setattr(logging.get_logger("diffusers"), "propagate", True)
    make_full_pipeline(LEOInfinitePipeline)
    assert "were trained on different motion codes" not in caplog.text
    make_full_pipeline(LEOInfinitePipeline, motion_prior=make_motion_prior(motion_mean=(50.0,) * MOTION_DIM))
    assert "`motion_prior` and `motion_unet` were trained on different motion codes" in caplog.text


def test_curves_are_as_long_as_the_video(infinite_pipeline, photo):
    curve = MotionControl(values={0: [0.1] * 20})
    assert len(streamed(infinite_pipeline, photo, num_frames=20, **CODES, motion_control=curve)) == 20
    for num_frames in (21, None):
        with pytest.raises(ValueError, match="a curve of 20 frames, but the video has more"):
            infinite_pipeline.stream(photo, num_frames=num_frames, motion_control=curve)
    with pytest.raises(ValueError, match="a curve of 20 frames, but the video has more"):
        infinite_pipeline(photo, num_frames=21, motion_control=curve)


def test_components_make_another_pipeline(infinite_pipeline, photo):
    components = infinite_pipeline.components
    assert {"transition_unet", "transition_scheduler", "motion_prior", "first_frame_unet"} < set(components)
    codes, expected = (
        streamed(pipeline, photo, num_frames=20, **CODES, generator=seeded())
        for pipeline in (LEOInfinitePipeline(**components), infinite_pipeline)
    )
    assert torch.equal(codes, expected)


def test_codes_are_not_clipped_but_frames_are(make_full_pipeline, photo):
    names = ("scheduler", "prior_scheduler", "transition_scheduler", "first_frame_scheduler")
    pipeline = make_full_pipeline(LEOInfinitePipeline, **{name: DDIMScheduler() for name in names})
    assert [getattr(pipeline, name).config.clip_sample for name in names] == [False, False, False, True]
    for name in names[:3]:
        setattr(pipeline, name, DDIMScheduler(prediction_type="sample"))
    pipeline.stream(photo)
    assert [getattr(pipeline, name).config.clip_sample for name in names] == [False, False, False, True]
