from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from leo_diffusers.data.frame_labels import FrameLabels
from leo_diffusers.data.frame_pairs import EndlessSampler, FramePairs, FrameReader, RandomFrames, jitter_color
from leo_diffusers.data.talking_head_labels import label_clip
from leo_diffusers.data.talking_heads import TalkingHeadClip, render_clip
from leo_diffusers.data.video_clips import VideoClip, find_clips, hold_out_frames
from leo_diffusers.video_io import read_video, to_frame


LENGTHS = {"a.mp4": 24, "b.mp4": 5, "c": 7}


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_clip) -> list[VideoClip]:
    """Noise, so that no two frames are alike; the third clip is a folder of images."""
    folder = tmp_path_factory.mktemp("clips")
    generator = torch.Generator().manual_seed(0)
    for name, num_frames in LENGTHS.items():
        write_clip(folder / name, torch.rand(num_frames, 3, 32, 32, generator=generator) * 2 - 1)
    return find_clips(folder)[0]


@pytest.fixture(scope="module")
def all_frames(clips) -> list[torch.Tensor]:
    return [read_video(clip.path) for clip in clips]


def make_pairs(clips, **options) -> FramePairs:
    return FramePairs(clips, 32, **{"horizontal_flip": False, "seed": 3, **options})


def locate(frame: torch.Tensor, all_frames: list[torch.Tensor]) -> tuple[int, int]:
    """Clip and number of the one frame that equals `frame` bit for bit."""
    places = [(i, j) for i, frames in enumerate(all_frames) for j, known in enumerate(frames) if known.equal(frame)]
    assert len(places) == 1
    return places[0]


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_pair_is_two_frames_of_one_clip(clips, all_frames):
    pairs = make_pairs(clips)
    for position in range(40):
        pair = pairs[position]
        assert list(pair) == ["source_frame", "driving_frame", "target_frame"]
        for frame in pair.values():
            assert frame.shape == (3, 32, 32) and frame.dtype == torch.float32
            assert frame.min() >= -1 and frame.max() <= 1
        (source_clip, source), (driving_clip, driving) = (
            locate(frame, all_frames) for frame in list(pair.values())[:2]
        )
        assert source_clip == driving_clip and source != driving
        assert source_clip == pairs.number_at(position)


def test_every_ordered_pair_of_frames_is_drawn(clips, all_frames):
    pairs = make_pairs(clips[1:2])
    drawn = Counter(
        tuple(locate(frame, all_frames)[1] for frame in list(pairs[position].values())[:2]) for position in range(400)
    )
    assert len(drawn) == 5 * 4
    assert max(drawn.values()) < 50  # 20 each on average


@pytest.mark.parametrize("cache_gigabytes", [0.0, 6 * 3 * 32**2 / 1e9, 1.0])
def test_a_position_decides_the_pair(clips, cache_gigabytes):
    options = {"horizontal_flip": True, "color_jitter": 0.2}
    reference = make_pairs(clips, **options)
    positions = list(range(8)) + [10**9]
    expected = [reference[position] for position in positions]
    again = make_pairs(clips, cache_gigabytes=cache_gigabytes, **options)
    found = {position: again[position] for position in reversed(positions)}
    assert all(equal(found[position], pair) for position, pair in zip(positions, expected))


def test_seeds_draw_different_pairs(clips):
    first, second = make_pairs(clips, seed=0), make_pairs(clips, seed=1)
    assert not all(equal(first[position], second[position]) for position in range(4))


def test_an_epoch_visits_every_clip_equally(clips):
    pairs = make_pairs(clips)
    assert len(pairs) == len(clips)
    epochs = []
    for epoch in range(12):
        visited = [pairs.clips[pairs.number_at(epoch * len(pairs) + index)].name for index in range(len(pairs))]
        assert Counter(visited) == dict.fromkeys(LENGTHS, 1)
        epochs.append(tuple(visited))
    assert len(set(epochs)) > 3
    assert not equal(pairs[0], pairs[len(pairs)])


def test_cached_and_sought_frames_are_equal(clips, all_frames):
    cached, sought = FrameReader(32, 10**9), FrameReader(32, 0)
    for clip, frames in zip(clips, all_frames, strict=True):
        indices = [clip.num_frames - 1, 0, clip.num_frames // 2, 3]
        assert torch.equal(cached.read(clip, indices), frames[indices])
        assert torch.equal(sought.read(clip, indices), frames[indices])


def test_the_cache_keeps_to_its_size(clips):
    reader = FrameReader(32, 12 * 3 * 32**2)
    for clip in clips:
        reader.read(clip, [0])
    assert sum(frames.nbytes for frames in reader._cached.values()) == 12 * 3 * 32**2  # b.mp4 and c


@pytest.mark.parametrize(("cache_gigabytes", "num_pairs"), [(1.0, 150), (0.0, 12)])
def test_held_out_frames_are_never_drawn(clips, all_frames, cache_gigabytes, num_pairs):
    train_clips, validation_clips = hold_out_frames(clips, 0.4)
    drawn = []
    for part in (train_clips, validation_clips):
        pairs = make_pairs(part, cache_gigabytes=cache_gigabytes)
        frames = {locate(frame, all_frames) for i in range(num_pairs) for frame in pairs[i].values()}
        window = {
            (index, clip.start_frame + number) for index, clip in enumerate(part) for number in range(clip.num_frames)
        }
        assert frames <= window
        if num_pairs > 100:
            assert frames == window
        drawn.append(frames)
    assert not drawn[0] & drawn[1]


def test_flips_mirror_both_frames_or_none(clips):
    plain, flipped = make_pairs(clips), make_pairs(clips, horizontal_flip=True)
    num_flipped = 0
    for position in range(300):
        expected, pair = plain[position], flipped[position]
        if not equal(pair, expected):
            assert equal(pair, {name: frame.flip(-1) for name, frame in expected.items()})
            num_flipped += 1
    assert 115 <= num_flipped <= 185  # four deviations of a fair coin


def test_colour_jitter_is_the_same_for_both_frames(tmp_path, write_clip):
    frame = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    write_clip(tmp_path / "still", frame.expand(3, 3, 32, 32))
    clips, _ = find_clips(tmp_path)
    plain, jittered = make_pairs(clips)[0], make_pairs(clips, color_jitter=0.3)
    pairs = [jittered[position] for position in range(6)]
    for pair in pairs:
        assert torch.equal(pair["source_frame"], pair["driving_frame"])
        assert not torch.equal(pair["source_frame"], plain["source_frame"])
        assert pair["source_frame"].abs().max() <= 1
    means = [pair["source_frame"].mean().item() for pair in pairs]
    assert len(set(means)) == 6


def jitter_reference(pixels: np.ndarray, order: str, factors: dict[str, float]) -> np.ndarray:
    """Blends of images in [0, 1], (F, H, W, 3): with black, with the mean grey, with each pixel's grey."""
    for name in order:
        grey = pixels @ np.array([0.299, 0.587, 0.114])
        other = {"b": 0.0, "c": grey.mean(), "s": grey[..., None]}[name]
        pixels = np.clip(factors[name] * pixels + (1 - factors[name]) * other, 0, 1)
    return pixels


def test_colour_jitter_composes_brightness_contrast_saturation():
    frames = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pixels = (frames.permute(0, 2, 3, 1).double().numpy() + 1) / 2
    factors = {"b": 1.3, "c": 0.7, "s": 1.4}
    jittered = (jitter_color(frames, *factors.values()).permute(0, 2, 3, 1).double().numpy() + 1) / 2
    np.testing.assert_allclose(jittered, jitter_reference(pixels, "bcs", factors), atol=1e-6)
    for order in ("cbs", "scb", "bsc"):  # the order can be told from the result
        assert np.abs(jittered - jitter_reference(pixels, order, factors)).max() > 1e-3


def test_colour_jitter_of_one_changes_nothing_and_extremes_stay_in_range():
    frames = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(jitter_color(frames, 1, 1, 1), frames)
    assert torch.all(jitter_color(frames, 0, 1, 1) == -1)
    for factors in ((3, 1, 1), (1, 3, 1), (1, 1, 3), (2, 2, 2), (0.1, 5, 5)):
        assert jitter_color(frames, *factors).abs().max() <= 1
    grey = jitter_color(frames, 1, 1, 0)
    torch.testing.assert_close(grey[:, 0], grey[:, 2])


def test_workers_draw_the_same_batches(clips):
    def batches(num_workers: int) -> list[dict]:
        pairs = make_pairs(clips, horizontal_flip=True, color_jitter=0.2)
        return list(DataLoader(pairs, batch_size=2, sampler=EndlessSampler(3, 13), num_workers=num_workers))

    alone, together = batches(0), batches(2)
    assert len(alone) == len(together) == 5
    assert all(map(equal, alone, together))


def test_endless_sampler_continues_where_it_is_told():
    assert list(EndlessSampler(0, 7)) == [*EndlessSampler(0, 4), *EndlessSampler(4, 7)] == list(range(7))
    assert len(EndlessSampler(4, 7)) == 3
    assert list(EndlessSampler(9, 7)) == [] and len(EndlessSampler(9, 7)) == 0


@pytest.mark.parametrize("dataset", [FramePairs, RandomFrames])
def test_no_clips_are_refused(dataset):
    with pytest.raises(ValueError, match="`clips` is empty"):
        dataset([], 32)


# --- single frames ---


def make_random_frames(clips, **options) -> RandomFrames:
    return RandomFrames(clips, 32, **{"horizontal_flip": False, "seed": 3, **options})


def test_an_item_is_a_frame_of_the_clip_whose_turn_it_is(clips, all_frames):
    dataset = make_random_frames(clips)
    assert len(dataset) == len(clips)
    drawn = Counter()
    for position in range(3 * 240):
        item = dataset[position]
        assert list(item) == ["frame", "position"] and item["position"] == position
        clip, number = locate(item["frame"], all_frames)
        assert clip == dataset.number_at(position)
        drawn[clip, number] += 1
    assert len(drawn) == sum(LENGTHS.values())  # every frame
    shares = Counter(clip for clip, _ in drawn.elements())
    assert set(shares.values()) == {240}  # clips are equally likely, whatever their length
    assert max(drawn[1, number] for number in range(5)) < 80  # 48 each on average


def test_codes_are_those_of_the_frames(clips, all_frames):
    later = [replace(clip, start_frame=2, num_frames=clip.num_frames - 2) for clip in clips]
    codes = [clip_frames.mean(dim=(2, 3)) for clip_frames in all_frames]  # of every frame in the file
    dataset = make_random_frames(later, motion_codes=codes)
    for position in range(24):
        item = dataset[position]
        assert torch.equal(item["motion_code"], item["frame"].mean(dim=(1, 2)))


def test_codes_that_do_not_fit_are_refused(clips):
    codes = [torch.zeros(clip.num_frames, 3) for clip in clips]
    with pytest.raises(ValueError, match="`motion_codes` must be of each of the"):
        make_random_frames(clips, motion_codes=codes[:1])
    with pytest.raises(ValueError, match="`horizontal_flip` must be off with `motion_codes`"):
        make_random_frames(clips, motion_codes=codes, horizontal_flip=True)
    with pytest.raises(ValueError, match="The motion codes of .* tell of .* frames, but it has"):
        make_random_frames(clips, motion_codes=[*codes[:-1], codes[-1][1:]])


@pytest.mark.parametrize("cache_gigabytes", [0.0, 1.0])
def test_a_position_decides_the_frame(clips, cache_gigabytes):
    options = {"horizontal_flip": True, "color_jitter": 0.2}
    reference, again = (make_random_frames(clips, **options, cache_gigabytes=size) for size in (1.0, cache_gigabytes))
    positions = [*range(8), 2**40]
    expected = {position: reference[position]["frame"] for position in positions}
    assert all(torch.equal(again[position]["frame"], expected[position]) for position in reversed(positions))
    other = make_random_frames(clips, **options, seed=4)
    assert not any(torch.equal(other[position]["frame"], expected[position]) for position in positions)


def test_half_of_the_frames_are_mirrored(clips):
    plain, flipped = make_random_frames(clips), make_random_frames(clips, horizontal_flip=True)
    num_flipped = 0
    for position in range(300):
        frame, expected = flipped[position]["frame"], plain[position]["frame"]
        if not torch.equal(frame, expected):
            assert torch.equal(frame, expected.flip(-1))
            num_flipped += 1
    assert 115 <= num_flipped <= 185  # four deviations of a fair coin


def test_frames_come_at_the_size_asked_for(clips):
    assert RandomFrames(clips, 16)[0]["frame"].shape == (3, 16, 16)


def test_a_clip_of_one_frame_is_enough(clips, all_frames):
    still = VideoClip(clips[1].path, clips[1].name, num_frames=1, frames_per_second=25, start_frame=2)
    dataset = make_random_frames([still])
    assert all(torch.equal(dataset[position]["frame"], all_frames[1][2]) for position in range(4))


# --- labels ---


HEADS = {"a": (1, 9), "b": (2, 9), "c": (3, 8), "d": (4, 9)}  # seeds of person and motion: all but "c" move alike


@pytest.fixture(scope="module")
def rendered() -> list[TalkingHeadClip]:
    return [render_clip(*seeds, num_frames=8, size=32) for seeds in HEADS.values()]


@pytest.fixture(scope="module")
def head_frames(rendered) -> list[torch.Tensor]:
    return [torch.stack([to_frame(frame) for frame in clip.frames]) for clip in rendered]


@pytest.fixture(scope="module")
def heads(tmp_path_factory, write_clip, head_frames) -> list[VideoClip]:
    """Folders of images, which lose nothing."""
    folder = tmp_path_factory.mktemp("heads")
    for name, frames in zip(HEADS, head_frames):
        write_clip(folder / name, frames)
    return find_clips(folder)[0]


@pytest.fixture(scope="module")
def labels(rendered) -> list[FrameLabels]:
    return [label_clip(clip, motion_id=str(motion)) for clip, (_, motion) in zip(rendered, HEADS.values())]


def check_label(item: dict, role: str, frame: torch.Tensor, rendered, head_frames) -> tuple[int, int]:
    """The labels of `frame` in an item are those that the renderer made it with; returns where it is."""
    clip, index = locate(frame, head_frames)
    expected = torch.from_numpy(rendered[clip].keypoints[index] / 32)
    torch.testing.assert_close(item[f"{role}keypoints"], expected, rtol=0, atol=1e-6)
    assert torch.equal(item[f"{role}motion"], torch.from_numpy(rendered[clip].motion[index]))
    return clip, index


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("cross_identity", [0.0, 0.5])
def test_labels_are_those_of_the_frames(heads, labels, rendered, head_frames, part, cross_identity):
    clips = hold_out_frames(heads, 0.5)[part]  # which begin at frame 0, and at frame 4
    pairs = make_pairs(clips, labels=labels, cross_identity=cross_identity)
    for position in range(12):
        pair = pairs[position]
        assert len(pair) == 7 and pair["target_keypoints"].dtype == pair["target_motion"].dtype == torch.float32
        source = check_label(pair, "source_", pair["source_frame"], rendered, head_frames)
        target = check_label(pair, "target_", pair["target_frame"], rendered, head_frames)
        assert source[0] == target[0] and min(source[1], target[1]) >= 4 * part


def test_labels_of_single_frames(heads, labels, rendered, head_frames):
    dataset = make_random_frames(hold_out_frames(heads, 0.5)[1], labels=labels)
    for position in range(12):
        item = dataset[position]
        assert set(item) == {"frame", "position", "keypoints", "motion", "attributes"}
        clip, _ = check_label(item, "", item["frame"], rendered, head_frames)
        assert torch.equal(item["attributes"], torch.from_numpy(labels[clip].attributes))


def test_labels_change_no_draw(heads, labels):
    plain, labelled = make_pairs(heads), make_pairs(heads, labels=labels, cross_identity=0.0)
    crossed = make_pairs(heads, labels=labels, cross_identity=1.0)
    for position in [*range(12), 10**9]:
        expected = plain[position]
        assert all(torch.equal(labelled[position][name], frame) for name, frame in expected.items())
        for name in ("source_frame", "target_frame"):
            assert torch.equal(crossed[position][name], expected[name])


def test_the_sequence_of_a_seed_stays(clips, all_frames):
    """Runs are resumed by positions: another order of draws would give them other pairs."""
    pairs = make_pairs(clips, horizontal_flip=True)
    for position in range(20):
        order = np.random.default_rng([3, 0, position // 3]).permutation(3)
        random = np.random.default_rng([3, 1, position])
        frames = all_frames[order[position % 3]]
        frames = frames[random.choice(len(frames), size=2, replace=False)]
        frames = frames.flip(-1) if random.random() < 0.5 else frames
        assert all(
            torch.equal(pairs[position][name], frame) for name, frame in zip(("source_frame", "target_frame"), frames)
        )


# --- another person drives ---


def test_another_person_drives_at_the_same_frame(heads, labels, head_frames):
    pairs = make_pairs(heads, labels=labels, cross_identity=1.0)
    drivers = Counter()
    for position in range(60):
        pair = pairs[position]
        target, driver = (locate(pair[name], head_frames) for name in ("target_frame", "driving_frame"))
        assert target[1] == driver[1]
        assert list(HEADS.values())[target[0]][1] == list(HEADS.values())[driver[0]][1]
        drivers[target[0], driver[0]] += 1
    assert set(drivers) == {(0, 1), (0, 3), (1, 0), (1, 3), (2, 2), (3, 0), (3, 1)}  # all others, and "c" itself


def test_the_share_of_crossed_pairs(heads, labels):
    pairs = make_pairs(heads, labels=labels, cross_identity=0.3)
    is_crossed = [
        not torch.equal(pair["driving_frame"], pair["target_frame"]) for pair in map(pairs.__getitem__, range(400))
    ]
    assert 60 <= sum(is_crossed) <= 120  # of 300 that can be, four deviations around 90


@pytest.mark.parametrize("cache_gigabytes", [0.0, 1.0])
def test_a_position_decides_the_crossed_pair(heads, labels, cache_gigabytes):
    options = {"labels": labels, "cross_identity": 0.5, "color_jitter": 0.2}
    reference, again = (make_pairs(heads, cache_gigabytes=size, **options) for size in (1.0, cache_gigabytes))
    positions = [*range(8), 10**9]
    expected = [reference[position] for position in positions]
    found = {position: again[position] for position in reversed(positions)}
    assert all(equal(found[position], pair) for position, pair in zip(positions, expected))


def test_partners_show_what_is_left_of_them(heads, labels, head_frames):
    """Clips of other lengths: where a partner lacks the target's frame, it cannot drive."""
    a, b = heads[0], replace(heads[1], start_frame=2, num_frames=3)
    pairs = make_pairs([a, b], labels=labels[:2], cross_identity=1.0)
    seen = set()
    for position in range(100):
        pair = pairs[position]
        (clip, index), driver = (locate(pair[name], head_frames) for name in ("target_frame", "driving_frame"))
        assert driver == ((1 - clip, index) if clip == 1 or 2 <= index < 5 else (clip, index))
        seen.add((clip, index))
    assert len(seen) == 8 + 3


def test_colour_jitter_is_the_same_for_the_driver(tmp_path, write_clip, labels):
    frame = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for name in "ab":
        write_clip(tmp_path / name, frame.expand(8, 3, 32, 32))
    pairs = make_pairs(find_clips(tmp_path)[0], labels=labels[:2], cross_identity=1.0, color_jitter=0.3)
    for position in range(4):
        pair = pairs[position]
        assert torch.equal(pair["driving_frame"], pair["target_frame"])
        assert torch.equal(pair["source_frame"], pair["target_frame"])


def alone(labels: list[FrameLabels]) -> list[FrameLabels]:
    return [replace(clip_labels, motion_id="") for clip_labels in labels]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizontal_flip": True}, "`horizontal_flip` must be off with `labels`"),
        ({"cross_identity": 1.5}, r"`cross_identity` must be between 0 and 1, got 1\.5"),
        ({"cross_identity": -0.1}, r"`cross_identity` must be between 0 and 1, got -0\.1"),
        ({"cross_identity": 0.5, "labels": None}, "`cross_identity` needs `labels`"),
        ({"cross_identity": 0.5, "labels": alone}, "needs clips of different people in the same motion"),
        ({"labels": lambda labels: labels[:2]}, "`labels` must be of each of the 4 clips, got 2"),
    ],
)
def test_labels_that_do_not_fit_are_refused(heads, labels, options, message):
    change = options.get("labels", lambda labels: labels)
    with pytest.raises(ValueError, match=message):
        make_pairs(heads, **{**options, "labels": change and change(labels)})


def test_labels_of_a_shorter_clip_are_refused(heads, labels):
    later = replace(heads[1], start_frame=3, num_frames=6)
    with pytest.raises(ValueError, match="The labels of b tell of 8 frames, but it has 9: write them anew"):
        RandomFrames([heads[0], later], 32, horizontal_flip=False, labels=labels[:2])
