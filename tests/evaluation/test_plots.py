import sys

import pytest
import torch

from leo_diffusers.evaluation import plots
from leo_diffusers.evaluation.paper_tables import MeasuredRow
from leo_diffusers.evaluation.plots import (
    NUM_COLUMNS,
    THUMBNAIL_SIZE,
    Thumbnails,
    contact_sheet,
    plot_curves,
    plot_trajectories,
    plot_variants,
    sheet_of_parts,
)
from leo_diffusers.video_io import read_image, to_frame


def ramp(num_frames: int, size: int = 4) -> torch.Tensor:
    """Every frame has a grey of its own."""
    greys = torch.arange(num_frames)[:, None, None, None] / 127.5 - 1
    return greys.expand(num_frames, 3, size, size)


def greys(picture: torch.Tensor, size: int = 4) -> list[list[int]]:
    """The grey of every cell of a contact sheet."""
    return ((picture[0, ::size, ::size] + 1) * 127.5).round().int().tolist()


@pytest.mark.parametrize("name", ["curves.png", "curves.pdf"])
def test_pictures_appear_alone(name, tmp_path):
    plot_curves({"ours": [1, 2, float("nan")], "real": torch.ones(3)}, [0, 5, 10], "frame", "ACD", tmp_path / name)
    plot_trajectories({"a": torch.randn(7, 5), "b": torch.randn(4, 5)}, tmp_path / f"codes-{name}")
    rows = [MeasuredRow("a", {"l1": 0.1, "akd": 1.0}, {"l1": 0.01}), MeasuredRow("b", {"l1": 0.2}, {})]
    plot_variants(rows, tmp_path / f"variants-{name}")
    assert {path.name for path in tmp_path.iterdir()} == {name, f"codes-{name}", f"variants-{name}"}
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())


def test_variants_are_points_with_their_spread(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    rows = [MeasuredRow("a", {"fvd": 3.0, "l1": 0.1}, {"l1": 0.01}), MeasuredRow("b", {"l1": 0.2}, {})]
    plots.plot_variants(rows, tmp_path / "variants.png")
    l1, fvd = figures[0].axes
    assert (l1.get_title(), fvd.get_title()) == ("L1", "FVD")
    assert [label.get_text() for label in l1.get_yticklabels()] == ["a", "b"]
    points = [[tuple(point) for point in line.get_xydata()] for line in l1.lines if line.get_marker() == "o"]
    assert points == [[(0.1, 0)], [(0.2, 1)]] and len(fvd.containers) == 1
    assert l1.containers[0].has_xerr and not l1.containers[1].has_xerr


def test_a_picture_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "curves.xyz"
    path.write_text("old")
    with pytest.raises(ValueError, match="xyz"):
        plot_curves({"ours": [1]}, [0], "frame", "ACD", path)
    assert [file.name for file in tmp_path.iterdir()] == ["curves.xyz"] and path.read_text() == "old"


def test_curves_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`values` must hold at least one curve"):
        plot_curves({}, [], "frame", "ACD", tmp_path / "a.png")
    with pytest.raises(ValueError, match="`values` gives ours 2 numbers, but `x` has 3"):
        plot_curves({"ours": [1, 2]}, [0, 1, 2], "frame", "ACD", tmp_path / "a.png")
    with pytest.raises(ValueError, match="`rows` must hold at least one number"):
        plot_variants([MeasuredRow("a", {}, {})], tmp_path / "a.png")
    with pytest.raises(ValueError, match="`codes` must hold those of at least one video"):
        plot_trajectories({}, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"`codes` must have the shape \(F, M\), got \(5,\) for a"):
        plot_trajectories({"a": torch.zeros(5)}, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_missing_matplotlib_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'Curves need matplotlib: `pip install "leo_diffusers\[eval\]"`'):
        plot_curves({"ours": [1]}, [0], "frame", "ACD", tmp_path / "a.png")


def test_a_sheet_shows_first_and_last_frames(tmp_path):
    contact_sheet([ramp(9), ramp(2)], tmp_path / "sheet.png", columns=5)
    assert greys(read_image(tmp_path / "sheet.png")) == [[0, 2, 4, 6, 8], [0, 0, 0, 1, 1]]


@pytest.mark.parametrize(
    "videos, columns, message",
    [
        ([], 2, "`videos` must be at least one"),
        ([ramp(3), ramp(3, size=8)], 2, r"all of one size, got the sizes \[\(3, 4, 4\), \(3, 8, 8\)\]"),
        ([ramp(3)], 0, "`columns` must be at least 1, got 0"),
    ],
)
def test_what_makes_no_sheet_is_refused(videos, columns, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        contact_sheet(videos, tmp_path / "sheet.png", columns)


@pytest.mark.parametrize("num_frames", [5, 12, 40])
def test_thumbnails_are_a_sheet_whatever_the_chunks(num_frames, tmp_path):
    videos = ramp(num_frames), -ramp(num_frames)
    contact_sheet(list(videos), tmp_path / "whole.png")
    thumbnails = Thumbnails(num_frames)
    for chunk in zip(*(video.split(3) for video in videos)):
        thumbnails.add(*chunk)
    part = {"shown": thumbnails.pixels()}
    assert part["shown"].shape == (2, NUM_COLUMNS, 4, 4, 3) and part["shown"].dtype == torch.uint8
    sheet_of_parts({"a": part, "b": {}}, tmp_path / "parts.png")
    assert torch.equal(read_image(tmp_path / "parts.png"), read_image(tmp_path / "whole.png"))


def test_thumbnails_are_small(tmp_path):
    thumbnails = Thumbnails(2)
    thumbnails.add(torch.full((2, 3, 256, 256), 0.5))
    pixels = thumbnails.pixels()
    assert pixels.shape == (1, NUM_COLUMNS, THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3)
    torch.testing.assert_close(to_frame(pixels[0, 0].numpy()), torch.full((3, 128, 128), 0.5), atol=0.01, rtol=0)


def test_nothing_to_show_is_no_picture(tmp_path):
    sheet_of_parts({"a": {"model/l1": torch.tensor(0.0)}}, tmp_path / "sheet.png")
    assert not list(tmp_path.iterdir())
