import json
import tarfile
from pathlib import Path

import pytest

from leo_diffusers.data.annotations import ClipAnnotation
from leo_diffusers.data.shard_writing import assign_shards, read_keys, sample_key, write_shard


@pytest.fixture
def sample(tmp_path):
    def make(name: str) -> tuple[dict, Path]:
        path = tmp_path / "videos" / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode() * 1000)
        return {"id": name, "split": "train"}, path

    return make


def test_shards_follow_the_list():
    clips = [ClipAnnotation(str(index), "test" if index == 1 else "train", "x") for index in range(6)]
    shards = assign_shards(clips, 2)
    train, test = "train-00000{}.tar", "test-000000.tar"
    assert list(shards.values()) == [train.format(0), test, train.format(0), *[train.format(1)] * 2, train.format(2)]


def test_samples_are_pairs_of_video_and_record(tmp_path, sample):
    path = tmp_path / "a.tar"
    write_shard(path, [sample("x.1"), sample("w")])
    with tarfile.open(path) as shard:
        assert shard.getnames() == ["x_1.mp4", "x_1.json", "w.mp4", "w.json"]
        assert shard.extractfile("x_1.mp4").read() == b"x.1" * 1000
        assert json.load(shard.extractfile("x_1.json")) == {"id": "x.1", "split": "train"}
    assert read_keys(path) == {"x_1", "w"} and read_keys(tmp_path / "nowhere.tar") == set()
    assert sample_key("deep/a.b") == "deep_a_b"


def test_a_shard_that_grew_equals_one_written_at_once(tmp_path, sample):
    samples = [sample(name) for name in "abc"]
    write_shard(tmp_path / "once.tar", samples)
    write_shard(tmp_path / "grown.tar", [samples[0], samples[2]])
    samples[0][1].unlink()
    samples[2][1].unlink()
    write_shard(tmp_path / "grown.tar", samples)
    assert (tmp_path / "grown.tar").read_bytes() == (tmp_path / "once.tar").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"once.tar", "grown.tar", "videos"}


def test_damaged_shards_are_named(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(ValueError, match=r"a\.tar is damaged: delete it"):
        read_keys(tmp_path / "a.tar")
