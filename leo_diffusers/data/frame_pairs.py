"""Frames drawn at random, single or in pairs of one clip: what the image networks learn from."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from .. import video_io
from .frame_labels import FrameLabels
from .video_clips import VideoClip


class FrameReader:
    r"""
    Frames of clips by number. Clips that fit the cache are decoded once, whole; of others single frames are sought.

    Args:
        frame_size (`int`): Height and width of the frames, pixels.
        cache_size (`int`): Bytes of decoded frames that are kept, in this process.
    """

    def __init__(self, frame_size: int, cache_size: int):
        self.frame_size = frame_size
        self.cache_size = cache_size
        self._cached: dict[VideoClip, np.ndarray] = {}
        self._cached_bytes = 0

    def read(self, clip: VideoClip, indices: list[int]) -> torch.Tensor:
        r"""
        Args:
            clip ([`VideoClip`]): The clip.
            indices (`list[int]`): Frame numbers within the clip.

        Returns:
            `torch.Tensor` of shape `(n, 3, H, W)`: In [-1, 1], in the order of `indices`.
        """
        num_bytes = clip.num_frames * 3 * self.frame_size**2
        if clip not in self._cached and self._cached_bytes + num_bytes <= self.cache_size:
            # Kept as bytes, a quarter of the memory; they are what the file holds, so nothing is lost.
            reader = video_io.VideoReader(clip.path, self.frame_size, clip.start_frame, clip.num_frames)
            self._cached[clip] = np.stack([video_io.to_uint8(frame) for frame in reader])
            self._cached_bytes += num_bytes
        if clip in self._cached:
            return torch.stack([video_io.to_frame(self._cached[clip][i]) for i in indices])
        starts = [clip.start_frame + i for i in indices]
        return torch.cat([video_io.read_video(clip.path, self.frame_size, start, num_frames=1) for start in starts])


def read_frames(clip: VideoClip, frame_size: int, indices: Iterable[int]) -> dict[int, np.ndarray]:
    r"""
    Some frames of a clip, in one pass; no others are kept in memory.

    Args:
        clip ([`VideoClip`]): The clip.
        frame_size (`int`): Height and width of the frames, pixels.
        indices (`Iterable[int]`): Frame numbers within the clip.

    Returns:
        `dict[int, np.ndarray]`: By number, each of shape `(H, W, 3)`, uint8.
    """
    wanted = set(indices)
    with video_io.VideoReader(clip.path, frame_size, clip.start_frame, max(wanted) + 1) as reader:
        frames = enumerate(iter(reader))
        return {index: video_io.to_uint8(frame) for index, frame in frames if index in wanted}


class RandomFrames(Dataset):
    r"""
    Random frames of random clips. An item is asked for by its position in an endless, seeded sequence, so that a
    resumed run continues with exactly the frames that the uninterrupted run would have seen.

    Args:
        clips (`list[VideoClip]`): From [`~data.video_clips.find_clips`].
        frame_size (`int`): Height and width of the frames, pixels.
        horizontal_flip (`bool`): Whether half of the items are mirrored.
        color_jitter (`float`): Largest relative change of brightness, contrast and saturation, the same for all
            frames of an item; 0 for none.
        seed (`int`): Seed of order and draws.
        cache_gigabytes (`float`): Memory for decoded clips, in each worker process.
        labels (`list[FrameLabels]`, *optional*): Of each clip, from its file's first frame on; items carry theirs.
        motion_codes (`list[torch.Tensor]`, *optional*): Of each clip, (F, M), likewise.

    Raises:
        ValueError: Where there are no clips, or labels or codes that do not fit.
    """

    frames_per_item = 1

    def __init__(
        self,
        clips: list[VideoClip],
        frame_size: int,
        horizontal_flip: bool = True,
        color_jitter: float = 0.0,
        seed: int = 0,
        cache_gigabytes: float = 4.0,
        labels: list[FrameLabels] | None = None,
        motion_codes: list[torch.Tensor] | None = None,
    ):
        if not clips:
            raise ValueError("`clips` is empty: there is nothing to draw frames from.")
        if labels is not None:
            check_known_frames("labels", clips, [len(clip_labels.motion) for clip_labels in labels], horizontal_flip)
        if motion_codes is not None:
            check_known_frames("motion_codes", clips, [len(codes) for codes in motion_codes], horizontal_flip)
        self.clips = clips
        self.labels = labels
        self.motion_codes = motion_codes
        self.horizontal_flip = horizontal_flip
        self.color_jitter = color_jitter
        self.seed = seed
        self.reader = FrameReader(frame_size, int(cache_gigabytes * 1e9))

    def __len__(self) -> int:
        r"""Items in an epoch: one of each clip, in an order of its own."""
        return len(self.clips)

    def number_at(self, position: int) -> int:
        r"""Number of the clip that the item at `position` of the endless sequence is drawn from."""
        epoch, index = divmod(position, len(self))
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self))
        return int(order[index])

    def draw(self, position: int, random: np.random.Generator) -> tuple[int, list[int], torch.Tensor]:
        r"""What is at `position`: a clip's number, frames within it, and those frames, (n, 3, H, W) in [-1, 1]."""
        number = self.number_at(position)
        clip = self.clips[number]
        indices = random.choice(clip.num_frames, size=self.frames_per_item, replace=False).tolist()
        return number, indices, self.reader.read(clip, indices)

    def random_at(self, position: int) -> np.random.Generator:
        r"""Where the draws of the item at `position` come from."""
        return np.random.default_rng([self.seed, 1, position])

    def label(self, name: str, number: int, index: int) -> torch.Tensor:
        r"""What the labels of a clip, by number, tell of one of its frames: "keypoints" (K, 2) or "motion" (P,)."""
        return torch.from_numpy(getattr(self.labels[number], name)[self.clips[number].start_frame + index])

    def __getitem__(self, position: int) -> dict[str, torch.Tensor | int]:
        r"""
        Args:
            position (`int`): Place in the endless sequence, 0 or more.

        Returns:
            `dict`: `frame` of shape `(3, H, W)` in [-1, 1] and the `position`, which seeds the sample's noise. With
            labels also `keypoints` (K, 2), `motion` (P,) and `attributes` (A,); with codes `motion_code` (M,).
        """
        random = self.random_at(position)
        number, (index,), frames = self.draw(position, random)
        frames = augment(frames, random, self.horizontal_flip, self.color_jitter)
        item = {"frame": frames[0], "position": position}
        if self.labels is not None:
            item |= {name: self.label(name, number, index) for name in ("keypoints", "motion")}
            item["attributes"] = torch.from_numpy(self.labels[number].attributes)
        if self.motion_codes is not None:
            item["motion_code"] = self.motion_codes[number][self.clips[number].start_frame + index]
        return item


class FramePairs(RandomFrames):
    r"""
    Source and driving frames of one clip, or of two people who move alike.

    Args:
        cross_identity (`float`): Share of the items whose driving frame shows another person in the motion that the
            target shows. It needs labels, in which clips of the same motion have the same `motion_id`.
        arguments: Those of [`RandomFrames`].

    Raises:
        ValueError: As [`RandomFrames`], and where `cross_identity` is no share, or finds no clip of the same motion as
            another.
    """

    frames_per_item = 2

    def __init__(self, *arguments, cross_identity: float = 0.0, **options):
        super().__init__(*arguments, **options)
        if not 0 <= cross_identity <= 1:
            raise ValueError(f"`cross_identity` must be between 0 and 1, got {cross_identity}.")
        self.cross_identity = cross_identity
        self._partners = partners_of(self.labels) if cross_identity > 0 else None

    def draw_driver(self, number: int, index: int, random: np.random.Generator) -> torch.Tensor | None:
        r"""A frame (1, 3, H, W) of another person in the motion of a clip's frame; None where none is to be shown."""
        if self._partners is None:
            return None
        place = self.clips[number].start_frame + index  # in the file; what of it may be used differs between clips
        others = [self.clips[other] for other in self._partners[number]]
        others = [clip for clip in others if 0 <= place - clip.start_frame < clip.num_frames]
        if not others or random.random() >= self.cross_identity:
            return None
        other = others[random.integers(len(others))]
        return self.reader.read(other, [place - other.start_frame])

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        r"""
        Args:
            position (`int`): Place in the endless sequence, 0 or more.

        Returns:
            `dict`: `source_frame`, `driving_frame` and `target_frame`, each `(3, H, W)` in [-1, 1]: the source's
            person with the driving frame's motion. With labels also `source_keypoints` and `target_keypoints` (K, 2),
            `source_motion` and `target_motion` (P,).
        """
        random = self.random_at(position)
        number, indices, frames = self.draw(position, random)
        driver = self.draw_driver(number, indices[1], random)
        if driver is not None:
            frames = torch.cat([frames, driver])
        item = make_pair(augment(frames, random, self.horizontal_flip, self.color_jitter))
        if self.labels is not None:
            for name in ("keypoints", "motion"):
                for role, index in zip(("source", "target"), indices):
                    item[f"{role}_{name}"] = self.label(name, number, index)
        return item


def make_pair(frames: torch.Tensor) -> dict[str, torch.Tensor]:
    r"""Source, target and, where it is not the target, the driving frame, (2 or 3, 3, H, W) -> the frames by name."""
    return {"source_frame": frames[0], "driving_frame": frames[-1], "target_frame": frames[1]}


def augment(
    frames: torch.Tensor, random: np.random.Generator, horizontal_flip: bool, color_jitter: float
) -> torch.Tensor:
    r"""
    Mirrors half of the items and changes their colours, as far as is asked for.

    Args:
        frames (`torch.Tensor` of shape `(n, 3, H, W)`): The frames of one item, in [-1, 1].
        random (`np.random.Generator`): Where the draws come from.
        horizontal_flip (`bool`): Whether to mirror.
        color_jitter (`float`): Largest relative change of brightness, contrast and saturation; 0 for none.

    Returns:
        `torch.Tensor` of shape `(n, 3, H, W)`: In [-1, 1], all changed alike.
    """
    if horizontal_flip and random.random() < 0.5:
        frames = frames.flip(-1)
    if color_jitter:
        frames = jitter_color(frames, *random.uniform(1 - color_jitter, 1 + color_jitter, size=3))
    return frames


def check_known_frames(name: str, clips: list[VideoClip], num_frames: list[int], horizontal_flip: bool) -> None:
    r"""Refuses what is known of the first `num_frames` frames of each clip where it does not belong to the clips."""
    if horizontal_flip:
        raise ValueError(f"`horizontal_flip` must be off with `{name}`: those of a mirrored frame are unknown.")
    if len(num_frames) != len(clips):
        raise ValueError(f"`{name}` must be of each of the {len(clips)} clips, got {len(num_frames)}.")
    for clip, num_known in zip(clips, num_frames):
        if num_known < clip.start_frame + clip.num_frames:
            raise ValueError(
                f"The {name.replace('_', ' ')} of {clip.name} tell of {num_known} frames, but it has "
                f"{clip.start_frame + clip.num_frames}: write them anew."
            )


def partners_of(labels: list[FrameLabels] | None) -> list[list[int]]:
    r"""For each clip the numbers of the others that show the same motion."""
    if labels is None:
        raise ValueError("`cross_identity` needs `labels`, which tell which clips show the same motion.")
    alike: dict[str, list[int]] = {}
    for number, clip_labels in enumerate(labels):
        alike.setdefault(clip_labels.motion_id, []).append(number)
    alike[""] = []  # no id: the motion is nobody else's
    partners = [
        [other for other in alike[clip_labels.motion_id] if other != number]
        for number, clip_labels in enumerate(labels)
    ]
    if not any(partners):
        raise ValueError(
            "`cross_identity` needs clips of different people in the same motion (labels with the same `motion_id`), "
            "and there are none: render them with --people_per_motion 2, or set it to 0."
        )
    return partners


def jitter_color(frames: torch.Tensor, brightness: float, contrast: float, saturation: float) -> torch.Tensor:
    r"""
    Changes brightness, then contrast, then saturation, each by a factor, alike for all frames.

    Args:
        frames (`torch.Tensor` of shape `(F, 3, H, W)`): In [-1, 1].
        brightness (`float`): Factor on the pixels, counted from black.
        contrast (`float`): Factor on the distance from the mean grey.
        saturation (`float`): Factor on the distance from each pixel's grey.

    Returns:
        `torch.Tensor` of shape `(F, 3, H, W)`: In [-1, 1].
    """
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # luma, ITU-R BT.601
    frames = ((frames + 1) * brightness - 1).clamp(-1, 1)
    mean = (frames * weights).sum(dim=1).mean()
    frames = (mean + (frames - mean) * contrast).clamp(-1, 1)
    grey = (frames * weights).sum(dim=1, keepdim=True)
    return (grey + (frames - grey) * saturation).clamp(-1, 1)


class EndlessSampler(Sampler[int]):
    r"""
    Positions of an endless sequence, from `start` on: the data's side of an exact resume.

    Args:
        start (`int`): First position.
        stop (`int`): End of the run.
    """

    def __init__(self, start: int, stop: int):
        self.start = start
        self.stop = stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return max(0, self.stop - self.start)
