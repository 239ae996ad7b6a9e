import pytest
import torch
import torch.nn.functional as F

from leo_diffusers.metrics.inception_resnet import InceptionResnetV1


# Name of a convolution, its input and output channels, kernel, stride and padding
STEM = [
    ("conv2d_1a", 3, 32, (3, 3), 2, 0),
    ("conv2d_2a", 32, 32, (3, 3), 1, 0),
    ("conv2d_2b", 32, 64, (3, 3), 1, 1),
    ("conv2d_3b", 64, 80, (1, 1), 1, 0),
    ("conv2d_4a", 80, 192, (3, 3), 1, 0),
    ("conv2d_4b", 192, 256, (3, 3), 2, 0),
]
BLOCKS = [*((f"repeat_1.{i}", 35) for i in range(5)), ("mixed_6a", 6), *((f"repeat_2.{i}", 17) for i in range(10))]
BLOCKS += [("mixed_7a", 7), *((f"repeat_3.{i}", 8) for i in range(5)), ("block8", 8)]
CHANNELS = {35: 256, 6: 256, 17: 896, 7: 896, 8: 1792}
SCALE = {35: 0.17, 17: 0.1, 8: 0.2}


def branches(kind: int) -> dict[str, list[tuple]]:
    """By the name of a branch its convolutions: input and output channels, kernel, stride, padding."""
    c = CHANNELS[kind]

    def one(out: int, channels: int = c) -> tuple:
        return channels, out, (1, 1), 1, (0, 0)

    def three(channels: int, out: int) -> tuple:
        return channels, out, (3, 3), 1, (1, 1)

    def half(channels: int, out: int) -> tuple:
        return channels, out, (3, 3), 2, (0, 0)

    def line(channels: int, kernel: tuple) -> tuple:
        return channels, channels, kernel, 1, (kernel[0] // 2, kernel[1] // 2)

    return {
        35: [[one(32)], [one(32), three(32, 32)], [one(32), three(32, 32), three(32, 32)]],
        6: [[half(c, 384)], [one(192), three(192, 192), half(192, 256)]],
        17: [[one(128)], [one(128), line(128, (1, 7)), line(128, (7, 1))]],
        7: [[one(256), half(256, 384)], [one(256), half(256, 256)], [one(256), three(256, 256), half(256, 256)]],
        8: [[one(192)], [one(192), line(192, (1, 3)), line(192, (3, 1))]],
    }[kind]


def names(block: str, branch: int, count: int) -> list[str]:
    """A lone convolution has no number of its own."""
    return [f"{block}.branch{branch}" + (f".{i}" if count > 1 else "") for i in range(count)]


def expected_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {"last_linear.weight": (512, 1792)}
    units = {name: (out, channels, *kernel) for name, channels, out, kernel, _, _ in STEM}
    for block, kind in BLOCKS:
        joined = 0
        for index, layers in enumerate(branches(kind)):
            joined += layers[-1][1]
            for name, (channels, out, kernel, _, _) in zip(names(block, index, len(layers)), layers):
                units[name] = (out, channels, *kernel)
        if kind in SCALE:
            shapes |= {
                f"{block}.conv2d.weight": (CHANNELS[kind], joined, 1, 1),
                f"{block}.conv2d.bias": (CHANNELS[kind],),
            }
    shapes |= {f"{name}.conv.weight": shape for name, shape in units.items()}
    norms = {f"{name}.bn": shape[0] for name, shape in units.items()} | {"last_bn": 512}
    for name, width in norms.items():
        shapes |= {f"{name}.{key}": (width,) for key in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}.num_batches_tracked"] = ()
    return shapes


def plain_embedding(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        mean, variance, gain, bias = (
            weights[f"{name}.{key}"].reshape(-1, *[1] * (x.ndim - 2))
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 0.001).sqrt() * gain + bias

    def unit(name: str, x: torch.Tensor, stride: int, padding) -> torch.Tensor:
        return norm(f"{name}.bn", F.conv2d(x, weights[f"{name}.conv.weight"], None, stride, padding)).clamp(min=0)

    def block(name: str, kind: int, x: torch.Tensor) -> torch.Tensor:
        results = []
        for index, layers in enumerate(branches(kind)):
            y = x
            for unit_name, (_, _, _, stride, padding) in zip(names(name, index, len(layers)), layers):
                y = unit(unit_name, y, stride, padding)
            results.append(y)
        if kind not in SCALE:
            return torch.cat([*results, F.max_pool2d(x, 3, 2)], dim=1)
        added = F.conv2d(torch.cat(results, dim=1), weights[f"{name}.conv2d.weight"], weights[f"{name}.conv2d.bias"])
        return x + added if name == "block8" else (x + SCALE[kind] * added).clamp(min=0)

    for name, _, _, _, stride, padding in STEM:
        x = unit(name, F.max_pool2d(x, 3, 2) if name == "conv2d_3b" else x, stride, padding)
    for name, kind in BLOCKS:
        x = block(name, kind, x)
    x = norm("last_bn", x.mean(dim=(2, 3)) @ weights["last_linear.weight"].T)
    return x / x.square().sum(dim=1, keepdim=True).sqrt()


@pytest.fixture(scope="module")
def network(randomize) -> InceptionResnetV1:
    return randomize(InceptionResnetV1())


def test_keys_and_shapes(network):
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == expected_shapes()
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count + 512 * 8631 + 8631 == 27_910_327  # with the classes of VGGFace2, as facenet-pytorch has it


def test_against_plain_functions(network):
    frames = torch.rand(2, 3, 107, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        embeddings = network(frames)
        torch.testing.assert_close(embeddings, plain_embedding(network.state_dict(), frames), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


def test_the_smallest_frame(network):
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 75, 75)).shape == (1, 512)
