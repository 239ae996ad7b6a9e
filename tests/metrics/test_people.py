"""Distances between people: ACD, AKD, MKR and AED."""

import itertools

import numpy as np
import pytest

from leo_diffusers.metrics import (
    average_content_distance,
    average_euclidean_distance,
    average_keypoint_distance,
    missing_keypoint_rate,
)


GENERATOR = np.random.default_rng(0)
MISSING = [-1.0, -1.0]


# --- ACD ---


def test_content_distance_against_its_definition():
    features = GENERATOR.normal(size=(3, 5, 7))
    pairs = [np.linalg.norm(video[i] - video[j]) for video in features for i, j in itertools.combinations(range(5), 2)]
    assert average_content_distance(features) == pytest.approx(np.mean(pairs))


def test_a_person_who_never_changes():
    assert average_content_distance(np.ones((2, 4, 3))) == 0


@pytest.mark.parametrize("shape", [(2, 1, 3), (2, 3), (0, 3, 3)])
def test_content_distance_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="`features` must h"):
        average_content_distance(np.zeros(shape))


# --- AKD, MKR ---


def test_keypoint_distance_is_a_mean_of_absolute_differences():
    real = GENERATOR.uniform(0, 256, size=(4, 6, 2))
    shift = np.array([3.0, -4.0])
    assert average_keypoint_distance(real, real + shift) == pytest.approx(3.5)  # 5 if it were Euclidean
    assert missing_keypoint_rate(real, real + shift) == 0


def test_keypoints_that_are_missing_on_either_side_do_not_count():
    real = np.array([[[10.0, 10.0], MISSING, [20.0, 20.0]], [[5.0, 5.0], [6.0, 6.0], MISSING]])
    fake = np.array([[[12.0, 10.0], [99.0, 99.0], MISSING], [[5.0, 9.0], [6.0, 6.0], [50.0, 50.0]]])
    assert average_keypoint_distance(real, fake) == pytest.approx((1.0 + (2.0 + 0.0) / 2) / 2)
    assert missing_keypoint_rate(real, fake) == pytest.approx((1 / 2 + 0) / 2)


def test_a_coordinate_of_minus_one_is_not_missing():
    real, fake = np.array([[[-1.0, 10.0]]]), np.array([[[1.0, 10.0]]])
    assert average_keypoint_distance(real, fake) == 1.0 and missing_keypoint_rate(real, fake) == 0.0


def test_frames_without_any_keypoint_do_not_count():
    real, fake = np.array([[MISSING], [[5.0, 5.0]]]), np.array([[[1.0, 1.0]], [MISSING]])
    assert missing_keypoint_rate(real, fake) == 1.0
    assert np.isnan(average_keypoint_distance(real, fake))
    assert np.isnan(missing_keypoint_rate(real[:1], fake[:1]))


def test_keypoints_refuse_other_shapes():
    with pytest.raises(ValueError, match=r"must hold keypoints of one shape, got \(2, 3, 2\) and \(2, 4, 2\)"):
        average_keypoint_distance(np.zeros((2, 3, 2)), np.zeros((2, 4, 2)))
    with pytest.raises(ValueError, match=r"`real` must have the shape \(F, K, 2\), got \(2, 3, 3\)"):
        missing_keypoint_rate(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)))


# --- AED ---


def test_euclidean_distance_is_squared():
    assert average_euclidean_distance([[0.0, 0.0], [1.0, 1.0]], [[3.0, 4.0], [1.0, 1.0]]) == 12.5


def test_euclidean_distance_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"must hold embeddings of one shape, got \(2, 3\) and \(3, 3\)"):
        average_euclidean_distance(np.zeros((2, 3)), np.zeros((3, 3)))
