import math

import pytest
import torch
import torch.nn.functional as F

from leo_diffusers.metrics.extractors import RandomI3DFeatures
from leo_diffusers.metrics.i3d import I3D, pad_same


# By name the input channels and the widths of the branches, as in Inception-v1: 1x1; 3x3 reduced, 3x3; "5x5" reduced,
# "5x5" (3x3x3 here); pooled.
MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def convolutions() -> dict[str, tuple[int, ...]]:
    """Names of all convolutions that are normalised, and the shapes of their weights."""
    shapes = {
        "Conv3d_1a_7x7": (64, 3, 7, 7, 7),
        "Conv3d_2b_1x1": (64, 64, 1, 1, 1),
        "Conv3d_2c_3x3": (192, 64, 3, 3, 3),
    }
    for name, (channels, w0, w1, w2, w3, w4, w5) in MIXED.items():
        branches = {"b0": (w0, channels, 1), "b1a": (w1, channels, 1), "b1b": (w2, w1, 3)}
        branches |= {"b2a": (w3, channels, 1), "b2b": (w4, w3, 3), "b3b": (w5, channels, 1)}
        shapes |= {f"Mixed_{name}.{key}": (a, b, k, k, k) for key, (a, b, k) in branches.items()}
    return shapes


def same(x: torch.Tensor, kernel: tuple, stride: tuple, value: float) -> torch.Tensor:
    """TensorFlow's padding, axis by axis: the last window begins at (steps - 1) * stride and must end inside."""
    for axis in (2, 3, 4):
        size, k, s = x.shape[axis], kernel[axis - 2], stride[axis - 2]
        steps = -(-size // s)
        missing = max((steps - 1) * s + k - size, 0)
        for count, is_front in ((missing // 2, True), (missing - missing // 2, False)):
            shape = list(x.shape)
            shape[axis] = count
            border = torch.full(shape, value)
            x = torch.cat([border, x] if is_front else [x, border], dim=axis)
    return x


def pool(x: torch.Tensor, kernel: tuple, stride: tuple) -> torch.Tensor:
    return F.max_pool3d(same(x, kernel, stride, -math.inf), kernel, stride)


def plain_i3d(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The table of layers once more, as plain functions of a state dict."""

    def unit(name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = weights[f"{name}.conv3d.weight"]
        x = F.conv3d(same(x, weight.shape[2:], (stride,) * 3, 0.0), weight, stride=stride)
        mean, variance, gain, bias = (
            weights[f"{name}.bn.{key}"][:, None, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (variance + 1e-5).sqrt() * gain + bias).clamp(min=0)

    def mixed(name: str, x: torch.Tensor) -> torch.Tensor:
        b = {key: f"Mixed_{name}.{key}" for key in ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")}
        branches = [unit(b["b0"], x), unit(b["b1b"], unit(b["b1a"], x)), unit(b["b2b"], unit(b["b2a"], x))]
        return torch.cat([*branches, unit(b["b3b"], pool(x, (3, 3, 3), (1, 1, 1)))], dim=1)

    x = pool(unit("Conv3d_1a_7x7", x, stride=2), (1, 3, 3), (1, 2, 2))
    x = pool(unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", x)), (1, 3, 3), (1, 2, 2))
    for name in MIXED:
        if name == "4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if name == "5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        x = mixed(name, x)
    assert x.shape[3:] == (7, 7)
    pairs = [x[:, :, t : t + 2].mean(dim=(2, 3, 4)) for t in range(x.shape[2] - 1)]
    weight, bias = weights["logits.conv3d.weight"][:, :, 0, 0, 0], weights["logits.conv3d.bias"]
    return torch.stack([pair @ weight.T + bias for pair in pairs]).mean(dim=0)


def moving_bars(num_frames: int) -> torch.Tensor:
    """A clip (1, 3, F, 224, 224) that needs no random numbers."""
    t = torch.arange(num_frames)[:, None, None]
    y, x = torch.arange(224)[:, None], torch.arange(224)
    colours = 0.05 * x + 0.4 * t + 0 * y, 0.11 * y - 0.3 * t + 0 * x, 0.02 * (x + y) * t
    return torch.stack(colours).sin()[None]


@pytest.fixture(scope="module")
def network() -> I3D:
    return I3D.random(seed=0)


def test_keys_and_shapes(network):
    expected = {"logits.conv3d.weight": (400, 1024, 1, 1, 1), "logits.conv3d.bias": (400,)}
    for name, shape in convolutions().items():
        expected[f"{name}.conv3d.weight"] = shape
        expected |= {f"{name}.bn.{key}": shape[:1] for key in ("weight", "bias", "running_mean", "running_var")}
        expected[f"{name}.bn.num_batches_tracked"] = ()
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == expected
    assert len(expected) == 344
    assert sum(parameter.numel() for parameter in network.parameters()) == 12_697_264


def test_against_plain_functions(randomize):
    network = randomize(I3D())
    clip = moving_bars(9)  # the fewest; odd, so that both sides are padded differently at each halving
    with torch.no_grad():
        torch.testing.assert_close(network(clip), plain_i3d(network.state_dict(), clip), rtol=1e-3, atol=1e-3)


def test_padding_is_tensorflows():
    # tf.nn.max_pool of 1, 2, ... with "SAME": size 4 and step 2 put the odd zero behind; step 1 pads both sides.
    row = torch.arange(1.0, 5.0).reshape(1, 1, 1, 1, 4)
    assert pad_same(row, (1, 1, 3), (1, 1, 2)).flatten().tolist() == [1, 2, 3, 4, 0]
    assert pad_same(row, (1, 1, 3), (1, 1, 1)).flatten().tolist() == [0, 1, 2, 3, 4, 0]
    assert pad_same(row[..., :3], (1, 1, 3), (1, 1, 2)).flatten().tolist() == [0, 1, 2, 3, 0]
    assert pad_same(row, (1, 1, 7), (1, 1, 2)).flatten().tolist() == [0, 0, 1, 2, 3, 4, 0, 0, 0]
    assert pad_same(row, (1, 1, 1), (1, 1, 2)).flatten().tolist() == [1, 2, 3, 4]


def test_random_weights_belong_to_their_seed(network):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again, other = I3D.random(seed=0), I3D.random(seed=1)
    assert torch.equal(torch.rand(3), expected)  # the draws of others go on as if nothing had happened
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again.parameters(), network.parameters()))
    assert not torch.equal(other.Mixed_5c.b0.conv3d.weight, network.Mixed_5c.b0.conv3d.weight)
    assert not network.training


def test_random_weights_give_recorded_features():
    logits = RandomI3DFeatures(seed=0)(moving_bars(9).transpose(1, 2))[0]
    found = torch.stack([logits.mean(), logits.std(), *logits[:4]])
    expected = torch.tensor([0.1033, 1.8190, 0.8559, 0.8225, -0.7190, 1.8768])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 3, 9, 112, 112), (1, 9, 3, 224, 224), (3, 9, 224, 224), (1, 3, 9, 224, 256)])
def test_other_shapes_are_refused(network, shape):
    with pytest.raises(ValueError, match=r"`clips` must have the shape \(B, 3, T, 224, 224\)"):
        network(torch.zeros(shape))


def test_short_clips_are_refused(network):
    with pytest.raises(ValueError, match="`clips` must have 9 frames or more for I3D, got 8"):
        network(torch.zeros(1, 3, 8, 224, 224))
