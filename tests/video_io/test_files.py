import pytest

from leo_diffusers.video_io import find_videos


def test_find_videos(tmp_path):
    for name in ("b.mp4", "a/x.webm", "a/still1.png", ".hidden/y.mp4", "c/0001.png", "c/0002.png", "d/cover.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_videos(tmp_path) == [tmp_path / "a/x.webm", tmp_path / "b.mp4", tmp_path / "c"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_videos(tmp_path / "missing")
    with pytest.raises(ValueError, match="is a file"):
        find_videos(tmp_path / "b.mp4")
    with pytest.raises(ValueError, match=r"\.mp4, \.mov"):
        find_videos(tmp_path / "d")
