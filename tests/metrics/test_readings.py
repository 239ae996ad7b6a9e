import math

import pytest
import torch

from leo_diffusers.metrics.readings import agreement, kinds, same_kinds


NAMES = ["hair=long", "skin.red", "hair=short", "glasses=none", "glasses=round"]


def waves(num_clips: int = 5) -> torch.Tensor:
    return torch.randn(num_clips, 64, generator=torch.Generator().manual_seed(0))


def test_the_truth_agrees_with_itself():
    assert agreement(waves(), waves()) == pytest.approx({"correlation": 1, "slope": 1}, abs=1e-5)


def test_half_the_motion_has_slope_one_half():
    assert agreement(0.5 * waves() + 3, waves()) == pytest.approx({"correlation": 1, "slope": 0.5}, abs=1e-5)


def test_motion_the_other_way_is_negative():
    assert agreement(-waves(), waves()) == pytest.approx({"correlation": -1, "slope": -1}, abs=1e-5)


def test_the_pose_that_a_clip_begins_in_counts_for_nothing():
    poses = torch.linspace(-5, 5, 5)[:, None]
    noise = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    found = agreement(poses + noise, poses + waves())
    assert abs(found["correlation"]) < 0.15
    still = agreement(poses.expand(-1, 64), poses + waves())
    assert still["slope"] == pytest.approx(0, abs=1e-5) and math.isnan(still["correlation"])


def test_noise_lowers_the_correlation_but_not_the_slope():
    noise = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    found = agreement(waves() + noise, waves())
    assert found["correlation"] == pytest.approx(0.5**0.5, abs=0.1) and found["slope"] == pytest.approx(1, abs=0.15)


def test_kinds_are_the_highest_scores():
    found = kinds(torch.tensor([[0.9, 0, 0.1, 0.2, 0.3], [0.4, 1, 0.6, 0.8, 0.1]]), NAMES)
    assert {kind: values.tolist() for kind, values in found.items()} == {"hair": [0, 1], "glasses": [1, 0]}


def test_same_kinds_counts_the_people_who_stay_the_same():
    before = torch.tensor([[1.0, 0, 0, 1, 0], [1, 0, 0, 1, 0], [0, 0, 1, 1, 0], [0, 0, 1, 0, 1]])
    after = torch.tensor([[0.6, 9, 0.5, 1, 0], [0, 0, 1, 0, 1], [0, 0, 1, 1, 0], [0, 0, 1, 0, 1]])
    assert same_kinds(before, after, NAMES) == {"mean": 0.75, "hair": 0.75, "glasses": 0.75}


def test_attributes_without_kinds_are_refused():
    with pytest.raises(ValueError, match="'kind=value'"):
        same_kinds(torch.zeros(2, 1), torch.zeros(2, 1), ["skin.red"])
