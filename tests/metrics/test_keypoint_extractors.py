import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from leo_diffusers.metrics import average_keypoint_distance, missing_keypoint_rate
from leo_diffusers.metrics.keypoint_extractors import BodyKeypoints, FaceKeypoints


def brightest_rows(image: np.ndarray) -> np.ndarray | None:
    """A detector of 18 joints: the brightest pixel of each of the first 18 rows, none in a black frame."""
    assert image.dtype == np.uint8 and image.ndim == 3 and image.flags.c_contiguous
    if not image.any():
        return None
    x = image[:18, :, 0].argmax(axis=1).astype(float)
    x[image[:18, :, 0].max(axis=1) == 0] = np.nan
    return np.stack([x, np.arange(18)], axis=1)


def test_any_callable_is_a_detector():
    frames = torch.zeros(2, 3, 20, 24, dtype=torch.uint8)
    frames[0, 0, 3, 7] = 255
    keypoints = BodyKeypoints(brightest_rows)(frames)
    assert keypoints.shape == (2, 18, 2) and keypoints.dtype == torch.float32
    assert keypoints[0, 3].tolist() == [7, 3]
    assert (keypoints[0, :3] == -1).all() and (keypoints[0, 4:] == -1).all() and (keypoints[1] == -1).all()
    torch.testing.assert_close(BodyKeypoints(brightest_rows)(frames.float() / 127.5 - 1), keypoints)
    assert missing_keypoint_rate(keypoints, keypoints) == 0 and average_keypoint_distance(keypoints, keypoints) == 0


def test_detectors_of_something_else_are_refused():
    frames = torch.zeros(1, 3, 20, 24)
    with pytest.raises(
        ValueError, match=r"`detector` must give keypoints of the shape \(18, 2\) or None, got \(17, 2\)"
    ):
        BodyKeypoints(lambda image: np.zeros((17, 2)))(frames)
    with pytest.raises(
        ValueError, match=r"`detector` must give keypoints of the shape \(68, 2\) or None, got \(68, 3\)"
    ):
        FaceKeypoints(lambda image: np.zeros((68, 3)))(frames)
    with pytest.raises(ValueError, match=r"`frames` must have the shape \(F, 3, H, W\)"):
        BodyKeypoints(brightest_rows)(torch.zeros(1, 20, 24, 3))


class Poses:
    """controlnet-aux's detector from outside: joints are shares of the frame."""

    def detect_poses(self, image: np.ndarray) -> list:
        if not image.any():
            return []
        joints = [None, *(SimpleNamespace(x=0.5, y=0.25 + index / 100) for index in range(17))]
        clear = SimpleNamespace(keypoints=joints, total_score=9.0)
        faint = SimpleNamespace(keypoints=[None] * 18, total_score=2.0)
        return [SimpleNamespace(body=body) for body in (faint, clear, faint)]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        raise AssertionError("this draws a skeleton")


def test_poses_of_controlnet_aux():
    frames = torch.zeros(2, 3, 40, 64, dtype=torch.uint8)
    frames[0] = 200
    keypoints = BodyKeypoints(Poses())(frames)
    assert keypoints[0, 0].tolist() == [-1, -1] and keypoints[0, 1].tolist() == [32, 10]
    torch.testing.assert_close(keypoints[0, 17], torch.tensor([32.0, 16.4]))
    assert (keypoints[1] == -1).all()


def test_faces_of_face_alignment(monkeypatch):
    class FaceAlignment:
        def __init__(self, landmarks_type, flip_input, device):
            assert (landmarks_type, flip_input, device) == ("2d", False, "cpu")
            self.face_alignment_net = networks[0]
            self.face_detector = SimpleNamespace(face_detector=networks[1])

        def get_landmarks_from_image(self, image):
            return [np.full((68, 2), 5.0), np.full((68, 2), 9.0)] if image.any() else None

    networks = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    module = ModuleType("face_alignment")
    module.FaceAlignment, module.LandmarksType = FaceAlignment, SimpleNamespace(TWO_D="2d")
    monkeypatch.setitem(sys.modules, "face_alignment", module)
    frames = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    frames[0] = 200
    extractor = FaceKeypoints(download=True)
    keypoints = extractor(frames)
    assert keypoints.shape == (2, 68, 2) and (keypoints[0] == 5).all() and (keypoints[1] == -1).all()
    hashes = [extractor.weights_hash]
    networks[0] = torch.compile(networks[0])
    hashes.append(FaceKeypoints(download=True).weights_hash)
    networks.reverse()
    hashes.append(FaceKeypoints(download=True).weights_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="need a `detector`, or `download=True`: the package face-alignment fetches"):
        FaceKeypoints()
    with pytest.raises(
        ValueError, match="cannot be measured without OpenPose's network .* Get body_pose_model.pth from"
    ):
        BodyKeypoints()
    with pytest.raises(FileNotFoundError, match="`weights` must name a file"):
        BodyKeypoints(weights=tmp_path / "no.pth")
    for name in ("face_alignment", "controlnet_aux", "controlnet_aux.open_pose"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install face-alignment"):
        FaceKeypoints(download=True)
    (tmp_path / "body_pose_model.pth").write_bytes(b"weights")
    with pytest.raises(ImportError, match="pip install controlnet-aux"):
        BodyKeypoints(weights=tmp_path / "body_pose_model.pth")
