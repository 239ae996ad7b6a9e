import copy

import pytest
import torch

from leo_diffusers.models.motion_statistics import MotionStatistics


MEAN, STD = (0.5, -1.0, 0.1), (0.5, 2.0, 0.1)


def test_standardize_against_the_formula_and_its_inverse():
    statistics, codes = MotionStatistics(3, MEAN, STD), 3 * torch.randn(2, 4, 3)
    standardized = statistics.standardize(codes)
    torch.testing.assert_close(standardized, (codes - torch.tensor(MEAN)) / torch.tensor(STD))
    torch.testing.assert_close(statistics.unstandardize(standardized), codes)
    assert torch.equal(statistics.unstandardize(torch.zeros(3)), torch.tensor(MEAN))


def test_without_statistics_codes_stay_as_they_are():
    statistics, codes = MotionStatistics(3, None, None), torch.randn(5, 3)
    assert torch.equal(statistics.standardize(codes), codes) and torch.equal(statistics.unstandardize(codes), codes)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float16, torch.float32), (torch.float64, torch.float64)])
def test_at_least_single_precision(dtype, expected):
    statistics, codes = MotionStatistics(3, MEAN, STD), torch.randn(2, 3).to(dtype)
    assert statistics.standardize(codes).dtype == statistics.unstandardize(codes).dtype == expected


@pytest.mark.parametrize(
    "cast",
    [
        lambda statistics: statistics.half(),
        lambda statistics: statistics.to(torch.bfloat16).to(torch.float64),
        lambda statistics: torch.nn.Sequential(statistics).half()[0],
        lambda statistics: copy.deepcopy(statistics).half(),
        lambda statistics: statistics.to("meta").to_empty(device="cpu"),
    ],
)
def test_no_cast_rounds_them(cast):
    statistics = cast(MotionStatistics(3, MEAN, STD))
    for values, expected in ((statistics.mean, MEAN), (statistics.std, STD)):
        assert values.dtype == torch.float32 and values.tolist() == torch.tensor(expected).tolist()


def test_they_belong_to_the_config_and_not_to_the_weights():
    statistics = MotionStatistics(3, MEAN, STD)
    assert not statistics.state_dict() and not [*statistics.parameters(), *statistics.buffers()]


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.0,) * 2, None, r"`motion_mean` must hold `motion_dim` \(3\) numbers, got 2"),
        (None, (1.0,) * 4, r"`motion_std` must hold `motion_dim` \(3\) numbers, got 4"),
        ((0.0, float("nan"), 0.0), None, "`motion_mean` must hold finite Python numbers"),
        (torch.zeros(3), None, r"`motion_mean` must hold finite Python numbers.*\.tolist\(\)"),
        (None, (1.0, float("inf"), 1.0), "`motion_std` must hold finite Python numbers"),
        (None, (1.0, 0.0, 1.0), "`motion_std` must be positive in every dimension, got .*give 1.0"),
        (None, (1.0, -2.0, 1.0), "`motion_std` must be positive in every dimension"),
    ],
)
def test_refusals(mean, std, message):
    with pytest.raises(ValueError, match=message):
        MotionStatistics(3, mean, std)


def test_clamping_moves_only_what_lies_outside():
    statistics = MotionStatistics(3, MEAN, STD)
    codes = torch.tensor([[0.55, 5.0, -0.3], [0.1, -1.0, 0.1]])
    clamped = statistics.clamp(codes, 2.0)
    torch.testing.assert_close(clamped, torch.tensor([[0.55, 3.0, -0.1], [0.1, -1.0, 0.1]]))
    is_within = statistics.standardize(codes).abs() <= 2
    assert torch.equal(clamped[is_within], codes[is_within])
