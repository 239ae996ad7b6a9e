import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from leo_diffusers.data.clip_streams import ClipOpener
from leo_diffusers.data.frame_streams import ITEMS_PER_CLIP, ShuffleBuffer, StreamedFrames, StreamedPairs, _Items
from leo_diffusers.data.shard_writing import write_shard
from leo_diffusers.data.streamed_videos import Share, StreamedVideos
from leo_diffusers.data.video_clips import find_clips, hold_out_frames
from leo_diffusers.video_io import read_video


REPOSITORY = Path(__file__).resolve().parents[2]
LENGTHS = {"a.mp4": 9, "b.mp4": 6, "c.mp4": 12, "d.mp4": 7}
ITEM_BYTES = 2 * 3 * 32**2  # of a pair


def write_tars(folder: Path, target: Path, num_shards: int) -> Path:
    target.mkdir()
    files = sorted(folder.iterdir())
    for shard in range(num_shards):
        write_shard(
            target / f"train-{shard:06d}.tar", [({"id": path.stem}, path) for path in files[shard::num_shards]]
        )
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_clip) -> Path:
    """Noise, so that no two frames are alike, among it a file that is no video."""
    folder = tmp_path_factory.mktemp("streams") / "clips"
    generator = torch.Generator().manual_seed(0)
    for name, num_frames in LENGTHS.items():
        write_clip(folder / name, torch.rand(num_frames, 3, 32, 32, generator=generator) * 2 - 1)
    (folder / "broken.mp4").write_text("this is no video")
    return folder


@pytest.fixture(scope="module")
def tars(folder) -> Path:
    return write_tars(folder, folder.parent / "tars", 2)


@pytest.fixture(scope="module")
def train_frames(folder) -> dict[str, torch.Tensor]:
    """The frames of each clip that are trained on."""
    clips, _ = hold_out_frames(find_clips(folder)[0], 0.3)
    return {clip.name: read_video(clip.path, num_frames=clip.num_frames) for clip in clips}


def make(source: Path, kind=StreamedPairs, num_items: int = 40, **options) -> StreamedFrames:
    options = {"horizontal_flip": False, "seed": 3, "cache_gigabytes": num_items * ITEM_BYTES / 1e9, **options}
    return kind(StreamedVideos(str(source)), 32, 0.3, **options)


def draw(dataset: StreamedFrames, batches: range, num_workers: int = 0, process=(0, 1), batch_size: int = 2) -> list:
    dataset.schedule(*process, batch_size, batches)
    return list(DataLoader(dataset, batch_size=batch_size, num_workers=num_workers))


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def locate(frame: torch.Tensor, frames: dict[str, torch.Tensor]) -> tuple[str, int]:
    places = [(name, i) for name, known in frames.items() for i in range(len(known)) if known[i].equal(frame)]
    assert len(places) == 1
    return places[0]


# --- the order ---


@pytest.mark.parametrize("size", [8, 13, 64, 1000])
def test_the_buffer_gives_every_item_once_and_keeps_to_its_size(size):
    buffer = ShuffleBuffer(size, np.random.default_rng(0))
    given = []
    for _ in range(500):
        place = buffer.choose()
        given.append(buffer.slots[place])
        assert len(buffer.slots) <= size
        buffer.remove(place)
    assert len(set(given)) == 500
    everything = {(visit, item) for visit in range(buffer.num_visits) for item in range(ITEMS_PER_CLIP)}
    assert set(given) | set(buffer.slots) == everything


def test_items_of_a_clip_are_spread():
    buffer = ShuffleBuffer(512, np.random.default_rng(0))
    visits = []
    for _ in range(4000):
        place = buffer.choose()
        visits.append(buffer.slots[place][0])
        buffer.remove(place)
    assert len(set(visits[:8])) >= 6  # the first batch already
    batches = [len(set(visits[start : start + 8])) for start in range(1000, 4000, 8)]
    assert np.mean(batches) > 7.7


# --- the items ---


@pytest.mark.filterwarnings("ignore:Skipped")
@pytest.mark.parametrize("kind", [StreamedFrames, StreamedPairs])
def test_items_are_frames_of_the_part_to_train_on(tars, train_frames, kind):
    clips = Counter()
    for batch in draw(make(tars, kind), range(24)):
        for number in range(2):
            names = ("frame",) if kind is StreamedFrames else ("source_frame", "target_frame")
            places = [locate(batch[name][number], train_frames) for name in names]
            assert len(set(places)) == len(places) and len({clip for clip, _ in places}) == 1
            clips[places[0][0]] += 1
    assert set(clips) == set(LENGTHS)
    expected = {"frame", "position"} if kind is StreamedFrames else {"source_frame", "driving_frame", "target_frame"}
    assert set(batch) == expected
    if kind is StreamedPairs:
        assert torch.equal(batch["driving_frame"], batch["target_frame"])


@pytest.mark.filterwarnings("ignore:Skipped")
def test_half_of_the_items_are_mirrored_and_colours_change(tars):
    plain = draw(make(tars), range(20))
    flipped = draw(make(tars, horizontal_flip=True), range(20))
    num_flipped = 0
    for expected, batch in zip(plain, flipped, strict=True):
        for number in range(2):
            pair, mirrored = ({name: frames[number] for name, frames in b.items()} for b in (expected, batch))
            if not equal(pair, mirrored):
                assert equal(mirrored, {name: frame.flip(-1) for name, frame in pair.items()})
                num_flipped += 1
    assert 8 <= num_flipped <= 32
    (jittered,) = draw(make(tars, color_jitter=0.3), range(1))
    assert not equal(jittered, plain[0]) and jittered["source_frame"].abs().max() <= 1


@pytest.mark.filterwarnings("ignore:Skipped")
def test_a_seed_decides_the_items(folder):
    first, again, other = (draw(make(folder, seed=seed), range(4)) for seed in (1, 1, 2))
    assert all(map(equal, first, again)) and not any(map(equal, first, other))


@pytest.mark.filterwarnings("ignore:Skipped", "ignore:This DataLoader will create 3")
@pytest.mark.parametrize("num_workers", [0, 2, 3])
@pytest.mark.parametrize("start", [4, 9])
def test_a_resumed_run_sees_what_the_uninterrupted_one_would_have(tars, num_workers, start):
    options = {"num_items": 12, "horizontal_flip": True, "color_jitter": 0.1}
    straight = draw(make(tars, **options), range(12), num_workers)
    resumed = draw(make(tars, **options), range(start, 12), num_workers)
    assert len(straight) == 12 and len(resumed) == 12 - start
    assert all(map(equal, resumed, straight[start:]))


def test_items_wait_for_a_schedule(folder):
    with pytest.raises(RuntimeError, match="`schedule` comes first"):
        next(iter(make(folder)))


def test_positions_are_those_of_a_folder(folder):
    positions = []
    for process_index in range(2):
        batches = draw(make(folder, StreamedFrames), range(3, 6), 1, (process_index, 2))
        positions += [batch["position"].tolist() for batch in batches]
    assert positions == [[12, 13], [16, 17], [20, 21], [14, 15], [18, 19], [22, 23]]


class CountingOpener(ClipOpener):
    num_opened = 0

    def open(self, video):
        self.num_opened += 1
        return super().open(video)


@pytest.mark.filterwarnings("ignore:Skipped")
def test_what_a_resumed_run_passes_over_is_not_decoded(tars):
    dataset = make(tars, num_items=ITEMS_PER_CLIP)
    dataset.opener = CountingOpener(2)
    items = _Items(dataset, Share(dataset.videos, seed=3), start=100 * ITEMS_PER_CLIP)
    items.draw()
    assert dataset.opener.num_opened <= 2


@pytest.mark.filterwarnings("ignore:Skipped")
def test_memory_is_bounded(folder):
    dataset = make(folder, num_items=20)
    assert dataset.buffer_size == 20
    items = _Items(dataset, Share(dataset.videos, seed=3), start=0)
    for _ in range(120):
        items.draw()
        pictures = [p for of_clip in items.drawn.values() for p in of_clip.values() if p is not None]
        assert sum(p.nbytes for p in pictures) <= 20 * ITEM_BYTES
        waiting = {visit for visit, _ in items.buffer.slots}
        assert items.drawn.keys() | items.videos.keys() == waiting and not items.drawn.keys() & items.videos.keys()


# --- clips that cannot be used ---


def test_bad_clips_are_named_and_replaced(folder, train_frames):
    dataset = make(folder, num_items=16)
    with pytest.warns(UserWarning, match=r"Skipped broken.mp4 .*; 1 skipped so far") as warned:
        batches = draw(dataset, range(30))
    assert sum("Skipped" in str(warning.message) for warning in warned) == 1
    drawn = Counter(locate(frame, train_frames)[0] for batch in batches for frame in batch["source_frame"])
    assert sum(drawn.values()) == 60 and set(drawn) == set(LENGTHS)


@pytest.mark.filterwarnings("ignore:Skipped")
def test_without_a_usable_clip_there_are_no_items(folder):
    with pytest.raises(ValueError, match="No clip of .* can be used: 5 cannot be read or have fewer than 13 frames"):
        draw(make(folder, min_frames=13), range(1))


@pytest.mark.filterwarnings("ignore:Skipped")
def test_a_reader_whose_clips_are_all_bad_takes_others(folder, train_frames):
    dataset = make(folder, min_frames=12)
    for reader in range(5):
        items = _Items(dataset, Share(dataset.videos, reader, 5), start=0)
        for _ in range(3):
            assert locate(items.draw()[0], train_frames)[0] == "c.mp4"


# --- several processes ---


COLOURS = 8


@pytest.fixture(scope="module")
def colours(tmp_path_factory, write_clip) -> Path:
    """Clips that are told apart by their brightness."""
    folder = tmp_path_factory.mktemp("streams") / "colours"
    for number in range(COLOURS):
        write_clip(folder / f"{number}.mp4", torch.full((6, 3, 16, 16), number / COLOURS * 2 - 1))
    return folder


@pytest.fixture(params=[None, 2, 8])
def colour_source(request, colours, tmp_path) -> Path:
    """As files, or in so many shards: fewer than four readers, and as many as clips."""
    return colours if request.param is None else write_tars(colours, tmp_path / "tars", request.param)


def clip_of(batch: dict) -> int:
    """The one clip of a batch."""
    (number,) = {round((frame.mean().item() + 1) * COLOURS / 2) for frame in batch["frame"]}
    return number


def one_clip_at_a_time(source: Path) -> StreamedFrames:
    return make(source, StreamedFrames, num_items=0)


def test_two_processes_of_two_workers_see_each_clip_once_per_epoch(colour_source):
    seen = []
    for process_index in range(2):
        dataset = one_clip_at_a_time(colour_source)
        # Two clips for each of the four readers and epoch, a batch of each clip; the second epoch follows.
        batches = draw(dataset, range(8), 2, (process_index, 2), batch_size=ITEMS_PER_CLIP)
        seen.append([clip_of(batch) for batch in batches])
    for epoch in (slice(0, 4), slice(4, 8)):
        assert sorted(seen[0][epoch] + seen[1][epoch]) == list(range(COLOURS))


SCRIPT = f"""
import argparse, sys
from pathlib import Path
import torch
from leo_diffusers.data.frame_streams import StreamedFrames
from leo_diffusers.data.streamed_videos import StreamedVideos
from leo_diffusers.training.arguments import add_training_arguments, build_accelerator
from leo_diffusers.training.run import TrainingRun

parser = argparse.ArgumentParser()
add_training_arguments(parser, 1e-3, {ITEMS_PER_CLIP}, 4, 0.9)
source, folder = sys.argv[1:]
args = parser.parse_args(["--output_dir", folder, "--dataloader_num_workers", "2", "--report_to", "none"])
accelerator = build_accelerator(args)
dataset = StreamedFrames(StreamedVideos(source), 32, 0.3, horizontal_flip=False, cache_gigabytes=0)
run = TrainingRun(accelerator, args, accelerator.prepare(torch.nn.Linear(1, 1)), "toy")
means = [batch["frame"].mean(dim=(1, 2, 3)) for batch in run.dataloader(dataset)]
torch.save(torch.stack(means), Path(folder) / f"{{accelerator.process_index}}.pt")
run.close()
"""


def test_accelerate_does_not_split_a_stream_once_more(colours, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, tmp_path / "script.py", write_tars(colours, tmp_path / "tars", 2), tmp_path / "out"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(list(map(str, command)), check=True, env=environment)
    numbers = []
    for process_index in range(2):
        means = torch.load(tmp_path / "out" / f"{process_index}.pt")
        assert means.shape == (4, ITEMS_PER_CLIP)
        numbers += [round((batch.mean().item() + 1) * COLOURS / 2) for batch in means]
    assert sorted(numbers) == list(range(COLOURS))
