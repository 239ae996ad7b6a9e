"""Arrays of features or keypoints -> numbers, and frames -> features or keypoints. Imports nothing else of ours."""

from .average_content_distance import average_content_distance
from .average_euclidean_distance import average_euclidean_distance
from .average_keypoint_distance import average_keypoint_distance, missing_keypoint_rate
from .extraction import extract
from .extractors import (
    BodyEmbeddings,
    FaceEmbeddings,
    I3DFeatures,
    I3DTorchscriptFeatures,
    RandomI3DFeatures,
    VideoFIDFeatures,
)
from .frechet_distance import frechet_distance
from .kernel_distance import kernel_distance
from .keypoint_extractors import BodyKeypoints, FaceKeypoints
from .lpips import LPIPS
from .openface import OpenFaceEmbeddings
from .reconstruction import average_l1_distance, average_perceptual_distance


__all__ = [
    "LPIPS",
    "BodyEmbeddings",
    "BodyKeypoints",
    "FaceEmbeddings",
    "FaceKeypoints",
    "I3DFeatures",
    "I3DTorchscriptFeatures",
    "OpenFaceEmbeddings",
    "RandomI3DFeatures",
    "VideoFIDFeatures",
    "average_content_distance",
    "average_euclidean_distance",
    "average_keypoint_distance",
    "average_l1_distance",
    "average_perceptual_distance",
    "extract",
    "frechet_distance",
    "kernel_distance",
    "missing_keypoint_rate",
]
