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
    with pytest.warns(UserWarning, match="shows no face"):
        assert crops.crop_photo(wide_photo, "auto", 16).square == Square(0, 20, 60)
    assert messages == ["No face was found in the photo: its centre is used."]
    Image.new("RGB", (40, 40)).save(tmp_path / "square.png")
    with pytest.warns(UserWarning, match="shows no face"):
        assert crops.crop_photo(str(tmp_path / "square.png"), "auto", 16).square == Square(0, 0, 40)
    assert len(messages) == 1  # nothing of it is lost


@pytest.mark.filterwarnings("error")
def test_the_centre_and_no_crop(wide_photo):
    assert crops.crop_photo(wide_photo, "center", 16).square == Square(0, 20, 60)
    with pytest.raises(ValueError, match="100x60.* takes square ones only"):
        crops.crop_photo(wide_photo, "none", 16)


def test_one_square_for_all_frames_of_a_video(detector, tmp_path, wide_photo):
    with VideoWriter(tmp_path / "wide.mp4", 25) as writer:
        for _ in range(3):
            writer.write(to_frame(Image.open(wide_photo)))
    square = crops.video_square(VideoReader(tmp_path / "wide.mp4"), "auto")
    assert (square.side, square.left) == (34, 37)
    assert crops.video_square(VideoReader(tmp_path / "wide.mp4"), "center") == Square(0, 20, 60)


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


def test_faces_are_offered_where_they_can_be_found(detector, monkeypatch):
    def refuse() -> None:
        raise ImportError

    assert crops.crop_field("name").value == "auto"
    monkeypatch.setattr(crops.video_io, "load_face_detector", refuse)
    field = crops.crop_field("name")
    assert field.value == "center" and [value for _, value in field.choices] == ["center", "none"]
