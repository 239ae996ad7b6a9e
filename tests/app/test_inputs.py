import numpy as np
import pytest

from leo_diffusers.app.inputs import open_video, read_photo
from leo_diffusers.video_io import write_video


@pytest.fixture
def make_video(tmp_path):
    def make(num_frames: int) -> str:
        path = tmp_path / f"{num_frames}.mp4"
        write_video(path, np.zeros((num_frames, 32, 32, 3), np.uint8), 10)
        return str(path)

    return make


def test_photos(tmp_path, photo):
    photo.save(tmp_path / "photo.png")
    assert read_photo(str(tmp_path / "photo.png")).shape == (3, 32, 32)
    with pytest.raises(ValueError, match="no photo yet"):
        read_photo(None)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_photo(str(tmp_path / "text.png"))


def test_videos(make_video):
    assert len(open_video(make_video(20), max_seconds=2)) == 20
    with pytest.raises(ValueError, match="no video yet"):
        open_video(None, max_seconds=2)
    with pytest.raises(ValueError, match="longer than the 2 seconds"):
        open_video(make_video(21), max_seconds=2)
    with pytest.raises(ValueError, match="a single frame"):
        open_video(make_video(1), max_seconds=2)
