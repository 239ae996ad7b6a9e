import inspect
import itertools
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from leo_diffusers import ImageEditor, LEOEditPipeline, LEOPipelineOutput, LIAModel, LIAPipeline, MotionControl
from leo_diffusers.data.talking_heads import render_clip
from leo_diffusers.video_io import VideoReader, VideoWriter, to_frame, to_pil, write_video
from tests.pipelines.conftest import seeded


NUM_FRAMES, MOTION_DIM = 7, 8


def code_of(animator: LIAModel, image: Image.Image) -> torch.Tensor:
    with torch.no_grad():
        return animator.encode_motion(to_frame(image)[None])[0]


@pytest.fixture
def edit_pipeline(animator, inverter) -> LEOEditPipeline:
    return LEOEditPipeline(animator, inverter)


# --- the edit ---


def test_is_the_animation_of_the_edited_frame(edit_pipeline, inverter, edited_frame, clip_frames):
    output = edit_pipeline(clip_frames, "a negative", output_type="pt")
    expected = LIAPipeline(edit_pipeline.animator)(edited_frame, clip_frames, output_type="pt")
    assert isinstance(output, LEOPipelineOutput)
    torch.testing.assert_close(output.motion_codes, expected.motion_codes)
    torch.testing.assert_close(output.frames, expected.frames)
    assert output.edited_frame == edited_frame
    assert inverter.seen == [(Image.fromarray(clip_frames[0]), "a negative")]
    given = edit_pipeline(clip_frames, edited_frame=edited_frame, output_type="pt")
    assert torch.equal(given.frames, output.frames) and given.edited_frame == edited_frame


def test_the_edited_face_keeps_its_own_pose(edit_pipeline, edited_frame, clip_frames):
    own_code = code_of(edit_pipeline.animator, edited_frame)
    video_codes = torch.stack([code_of(edit_pipeline.animator, Image.fromarray(frame)) for frame in clip_frames])
    assert (own_code - video_codes[0]).norm() > 0.1
    codes = edit_pipeline(clip_frames, "a negative", output_type="latent").motion_codes[0]
    torch.testing.assert_close(codes, own_code + video_codes - video_codes[0], rtol=1e-4, atol=1e-5)
    codes = edit_pipeline(clip_frames, "a negative", motion_mode="absolute", output_type="latent").motion_codes[0]
    torch.testing.assert_close(codes, video_codes, rtol=1e-4, atol=1e-5)
    codes = edit_pipeline(clip_frames, edited_frame=edited_frame, reference_frame=3, output_type="latent").frames[0]
    torch.testing.assert_close(codes, own_code + video_codes - video_codes[3], rtol=1e-4, atol=1e-5)


def test_an_unedited_frame_gives_the_video_as_the_animator_sees_it(animator, clip_frames):
    pipeline = LEOEditPipeline(animator, lambda image, prompt: image)
    output = pipeline(clip_frames, "leave it", output_type="pt")
    expected = LIAPipeline(animator)(clip_frames[0], clip_frames, motion_mode="absolute", output_type="pt")
    torch.testing.assert_close(output.frames, expected.frames, rtol=0, atol=1e-3)


def test_motion_control(edit_pipeline, edited_frame, clip_frames):
    control = MotionControl(scale=0.5, values={1: 2.0}, smoothing=1.0)
    expected = LIAPipeline(edit_pipeline.animator)(
        edited_frame, clip_frames, motion_control=control, output_type="latent"
    )
    codes = edit_pipeline(clip_frames, "a negative", motion_control=control, output_type="latent").motion_codes
    torch.testing.assert_close(codes, expected.motion_codes)
    streamed = list(edit_pipeline.stream(clip_frames, "a negative", motion_control=control, output_type="latent"))
    torch.testing.assert_close(torch.stack(streamed), codes[0])


def test_a_look_before_rendering(edit_pipeline, inverter, clip_frames):
    first = edit_pipeline.edit_first_frame(clip_frames, "a negative")
    assert first.size == (32, 32) and len(inverter.seen) == 1
    expected = edit_pipeline(clip_frames, "a negative", output_type="pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = edit_pipeline(clip_frames, edited_frame=first, output_type="pt")
    assert torch.equal(output.frames, expected.frames)


def test_an_edit_of_a_generated_video(leo_pipeline, inverter, photo):
    generated = leo_pipeline(photo, num_frames=8, num_inference_steps=2, generator=seeded())
    pipeline = LEOEditPipeline(leo_pipeline.animator, inverter)
    output = pipeline(generated.frames[0], "a negative")
    assert [len(clip) for clip in output.frames] == [8]
    own_code = code_of(leo_pipeline.animator, ImageOps.invert(generated.frames[0][0]))
    video_codes = torch.stack([code_of(leo_pipeline.animator, frame) for frame in generated.frames[0]])
    expected = own_code + video_codes - video_codes[0]
    torch.testing.assert_close(output.motion_codes[0], expected, rtol=1e-4, atol=1e-5)
    as_array = leo_pipeline(photo, num_frames=8, num_inference_steps=2, generator=seeded(), output_type="np").frames[0]
    codes = pipeline(as_array, "a negative", output_type="latent").motion_codes
    torch.testing.assert_close(codes, output.motion_codes, rtol=0, atol=0.05)  # PIL images are rounded to bytes


def test_an_edit_of_a_real_video_keeps_the_sound(edit_pipeline, driving_video, tmp_path):
    output = edit_pipeline(driving_video, "a negative")
    with VideoReader(driving_video) as reader:
        rate = reader.frames_per_second
        assert reader.has_audio
    write_video(tmp_path / "edited.mp4", output.frames[0], rate, audio_from=driving_video)
    with VideoReader(tmp_path / "edited.mp4") as reader:
        assert reader.has_audio and reader.num_frames == NUM_FRAMES and reader.frames_per_second == rate


# --- what comes in ---


def test_kinds_of_videos_agree(edit_pipeline, clip_frames):
    tensors = torch.stack([to_frame(frame) for frame in clip_frames])
    kinds = {
        "array": clip_frames,
        "tensor": tensors,
        "images": [Image.fromarray(frame) for frame in clip_frames],
        "iterator": iter(list(clip_frames)),
        "one-shot generator": (frame for frame in tensors),
    }
    expected = edit_pipeline(clip_frames, "a negative", output_type="latent").motion_codes
    assert expected.shape == (1, NUM_FRAMES, MOTION_DIM)
    for name, video in kinds.items():
        codes = edit_pipeline(video, "a negative", output_type="latent").motion_codes
        torch.testing.assert_close(codes, expected, msg=lambda text, name=name: name + text)


def test_video_files(edit_pipeline, driving_video):
    expected = edit_pipeline(list(VideoReader(driving_video)), "a negative", output_type="latent").motion_codes
    for kind in (driving_video, str(driving_video), VideoReader(driving_video), VideoReader(driving_video, 32)):
        codes = edit_pipeline(kind, "a negative", output_type="latent").motion_codes
        torch.testing.assert_close(codes, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("as_file", [True, False])
def test_the_editor_sees_the_video_at_its_own_resolution(edit_pipeline, inverter, tmp_path, as_file):
    frames = render_clip(identity_seed=1, motion_seed=2, num_frames=3, size=96).frames
    wide = np.pad(frames, ((0, 0), (0, 0), (16, 16), (0, 0)))
    with VideoWriter(tmp_path / "wide.mp4", 25) as writer:
        for frame in wide:
            writer.write(to_frame(frame))
    video = tmp_path / "wide.mp4" if as_file else wide
    with pytest.warns(UserWarning, match="only its central 96x96 square is used"):
        output = edit_pipeline(video, "a negative")
    seen = np.asarray(inverter.seen[0][0]).astype(int)
    assert seen.shape == (96, 96, 3) and np.abs(seen - frames[0]).mean() < 5
    assert output.edited_frame.size == output.frames[0][0].size == (32, 32)


def test_an_edited_frame_of_another_size_is_resized(edit_pipeline, clip_frames):
    large = render_clip(identity_seed=5, motion_seed=6, num_frames=1, size=48).frames[0]
    with pytest.warns(UserWarning, match="`edited_frame` is 48x48: it is resized to 32x32, the animator's frames"):
        output = edit_pipeline(clip_frames, edited_frame=large, output_type="pt")
    assert output.edited_frame == to_pil(to_frame(large, 32))
    expected = edit_pipeline(clip_frames, edited_frame=to_frame(large, 32), output_type="pt")
    torch.testing.assert_close(output.frames, expected.frames, rtol=0, atol=0.05)


# --- what comes out ---


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_output_types(edit_pipeline, clip_frames, output_type):
    output = edit_pipeline(clip_frames, "a negative", output_type=output_type)
    assert len(output.frames) == 1 and len(output.frames[0]) == NUM_FRAMES
    assert output.motion_codes.shape == (1, NUM_FRAMES, MOTION_DIM)
    frames, motion_codes, edited_frame = edit_pipeline(
        clip_frames, "a negative", output_type=output_type, return_dict=False
    )
    assert torch.equal(motion_codes, output.motion_codes) and edited_frame == output.edited_frame
    assert np.array_equal(np.asarray(frames[0][0]), np.asarray(output.frames[0][0]))


@pytest.mark.parametrize("decode_chunk_size", [None, 1, 3])
def test_stream_equals_the_call(edit_pipeline, clip_frames, decode_chunk_size):
    arguments = {"decode_chunk_size": decode_chunk_size, "output_type": "pt"}
    expected = edit_pipeline(clip_frames, "a negative", **arguments).frames[0]
    streamed = list(edit_pipeline.stream(iter(clip_frames), "a negative", **arguments))
    torch.testing.assert_close(torch.stack(streamed), expected, rtol=0, atol=1e-4)
    assert not streamed[0].requires_grad
    assert next(edit_pipeline.stream(clip_frames, "a negative")).size == (32, 32)


def test_stream_reads_no_further_than_it_must(edit_pipeline, inverter, clip_frames):
    read = []

    def endless_video():
        for i in itertools.count():
            read.append(i)
            yield clip_frames[i % NUM_FRAMES]

    stream = edit_pipeline.stream(endless_video(), "a negative", decode_chunk_size=2)
    assert len(read) == len(inverter.seen) == 1  # edited at once
    for i in range(1, 7):
        next(stream)
        assert len(read) <= i + 2
    stream.close()


# --- refusals ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "Pass a `prompt` for the editor, or an `edited_frame`"),
        ({"prompt": "a", "edited_frame": "photo"}, ValueError, "`edited_frame` takes the editor's place"),
        (
            {"editor_arguments": {"strength": 1}, "edited_frame": "photo"},
            ValueError,
            "`edited_frame` takes the editor's place",
        ),
        ({"editor": print, "edited_frame": "photo"}, ValueError, "`edited_frame` takes the editor's place"),
        ({"prompt": ["a", "b"]}, TypeError, "`prompt` must be one string, got list"),
        ({"prompt": "a", "editor": "sd"}, TypeError, "`editor` must be a diffusers pipeline or a function, got str"),
        ({"prompt": "a", "editor_arguments": {"strength": 1}}, ValueError, "Inverter takes no strength"),
        ({"prompt": "a", "motion_mode": "same"}, ValueError, "`motion_mode` must be"),
        ({"prompt": "a", "reference_frame": -1}, ValueError, "`reference_frame` must be"),
        ({"prompt": "a", "motion_control": 2}, TypeError, "`motion_control` must be a MotionControl"),
        ({"prompt": "a", "decode_chunk_size": 0}, ValueError, "`decode_chunk_size` must be at least 1"),
        ({"prompt": "a", "output_type": "gif"}, ValueError, "`output_type` must be one of"),
        ({"prompt": "a", "video": []}, ValueError, "`video` holds no frames"),
        ({"prompt": "a", "video": iter([])}, ValueError, "`video` holds no frames"),
        ({"edited_frame": "photo", "video": []}, ValueError, "`video` holds no frames"),
        ({"prompt": "a", "video": "nowhere.mp4"}, FileNotFoundError, "There is no video nowhere.mp4"),
    ],
)
def test_refuses_before_anything_is_edited(edit_pipeline, inverter, photo, clip_frames, arguments, error, message):
    arguments = {"video": clip_frames, **arguments}
    if "edited_frame" in arguments:
        arguments["edited_frame"] = photo
    for method in (edit_pipeline, edit_pipeline.stream):
        with pytest.raises(error, match=message):
            method(**arguments)
    known = inspect.signature(edit_pipeline.edit_first_frame).parameters
    if "prompt" in arguments and set(arguments) <= set(known):
        with pytest.raises(error, match=message):
            edit_pipeline.edit_first_frame(**arguments)
    assert not inverter.seen


def test_refuses_a_prompt_without_an_editor(lia_folder, clip_frames, edges):
    pipeline = LEOEditPipeline.from_pretrained(lia_folder)
    with pytest.raises(ValueError, match="`prompt` needs an editor: pass `editor`"):
        pipeline(clip_frames, "an old man")
    for arguments in ({"controlnet": "canny"}, {"detector": "canny"}, {"detector": edges}):
        with pytest.raises(ValueError, match="`controlnet` and `detector` serve an editor"):
            LEOEditPipeline.from_pretrained(lia_folder, **arguments)


def test_refuses_editors_that_cannot_edit(animator, lia_folder, stable_diffusion_folder, controlnet_folder, inverter):
    with pytest.raises(ValueError, match="is guided by a control image: pass a `detector`"):
        LEOEditPipeline.from_pretrained(lia_folder, editor=stable_diffusion_folder, controlnet=controlnet_folder)
    with pytest.raises(ValueError, match="takes no control image, so `detector` would have no effect"):
        LEOEditPipeline.from_pretrained(lia_folder, editor=ImageEditor(inverter), detector=lambda image: image)
    with pytest.raises(ValueError, match="`controlnet` can only join a diffusers pipeline"):
        LEOEditPipeline.from_pretrained(lia_folder, editor=inverter, controlnet=controlnet_folder)
    with pytest.raises(TypeError, match="`editor` must be a diffusers pipeline or a function, got str"):
        LEOEditPipeline(animator, "someone/stable-diffusion")


def test_refuses_editors_that_return_no_image(animator, clip_frames):
    with pytest.raises(ValueError, match="returned no image, but NoneType"):
        LEOEditPipeline(animator, lambda image, prompt: None)(clip_frames, "an old man")


def test_a_prompt_may_be_empty(edit_pipeline, inverter, clip_frames):
    edit_pipeline(clip_frames, "", output_type="latent")
    assert inverter.seen[0][1] == ""


def test_a_prompt_edits_the_first_frame(lia_pipeline, driving_video, inverter):
    pipeline = LEOEditPipeline(lia_pipeline.animator, inverter)
    with pytest.raises(ValueError, match="`reference_frame` is 3, but `prompt` edits the first frame"):
        pipeline(driving_video, prompt="negative", reference_frame=3)
