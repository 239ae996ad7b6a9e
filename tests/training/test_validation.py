import io
import json
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from PIL import Image

from leo_diffusers.training.validation import (
    code_statistics,
    describe,
    frame_grid,
    log_validation,
    motion_statistics,
    read_json_lines,
    reconstruction_metrics,
    write_clip,
    write_grid,
)
from leo_diffusers.video_io import VideoReader, read_image, read_video, to_uint8


def frames_of(values, size: int = 16) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, size, size)


# --- files ---


def test_metrics_of_steps_that_are_made_again_are_replaced(clean_state, tmp_path):
    accelerator, path = Accelerator(cpu=True), tmp_path / "validation.jsonl"
    for step, value in ((1, 0.5), (2, 0.4), (3, 0.3), (2, 0.45), (4, 0.2)):
        log_validation(accelerator, tmp_path, step, {"l1": value})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 1, "l1": 0.5}, {"step": 2, "l1": 0.45}, {"step": 4, "l1": 0.2}]
    path.write_text(path.read_text() + '{"step": 5, "l1"')  # a killed run
    assert read_json_lines(path, 2) == lines[:2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["validation.jsonl"]


def test_grid_lays_rows_below_each_other():
    first, second = frames_of([-1.0, -0.5, 0.0], 2), frames_of([0.25, 0.5, 1.0], 2)
    grid = frame_grid([first, second])
    assert grid.shape == (3, 4, 6)
    assert grid[0, ::2, ::2].tolist() == [[-1.0, -0.5, 0.0], [0.25, 0.5, 1.0]]


@pytest.fixture
def tensorboard(clean_state, tmp_path) -> Accelerator:
    configuration = ProjectConfiguration(project_dir=str(tmp_path), logging_dir=str(tmp_path / "logs"))
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_config=configuration)
    accelerator.init_trackers("toy")
    return accelerator


def logged_images(folder, name: str) -> list:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = {path.parent for path in folder.rglob("events.*")}
    events = EventAccumulator(str(path), size_guidance={"images": 0}).Reload()
    return [(event.step, Image.open(io.BytesIO(event.encoded_image_string))) for event in events.Images(name)]


def test_grid_is_written_to_disk_and_tensorboard(tensorboard, tmp_path, make_frames):
    rows = [make_frames(3, 16, seed) for seed in range(2)]
    for step in (5, 10):
        write_grid(tensorboard, tmp_path, "reconstruction", step, rows)
    tensorboard.end_training()
    names = sorted(path.name for path in (tmp_path / "validation").iterdir())
    assert names == ["reconstruction-0000005.png", "reconstruction-0000010.png"]
    picture = to_uint8(read_image(tmp_path / "validation" / names[0]))
    np.testing.assert_array_equal(picture, to_uint8(frame_grid(rows)))
    logged = logged_images(tmp_path / "logs", "reconstruction")
    assert [step for step, _ in logged] == [5, 10]
    np.testing.assert_array_equal(np.asarray(logged[0][1]), picture)


def test_clip_is_written_to_disk_and_tensorboard(tensorboard, tmp_path):
    frames = frames_of([-0.8, -0.4, 0.0, 0.4, 0.8], 32)
    write_clip(tensorboard, tmp_path, "generated", 7, frames, 12.5)
    tensorboard.end_training()
    path = tmp_path / "validation" / "generated-0000007.mp4"
    assert VideoReader(path).frames_per_second == 12.5
    torch.testing.assert_close(read_video(path), frames, atol=0.05, rtol=0)
    ((step, animation),) = logged_images(tmp_path / "logs", "generated")
    assert step == 7 and animation.n_frames == 5 and animation.size == (32, 32)
    assert animation.info["duration"] == 80


def test_files_are_written_without_trackers(accelerator, tmp_path, make_frames):
    write_grid(accelerator, tmp_path, "grid", 1, [make_frames(2)])
    write_clip(accelerator, tmp_path, "clip", 1, make_frames(2), 25)
    assert {path.name for path in (tmp_path / "validation").iterdir()} == {"grid-0000001.png", "clip-0000001.mp4"}


# --- numbers ---


def test_reconstruction_metrics_against_their_formulas(make_frames):
    frames, targets = make_frames(3, seed=1) * 1.2, make_frames(3, seed=2)
    ours = (frames.double().clamp(-1, 1).numpy() + 1) / 2
    real = (targets.double().numpy() + 1) / 2
    psnr = [10 * math.log10(1 / np.mean((a - b) ** 2)) for a, b in zip(ours, real)]
    metrics = reconstruction_metrics(frames, targets)
    assert set(metrics) == {"l1", "psnr"}
    assert metrics["l1"] == pytest.approx(np.abs(ours - real).mean(), rel=1e-5)
    assert metrics["psnr"] == pytest.approx(np.mean(psnr), rel=1e-5)


def test_reconstruction_metrics_of_known_frames():
    black, grey = frames_of([-1.0, -1.0]), frames_of([-0.8, -0.8])
    assert reconstruction_metrics(grey, black) == {"l1": pytest.approx(0.1), "psnr": pytest.approx(20, abs=1e-3)}
    assert reconstruction_metrics(frames_of([5.0]), frames_of([1.0]))["l1"] == 0  # values beyond white are white
    equal = reconstruction_metrics(grey, grey)
    assert equal["l1"] == 0 and math.isfinite(equal["psnr"]) and equal["psnr"] > 90


def motion(seed: int = 0, num_clips: int = 6, num_frames: int = 33) -> torch.Tensor:
    steps = torch.randn(num_clips, num_frames, 4, generator=torch.Generator().manual_seed(seed))
    return steps.cumsum(dim=1) * torch.tensor([0.1, 1.0, 2.0, 5.0])


def test_motion_equals_itself():
    data = motion()
    names = {"spread", "spread_min", "spread_max", "slow", "fast"}
    assert motion_statistics(data, data) == dict.fromkeys(names, pytest.approx(1, rel=1e-5))


def test_doubled_motion_has_twice_the_spread_and_four_times_the_power():
    data = motion()
    statistics = motion_statistics(2 * data, data)
    assert [statistics[name] for name in ("spread", "spread_min", "spread_max")] == pytest.approx([2, 2, 2], rel=1e-5)
    assert [statistics["slow"], statistics["fast"]] == pytest.approx([4, 4], rel=1e-5)
    scaled = motion_statistics(data * torch.tensor([0.5, 1.0, 1.0, 3.0]), data)
    assert scaled["spread_min"] == pytest.approx(0.5, rel=1e-5)
    assert scaled["spread_max"] == pytest.approx(3, rel=1e-5)
    assert scaled["spread"] == pytest.approx(5.5 / 4, rel=1e-5)


def test_a_constant_offset_of_a_data_set_does_not_count():
    data = motion()
    assert motion_statistics(data + 7, data) == pytest.approx(motion_statistics(data, data), rel=1e-3)


def test_jitter_shows_in_the_fast_and_drift_in_the_slow_frequencies():
    data = motion()
    jitter = 2 * data.std(dim=(0, 1)) * (-1.0) ** torch.arange(33)[:, None]
    drift = 2 * data.std(dim=(0, 1)) * torch.sin(2 * math.pi * torch.arange(33) / 16)[:, None]
    jittery, drifting = motion_statistics(data + jitter, data), motion_statistics(data + drift, data)
    assert jittery["fast"] > 10 and jittery["slow"] == pytest.approx(1, abs=0.5)
    assert drifting["slow"] > 2 and drifting["fast"] == pytest.approx(1, abs=0.5)


def test_motion_that_stands_still_and_dimensions_that_never_move_are_finite():
    data = motion()
    still = motion_statistics(data[:, :1].expand_as(data), data)
    assert still["slow"] == still["fast"] == 0 and still["spread"] > 0
    data[..., 0] = 0.5
    assert all(map(math.isfinite, motion_statistics(data, data).values()))


def test_a_description_is_one_line_of_short_numbers():
    metrics = {"validation/spread": 0.98765, "l1": 12345.6, "validation/psnr": 2.0}
    assert describe(metrics) == "spread 0.988, l1 1.23e+04, psnr 2"


# --- single codes ---


def poses(num_codes: int = 4000, seed: int = 0) -> torch.Tensor:
    """Codes in four directions, the last two of which move together."""
    codes = torch.randn(num_codes, 4, generator=torch.Generator().manual_seed(seed))
    codes[:, 3] = codes[:, 2] + 0.5 * codes[:, 3]
    return codes * torch.tensor([0.1, 1.0, 2.0, 5.0]) + torch.tensor([3.0, 0.0, -1.0, 7.0])


def test_codes_equal_themselves_in_any_order_and_number():
    data = poses()
    expected = {"offset": 0, "spread": 1, "spread_min": 1, "spread_max": 1, "correlation": 0}
    assert code_statistics(data, data) == pytest.approx(expected, abs=1e-5)
    assert code_statistics(data.flip(0), data) == pytest.approx(expected, abs=1e-5)
    assert code_statistics(poses(2000, seed=1), data) == pytest.approx(expected, abs=0.06)


def test_code_statistics_against_their_formulas():
    samples, data = poses(50, seed=1).numpy().astype(float), poses(70, seed=2).numpy().astype(float)
    std = data.std(axis=0, ddof=1)
    spread = samples.std(axis=0, ddof=1) / std
    correlation = np.abs(np.corrcoef(samples.T) - np.corrcoef(data.T)).mean()
    offset = np.abs((samples.mean(axis=0) - data.mean(axis=0)) / std).mean()
    assert code_statistics(torch.tensor(samples), torch.tensor(data)) == pytest.approx(
        {
            "offset": offset,
            "spread": spread.mean(),
            "spread_min": spread.min(),
            "spread_max": spread.max(),
            "correlation": correlation,
        }
    )


def test_each_code_statistic_sees_what_it_is_for():
    data = poses()
    shifted = code_statistics(data + 0.5 * data.std(dim=0), data)
    assert shifted == pytest.approx(code_statistics(data, data) | {"offset": 0.5}, abs=1e-4)
    wider = code_statistics((data - data.mean(dim=0)) * torch.tensor([0.5, 1.0, 1.0, 3.0]) + data.mean(dim=0), data)
    assert wider["spread_min"] == pytest.approx(0.5, rel=1e-4) and wider["spread_max"] == pytest.approx(3, rel=1e-4)
    assert wider["offset"] == pytest.approx(0, abs=1e-4) and wider["correlation"] == pytest.approx(0, abs=1e-4)
    # Each direction as it was, but no longer together.
    apart = torch.stack([data[:, 0], data[:, 1], data[:, 2], data[:, 3].roll(1)], dim=1)
    independent = code_statistics(apart, data)
    assert independent["correlation"] == pytest.approx(2 / 16 * (1 / 1.25**0.5), abs=0.01)
    assert independent["offset"] == pytest.approx(0, abs=1e-4) and independent["spread"] == pytest.approx(1, rel=1e-4)


def test_codes_that_collapsed_and_directions_that_never_move_are_finite():
    data = poses()
    collapsed = code_statistics(data[:1].expand(10, -1), data)
    assert collapsed["spread"] == pytest.approx(0, abs=1e-5) and all(map(math.isfinite, collapsed.values()))
    data[:, 1] = 0.25
    assert all(map(math.isfinite, code_statistics(data, data).values()))
    assert all(map(math.isfinite, code_statistics(data[:, :1], data[:, :1]).values()))  # one direction alone
