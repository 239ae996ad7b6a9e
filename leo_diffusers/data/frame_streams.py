"""Frames drawn from streamed clips: what `frame_pairs` gives of data that fit a disk, for data that do not."""

import itertools
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.utils.data import IterableDataset

from .. import video_io
from .clip_streams import ClipOpener, usable_clips, worker_place
from .frame_pairs import augment, make_pair, read_frames
from .streamed_videos import Share, StreamedVideo, StreamedVideos
from .video_clips import VideoClip, hold_out_frames


# To decode a clip costs as much as many items: one of each would leave most of that unused, and many would show the
# same few people for long.
ITEMS_PER_CLIP = 8
CLIPS_PER_DRAW = 8


class ShuffleBuffer:
    r"""
    In which order the items of clips are drawn. It deals with numbers alone, so it is replayed without any clip.

    Until it is full every draw takes in `CLIPS_PER_DRAW` clips, so that the first batch need not wait for all of them
    and yet shows many; then one clip follows when another's worth of items is gone.

    Args:
        size (`int`): Items to choose from, at most; at least those of a clip.
        random (`np.random.Generator`): Where the draws come from.
    """

    def __init__(self, size: int, random: np.random.Generator):
        self.size = size
        self.random = random
        self.slots: list[tuple[int, int]] = []  # number of the visit, number of the item
        self.num_visits = 0

    def choose(self) -> int:
        r"""Draws the place of an item in `slots`, after taking in other clips where there is room."""
        for _ in range(min(CLIPS_PER_DRAW, (self.size - len(self.slots)) // ITEMS_PER_CLIP)):
            self.slots += [(self.num_visits, item) for item in range(ITEMS_PER_CLIP)]
            self.num_visits += 1
        return int(self.random.integers(len(self.slots)))

    def remove(self, place: int) -> None:
        r"""Takes an item out; the last one gets its place."""
        self.slots[place] = self.slots[-1]
        self.slots.pop()


class StreamedFrames(IterableDataset):
    r"""
    Random frames of a stream's clips, the items of [`~data.frame_pairs.RandomFrames`]: for each process of a run and
    each worker of its DataLoader others. [`StreamedFrames.schedule`] comes first.

    Clips pass in the order of shuffled shards. Of each `ITEMS_PER_CLIP` items are drawn, decoded at the first, which
    wait in a [`ShuffleBuffer`]. Everything follows from seed, number of processes, workers and batch: a resumed run
    goes on with the items that the uninterrupted one would have seen, without decoding those before. In place of an
    item of a clip that cannot be used comes one of a clip in the buffer.

    Args:
        videos ([`StreamedVideos`]): The data set.
        frame_size (`int`): Height and width of the frames, pixels.
        held_out (`float`): Share of each clip's frames, at its end, that is not drawn.
        horizontal_flip (`bool`): Whether half of the items are mirrored.
        color_jitter (`float`): Largest relative change of brightness, contrast and saturation; 0 for none.
        seed (`int`): Seed of order and draws.
        cache_gigabytes (`float`): Memory for items that wait, in each worker process. Beside them are the files of
            clips that wait to be decoded.
        min_frames (`int`): Shorter clips are skipped.
    """

    frames_per_item = 1

    def __init__(
        self,
        videos: StreamedVideos,
        frame_size: int,
        held_out: float,
        horizontal_flip: bool = True,
        color_jitter: float = 0.0,
        seed: int = 0,
        cache_gigabytes: float = 4.0,
        min_frames: int = 2,
    ):
        self.videos = videos
        self.frame_size = frame_size
        self.held_out = held_out
        self.horizontal_flip = horizontal_flip
        self.color_jitter = color_jitter
        self.seed = seed
        self.opener = ClipOpener(min_frames)
        item_bytes = self.frames_per_item * 3 * frame_size**2
        self.buffer_size = max(ITEMS_PER_CLIP, round(cache_gigabytes * 1e9) // item_bytes)
        self._batches: range | None = None

    def schedule(self, process_index: int, num_processes: int, batch_size: int, batches: range) -> None:
        r"""
        Which items are wanted.

        Args:
            process_index (`int`): Which of the run's processes this is.
            num_processes (`int`): How many there are.
            batch_size (`int`): Items per batch of one process.
            batches (`range`): Numbers of the batches that each process makes, from the run's beginning on.
        """
        self._process, self._batch_size, self._batches = (process_index, num_processes), batch_size, batches

    def __iter__(self) -> Iterator[dict[str, torch.Tensor | int]]:
        if self._batches is None:
            raise RuntimeError("`schedule` comes first: it says which items are wanted.")
        worker, num_workers = worker_place()
        process_index, num_processes = self._process
        # Batches come from the workers in turns. What gave batch 5 to the run that was stopped must give it again,
        # though the resumed run's turns begin with worker 0.
        first = self._batches.start + worker
        reader = process_index * num_workers + first % num_workers
        share = Share(self.videos, reader, num_processes * num_workers, self.seed)
        items = _Items(self, share, start=first // num_workers * self._batch_size)
        for batch in range(first, self._batches.stop, num_workers):
            start = (batch * num_processes + process_index) * self._batch_size
            for position in range(start, start + self._batch_size):
                yield self.make_item(items.draw(), position)

    def make_item(self, frames: torch.Tensor, position: int) -> dict[str, torch.Tensor | int]:
        r"""Frames (n, 3, H, W) in [-1, 1] by name, and their place among all of the run's, which seeds the noise."""
        return {"frame": frames[0], "position": position}


class StreamedPairs(StreamedFrames):
    r"""Source and driving frames of one clip, the items of [`~data.frame_pairs.FramePairs`]."""

    frames_per_item = 2

    def make_item(self, frames: torch.Tensor, position: int) -> dict[str, torch.Tensor]:
        r"""The two frames (2, 3, H, W) in [-1, 1] by name."""
        return make_pair(frames)


class _Items:
    r"""The items of one share, from the `start`-th on."""

    def __init__(self, dataset: StreamedFrames, share: Share, start: int):
        self.dataset, self.share = dataset, share
        self.buffer = ShuffleBuffer(dataset.buffer_size, self._random(1))
        for _ in range(start):
            self.buffer.remove(self.buffer.choose())
        # The clips of items that still wait are read again, none before them.
        self.num_read = min((visit for visit, _ in self.buffer.slots), default=self.buffer.num_visits)
        self.visits = share.visits(self.num_read)
        self.videos: dict[int, StreamedVideo] = {}  # not decoded yet, by visit
        self.drawn: dict[int, dict[int, np.ndarray | None]] = {}  # by visit and item; None of a clip of no use
        self.spare: dict[int, np.ndarray] | None = None

    def draw(self) -> torch.Tensor:
        r"""The frames of the next item, (n, 3, H, W) in [-1, 1]."""
        place = self.buffer.choose()
        self._read_on()
        visit, item = self.buffer.slots[place]
        pictures = self._pictures(visit, item)
        if pictures is None:
            pictures = self._stand_in(place, item)
        del self.drawn[visit][item]
        if not self.drawn[visit]:
            del self.drawn[visit]
        self.buffer.remove(place)
        frames = torch.stack([video_io.to_frame(picture) for picture in pictures])
        random = self._random(2, visit, item)
        return augment(frames, random, self.dataset.horizontal_flip, self.dataset.color_jitter)

    def _random(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.dataset.seed, self.share.reader, *purpose])

    def _read_on(self) -> None:
        r"""Fetches the clips that the buffer took in, as far as items of theirs wait."""
        num_missing = self.buffer.num_visits - self.num_read
        waiting = {visit for visit, _ in self.buffer.slots} if num_missing else ()
        for visit in itertools.islice(self.visits, num_missing):
            if visit.number in waiting:
                self.videos[visit.number] = visit.video
        self.num_read += num_missing

    def _pictures(self, visit: int, item: int) -> np.ndarray | None:
        r"""An item's frames (n, H, W, 3), uint8; its clip is decoded for all of the clip's items that wait."""
        if visit in self.videos:
            waiting = [other for number, other in self.buffer.slots if number == visit]
            with self.dataset.opener.open(self.videos.pop(visit)) as clip:
                self.drawn[visit] = dict.fromkeys(waiting) if clip is None else self._decode(clip, waiting, 3, visit)
        return self.drawn[visit][item]

    def _stand_in(self, place: int, item: int) -> np.ndarray:
        r"""Frames of another clip that waits; where none can be used, of the first of the data set that can."""
        slots = self.buffer.slots
        for visit, other in slots[place + 1 :] + slots[:place]:
            pictures = self._pictures(visit, other)
            if pictures is not None:
                return pictures
        if self.spare is None:
            for clip in usable_clips(self.dataset.videos, self.dataset.opener):
                self.spare = self._decode(clip, range(ITEMS_PER_CLIP), 4)
                break  # the clip's file goes with the loop
        return self.spare[item]

    def _decode(self, clip: VideoClip, items: Iterable[int], *purpose: int) -> dict[int, np.ndarray]:
        r"""The frames of items of a clip, (n, H, W, 3) each, uint8: a quarter of the memory of floats."""
        (clip,), _ = hold_out_frames([clip], self.dataset.held_out)
        indices = {
            item: self._random(*purpose, item).choice(clip.num_frames, self.dataset.frames_per_item, replace=False)
            for item in items
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of crops and of damage, of each clip each time
            frames = read_frames(clip, self.dataset.frame_size, np.concatenate(list(indices.values())).tolist())
        return {item: np.stack([frames[int(index)] for index in chosen]) for item, chosen in indices.items()}
