import json

import pytest

from tests.conftest import build_label_network


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    for seed, name in enumerate(("network", "judge")):
        build_label_network(seed).save_pretrained(folder / name)
    return ["--label_network", folder / "network", "--judge", folder / "judge"]


def test_an_animator_alone_is_measured(animator_folder, networks, run_example, tmp_path):
    options = ["--model", animator_folder, *networks, "--output_dir", tmp_path, "--num_people", 2]
    said = run_example("evaluate_demo_model.py", *options)
    assert "only its animator was measured" in said
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["copy"]["motion"]["yaw"]["slope"] == pytest.approx(0, abs=1e-4)  # a copy does not move
    for task in ("copy", "reconstruction", "transfer"):
        assert 5 < results[task]["psnr"] < 60 and results[task]["distance"] > 0 and 0 < results[task]["mouth"] < 1
    assert "| driven by another person: PSNR | " in (tmp_path / "table.md").read_text()
    assert (tmp_path / "animated.png").is_file()


def test_a_second_run_finds_the_same(animator_folder, networks, run_example, tmp_path):
    for name in ("first", "second"):
        options = ["--model", animator_folder, *networks, "--output_dir", tmp_path / name, "--num_people", 2]
        run_example("evaluate_demo_model.py", *options)
    first, second = ((tmp_path / name / "results.json").read_text() for name in ("first", "second"))
    assert first == second


@pytest.mark.parametrize(
    "options, message",
    [
        (["--num_people", 1], "--num_people must be at least 2, got 1"),
        (["--num_endless", 0], "--num_endless must be at least 1, got 0"),
        (["--endless_frames", 0], "--endless_frames must be at least 2, got 0"),
        (["--model", "/nowhere/at/all"], "There is no model in /nowhere/at/all"),
    ],
)
def test_bad_input_is_refused(animator_folder, networks, run_example, tmp_path, options, message):
    options = ["--model", animator_folder, *networks, "--output_dir", tmp_path / "out", *options]
    assert message in run_example("evaluate_demo_model.py", *options, is_refused=True)
    assert not (tmp_path / "out").exists()


def test_a_judge_that_is_none_is_refused(animator_folder, networks, run_example, tmp_path):
    options = [*networks[:2], "--judge", animator_folder / "animator", "--output_dir", tmp_path / "out"]
    said = run_example("evaluate_demo_model.py", "--model", animator_folder, *options, is_refused=True)
    assert "holds no LabelNetwork but a LIAModel" in said
