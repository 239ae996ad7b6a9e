import math

import pytest
import torch
import torch.nn.functional as F

from leo_diffusers.models.label_network import LabelNetwork, soft_argmax


NAMES = {"motion_names": ["yaw", "blink", "smile"], "attribute_names": ["skin.red", "glasses=round"]}
MEAN, STD = [5.0, 0.1, -0.5, 0.3, 0.25], [20.0, 0.3, 0.01, 0.5, 1.0]


def make_network(**config) -> LabelNetwork:
    """Random weights and batch statistics, in evaluation."""
    torch.manual_seed(0)
    defaults = {"frame_size": 32, "num_keypoints": 4, "label_mean": MEAN, "label_std": STD, **NAMES}
    network = LabelNetwork(**{**defaults, "block_out_channels": (4, 8, 8), **config}).train()
    network(frames(8, network.config.frame_size, seed=9))
    return network.eval()


def frames(batch_size: int = 2, size: int = 32, seed: int = 0) -> torch.Tensor:
    noise = torch.rand(batch_size, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(noise, size=(size, size), mode="bilinear")


@pytest.fixture(scope="module")
def network() -> LabelNetwork:
    return make_network()


# --- where heat lies ---


@pytest.mark.parametrize("place", [(0, 0), (2, 7), (5, 3)])
def test_a_peak_is_read_at_its_pixel_centre(place):
    row, column = place
    heat = torch.zeros(2, 1, 6, 9)
    heat[1, 0, row, column] = 100.0
    x, y = soft_argmax(heat)[1, 0]
    assert x.item() == pytest.approx((column + 0.5) / 9) and y.item() == pytest.approx((row + 0.5) / 6)


def test_even_heat_is_read_in_the_middle_and_two_peaks_between_them():
    heat = torch.zeros(1, 3, 8, 8)
    heat[0, 1, 2, 1] = heat[0, 1, 2, 4] = 100.0
    heat[0, 2, 2, 1], heat[0, 2, 2, 4] = 100.0, 100.0 + math.log(3)  # one to three
    expected = torch.tensor([[0.5, 0.5], [3 / 8, 2.5 / 8], [(0.25 * 1.5 + 0.75 * 4.5) / 8, 2.5 / 8]])
    torch.testing.assert_close(soft_argmax(heat)[0], expected)


def test_gradients_move_the_peak():
    heat = torch.zeros(1, 1, 4, 4, requires_grad=True)
    soft_argmax(heat)[0, 0, 0].backward()
    slope = heat.grad[0, 0].sum(dim=0)
    assert slope[0] < slope[1] < 0 < slope[2] < slope[3]


# --- readings ---


@torch.no_grad()
def test_shapes(network):
    labels, keypoints = network(frames(3))
    assert labels.shape == (3, 5) and keypoints.shape == (3, 4, 2)
    assert 0 < keypoints.min() and keypoints.max() < 1
    assert [tap.shape[1:] for tap in network.features(frames(1, 48))] == [(4, 24, 24), (8, 12, 12), (8, 6, 6)]


@torch.no_grad()
def test_reading_undoes_standardising(network):
    labels, keypoints = network(frames())
    motion, attributes, found = network.read(frames())
    assert motion.shape == (2, 3) and attributes.shape == (2, 2) and torch.equal(found, keypoints)
    torch.testing.assert_close(network.standardize(torch.cat([motion, attributes], dim=1)), labels)
    known = torch.tensor([MEAN, [mean + 2 * std for mean, std in zip(MEAN, STD)]])
    torch.testing.assert_close(network.standardize(known), torch.tensor([[0.0] * 5, [2.0] * 5]))


@torch.no_grad()
def test_frames_are_read_one_by_one(network):
    alone = [torch.cat(parts) for parts in zip(*(network.read(frame[None]) for frame in frames(3)))]
    torch.testing.assert_close(alone, list(network.read(frames(3))), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_save_and_load(network, tmp_path):
    network.save_pretrained(tmp_path)
    loaded = LabelNetwork.from_pretrained(tmp_path)
    assert not loaded.training and loaded.config.motion_names == NAMES["motion_names"]
    for ours, theirs in zip(loaded.read(frames()), network.read(frames())):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@torch.no_grad()
def test_a_network_without_keypoints(tmp_path):
    network = make_network(num_keypoints=0)
    network.save_pretrained(tmp_path)
    assert network(frames())[1] is None and network.read(frames())[2] is None
    assert LabelNetwork.from_pretrained(tmp_path).read(frames())[2] is None


@pytest.mark.parametrize(
    "config", [{"kernel_size": 5}, {"layers_per_block": 1}, {"frame_size": 8}, {"frame_size": 40}]
)
@torch.no_grad()
def test_other_shapes_fit(config):
    labels, keypoints = make_network(**config)(frames(2, config.get("frame_size", 32)))
    assert labels.shape == (2, 5) and keypoints.shape == (2, 4, 2)


def test_it_learns_where_a_dot_is():
    torch.manual_seed(0)
    network = LabelNetwork(16, 1, ["x"], [], [0.5], [0.3], block_out_channels=(8, 8), layers_per_block=1)
    places = torch.randint(2, 14, (256, 2))
    dots = -torch.ones(256, 3, 16, 16)
    dots[torch.arange(256), :, places[:, 1], places[:, 0]] = 1.0
    points = (places + 0.5) / 16
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        labels, keypoints = network(dots)
        loss = F.mse_loss(labels, network.standardize(points[:, :1])) + 20 * F.l1_loss(keypoints[:, 0], points)
        loss.backward()
        optimizer.step()
    motion, _, keypoints = network.eval().read(dots)
    assert (motion - points[:, :1]).abs().mean() < 0.04  # 0.19 when guessed
    assert (keypoints[:, 0] - points).abs().mean() < 0.04


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"label_mean": [0.0]}, "`label_mean` and `label_std` must hold 5 numbers, one for each name, got 1 and 5"),
        ({"label_std": [20.0, 0.3, 0.0, 0.5, 1.0]}, "`label_std` must be above 0, got 0.0"),
        ({"block_out_channels": (4,)}, r"`block_out_channels` must hold at least two numbers above 0, got \(4,\)"),
        ({"block_out_channels": (4, 0)}, r"`block_out_channels` must hold .* got \(4, 0\)"),
        ({"frame_size": 36}, "`frame_size` must be a multiple of 8, as 3 levels halve it, got 36"),
        ({"frame_size": 0}, "`frame_size` must be a multiple of 8, .* got 0"),
        ({"layers_per_block": 0}, "`layers_per_block` must be at least 1, got 0"),
        ({"kernel_size": 4}, "`kernel_size` must be odd, got 4"),
    ],
)
def test_refuses_a_bad_config(config, message):
    with pytest.raises(ValueError, match=message):
        make_network(**config)


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (3, 32, 32), (2, 1, 32, 32)])
def test_refuses_frames_of_another_shape(network, shape):
    for read in (network, network.read):
        with pytest.raises(ValueError, match=r"Frames must have the shape \(B, 3, 32, 32\), got "):
            read(torch.zeros(shape))
