"""Generated videos against real ones by a named protocol: FVD, KVD and ACD, as in LEO's Tables 1, 2 and 6."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from ..data.motion_codes import hash_tensors
from ..data.video_clips import VideoClip
from ..metrics import average_content_distance, frechet_distance, kernel_distance
from ..metrics.protocols import ClipPosition, Protocol, quantize
from ..pipelines.motion_pipeline import MotionPipeline
from .parts import EvaluationParts, Part
from .plots import NUM_SHOWN, Thumbnails, sheet_of_parts
from .readers import Readers
from .real_clips import count_codecs, from_8bit, read_clip
from .video_maker import GenerationSettings, VideoMaker, describe_pipeline, seeded


def smaller(protocol: Protocol, num_clips: int, repeats: int) -> Protocol:
    r"""
    A protocol of fewer clips or trials, under a name that says so: its numbers are not those of the whole one.

    Args:
        protocol ([`Protocol`]): The whole one.
        num_clips (`int`): Clips of either side, at least 2.
        repeats (`int`): Trials, at least 1.

    Returns:
        [`Protocol`]: The same one where nothing is smaller.

    Raises:
        ValueError: Where a number is larger than the protocol's, or too small.
    """
    for name, value, least in (("num_clips", num_clips, 2), ("repeats", repeats, 1)):
        most = getattr(protocol, name)
        if not least <= value <= most:
            raise ValueError(f"`{name}` must be from {least} to {most}, as {protocol.name} has it, got {value}.")
    name = protocol.name
    name += f", {num_clips} clips" if num_clips < protocol.num_clips else ""
    name += f", {repeats} trials" if repeats < protocol.repeats else ""
    return replace(protocol, name=name, num_clips=num_clips, repeats=repeats)


@dataclass(frozen=True)
class Trial:
    r"""
    The videos of one trial, by the names of their parts.

    Args:
        real (`dict[str, ClipPosition]`): Where the real clips are.
        fake (`dict[str, ClipPosition]`): Where the first frames are that generated videos may begin with.
    """

    real: dict[str, ClipPosition]
    fake: dict[str, ClipPosition]


def start_positions(
    protocol: Protocol, clips: Sequence[VideoClip], real: Sequence[ClipPosition], trial: int
) -> list[ClipPosition]:
    r"""
    The frames that the videos of a trial begin with: the first ones of its real clips, and where these are fewer than
    videos, as of StyleGAN-V's protocol, any frames of the videos that they are from (LEO Sec. 4.2).
    """
    generator = np.random.default_rng((protocol.seed, trial, 1))  # not that of the real clips
    starts = list(real)
    for number in range(len(real), protocol.num_clips):
        index = real[number % len(real)].video_index
        starts.append(ClipPosition(index, int(generator.integers(clips[index].num_frames)), 1))
    return starts


def plan_trials(clips: Sequence[VideoClip], protocol: Protocol, settings: GenerationSettings) -> list[Trial]:
    r"""The trials of a protocol; a ValueError where the clips are too few or too short for them."""
    lengths, trials = [clip.num_frames for clip in clips], []
    for number in range(protocol.repeats):
        real = protocol.real_clips(lengths, settings.num_frames, settings.frame_stride, number)
        fake = {}
        for index, start in enumerate(start_positions(protocol, clips, real, number)):
            # A name tells all that its video is made of, so that no other folder's is taken for it.
            first = f"/{clips[start.video_index].name}/{start.start}" if settings.conditional else ""
            fake[f"fake/{number}/{index}{first}"] = start
        trials.append(Trial({f"real/{clips[one.video_index].name}/{one.start}": one for one in real}, fake))
    return trials


def measure_frames(frames: torch.Tensor, readers: Readers) -> Part:
    r"""What is kept of a video (F, 3, H, W): its features, "clip" (D,), and its content distance, "acd"."""
    part = {}
    if readers.clip is not None:
        part["clip"] = readers.clip(frames[None])[0].float()
    if readers.identity is not None:
        part["acd"] = torch.tensor(average_content_distance(readers.identity(frames)[None]), dtype=torch.float64)
    return part


def thumbnails_of(frames: torch.Tensor) -> torch.Tensor:
    r"""What a contact sheet shows of a video (F, 3, H, W)."""
    thumbnails = Thumbnails(len(frames))
    thumbnails.add(frames)
    return thumbnails.pixels()


def trial_numbers(real: Sequence[Part], fake: Sequence[Part], ddof: int) -> dict[str, float]:
    r"""The numbers of one trial, of what was kept of its videos: "fvd" and "kvd"; "acd" and "acd_real"."""
    numbers = {}
    if "clip" in real[0]:
        features = [torch.stack([part["clip"] for part in parts]) for parts in (real, fake)]
        numbers |= {"fvd": frechet_distance(*features, ddof), "kvd": kernel_distance(*features)}
    if "acd" in real[0]:
        distances = {"acd": fake, "acd_real": real}
        numbers |= {key: float(np.mean([part["acd"].item() for part in parts])) for key, parts in distances.items()}
    return numbers


def select(parts: dict[str, Part], names: Iterable[str]) -> list[Part]:
    r"""The parts of these names, without those that are left out."""
    return [parts[name] for name in names if name in parts]


def over_trials(trials: Sequence[dict[str, float]]) -> dict[str, dict[str, object]]:
    r"""By number its "mean" and "std" over trials (of N, as DIGAN has it), and its value in each."""
    values = {name: [trial[name] for trial in trials] for name in trials[0]}
    return {
        name: {"mean": float(np.mean(of_trials)), "std": float(np.std(of_trials)), "trials": of_trials}
        for name, of_trials in values.items()
    }


def generation_settings(
    pipeline: MotionPipeline,
    readers: Readers,
    protocol: Protocol,
    settings: GenerationSettings,
    start_codes: torch.Tensor | None = None,
) -> dict[str, object]:
    r"""All that the numbers depend on but the real clips, for [`EvaluationParts`]."""
    return {
        "protocol": asdict(protocol),
        "generation": asdict(settings),
        "start_codes": "drawn" if start_codes is None else hash_tensors({"start_codes": start_codes}),
        "model": describe_pipeline(pipeline),
        "readers": readers.describe(),
    }


def real_settings(
    frame_size: int, readers: Readers, protocol: Protocol, settings: GenerationSettings
) -> dict[str, object]:
    r"""What is measured of given real clips depends on, for [`EvaluationParts`]: any models may share it."""
    return {
        "protocol": asdict(protocol),
        "num_frames": settings.num_frames,
        "frame_stride": settings.frame_stride,
        "frame_size": frame_size,
        "readers": readers.describe(),
    }


def evaluate_generation(
    pipeline: MotionPipeline,
    clips: Sequence[VideoClip],
    readers: Readers,
    real_parts: EvaluationParts,
    parts: EvaluationParts,
    protocol: Protocol,
    settings: GenerationSettings,
    start_codes: torch.Tensor | None = None,
) -> dict[str, object]:
    r"""
    FVD and KVD where `readers` has a `clip`, ACD where it has an `identity`. The evaluation's folder gets
    generated.png: a row of frames of each of the first generated videos.

    Args:
        pipeline ([`MotionPipeline`]): The model.
        clips (`Sequence[VideoClip]`): Real videos.
        readers ([`Readers`]): The networks.
        real_parts ([`EvaluationParts`]): Keeps what is measured of each real clip, by [`real_settings`].
        parts ([`EvaluationParts`]): Keeps what is measured of each generated video.
        protocol ([`Protocol`]): Which clips, how many, and how often; [`smaller`] for fewer than published numbers.
        settings ([`GenerationSettings`]): The videos.
        start_codes (`torch.Tensor` of shape `(N, M)`, *optional*): As of [`VideoMaker`].

    Returns:
        `dict[str, object]`: As JSON has it: "fvd", "kvd", "acd" and "acd_real" with mean and standard deviation over
        trials, and everything that they depend on. Where videos are left out, "num_real" and "num_fake" are those of
        the trial that has the fewest.

    Raises:
        ValueError: Before anything is made, where the clips are too few or too short, or the model cannot do it.
    """
    if readers.clip is None and readers.identity is None:
        raise ValueError(
            "`readers` must have a `clip` (--features), for FVD and KVD, or an `identity` (--identity), for ACD."
        )
    make_video = VideoMaker(pipeline, settings, start_codes)
    trials = plan_trials(clips, protocol, settings)
    # A clip that several trials draw is measured once.
    real = {name: position for trial in trials for name, position in trial.real.items()}
    fake = {
        name: (position, (protocol.seed, number, index))
        for number, trial in enumerate(trials)
        for index, (name, position) in enumerate(trial.fake.items())
    }
    names = {"real": list(real), "fake": list(fake)}

    def read(position: ClipPosition, num_frames: int) -> torch.Tensor:
        return read_clip(clips[position.video_index], position, num_frames, make_video.frame_size, protocol)

    def measure_real(number: int) -> Part:
        return measure_frames(read(real[names["real"][number]], settings.num_frames), readers)

    def measure_fake(number: int) -> Part:
        position, seeds = fake[names["fake"][number]]
        frames = make_video(read(position, 1)[0] if settings.conditional else None, seeded(*seeds))
        frames = from_8bit(quantize(frames, protocol.rounding))
        return measure_frames(frames, readers) | ({"shown": thumbnails_of(frames)} if number < NUM_SHOWN else {})

    found_real, real_left_out = real_parts.measure(names["real"], measure_real, "Real clips")
    found_fake, fake_left_out = parts.measure(names["fake"], measure_fake, "Generated videos")
    if parts.accelerator.is_main_process:
        sheet_of_parts(found_fake, parts.folder.with_name("generated.png"))
    sides = [(select(found_real, trial.real), select(found_fake, trial.fake)) for trial in trials]
    num_real, num_fake = (min(map(len, of_trials)) for of_trials in zip(*sides))
    left_out = {**real_left_out, **fake_left_out}
    if min(num_real, num_fake) < 2:
        raise ValueError(
            f"A trial needs two videos of either side, got {num_real} and {num_fake}: {'; '.join(left_out.values())}."
        )
    return {
        **over_trials([trial_numbers(*both, protocol.ddof) for both in sides]),
        **protocol.describe(settings.num_frames, settings.frame_stride, num_real, num_fake),
        **generation_settings(pipeline, readers, protocol, settings, start_codes),
        "codecs": count_codecs(clips),
        "left_out": left_out,
    }
