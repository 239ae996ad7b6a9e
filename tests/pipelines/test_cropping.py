import sys

import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers import LEOEditPipeline
from leo_diffusers.pipelines.cropping import find_video_square
from leo_diffusers.video_io import Square, VideoReader, VideoWriter, to_frame


# The head is the middle 32x32 of a wider picture's right half: see `wide`. What a detector says that finds it:
SQUARE = Square(top=10, left=24, side=32)
SIDE = 32 / 1.7
FACE = (40 - SIDE / 2, 10 + 0.55 * 32 - SIDE / 2, 40 + SIDE / 2, 10 + 0.55 * 32 + SIDE / 2)
FADE = 4  # pixels of a border that are no longer those of the frame


def detect(picture: np.ndarray) -> list[tuple]:
    return [FACE]


def wide(frame: np.ndarray) -> np.ndarray:
    """A frame of 32x32 in a picture of 60x48, off its centre."""
    return np.pad(frame, ((10, 6), (24, 4), (0, 0)), constant_values=200)


@pytest.fixture
def wide_photo(photo):
    return Image.fromarray(wide(np.asarray(photo)))


@pytest.fixture
def wide_clip(clip_frames):
    return np.stack([wide(frame) for frame in clip_frames])


@pytest.fixture
def wide_video(tmp_path, wide_clip):
    """Frames as PNG, which lose nothing."""
    with VideoWriter(tmp_path / "wide", 24) as writer:
        for frame in wide_clip:
            writer.write(to_frame(frame))
    return tmp_path / "wide"


@pytest.fixture
def edit_pipeline(animator):
    return LEOEditPipeline(animator)


def inside(frames: torch.Tensor, margin: int = 0) -> torch.Tensor:
    """The square of pictures of shape (..., 48, 60), less a margin."""
    return frames[..., 10 + margin : 42 - margin, 24 + margin : 56 - margin]


def assert_pasted(pictures: torch.Tensor, frames: torch.Tensor, originals: torch.Tensor) -> None:
    """Pictures (F, 3, 48, 60) are the originals outside of the square, and the frames (F, 3, 32, 32) in its middle."""
    outside = torch.ones(48, 60, dtype=torch.bool)
    inside(outside).fill_(False)
    expected = originals.expand_as(pictures)[..., outside]
    torch.testing.assert_close(pictures[..., outside], expected, rtol=0, atol=1e-6)
    middle = frames[..., FADE:-FADE, FADE:-FADE]
    torch.testing.assert_close(inside(pictures, FADE), middle, rtol=0, atol=1e-6)


# --- which square ---


@pytest.mark.filterwarnings("error")
def test_the_head_that_is_found_is_animated(lia_pipeline, photo, clip_frames, wide_photo, wide_clip):
    expected = lia_pipeline(photo, clip_frames, output_type="pt")
    output = lia_pipeline(wide_photo, wide_clip, output_type="pt", crop=detect)
    assert torch.equal(output.frames, expected.frames)
    assert torch.equal(output.motion_codes, expected.motion_codes)


@pytest.mark.filterwarnings("error")
def test_images_of_every_kind(lia_pipeline, photo, wide_photo):
    expected = lia_pipeline.manipulate(photo, {0: 1.0}, output_type="pt").frames
    pixels = np.asarray(wide_photo)
    turned = wide_photo.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[274] = 6  # to be shown turned by 90 degrees to the right
    turned.info["exif"] = exif.tobytes()
    kinds = {"array": pixels, "tensor": to_frame(pixels), "batch of one": to_frame(pixels)[None], "turned": turned}
    for name, image in kinds.items():
        frames = lia_pipeline.manipulate(image, {0: 1.0}, output_type="pt", crop=detect).frames
        torch.testing.assert_close(frames, expected, msg=lambda text, name=name: name + text)
    reference = lia_pipeline.reference(wide_photo, output_type="pt", crop=detect).frames
    assert torch.equal(reference, lia_pipeline.reference(photo, output_type="pt").frames)


@pytest.mark.filterwarnings("error")
def test_videos_of_every_kind(lia_pipeline, photo, clip_frames, wide_clip, wide_video):
    expected = lia_pipeline(photo, clip_frames, output_type="latent").motion_codes
    kinds = {
        "array": wide_clip,
        "tensor": torch.stack([to_frame(frame) for frame in wide_clip]),
        "list": [Image.fromarray(frame) for frame in wide_clip],
        "iterator": iter(wide_clip),
        "neither a sequence nor an iterator": dict(enumerate(wide_clip)).values(),
        "path": wide_video,
        "reader": VideoReader(wide_video),
    }
    for name, video in kinds.items():
        codes = lia_pipeline(
            photo,
            video,
            output_type="latent",
            crop=lambda picture: detect(picture) if picture.shape[:2] == (48, 60) else [(0, 0, 32, 32)],
        ).motion_codes
        torch.testing.assert_close(codes, expected, msg=lambda text, name=name: name + text, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_a_square_picture_that_the_face_fills_is_left_alone(lia_pipeline, photo, clip_frames):
    expected = lia_pipeline(photo, clip_frames, output_type="pt").frames
    for crop in (lambda picture: [(2, 4, 30, 31)], "none"):
        assert torch.equal(lia_pipeline(photo, clip_frames, output_type="pt", crop=crop).frames, expected)


def test_center_is_the_default(lia_pipeline, clip_frames, wide_photo):
    with pytest.warns(UserWarning, match="60x48, and only its central 48x48 square is used"):
        expected = lia_pipeline(wide_photo, clip_frames, output_type="pt").frames
    with pytest.warns(UserWarning, match="60x48, and only its central 48x48 square is used"):
        assert torch.equal(lia_pipeline(wide_photo, clip_frames, output_type="pt", crop="center").frames, expected)


def test_without_opencv_the_centre_is_used(monkeypatch, lia_pipeline, clip_frames, wide_photo):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.warns(UserWarning, match='central 48x48 square is used: .* pip install "opencv-python-headless<5"'):
        frames = lia_pipeline(wide_photo, clip_frames, output_type="pt", crop="auto").frames
    with pytest.warns(UserWarning, match="central"):
        assert torch.equal(frames, lia_pipeline(wide_photo, clip_frames, output_type="pt").frames)


def test_where_no_face_is_found_the_centre_is_used(lia_pipeline, photo, wide_photo, wide_clip):
    with pytest.warns(UserWarning) as warned:
        frames = lia_pipeline(wide_photo, wide_clip, output_type="pt", crop=lambda picture: []).frames
    messages = [str(one.message) for one in warned]
    assert messages == [
        f"{name} is 60x48 and shows no face that was found, so its central 48x48 square is used: crop it to choose "
        "another."
        for name in ("The image", "The video")
    ]
    with pytest.warns(UserWarning, match="central"):
        assert torch.equal(frames, lia_pipeline(wide_photo, wide_clip, output_type="pt").frames)


def test_none_takes_square_pictures_only(
    lia_pipeline, leo_pipeline, photo, clip_frames, wide_photo, wide_clip, wide_video
):
    message = 'is 60x48, and `crop="none"` takes square ones only: crop it'
    with pytest.raises(ValueError, match=f"The image {message}"):
        lia_pipeline.stream(wide_photo, clip_frames, crop="none")
    for video in (wide_clip, iter(wide_clip)):
        with pytest.raises(ValueError, match=f"The video {message}"):
            lia_pipeline.stream(photo, video, crop="none")
    with pytest.raises(ValueError, match=f"wide {message}"):
        lia_pipeline.stream(photo, wide_video, crop="none")
    with pytest.raises(ValueError, match=f"The image {message}"):
        leo_pipeline([photo, wide_photo], num_frames=4, num_inference_steps=2, crop="none")


def test_faces_are_looked_for_over_a_whole_file_and_in_the_first_frames_of_an_iterator(tmp_path):
    with VideoWriter(tmp_path / "long", 25) as writer:
        for level in range(100):
            writer.write(torch.full((3, 24, 40), level / 127.5 - 1))
    seen = []

    def look(picture):
        seen.append(int(picture[0, 0, 0]))
        return [(5, 5, 15, 15)]

    _, square = find_video_square(tmp_path / "long", look)
    assert square == Square(top=1, left=2, side=17) and len(seen) <= 16 and seen[0] < 10 and seen[-1] > 90
    seen.clear()
    frames = iter(VideoReader(tmp_path / "long"))
    video, _ = find_video_square(frames, look)
    assert seen == list(range(16))
    assert [round(float(frame[0, 0, 0] + 1) * 127.5) for frame in video] == list(range(100))  # none is lost


@pytest.mark.parametrize("crop", ["centre", "face", None, 3])
def test_other_crops_are_refused(
    lia_pipeline, leo_pipeline, infinite_pipeline, edit_pipeline, photo, clip_frames, crop
):
    for call in (
        lambda: lia_pipeline(photo, clip_frames, crop=crop),
        lambda: lia_pipeline.stream(photo, clip_frames, crop=crop),
        lambda: lia_pipeline.manipulate(photo, {0: 1.0}, crop=crop),
        lambda: lia_pipeline.reference(photo, crop=crop),
        lambda: leo_pipeline(photo, num_frames=4, crop=crop),
        lambda: infinite_pipeline(photo, num_frames=4, crop=crop),
        lambda: infinite_pipeline.stream(photo, crop=crop),
        lambda: edit_pipeline(clip_frames, edited_frame=photo, crop=crop),
        lambda: edit_pipeline.edit_first_frame(
            clip_frames, "a negative", editor=lambda image, prompt: image, crop=crop
        ),
    ):
        with pytest.raises(ValueError, match=r"`crop` must be one of \('auto', 'center', 'none'\)"):
            call()


def test_generated_motion_starts_from_the_head_too(leo_pipeline, infinite_pipeline, photo, wide_photo):
    for pipeline in (leo_pipeline, infinite_pipeline):
        options = {"num_frames": 6, "num_inference_steps": 2, "output_type": "pt"}
        expected = pipeline(photo, generator=torch.manual_seed(0), **options).frames
        frames = pipeline(wide_photo, generator=torch.manual_seed(0), crop=detect, **options).frames
        assert torch.equal(frames, expected)
        frames = pipeline(
            prompt="a head",
            first_frame_source=lambda prompt: wide_photo,
            crop=detect,
            generator=torch.manual_seed(0),
            **options,
        ).frames
        assert torch.equal(frames, expected)


# --- put back ---


def test_the_animated_head_is_put_back(lia_pipeline, clip_frames, wide_photo):
    options = {"crop": lambda picture: detect(picture) if picture.shape[0] == 48 else [(0, 0, 32, 32)]}
    frames = lia_pipeline(wide_photo, clip_frames, output_type="pt", **options).frames[0]
    pictures = lia_pipeline(wide_photo, clip_frames, output_type="pt", paste_back=True, **options).frames[0]
    assert_pasted(pictures, frames, (to_frame(wide_photo) + 1) / 2)
    as_array = lia_pipeline(wide_photo, clip_frames, output_type="np", paste_back=True, **options).frames
    assert as_array.shape == (1, 7, 48, 60, 3)
    np.testing.assert_array_equal(as_array[0], pictures.permute(0, 2, 3, 1).numpy())
    images = lia_pipeline(wide_photo, clip_frames, paste_back=True, **options).frames[0]
    assert [image.size for image in images] == [(60, 48)] * 7
    assert np.abs(np.stack([np.asarray(image) for image in images]) - as_array[0] * 255).max() <= 0.51
    streamed = list(lia_pipeline.stream(wide_photo, clip_frames, output_type="pt", paste_back=True, **options))
    torch.testing.assert_close(torch.stack(streamed), pictures, rtol=0, atol=1e-5)


def test_frames_are_resized_to_their_place(lia_pipeline, clip_frames, photo):
    large = photo.resize((96, 96), Image.Resampling.BICUBIC)
    frames = lia_pipeline(large, clip_frames, output_type="pt").frames[0]
    pictures = lia_pipeline(large, clip_frames, output_type="pt", paste_back=True).frames[0]
    assert pictures.shape == (7, 3, 96, 96)
    shrunk = torch.nn.functional.interpolate(pictures, (32, 32), mode="bilinear", antialias=True)
    assert (shrunk - frames).abs().mean() < 0.02 < (shrunk - frames[:1].roll(8, -1)).abs().mean()


def test_a_whole_picture_is_put_back_whole(lia_pipeline, photo, clip_frames):
    expected = lia_pipeline(photo, clip_frames, output_type="pt").frames
    assert torch.equal(lia_pipeline(photo, clip_frames, output_type="pt", paste_back=True).frames, expected)


def test_walks_are_put_back(lia_pipeline, wide_photo):
    frames = lia_pipeline.manipulate(wide_photo, {0: 1.0}, 3, output_type="pt", crop=detect).frames[0]
    pictures = lia_pipeline.manipulate(wide_photo, {0: 1.0}, 3, output_type="pt", crop=detect, paste_back=True)
    assert_pasted(pictures.frames[0], frames, (to_frame(wide_photo) + 1) / 2)


def test_generated_videos_are_put_back_each_into_its_own_picture(leo_pipeline, infinite_pipeline, photo, wide_photo):
    other = Image.fromarray(255 - np.asarray(wide_photo))
    for pipeline in (leo_pipeline, infinite_pipeline):
        options = {"num_frames": 6, "num_inference_steps": 2, "num_videos_per_prompt": 2, "crop": detect}
        frames = pipeline([wide_photo, other], generator=torch.manual_seed(0), output_type="pt", **options).frames
        pictures = pipeline(
            [wide_photo, other], generator=torch.manual_seed(0), output_type="pt", paste_back=True, **options
        ).frames
        assert pictures.shape == (4, 6, 3, 48, 60)
        for row, image in enumerate((wide_photo, wide_photo, other, other)):
            assert_pasted(pictures[row], frames[row], (to_frame(image) + 1) / 2)
    options |= {"crop": lambda picture: detect(picture) if picture.shape[0] == 48 else [(0, 0, 32, 32)]}
    videos = leo_pipeline([wide_photo, photo], paste_back=True, **options).frames
    assert [video[0].size for video in videos] == [(60, 48)] * 2 + [(32, 32)] * 2
    with pytest.raises(ValueError, match=r'sizes of `image` \(32x32, 60x48\), which only `output_type="pil"` holds'):
        leo_pipeline([wide_photo, photo], paste_back=True, output_type="np", **options)


def test_endless_video_is_put_back(infinite_pipeline, wide_photo):
    options = {"num_frames": 20, "num_inference_steps": 2, "crop": detect, "output_type": "pt"}
    frames = list(infinite_pipeline.stream(wide_photo, generator=torch.manual_seed(0), **options))
    pictures = infinite_pipeline.stream(wide_photo, generator=torch.manual_seed(0), paste_back=True, **options)
    assert_pasted(torch.stack(list(pictures)), torch.stack(frames), (to_frame(wide_photo) + 1) / 2)


def test_what_cannot_be_put_back_is_refused(lia_pipeline, full_pipeline, infinite_pipeline, photo, clip_frames):
    with pytest.raises(ValueError, match='`paste_back` needs frames, and `output_type="latent"` renders none'):
        lia_pipeline(photo, clip_frames, paste_back=True, output_type="latent")
    message = "`paste_back` puts the video back into `image`: give one"
    with pytest.raises(ValueError, match=message):
        full_pipeline(num_frames=4, paste_back=True)
    with pytest.raises(ValueError, match=message):
        infinite_pipeline.stream(paste_back=True)
    with pytest.raises(ValueError, match=message):
        full_pipeline(prompt="a head", first_frame_source=lambda prompt: photo, num_frames=4, paste_back=True)


# --- edited videos ---


@pytest.mark.parametrize("kind", ["array", "list", "iterator", "path", "reader"])
@pytest.mark.parametrize("reference_frame", [0, "auto"])
def test_edited_heads_are_put_back_into_their_frames(edit_pipeline, wide_clip, wide_video, kind, reference_frame):
    video = {
        "array": wide_clip,
        "list": list(wide_clip),
        "iterator": iter(wide_clip),
        "path": str(wide_video),
        "reader": VideoReader(wide_video),
    }[kind]
    edited_frame = 255 - wide_clip[0]
    options = {"reference_frame": reference_frame, "crop": detect, "output_type": "pt", "decode_chunk_size": 2}
    frames = edit_pipeline(wide_clip, edited_frame=edited_frame, **options).frames[0]
    pictures = edit_pipeline.stream(video, edited_frame=edited_frame, paste_back=True, **options)
    originals = torch.stack([(to_frame(frame) + 1) / 2 for frame in wide_clip])
    assert_pasted(torch.stack(list(pictures)), frames, originals)


def test_the_editor_sees_the_head(edit_pipeline, clip_frames, wide_clip):
    seen = []

    def invert(image: Image.Image, prompt: str) -> Image.Image:
        seen.append(np.asarray(image))
        return Image.fromarray(255 - seen[-1])

    edited = edit_pipeline.edit_first_frame(wide_clip, "a negative", editor=invert, crop=detect)
    np.testing.assert_array_equal(seen[0], clip_frames[0])
    np.testing.assert_array_equal(np.asarray(edited), 255 - clip_frames[0])
    output = edit_pipeline(wide_clip, "a negative", editor=invert, crop=detect, output_type="pt")
    for frame in (edited, Image.fromarray(255 - wide_clip[0])):  # its square, or all of the frame
        again = edit_pipeline(wide_clip, edited_frame=frame, crop=detect, output_type="pt")
        assert torch.equal(again.frames, output.frames) and again.edited_frame == edited


def test_edited_frames_that_fit_in_no_way_or_in_two_are_refused(
    edit_pipeline, photo, wide_photo, wide_clip, clip_frames
):
    with pytest.raises(ValueError, match="`edited_frame` is 50x48, the video 60x48: edit a frame of the video's size"):
        edit_pipeline(wide_clip, edited_frame=wide_photo.resize((50, 48)), crop=detect)
    with pytest.raises(ValueError, match="`edited_frame` is 32x32, the video 32x32 and the animator's frames too"):
        edit_pipeline(clip_frames, edited_frame=photo, crop=lambda picture: [(10, 10, 20, 20)])
    with pytest.warns(UserWarning, match="`edited_frame` is 64x64: it is resized to 32x32"):
        edit_pipeline(wide_clip, edited_frame=photo.resize((64, 64)), crop=detect)


@pytest.mark.parametrize("paste_back", [False, True])
def test_no_more_frames_are_read_than_are_needed(edit_pipeline, wide_clip, paste_back):
    num_read = 0

    def frames():
        nonlocal num_read
        for frame in np.concatenate([wide_clip] * 20):
            num_read += 1
            yield frame

    stream = edit_pipeline.stream(
        frames(), edited_frame=255 - wide_clip[0], crop=detect, paste_back=paste_back, decode_chunk_size=4
    )
    assert num_read == 16  # in which the head was looked for
    for index, _ in enumerate(stream):
        assert num_read <= max(16, index + 8)
    assert index == num_read - 1 == 139
