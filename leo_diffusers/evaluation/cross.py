"""Cross-identity animation (LIA Table III): people move as others do, measured without a true video."""

from collections.abc import Sequence

import numpy as np
import torch

from ..data.video_clips import VideoClip
from ..metrics import average_euclidean_distance, frechet_distance
from ..pipelines.pipeline_lia import LIAPipeline
from .parts import EvaluationParts, Part
from .plots import NUM_SHOWN, Thumbnails, sheet_of_parts
from .readers import Readers
from .rendering import animate, clip_frames, describe_task, join, load_clip_labels, true_readings


def person_of(clip: VideoClip) -> str | bytes:
    r"""
    Who is in a clip: the same for clips of one person, as far as can be known. Labels tell it, or else what stands
    before the first # of the clip's name (VoxCeleb, TaichiHD).
    """
    labels = load_clip_labels(clip)
    return clip.name.split("#")[0] if labels is None else labels.attributes.tobytes()


def find_people(
    clips: Sequence[VideoClip], num_frames: int
) -> tuple[list[VideoClip], list[str | bytes], dict[str, str]]:
    r"""The clips of `num_frames` frames and more, who is in each, and why others are left out."""
    usable, people, left_out = [], [], {}
    for clip in clips:
        try:
            person = person_of(clip)
        except (ValueError, OSError) as error:
            left_out[clip.name] = str(error)
            continue
        if clip.num_frames < num_frames:
            left_out[clip.name] = f"it has {clip.num_frames} frames, fewer than {num_frames}"
            continue
        usable.append(clip)
        people.append(person)
    return usable, people, left_out


def draw_pairs(people: Sequence[str | bytes], num_pairs: int, seed: int) -> list[tuple[int, int]]:
    r"""
    Args:
        people (`Sequence[str | bytes]`): Who is in each clip.
        num_pairs (`int`): How many pairs; no clip drives twice.
        seed (`int`): Of the draws.

    Returns:
        `list[tuple[int, int]]`: Numbers of a source clip and of a driving clip of somebody else.

    Raises:
        ValueError: Where there is only one person, or for other `num_pairs` than 2 to the number of clips.
    """
    if len(set(people)) < 2:
        raise ValueError(f"Cross-identity needs clips of two people or more, got {len(people)} of {len(set(people))}.")
    if not 2 <= num_pairs <= len(people):
        raise ValueError(
            f"`num_pairs` must be from 2, as a covariance needs, to {len(people)}, the number of clips that are long "
            f"enough, got {num_pairs}."
        )
    generator = np.random.default_rng(seed)
    pairs = []
    for driver in generator.permutation(len(people))[:num_pairs].tolist():
        others = [number for number, person in enumerate(people) if person != people[driver]]
        pairs.append((others[generator.integers(len(others))], driver))
    return pairs


@torch.no_grad()
def measure_real(clip: VideoClip, readers: Readers, num_frames: int, frame_size: int) -> Part:
    r"""The features (D,) of a real video's first frames."""
    frames = torch.stack(list(clip_frames(clip, frame_size, num_frames)))
    return {"features": readers.clip(frames[None])[0].float()}


def measure_identity(source: torch.Tensor, driver: torch.Tensor, fake: torch.Tensor) -> Part:
    r"""Squared distances of a rendered video's embeddings (F, D) to its source's (1, D) and to its driver's (F, D)."""
    distances = {
        "model/identity_distance": average_euclidean_distance(source.expand_as(fake), fake),
        "model/identity_distance_to_driver": average_euclidean_distance(driver, fake),
    }
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in distances.items()}


@torch.no_grad()
def measure_pair(
    pipeline: LIAPipeline, source: VideoClip, driver: VideoClip, readers: Readers, num_frames: int, is_shown: bool
) -> Part:
    r"""
    Animates the first frame of one clip with the relative motion of another.

    Args:
        pipeline ([`LIAPipeline`]): What animates.
        source ([`VideoClip`]): Whose first frame is animated.
        driver ([`VideoClip`]): Whose motion it takes on.
        readers ([`Readers`]): What is read off frames.
        num_frames (`int`): How many of the driver's first frames.
        is_shown (`bool`): Whether to keep thumbnails.

    Returns:
        `Part`: Numbers as "model/identity_distance", motion (F, P) as "model/motion", "driver/motion" and
        "labels/motion", "features" (D,) of the rendered video, and "shown".

    Raises:
        ValueError: Where a clip cannot be read, its labels do not fit, or a frame is not finite.
    """
    frame_size = pipeline.animator.config.frame_size
    truth = true_readings(driver, readers, num_frames, frame_size)
    (source_frame,) = clip_frames(source, frame_size, 1)
    thumbnails, videos, read = Thumbnails(num_frames), [], {"driver": [], "model": []}
    for real, fake in animate(pipeline, source_frame, clip_frames(driver, frame_size, num_frames), "relative"):
        read["driver"].append(readers.read(real))
        read["model"].append(readers.read(fake))
        thumbnails.add(source_frame.expand_as(real), real, fake)
        if readers.clip is not None:
            videos.append(fake)
    found = {task: join(chunks) for task, chunks in read.items()}
    part = {f"{task}/motion": readings["motion"] for task, readings in found.items() if "motion" in readings}
    if "motion" in truth:
        part["labels/motion"] = truth["motion"]
    if readers.identity is not None:
        of_source = readers.read(source_frame[None])["identity"]
        part |= measure_identity(of_source, found["driver"]["identity"], found["model"]["identity"])
    if videos:
        part["features"] = readers.clip(torch.cat(videos)[None])[0].float()
    return part | ({"shown": thumbnails.pixels()} if is_shown else {})


def evaluate_cross(
    pipeline: LIAPipeline,
    clips: Sequence[VideoClip],
    readers: Readers,
    parts: EvaluationParts,
    num_frames: int = 100,
    num_pairs: int | None = None,
    seed: int = 0,
) -> dict[str, object]:
    r"""
    Animates people of test clips with the relative motion of others, in random pairs. The evaluation's folder gets
    cross.png: of each of the first pairs the source, a row of the driver's frames, and the model's.

    Args:
        pipeline ([`LIAPipeline`]): What animates.
        clips (`Sequence[VideoClip]`): Test clips, no two of one name; those with fewer frames are left out.
        readers ([`Readers`]): What is read off frames. `keypoints` and `perceptual` have no use here.
        parts ([`EvaluationParts`]): Where each video's numbers are kept. Its settings must tell everything else.
        num_frames (`int`): How many of each clip's first frames count.
        num_pairs (`int`, *optional*): How many videos are rendered, each with another driver; one per clip without.
        seed (`int`): Of the pairs.

    Returns:
        `dict[str, object]`: As JSON has it. "model" holds "video_fid", between the rendered videos and all real ones;
        means over videos of "identity_distance", the squared distance between the embeddings of the source's frame and
        of rendered frames, and for its scale of "identity_distance_to_driver"; and "motion", the
        [`~metrics.readings.agreement`] with what is read off the driver's frames, "motion_labels" with the driver's
        labels. "driver" is how well the driver's frames are read. "std" has the standard deviations over videos.

    Raises:
        ValueError: For `num_frames` below 2, too few clips or people, readers that measure nothing here, or where no
            pair can be measured.
    """
    if num_frames < 2:
        raise ValueError(f"`num_frames` must be at least 2, got {num_frames}: one frame holds no motion.")
    if readers.clip is None and readers.identity is None and readers.motion is None:
        raise ValueError(
            "`readers` must hold a `clip` (--features), for video FID, an `identity` (--identity), or a `motion` "
            "(--label_network): nothing else is measured here."
        )
    usable, people, left_out = find_people(clips, num_frames)
    if len(usable) < 2:
        raise ValueError(
            f"Cross-identity needs two clips or more of {num_frames} frames, got {len(usable)} of {len(clips)}: take "
            f"more clips, or fewer `num_frames`."
        )
    pairs = draw_pairs(people, len(usable) if num_pairs is None else num_pairs, seed)

    def work(index: int) -> Part:
        source, driver = pairs[index]
        return measure_pair(pipeline, usable[source], usable[driver], readers, num_frames, index < NUM_SHOWN)

    names = [f"{usable[source].name}+{usable[driver].name}" for source, driver in pairs]
    measured, failed = parts.measure(names, work, "Animating")
    left_out |= failed
    values, deviations = describe_task(measured, "model", "driver", readers)
    results: dict[str, object] = {"model": values}
    if readers.clip is not None:
        features, failed = real_features(pipeline, usable, readers, parts, num_frames)
        left_out |= failed
        rendered = torch.stack([part["features"] for part in measured.values()])
        values["video_fid"] = frechet_distance(features, rendered)
        results["num_real"] = len(features)
    drivers, _ = describe_task(measured, "driver", "driver", readers)
    if drivers:
        results["driver"] = drivers
    if parts.accelerator.is_main_process:
        sheet_of_parts(measured, parts.folder.with_name("cross.png"))
    return results | {
        "std": {"model": deviations},
        "num_frames": num_frames,
        "num_videos": len(measured),
        "seed": seed,
        "left_out": left_out,
        "readers": readers.describe(),
    }


def real_features(
    pipeline: LIAPipeline, clips: Sequence[VideoClip], readers: Readers, parts: EvaluationParts, num_frames: int
) -> tuple[torch.Tensor, dict[str, str]]:
    r"""Features (N, D) of the real videos, and why others are left out."""
    frame_size = pipeline.animator.config.frame_size

    def work(index: int) -> Part:
        return measure_real(clips[index], readers, num_frames, frame_size)

    measured, left_out = parts.measure([f"real/{clip.name}" for clip in clips], work, "Reading")
    return torch.stack([part["features"] for part in measured.values()]), left_out
