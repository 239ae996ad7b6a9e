import numpy as np
import pytest
import torch

from leo_diffusers.metrics import frechet_distance


def features(count: int, width: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, width)) @ generator.normal(size=(width, width)) + generator.normal(size=width)


def by_eigenvalues(real: np.ndarray, fake: np.ndarray, ddof: int) -> float:
    """The definition: the eigenvalues of the covariances' product are the squares of its root's."""
    covariances = [np.cov(values, rowvar=False, ddof=ddof) for values in (real, fake)]
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    between = np.square(real.mean(axis=0) - fake.mean(axis=0)).sum()
    return between + sum(np.trace(covariance) for covariance in covariances) - 2 * root


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("width", [3, 40])
def test_against_its_definition(width, ddof):
    real, fake = features(200, width, 0), features(120, width, 1)
    assert frechet_distance(real, fake, ddof) == pytest.approx(by_eigenvalues(real, fake, ddof), rel=1e-6)


def test_against_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is absent")
    real, fake = (torch.from_numpy(features(count, 40, seed)).float() for count, seed in ((200, 0), (120, 1)))
    network = torch.nn.Identity()
    network.num_features = 40  # torchmetrics asks for it
    metric = fid.FrechetInceptionDistance(feature=network)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert frechet_distance(real, fake, ddof=1) == pytest.approx(metric.compute().item(), rel=1e-4)


def test_in_one_dimension_it_is_that_of_means_and_deviations():
    real, fake = np.array([[0.0], [2.0], [4.0]]), np.array([[5.0], [6.0], [7.0]])
    assert frechet_distance(real, fake) == pytest.approx((2 - 6) ** 2 + (2 - 1) ** 2)


def test_more_dimensions_than_features():
    real, fake = features(10, 50, 0), features(12, 50, 1)
    moved = fake + 3.0
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6 * np.cov(real, rowvar=False).trace())
    difference = real.mean(axis=0) - fake.mean(axis=0)
    expected = np.square(difference - 3).sum() - np.square(difference).sum()
    assert frechet_distance(real, moved) - frechet_distance(real, fake) == pytest.approx(expected, rel=1e-6)


def test_it_is_symmetric_and_turns_with_nothing():
    real, fake = features(100, 6, 0), features(90, 6, 1)
    turn = np.linalg.qr(features(6, 6, 2))[0]
    expected = frechet_distance(real, fake)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(real @ turn + 5, fake @ turn + 5) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(torch.from_numpy(real).float(), torch.from_numpy(fake).float()) == pytest.approx(
        expected, rel=1e-4
    )


def test_refuses_bad_input():
    good = features(5, 3, 0)
    with pytest.raises(ValueError, match=r"`real` must have the shape \(N, D\), got \(3,\)"):
        frechet_distance(good[0], good)
    with pytest.raises(ValueError, match=r"must hold features of one shape, got \(5, 3\) and \(5, 2\)"):
        frechet_distance(good, good[:, :2])
    with pytest.raises(ValueError, match="two features or more, got 5 real and 1 fake"):
        frechet_distance(good, good[:1])
    with pytest.raises(ValueError, match="`ddof` must be 0 or 1, got 2"):
        frechet_distance(good, good, 2)
    with pytest.raises(ValueError, match="`fake` holds 3 values that are NaN or infinite"):
        frechet_distance(good, np.where(np.arange(5)[:, None] == 2, np.nan, good))
