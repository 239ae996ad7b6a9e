"""Frames -> keypoints of faces and bodies, by detectors of other packages or any callable, for AKD and MKR."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from .average_keypoint_distance import MISSING
from .feature_extractor import read_frames, to_8bit
from .weights import WeightsFile, file_hash, network_hash


# An image (H, W, 3), uint8, RGB -> keypoints (K, 2), x and y in pixels, missing ones -1 or NaN; None for nobody there
Detector = Callable[[np.ndarray], np.ndarray | None]

OPENPOSE_WEIGHTS = WeightsFile(
    name="body_pose_model.pth",
    contents="OpenPose's network of 18 joints",
    used_for="Joints of bodies (AKD, MKR)",
    origin="https://huggingface.co/lllyasviel/Annotators",
    url="https://huggingface.co/lllyasviel/Annotators/resolve/main/body_pose_model.pth",
    sha256="25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746",
)


class KeypointExtractor:
    r"""
    Frames -> keypoints, frame by frame.

    Args:
        detector (`Callable`): Gives the K keypoints (K, 2) of an image (H, W, 3), uint8, RGB: x and y in pixels, -1 or
            NaN where one is missing; None where nobody is there.
        num_keypoints (`int`): The number K.
        weights_hash (`str`, *optional*): Of the detector's weights, for results, where it is known.
    """

    def __init__(self, detector: Detector, num_keypoints: int, weights_hash: str | None = None):
        self.detector = detector
        self.num_keypoints = num_keypoints
        self.weights_hash = weights_hash

    def __call__(self, frames: torch.Tensor | np.ndarray) -> torch.Tensor:
        r"""
        Args:
            frames (`torch.Tensor` or `np.ndarray` of shape `(F, 3, H, W)`): RGB, 8-bit or floats in [-1, 1].

        Returns:
            `torch.Tensor` of shape `(F, K, 2)`: x and y in pixels, float32; -1, -1 where a keypoint is missing.

        Raises:
            ValueError: For another shape, type or range of frames, NaN in them, or another number of keypoints.
        """
        images = to_8bit(read_frames("frames", frames, "(F, 3, H, W)")).permute(0, 2, 3, 1).cpu().numpy()
        return torch.stack([self.read_keypoints(self.detector(np.ascontiguousarray(image))) for image in images])

    def read_keypoints(self, found: np.ndarray | None) -> torch.Tensor:
        r"""What a detector gives for one image -> (K, 2), checked."""
        shape = (self.num_keypoints, 2)
        if found is None:
            return torch.full(shape, float(MISSING))
        keypoints = np.array(found, dtype=np.float32)
        if keypoints.shape != shape:
            raise ValueError(f"`detector` must give keypoints of the shape {shape} or None, got {keypoints.shape}.")
        keypoints[np.isnan(keypoints).any(axis=1)] = MISSING
        return torch.from_numpy(keypoints)


class FaceKeypoints(KeypointExtractor):
    r"""
    Frames (F, 3, H, W) -> 68 points of the first face, (F, 68, 2); all -1 where none is found.

    Args:
        detector (`Callable`, *optional*): In place of the package face-alignment, as of [`KeypointExtractor`].
        download (`bool`): Whether face-alignment may fetch its weights, which it keeps in torch's hub cache and takes
            from nowhere else.
        device (`str`): Where it runs.

    Raises:
        ImportError: Where face-alignment is needed and missing.
        ValueError: Where it is needed and may not fetch its weights.

    Examples:
        ```py
        >>> import numpy as np
        >>> from leo_diffusers.metrics import FaceKeypoints
        >>> from leo_diffusers.video_io import read_video

        >>> def detector(image):  # in the place of a network: 68 points on a circle around the middle
        ...     angles = np.linspace(0, 2 * np.pi, 68)
        ...     return image.shape[0] * (0.5 + 0.3 * np.stack([np.cos(angles), np.sin(angles)], axis=1))
        >>> extractor = FaceKeypoints(detector)  # FaceKeypoints(download=True) takes face-alignment
        >>> extractor(read_video("video.mp4", num_frames=4)).shape
        torch.Size([4, 68, 2])
        ```
    """

    def __init__(self, detector: Detector | None = None, download: bool = False, device: str = "cpu"):
        weights_hash = None
        if detector is None:
            package = load_face_alignment(download, device)
            # The package keeps its files to itself.
            networks = [package.face_alignment_net, package.face_detector.face_detector]
            weights_hash = network_hash(nn.ModuleList(networks))
            detector = first_face(package.get_landmarks_from_image)
        super().__init__(detector, num_keypoints=68, weights_hash=weights_hash)


class BodyKeypoints(KeypointExtractor):
    r"""
    Frames (F, 3, H, W) -> OpenPose's 18 joints (COCO) of one person, (F, 18, 2); -1 where a joint is missing.

    Args:
        detector (`Callable`, *optional*): In place of the package controlnet-aux, as of [`KeypointExtractor`], or an
            `OpenposeDetector` of that package that is there already.
        weights (`str` or `Path`, *optional*): body_pose_model.pth, for controlnet-aux.
        download (`bool`): Whether it may be fetched into torch's hub cache.
        device (`str`): Where controlnet-aux runs.

    Raises:
        ImportError: Where controlnet-aux is needed and missing.
        OSError: Where there is no such file or the download fails.
        ValueError: Where no weights are given and no detector.

    Examples:
        ```py
        >>> from leo_diffusers.metrics import BodyKeypoints
        >>> from leo_diffusers.video_io import read_video

        >>> def detector(image):  # in the place of a network: one that sees nobody
        ...     return None
        >>> extractor = BodyKeypoints(detector)  # BodyKeypoints(download=True) takes controlnet-aux
        >>> keypoints = extractor(read_video("video.mp4", num_frames=4))
        >>> keypoints.shape, keypoints.unique()
        (torch.Size([4, 18, 2]), tensor([-1.]))
        ```
    """

    def __init__(
        self,
        detector: Detector | None = None,
        weights: str | Path | None = None,
        download: bool = False,
        device: str = "cpu",
    ):
        weights_hash = None
        if detector is None:
            path = OPENPOSE_WEIGHTS.find(weights, download)
            weights_hash = file_hash(path)
            detector = load_openpose(path, device)
        if hasattr(detector, "detect_poses"):  # called, it would draw a skeleton instead
            detector = clearest_body(detector.detect_poses)
        super().__init__(detector, num_keypoints=18, weights_hash=weights_hash)


def first_face(get_landmarks: Callable[[np.ndarray], list[np.ndarray] | None]) -> Detector:
    r"""face-alignment's function, which gives a list of faces -> a detector of the first (pose-evaluation)."""

    def detect(image: np.ndarray) -> np.ndarray | None:
        r"""A frame (H, W, 3) -> points (68, 2) in pixels, None without a face."""
        faces = get_landmarks(image)
        return faces[0] if faces is not None and len(faces) > 0 else None

    return detect


def clearest_body(detect_poses: Callable[[np.ndarray], list]) -> Detector:
    r"""controlnet-aux's function, which gives a list of poses as shares of the frame -> a detector of the clearest."""

    def detect(image: np.ndarray) -> np.ndarray | None:
        r"""A frame (H, W, 3) -> joints (18, 2) in pixels, missing ones -1, None without a body."""
        poses = detect_poses(image)
        if not poses:
            return None
        body = max((pose.body for pose in poses), key=lambda body: body.total_score)
        height, width = image.shape[:2]
        missing = (MISSING, MISSING)
        return np.array(
            [missing if point is None else (point.x * width, point.y * height) for point in body.keypoints]
        )

    return detect


def load_face_alignment(download: bool, device: str) -> object:
    r"""face-alignment's detector of 68 points in two dimensions, as pose-evaluation has it."""
    if not download:
        raise ValueError(
            "Points of faces (AKD) need a `detector`, or `download=True`: the package face-alignment fetches "
            "2DFAN4-11f355bf06.pth.tar and its face detector's weights into torch's hub cache by itself."
        )
    try:
        from face_alignment import FaceAlignment, LandmarksType
    except ImportError as error:
        raise ImportError(
            "Points of faces need a `detector`, or face-alignment: pip install face-alignment"
        ) from error
    return FaceAlignment(LandmarksType.TWO_D, flip_input=False, device=device)


def load_openpose(path: Path, device: str) -> object:
    r"""controlnet-aux's detector with the body's network only: joints need no hands and no face."""
    try:
        from controlnet_aux.open_pose import OpenposeDetector
        from controlnet_aux.open_pose.body import Body
    except ImportError as error:
        raise ImportError(
            "Joints of bodies need a `detector`, or controlnet-aux: pip install controlnet-aux"
        ) from error
    OPENPOSE_WEIGHTS.read(path)  # refuses what is no file of tensors
    try:
        body = Body(str(path))
    except (KeyError, RuntimeError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} does not hold {OPENPOSE_WEIGHTS.contents}: {problem}. {OPENPOSE_WEIGHTS.advice}"
        ) from error
    return OpenposeDetector(body.to(device))
