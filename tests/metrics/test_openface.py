import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from leo_diffusers.metrics import OpenFaceEmbeddings
from leo_diffusers.metrics.openface import OpenFace


# By block its input channels, its branches of convolutions (kernel, channels before and after), their stride, its
# pooling, and the channels of the convolutions behind the pooling and of single pixels
BLOCKS = {
    "layer14": (192, [(3, 96, 128), (5, 16, 32)], 1, "max", 32, 64),
    "layer15": (256, [(3, 96, 128), (5, 32, 64)], 1, "root", 64, 64),
    "layer16": (320, [(3, 128, 256), (5, 32, 64)], 2, "max", None, None),
    "layer17": (640, [(3, 96, 192), (5, 32, 64)], 1, "root", 128, 256),
    "layer18": (640, [(3, 160, 256), (5, 64, 128)], 2, "max", None, None),
    "layer19": (1024, [(3, 96, 384)], 1, "root", 96, 256),
    "layer21": (736, [(3, 96, 384)], 1, "max", 96, 256),
}
STEM = {"layer1": (64, 3, 7, 7), "layer6": (64, 64, 1, 1), "layer9": (192, 64, 3, 3)}


def expected_shapes() -> dict[str, tuple[int, ...]]:
    convs, norms = dict(STEM), {"layer2": 64, "layer7": 64, "layer10": 192}

    def unit(conv: str, norm: str, shape: tuple) -> None:
        convs[conv] = shape
        norms[norm] = shape[0]

    for name, (channels, branches, _, _, pooled, single) in BLOCKS.items():
        for index, (size, reduced, out) in enumerate(branches):
            place = f"{name}.seq_list.{index}"
            unit(f"{place}.1_conv", f"{place}.2_bn", (reduced, channels, 1, 1))
            unit(f"{place}.4_conv", f"{place}.5_bn", (out, reduced, size, size))
        place = f"{name}.seq_list.{len(branches)}"
        if pooled:
            unit(f"{place}.2_conv", f"{place}.3_bn", (pooled, channels, 1, 1))
        place = f"{name}.seq_list.{len(branches) + 1}"
        if single:
            unit(f"{place}.1_conv", f"{place}.2_bn", (single, channels, 1, 1))
    shapes = {"layer25.weight": (128, 736), "layer25.bias": (128,)}
    for name, shape in convs.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, width in norms.items():
        shapes |= {f"{name}.{key}": (width,) for key in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}.num_batches_tracked"] = ()
    return shapes


def plain_embedding(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    def unit(conv: str, norm: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = weights[f"{conv}.weight"]
        x = F.conv2d(x, weight, weights[f"{conv}.bias"], stride, weight.shape[-1] // 2)
        mean, variance, gain, bias = (
            weights[f"{norm}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (variance + 1e-5).sqrt() * gain + bias).clamp(min=0)

    def cross_norm(x: torch.Tensor) -> torch.Tensor:
        squares, sums = x.square(), []
        for c in range(x.shape[1]):
            window = squares[:, max(c - 2, 0) : c + 3].sum(dim=1)
            sums.append(window + (squares[:, 0] if c > 2 else 0))  # channel 0 stays, as it does in Torch's own port
        return x / (1 + 1e-4 / 5 * torch.stack(sums, dim=1)) ** 0.75

    def block(name: str, x: torch.Tensor) -> torch.Tensor:
        _, branches, stride, pooling, pooled, single = BLOCKS[name]
        results = []
        for index in range(len(branches)):
            place = f"{name}.seq_list.{index}"
            y = unit(f"{place}.1_conv", f"{place}.2_bn", x)
            results.append(unit(f"{place}.4_conv", f"{place}.5_bn", y, stride))
        place = f"{name}.seq_list.{len(branches)}"
        y = F.max_pool2d(x, 3, 2) if pooling == "max" else (9 * F.avg_pool2d(x.square(), 3, 3)).sqrt()
        y = unit(f"{place}.2_conv", f"{place}.3_bn", y) if pooled else y
        frame = torch.zeros(*y.shape[:2], *results[0].shape[2:])
        start = (frame.shape[-1] - y.shape[-1]) // 2
        frame[..., start : start + y.shape[-1], start : start + y.shape[-1]] = y
        results.append(frame)
        place = f"{name}.seq_list.{len(branches) + 1}"
        if single:
            results.append(unit(f"{place}.1_conv", f"{place}.2_bn", x))
        return torch.cat(results, dim=1)

    x = cross_norm(F.max_pool2d(unit("layer1", "layer2", x, stride=2), 3, 2, 1))
    x = cross_norm(unit("layer9", "layer10", unit("layer6", "layer7", x)))
    x = F.max_pool2d(x, 3, 2, 1)
    for name in BLOCKS:
        x = block(name, x)
    x = x.mean(dim=(2, 3)) @ weights["layer25.weight"].T + weights["layer25.bias"]
    return x / (x.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()


@pytest.fixture
def extractor(tmp_path, constant_weights) -> OpenFaceEmbeddings:
    weights = constant_weights(OpenFace())
    weights = {key: tensor for key, tensor in weights.items() if "num_batches_tracked" not in key}  # a file of 2017
    torch.save(weights, tmp_path / "openface.pth")
    return OpenFaceEmbeddings(weights=tmp_path / "openface.pth")


def test_keys_and_shapes():
    network = OpenFace()
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == expected_shapes()
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_733_968  # as OpenFace's own table has it


def test_against_plain_functions(randomize):
    network = randomize(OpenFace())
    frames = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 100  # shows the cross norm
    with torch.no_grad():
        embeddings = network(frames)
        torch.testing.assert_close(embeddings, plain_embedding(network.state_dict(), frames), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2), rtol=1e-4, atol=1e-4)


def test_weights(extractor, tmp_path):
    assert extractor.weights_hash == hashlib.sha256((tmp_path / "openface.pth").read_bytes()).hexdigest()
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    with pytest.raises(
        ValueError, match=r"cannot be measured without OpenFace .* Get openface.pth from .*`weights=`\.$"
    ):
        OpenFaceEmbeddings(download=True)
    with pytest.raises(FileNotFoundError, match=r"`weights` must name a file, got no\.pth"):
        OpenFaceEmbeddings(weights="no.pth")


@pytest.mark.parametrize("size", [(96, 96), (128, 160)])
def test_how_frames_are_prepared(extractor, size):
    frames = torch.randint(256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    prepared = []
    extractor.network.register_forward_pre_hook(lambda module, inputs: prepared.append(inputs[0].numpy()))
    assert extractor(frames).shape == (2, 128)
    extractor(frames.float() / 127.5 - 1)
    expected = frames.numpy()[:, ::-1] / 255  # BGR
    for axis in (2, 3):
        place = (np.arange(96) + 0.5) * expected.shape[axis] / 96 - 0.5
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, expected.shape[axis] - 1)
        share = (place - low).reshape([-1, 1] if axis == 2 else [-1])
        expected = np.take(expected, low, axis) * (1 - share) + np.take(expected, high, axis) * share
    for inputs in prepared:
        np.testing.assert_allclose(inputs, expected, atol=1e-4)


def test_bad_frames_are_refused(extractor):
    with pytest.raises(ValueError, match="`frames` must be of 96 pixels or more, got 64 x 128"):
        extractor(torch.zeros(1, 3, 64, 128))
    with pytest.raises(ValueError, match=r"`frames` must have the shape \(F, 3, H, W\)"):
        extractor(torch.zeros(1, 96, 96, 3))
    with pytest.raises(ValueError, match=r"`frames` must lie in \[-1, 1\] where they are floats, got nan"):
        extractor(torch.full((1, 3, 96, 96), torch.nan))
