import pytest
import torch
import torch.nn.functional as F

from leo_diffusers.metrics.resnet import BottleneckResNet50, ResNet50


STAGES = {"layer1": (64, 3), "layer2": (128, 4), "layer3": (256, 6), "layer4": (512, 3)}


def expected_shapes() -> dict[str, tuple[int, ...]]:
    convolutions = {"conv1": (64, 3, 7, 7)}
    norms = {"bn1": 64}
    channels = 64
    for stage, (width, count) in STAGES.items():
        for name in (f"{stage}.{index}" for index in range(count)):
            convolutions |= {f"{name}.conv1": (width, channels, 1, 1), f"{name}.conv2": (width, width, 3, 3)}
            convolutions |= {f"{name}.conv3": (4 * width, width, 1, 1)}
            norms |= {f"{name}.bn1": width, f"{name}.bn2": width, f"{name}.bn3": 4 * width}
            if channels != 4 * width:
                convolutions[f"{name}.downsample.0"] = (4 * width, channels, 1, 1)
                norms[f"{name}.downsample.1"] = 4 * width
            channels = 4 * width
    shapes = {f"{name}.weight": shape for name, shape in convolutions.items()}
    for name, width in norms.items():
        shapes |= {f"{name}.{key}": (width,) for key in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}.num_batches_tracked"] = ()
    return shapes


def plain_features(weights: dict[str, torch.Tensor], x: torch.Tensor, last_stride: int) -> torch.Tensor:
    def unit(conv: str, bn: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = weights[f"{conv}.weight"]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
        mean, variance, gain, bias = (
            weights[f"{bn}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * gain + bias

    x = F.max_pool2d(unit("conv1", "bn1", x, stride=2).relu(), 3, 2, 1)
    strides = {"layer1": 1, "layer2": 2, "layer3": 2, "layer4": last_stride}
    for stage, (_, count) in STAGES.items():
        for index in range(count):
            name, stride = f"{stage}.{index}", strides[stage] if index == 0 else 1
            y = unit(f"{name}.conv1", f"{name}.bn1", x).relu()
            y = unit(f"{name}.conv2", f"{name}.bn2", y, stride).relu()
            y = unit(f"{name}.conv3", f"{name}.bn3", y)
            x = unit(f"{name}.downsample.0", f"{name}.downsample.1", x, stride) if index == 0 else x
            x = (x + y).relu()
    return x.flatten(2).mean(dim=2)


@pytest.mark.parametrize("last_stride", [1, 2])
def test_against_plain_functions(randomize, last_stride):
    network = randomize(ResNet50(last_stride))
    frames = torch.randn(2, 3, 70, 50, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = network(frames)
        expected = plain_features(network.state_dict(), frames, last_stride)
    assert features.shape == (2, 2048)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)


def test_keys_and_shapes():
    network = ResNet50()
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == expected_shapes()
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count + 2048 * 1000 + 1000 == 25_557_032  # with the classes of ImageNet, as torchvision has it


def test_bottleneck(randomize):
    network = randomize(BottleneckResNet50())
    weights = network.state_dict()
    expected = {f"model.{key}": shape for key, shape in expected_shapes().items()}
    expected |= {"classifier.add_block.0.weight": (512, 2048), "classifier.add_block.0.bias": (512,)}
    expected |= {f"classifier.add_block.1.{key}": (512,) for key in ("weight", "bias", "running_mean", "running_var")}
    expected["classifier.add_block.1.num_batches_tracked"] = ()
    assert {key: tuple(tensor.shape) for key, tensor in weights.items()} == expected
    frames = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    block = {key.removeprefix("classifier.add_block."): tensor for key, tensor in weights.items()}
    with torch.no_grad():
        features = network.model(frames) @ block["0.weight"].T + block["0.bias"]
        features = (features - block["1.running_mean"]) / (block["1.running_var"] + 1e-5).sqrt()
        torch.testing.assert_close(network(frames), features * block["1.weight"] + block["1.bias"])


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match="`last_stride` must be 1 or 2, got 3"):
        ResNet50(last_stride=3)
