import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers.training.curves import draw_motion, draw_spread, draw_training_curves, new_figure, plot_losses


@pytest.fixture
def run(tmp_path):
    """A folder of a run of 1,000 steps that was measured twice."""
    lines = [{"step": step, "l1": 2.0 / step, "lr": 1e-3} for step in range(1, 1001)]
    lines = [line | {"late": 1.0} if line["step"] > 500 else line for line in lines]
    (tmp_path / "losses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    measured = [{"step": 500, "validation/psnr": 20.0}, {"step": 1000, "validation/psnr": 25.0, "validation/l1": 0.1}]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in measured))
    return tmp_path


def test_losses_are_means_of_as_many_steps(run):
    pytest.importorskip("matplotlib", reason="curves need matplotlib")
    axis = new_figure(4, 4).subplots()
    plot_losses(axis, run / "losses.jsonl")
    curves = {line.get_label(): line.get_xydata() for line in axis.get_lines()}
    assert set(curves) == {"l1", "late"} and axis.get_yscale() == "log"  # the learning rate is no loss
    assert len(curves["l1"]) == 100
    np.testing.assert_allclose(curves["l1"][1], [11, np.mean([2 / step for step in range(11, 21)])])
    assert curves["late"].tolist() == [[step, 1] for step in range(501, 1000, 10)]


def test_a_run_is_drawn_whole(run):
    pytest.importorskip("matplotlib", reason="curves need matplotlib")
    assert draw_training_curves(run, run / "curves.png")
    picture = np.asarray(Image.open(run / "curves.png").convert("L"))
    assert (picture < 200).mean(axis=0)[: picture.shape[1] // 2].any() and (picture < 200).mean() > 0.005


@pytest.mark.parametrize("missing", ["losses.jsonl", "validation.jsonl"])
def test_a_run_that_logged_nothing_has_no_curves(run, missing):
    (run / missing).unlink()
    assert not draw_training_curves(run, run / "curves.png") and not (run / "curves.png").exists()


def test_without_matplotlib_there_are_no_pictures(run, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not draw_training_curves(run, run / "curves.png")
    draw_motion({"a": torch.zeros(4, 2)}, run / "motion.png")
    draw_spread({"a": torch.zeros(4, 2)}, run / "spread.png")
    assert not list(run.glob("*.png")) and 'pip install "leo_diffusers[train]"' in caplog.text


@pytest.mark.parametrize("draw", [draw_motion, draw_spread])
def test_motion_codes_are_drawn(tmp_path, draw):
    pytest.importorskip("matplotlib", reason="curves need matplotlib")
    codes = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(0))
    draw({"real": codes[0], "generated": codes[1]}, tmp_path / "validation" / "codes.png")
    other = {"real": codes[0], "generated": 3 * codes[1]}
    draw(other, tmp_path / "validation" / "other.png")
    pictures = [np.asarray(Image.open(tmp_path / "validation" / name)) for name in ("codes.png", "other.png")]
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
