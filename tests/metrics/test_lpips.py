import hashlib
import sys

import pytest
import torch
import torch.nn.functional as F

from leo_diffusers.metrics import LPIPS, average_perceptual_distance
from leo_diffusers.metrics.lpips import AlexNetTrunk, PerceptualHeads, PerceptualNetwork


# Channels, kernel, stride and padding of the five convolutions, and their places in torchvision's AlexNet
LAYERS = {0: (64, 11, 4, 2), 3: (192, 5, 1, 2), 6: (384, 3, 1, 1), 8: (256, 3, 1, 1), 10: (256, 3, 1, 1)}


def frames(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def plain_distance(trunk: dict, heads: dict, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (torch.stack([real, fake]) - shift[:, None, None]) / scale[:, None, None]
    total = 0
    for index, (place, (_, _, stride, padding)) in enumerate(LAYERS.items()):
        if place in (3, 6):
            x = F.max_pool2d(x.flatten(0, 1), 3, 2).unflatten(0, (2, -1))
        weight, bias = trunk[f"features.{place}.weight"], trunk[f"features.{place}.bias"]
        x = F.conv2d(x.flatten(0, 1), weight, bias, stride, padding).unflatten(0, (2, -1)).clamp(min=0)
        unit = x / (x.norm(dim=2, keepdim=True) + 1e-10)
        weights = heads[f"lin{index}.model.1.weight"].flatten()
        total = total + torch.einsum("bchw,c->bhw", (unit[0] - unit[1]) ** 2, weights).mean(dim=(1, 2))
    return total


@pytest.fixture(scope="module")
def network(randomize) -> PerceptualNetwork:
    heads = randomize(PerceptualHeads())
    with torch.no_grad():
        for weight in heads.parameters():
            weight.abs_()
    return PerceptualNetwork(randomize(AlexNetTrunk()), heads)


@pytest.fixture
def package(tmp_path, monkeypatch, constant_weights):
    """A package lpips that can only be found, as where torchvision is missing."""
    folder = tmp_path / "lpips" / "weights" / "v0.1"
    folder.mkdir(parents=True)
    (tmp_path / "lpips" / "__init__.py").write_text("import nothing_of_this_name")
    torch.save(constant_weights(PerceptualHeads()), folder / "alex.pth")
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return folder / "alex.pth"


@pytest.fixture
def trunk_file(tmp_path, constant_weights):
    torch.save(constant_weights(AlexNetTrunk()) | {"classifier.1.weight": torch.zeros(1)}, tmp_path / "trunk.pth")
    return tmp_path / "trunk.pth"


def test_keys_and_shapes(network):
    expected = {}
    channels = 3
    for place, (out, size, _, _) in LAYERS.items():
        expected |= {f"features.{place}.weight": (out, channels, size, size), f"features.{place}.bias": (out,)}
        channels = out
    assert {key: tuple(tensor.shape) for key, tensor in network.trunk.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in network.trunk.parameters()) == 2_469_696  # as torchvision has it
    expected = {f"lin{index}.model.1.weight": (1, out, 1, 1) for index, (out, *_) in enumerate(LAYERS.values())}
    assert {key: tuple(tensor.shape) for key, tensor in network.heads.state_dict().items()} == expected


def test_against_plain_functions(network):
    real, fake = frames(0, 3, 3, 70, 50), frames(1, 3, 3, 70, 50)
    with torch.no_grad():
        distances = network(real, fake)
        expected = plain_distance(network.trunk.state_dict(), network.heads.state_dict(), real, fake)
        torch.testing.assert_close(distances, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network(fake, real), distances)
        assert torch.equal(network(real, real), torch.zeros(3))


def test_against_lpips(network, tmp_path):
    pytest.importorskip("torchvision", reason="lpips needs torchvision", exc_type=ImportError)
    lpips = pytest.importorskip("lpips", reason="the package lpips is absent")
    torch.save(network.heads.state_dict(), tmp_path / "heads.pth")
    reference = lpips.LPIPS(net="alex", pnet_rand=True, model_path=str(tmp_path / "heads.pth"), verbose=False)
    with torch.no_grad():
        for ours, theirs in zip(network.trunk.parameters(), reference.net.parameters(), strict=True):
            theirs.copy_(ours)
        real, fake = frames(0, 2, 3, 64, 64), frames(1, 2, 3, 64, 64)
        torch.testing.assert_close(network(real, fake), reference(real, fake).flatten(), rtol=1e-4, atol=1e-6)


def test_files(package, trunk_file):
    extractor = LPIPS(weights=trunk_file)
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (trunk_file, package)]
    assert extractor.weights_hash == "+".join(hashes)
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    real = frames(0, 20, 3, 31, 40)
    assert extractor(real, real).shape == (20,)
    assert average_perceptual_distance(real, real, extractor) == 0
    as_bytes = torch.full((1, 3, 40, 40), 255, dtype=torch.uint8), torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    as_floats = torch.ones(1, 3, 40, 40), -torch.ones(1, 3, 40, 40)
    torch.testing.assert_close(extractor(*as_bytes), extractor(*as_floats))


def test_without_files_the_error_says_what_to_get(trunk_file, package, monkeypatch):
    with pytest.raises(ValueError, match=r"LPIPS cannot be measured without AlexNet of ImageNet. Get alexnet-owt-"):
        LPIPS()
    with pytest.raises(ValueError, match="does not hold AlexNet of ImageNet: features.0.weight is missing"):
        LPIPS(weights=package)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(ValueError, match="which the package lpips brings along: pip install --no-deps lpips"):
        LPIPS(weights=trunk_file)


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (torch.zeros(2, 3, 40, 40), torch.zeros(1, 3, 40, 40), "must hold frames of one shape"),
        (torch.zeros(1, 3, 40, 30), torch.zeros(1, 3, 40, 30), "`real` must be of 31 pixels or more, got 40 x 30"),
        (torch.zeros(1, 3, 40, 40), torch.full((1, 3, 40, 40), 2.0), r"`fake` must lie in \[-1, 1\]"),
        (torch.full((1, 3, 40, 40), torch.nan), torch.zeros(1, 3, 40, 40), r"`real` must lie in .* got nan"),
    ],
)
def test_bad_frames_are_refused(package, trunk_file, real, fake, message):
    with pytest.raises(ValueError, match=message):
        LPIPS(weights=trunk_file)(real, fake)
