"""What README.md shows works: its Python runs, its commands are understood, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from leo_diffusers.cli import build_parser
from leo_diffusers.data.talking_heads import render_clip
from leo_diffusers.video_io import write_video


ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
pytestmark = pytest.mark.skipif(not README.is_file(), reason="README.md is part of the repository, not of the package")

# What runs elsewhere only: editors that are downloaded, the Hub, a folder that a command has written.
ELSEWHERE = ("stable-diffusion", "push_to_hub", "leo-with-code", "vox-onnx")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line[line.index("leo-diffusers") :] for line in lines if re.search(r"(^|/)leo-diffusers ", line)]


def test_python_runs_from_top_to_bottom(tmp_path, monkeypatch):
    for name, seed in (("driving.mp4", 1), ("video.mp4", 2)):
        clip = render_clip(seed, seed, num_frames=8)
        write_video(tmp_path / name, clip.frames, frames_per_second=25)
    for name, seed in (("photo.png", 3), ("edited.png", 4)):
        Image.fromarray(render_clip(seed, seed, num_frames=1).frames[0]).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    run = [block for block in blocks("python") if not any(word in block for word in ELSEWHERE)]
    assert len(run) == len(blocks("python")) - len(ELSEWHERE)
    names = {}
    for block in run:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "video.mp4").is_file() and len(names["output"].frames[0]) == 8


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command):
    words = shlex.split(command.split(" | ")[0], comments=True)[1:]
    assert build_parser().parse_args(words).command == words[0]


def test_there_are_commands():
    assert len(commands()) > 8


@pytest.mark.parametrize("readme", ["README.md", "examples/README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(readme):
    folder = (ROOT / readme).parent
    text = (ROOT / readme).read_text()
    links = re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)", text)
    for path, anchor in links:
        target = folder / path if path else ROOT / readme
        assert target.exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
