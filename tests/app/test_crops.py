import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers.video_io import Square, VideoReader, VideoWriter, to_frame


gr = pytest.importorskip("gradio")

from leo_diffusers.app import crops  # noqa: E402


FACE = (44, 20, 64, 40)  # whose square is 34 pixels wide


@pytest.fixture
def messages(monkeypatch) -> list[str]:
    """What visitors are told."""
    told = []
    monkeypatch.setattr(gr, "Warning", told.append)
    return told


@pytest.fixture
def detector(monkeypatch) -> list[tuple]:
    """The faces that a detector finds: one, unless a test takes it away."""
    faces = [FACE]
    monkeypatch.setattr(crops.video_io, "load_face_detector", lambda: lambda picture: faces)
    return faces


@pytest.fixture
def wide_photo(tmp_path) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    return str(tmp_path / "wide.png")


def test_a_photo_is_cropped_around_the_face(detector, messages, wide_photo):
    photo = crops.crop_photo(wide_photo, "auto", 16)
    assert photo.square.side == 34 and photo.square.left + 17 == 54
    torch.testing.assert_close(photo.frame, to_frame(Image.open(wide_photo), 16, photo.square))
    assert messages == []


def test_who_shows_no_face_is_told_so(detector, messages, wide_photo, tmp_path):
    detector.clear()
    assert crops.crop_photo(wide_photo, "auto", 16).square == Square(0, 20, 60)
    assert messages == ["No face was found in the photo: its centre is used."]
    Image.new("RGB", (40, 40)).save(tmp_path / "square.png")
    assert crops.crop_photo(str(tmp_path / "square.png"), "auto", 16).square == Square(0, 0, 40)
    assert len(messages) == 1  # nothing of it is lost


@pytest.mark.filterwarnings("error")
def test_the_centre_and_no_crop(wide_photo):
    assert crops.crop_photo(wide_photo, "center", 16).square == Square(0, 20, 60)
    with pytest.raises(ValueError, match="photo is 100x60 pixels and not square: choose another Crop"):
        crops.crop_photo(wide_photo, "none", 16)


def test_of_several_faces_the_largest_is_used_and_told(detector, messages, wide_photo):
    detector.append((5, 5, 15, 15))
    with pytest.warns(UserWarning, match="shows 2 faces"):
        assert crops.crop_photo(wide_photo, "auto", 16).square.side == 34
    assert messages == ["There are several faces in the photo: the largest is used."]


@pytest.fixture
def wide_video(tmp_path, wide_photo) -> VideoReader:
    """16 frames."""
    with VideoWriter(tmp_path / "wide.mp4", 25) as writer:
        for _ in range(16):
            writer.write(to_frame(Image.open(wide_photo)))
    return VideoReader(tmp_path / "wide.mp4")


def test_one_square_for_all_frames_of_a_video(detector, wide_video):
    square = crops.video_square(wide_video, "auto")
    assert (square.side, square.left) == (34, 37)
    assert crops.video_square(wide_video, "center") == Square(0, 20, 60)
    first = crops.crop_first_frame(wide_video.path, "auto", 16, max_seconds=1)
    assert first.square == square and not first.is_whole
    torch.testing.assert_close(first.frame, next(iter(VideoReader(wide_video.path, 16, square=square))))


def test_what_is_square_is_seen_whole(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "square.png")
    assert crops.crop_photo(str(tmp_path / "square.png"), "center", 16).is_whole


def test_a_face_that_is_seen_once_is_none(monkeypatch, messages, wide_video):
    looks = itertools.count()
    monkeypatch.setattr(
        crops.video_io, "load_face_detector", lambda: lambda picture: [FACE] if next(looks) == 3 else []
    )
    assert crops.video_square(wide_video, "auto") == Square(0, 20, 60)
    assert messages == ["No face was found in the video: its centre is used."]


def test_frames_go_back_into_the_photo(detector, wide_photo):
    photo = crops.crop_photo(wide_photo, "auto", 16)
    (picture,) = photo.paste([torch.ones(3, 16, 16)])
    assert picture.shape == (3, 60, 100)
    top, left = photo.square.top, photo.square.left
    assert (picture[:, top + 5 : top + 29, left + 5 : left + 29] == 1).all()
    torch.testing.assert_close(picture[:, :, :left], photo.photo[:, :, :left], atol=1e-5, rtol=0)


def test_photos_are_made_smaller_for_browsers(tmp_path):
    Image.new("RGB", (1301, 2600)).save(tmp_path / "large.png")
    photo = crops.crop_photo(str(tmp_path / "large.png"), "center", 16)
    (picture,) = photo.paste([torch.ones(3, 16, 16)])
    assert picture.shape == (3, 1280, 640)
    is_pasted = picture[0] > 0
    assert is_pasted.any(dim=1).sum() == pytest.approx(640, abs=70)  # fades above and below
    assert is_pasted.any(dim=0).all()


def test_frames_of_large_videos_are_made_smaller_too():
    pictures = map(crops.shrink, torch.full((2, 3, 720, 2560), -1.0))
    first, second = crops.paste_into(pictures, (720, 2560), Square(0, 0, 720), torch.ones(2, 3, 16, 16))
    assert first.shape == (3, 360, 1280) and torch.equal(first, second)
    assert (first[:, :, :300] == 1).all() and (first[:, :, 360:] == -1).all()


def test_faces_are_offered_where_they_can_be_found(detector, monkeypatch):
    def refuse() -> None:
        raise ImportError

    assert crops.crop_field("name").value == "auto"
    monkeypatch.setattr(crops.video_io, "load_face_detector", refuse)
    field = crops.crop_field("name")
    assert field.value == "center" and [value for _, value in field.choices] == ["center", "none"]
