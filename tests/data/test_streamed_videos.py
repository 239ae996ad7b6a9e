import itertools
import sys
import tarfile
from pathlib import Path

import datasets
import pytest
import torch

from leo_diffusers.data.shard_writing import sample_key, write_shard
from leo_diffusers.data.streamed_videos import Share, StreamedVideos, find_video_column


NAMES = ["a.mp4", "b.mp4", "c.mp4", "deep/d.mp4", "e.mp4", "f.mp4", "g.mp4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_clip) -> Path:
    """Clips of different lengths, so that no two files are alike."""
    folder = tmp_path_factory.mktemp("streams") / "clips"
    for number, name in enumerate(NAMES):
        write_clip(folder / name, torch.full((3 + number, 3, 16, 16), -0.5))
    return folder


def write_tars(clips: Path, target: Path, counts: list[int], names: list[str] = NAMES) -> Path:
    """Shards of so many clips; what records say changes after the rows that features are inferred from."""
    target.mkdir()
    remaining = iter(enumerate(names))
    for shard, count in enumerate(counts):
        samples = [
            ({"id": name.removesuffix(".mp4"), "fps": None if number < 5 else "25/1"}, clips / name)
            for number, name in itertools.islice(remaining, count)
        ]
        write_shard(target / f"train-{shard:06d}.tar", samples)
    (target / "settings.json").write_text("{}")
    (target / "manifest.jsonl").write_text('{"id": "a"}\n{"id": "b"}\n')
    return target


@pytest.fixture(scope="module")
def tars(folder) -> Path:
    return write_tars(folder, folder.parent / "tars", [2, 1, 4])


@pytest.fixture(scope="module")
def tables(folder) -> dict[str, Path]:
    """Parquet with the files themselves in it, and JSON lines with their paths."""
    paths = [str(folder / name) for name in NAMES]
    tables = {name: folder.parent / name for name in ("parquet", "json")}
    for table in tables.values():
        table.mkdir()
    datasets.Dataset.from_dict({"film": [Path(path).read_bytes() for path in paths]}).to_parquet(
        tables["parquet"] / "train.parquet"
    )
    datasets.Dataset.from_dict({"film": paths, "rating": [1.5] * len(paths)}).to_json(tables["json"] / "train.jsonl")
    return tables


def contents(videos: StreamedVideos) -> dict[str, bytes]:
    files = {}
    for visit in Share(videos).visits(num_epochs=1):
        with visit.video.open() as path:
            files[visit.video.name] = path.read_bytes()
    return files


def test_a_folder_is_streamed_under_its_names(folder):
    assert contents(StreamedVideos(str(folder))) == {name: (folder / name).read_bytes() for name in NAMES}


def test_tar_shards_are_streamed_under_their_keys(folder, tars):
    videos = StreamedVideos(str(tars))
    assert videos.num_shards == 3 and videos.video_column == "mp4"
    keys = {f"{sample_key(name.removesuffix('.mp4'))}.mp4": name for name in NAMES}
    assert contents(videos) == {key: (folder / name).read_bytes() for key, name in keys.items()}


def test_tables_are_streamed(folder, tables):
    expected = [(folder / name).read_bytes() for name in NAMES]
    for kind, table in tables.items():
        found = contents(StreamedVideos(str(table), video_column="film"))
        assert sorted(found.values()) == sorted(expected), kind
        assert len(found) == len(NAMES)


def test_a_file_of_a_clips_name_nearby_is_not_taken_for_the_clip(folder, tars, tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_text("another film")
    monkeypatch.chdir(tmp_path)
    assert contents(StreamedVideos(str(tars)))["a.mp4"] == (folder / "a.mp4").read_bytes()


def test_temporary_files_go(tars):
    (visit, *_) = Share(StreamedVideos(str(tars))).visits(num_epochs=1)
    with visit.video.open() as path:
        assert path.name == visit.video.name and path.is_file()
    assert not path.parent.exists()


def read(videos: StreamedVideos, num_readers: int, num_epochs: int, seed: int | None) -> list[list[str]]:
    """The names that each reader gets."""
    shares = [Share(videos, reader, num_readers, seed) for reader in range(num_readers)]
    return [[visit.video.name for visit in share.visits(num_epochs=num_epochs)] for share in shares]


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("num_readers", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("source", ["folder", "tars"])
def test_readers_share_an_epoch_without_repeats_or_gaps(request, source, num_readers, seed):
    videos = StreamedVideos(str(request.getfixturevalue(source)))
    names = sorted(contents(videos))
    for num_epochs in (1, 3):
        shares = read(videos, num_readers, num_epochs, seed)
        assert sorted(itertools.chain(*shares)) == sorted(names * num_epochs)
        if source == "folder":  # one shard: split by number
            lengths = [len(share) for share in shares]
            assert max(lengths) - min(lengths) <= num_epochs


def test_shards_come_in_another_order_in_every_epoch(tars):
    videos = StreamedVideos(str(tars))
    assert read(videos, 2, 4, seed=1) == read(videos, 2, 4, seed=1) != read(videos, 2, 4, seed=2)
    (names,) = read(videos, 1, 12, seed=1)
    epochs = {tuple(names[start : start + len(NAMES)]) for start in range(0, len(names), len(NAMES))}
    assert 3 <= len(epochs) <= 6
    assert all(epoch.index("a.mp4") + 1 == epoch.index("b.mp4") for epoch in epochs)  # within a shard it stays


class Watched(StreamedVideos):
    """Tells which shards were read."""

    def rows(self, shard):
        self.read = [*getattr(self, "read", []), shard]
        return super().rows(shard)


@pytest.mark.parametrize("num_readers", [1, 2, 5])
def test_reading_goes_on_anywhere_and_passes_over_what_it_knows(tars, tmp_path, num_readers):
    videos = StreamedVideos(str(tars), cache=tmp_path / "cache")
    for reader in range(num_readers):
        share = Share(videos, reader, num_readers, seed=3)
        visits = list(share.visits(num_epochs=4))
        for start in (0, 1, len(visits) // 2, len(visits) - 1):
            for cache in (None, tmp_path / "cache"):
                again = Watched(str(tars), cache=cache)
                share = Share(again, reader, num_readers, seed=3)
                found = list(itertools.islice(share.visits(start), len(visits) - start))
                assert found == visits[start:]
                if cache is not None:
                    num_epochs_left = 4 - start * 4 // len(visits)
                    assert len(again.read) <= 3 * num_epochs_left


def test_a_damaged_shard_is_read_as_far_as_it_goes(folder, tmp_path):
    tars = write_tars(folder, tmp_path / "tars", [3, 4])
    path = tars / "train-000001.tar"
    with tarfile.open(path) as shard:
        end = shard.getmember("f.mp4").offset_data + 10
    path.write_bytes(path.read_bytes()[:end])
    videos = StreamedVideos(str(tars))
    with pytest.warns(UserWarning, match="Shard 1 of .*tars is damaged after 2 clips"):
        (names,) = read(videos, 1, 1, seed=None)
    assert names == ["a.mp4", "b.mp4", "c.mp4", "deep_d.mp4", "e.mp4"]


def test_readers_without_clips_are_refused(tars):
    share = Share(StreamedVideos(str(tars)), reader=7, num_readers=8, seed=0)
    with pytest.raises(ValueError, match="fewer clips than the 8 workers that read it"):
        next(share.visits())
    assert list(share.visits(num_epochs=1)) == []


def test_the_column_is_found_or_asked_for():
    assert find_video_column({"label": False, "film": True}, None) == "film"
    assert find_video_column({"webm": False, "json": False}, None) == "webm"
    assert find_video_column({"x": False, "film": True}, "x") == "x"
    with pytest.raises(ValueError, match="There is no --video_column y: the columns are x, film"):
        find_video_column({"x": False, "film": True}, "y")
    with pytest.raises(ValueError, match="needed, as 2 columns hold videos: choose one of before, after, n"):
        find_video_column({"before": True, "after": True, "n": False}, None)
    with pytest.raises(ValueError, match="needed, as 0 columns hold videos: choose one of text"):
        find_video_column({"text": False}, None)


def test_what_cannot_be_opened_is_refused(tars, monkeypatch):
    with pytest.raises(OSError, match="nowhere"):
        StreamedVideos(str(tars / "nowhere"))
    with pytest.raises(ValueError, match="tost"):
        StreamedVideos(str(tars), split="tost")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"Streams need datasets: `pip install \"leo_diffusers\[datasets\]\"`"):
        StreamedVideos(str(tars))
