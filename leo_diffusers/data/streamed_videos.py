"""Data sets of the `datasets` library as streams of video files: from the Hub or from disk, tar shards among them."""

import contextlib
import itertools
import os
import re
import tarfile
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ..video_io.files import VIDEO_SUFFIXES, temporary_beside


@dataclass(frozen=True)
class StreamedVideo:
    r"""
    A clip as a stream brings it: not decoded.

    Args:
        name (`str`): Its path within the data set.
        path (`str`, *optional*): Where its file is, on disk or in the net.
        content (`bytes`, *optional*): Its file, where the stream itself holds it.
    """

    name: str
    path: str | None = None
    content: bytes | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Path]:
        r"""
        The clip as a file on disk, for as long as the context lasts.

        Raises:
            OSError: Where it cannot be fetched.
            ValueError: Where there is neither path nor content.
        """
        if self.content is None and self.path is None:
            raise ValueError("the column is empty")
        if self.content is None and Path(self.path).is_file():
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory(prefix="leo-clip-") as folder:
            path = Path(folder) / (PurePosixPath(self.name).name or "clip")
            path.write_bytes(self._fetch() if self.content is None else self.content)
            yield path

    def _fetch(self) -> bytes:
        import fsspec  # brought by `datasets`, whose addresses these are

        try:
            with fsspec.open(self.path, "rb") as file:
                return file.read()
        except Exception as error:  # every protocol has errors of its own
            raise OSError(f"it cannot be fetched: {error}") from error


class StreamedVideos:
    r"""
    The videos of a data set that `datasets` can stream. Attributes: `num_shards`, its parts that can be read alone.

    Args:
        name (`str`): A data set of the Hub, or a folder of videos, tar shards, parquet or JSON files.
        config_name (`str`, *optional*): Which of its configurations.
        split (`str`): Which of its splits.
        video_column (`str`, *optional*): The column that holds the clips, or their paths or addresses; where it is not
            given there must be one alone whose feature is Video, or whose name is a suffix of videos.
        cache (`Path`, *optional*): Folder that remembers how long each shard is, so that a resumed run need not read
            what it passes over. One per data set.

    Raises:
        OSError: Where there is no such data set, or it cannot be reached.
        ValueError: Where `datasets` is not installed, there is no such split, or the column is not to be found.
    """

    def __init__(
        self,
        name: str,
        config_name: str | None = None,
        split: str = "train",
        video_column: str | None = None,
        cache: Path | None = None,
    ):
        try:
            import datasets
        except ImportError as error:
            raise ValueError('Streams need datasets: `pip install "leo_diffusers[datasets]"`.') from error
        dataset = datasets.load_dataset(name, config_name, split=split, streaming=True)
        features = dataset.features or dict.fromkeys(next(iter(dataset), {}))
        are_videos = {column: isinstance(feature, datasets.Video) for column, feature in features.items()}
        self.name = name
        self.video_column = find_video_column(are_videos, video_column)
        dataset = dataset.cast_column(self.video_column, datasets.Video(decode=False))
        dataset = dataset.select_columns([self.video_column, *features.keys() & {"__key__"}])
        # As tables: on the way to Python objects a file that happens to have a clip's name, in the working directory,
        # would be taken for the clip.
        self._dataset = dataset.with_format("arrow")
        self.num_shards = dataset.num_shards
        self._cache = cache
        self._lengths: dict[int, int] = {}

    def rows(self, shard: int) -> Iterator[StreamedVideo]:
        r"""The clips of a shard, in its order. A damaged one ends where it can be read no further, with a warning."""
        length = 0
        try:
            # `iter`, as the data set itself would split once more between the workers of a DataLoader.
            for table in self._dataset.shard(self.num_shards, shard).iter(batch_size=1):
                yield self._video(table.to_pylist()[0], f"{shard:05d}-{length:06d}")
                length += 1
        except tarfile.TarError as error:
            warnings.warn(f"Shard {shard} of {self.name} is damaged after {length} clips: {error}", stacklevel=2)
        self._lengths[shard] = length
        if self._cache is not None:
            self._cache.mkdir(parents=True, exist_ok=True)
            temporary = temporary_beside(self._length_file(shard))  # several readers may write it at once
            temporary.write_text(str(length))
            os.replace(temporary, self._length_file(shard))

    def known_length(self, shard: int) -> int | None:
        r"""How many clips a shard holds, where it was read to its end before."""
        if shard not in self._lengths and self._cache is not None and self._length_file(shard).is_file():
            self._lengths[shard] = int(self._length_file(shard).read_text())
        return self._lengths.get(shard)

    def _length_file(self, shard: int) -> Path:
        return self._cache / f"{shard:05d}-of-{self.num_shards:05d}"

    def _video(self, row: dict, place: str) -> StreamedVideo:
        value = row[self.video_column] or {"path": None, "bytes": None}
        if value["path"] is None:
            return StreamedVideo(f"{row.get('__key__', place)}.{self.video_column}", content=value["bytes"])
        return StreamedVideo(self._relative(value["path"]), value["path"], value["bytes"])

    def _relative(self, path: str) -> str:
        r"""The path of a clip within its data set."""
        # Of "hf://datasets/owner/name@version/deep/a.mp4", and of "zip://a.mp4::" before an archive's address.
        path = re.sub(r"^hf://datasets/[^/]+/[^/]+/|^\w+://", "", path.split("::")[0])
        root = Path(self.name).absolute()
        return PurePosixPath(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path


def find_video_column(are_videos: dict[str, bool], asked: str | None) -> str:
    r"""
    Which column holds the videos.

    Args:
        are_videos (`dict[str, bool]`): Whether the feature of each column is Video.
        asked (`str`, *optional*): The column, where it is known.

    Raises:
        ValueError: Where it is not there, or not the only one.
    """
    if asked is not None:
        if asked not in are_videos:
            raise ValueError(f"There is no --video_column {asked}: the columns are {', '.join(are_videos)}.")
        return asked
    found = [column for column, is_video in are_videos.items() if is_video]
    found = found or [column for column in are_videos if f".{column}" in VIDEO_SUFFIXES]
    if len(found) != 1:
        raise ValueError(
            f"--video_column is needed, as {len(found)} columns hold videos: choose one of {', '.join(are_videos)}."
        )
    return found[0]


@dataclass(frozen=True)
class Visit:
    r"""
    A reader's turn at a clip.

    Args:
        number (`int`): Counted by the reader, from 0 on.
        shard (`int`): Where the clip is.
        index (`int`): Its number within the shard.
        video ([`StreamedVideo`]): The clip.
    """

    number: int
    shard: int
    index: int
    video: StreamedVideo


class Share:
    r"""
    What one of several readers gets of a data set that they read together, so that each clip goes to one of them:
    whole shards, or where there are fewer of these than readers, every `num_readers`-th clip of all shards.

    Args:
        videos ([`StreamedVideos`]): The data set.
        reader (`int`): Which of the readers.
        num_readers (`int`): How many there are.
        seed (`int`, *optional*): Of the order of shards, which changes with the epoch; without it it is their own.
    """

    def __init__(self, videos: StreamedVideos, reader: int = 0, num_readers: int = 1, seed: int | None = None):
        self.videos = videos
        self.reader = reader
        self.num_readers = num_readers
        self.seed = seed

    def visits(self, start: int = 0, num_epochs: int | None = None) -> Iterator[Visit]:
        r"""
        The clips of the share. Shards of known length that lie before `start` are passed over unread.

        Args:
            start (`int`): Number of the first visit that is wanted.
            num_epochs (`int`, *optional*): Without it they never end.

        Raises:
            ValueError: Where an endless sequence has no clip for this reader.
        """
        number = 0
        for epoch in itertools.count() if num_epochs is None else range(num_epochs):
            shards, offset, step = self._split(epoch)
            first, place = number, 0  # of this epoch; among all clips of these shards
            for shard in shards:
                length = self.videos.known_length(shard)
                num_here = None if length is None else len(range((offset - place) % step, length, step))
                if num_here is not None and number + num_here <= start:
                    number, place = number + num_here, place + length
                    continue
                for index, video in enumerate(self.videos.rows(shard)):
                    if (place + index) % step == offset:
                        if number >= start:
                            yield Visit(number, shard, index, video)
                        number += 1
                place += self.videos.known_length(shard)
            if number == first and num_epochs is None:
                raise ValueError(
                    f"{self.videos.name} has fewer clips than the {self.num_readers} workers that read it, over all "
                    "processes: start fewer of them."
                )

    def _split(self, epoch: int) -> tuple[list[int], int, int]:
        r"""The shards to read in an epoch, and the first and the distance of the clips among theirs."""
        order = np.arange(self.videos.num_shards)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(order)
        if len(order) >= self.num_readers:
            return order[self.reader :: self.num_readers].tolist(), 0, 1
        return order.tolist(), self.reader, self.num_readers
