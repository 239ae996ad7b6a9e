import argparse
import warnings

import pytest

from leo_diffusers import video_io
from leo_diffusers.command_line import OneLineParser, run_command, run_script


def run_toy(monkeypatch, error: Exception | None) -> tuple[int, argparse.Namespace]:
    calls = []

    def work(arguments: argparse.Namespace) -> None:
        calls.append(arguments)
        if error is not None:
            raise error

    parser = OneLineParser(prog="toy.py")
    parser.add_argument("--count", type=int, default=1)
    monkeypatch.setattr("sys.argv", ["toy.py", "--count", "3"])
    with pytest.raises(SystemExit) as caught:
        run_script(work, parser)
    return caught.value.code, calls[0]


@pytest.mark.parametrize("kind", [ValueError, TypeError, FileNotFoundError, PermissionError, video_io.FFmpegError])
def test_bad_input_ends_a_script_with_one_line(monkeypatch, capsys, kind):
    code, _ = run_toy(monkeypatch, kind("`x` must be positive,\n  got 0"))
    assert code == 2
    assert capsys.readouterr().err == "toy.py: error: `x` must be positive, got 0\n"


def test_a_script_gets_its_arguments_and_ends_well(monkeypatch):
    code, arguments = run_toy(monkeypatch, None)
    assert (code, arguments.count) == (0, 3)


def test_faults_of_a_script_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("sys.argv", ["toy.py"])

    def work(arguments: argparse.Namespace) -> None:
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        run_script(work, OneLineParser(prog="toy.py"))


def test_words_that_cannot_be_parsed_are_one_line(capsys):
    parser = OneLineParser(prog="toy.py")
    parser.add_argument("--count", type=int)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--count", "many"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "toy.py: error: argument --count: invalid int value: 'many'\n"


def test_warnings_to_users_are_one_line(capsys):
    def work(arguments):
        warnings.warn("The frame\n is cropped.", UserWarning, stacklevel=2)
        warnings.warn("old", DeprecationWarning, stacklevel=2)

    with pytest.warns(DeprecationWarning, match="old"):
        assert run_command("program", work, argparse.Namespace()) == 0
    said = capsys.readouterr().err
    assert said == "program: warning: The frame is cropped.\n"
