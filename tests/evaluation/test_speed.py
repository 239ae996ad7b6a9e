import json
import time

import pytest
import torch

from leo_diffusers.evaluation.speed import measure_speed, seconds


def test_every_number_of_a_model(infinite_pipeline):
    result = measure_speed(infinite_pipeline, lengths=(8, 20), num_inference_steps=2, repeats=1)
    assert json.loads(json.dumps(result)) == result
    assert result["parameters"]["animator"] == sum(one.numel() for one in infinite_pipeline.animator.parameters())
    assert {"motion_unet", "motion_prior", "transition_unet", "first_frame_unet"} < set(result["parameters"])
    assert all(value > 0 for value in result["animator"].values())
    assert list(result["videos"]) == ["8", "20"]
    for length, video in result["videos"].items():
        assert video["frames_per_second"] == pytest.approx(int(length) / video["seconds"])
        assert 0 < video["codes_seconds"]
    assert (result["device"], result["dtype"], result["threads"]) == ("cpu", "float32", torch.get_num_threads())
    assert result["versions"]["torch"] == torch.__version__ and result["frame_size"] == 32
    assert result["peak_memory"]["of"] == "process" and result["peak_memory"]["bytes"] > 50e6


def test_an_animator_alone(lia_pipeline):
    result = measure_speed(lia_pipeline, repeats=1)
    assert list(result["parameters"]) == ["animator"] and "videos" not in result


def test_the_median_counts_and_the_first_call_does_not():
    delays = iter([0.5, 0.1, 0.0, 0.0])
    calls = []

    def work() -> None:
        calls.append(None)
        time.sleep(next(delays))

    assert seconds(work, torch.device("cpu"), 3) < 0.05 and len(calls) == 4


def test_no_measurement_is_refused(lia_pipeline):
    with pytest.raises(ValueError, match="`repeats` must be at least 1, got 0"):
        measure_speed(lia_pipeline, repeats=0)
