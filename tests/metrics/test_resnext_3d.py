import pytest
import torch
import torch.nn.functional as F

from leo_diffusers.metrics.resnext_3d import ResNeXt3D


STAGES = {"layer1": (128, 3), "layer2": (256, 4), "layer3": (512, 23), "layer4": (1024, 3)}


def expected_shapes() -> dict[str, tuple[int, ...]]:
    convolutions = {"conv1": (64, 3, 7, 7, 7)}
    norms = {"bn1": 64}
    channels = 64
    for stage, (width, count) in STAGES.items():
        for name in (f"{stage}.{index}" for index in range(count)):
            convolutions |= {f"{name}.conv1": (width, channels, 1, 1, 1)}
            convolutions |= {f"{name}.conv2": (width, width // 32, 3, 3, 3)}
            convolutions |= {f"{name}.conv3": (2 * width, width, 1, 1, 1)}
            norms |= {f"{name}.bn1": width, f"{name}.bn2": width, f"{name}.bn3": 2 * width}
            if channels != 2 * width:
                convolutions[f"{name}.downsample.0"] = (2 * width, channels, 1, 1, 1)
                norms[f"{name}.downsample.1"] = 2 * width
            channels = 2 * width
    shapes = {f"{name}.weight": shape for name, shape in convolutions.items()}
    for name, width in norms.items():
        shapes |= {f"{name}.{key}": (width,) for key in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}.num_batches_tracked"] = ()
    return shapes


def plain_features(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    def unit(conv: str, bn: str, x: torch.Tensor, stride=1, groups: int = 1) -> torch.Tensor:
        weight = weights[f"{conv}.weight"]
        x = F.conv3d(x, weight, None, stride, weight.shape[-1] // 2, groups=groups)
        mean, variance, gain, bias = (
            weights[f"{bn}.{key}"][:, None, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * gain + bias

    x = F.max_pool3d(unit("conv1", "bn1", x, stride=(1, 2, 2)).relu(), 3, 2, 1)
    for stage, (_, count) in STAGES.items():
        for index in range(count):
            name, stride = f"{stage}.{index}", 2 if index == 0 and stage != "layer1" else 1
            y = unit(f"{name}.conv1", f"{name}.bn1", x).relu()
            y = unit(f"{name}.conv2", f"{name}.bn2", y, stride, groups=32).relu()
            y = unit(f"{name}.conv3", f"{name}.bn3", y)
            if f"{name}.downsample.0.weight" in weights:
                x = unit(f"{name}.downsample.0", f"{name}.downsample.1", x, stride)
            x = (x + y).relu()
    return x.flatten(2).mean(dim=2)


@pytest.fixture(scope="module")
def network(randomize) -> ResNeXt3D:
    return randomize(ResNeXt3D())


def test_keys_and_shapes(network):
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == expected_shapes()
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count + 2048 * 400 + 400 == 48_340_816  # with the classes of Kinetics


def test_against_plain_functions(network):
    clip = torch.randn(1, 3, 18, 40, 36, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features, expected = network(clip), plain_features(network.state_dict(), clip)
    assert features.shape == (1, 2048)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
