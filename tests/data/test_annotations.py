import json
from pathlib import Path

import pytest

from leo_diffusers.data.annotations import (
    ClipAnnotation,
    find_faceforensics,
    find_folder,
    index_downloads,
    read_celebvhq_annotations,
    read_csv_annotations,
    read_ucf101_annotations,
)


HEADER = "video_id,start,end,bbox,fps,width,height,partition"
ROW = "a-_bCdEfGhI,80,300,118-82-508-472,29.97,640,480,train"
CELEBVHQ_CLIP = {
    "ytb_id": "abc",
    "duration": {"start_sec": 81.62, "end_sec": 86.17},
    "bbox": {"top": 0.0, "bottom": 0.8815, "left": 0.1964, "right": 0.6922},
    "attributes": {"appearance": [0, 1]},
    "version": "v0.1",
}


@pytest.fixture
def write(tmp_path):
    def write_lines(name: str, *lines: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
        return path

    return write_lines


def test_rows_of_the_csv_files(write):
    path = write("taichi.csv", HEADER, ROW, "x#y#z,0,64,0-0-10-10,25.0,20,20,test")
    assert read_csv_annotations(path) == [
        ClipAnnotation(
            "a-_bCdEfGhI#000080#000300",
            "train",
            "a-_bCdEfGhI",
            80,
            300,
            29.97,
            (118, 82, 508, 472),
            (640, 480),
        ),
        # What follows the video's id comes before it, as the reference script names clips.
        ClipAnnotation("z#y#x#000000#000064", "test", "x", 0, 64, 25, (0, 0, 10, 10), (20, 20)),
    ]
    path = write("vox.csv", HEADER + ",person_id", ROW + ",id10005")
    assert read_csv_annotations(path)[0].id == "id10005#a-_bCdEfGhI#000080#000300"


def test_of_two_rows_with_one_name_the_later_counts(write):
    rows = read_csv_annotations(write("a.csv", HEADER, ROW, ROW.replace("118-", "119-")))
    assert [row.bbox[0] for row in rows] == [119]


def test_the_wrong_ted_list_is_refused(write):
    path = write("ted-metadata.csv", HEADER, "VM6HZqQKhok#016609#016737,0,0,104-10-665-570,10.0,944,944,train")
    with pytest.raises(ValueError, match=r"start and end are all 0.*ted384-metadata\.csv.*issue #12"):
        read_csv_annotations(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (ROW.replace("80,300", "300,80"), r"line 3: .*end \(80\) must come after start \(300"),
        (ROW.replace("80,300", "80,x"), "line 3: invalid literal for int.*'x'"),
        (ROW.replace("118-82-508-472", "118-82-508"), "line 3: bbox, fps, width or height is out of range"),
        (ROW.replace("118-82-508-472", "508-82-118-472"), "line 3: .*bbox must be left, top, right, bottom"),
        (ROW.replace("29.97", "0"), "line 3: bbox, fps, width or height is out of range"),
        (ROW.replace("29.97", "inf"), "line 3: bbox, fps, width or height is out of range"),
        (ROW.replace("a-_", "../"), r"line 3: '\.\./bCdEfGhI' is no YouTube id"),
        (ROW.replace("train", ".."), "line 3: .*cannot name a file"),
        ("a,80", "line 3: "),
    ],
)
def test_damaged_rows_are_named(write, line, message):
    with pytest.raises(ValueError, match=message):
        read_csv_annotations(write("a.csv", HEADER, ROW, line))


def test_other_csv_files_are_refused(write, tmp_path):
    with pytest.raises(ValueError, match="must have the columns video_id, .*; partition are missing"):
        read_csv_annotations(write("old.csv", HEADER.removesuffix(",partition"), ROW))
    with pytest.raises(ValueError, match="holds no rows"):
        read_csv_annotations(write("empty.csv", HEADER))
    with pytest.raises(FileNotFoundError):
        read_csv_annotations(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="is a folder: name the list in it"):
        read_csv_annotations(tmp_path)


@pytest.mark.parametrize("read", [read_csv_annotations, read_celebvhq_annotations])
def test_a_video_is_no_list(tmp_path, read):
    (tmp_path / "a.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom\xff\xfe")
    with pytest.raises(ValueError, match=r"a\.mp4 is no text file: "):
        read(tmp_path / "a.mp4")


def test_clips_of_celebvhq(write):
    path = write("info.json", json.dumps({"meta_info": {}, "clips": {"abc_0": CELEBVHQ_CLIP}}))
    assert read_celebvhq_annotations(path) == [
        ClipAnnotation(
            "abc_0", "train", "abc", 81.62, 86.17, None, bbox=(0.1964, 0.0, 0.6922, 0.8815), picture_size=(1, 1)
        )
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", r"is not CelebV-HQ's celebvhq_info\.json"),
        ({"videos": {}}, r"is not CelebV-HQ's celebvhq_info\.json"),
        ({"clips": {}}, "holds no clips"),
        ({"clips": {"a": {"ytb_id": "x"}}}, "clip 'a' has another format: 'duration'"),
        ({"clips": {"../a": CELEBVHQ_CLIP}}, "cannot name a file"),
    ],
)
def test_other_json_files_are_refused(write, content, message):
    with pytest.raises(ValueError, match=message):
        read_celebvhq_annotations(write("info.json", content if isinstance(content, str) else json.dumps(content)))


def test_lists_of_ucf101(write, tmp_path):
    write("trainlist02.txt", "Archery/v_Archery_g08_c01.avi 3", "Diving/v_Diving_g01_c02.avi 26")
    with pytest.raises(FileNotFoundError, match="testlist02"):
        read_ucf101_annotations(tmp_path, 2)
    write("testlist02.txt", "Archery/v_Archery_g01_c01.avi")
    assert read_ucf101_annotations(tmp_path, 2) == [
        ClipAnnotation("Archery/v_Archery_g08_c01", "train", "Archery/v_Archery_g08_c01.avi"),
        ClipAnnotation("Diving/v_Diving_g01_c02", "train", "Diving/v_Diving_g01_c02.avi"),
        ClipAnnotation("Archery/v_Archery_g01_c01", "test", "Archery/v_Archery_g01_c01.avi"),
    ]
    write("testlist02.txt", "1 Archery")
    with pytest.raises(ValueError, match=r"testlist02\.txt, line 1 must be <class>/<video>\.avi, got '1 Archery'"):
        read_ucf101_annotations(tmp_path, 2)


def test_videos_of_faceforensics(write, tmp_path):
    with pytest.raises(ValueError, match="is not FaceForensics_compressed"):
        find_faceforensics(tmp_path)
    for name in ("test/original/b.avi", "train/original/c.avi", "train/original/a.avi", "train/altered/a.avi"):
        write(name, "video")
    assert find_faceforensics(tmp_path) == [
        ClipAnnotation("a", "train", "train/original/a.avi", mask="train/mask/a.avi"),
        ClipAnnotation("c", "train", "train/original/c.avi", mask="train/mask/c.avi"),
        ClipAnnotation("b", "test", "test/original/b.avi", mask="test/mask/b.avi"),
    ]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_faceforensics(tmp_path / "nowhere")


def test_videos_of_a_folder(write, tmp_path):
    for name in ("b.mp4", "deep/a.b.avi", "frames.1/000000.png"):
        write(name, "video")
    write("metadata.csv", "file_name,split", "deep/a.b.avi,test")
    assert find_folder(tmp_path, "train") == [
        ClipAnnotation("b", "train", "b.mp4"),
        ClipAnnotation("deep/a.b", "test", "deep/a.b.avi"),
        ClipAnnotation("frames.1", "train", "frames.1"),
    ]
    write("b.avi", "video")
    with pytest.raises(ValueError, match=r"b\.avi and b\.mp4 would get one name, b: rename one"):
        find_folder(tmp_path, "train")
    with pytest.raises(ValueError, match="is itself a video"):
        find_folder(tmp_path / "frames.1", "train")


def test_downloads_are_found_by_id(write, tmp_path):
    for name in ("a.mp4", "deep/b.webm", "c.mp4.part", "d.f137.mp4", "other.mp4"):
        write(name, "video")
    found = {"a": tmp_path / "a.mp4", "b": tmp_path / "deep" / "b.webm"}
    assert index_downloads(tmp_path, iter("abcd")) == found
    assert index_downloads(tmp_path / "nowhere", "a") == {}
