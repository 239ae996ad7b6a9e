import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from leo_diffusers import LEOInfinitePipeline, MotionControl
from tests.pipelines.conftest import seeded


MOTION_DIM = 8
CODES = {"num_inference_steps": 3, "output_type": "latent"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_frames": 0}, ValueError, "`num_frames` must be at least 1, got 0"),
        ({"num_frames": -5}, ValueError, "`num_frames` must be at least 1, got -5"),
        ({"num_frames": 1}, ValueError, "`num_frames` must be at least 2, got 1: one frame holds no motion"),
        ({"num_frames": 2.5}, TypeError, "`num_frames` must be an integer, got 2.5"),
        ({"num_frames": "40"}, TypeError, "`num_frames` must be an integer, got '40'"),
        ({"num_frames": True}, TypeError, "`num_frames` must be an integer, got True"),
        ({"num_inference_steps": 0}, ValueError, "`num_inference_steps` must be at least 1, got 0"),
        ({"num_inference_steps": 1001}, ValueError, "`num_inference_steps` must be at most 1000, the timesteps of"),
        ({"transition": "fade"}, ValueError, "`transition` must be one of .*'none', 'diffusion'.*, got 'fade'"),
        ({"transition_interval": 0}, ValueError, "`transition_interval` must be at least 1, got 0"),
        ({"transition_interval": 1.5}, TypeError, "`transition_interval` must be an integer, got 1.5"),
        ({"drift_limit": 0}, ValueError, "`drift_limit` must be above 0 standard deviations, got 0: None is off"),
        ({"drift_limit": "3"}, TypeError, "`drift_limit` must be a number, got '3'"),
        ({"decode_chunk_size": 2.5}, TypeError, "`decode_chunk_size` must be an integer, got 2.5"),
        ({"drift_limit": -1.0}, ValueError, "`drift_limit` must be above 0 standard deviations, got -1.0"),
        ({"drift_limit": math.nan}, ValueError, "`drift_limit` must be above 0 standard deviations, got nan"),
        ({"seam_frames": -1}, ValueError, "`seam_frames` must be at least 0, which is off, got -1"),
        ({"seam_frames": 1.5}, TypeError, "`seam_frames` must be an integer, got 1.5"),
        ({"decode_chunk_size": 0}, ValueError, "`decode_chunk_size` must be at least 1, got 0"),
        ({"output_type": "gif"}, ValueError, "`output_type` must be one of .* got 'gif'"),
        ({"motion_control": 2}, TypeError, "`motion_control` must be a MotionControl, got int"),
        ({"motion_control": MotionControl({8: 0.0})}, ValueError, "`scale` must be indices from 0 to 7"),
        ({"image": "photo.png"}, TypeError, "`image` must be a PIL image, a NumPy array or a tensor, got str"),
        ({"image": []}, ValueError, "`image` is an empty list: give at least one image|A stream is one video"),
        ({"prompt": "a man"}, ValueError, "`image` is a first frame already"),
        ({"image": None, "prompt": "a man"}, ValueError, "`prompt` needs `first_frame_source`"),
        ({"image": None, "first_frame_source": "sd"}, TypeError, "`first_frame_source` must be a diffusers pipeline"),
        ({"image": None, "first_frame_source": lambda: None}, ValueError, "returned no image, but NoneType"),
        ({"start_motion_code": torch.zeros(7)}, ValueError, "`start_motion_code` must have 8 numbers"),
        ({"start_motion_code": torch.zeros(2, 8)}, ValueError, r"`start_motion_code` must have the shape .*\(2, 8\)"),
        ({"start_motion_code": torch.full((8,), math.inf)}, ValueError, "`start_motion_code` holds NaN or infinite"),
    ],
)
def test_refuses_bad_arguments_at_once(infinite_pipeline, photo, arguments, error, message):
    arguments = {"image": photo, **CODES, **arguments}
    for call in (infinite_pipeline, infinite_pipeline.stream):  # which is not asked for its first frame
        with pytest.raises(error, match=message):
            call(**arguments)


@pytest.mark.parametrize(
    ("absent", "named"),
    [
        (("transition_unet",), "`transition_unet`"),
        (("motion_prior",), "`motion_prior`"),
        (("transition_unet", "motion_prior"), "`transition_unet` and `motion_prior`"),
    ],
)
def test_refuses_transitions_without_their_models(make_full_pipeline, photo, absent, named):
    pipeline = make_full_pipeline(LEOInfinitePipeline, **dict.fromkeys(absent))
    for call in (pipeline, pipeline.stream):
        with pytest.raises(ValueError, match=f'^`transition="diffusion"` needs {named}: train with'):
            call(photo, **CODES, transition="diffusion")


def test_refuses_video_from_nothing_without_its_models(make_full_pipeline):
    pipeline = make_full_pipeline(LEOInfinitePipeline, motion_prior=None, first_frame_unet=None)
    for call in (pipeline, pipeline.stream):
        with pytest.raises(
            ValueError, match="Video from nothing needs `first_frame_unet`, `motion_prior`: train with"
        ):
            call(**CODES)


@pytest.mark.parametrize("name", ["image", "array", "tensor", "prompt", "generator"])
def test_a_stream_is_one_video(infinite_pipeline, photo, name):
    arguments = {
        "image": {"image": [photo]},
        "array": {"image": np.zeros((2, 32, 32, 3), np.uint8)},
        "tensor": {"image": torch.zeros(2, 3, 32, 32)},
        "prompt": {"prompt": ["a man"], "first_frame_source": print},
        "generator": {"generator": [seeded()]},
    }[name]
    with pytest.raises(ValueError, match="A stream is one video: give one `image`, `prompt` and `generator`"):
        infinite_pipeline.stream(**arguments)
    assert next(infinite_pipeline.stream(torch.zeros(1, 3, 32, 32), **CODES)).shape == (MOTION_DIM,)


def test_refuses_what_is_no_generator(infinite_pipeline, photo):
    for generator in (7, (seeded(), seeded()), [seeded(), 7]):
        with pytest.raises(TypeError, match="`generator` must be a torch.Generator or a list of them"):
            infinite_pipeline(photo, **CODES, num_videos_per_prompt=2, generator=generator)


def test_refuses_a_number_of_generators_that_does_not_fit(infinite_pipeline, photo):
    for image in (None, photo):
        with pytest.raises(ValueError, match="`generator` holds 3 generators for 2 videos"):
            infinite_pipeline(image, **CODES, num_videos_per_prompt=2, generator=[seeded()] * 3)


def test_refuses_networks_of_another_kind(make_full_pipeline, make_motion_unet):
    for changes, message in (
        ({"motion_unet": make_motion_unet(condition="none")}, "`motion_unet` must have the condition 'start', got"),
        (
            {"transition_unet": make_motion_unet()},
            "`transition_unet` must have the condition \"start_end\", got 'start'",
        ),
        (
            {"transition_unet": make_motion_unet(condition="start_end", motion_dim=5)},
            "codes of 8 numbers, `transition_unet` of 5: they were not trained together",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make_full_pipeline(LEOInfinitePipeline, **changes)


def test_refuses_schedulers_of_flow_matching(make_full_pipeline, photo):
    pipeline = make_full_pipeline(LEOInfinitePipeline, transition_scheduler=FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="`transition_scheduler` is a FlowMatchEulerDiscreteScheduler"):
        pipeline.stream(photo)
