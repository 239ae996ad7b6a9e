"""What is known about every frame of a clip beside its pixels: a file next to the clip, for supervision by labels."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..video_io.files import VIDEO_SUFFIXES, remove, temporary_beside
from .video_clips import VideoClip


SUFFIX = ".labels.safetensors"


@dataclass(frozen=True, eq=False)
class FrameLabels:
    r"""
    The labels of one clip, from the renderer of synthetic talking heads or from detectors of your own.

    Args:
        keypoints (`np.ndarray` of shape `(F, K, 2)`): (x, y) as shares of the frame's width and height: 0 is its left
            or upper edge, 1 the other. The same point of the body in every clip. Of a frame that is not square, its
            central square counts: no more of it is read.
        motion (`np.ndarray` of shape `(F, P)`): Whatever describes the motion, comparable between people.
        attributes (`np.ndarray` of shape `(A,)`): Whatever describes the person and stays the same over the clip.
        keypoint_groups (`dict[str, list[int]]`): Names of groups of keypoints, such as "mouth".
        motion_names (`list[str]`): Names of the columns of `motion`.
        attribute_names (`list[str]`): Names of the entries of `attributes`; "kind=value" for one of several kinds.
        motion_id (`str`): Clips with the same id show the same motion, frame by frame, of different people.

    Raises:
        ValueError: Where shapes, names and groups do not fit each other, or a number is not finite.
    """

    keypoints: np.ndarray
    motion: np.ndarray
    attributes: np.ndarray
    keypoint_groups: dict[str, list[int]] = field(default_factory=dict)
    motion_names: list[str] = field(default_factory=list)
    attribute_names: list[str] = field(default_factory=list)
    motion_id: str = ""

    def __post_init__(self):
        shapes = [getattr(self, name).shape for name in _TENSORS]
        if [len(shape) for shape in shapes] != [3, 2, 1] or shapes[0][::2] != (len(self.motion), 2):
            raise ValueError(
                "`keypoints`, `motion` and `attributes` must have the shapes (F, K, 2), (F, P) and (A,), got "
                f"{', '.join(map(str, shapes))}."
            )
        if not all(np.isfinite(getattr(self, name)).all() for name in _TENSORS):
            raise ValueError("`keypoints`, `motion` and `attributes` must be finite: leave out clips with gaps.")
        num_names = len(self.motion_names), len(self.attribute_names)
        if num_names != (self.motion.shape[1], len(self.attributes)):
            raise ValueError(
                f"`motion_names` and `attribute_names` must name {self.motion.shape[1]} and {len(self.attributes)} "
                f"numbers, got {num_names[0]} and {num_names[1]} names."
            )
        if not isinstance(self.keypoint_groups, dict) or not isinstance(self.motion_id, str):
            raise ValueError(
                "`keypoint_groups` must be a dictionary and `motion_id` a text, got "
                f"{self.keypoint_groups!r} and {self.motion_id!r}."
            )
        for name, group in self.keypoint_groups.items():
            if not set(group) <= set(range(shapes[0][1])):
                raise ValueError(
                    f"`keypoint_groups` lists others than the {shapes[0][1]} keypoints in {name!r}: {group}."
                )

    @staticmethod
    def path_of(clip: Path) -> Path:
        r"""Where the labels of a clip lie: `head.mp4` -> `head.labels.safetensors`."""
        # A folder of frames may have a dot in its name: what follows is no suffix.
        return clip.with_name((clip.stem if clip.suffix.lower() in VIDEO_SUFFIXES else clip.name) + SUFFIX)

    def description(self) -> dict[str, object]:
        r"""What must be alike in all clips of a data set."""
        return {
            "keypoints": self.keypoints.shape[1],
            "keypoint_groups": self.keypoint_groups,
            "motion_names": self.motion_names,
            "attribute_names": self.attribute_names,
        }

    def save(self, path: str | Path) -> None:
        r"""
        Args:
            path (`str` or `Path`): The file, normally [`~FrameLabels.path_of`] the clip; written atomically.
        """
        path = Path(path)
        tensors = {name: np.ascontiguousarray(getattr(self, name), np.float32) for name in _TENSORS}
        temporary = temporary_beside(path)
        try:
            # `save_file` would leave a file that nobody else may read.
            temporary.write_bytes(save(tensors, {name: json.dumps(getattr(self, name)) for name in _NAMES}))
            os.replace(temporary, path)
        finally:
            remove(temporary)

    @classmethod
    def load(cls, path: str | Path) -> "FrameLabels":
        r"""
        Args:
            path (`str` or `Path`): Where [`~FrameLabels.save`] wrote.

        Raises:
            FileNotFoundError: Where there is no such file.
            ValueError: Where it holds no labels.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"There are no labels {path}: render clips with examples/render_talking_heads.py, or write "
                "FrameLabels of your own."
            )
        try:
            with safe_open(path, "numpy") as file:
                tensors = {name: file.get_tensor(name).astype(np.float32, copy=False) for name in _TENSORS}
                names = {name: json.loads(file.metadata()[name]) for name in _NAMES}
            return cls(**tensors, **names)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no labels of frames ({error}).") from error


_TENSORS = ("keypoints", "motion", "attributes")
_NAMES = ("keypoint_groups", "motion_names", "attribute_names", "motion_id")


def load_labels(clips: list[VideoClip]) -> list[FrameLabels]:
    r"""
    Args:
        clips (`list[VideoClip]`): From [`~data.video_clips.find_clips`].

    Returns:
        `list[FrameLabels]`: The labels beside each clip.

    Raises:
        FileNotFoundError: Where a clip has none.
        ValueError: Where their sizes or names differ from clip to clip.
    """
    labels = [FrameLabels.load(FrameLabels.path_of(clip.path)) for clip in clips]
    for clip, clip_labels in zip(clips, labels):
        if clip_labels.description() != labels[0].description():
            raise ValueError(
                f"The labels of {clip.name} have other sizes or names than those of {clips[0].name}: "
                f"{clip_labels.description()} against {labels[0].description()}."
            )
    return labels
