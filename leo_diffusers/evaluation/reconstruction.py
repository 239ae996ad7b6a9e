"""Same-identity reconstruction (LIA Table I): a clip's first frame, moved as the clip moves, against the clip."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from ..data.video_clips import VideoClip
from ..metrics import average_l1_distance, average_perceptual_distance
from ..metrics.average_euclidean_distance import euclidean_distances
from ..metrics.average_keypoint_distance import MISSING, keypoint_distances, missing_keypoints
from ..pipelines.pipeline_lia import LIAPipeline
from ..training.validation import reconstruction_metrics
from .parts import EvaluationParts, Part
from .plots import NUM_SHOWN, Thumbnails, sheet_of_parts
from .readers import Readers
from .rendering import animate, clip_frames, describe_task, join, true_readings


KEYPOINT_SIZE = 256  # pixels of the frames that keypoints are compared in (pose-evaluation)


def pixel_errors(real: torch.Tensor, fake: torch.Tensor, perceptual: Callable | None) -> dict[str, float]:
    r"""Means over frames (n, 3, H, W) in [-1, 1]: "l1" of pixels in [0, 1], and "perceptual"."""
    errors = {"l1": average_l1_distance(real, fake)}
    if perceptual is not None:
        errors["perceptual"] = average_perceptual_distance(real, fake, perceptual)
    return errors


def reading_errors(real: dict[str, torch.Tensor], fake: dict[str, torch.Tensor]) -> Part:
    r"""Of every frame of a video (F,) what was read off it: "akd" and "mkr" of keypoints, "aed" of identities."""
    errors = {}
    if "keypoints" in real:
        errors["akd"] = keypoint_distances(real["keypoints"], fake["keypoints"])
        errors["mkr"] = missing_keypoints(real["keypoints"], fake["keypoints"])
    if "identity" in real:
        errors["aed"] = euclidean_distances(real["identity"], fake["identity"])
    return errors


def compare_readings(found: dict[str, dict[str, torch.Tensor]], truth: dict[str, torch.Tensor]) -> Part:
    r"""
    Args:
        found (`dict[str, dict[str, torch.Tensor]]`): What was read off the "real" video, that of the "model" and the
            "copy".
        truth (`dict[str, torch.Tensor]`): What the labels say of the real one, or nothing.

    Returns:
        `Part`: Errors of every frame (F,) as "task/name", and the motion (F, P) of each as "task/motion" or
        "labels/motion".
    """
    part = {}
    for task, readings in found.items():
        if task != "real":
            part |= {f"{task}/{name}": values for name, values in reading_errors(found["real"], readings).items()}
        if "keypoints" in truth:
            part[f"{task}/akd_labels"] = keypoint_distances(truth["keypoints"], readings["keypoints"])
        if "motion" in readings:
            part[f"{task}/motion"] = readings["motion"]
    if "motion" in truth:
        part["labels/motion"] = truth["motion"]
    return part


def in_compared_pixels(readings: dict[str, torch.Tensor], frame_size: int) -> dict[str, torch.Tensor]:
    r"""The same readings with keypoints (F, K, 2) in pixels of `KEYPOINT_SIZE`, missing ones as they are."""
    if "keypoints" not in readings:
        return readings
    keypoints = readings["keypoints"]
    is_missing = (keypoints == MISSING).all(dim=-1, keepdim=True)
    return {**readings, "keypoints": keypoints.where(is_missing, keypoints * (KEYPOINT_SIZE / frame_size))}


@torch.no_grad()
def measure_reconstruction(
    pipeline: LIAPipeline, clip: VideoClip, readers: Readers, num_frames: int | None, is_shown: bool
) -> Part:
    r"""
    Renders and measures one clip, in memory that does not grow with its length but for what is read off it.

    Args:
        pipeline ([`LIAPipeline`]): What reconstructs.
        clip ([`VideoClip`]): A test clip.
        readers ([`Readers`]): What is read off frames.
        num_frames (`int`, *optional*): How many of its first frames count.
        is_shown (`bool`): Whether to keep thumbnails.

    Returns:
        `Part`: Numbers as "model/l1" and "copy/l1", those of every frame (F,) as "model/akd", motion (F, P) as
        "model/motion", and "shown".

    Raises:
        ValueError: Where the clip has one frame or cannot be read, its labels do not fit, or a frame is not finite.
    """
    count, frame_size = min(clip.num_frames, num_frames or clip.num_frames), pipeline.animator.config.frame_size
    if count < 2:
        raise ValueError(f"{clip.name} has {count} frame, which holds no motion.")
    truth = true_readings(clip, readers, count, frame_size)
    frames, thumbnails = clip_frames(clip, frame_size, count), Thumbnails(count)
    source_frame = next(frames)
    errors, read, num_seen = defaultdict(float), {"real": [], "model": []}, 0
    # LIA counts the source's own frame too.
    for real, fake in animate(pipeline, source_frame, itertools.chain([source_frame], frames), "absolute"):
        # But of a copy that frame has no finite PSNR.
        moved = real[0 if num_seen else 1 :]
        for task, video in {"model": fake, "copy": source_frame.expand_as(real)}.items():
            for name, value in pixel_errors(real, video, readers.perceptual).items():
                errors[f"{task}/{name}"] += value * len(real) / count
            psnr = reconstruction_metrics(video[len(video) - len(moved) :], moved)["psnr"]
            errors[f"{task}/psnr"] += psnr * len(moved) / (count - 1)
        num_seen += len(real)
        read["real"].append(readers.read(real))
        read["model"].append(readers.read(fake))
        thumbnails.add(real, fake)
    found = {task: in_compared_pixels(join(chunks), frame_size) for task, chunks in read.items()}
    found["copy"] = {name: values[:1].expand_as(values) for name, values in found["real"].items()}
    numbers = {name: torch.tensor(value, dtype=torch.float64) for name, value in errors.items()}
    numbers |= compare_readings(found, in_compared_pixels(truth, frame_size))
    return numbers | ({"shown": thumbnails.pixels()} if is_shown else {})


def evaluate_reconstruction(
    pipeline: LIAPipeline,
    clips: Sequence[VideoClip],
    readers: Readers,
    parts: EvaluationParts,
    num_frames: int | None = None,
) -> dict[str, object]:
    r"""
    Reconstructs test clips from their first frames with absolute motion, and copies these frames for comparison. The
    evaluation's folder gets reconstruction.png: of each of the first clips a row of its frames, and the model's below.

    Args:
        pipeline ([`LIAPipeline`]): What reconstructs.
        clips (`Sequence[VideoClip]`): Test clips, no two of one name.
        readers ([`Readers`]): What is read off frames. `clip` has no use here.
        parts ([`EvaluationParts`]): Where each clip's numbers are kept. Its settings must tell everything else.
        num_frames (`int`, *optional*): How many of each clip's first frames count; all where it has fewer.

    Returns:
        `dict[str, object]`: As JSON has it. "model" and "copy" hold means over videos of "l1" of pixels in [0, 1],
        "psnr" of the frames after the source's own, and "perceptual"; means over the frames of all videos of "akd" in
        pixels of 256 x 256 frames, "mkr", "aed", and against labels beside the clips "akd_labels"; "motion" is
        [`~metrics.readings.agreement`] with what is read off the real frames, "motion_labels" with the labels. "real"
        is how well the readers read real frames. "std" has the standard deviations over videos.

    Raises:
        ValueError: For `num_frames` below 2, or where no clip can be measured.
    """
    if num_frames is not None and num_frames < 2:
        raise ValueError(f"`num_frames` must be at least 2, got {num_frames}: one frame holds no motion.")

    def work(index: int) -> Part:
        return measure_reconstruction(pipeline, clips[index], readers, num_frames, index < NUM_SHOWN)

    measured, left_out = parts.measure([clip.name for clip in clips], work, "Reconstructing")
    if parts.accelerator.is_main_process:
        sheet_of_parts(measured, parts.folder.with_name("reconstruction.png"))
    tasks = {task: describe_task(measured, task, "real", readers) for task in ("model", "copy", "real")}
    tasks = {task: described for task, described in tasks.items() if described[0]}
    return {
        **{task: values for task, (values, _) in tasks.items()},
        "std": {task: deviations for task, (_, deviations) in tasks.items()},
        "num_frames": num_frames,
        "num_videos": len(measured),
        "num_labelled": sum("real/akd_labels" in part or "labels/motion" in part for part in measured.values()),
        "left_out": left_out,
        "readers": readers.describe(),
    }
