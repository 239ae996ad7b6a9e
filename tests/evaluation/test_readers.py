import argparse
from functools import partial

import pytest
import torch

from leo_diffusers import metrics
from leo_diffusers.evaluation.arguments import EXTRACTORS, add_reader_arguments, build_readers
from leo_diffusers.evaluation.readers import LabelReader, Readers, label_readers
from leo_diffusers.models.label_network import LabelNetwork


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_label_reader_reads_in_pixels_and_unit_spread(label_network, frames):
    motion, attributes, keypoints = label_network.read(frames)
    read = Readers(**label_readers(label_network)).read(frames)
    assert list(read) == ["keypoints", "identity", "motion"]
    torch.testing.assert_close(read["keypoints"], keypoints * 32)
    torch.testing.assert_close(read["identity"], attributes / 2)  # the spread of every label of this network
    torch.testing.assert_close(read["motion"], motion)
    assert (read["keypoints"] > 0).all() and (read["keypoints"] < 32).all()


def test_what_is_missing_is_not_read(frames):
    assert Readers().read(frames) == {} and Readers().describe() == {}
    assert list(Readers(identity=lambda frames: frames.mean(dim=(2, 3))).read(frames)) == ["identity"]


def test_results_name_who_read_what(label_network):
    described = Readers(identity=LabelReader(label_network, "identity"), motion=len).describe()
    assert described["identity"]["extractor"] == "LabelNetwork.identity"
    assert len(described["identity"]["weights"]) == 16
    assert described["motion"] == {"extractor": "builtin_function_or_method", "weights": None}


def test_other_weights_are_told_apart(label_network):
    other = LabelNetwork.from_config(label_network.config)
    hashes = {LabelReader(network, "motion").weights_hash for network in (label_network, other)}
    assert len(hashes) == 2


def test_a_network_without_keypoints_reads_the_rest(label_network):
    network = LabelNetwork.from_config(label_network.config, num_keypoints=0)
    assert list(label_readers(network)) == ["identity", "motion"]
    with pytest.raises(ValueError, match="trained without keypoints"):
        LabelReader(network, "keypoints")


def test_another_reading_is_refused(label_network):
    with pytest.raises(ValueError, match='`reading` must be "keypoints", "identity" or "motion", got \'depth\''):
        LabelReader(label_network, "depth")


# --- the command line ---


def parse_readers(*words: str, protocol: str | None = None) -> Readers:
    parser = argparse.ArgumentParser()
    add_reader_arguments(parser, "lpips", "keypoints", "identity", "fvd")
    args = parser.parse_args(words)
    if protocol is not None:
        args.protocol = protocol
    return build_readers(args, torch.device("cpu"))


@pytest.mark.parametrize(
    ("argument", "name", "options"),
    [
        ("identity", "body", {}),
        ("identity", "body_compat", {"compat": True}),
        ("features", "video_fid", {}),
        ("features", "video_fid_unit", {"input_norm": "kinetics_unit"}),
    ],
)
def test_variants_of_an_extractor_have_names_of_their_own(argument, name, options):
    extractor = EXTRACTORS[argument][name]
    found = (extractor.func, extractor.keywords) if isinstance(extractor, partial) else (extractor, {})
    assert found == (metrics.BodyEmbeddings if argument == "identity" else metrics.VideoFIDFeatures, options)


@pytest.mark.parametrize("protocol", ["stylegan_v", "digan"])
def test_clips_are_resized_as_the_protocol_has_it(protocol):
    readers = parse_readers("--features", "random_i3d", protocol=protocol)
    assert readers.clip.protocol == protocol
    assert readers.describe()["clip"]["extractor"] == f"RandomI3DFeatures({protocol})"


def test_a_pretrained_network_takes_the_protocol_too(tmp_path):
    torch.save(metrics.RandomI3DFeatures().network.state_dict(), tmp_path / "i3d.pt")
    words = ["--features", "i3d", "--features_weights", str(tmp_path / "i3d.pt")]
    assert parse_readers(*words, protocol="digan").describe()["clip"]["extractor"] == "I3DFeatures(digan)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--features", "i3d"], "--features: FVD and KVD cannot be measured without .* with `--features_weights`"),
        (["--identity_weights", "a.pt"], "--identity_weights a.pt has no effect without a --identity"),
        (["--keypoints", "face", "--keypoints_weights", "a"], "--keypoints_weights is for --keypoints body"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_argument(words, message):
    with pytest.raises(ValueError, match=message):
        parse_readers(*words)


def test_fvd_is_no_distance_of_a_video_fid(capsys):
    with pytest.raises(SystemExit):
        parse_readers("--features", "video_fid")
    assert (
        "invalid choice: 'video_fid' (choose from 'i3d', 'i3d_torchscript', 'random_i3d')" in capsys.readouterr().err
    )
