import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from leo_diffusers.data.annotations import ClipAnnotation
from leo_diffusers.data.manifest import COMPLETE, DROPPED
from leo_diffusers.data.preparation import PreparationSettings, make_record
from leo_diffusers.data.prepared_folder import PreparedFolder


LISTED = [ClipAnnotation(name, "test" if name == "d" else "train", "x") for name in "abcdef"]
MP4 = PreparationSettings(size=16, crop="centre", format="mp4")
SHARDS = replace(MP4, format="webdataset")


def open_folder(root: Path, settings=MP4, listed=LISTED, name="folder", clips_per_shard=2) -> PreparedFolder:
    folder = PreparedFolder(root, name, listed, settings, clips_per_shard)
    folder.open()
    return folder


def complete(folder: PreparedFolder, *annotations: ClipAnnotation) -> None:
    """As prepare_clip does it."""
    for annotation in annotations:
        path = folder.output_of(annotation)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"video of {annotation.id}")
        folder.add(annotation, make_record(annotation, folder.settings) | {"status": COMPLETE})


def drop(folder: PreparedFolder, annotation: ClipAnnotation) -> None:
    folder.add(annotation, make_record(annotation, folder.settings) | {"status": DROPPED, "failure": "too short"})


def names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def contents(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in names(root)}


def members(path: Path) -> list[str]:
    with tarfile.open(path) as shard:
        return [name for name in shard.getnames() if name.endswith(".mp4")]


def test_what_is_done_is_not_done_again(tmp_path):
    folder = open_folder(tmp_path / "out")
    assert folder.remaining(LISTED) == LISTED
    complete(folder, LISTED[1], LISTED[3], LISTED[4])
    drop(folder, LISTED[0])
    folder.add_failure(LISTED[2], "there is no video x")
    folder.close()
    assert names(folder.root) == {
        "train/b.mp4",
        "test/d.mp4",
        "train/e.mp4",
        "manifest.jsonl",
        "metadata.csv",
        "settings.json",
    }
    assert (folder.root / "metadata.csv").read_text() == (
        "file_name,split\ntest/d.mp4,test\ntrain/b.mp4,train\ntrain/e.mp4,train\n"
    )
    (folder.root / "train" / "e.mp4").unlink()
    folder = open_folder(tmp_path / "out")
    assert folder.remaining(LISTED) == [LISTED[2], LISTED[4], LISTED[5]]
    assert folder.manifest.of(LISTED[2])["failure"] == "there is no video x"


def test_shards_are_written_when_their_clips_are_done(tmp_path):
    folder = open_folder(tmp_path / "out", SHARDS)  # train: a b, c e, f; test: d
    folder.remaining(LISTED[:5])
    complete(folder, LISTED[0], LISTED[4])
    assert not list(folder.root.glob("*.tar"))
    folder.add_failure(LISTED[1], "there is no video x")
    assert members(folder.root / "train-000000.tar") == ["a.mp4"]
    complete(folder, LISTED[2], LISTED[3])
    assert members(folder.root / "train-000001.tar") == ["c.mp4", "e.mp4"]
    assert folder.manifest.of(LISTED[4])["file"] == "train-000001.tar"
    folder.close()
    shards = {"train-000000.tar", "train-000001.tar", "test-000000.tar"}
    assert names(folder.root) == shards | {"manifest.jsonl", "settings.json"}
    # What failed, and what was not asked for, is added later.
    folder = open_folder(tmp_path / "out", SHARDS)
    assert folder.remaining(LISTED) == [LISTED[1], LISTED[5]]
    complete(folder, LISTED[5], LISTED[1])
    folder.close()
    assert members(folder.root / "train-000000.tar") == ["a.mp4", "b.mp4"]
    at_once = open_folder(tmp_path / "at_once", SHARDS)
    at_once.remaining(LISTED)
    complete(at_once, *LISTED)
    at_once.close()
    assert contents(folder.root) == contents(at_once.root)


def test_staged_clips_of_a_killed_run_reach_their_shard(tmp_path):
    folder = open_folder(tmp_path / "out", SHARDS)
    folder.remaining(LISTED)
    complete(folder, LISTED[0])
    folder = open_folder(tmp_path / "out", SHARDS)
    assert folder.remaining(LISTED[:1]) == []
    folder.close()
    assert members(folder.root / "train-000000.tar") == ["a.mp4"]
    (folder.root / "train-000000.tar").unlink()
    assert open_folder(tmp_path / "out", SHARDS).remaining(LISTED) == LISTED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": replace(MP4, size=32)}, "was begun with size 16, not 32: repeat that"),
        ({"settings": replace(MP4, format="png")}, "was begun with format mp4, not png"),
        ({"name": "taichi"}, "was begun with data_set folder, not taichi"),
    ],
)
def test_other_settings_need_another_folder(tmp_path, changes, message):
    open_folder(tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path / "out", **changes)
    assert open_folder(tmp_path / "out", listed=LISTED[:2]).remaining(LISTED[:2]) == LISTED[:2]


def test_shards_need_the_same_list(tmp_path):
    open_folder(tmp_path / "out", SHARDS)
    with pytest.raises(ValueError, match="was begun with clips_per_shard 2, not 3"):
        open_folder(tmp_path / "out", SHARDS, clips_per_shard=3)
    with pytest.raises(ValueError, match="was begun with list"):
        open_folder(tmp_path / "out", SHARDS, listed=LISTED[1:])


def test_folders_with_other_files_are_refused(tmp_path):
    (tmp_path / "precious.mp4").touch()
    with pytest.raises(ValueError, match="holds other files already: name a new folder"):
        open_folder(tmp_path)
    with pytest.raises(ValueError, match=r"precious\.mp4 is a file: name a folder"):
        open_folder(tmp_path / "precious.mp4")


def test_clips_that_would_share_a_file_are_refused(tmp_path):
    listed = [ClipAnnotation(name, "train", "x") for name in ("a", "a/b")]
    with pytest.raises(ValueError, match="The frames of a/b would lie between those of another clip"):
        open_folder(tmp_path / "out", replace(MP4, format="png"), listed)
    open_folder(tmp_path / "videos", MP4, listed)
    listed = [ClipAnnotation(name, "train", "x") for name in ("a_b", "a/b")]
    with pytest.raises(ValueError, match="Several clips would get the key a_b"):
        open_folder(tmp_path / "out", SHARDS, listed)
    assert not (tmp_path / "out").exists()


def test_settings_are_written_down(tmp_path):
    root = open_folder(tmp_path / "out", SHARDS).root
    found = json.loads((root / "settings.json").read_text())
    assert found["data_set"] == "folder" and found["format"] == "webdataset" and found["clips_per_shard"] == 2
