"""Which clips of a data set are compared with how many generated ones: what makes two numbers comparable."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class ClipPosition:
    r"""A clip of a data set: frames `start`, `start + stride`, ... of one of its videos."""

    video_index: int
    start: int
    stride: int


@dataclass(frozen=True)
class Protocol:
    r"""
    How a set of real videos is compared with a set of generated ones.

    Args:
        name (`str`): As it stands in results.
        num_clips (`int`): Clips of either side; of real ones fewer, where `sampling` finds no more.
        sampling (`str`): "video": one clip of each video, at a random place (StyleGAN-V); "chunk": drawn from the
            clips that all videos are cut into, so that long videos count more (DIGAN).
        repeats (`int`): Trials, each with other clips.
        ddof (`int`): Of the covariance, as of [`~metrics.frechet_distance`].
        rounding (`str`): "nearest" or "down": how frames become 8-bit.
        resizing (`str`): "pillow": anti-aliased, before; "bilinear": of PyTorch, without.
        seed (`int`): Of the draws.
    """

    name: str
    num_clips: int
    sampling: str
    repeats: int
    ddof: int
    rounding: str
    resizing: str
    seed: int

    def describe(self, num_frames: int, frame_stride: int, num_real: int, num_fake: int) -> dict[str, object]:
        r"""Everything that a number depends on, for the JSON of a result."""
        lengths = {"num_frames": num_frames, "frame_stride": frame_stride}
        return {"protocol": asdict(self), **lengths, "num_real": num_real, "num_fake": num_fake}

    def real_clips(
        self, video_lengths: Sequence[int], num_frames: int, frame_stride: int = 1, trial: int = 0
    ) -> list[ClipPosition]:
        r"""
        The clips of one trial.

        Args:
            video_lengths (`Sequence[int]`): Frames of each video.
            num_frames (`int`): Frames of a clip.
            frame_stride (`int`): Frames from one of them to the next.
            trial (`int`): From 0 to `repeats - 1`.

        Returns:
            `list[ClipPosition]`: In the order of the draw, no two alike.

        Raises:
            ValueError: Where the videos hold no clips, or with "chunk" fewer than `num_clips`.
        """
        if min(num_frames, frame_stride) < 1:
            raise ValueError(
                f"`num_frames` and `frame_stride` must be at least 1, got {num_frames} and {frame_stride}."
            )
        if not 0 <= trial < self.repeats:
            raise ValueError(f"`trial` must be from 0 to {self.repeats - 1}, as {self.name} has it, got {trial}.")
        generator = np.random.default_rng((self.seed, trial))
        sample = sample_videos if self.sampling == "video" else sample_chunks
        return sample(video_lengths, num_frames, frame_stride, self.num_clips, generator)


def sample_videos(
    video_lengths: Sequence[int], num_frames: int, frame_stride: int, num_clips: int, generator: np.random.Generator
) -> list[ClipPosition]:
    r"""One clip of each video that is long enough, for as many videos as there may be clips."""
    span = (num_frames - 1) * frame_stride + 1
    long_enough = [index for index, length in enumerate(video_lengths) if length >= span]
    if not long_enough:
        raise ValueError(f"None of {len(video_lengths)} videos has the {span} frames of a clip.")
    chosen = generator.permutation(long_enough)[:num_clips]
    starts = [generator.integers(video_lengths[index] - span + 1) for index in chosen]
    return [ClipPosition(int(index), int(start), frame_stride) for index, start in zip(chosen, starts)]


def sample_chunks(
    video_lengths: Sequence[int], num_frames: int, frame_stride: int, num_clips: int, generator: np.random.Generator
) -> list[ClipPosition]:
    r"""Clips that all videos are cut into, a stretch of `num_frames * frame_stride` into interleaved ones."""
    span = num_frames * frame_stride
    clips = [
        ClipPosition(index, chunk * span + offset, frame_stride)
        for index, length in enumerate(video_lengths)
        for chunk in range(length // span)
        for offset in range(frame_stride)
    ]
    if len(clips) < num_clips:
        raise ValueError(
            f"{len(video_lengths)} videos hold {len(clips)} clips of {num_frames} frames at stride {frame_stride}, "
            f"and the protocol compares {num_clips}: numbers of fewer clips cannot be held against its."
        )
    return [clips[index] for index in generator.permutation(len(clips))[:num_clips]]


def quantize(frames: torch.Tensor, rounding: str) -> torch.Tensor:
    r"""Frames in [-1, 1] -> 8 bits, as the protocols' own code has it: "nearest" or "down"."""
    scaled = frames * 127.5 + 128 if rounding == "nearest" else (frames + 1) / 2 * 255
    return scaled.clamp(0, 255).to(torch.uint8)


STYLEGAN_V = Protocol("stylegan_v", 2048, "video", 1, 0, "nearest", "pillow", seed=0)
DIGAN = Protocol("digan", 2048, "chunk", 10, 1, "down", "bilinear", seed=42)
PROTOCOLS = {protocol.name: protocol for protocol in (STYLEGAN_V, DIGAN)}
