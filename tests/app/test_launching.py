import os
import socket

import pytest

from leo_diffusers.app import AppSettings, launching
from leo_diffusers.cli import build_parser, main


def test_settings_are_checked():
    with pytest.raises(ValueError, match="`dtype` must be one of float32"):
        AppSettings(dtype="int8")
    for name in ("max_upload_megabytes", "max_video_seconds", "max_endless_seconds"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
            AppSettings(**{name: 0})
    with pytest.raises(ValueError, match="`port` must be from 1 to 65535, got 99999"):
        AppSettings(port=99999)


def test_the_command_line_has_every_setting_and_stays_on_this_machine():
    arguments = build_parser().parse_args(["app"])
    assert arguments.host == "127.0.0.1"
    given = {name: getattr(arguments, name) for name in AppSettings.__dataclass_fields__}
    assert AppSettings(**given) == AppSettings(host="127.0.0.1")


def test_bad_input_is_one_line(capsys, tmp_path):
    pytest.importorskip("gradio")
    assert main(["app", "--max-video-seconds", "0"]) == 2
    assert "`max_video_seconds` must be at least 1" in capsys.readouterr().err
    assert main(["app", "--model", str(tmp_path / "absent")]) == 2
    assert "There is no model" in capsys.readouterr().err
    assert "GRADIO_TEMP_DIR" not in os.environ


def test_a_taken_port_is_named(capsys):
    pytest.importorskip("gradio")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert main(["app", "--device", "cpu", "--port", str(port)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"cannot be opened on 127.0.0.1, port {port}: choose a free --port" in error


def test_without_gradio_the_command_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(launching, "find_spec", lambda name: None)
    assert main(["app"]) == 2
    error = capsys.readouterr().err
    assert 'pip install "leo_diffusers[app]"' in error and error.count("\n") == 1
