"""Streamed clips, opened one at a time: to be looked at, kept for validation, or read whole."""

import contextlib
import itertools
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import IterableDataset, get_worker_info

from .. import video_io
from ..video_io.files import temporary_beside
from .streamed_videos import Share, StreamedVideo, StreamedVideos
from .video_clips import VideoClip, hold_out_frames, inspect_clip


class ClipOpener:
    r"""
    Opens streamed clips, and names those that cannot be used at first sight.

    Args:
        min_frames (`int`): Shorter clips cannot be used.
    """

    def __init__(self, min_frames: int):
        self.min_frames = min_frames
        self.skipped: set[str] = set()

    @contextlib.contextmanager
    def open(self, video: StreamedVideo) -> Iterator[VideoClip | None]:
        r"""The clip as a file, for as long as the context lasts; None where it cannot be used."""
        with contextlib.ExitStack() as stack:
            try:
                clip = self._inspect(video, stack.enter_context(video.open()))
            except (ValueError, OSError) as error:
                clip = None
                self._report(video.name, str(error))
            yield clip

    def _inspect(self, video: StreamedVideo, path: Path) -> VideoClip:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a clip that ends early is used as far as it goes
            found = inspect_clip(path)
        if found["problem"] is not None:
            raise ValueError(found["problem"].replace(str(path), video.name))
        if found["num_frames"] < self.min_frames:
            raise ValueError(f"{found['num_frames']} frames")
        return VideoClip(path, video.name, found["num_frames"], found["frames_per_second"])

    def _report(self, name: str, reason: str) -> None:
        if name not in self.skipped:
            self.skipped.add(name)
            warnings.warn(f"Skipped {name} ({reason}); {len(self.skipped)} skipped so far.", stacklevel=2)


def usable_clips(videos: StreamedVideos, opener: ClipOpener) -> Iterator[VideoClip]:
    r"""
    The clips of a data set in their own order; each file is there until the next is asked for.

    Raises:
        ValueError: Where no clip can be used.
    """
    num_used = 0
    for visit in Share(videos).visits(num_epochs=1):
        with opener.open(visit.video) as clip:
            if clip is not None:
                num_used += 1
                yield clip
    if not num_used:
        raise ValueError(
            f"No clip of {videos.name} can be used: {len(opener.skipped)} cannot be read or have fewer than "
            f"{opener.min_frames} frames."
        )


def keep_held_out_clips(
    videos: StreamedVideos, count: int, fraction: float, folder: Path, min_frames: int = 2
) -> list[VideoClip]:
    r"""
    Copies the first clips of a data set that frames can be held out from, for validation.

    Args:
        videos ([`StreamedVideos`]): The data set.
        count (`int`): How many clips, where there are so many.
        fraction (`float`): Share of each clip's frames that is held out, as in [`~data.video_clips.hold_out_frames`].
        folder (`Path`): Where to put them; made where it is missing.
        min_frames (`int`): Shorter clips are skipped.

    Returns:
        `list[VideoClip]`: Their held-out ends.

    Raises:
        ValueError: Where no clip can be used, or none is long enough.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for clip in usable_clips(videos, ClipOpener(min_frames)):
        for held in hold_out_frames([clip], fraction)[1]:
            # Every process of a run comes by here, so files are replaced, not written over.
            path = folder / f"{len(kept):04d}{clip.path.suffix}"
            temporary = temporary_beside(path)
            shutil.copyfile(clip.path, temporary)
            temporary.replace(path)
            kept.append(VideoClip(path, held.name, held.num_frames, held.frames_per_second, held.start_frame))
        if len(kept) == count:
            break
    if not kept:
        raise ValueError(f"No clip of {videos.name} is long enough to hold frames out for validation.")
    return kept


def worker_place() -> tuple[int, int]:
    r"""Number of this worker of a DataLoader, and how many there are; without workers the process is the only one."""
    worker = get_worker_info()
    if worker is None:
        return 0, 1
    import fsspec

    fsspec.asyn.reset_lock()  # a fork may have taken it along locked, and then nothing is ever fetched
    return worker.id, worker.num_workers


def read_pieces(path: Path, frame_size: int, piece_size: int) -> Iterator[torch.Tensor]:
    r"""All frames of a clip, so many at a time, (n, 3, H, W) in [-1, 1]."""
    frames = iter(video_io.VideoReader(path, frame_size))
    while piece := list(itertools.islice(frames, piece_size)):
        yield torch.stack(piece)


class StreamedPieces(IterableDataset):
    r"""
    All frames of a stream's clips, a piece at a time, for each process of a run and each worker of its DataLoader
    those of other clips. Each is a dictionary: `place` of the clip ("00002-000041": shard and number), `name`,
    `frames_per_second`, `frames` of shape `(n, 3, H, W)` in [-1, 1], and `is_last`, whether they are the clip's last.

    Args:
        videos ([`StreamedVideos`]): The data set.
        frame_size (`int`): Height and width of the frames, pixels.
        piece_size (`int`): Frames per piece.
        min_frames (`int`): Shorter clips are skipped.
        process_index (`int`): Which of the run's processes this is.
        num_processes (`int`): How many there are.
        finished (`set[str]`): Places of clips that are not wanted any more.
    """

    def __init__(
        self,
        videos: StreamedVideos,
        frame_size: int,
        piece_size: int,
        min_frames: int,
        process_index: int,
        num_processes: int,
        finished: set[str],
    ):
        self.videos = videos
        self.frame_size, self.piece_size = frame_size, piece_size
        self.opener = ClipOpener(min_frames)
        self.process_index, self.num_processes = process_index, num_processes
        self.finished = finished

    def __iter__(self) -> Iterator[dict[str, object]]:
        worker, num_workers = worker_place()
        reader = self.process_index * num_workers + worker
        for visit in Share(self.videos, reader, self.num_processes * num_workers).visits(num_epochs=1):
            place = f"{visit.shard:05d}-{visit.index:06d}"
            if place not in self.finished:
                with self.opener.open(visit.video) as clip:
                    yield from self._pieces(place, clip) if clip is not None else ()

    def _pieces(self, place: str, clip: VideoClip) -> Iterator[dict[str, object]]:
        description = {"place": place, "name": clip.name, "frames_per_second": clip.frames_per_second}
        pieces = itertools.chain(read_pieces(clip.path, self.frame_size, self.piece_size), [None])
        for frames, following in itertools.pairwise(pieces):
            yield {**description, "frames": frames, "is_last": following is None}
