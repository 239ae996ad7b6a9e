"""How many long videos repeat themselves, with and without transitions: what LEO's Table 5 asks people."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch

from ..data.motion_codes import MotionCodes, hash_tensors
from ..pipelines.motion_pipeline import Image
from ..pipelines.pipeline_leo_infinite import LEOInfinitePipeline
from .parts import EvaluationParts, Part
from .plots import plot_trajectories
from .recurrence import (
    RepetitionThreshold,
    calibrate_threshold,
    check_window,
    movement_of,
    recurrence,
    share_of_repeating,
    stretches_of,
)
from .video_maker import describe_pipeline, seeded


WILSON_Z = 1.959964  # 95 % of a normal distribution lies within so many deviations


@dataclass(frozen=True)
class RepetitionSettings:
    r"""
    Which videos are searched, and for what.

    Args:
        num_videos (`int`): Videos per transition.
        num_frames (`int`): Frames of each.
        num_inference_steps (`int`): Denoising steps of each chunk.
        transitions (`tuple[str, ...]`): Of "none" and "diffusion", those that are compared.
        window (`int`): Frames of a stretch.
        false_positive_rate (`float`): Share of videos that may be called repeating although they are not.
        seed (`int`): Of the draws.

    Raises:
        ValueError: Where a number is out of its range, or no transition is named.
    """

    num_videos: int
    num_frames: int
    num_inference_steps: int
    transitions: tuple[str, ...] = ("none", "diffusion")
    window: int = 32
    false_positive_rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_videos < 1:
            raise ValueError(f"`num_videos` must be at least 1, got {self.num_videos}.")
        if not self.transitions:
            raise ValueError('`transitions` is empty: name "none", "diffusion" or both.')
        check_window(self.num_frames, self.window)
        if not 0 < self.false_positive_rate < 1:
            raise ValueError(f"`false_positive_rate` must lie between 0 and 1, got {self.false_positive_rate}.")


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    r"""Wilson's 95 % interval of a share that was found in `count` cases."""
    squared = WILSON_Z**2 / count
    centre = share + squared / 2
    half = math.sqrt(squared * (share * (1 - share) + squared / 4))
    return (centre - half) / (1 + squared), (centre + half) / (1 + squared)


class MotionDrawer:
    r"""
    Draws the motion of long videos, without their frames.

    Args:
        pipeline ([`LEOInfinitePipeline`]): The model.
        images (`Sequence` of images, *optional*): What the videos begin with.
        settings ([`RepetitionSettings`]): The videos.

    Raises:
        ValueError: Where the model lacks what it takes, or a setting cannot be carried out.
    """

    def __init__(self, pipeline: LEOInfinitePipeline, images: Sequence[Image] | None, settings: RepetitionSettings):
        if images is None and pipeline.motion_prior is None:
            raise ValueError("Videos from nothing need a `motion_prior`: add one to the model, or give `images`.")
        if images is not None and not len(images):
            raise ValueError("`images` is empty: give at least one, or None.")
        self.pipeline = LEOInfinitePipeline.from_pipe(pipeline)
        self.pipeline.set_progress_bar_config(disable=True)
        self.images, self.settings = images, settings
        for transition in settings.transitions:  # the streams' own checks come before any motion
            self.stream(None, pipeline.motion_unet.statistics.mean, transition, None).close()

    def stream(
        self,
        image: Image | None,
        start_code: torch.Tensor | None,
        transition: str,
        generator: torch.Generator | None,
    ) -> Iterator[torch.Tensor]:
        r"""The codes (M,) of a video that begins with an image, or in a pose."""
        if image is None:
            # Motion knows nothing of what is seen.
            image = torch.zeros(3, *[self.pipeline.animator.config.frame_size] * 2)
        return self.pipeline.stream(
            image,
            self.settings.num_frames,
            self.settings.num_inference_steps,
            transition,
            start_motion_code=start_code,
            generator=generator,
            output_type="latent",
        )

    def __call__(self, index: int, transition: str) -> torch.Tensor:
        r"""
        Args:
            index (`int`): Number of the video; it begins alike with all transitions.
            transition (`str`): "none" or "diffusion".

        Returns:
            `torch.Tensor` of shape `(F, M)`: Its codes.

        Raises:
            ValueError: Where the model has diverged.
        """
        generator = seeded(self.settings.seed, index)
        image = start_code = None
        if self.images is None:
            start_code = self.pipeline.draw_start_codes(1, self.settings.num_inference_steps, generator)
        else:
            image = self.images[index % len(self.images)]
        codes = torch.stack(list(self.stream(image, start_code, transition, generator)))
        if not codes.isfinite().all():
            raise ValueError("The motion codes are NaN or infinite: the model has diverged.")
        return codes


def describe_drift(videos: Sequence[torch.Tensor], reference: MotionCodes, window: int) -> dict[str, list[float]]:
    r"""
    Whether videos leave what is known of the data: how far their motion codes come from its mean, in its standard
    deviations, the largest of all directions.

    Args:
        videos (`Sequence[torch.Tensor]` of shape `(F, M)`): Their motion codes.
        reference ([`MotionCodes`]): The data.
        window (`int`): How many frames count of the start and of the end.

    Returns:
        `dict[str, list[float]]`: Of the "first" and the "last" frames the median and the 90 % quantile over videos.
    """
    quantiles = torch.tensor([0.5, 0.9], dtype=torch.float64)
    drift = {}
    for name, frames in {"first": slice(window), "last": slice(-window, None)}.items():
        farthest = [((codes[frames] - reference.mean) / reference.std).abs().max().double() for codes in videos]
        drift[name] = torch.stack(farthest).quantile(quantiles).tolist()
    return drift


def describe_repetition(
    videos: Sequence[torch.Tensor], reference: MotionCodes, window: int, threshold: RepetitionThreshold
) -> dict[str, object]:
    r"""
    How many of some videos repeat themselves.

    Args:
        videos (`Sequence[torch.Tensor]` of shape `(F, M)`): Their motion codes.
        reference ([`MotionCodes`]): The data, for its mean and spread.
        window (`int`): Frames of a stretch.
        threshold ([`RepetitionThreshold`]): Of videos as long as these.

    Returns:
        `dict[str, object]`: "share" of the videos, its 95 % "interval", "num_videos", the "moving_share" of stretches
        that move enough to count: where nothing moves, nothing repeats; and their "drift", of [`describe_drift`].
    """
    std = reference.std
    recurrences = [recurrence(codes, std, window, threshold.movement) for codes in videos]
    moving = [movement_of(stretches_of(codes, std, window)) >= threshold.movement for codes in videos]
    share = share_of_repeating(recurrences, threshold)
    return {
        "share": share,
        "interval": list(wilson_interval(share, len(videos))),
        "num_videos": len(videos),
        "moving_share": torch.cat(moving).double().mean().item(),
        "drift": describe_drift(videos, reference, window),
    }


def repetition_settings(
    pipeline: LEOInfinitePipeline, reference: MotionCodes, settings: RepetitionSettings
) -> dict[str, object]:
    r"""All that the numbers depend on but the images, for [`EvaluationParts`]."""
    return {
        "repetition": asdict(settings),
        "model": describe_pipeline(pipeline),
        "reference": {
            "animator_hash": reference.animator_hash,
            "num_clips": len(reference.clip_names),
            "codes": hash_tensors({"codes": reference.codes}),
        },
    }


def evaluate_repetition(
    pipeline: LEOInfinitePipeline,
    images: Sequence[Image] | None,
    reference: MotionCodes,
    parts: EvaluationParts,
    settings: RepetitionSettings,
) -> dict[str, object]:
    r"""
    The share of long videos that repeat themselves, with and without transitions. No frame is rendered. The
    evaluation's folder gets trajectories.png: the motion codes of the first video of each.

    Args:
        pipeline ([`LEOInfinitePipeline`]): The model.
        images (`Sequence` of images, *optional*): What the videos begin with, from the start again where they are
            more; poses of the motion prior without.
        reference ([`MotionCodes`]): Of real clips, by the model's animator.
        parts ([`EvaluationParts`]): Keeps the codes of each video.
        settings ([`RepetitionSettings`]): The videos.

    Returns:
        `dict[str, object]`: As JSON has it: by transition the "share" of repeating videos, its 95 % "interval", and
        the mean "moving_share" of stretches that move enough to count, and the "drift" away from the data; the
        "threshold"; and what they depend on.

    Raises:
        ValueError: Before anything is made, where the codes do not fit or are too few, or the model cannot do it.
    """
    if reference.codes.shape[1] != pipeline.animator.config.motion_dim:
        raise ValueError(
            f"`reference` has codes of {reference.codes.shape[1]} numbers, the animator of "
            f"{pipeline.animator.config.motion_dim}: extract them with this animator."
        )
    draw = MotionDrawer(pipeline, images, settings)
    threshold = calibrate_threshold(
        reference.clips(),
        reference.std,
        settings.num_frames,
        settings.window,
        settings.false_positive_rate,
        settings.seed,
    )
    results, shown, left_out = {}, {}, {}
    for transition in settings.transitions:
        names = [f"{transition}/{index}" for index in range(settings.num_videos)]

        def work(index: int, transition: str = transition) -> Part:
            return {"codes": draw(index, transition)}

        found, missing = parts.measure(names, work, f"Transitions: {transition}")
        videos = [part["codes"] for part in found.values()]
        results[transition] = describe_repetition(videos, reference, settings.window, threshold)
        shown[transition] = videos[0]
        left_out |= missing
    if parts.accelerator.is_main_process:
        plot_trajectories(shown, parts.folder.with_name("trajectories.png"))
    return {
        "transitions": results,
        "threshold": asdict(threshold),
        **repetition_settings(pipeline, reference, settings),
        "left_out": left_out,
    }
