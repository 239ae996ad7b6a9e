import json

import pytest

from leo_diffusers.data.annotations import ClipAnnotation
from leo_diffusers.data.manifest import Manifest, write_atomically


RECORDS = [{"id": name, "split": split, "status": "complete"} for split, name in [("train", "b"), ("test", "c")]]


@pytest.fixture
def read_lines():
    return lambda path: [json.loads(line) for line in path.read_text().splitlines()]


def test_records_are_on_disk_at_once_and_sorted_at_the_end(tmp_path, read_lines):
    path = tmp_path / "manifest.jsonl"
    manifest = Manifest(path)
    for record in RECORDS:
        manifest.add(record)
    assert read_lines(path) == RECORDS
    changed = RECORDS[0] | {"status": "failed"}
    manifest.add(changed)
    assert manifest.of(ClipAnnotation("b", "train", "x")) == changed
    assert manifest.of(ClipAnnotation("b", "test", "x")) is None
    manifest.close()
    assert read_lines(path) == [RECORDS[1], changed]
    assert Manifest(path).records == manifest.records


def test_a_line_that_was_cut_off_is_forgotten(tmp_path, read_lines):
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n" + json.dumps(RECORDS[1])[:20])
    manifest = Manifest(path)
    manifest.add(RECORDS[1])
    assert read_lines(path) == RECORDS


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text("nonsense\n" + json.dumps(RECORDS[1]) + "\n")
    with pytest.raises(ValueError, match="line 1 is damaged"):
        Manifest(path)


def test_files_are_replaced_whole(tmp_path):
    write_atomically(tmp_path / "a.txt", "one")
    write_atomically(tmp_path / "a.txt", "two")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "two")]
