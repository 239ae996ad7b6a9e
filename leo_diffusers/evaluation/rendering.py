"""Test clips beside what a pipeline renders of them, a few frames at a time, and what is said of all of them."""

import itertools
from collections.abc import Iterable, Iterator

import torch

from ..data.frame_labels import FrameLabels
from ..data.video_clips import VideoClip
from ..metrics.readings import agreement
from ..pipelines.pipeline_lia import LIAPipeline, batches
from ..video_io import VideoReader
from .parts import Part
from .readers import LabelReader, Readers


CHUNK_SIZE = 16  # frames that are compared at a time, so that a clip may be of any length


def clip_frames(clip: VideoClip, frame_size: int, num_frames: int) -> Iterator[torch.Tensor]:
    r"""
    Args:
        clip ([`VideoClip`]): The clip.
        frame_size (`int`): Height and width of the frames.
        num_frames (`int`): How many of its first frames to read.

    Yields:
        `torch.Tensor` of shape `(3, H, W)`: In [-1, 1].

    Raises:
        ValueError: Where the clip cannot be read, or at its end where it has fewer frames.
    """
    num_read = 0
    with VideoReader(clip.path, frame_size, clip.start_frame, num_frames) as reader:
        for frame in reader:
            num_read += 1
            yield frame
    if num_read < num_frames:
        raise ValueError(f"{clip.name} ends after {num_read} of {num_frames} frames: it is damaged, or has changed.")


def animate(
    pipeline: LIAPipeline, source_frame: torch.Tensor, driving_frames: Iterable[torch.Tensor], motion_mode: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    r"""
    Args:
        pipeline ([`LIAPipeline`]): What renders.
        source_frame (`torch.Tensor` of shape `(3, H, W)`): In [-1, 1].
        driving_frames (iterable of `torch.Tensor` of shape `(3, H, W)`): In [-1, 1]; read once, as they are needed.
        motion_mode (`str`): "relative" or "absolute".

    Yields:
        `tuple[torch.Tensor, torch.Tensor]`: Driving frames and the rendered ones, (n, 3, H, W) each, in [-1, 1].

    Raises:
        ValueError: Where a rendered frame is not finite.
    """
    kept, driving = itertools.tee(driving_frames)
    rendered = (frame * 2 - 1 for frame in pipeline.stream(source_frame, driving, motion_mode, output_type="pt"))
    for real, fake in zip(batches(kept, CHUNK_SIZE), batches(rendered, CHUNK_SIZE), strict=True):
        if not fake.isfinite().all():
            raise ValueError("`pipeline` renders NaN: its animator has diverged.")
        yield real, fake


def join(chunks: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    r"""Readings of parts of a video, in order -> those of the whole."""
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def load_clip_labels(clip: VideoClip) -> FrameLabels | None:
    r"""The labels beside a whole clip, None where there are none; refused where they are of another length."""
    path = FrameLabels.path_of(clip.path)
    if not path.is_file():
        return None
    labels = FrameLabels.load(path)
    num_frames = clip.start_frame + clip.num_frames
    if len(labels.motion) != num_frames:
        raise ValueError(
            f"{path} tells of {len(labels.motion)} frames, but {clip.name} has {num_frames}: write it anew."
        )
    return labels


def true_readings(clip: VideoClip, readers: Readers, num_frames: int, frame_size: int) -> dict[str, torch.Tensor]:
    r"""
    What the labels beside a clip say in place of readers that were trained on such labels.

    Args:
        clip ([`VideoClip`]): The clip.
        readers ([`Readers`]): Only what a [`LabelReader`] reads has labels.
        num_frames (`int`): How many of its first frames to tell of.
        frame_size (`int`): Of the frames that `keypoints` are pixels of.

    Returns:
        `dict[str, torch.Tensor]`: "keypoints" (F, K, 2) in pixels and "motion" (F, P), or less.

    Raises:
        ValueError: Where the labels are of another length, or name other motion than the reader.
    """
    labels = load_clip_labels(clip)
    if labels is None:
        return {}
    shown, readings = slice(clip.start_frame, clip.start_frame + num_frames), {}
    if isinstance(readers.keypoints, LabelReader):
        readings["keypoints"] = torch.from_numpy(labels.keypoints[shown] * frame_size)
    if isinstance(readers.motion, LabelReader):
        if readers.motion.names != labels.motion_names:
            raise ValueError(
                f"The labels of {clip.name} name the motion {labels.motion_names}, and `readers.motion` reads "
                f"{readers.motion.names}: take a network that was trained on such labels."
            )
        readings["motion"] = torch.from_numpy(labels.motion[shown])
    return readings


def summarize(parts: dict[str, Part], task: str) -> tuple[dict[str, float], dict[str, float]]:
    r"""
    Args:
        parts (`dict[str, Part]`): Of videos; what is called "task/name" is a number of the video, or one of each of
            its frames (F,), NaN where it has none.
        task (`str`): Whose numbers.

    Returns:
        `tuple[dict[str, float], dict[str, float]]`: By name the mean, over videos or over the frames of all of them,
        and the standard deviation over videos, of those that have a number; NaN where none has.
    """
    values: dict[str, list[torch.Tensor]] = {}
    for part in parts.values():
        for name, value in part.items():
            if name.startswith(f"{task}/") and value.ndim < 2:
                values.setdefault(name.removeprefix(f"{task}/"), []).append(value.double().flatten())
    means = {name: torch.cat(numbers).nanmean().item() for name, numbers in values.items()}
    of_videos = {name: torch.stack([one.nanmean() for one in numbers]) for name, numbers in values.items()}
    measured = {name: numbers[~numbers.isnan()] for name, numbers in of_videos.items()}
    return means, {
        name: (numbers - numbers.mean()).square().mean().sqrt().item() for name, numbers in measured.items()
    }


def motion_agreement(
    parts: dict[str, Part], found: str, truth: str, readers: Readers
) -> dict[str, dict[str, float]] | None:
    r"""
    Args:
        parts (`dict[str, Part]`): Of videos.
        found (`str`): What of a part is the motion (F, P) that was read off a rendered video.
        truth (`str`): What of it is the motion that it should have.
        readers ([`Readers`]): Whose `motion` has `names`, or else its columns are numbered.

    Returns:
        `dict[str, dict[str, float]]`: By name [`~metrics.readings.agreement`] over the frames of all videos that have
        both, of any lengths; None where there are none.
    """
    motions = [(part[found].double(), part[truth].double()) for part in parts.values() if {found, truth} <= {*part}]
    if not motions:
        return None
    # Videos may differ in length: with the mean of each taken off they are as one, whose mean is zero.
    ours, theirs = (torch.cat([motion - motion.mean(dim=0) for motion in side]) for side in zip(*motions))
    names = getattr(readers.motion, "names", range(ours.shape[1]))
    return {str(name): agreement(ours[None, :, i], theirs[None, :, i]) for i, name in enumerate(names)}


def describe_task(
    parts: dict[str, Part], task: str, truth: str, readers: Readers
) -> tuple[dict[str, object], dict[str, float]]:
    r"""
    Everything that was measured of one task.

    Args:
        parts (`dict[str, Part]`): Of videos.
        task (`str`): What was rendered, such as "model".
        truth (`str`): Whose motion it should have; no motion is compared with itself.
        readers ([`Readers`]): What was read off the frames.

    Returns:
        `tuple[dict[str, object], dict[str, float]]`: Means by name, with "motion" as read off the frames of `truth`
        and "motion_labels" as its labels have it, where there are such; and standard deviations.
    """
    values, deviations = summarize(parts, task)
    truths = {"motion": f"{truth}/motion", "motion_labels": "labels/motion"}
    for name, key in truths.items():
        agreed = None if key == f"{task}/motion" else motion_agreement(parts, f"{task}/motion", key, readers)
        if agreed is not None:
            values[name] = agreed
    return values, deviations
