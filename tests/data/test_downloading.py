import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from leo_diffusers.data.downloading import download_videos, require_downloader
from leo_diffusers.video_io import read_video


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture
def address(tmp_path):
    """A server of the files in tmp_path / "served"."""
    (tmp_path / "served").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "served"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{{video_id}}.mp4"
    server.shutdown()
    server.server_close()


def test_a_missing_downloader_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    with pytest.raises(ValueError, match="--download needs yt-dlp: `pip install yt-dlp`"):
        require_downloader()


def test_videos_are_downloaded_and_dead_links_named(tmp_path, address, talking_head, write_clip, capfd):
    pytest.importorskip("yt_dlp", reason="yt-dlp is not installed: `pip install yt-dlp`")
    require_downloader()
    for name in ("one", "-two"):
        write_clip(tmp_path / "served" / f"{name}.mp4", talking_head(0, 3))
    folder = tmp_path / "100% of it"
    folder.mkdir()
    problems = download_videos(["one", "dead", "-two"], folder, 2, address)
    assert list(problems) == ["dead"] and "404" in problems["dead"]
    assert {path.name for path in folder.iterdir()} == {"one.mp4", "-two.mp4"}
    assert len(read_video(folder / "-two.mp4")) == 3
    assert "ERROR" not in capfd.readouterr().err
