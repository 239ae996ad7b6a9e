from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from leo_diffusers.data.clip_streams import ClipOpener, StreamedPieces, keep_held_out_clips, usable_clips
from leo_diffusers.data.shard_writing import write_shard
from leo_diffusers.data.streamed_videos import StreamedVideos
from leo_diffusers.data.video_clips import find_clips, hold_out_frames
from leo_diffusers.video_io import read_video


LENGTHS = {"a.mp4": 9, "c.mp4": 4, "d.mp4": 12, "e.mp4": 6, "f.mp4": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_clip) -> Path:
    """Noise, so that no two frames are alike, among it a file that is no video and a clip that is too short."""
    folder = tmp_path_factory.mktemp("streams") / "clips"
    generator = torch.Generator().manual_seed(0)
    for number, (name, num_frames) in enumerate([*LENGTHS.items(), ("short.mp4", 3)]):
        write_clip(folder / name, torch.rand(num_frames, 3, 32, 32, generator=generator) * 2 - 1, 20 + number)
    (folder / "broken.mp4").write_text("this is no video")
    return folder


@pytest.fixture(scope="module")
def tars(folder) -> Path:
    target = folder.parent / "tars"
    target.mkdir()
    files = sorted(folder.iterdir())
    for shard in range(2):
        samples = [({"id": path.stem}, path) for path in files[shard::2]]
        write_shard(target / f"train-{shard:06d}.tar", samples)
    return target


@pytest.fixture(params=["folder", "tars"])
def videos(request) -> StreamedVideos:
    return StreamedVideos(str(request.getfixturevalue(request.param)))


def test_usable_clips_are_those_of_the_folder(videos, folder):
    opener = ClipOpener(min_frames=4)
    with pytest.warns(UserWarning) as warned:
        found = {clip.name: (clip.num_frames, clip.frames_per_second) for clip in usable_clips(videos, opener)}
    clips, _ = find_clips(folder, min_frames=4)
    assert found == {clip.name: (clip.num_frames, clip.frames_per_second) for clip in clips}
    said = sorted(str(warning.message) for warning in warned)
    assert len(said) == 2 and said[1].startswith("Skipped short.mp4 (3 frames); ")
    assert said[0].startswith("Skipped broken.mp4 (") and "leo-clip-" not in said[0]


def test_a_data_set_without_a_usable_clip_is_refused(videos):
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="No clip of .* can be used: 7 cannot be read or"):
        list(usable_clips(videos, ClipOpener(min_frames=13)))


def test_held_out_ends_are_those_of_the_folder(folder, tars, tmp_path):
    kept = keep_held_out_clips(StreamedVideos(str(tars)), 2, 0.7, tmp_path / "kept")
    clips = {clip.name: clip for clip in hold_out_frames(find_clips(folder)[0], 0.7)[1]}
    assert [clip.name for clip in kept] == ["a.mp4", "e.mp4"]  # of c.mp4 too little would be left to train on
    for clip in kept:
        expected = clips[clip.name]
        assert (clip.start_frame, clip.num_frames) == (expected.start_frame, expected.num_frames)
        assert clip.path.parent == tmp_path / "kept"
        frames = [read_video(part.path, 32, part.start_frame, part.num_frames) for part in (clip, expected)]
        assert torch.equal(*frames)
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_clips_too_short_to_be_held_out_from_are_refused(write_clip, tmp_path):
    write_clip(tmp_path / "clips" / "a.mp4", torch.zeros(3, 3, 16, 16))
    with pytest.raises(ValueError, match="No clip of .* is long enough to hold frames out for validation"):
        keep_held_out_clips(StreamedVideos(str(tmp_path / "clips")), 2, 0.1, tmp_path / "kept")


def read_pieces_of(videos: StreamedVideos, num_processes: int, num_workers: int, finished=frozenset()) -> list[dict]:
    pieces = []
    for process_index in range(num_processes):
        dataset = StreamedPieces(videos, 32, 4, 4, process_index, num_processes, set(finished))
        pieces += DataLoader(dataset, batch_size=None, num_workers=num_workers)
    return pieces


@pytest.mark.filterwarnings("ignore:Skipped")
@pytest.mark.parametrize(("num_processes", "num_workers"), [(1, 0), (2, 2), (3, 0)])
def test_each_clip_is_read_whole_and_once(videos, folder, num_processes, num_workers):
    pieces = read_pieces_of(videos, num_processes, num_workers)
    clips: dict[str, list[dict]] = {}
    for piece in pieces:
        clips.setdefault(piece["name"], []).append(piece)
    assert set(clips) == set(LENGTHS)
    for name, parts in clips.items():
        assert torch.equal(torch.cat([part["frames"] for part in parts]), read_video(folder / name))
        assert [len(part["frames"]) for part in parts[:-1]] == [4] * (len(parts) - 1)
        assert [part["is_last"] for part in parts] == [False] * (len(parts) - 1) + [True]
        assert len({part["place"] for part in parts}) == 1
    assert len({piece["place"] for piece in pieces}) == len(LENGTHS)


@pytest.mark.filterwarnings("ignore:Skipped")
def test_finished_clips_are_left_out(tars):
    videos = StreamedVideos(str(tars))
    places = {piece["place"]: piece["name"] for piece in read_pieces_of(videos, 1, 0)}
    finished = sorted(places)[:3]
    again = {piece["place"] for piece in read_pieces_of(videos, 1, 0, finished)}
    assert again == set(places) - set(finished)
