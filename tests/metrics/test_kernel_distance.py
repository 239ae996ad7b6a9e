import numpy as np
import pytest
import torch

from leo_diffusers.metrics import kernel_distance


def features(count: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)) + 0.1 * seed


def by_loops(real: np.ndarray, fake: np.ndarray) -> float:
    """The definition, pair by pair."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / len(x) + 1) ** 3

    def within(values: np.ndarray) -> float:
        count = len(values)
        pairs = [kernel(values[i], values[j]) for i in range(count) for j in range(count) if i != j]
        return sum(pairs) / (count * (count - 1))

    return within(real) + within(fake) - 2 * np.mean([kernel(x, y) for x in real for y in fake])


@pytest.mark.parametrize("width", [2, 30])
def test_against_its_definition(width):
    real, fake = features(20, width, 0), features(15, width, 3)
    assert kernel_distance(real, fake) == pytest.approx(by_loops(real, fake), rel=1e-6)


def test_against_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid", reason="torchmetrics is absent")
    real, fake = (torch.from_numpy(features(50, 30, seed)).float() for seed in (0, 3))
    metric = kid.KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=50)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert kernel_distance(real, fake) == pytest.approx(metric.compute()[0].item(), rel=1e-4)


def test_blocks_change_nothing():
    real, fake = features(2100, 4, 0), features(1500, 4, 1)
    matrices = [(x @ y.T / 4 + 1) ** 3 for x, y in ((real, real), (fake, fake), (real, fake))]
    within = [(matrix.sum() - matrix.trace()) / (len(matrix) * (len(matrix) - 1)) for matrix in matrices[:2]]
    assert kernel_distance(real, fake) == pytest.approx(sum(within) - 2 * matrices[2].mean(), rel=1e-6)


def test_one_distribution_is_near_zero_and_another_far():
    sets = np.random.default_rng(0).normal(size=(20, 2, 200, 8))
    same = [kernel_distance(real, fake) for real, fake in sets]
    assert abs(np.mean(same)) < 0.02 and min(same) < 0 < max(same)  # unbiased
    assert kernel_distance(sets[0, 0], sets[0, 1] + 1) > 1


def test_refuses_bad_input():
    good = features(5, 3, 0)
    with pytest.raises(ValueError, match="two features or more, got 1 real and 5 fake"):
        kernel_distance(good[:1], good)
    with pytest.raises(ValueError, match=r"must hold features of one shape, got \(5, 3\) and \(5, 2\)"):
        kernel_distance(good, good[:, :2])
    with pytest.raises(ValueError, match="`real` holds 15 values that are NaN or infinite"):
        kernel_distance(good * np.inf, good)
