import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers.data.talking_heads import render_clip
from leo_diffusers.data.video_clips import find_clips
from leo_diffusers.video_io import VideoReader, VideoWriter, read_video, to_frame, to_pil


REPOSITORY = Path(__file__).resolve().parents[2]
CLIPS = REPOSITORY.parent / "shared" / "clips"
HEADER = "video_id,start,end,bbox,fps,width,height,partition"
OPTIONS = ["--size", 16, "--min_frames", 4, "--num_workers", 1]
COUNTS = {"one": 12, "two": 8, "three": 3}


def write_video(path: Path, num_frames: int, seed: int = 0, size: int = 32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, 25) as writer:
        for frame in render_clip(seed, seed, num_frames, size).frames:
            writer.write(to_frame(frame))
    return path


def read_picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def expected_picture(video: Path, index: int, box, resampling, size: int = 16) -> np.ndarray:
    return np.asarray(to_pil(read_video(video)[index]).crop(box).resize((size, size), resampling))


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Three rendered videos under their ids, and one that is broken."""
    folder = tmp_path_factory.mktemp("data") / "videos"
    for seed, (name, num_frames) in enumerate(COUNTS.items()):
        write_video(folder / f"{name}.mp4", num_frames, seed)
    (folder / "broken.mp4").write_text("this is no video")
    return folder


@pytest.fixture
def metadata(tmp_path) -> Path:
    path = tmp_path / "metadata.csv"
    rows = [
        "two,1,7,0-0-64-64,25,64,64,train",
        "one,0,5,4-6-60-62,25,64,64,train",
        "one,5,12,4-6-60-62,25,64,64,test",
        "three,0,3,0-0-64-64,25,64,64,train",
        "broken,0,9,0-0-64-64,25,64,64,train",
        "gone,0,9,0-0-64-64,25,64,64,test",
    ]
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


@pytest.fixture
def prepare(run_example, videos, tmp_path):
    def run(data_set: str, *options, output: Path = tmp_path / "out", videos: Path = videos, **kwargs) -> str:
        paths = ["--videos", videos, "--output_dir", output]
        return run_example("prepare_dataset.py", data_set, *paths, *OPTIONS, *options, **kwargs)

    return run


def test_clips_of_a_csv_file(prepare, videos, metadata, tmp_path, read_lines):
    said = prepare("taichi", "--metadata", metadata)
    assert "out holds 3 of 6 clips (0 with scene cuts, 0 upscaled); 1 dropped, 2 failed: broken#000000#000009" in said
    records = {record["id"]: record for record in read_lines(tmp_path / "out" / "manifest.jsonl")}
    statuses = {clip_id: (record["status"], record["num_frames"]) for clip_id, record in records.items()}
    assert statuses == {
        "one#000000#000005": ("complete", 5),
        "one#000005#000012": ("complete", 7),
        "two#000001#000007": ("complete", 6),
        "three#000000#000003": ("dropped", 3),
        "broken#000000#000009": ("failed", 0),
        "gone#000000#000009": ("failed", 0),
    }
    assert records["gone#000000#000009"]["failure"] == "there is no video gone in --videos"
    assert str(tmp_path) not in json.dumps(records)
    folder = tmp_path / "out" / "test" / "one#000005#000012"
    expected = expected_picture(videos / "one.mp4", 5, (2, 3, 30, 31), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(read_picture(folder / "0000000.png"), expected)
    for split, names in {"train": ["one#000000#000005", "two#000001#000007"], "test": ["one#000005#000012"]}.items():
        clips, report = find_clips(tmp_path / "out", split=split)
        assert [clip.name for clip in clips] == [f"{split}/{name}" for name in names] and report.summary() == ""


def test_clips_of_celebvhq(prepare, videos, tmp_path):
    clip = {
        "ytb_id": "one",
        "duration": {"start_sec": 0.08, "end_sec": 0.4},
        "bbox": {"top": 0.02, "bottom": 0.98, "left": 0.27, "right": 0.73},
    }
    (tmp_path / "info.json").write_text(json.dumps({"clips": {"one_0": clip}}))
    prepare("celebvhq", "--info", tmp_path / "info.json", "--format", "jpg")
    folder = tmp_path / "out" / "train" / "one_0"
    assert sorted(os.listdir(folder))[-1] == "0000007.jpg"
    # Widened to 8..24 columns and 0..32 rows; of that the central square.
    expected = expected_picture(videos / "one.mp4", 2, (8, 8, 24, 24), Image.Resampling.LANCZOS)
    Image.fromarray(expected).save(tmp_path / "expected.jpg", quality=75)
    assert (folder / "0000000.jpg").read_bytes() == (tmp_path / "expected.jpg").read_bytes()


@pytest.mark.parametrize("crop", ["per_frame", "wide"])
def test_clips_of_faceforensics(prepare, tmp_path, crop):
    videos, size = tmp_path / "FaceForensics_compressed", (32, 32)
    for name in ("train/original/a.avi", "train/original/b.avi", "val/original/c.avi"):
        write_video(videos / name, 5)
    (videos / "train" / "mask").mkdir()
    with VideoWriter(videos / "train" / "mask" / "a.avi", 25) as writer:
        for index in range(5):
            mask = torch.ones(3, *size)
            mask[:, 4 + index : 15 + index, 8 + index : 19 + index] = -1
            writer.write(mask)
    said = prepare("faceforensics", "--crop", crop, videos=videos)
    assert "holds 1 of 2 clips" in said and "b (there is no video train/mask/b.avi in --videos)" in said
    found = read_picture(tmp_path / "out" / "train" / "a" / "0000004.png").astype(float)
    original, distances = videos / "train" / "original" / "a.avi", {}
    for name, box in {"per_frame": (12, 8, 22, 18), "wide": (8, 4, 22, 18)}.items():
        distances[name] = np.abs(found - expected_picture(original, 4, box, Image.Resampling.LANCZOS)).mean()
    # MPEG-4 blurs the mask's border, so the box may be a pixel larger.
    assert distances.pop(crop) < 12 < min(distances.values())


def test_clips_of_ucf101(prepare, tmp_path):
    videos, lists = tmp_path / "UCF-101", tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Archery/v_Archery_g08_c01.avi 3\nArchery/v_Archery_g08_c02.avi 3\n")
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\n")
    for name in ("g08_c01", "g01_c01"):
        write_video(videos / "Archery" / f"v_Archery_{name}.avi", 5)
    said = prepare("ucf101", "--lists", lists, "--format", "mp4", videos=videos)
    assert "holds 2 of 3 clips" in said and "v_Archery_g08_c02 (there is no video" in said
    clips, _ = find_clips(tmp_path / "out", split="test")
    assert [clip.name for clip in clips] == ["test/Archery/v_Archery_g01_c01.mp4"]
    said = prepare("ucf101", "--lists", lists, "--format", "mp4", "--split", "test", videos=videos)
    assert "holds 1 of 1 clips" in said


def test_clips_of_a_folder(prepare, videos, tmp_path):
    folder = tmp_path / "recordings"
    shutil.copytree(videos, folder / "deep")
    (folder / "metadata.csv").write_text("file_name,split\ndeep/one.mp4,test\n")
    options = ["--format", "mp4", "--fps", 12.5, "--drop_scene_cuts", "--drop_upscaled"]
    prepare("folder", *options, videos=folder)
    clips, _ = find_clips(tmp_path / "out", split=None)
    found = [(clip.name, clip.num_frames, clip.frames_per_second) for clip in clips]
    assert found == [("test/deep/one.mp4", 6, 12.5), ("train/deep/two.mp4", 4, 12.5)]
    frames = read_video(folder / "deep" / "one.mp4", 16)[::2]
    assert (read_video(clips[0].path) - frames).abs().mean() < 0.04  # H.264 is lossy


def test_shards_hold_the_same_clips(prepare, metadata, tmp_path, read_lines):
    prepare("voxceleb", "--metadata", metadata, "--format", "mp4", output=tmp_path / "mp4")
    options = ["--metadata", metadata, "--format", "webdataset", "--clips_per_shard", 1]
    prepare("voxceleb", *options, "--limit", 1)
    prepare("voxceleb", *options)
    out = tmp_path / "out"
    shards = {"train-000000.tar", "train-000001.tar", "test-000000.tar"}
    assert {path.name for path in out.iterdir()} == shards | {"manifest.jsonl", "settings.json"}
    for record in read_lines(out / "manifest.jsonl"):
        if record["status"] != "complete":
            continue
        with tarfile.open(out / record["file"]) as shard:
            video = shard.extractfile(f"{record['id']}.mp4").read()
            assert json.load(shard.extractfile(f"{record['id']}.json")) == record
        assert video == (tmp_path / "mp4" / record["split"] / f"{record['id']}.mp4").read_bytes()


def test_processes_give_the_same_result_in_any_order(run_example, videos, metadata, tmp_path):
    for num_workers in (1, 2):
        options = ["--metadata", metadata, "--videos", videos, "--output_dir", tmp_path / f"out{num_workers}"]
        run_example("prepare_dataset.py", "taichi", *options, *OPTIONS[:-1], num_workers)
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")


def test_a_killed_run_goes_on(prepare, tmp_path):
    folder, out = tmp_path / "videos", tmp_path / "out"
    video = write_video(folder / "00.mp4", 12)
    for index in range(1, 16):
        shutil.copy(video, folder / f"{index:02d}.mp4")
    prepare("folder", "--format", "jpg", videos=folder, output=tmp_path / "straight")
    words = ["folder", "--videos", folder, "--output_dir", out, "--format", "jpg", *OPTIONS]
    command = [sys.executable, "examples/prepare_dataset.py", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipe = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True, **pipe)
    manifest = out / "manifest.jsonl"
    while process.poll() is None and not (manifest.is_file() and manifest.read_text().count("\n") >= 7):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    num_done = manifest.read_text().count("\n")
    assert 7 <= num_done < 16 and not (out / "metadata.csv").exists()
    done = {path: path.stat().st_mtime_ns for path in out.rglob("0000000.jpg") if ".partial" not in path.parts}
    said = prepare("folder", "--format", "jpg", videos=folder)
    assert "holds 16 of 16 clips" in said and f"{num_done}/16" in said  # the bar begins there
    assert contents(out) == contents(tmp_path / "straight")
    unchanged = [path for path, changed in done.items() if path.stat().st_mtime_ns == changed]
    assert len(unchanged) >= len(done) - 1  # one may have been written, but not yet noted


def test_what_failed_is_tried_again(prepare, videos, metadata, tmp_path):
    some, out = tmp_path / "some", tmp_path / "out"
    some.mkdir()
    shutil.copy(videos / "one.mp4", some)
    assert "holds 2 of 6 clips" in prepare("taichi", "--metadata", metadata, videos=some)
    kept = out / "test" / "one#000005#000012" / "0000000.png"
    written = kept.stat().st_mtime_ns
    assert "holds 3 of 6 clips" in prepare("taichi", "--metadata", metadata)
    assert kept.stat().st_mtime_ns == written
    prepare("taichi", "--metadata", metadata, output=tmp_path / "straight")
    assert contents(out) == contents(tmp_path / "straight")


def test_parts_can_be_prepared_one_after_the_other(prepare, metadata, tmp_path):
    prepare("taichi", "--metadata", metadata, "--split", "test")
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"test"}
    assert "holds 1 of 1 clips" in prepare("taichi", "--metadata", metadata, "--limit", 1)
    assert (tmp_path / "out" / "train" / "two#000001#000007").is_dir()  # the first of the list
    prepare("taichi", "--metadata", metadata)
    prepare("taichi", "--metadata", metadata, output=tmp_path / "straight")
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_a_dry_run_writes_nothing(prepare, metadata, tmp_path):
    said = prepare("taichi", "--metadata", metadata, "--dry_run")
    assert "6 clips (2 test, 4 train) of 5 videos, as png in" in said and "1 videos are missing: gone" in said
    assert not (tmp_path / "out").exists()


def test_downloads_need_a_licence_and_a_downloader(prepare, metadata, tmp_path):
    said = prepare("ted", "--metadata", metadata, "--download", is_refused=True)
    assert re.search("--download needs --accept_licence, by which you accept the terms: .*TED", said)
    options = ["--metadata", metadata, "--download", "--accept_licence"]
    if find_spec("yt_dlp") is None:
        said = prepare("ted", *options, is_refused=True)
        assert "--download needs yt-dlp: `pip install yt-dlp`, or leave --download out" in said
        assert not (tmp_path / "out").exists()
    else:  # without a network, as tests run
        assert "gone#000000#000009 (download failed: " in prepare("ted", *options, "--split", "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", 8], "--size must be at least 16, got 8"),
        (["--size", 33, "--format", "mp4"], "--size must be even, .* got 33"),
        (["--jpeg_quality", 100], "--jpeg_quality must be at most 95, got 100"),
        (["--jpeg_quality", 0], "--jpeg_quality must be at least 1, got 0"),
        (["--min_frames", 0], "--min_frames must be at least 1, got 0"),
        (["--clips_per_shard", 0], "--clips_per_shard must be at least 1, got 0"),
        (["--limit", 0], "--limit must be at least 1, got 0"),
        (["--num_workers", 0], "--num_workers must be at least 1, got 0"),
        (["--split", "val"], "--split 'val' has no clips: choose all or one of test, train"),
        (["--videos", "{tmp_path}/nowhere"], "There is no folder --videos .*nowhere"),
        (["--videos", "{tmp_path}"], "out lies in --videos .*: name a folder beside it"),
        (["--videos", "{tmp_path}/empty"], "--videos .*empty holds none of the videos of the list, such as two"),
        (["--metadata", "{tmp_path}/nowhere.csv"], "No such file .*nowhere.csv"),
        (["--min_frames", 99], "None of 6 clips could be prepared; 4 dropped, 2 failed: broken.*; gone.*; two.*short"),
    ],
)
def test_bad_input_is_refused_in_one_line(prepare, metadata, tmp_path, options, message):
    (tmp_path / "empty").mkdir()
    options = [str(option).format(tmp_path=tmp_path) for option in options]
    said = prepare("taichi", "--metadata", metadata, *options, is_refused=True)
    assert re.search(message, said.splitlines()[-1])
    assert (tmp_path / "out").exists() == ("None of" in message)


def test_the_wrong_ted_list_is_refused(prepare, tmp_path):
    path = tmp_path / "ted-metadata.csv"
    path.write_text(f"{HEADER}\nVM6HZqQKhok#016609#016737,0,0,104-10-665-570,10.0,944,944,train\n")
    said = prepare("ted", "--metadata", path, is_refused=True)
    assert "use ted384-metadata.csv, which is attached to issue #12 of that repository" in said


@pytest.mark.parametrize("fps", [0, float("nan")])
def test_impossible_frame_rates_are_refused(prepare, fps):
    assert "--fps must be from 0.01 to 1000" in prepare("folder", "--fps", fps, is_refused=True)


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are no part of the repository")
def test_real_clips(prepare, tmp_path, read_lines):
    metadata = tmp_path / "ted384-metadata.csv"
    rows = ["driving1,20,90,0-0-384-384,10.0,384,384,train", "driving2,10,120,96-0-384-288,10.0,384,384,test"]
    metadata.write_text("\n".join([HEADER, *rows]) + "\n")
    options = ["--metadata", metadata, "--size", 64, "--min_frames", 64, "--format", "mp4"]
    said = prepare("ted", *options, "--drop_scene_cuts", videos=CLIPS / "ted")
    assert "holds 2 of 2 clips (0 with scene cuts, 0 upscaled); 0 dropped, 0 failed" in said
    video = CLIPS / "ted" / "driving2.mp4"
    path = tmp_path / "out" / "test" / "driving2#000010#000120.mp4"
    assert len(VideoReader(path)) == 110 and VideoReader(path).frames_per_second == 10
    expected = to_pil(read_video(video, num_frames=11)[10]).crop((64, 0, 256, 192))
    expected = to_frame(expected.resize((64, 64), Image.Resampling.BICUBIC))
    assert (next(iter(VideoReader(path))) - expected).abs().mean() < 0.03
    # Not the frame before, nor the one after.
    for other in read_video(video, start_frame=9, num_frames=3)[::2]:
        other = to_frame(to_pil(other).crop((64, 0, 256, 192)).resize((64, 64), Image.Resampling.BICUBIC))
        first = next(iter(VideoReader(path)))
        assert (first - other).abs().mean() > (first - expected).abs().mean()
    clip = {
        "ytb_id": "driving2",
        "duration": {"start_sec": 1.0, "end_sec": 4.0},
        "bbox": {"top": 0.1, "bottom": 0.9, "left": 0.1, "right": 0.9},
    }
    (tmp_path / "info.json").write_text(json.dumps({"clips": {"driving2_0": clip}}))
    options = ["--info", tmp_path / "info.json", "--size", 64, "--min_frames", 64]
    prepare("celebvhq", *options, videos=CLIPS / "vox", output=tmp_path / "celebvhq")
    (record,) = read_lines(tmp_path / "celebvhq" / "manifest.jsonl")
    assert (record["status"], record["num_frames"], record["fps"]) == ("complete", 75, 25)
