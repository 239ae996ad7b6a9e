import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers import LEOPipelineOutput, LIAPipeline, MotionControl
from leo_diffusers.pipelines.animator_pipeline import OUTPUT_TYPES
from leo_diffusers.pipelines.pipeline_lia import batches
from leo_diffusers.video_io import VideoReader, to_frame


NUM_FRAMES, MOTION_DIM = 7, 8


def codes_by_hand(pipeline: LIAPipeline, photo: Image.Image, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The photo's own code (1, M), and those of the driving frames (F, M), each encoded alone."""
    with torch.no_grad():
        source_code = pipeline.animator.encode_motion(to_frame(photo)[None])
        driving_codes = torch.cat([pipeline.animator.encode_motion(to_frame(frame)[None]) for frame in frames])
    return source_code, driving_codes


def frames_by_hand(pipeline: LIAPipeline, photo: Image.Image, motion_codes: torch.Tensor) -> torch.Tensor:
    """(F, M) -> (F, 3, H, W) in [0, 1]."""
    with torch.no_grad():
        source = pipeline.animator.encode_source(to_frame(photo)[None])
        frames = torch.cat([pipeline.animator.decode(source, code[None]).sample for code in motion_codes])
    return ((frames + 1) / 2).clamp(0, 1)


# --- transfer ---


def test_absolute_motion_takes_the_driving_codes(lia_pipeline, photo, clip_frames):
    _, driving_codes = codes_by_hand(lia_pipeline, photo, clip_frames)
    output = lia_pipeline(photo, clip_frames, motion_mode="absolute", output_type="pt")
    assert isinstance(output, LEOPipelineOutput)
    torch.testing.assert_close(output.motion_codes[0], driving_codes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.frames[0], frames_by_hand(lia_pipeline, photo, driving_codes), rtol=0, atol=1e-2)


@pytest.mark.parametrize("decode_chunk_size", [None, 1, 2, 3])
@pytest.mark.parametrize("reference_frame", [0, 2, NUM_FRAMES - 1])
def test_relative_motion_adds_what_happened_since_the_reference(
    lia_pipeline, photo, clip_frames, reference_frame, decode_chunk_size
):
    source_code, driving_codes = codes_by_hand(lia_pipeline, photo, clip_frames)
    expected = source_code + driving_codes - driving_codes[reference_frame]
    output = lia_pipeline(
        photo,
        clip_frames,
        reference_frame=reference_frame,
        decode_chunk_size=decode_chunk_size,
        output_type="pt",
    )
    torch.testing.assert_close(output.motion_codes[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.motion_codes[0, reference_frame], source_code[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.frames[0], frames_by_hand(lia_pipeline, photo, expected), rtol=0, atol=1e-2)


def test_auto_takes_the_nearest_driving_frame(lia_pipeline, photo, clip_frames):
    clip_frames = clip_frames.copy()
    clip_frames[4] = np.asarray(photo) // 4 * 4  # almost the photo itself
    source_code, driving_codes = codes_by_hand(lia_pipeline, photo, clip_frames)
    nearest = int((driving_codes - source_code).norm(dim=1).argmin())
    assert nearest == 4
    output = lia_pipeline(photo, clip_frames, reference_frame="auto", output_type="latent", decode_chunk_size=2)
    expected = source_code + driving_codes - driving_codes[nearest]
    torch.testing.assert_close(output.motion_codes[0], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(output.frames, output.motion_codes)


def test_a_frame_drives_itself_to_itself(lia_pipeline, photo):
    with torch.no_grad():
        expected = lia_pipeline.animator(to_frame(photo)[None], to_frame(photo)[None]).sample
    for motion_mode in ("absolute", "relative"):
        output = lia_pipeline(photo, [photo], motion_mode=motion_mode, output_type="pt")
        torch.testing.assert_close(output.frames[0], ((expected + 1) / 2).clamp(0, 1), rtol=0, atol=1e-3)


def test_transfer_holds_codes_back_only_until_the_reference(lia_pipeline, photo):
    with torch.no_grad():
        source = lia_pipeline.animator.encode_source(to_frame(photo)[None])
    taken = []

    def endless_codes():
        for i in itertools.count():
            taken.append(i)
            yield torch.full((2, MOTION_DIM), float(i))

    codes = lia_pipeline.transfer_motion(source, endless_codes(), "relative", reference_frame=3)
    first = next(codes)
    assert taken == [0, 1]
    torch.testing.assert_close(first[:, 0] - source.motion_code[0, 0], torch.tensor([-1.0, -1.0, 0.0, 0.0]))
    torch.testing.assert_close(next(codes)[:, 0] - source.motion_code[0, 0], torch.tensor([1.0, 1.0]))
    assert taken == [0, 1, 2]


# --- what comes in ---


def test_kinds_of_driving_videos_agree(lia_pipeline, photo, clip_frames):
    tensors = torch.stack([to_frame(frame) for frame in clip_frames])
    kinds = {
        "array": clip_frames,
        "float array": clip_frames.astype(np.float32) / 255,
        "tensor": tensors,
        "images": [Image.fromarray(frame) for frame in clip_frames],
        "one-shot generator": (frame for frame in tensors),
        "iterator of arrays": iter(list(clip_frames)),
    }
    expected = lia_pipeline(photo, clip_frames, output_type="latent").motion_codes
    for name, driving_video in kinds.items():
        codes = lia_pipeline(photo, driving_video, output_type="latent").motion_codes
        torch.testing.assert_close(codes, expected, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: name + text)


def test_driving_video_files(lia_pipeline, photo, driving_video):
    expected = lia_pipeline(photo, list(VideoReader(driving_video)), output_type="latent").motion_codes
    assert expected.shape == (1, NUM_FRAMES, MOTION_DIM)
    for kind in (driving_video, str(driving_video), VideoReader(driving_video), VideoReader(driving_video, 32)):
        codes = lia_pipeline(photo, kind, output_type="latent").motion_codes
        torch.testing.assert_close(codes, expected, rtol=1e-4, atol=1e-4)


def test_driving_frames_of_another_size_are_resized(lia_pipeline, photo, clip_frames):
    larger = [Image.fromarray(frame).resize((64, 64), Image.Resampling.BICUBIC) for frame in clip_frames]
    expected = lia_pipeline(photo, clip_frames, output_type="latent").motion_codes
    codes = lia_pipeline(photo, larger, output_type="latent").motion_codes
    assert (codes - expected).norm() < 0.2 * expected.norm()
    with pytest.warns(UserWarning, match="only its central 32x32 square is used"):
        lia_pipeline(photo.resize((40, 32)), clip_frames, output_type="latent")


# --- what comes out ---


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_output_types(lia_pipeline, photo, clip_frames, output_type):
    output = lia_pipeline(photo, clip_frames, output_type=output_type)
    assert output.motion_codes.shape == (1, NUM_FRAMES, MOTION_DIM) and output.motion_codes.dtype == torch.float32
    frames = output.frames
    if output_type == "pil":
        assert [len(clip) for clip in frames] == [NUM_FRAMES]
        assert all(frame.size == (32, 32) and frame.mode == "RGB" for frame in frames[0])
    elif output_type == "np":
        assert frames.shape == (1, NUM_FRAMES, 32, 32, 3) and frames.dtype == np.float32
        assert 0 <= frames.min() < frames.max() <= 1
    elif output_type == "pt":
        assert frames.shape == (1, NUM_FRAMES, 3, 32, 32) and frames.dtype == torch.float32
        assert 0 <= frames.min() < frames.max() <= 1
    else:
        assert torch.equal(frames, output.motion_codes)


def test_tuple_output(lia_pipeline, photo, clip_frames):
    output = lia_pipeline(photo, clip_frames, output_type="pt")
    frames, motion_codes = lia_pipeline(photo, clip_frames, output_type="pt", return_dict=False)
    assert torch.equal(frames, output.frames) and torch.equal(motion_codes, output.motion_codes)


@pytest.mark.parametrize("decode_chunk_size", [1, 3, 100])
def test_chunks_do_not_change_the_result(lia_pipeline, photo, clip_frames, decode_chunk_size):
    expected = lia_pipeline(photo, clip_frames, output_type="pt")
    output = lia_pipeline(photo, clip_frames, output_type="pt", decode_chunk_size=decode_chunk_size)
    torch.testing.assert_close(output.motion_codes, expected.motion_codes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.frames, expected.frames, rtol=0, atol=1e-2)


# --- streams ---


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"motion_mode": "absolute"},
        {"reference_frame": "auto"},
        {"motion_control": MotionControl(scale={2: 0.5}, values={1: 0.3}, smoothing=0.7)},
    ],
)
def test_a_stream_yields_the_frames_of_the_call(lia_pipeline, photo, clip_frames, arguments):
    expected = lia_pipeline(photo, clip_frames, output_type="pt", decode_chunk_size=3, **arguments).frames[0]
    frames = list(lia_pipeline.stream(photo, clip_frames, decode_chunk_size=3, output_type="pt", **arguments))
    assert len(frames) == NUM_FRAMES
    torch.testing.assert_close(torch.stack(frames), expected, rtol=0, atol=1e-4)


def test_stream_output_types(lia_pipeline, photo, clip_frames):
    def stream(**arguments) -> list:
        return list(lia_pipeline.stream(photo, clip_frames, **arguments))

    expected = lia_pipeline(photo, clip_frames, output_type="np")
    images, arrays, tensors, codes = (stream(output_type=output_type) for output_type in OUTPUT_TYPES)
    for image, by_default, array, tensor, wanted in zip(
        images, stream(), arrays, tensors, expected.frames[0], strict=True
    ):
        assert isinstance(image, Image.Image) and image.size == (32, 32) and image.mode == "RGB"
        assert image == by_default
        assert isinstance(array, np.ndarray) and array.shape == (32, 32, 3) and array.dtype == np.float32
        assert tensor.shape == (3, 32, 32) and tensor.dtype == torch.float32
        np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), array)
        np.testing.assert_allclose(np.asarray(image) / 255, array, rtol=0, atol=0.5 / 255 + 1e-5)
    assert all(code.shape == (MOTION_DIM,) and code.dtype == torch.float32 for code in codes)
    torch.testing.assert_close(torch.stack(codes), expected.motion_codes[0])


def test_a_stream_of_codes_renders_nothing(lia_pipeline, photo, clip_frames, monkeypatch):
    monkeypatch.delattr(lia_pipeline.animator.__class__, "decode")
    assert len(list(lia_pipeline.stream(photo, clip_frames, output_type="latent"))) == NUM_FRAMES


@pytest.mark.parametrize("motion_control", [None, MotionControl(smoothing=1)])
def test_a_stream_reads_no_further_than_it_must(lia_pipeline, photo, clip_frames, motion_control):
    read = []

    def endless_video():
        for i in itertools.count():
            read.append(i)
            yield clip_frames[i % NUM_FRAMES]

    stream = lia_pipeline.stream(photo, endless_video(), motion_control=motion_control, decode_chunk_size=2)
    look_ahead = 3 if motion_control else 0
    for i in range(1, 9):
        next(stream)
        assert i + look_ahead <= len(read) <= i + look_ahead + 1
    stream.close()


def test_a_stream_that_ends_or_is_closed_frees_the_models(lia_pipeline, photo, clip_frames, monkeypatch):
    freed = []
    monkeypatch.setattr(lia_pipeline, "maybe_free_model_hooks", lambda: freed.append(True))
    stream = lia_pipeline.stream(photo, clip_frames, decode_chunk_size=2)
    next(stream)
    assert not freed
    stream.close()
    assert len(freed) == 1
    list(lia_pipeline.stream(photo, clip_frames, output_type="latent"))
    assert len(freed) == 2
    with pytest.raises(ValueError, match="`reference_frame` is 99"):
        list(lia_pipeline.stream(photo, clip_frames, reference_frame=99))
    assert len(freed) == 3


def test_gradients_stay_on_where_a_stream_is_consumed(lia_pipeline, photo, clip_frames):
    for frame in lia_pipeline.stream(photo, clip_frames, output_type="pt"):
        assert torch.is_grad_enabled() and not frame.requires_grad


def test_batches_of_a_stream():
    items = (torch.tensor([i]) for i in range(5))
    assert [batch.flatten().tolist() for batch in batches(items, 2)] == [[0, 1], [2, 3], [4]]
    assert list(batches(iter([]), 2)) == []


# --- motion control ---


@pytest.mark.parametrize("motion_mode", ["relative", "absolute"])
def test_motion_control_changes_the_codes_that_are_rendered(lia_pipeline, photo, clip_frames, motion_mode):
    source_code, _ = codes_by_hand(lia_pipeline, photo, clip_frames)
    control = MotionControl(scale={0: 0.0, 3: 2.0}, values={5: 0.4, 6: np.linspace(0, 1, NUM_FRAMES)}, smoothing=1.0)
    driven = lia_pipeline(photo, clip_frames, motion_mode=motion_mode, output_type="latent").motion_codes
    expected = control.apply_batch(driven, source_code)
    output = lia_pipeline(photo, clip_frames, motion_mode=motion_mode, motion_control=control, output_type="pt")
    torch.testing.assert_close(output.motion_codes, expected, rtol=1e-4, atol=1e-5)
    assert (expected - driven).abs().max() > 0.3
    by_hand = frames_by_hand(lia_pipeline, photo, output.motion_codes[0])
    torch.testing.assert_close(output.frames[0], by_hand, rtol=0, atol=1e-2)


@pytest.mark.parametrize("motion_mode", ["relative", "absolute"])
def test_motion_control_that_changes_nothing(lia_pipeline, photo, clip_frames, motion_mode):
    expected = lia_pipeline(photo, clip_frames, motion_mode=motion_mode, output_type="pt")
    output = lia_pipeline(
        photo, clip_frames, motion_mode=motion_mode, motion_control=MotionControl(), output_type="pt"
    )
    assert torch.equal(output.motion_codes, expected.motion_codes) and torch.equal(output.frames, expected.frames)


def test_frozen_motion_is_the_photo_throughout(lia_pipeline, photo, clip_frames):
    still = lia_pipeline.manipulate(photo, {}, output_type="pt")
    output = lia_pipeline(
        photo, clip_frames, motion_mode="absolute", motion_control=MotionControl(scale=0), output_type="pt"
    )
    assert torch.equal(output.motion_codes, still.motion_codes.expand(1, NUM_FRAMES, -1))
    torch.testing.assert_close(output.frames, still.frames.expand(1, NUM_FRAMES, -1, -1, -1), rtol=0, atol=1e-3)


def test_values_on_a_still_are_a_manipulation(lia_pipeline, photo, clip_frames):
    moved = lia_pipeline.manipulate(photo, {2: 1.5, 6: -0.5}, num_frames=NUM_FRAMES, output_type="latent")
    progress = torch.arange(1, NUM_FRAMES + 1) / NUM_FRAMES
    control = MotionControl(scale=0.0, values={2: 1.5 * progress, 6: -0.5 * progress})
    output = lia_pipeline(photo, clip_frames, motion_control=control, output_type="latent")
    torch.testing.assert_close(output.motion_codes, moved.motion_codes)


# --- manipulation, reference ---


def test_manipulate_walks_along_directions(lia_pipeline, photo):
    source_code, _ = codes_by_hand(lia_pipeline, photo, [np.asarray(photo)])
    output = lia_pipeline.manipulate(photo, {2: 1.5, 6: -0.5}, num_frames=5, output_type="pt")
    steps = output.motion_codes[0] - source_code
    expected = torch.zeros(5, MOTION_DIM)
    expected[:, 2] = torch.tensor([0.3, 0.6, 0.9, 1.2, 1.5])
    expected[:, 6] = torch.tensor([-0.1, -0.2, -0.3, -0.4, -0.5])
    torch.testing.assert_close(steps, expected, rtol=1e-4, atol=1e-5)
    assert output.frames.shape == (1, 5, 3, 32, 32)
    by_hand = frames_by_hand(lia_pipeline, photo, output.motion_codes[0])
    torch.testing.assert_close(output.frames[0], by_hand, rtol=0, atol=1e-2)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_manipulate_gives_one_frame_by_default(lia_pipeline, photo, output_type):
    frames, codes = lia_pipeline.manipulate(photo, {0: 1.0}, output_type=output_type, return_dict=False)
    assert len(frames) == len(frames[0]) == 1 and codes.shape == (1, 1, MOTION_DIM)


def test_no_manipulation_reconstructs_the_image(lia_pipeline, photo):
    moved = lia_pipeline.manipulate(photo, {0: 0.0}, output_type="pt")
    driven = lia_pipeline(photo, [photo], motion_mode="absolute", output_type="pt")
    torch.testing.assert_close(moved.motion_codes, driven.motion_codes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved.frames, driven.frames, rtol=0, atol=1e-3)


def test_the_reference_is_the_image_without_motion(lia_pipeline, photo):
    output = lia_pipeline.reference(photo, output_type="pt")
    assert torch.equal(output.motion_codes, torch.zeros(1, 1, MOTION_DIM))
    expected = frames_by_hand(lia_pipeline, photo, torch.zeros(1, MOTION_DIM))
    torch.testing.assert_close(output.frames[0], expected, rtol=0, atol=1e-3)
    assert lia_pipeline.reference(photo).frames[0][0].size == (32, 32)


# --- precision ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(lia_folder, photo, clip_frames, dtype):
    pipeline = LIAPipeline.from_pretrained(lia_folder, dtype=dtype)
    assert pipeline.animator.appearance_encoder.from_rgb.weight.dtype == dtype
    assert pipeline.animator.motion_dictionary.directions.dtype == torch.float32
    output = pipeline(photo, clip_frames, output_type="pt")
    exact = LIAPipeline.from_pretrained(lia_folder)(photo, clip_frames, output_type="pt")
    assert output.motion_codes.dtype == output.frames.dtype == torch.float32
    assert (output.frames - exact.frames).abs().mean() < 0.02
    assert len(pipeline(photo, clip_frames).frames[0]) == NUM_FRAMES


# --- refusals ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"motion_mode": "standard"}, '`motion_mode` must be "relative" or "absolute", got \'standard\''),
        ({"reference_frame": "first"}, "`reference_frame` must be the index of a driving frame.*got 'first'"),
        ({"reference_frame": -1}, "`reference_frame` must be the index .* got -1"),
        ({"reference_frame": True}, "`reference_frame` must be the index .* got True"),
        ({"reference_frame": 1.0}, "`reference_frame` must be the index .* got 1.0"),
        (
            {"reference_frame": NUM_FRAMES},
            "`reference_frame` is 7, but the driving video has 7 frames: .* from 0 to 6",
        ),
        ({"driving_video": []}, "`driving_video` holds no frames"),
        ({"driving_video": [], "reference_frame": "auto"}, "`driving_video` holds no frames"),
        ({"driving_video": [], "motion_mode": "absolute"}, "`driving_video` holds no frames"),
        ({"decode_chunk_size": 0}, "`decode_chunk_size` must be at least 1, got 0"),
        ({"output_type": "gif"}, "`output_type` must be one of .* got 'gif'"),
        ({"motion_control": MotionControl(scale={8: 0.0})}, "`scale` must be indices from 0 to 7, .* got 8"),
        ({"motion_control": MotionControl(values={8: 0.0})}, "`values` must be indices from 0 to 7, .* got 8"),
        (
            {"motion_control": MotionControl(values={2: [0.0] * 5})},
            "`values` gives direction 2 a curve of 5 frames, but the video has 7 or more",
        ),
    ],
)
def test_refuses_bad_arguments(lia_pipeline, photo, clip_frames, arguments, message):
    arguments = {"image": photo, "driving_video": clip_frames, **arguments}
    with pytest.raises(ValueError, match=message):
        lia_pipeline(**arguments)
    with pytest.raises(ValueError, match=message):
        list(lia_pipeline.stream(**arguments))


def test_refuses_what_is_no_image_or_video(lia_pipeline, photo, clip_frames, tmp_path):
    with pytest.raises(TypeError, match="`image` must be a PIL image, a NumPy array or a tensor, got NoneType"):
        lia_pipeline(None, clip_frames)
    with pytest.raises(TypeError, match="`motion_control` must be a MotionControl, got dict"):
        lia_pipeline(photo, clip_frames, motion_control={"scale": 0})
    with pytest.raises(FileNotFoundError, match="There is no video .*nowhere.mp4"):
        lia_pipeline(photo, tmp_path / "nowhere.mp4")
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\] and hold no NaN"):
        lia_pipeline(photo, [torch.full((3, 32, 32), torch.nan)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"directions": {8: 1.0}}, "`directions` must be indices from 0 to 7, .* got 8"),
        ({"directions": {-1: 1.0}}, "`directions` must be indices from 0 to 7, .* got -1"),
        ({"directions": {"6": 1.0}}, "`directions` must be indices from 0 to 7, .* got '6'"),
        ({"directions": {1: float("nan")}}, "`directions` must hold finite numbers, got nan"),
        ({"directions": {1: 1e39}}, r"`directions` must hold finite numbers, got 1e\+39"),
        ({"directions": {1: 1.0}, "num_frames": 0}, "`num_frames` must be at least 1, got 0"),
        ({"directions": {1: 1.0}, "output_type": "gif"}, "`output_type` must be one of .* got 'gif'"),
    ],
)
def test_manipulate_refuses_bad_arguments(lia_pipeline, photo, arguments, message):
    with pytest.raises(ValueError, match=message):
        lia_pipeline.manipulate(photo, **arguments)


def test_manipulate_refuses_amounts_that_are_no_numbers(lia_pipeline, photo):
    with pytest.raises(TypeError, match="`directions` must hold numbers, got 'far'"):
        lia_pipeline.manipulate(photo, {1: "far"})


def test_reference_refuses_an_unknown_output_type(lia_pipeline, photo):
    with pytest.raises(ValueError, match="`output_type` must be one of .* got 'gif'"):
        lia_pipeline.reference(photo, output_type="gif")
