import time
from pathlib import Path
from types import SimpleNamespace

import pytest


gr = pytest.importorskip("gradio")

from leo_diffusers.app.sessions import Sessions, StoppedError, to_message  # noqa: E402


def request(name: str) -> SimpleNamespace:
    return SimpleNamespace(session_hash=name)


def wait_until_gone(*paths: Path) -> None:
    deadline = time.monotonic() + 20
    while any(path.exists() for path in paths):
        assert time.monotonic() < deadline, paths
        time.sleep(0.01)


def written(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"video")
    return path


def test_files_are_unique_and_removed_with_their_session(tmp_path):
    sessions = Sessions(tmp_path, grace_seconds=0)
    one, other = (sessions.of(request(name)) for name in ("one", "other"))
    assert sessions.of(request("one")) is one
    files = [written(session.new_file("result", ".mp4")) for session in (one, one, other)]
    assert len({path.name for path in files}) == 3
    copies = [written(tmp_path / "gradio" / "hash" / path.name) for path in files]
    sessions.close(request("one"))
    wait_until_gone(*files[:2], *copies[:2])
    assert files[2].exists() and copies[2].exists()
    sessions.close(request("one"))  # a page may say good-bye twice
    assert sessions.of(request("one")) is not one


def test_an_upload_stays_until_the_last_of_its_sessions_has_ended(tmp_path):
    sessions = Sessions(tmp_path, grace_seconds=0)
    upload = written(tmp_path / "gradio" / "hash" / "photo.png")
    for name in ("one", "other"):
        sessions.of(request(name)).uploads.add(upload)
    own = written(sessions.of(request("one")).new_file("result", ".mp4"))
    sessions.close(request("one"))
    wait_until_gone(own)
    assert upload.exists()
    sessions.close(request("other"))
    wait_until_gone(upload)


def test_stop_ends_the_jobs_of_one_kind(tmp_path):
    sessions = Sessions(tmp_path, grace_seconds=0)
    with sessions.job(request("one"), "generate") as generate, sessions.job(request("one"), "animate") as animate:
        assert sessions.of(request("one")).stop("generate") == [generate]
        animate.report("Rendering", 1, 2, "frames")
        with pytest.raises(StoppedError):
            generate.report("Rendering", 1, 2, "frames")
    assert not sessions.of(request("one")).jobs and generate.finished.is_set()


def test_what_is_written_after_the_session_has_ended_is_removed_too(tmp_path):
    sessions = Sessions(tmp_path, grace_seconds=0)
    with pytest.raises(StoppedError), sessions.job(request("one"), "generate") as job:
        sessions.close(request("one"))
        file = written(job.session.new_file("result", ".mp4"))
        job.report("Rendering", 1, 2, "frames")
    wait_until_gone(file)


def test_errors_become_messages(tmp_path):
    sessions = Sessions(tmp_path, grace_seconds=0)
    with pytest.raises(gr.Error) as refused, sessions.job(request("one"), "generate"):
        raise ValueError("/tmp/leo-diffusers-app-x/gradio/abc/photo.png cannot be read as an image: <b>")
    assert refused.value.message == "photo.png cannot be read as an image: &lt;b&gt;"
    assert not refused.value.print_exception
    with pytest.raises(gr.Error) as failed, sessions.job(request("one"), "generate"):
        raise RuntimeError("the inside of /etc")
    assert failed.value.message == "This failed on the server, whose log says why."


def test_messages_keep_what_is_no_path():
    assert to_message(ValueError("a/b at 24/1.001")) == "a/b at 24/1.001"
    assert (
        to_message(ValueError("There is no video\n /a/b.mp4: choose one.")) == "There is no video b.mp4: choose one."
    )
