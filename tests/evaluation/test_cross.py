import shutil
from dataclasses import replace

import pytest
import torch

from leo_diffusers.data.video_clips import VideoClip, find_clips
from leo_diffusers.evaluation import rendering
from leo_diffusers.evaluation.cross import draw_pairs, evaluate_cross, person_of
from leo_diffusers.evaluation.readers import Readers
from leo_diffusers.metrics import average_euclidean_distance, frechet_distance
from leo_diffusers.metrics.readings import agreement
from leo_diffusers.video_io import read_image, read_video


@pytest.fixture
def clips(labelled_folder):
    return find_clips(labelled_folder)[0]


def pairs_of(make_parts, name: str = "evaluation") -> set[str]:
    """The names of the pairs that were measured."""
    files = make_parts(name).folder.glob("*+*.safetensors")
    return {path.name.removesuffix(".safetensors").replace("%2F", "/") for path in files}


def test_the_numbers_are_those_of_whole_videos(pipeline, clips, readers, label_network, make_parts):
    results = evaluate_cross(pipeline, clips, readers, make_parts(), num_frames=7)
    by_name = {clip.name: read_video(clip.path, num_frames=7) for clip in clips}
    videos, drivers, distances = [], [], []
    for pair in pairs_of(make_parts):
        source, driver = (by_name[name] for name in pair.split("+"))
        assert source is not driver
        videos.append(pipeline(source[0], driver, "relative", output_type="pt").frames[0] * 2 - 1)
        drivers.append(driver)
        ours, theirs = (label_network.read(video)[1] / 2 for video in (videos[-1], source[:1]))
        distances.append(average_euclidean_distance(theirs.expand_as(ours), ours))
    assert len(videos) == 3
    fid = frechet_distance(readers.clip(torch.stack([*by_name.values()])), readers.clip(torch.stack(videos)))
    assert results["model"]["video_fid"] == pytest.approx(fid, rel=1e-3)
    distances = torch.tensor(distances)
    assert results["model"]["identity_distance"] == pytest.approx(distances.mean().item(), rel=1e-4)
    deviation = distances.std(correction=0).item()
    assert results["std"]["model"]["identity_distance"] == pytest.approx(deviation, rel=1e-2)
    found, truth = (torch.stack([label_network.read(v)[0][:, 0] for v in side]) for side in (videos, drivers))
    name = label_network.config.motion_names[0]
    assert results["model"]["motion"][name] == pytest.approx(agreement(found, truth), rel=1e-3, abs=1e-4)
    assert {*results["model"]["motion_labels"]} == {*label_network.config.motion_names}
    assert {*results["driver"]} == {"motion_labels"}
    assert (results["num_videos"], results["num_real"], results["left_out"]) == (3, 3, {})
    picture = read_image(make_parts().folder.with_name("cross.png"))
    assert picture.shape == (3, 3 * 3 * 32, 12 * 32)  # three pairs: source, driver and model


def test_a_seed_gives_one_evaluation(pipeline, clips, make_parts, readers, monkeypatch):
    reader = Readers(identity=readers.identity)
    first = evaluate_cross(pipeline, clips, reader, make_parts("first"), num_frames=5, seed=1)
    monkeypatch.setattr(rendering, "CHUNK_SIZE", 2)
    second = evaluate_cross(pipeline, clips, reader, make_parts("second"), num_frames=5, seed=1)
    assert pairs_of(make_parts, "first") == pairs_of(make_parts, "second")
    assert first["model"] == pytest.approx(second["model"], rel=1e-4)
    assert {*first["model"]} == {"identity_distance", "identity_distance_to_driver"}
    assert "driver" not in first and "num_real" not in first  # only what can be read


def test_pairs_are_of_different_people():
    people = ["a", "a", "b", "c", "c", "c"]
    for seed in range(20):
        pairs = draw_pairs(people, 6, seed)
        assert all(people[source] != people[driver] for source, driver in pairs)
        assert sorted(driver for _, driver in pairs) == [*range(6)]
    assert draw_pairs(people, 4, seed=3) == draw_pairs(people, 4, seed=3) == draw_pairs(people, 6, seed=3)[:4]
    assert len({tuple(draw_pairs(people, 6, seed)) for seed in range(20)}) > 15


def test_labels_or_names_tell_who_it_is(make_clip, tmp_path):
    make_clip(tmp_path / "a", 1, 1, num_frames=2)
    make_clip(tmp_path / "b", 1, 2, num_frames=2)
    make_clip(tmp_path / "c", 2, 1, num_frames=2)
    first, same, other = (person_of(clip) for clip in find_clips(tmp_path)[0])
    assert first == same != other
    names = ("id1#x#1.mp4", "id1#y#2.mp4", "id2#x#1.mp4", "d.mp4")
    found = [person_of(VideoClip(tmp_path / name, name, 9, 25)) for name in names]
    assert found[0] == found[1] and len({*found}) == 3


def test_short_and_broken_clips_are_left_out(pipeline, labelled_folder, readers, make_clip, make_parts):
    folder = make_parts().folder.parent / "clips"
    shutil.copytree(labelled_folder, folder)
    make_clip(folder / "short", 5, 5, num_frames=3)
    make_clip(folder / "wrong", 6, 6)
    (folder / "wrong.labels.safetensors").write_text("these are no labels")
    clips, _ = find_clips(folder)
    results = evaluate_cross(pipeline, clips, readers, make_parts("result"), num_frames=7)
    assert {*results["left_out"]} == {"short", "wrong"} and results["num_videos"] == 3
    assert results["left_out"]["short"] == "it has 3 frames, fewer than 7"
    assert "holds no labels" in results["left_out"]["wrong"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_frames": 1}, "`num_frames` must be at least 2, got 1"),
        ({"num_frames": 10}, "needs two clips or more of 10 frames, got 0 of 3"),
        ({"num_frames": 9, "num_pairs": 1}, "`num_pairs` must be from 2, as a covariance needs, to 3"),
        ({"num_frames": 9, "num_pairs": 4}, "to 3, the number of clips that are long enough, got 4"),
    ],
)
def test_too_little_is_refused_before_anything_is_rendered(pipeline, clips, readers, make_parts, options, message):
    parts = make_parts()
    with pytest.raises(ValueError, match=message):
        evaluate_cross(pipeline, clips, readers, parts, **options)
    assert not list(parts.folder.iterdir())


def test_one_person_or_nothing_to_read_is_refused(pipeline, clips, readers, make_parts):
    twice = [clips[0], replace(clips[0], name="again")]
    with pytest.raises(ValueError, match="clips of two people or more, got 2 of 1"):
        evaluate_cross(pipeline, twice, readers, make_parts(), num_frames=9)
    with pytest.raises(ValueError, match=r"`readers` must hold a `clip` \(--features\)"):
        evaluate_cross(pipeline, clips, Readers(), make_parts(), num_frames=9)
