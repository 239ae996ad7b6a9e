import math
import shutil
from dataclasses import replace

import pytest
import torch

from leo_diffusers import LIAPipeline
from leo_diffusers.data.frame_labels import FrameLabels, load_labels
from leo_diffusers.data.video_clips import find_clips
from leo_diffusers.evaluation import rendering
from leo_diffusers.evaluation.readers import Readers, label_readers
from leo_diffusers.evaluation.reconstruction import evaluate_reconstruction, in_compared_pixels
from leo_diffusers.metrics import average_euclidean_distance, average_keypoint_distance, average_l1_distance
from leo_diffusers.metrics.readings import agreement
from leo_diffusers.models.label_network import LabelNetwork
from leo_diffusers.video_io import VideoWriter, read_image, read_video, write_image
from tests.conftest import build_animator


@pytest.fixture
def clips(labelled_folder):
    return find_clips(labelled_folder)[0]


@pytest.fixture
def still_clip(tmp_path):
    """Nothing moves."""
    (tmp_path / "still").mkdir()
    with VideoWriter(tmp_path / "still" / "frames", 25) as writer:
        writer.write(torch.rand(1, 3, 32, 32).expand(5, 3, 32, 32))
    return find_clips(tmp_path / "still")[0]


def own_numbers(pipeline, clips, network) -> dict[str, torch.Tensor]:
    """What is to be found, from whole videos: numbers of every video, and motion (V, F, P)."""
    found = {"l1": [], "psnr": [], "aed": [], "akd": [], "akd_labels": [], "motion": []}
    for clip, labels in zip(clips, load_labels(clips)):
        real = read_video(clip.path)
        fake = pipeline(real[0], real, "absolute", output_type="pt").frames[0] * 2 - 1
        found["l1"].append(average_l1_distance(real, fake))
        mse = ((real - fake) / 2)[1:].square().mean(dim=(1, 2, 3))  # a copy has the source's own frame exactly
        found["psnr"].append((-10 * mse.log10()).mean().item())
        (_, theirs, points), (motion, ours, own_points) = network.read(real), network.read(fake)
        found["aed"].append(average_euclidean_distance(theirs / 2, ours / 2))
        # In pixels of 256 x 256 frames, whatever the model's are.
        found["akd"].append(average_keypoint_distance(points * 256, own_points * 256))
        found["akd_labels"].append(average_keypoint_distance(labels.keypoints * 256, own_points * 256))
        found["motion"].append(motion)
    return {name: torch.stack([torch.as_tensor(value) for value in values]) for name, values in found.items()}


def test_the_numbers_are_those_of_whole_videos(pipeline, clips, readers, label_network, make_parts):
    results = evaluate_reconstruction(pipeline, clips, readers, make_parts())
    expected = own_numbers(pipeline, clips, label_network)
    for name in ("l1", "psnr", "aed", "akd", "akd_labels"):
        values = expected[name].double()
        assert results["model"][name] == pytest.approx(values.mean().item(), rel=1e-4)
        assert results["std"]["model"][name] == pytest.approx(values.std(correction=0).item(), rel=1e-3)
    truth = torch.stack([torch.from_numpy(labels.motion) for labels in load_labels(clips)])
    names = label_network.config.motion_names
    wanted = {name: agreement(expected["motion"][..., i], truth[..., i]) for i, name in enumerate(names)}
    assert {*results["model"]["motion_labels"]} == {*names}
    for name in ("yaw", "mouth"):
        assert results["model"]["motion_labels"][name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-5)
    assert results["model"]["mkr"] == 0 and results["model"]["perceptual"] > 0
    assert results["num_videos"] == results["num_labelled"] == 3 and results["left_out"] == {}
    assert results["readers"]["keypoints"]["extractor"] == "LabelNetwork.keypoints"
    assert {*results["real"]} == {"akd_labels", "motion_labels"}  # what the reader itself misses


def test_pixels_count_by_video_and_readings_by_frame(pipeline, readers, make_clip, make_parts, tmp_path):
    (tmp_path / "clips").mkdir()
    for number, num_frames in enumerate((9, 3)):
        make_clip(tmp_path / "clips" / str(number), number, number, num_frames)
    both = find_clips(tmp_path / "clips")[0]
    parts = [make_parts(name) for name in ("long", "short")]
    alone = [evaluate_reconstruction(pipeline, [clip], readers, part)["copy"] for clip, part in zip(both, parts)]
    found = evaluate_reconstruction(pipeline, both, readers, make_parts("both"))["copy"]
    for name in ("l1", "psnr", "perceptual"):
        assert found[name] == pytest.approx((alone[0][name] + alone[1][name]) / 2)
    for name in ("akd", "aed", "akd_labels"):
        assert found[name] == pytest.approx((9 * alone[0][name] + 3 * alone[1][name]) / 12)


def test_missing_keypoints_are_missing_at_any_size():
    readings = {"keypoints": torch.tensor([[[8.0, 4.0], [-1.0, -1.0]]]), "identity": torch.ones(1, 2)}
    found = in_compared_pixels(readings, frame_size=32)
    assert found["keypoints"].tolist() == [[[64, 32], [-1, -1]]]
    assert found["identity"] is readings["identity"] and in_compared_pixels({}, 32) == {}


def test_chunks_change_nothing(pipeline, clips, readers, make_parts, monkeypatch):
    whole = evaluate_reconstruction(pipeline, clips[:2], readers, make_parts("whole"))
    monkeypatch.setattr(rendering, "CHUNK_SIZE", 2)
    pieces = evaluate_reconstruction(pipeline, clips[:2], readers, make_parts("pieces"))
    for task in ("model", "copy"):
        for name, value in whole[task].items():
            if not isinstance(value, dict):
                assert pieces[task][name] == pytest.approx(value, rel=1e-4, abs=1e-7), (task, name)
        ours, theirs = (results[task]["motion_labels"]["yaw"]["slope"] for results in (pieces, whole))
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-7)
    pictures = [read_image(make_parts(name).folder.with_name("reconstruction.png")) for name in ("whole", "pieces")]
    torch.testing.assert_close(*pictures, atol=2 / 127.5, rtol=0)


def test_a_copy_of_a_still_clip_is_perfect(pipeline, still_clip, readers, make_parts):
    copy = evaluate_reconstruction(pipeline, still_clip, readers, make_parts())["copy"]
    assert copy["l1"] == copy["akd"] == copy["mkr"] == copy["aed"] == copy["perceptual"] == 0
    assert copy["psnr"] == pytest.approx(100)
    assert "akd_labels" not in copy and "motion_labels" not in copy  # there are no labels


def test_a_copy_does_not_move(pipeline, clips, readers, make_parts):
    results = evaluate_reconstruction(pipeline, clips, readers, make_parts())
    for truth in ("motion", "motion_labels"):
        assert results["copy"][truth]["yaw"]["slope"] == 0
        assert math.isnan(results["copy"][truth]["yaw"]["correlation"])
    assert 0 < results["copy"]["l1"] < 1 and results["copy"]["akd"] > 0


def test_only_the_first_frames_count(pipeline, clips, readers, make_parts):
    first = evaluate_reconstruction(pipeline, clips[:1], readers, make_parts("first"), num_frames=4)
    real = read_video(clips[0].path, num_frames=4)
    assert first["copy"]["l1"] == pytest.approx(average_l1_distance(real, real[:1].expand_as(real)), rel=1e-5)
    many = evaluate_reconstruction(pipeline, clips[:1], Readers(), make_parts("many"), num_frames=1000)
    alone = evaluate_reconstruction(pipeline, clips[:1], Readers(), make_parts("alone"))
    assert many["model"] == alone["model"] and {*many["model"]} == {"l1", "psnr"}
    with pytest.raises(ValueError, match="`num_frames` must be at least 2, got 1"):
        evaluate_reconstruction(pipeline, clips, readers, make_parts(), num_frames=1)


def test_clips_of_any_length_and_without_labels_go_together(pipeline, labelled_folder, readers, make_clip, make_parts):
    folder = make_parts().folder.parent / "clips"
    shutil.copytree(labelled_folder, folder)
    make_clip(folder / "long", 5, 5, num_frames=20)
    FrameLabels.path_of(folder / "b").unlink()
    clips, _ = find_clips(folder)
    assert [clip.num_frames for clip in clips] == [9, 9, 9, 20]
    results = evaluate_reconstruction(pipeline, clips, readers, make_parts())
    assert (results["num_videos"], results["num_labelled"]) == (4, 3)
    alone = evaluate_reconstruction(pipeline, [clips[0], *clips[2:]], readers, make_parts("labelled"))
    assert results["model"]["akd_labels"] == alone["model"]["akd_labels"]
    assert results["model"]["akd"] != alone["model"]["akd"]


def test_bad_clips_are_left_out_by_name(pipeline, labelled_folder, readers, make_clip, make_parts):
    folder = make_parts().folder.parent / "clips"
    shutil.copytree(labelled_folder, folder)
    good, _ = find_clips(labelled_folder)
    make_clip(folder / "mixed", 5, 5)
    make_clip(folder / "shorter", 5, 5)
    clips, _ = find_clips(folder)
    FrameLabels.path_of(folder / "shorter").unlink()
    write_image(folder / "mixed" / "000003.png", torch.zeros(3, 16, 16))
    (folder / "shorter" / "000008.png").unlink()
    labels = FrameLabels.load(FrameLabels.path_of(folder / "b"))
    replace(labels, keypoints=labels.keypoints[1:], motion=labels.motion[1:]).save(FrameLabels.path_of(folder / "b"))
    single = replace(clips[0], name="single", num_frames=1)
    results = evaluate_reconstruction(pipeline, [*clips, single], readers, make_parts("bad"))
    reasons = {
        "b": "tells of 8 frames, but b has 9: write it anew",
        "mixed": "holds images of different sizes",
        "shorter": "shorter ends after 8 of 9 frames",
        "single": "single has 1 frame, which holds no motion",
    }
    assert results["left_out"].keys() == reasons.keys() and results["num_videos"] == 2
    assert all(reason in results["left_out"][name] for name, reason in reasons.items())
    alone = evaluate_reconstruction(pipeline, [good[0], good[2]], readers, make_parts("good"))
    assert results["model"] == alone["model"]


def test_labels_of_other_motion_are_refused(pipeline, clips, label_network, make_parts):
    names = [*reversed(label_network.config.motion_names)]
    network = LabelNetwork.from_config(label_network.config, motion_names=names).eval()
    with pytest.raises(ValueError, match="take a network that was trained on such labels"):
        evaluate_reconstruction(pipeline, clips, Readers(**label_readers(network)), make_parts())


def test_a_diverged_animator_is_refused(clips, make_parts):
    animator = build_animator()
    torch.nn.init.constant_(next(animator.parameters()), float("nan"))
    with pytest.raises(ValueError, match="None of 3 videos.*renders NaN: its animator has diverged"):
        evaluate_reconstruction(LIAPipeline(animator), clips, Readers(), make_parts())


def test_a_resumed_run_still_has_its_picture(pipeline, clips, make_parts):
    first = evaluate_reconstruction(pipeline, clips, Readers(), make_parts())
    path = make_parts().folder.with_name("reconstruction.png")
    picture = read_image(path)
    assert picture.shape == (3, 3 * 2 * 32, 12 * 32)  # three clips, the truth and the model
    path.unlink()
    make_parts().path_of(clips[1].name).unlink()
    assert evaluate_reconstruction(pipeline, clips, Readers(), make_parts()) == first
    assert torch.equal(read_image(path), picture)
