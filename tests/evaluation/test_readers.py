import pytest
import torch

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
