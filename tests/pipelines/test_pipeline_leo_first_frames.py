import numpy as np
import pytest
import torch

from leo_diffusers import MotionControl
from tests.pipelines.conftest import code_of, seeded


NUM_FRAMES, MOTION_DIM = 16, 8
SHORT = {"num_frames": NUM_FRAMES, "num_inference_steps": 3, "output_type": "pt"}
OPTIONAL = ("motion_prior", "prior_scheduler", "first_frame_unet", "first_frame_scheduler")


def random_codes(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, MOTION_DIM, generator=seeded(seed))


# --- frames from elsewhere ---


@pytest.mark.parametrize("prompt", [None, "a man", ["a man", "a woman"]])
def test_a_function_as_the_source_of_first_frames(make_full_pipeline, photo, other_photo, prompt):
    pipeline = make_full_pipeline(**dict.fromkeys(OPTIONAL))
    prompts = prompt if isinstance(prompt, list) else [prompt]
    seen = []

    def draw(prompt=None, generator=None):
        seen.append((prompt, generator))
        return photo if len(seen) % 2 else other_photo

    generator = seeded()
    arguments = {**SHORT, "num_videos_per_prompt": 2, "generator": generator}
    output = pipeline(prompt=prompt, first_frame_source=draw, **arguments)
    assert seen == [(one, generator) for one in prompts for _ in range(2)]
    images = [photo, other_photo] * len(prompts)  # another frame for each video
    expected = pipeline(images, **SHORT, generator=seeded())
    assert torch.equal(output.motion_codes, expected.motion_codes) and torch.equal(output.frames, expected.frames)


@pytest.mark.parametrize("arguments", [{}, {"prompt": "a man"}, {"generator": True}])
def test_a_source_takes_what_it_knows(full_pipeline, photo, arguments):
    draw = {
        (): lambda: np.asarray(photo),
        ("prompt",): lambda prompt: [photo],
        ("generator",): lambda generator: photo,
    }[tuple(arguments)]
    if "generator" in arguments:
        arguments = {"generator": seeded()}
    output = full_pipeline(first_frame_source=draw, **SHORT, **arguments)
    torch.testing.assert_close(output.motion_codes[:, 0], code_of(full_pipeline, photo))


def test_a_text_to_image_pipeline_as_the_source(full_pipeline, make_image_pipeline):
    source = make_image_pipeline("StableDiffusionPipeline")
    output = full_pipeline(prompt="a man", first_frame_source=source, **SHORT, generator=seeded())
    generator = seeded()
    image = source("a man", generator=generator).images[0]
    expected = full_pipeline(image, **SHORT, generator=generator)
    assert torch.equal(output.motion_codes, expected.motion_codes) and torch.equal(output.frames, expected.frames)


# --- given motion ---


def test_one_frame_with_many_motions(leo_pipeline, photo):
    codes = random_codes(3, 5)
    output = leo_pipeline(photo, num_videos_per_prompt=3, motion_codes=codes, output_type="pt")
    assert torch.equal(output.motion_codes, codes)
    for i in range(3):
        single = leo_pipeline(photo, motion_codes=codes[i], output_type="pt")
        torch.testing.assert_close(output.frames[i], single.frames[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("motion_mode", ["absolute", "relative"])
def test_one_motion_on_many_frames(leo_pipeline, photo, other_photo, motion_mode):
    codes = random_codes(5)
    output = leo_pipeline([photo, other_photo], motion_codes=codes, motion_mode=motion_mode, output_type="pt")
    for i, image in enumerate((photo, other_photo)):
        start = code_of(leo_pipeline, image) if motion_mode == "relative" else codes[:1]
        torch.testing.assert_close(output.motion_codes[i], start + codes - codes[:1])
        single = leo_pipeline(image, motion_codes=output.motion_codes[i], output_type="pt")
        torch.testing.assert_close(output.frames[i], single.frames[0], rtol=0, atol=1e-3)


def test_relative_motion_on_its_own_frame_is_the_video_itself(leo_pipeline, photo):
    video = leo_pipeline(photo, **SHORT, generator=seeded())
    again = leo_pipeline(photo, motion_codes=video.motion_codes, motion_mode="relative", output_type="pt")
    torch.testing.assert_close(again.motion_codes, video.motion_codes)
    torch.testing.assert_close(again.frames, video.frames, rtol=0, atol=1e-3)


@pytest.mark.parametrize("motion_mode", ["absolute", "relative"])
def test_given_motion_on_a_frame_from_nothing(make_full_pipeline, motion_mode):
    pipeline = make_full_pipeline(motion_prior=None, prior_scheduler=None)
    codes = random_codes(2, 5)
    arguments = {"motion_codes": codes, "num_videos_per_prompt": 2, "motion_mode": motion_mode}
    output = pipeline(**SHORT, **arguments, generator=seeded())
    frames = pipeline.draw_first_frames(codes[:, 0], 3, seeded())  # in the pose that the motion starts from
    arguments["num_videos_per_prompt"] = 1
    expected = pipeline([*frames], **arguments, output_type="pt")
    torch.testing.assert_close(output.motion_codes, expected.motion_codes)
    torch.testing.assert_close(output.frames, expected.frames, rtol=0, atol=1e-3)


def test_given_motion_on_a_frame_from_a_source(leo_pipeline, photo, other_photo):
    codes = random_codes(5)
    output = leo_pipeline(first_frame_source=lambda: other_photo, motion_codes=codes, output_type="pt")
    expected = leo_pipeline(other_photo, motion_codes=codes, output_type="pt")
    assert torch.equal(output.frames, expected.frames)


# --- motion control ---


@pytest.mark.parametrize("control", [MotionControl(scale=0.5, values={1: 2.0}, smoothing=1.0), MotionControl(scale=0)])
def test_motion_control_of_an_image(leo_pipeline, photo, control):
    free = leo_pipeline(photo, **SHORT, generator=seeded())
    output = leo_pipeline(photo, **SHORT, generator=seeded(), motion_control=control)
    expected = torch.cat(list(control.apply([free.motion_codes[0]], code_of(leo_pipeline, photo))))
    torch.testing.assert_close(output.motion_codes[0], expected)
    rendered = leo_pipeline(photo, motion_codes=output.motion_codes, output_type="pt").frames
    torch.testing.assert_close(output.frames, rendered, rtol=0, atol=1e-3)


def test_motion_control_counts_from_each_frames_own_code(full_pipeline, photo, other_photo):
    still = MotionControl(scale=0)
    codes = random_codes(5)
    output = full_pipeline([photo, other_photo], motion_codes=codes, motion_control=still, output_type="latent")
    for i, image in enumerate((photo, other_photo)):
        own = code_of(full_pipeline, image).expand(5, -1)
        torch.testing.assert_close(output.motion_codes[i], own, rtol=1e-4, atol=1e-5)
    assert torch.equal(output.frames, codes.expand(2, -1, -1))  # what was given
    from_nothing = full_pipeline(**SHORT, num_videos_per_prompt=2, generator=seeded(), motion_control=still)
    assert torch.equal(from_nothing.motion_codes, from_nothing.motion_codes[:, :1].expand(-1, NUM_FRAMES, -1))
    assert not torch.equal(from_nothing.motion_codes[0], from_nothing.motion_codes[1])
