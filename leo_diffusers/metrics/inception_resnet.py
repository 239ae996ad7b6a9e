"""Inception-ResNet-v1, the network of face embeddings (FaceNet, trained on VGGFace2)."""

import torch
import torch.nn as nn
import torch.nn.functional as F


Size = int | tuple[int, int]
Layer = tuple[int, Size]  # channels and kernel size of a convolution


class ConvUnit(nn.Module):
    r"""
    Convolution, batch normalisation, ReLU.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output.
        kernel_size (`int` or `tuple[int, int]`): Pixels.
        stride (`int`): Pixels.
        padding (`int` or `tuple[int, int]`): Zeros on each side, pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: int = 1, padding: Size = 0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        r"""(B, C, H, W) -> (B, C', H', W'), at least 0."""
        return F.relu(self.bn(self.conv(features)))


def conv_branch(in_channels: int, layers: list[Layer], last_stride: int = 1) -> nn.Module:
    r"""Convolutions in a row that keep the size, but for the last one if it has a stride: it has no padding then."""
    units = []
    for index, (out_channels, kernel_size) in enumerate(layers):
        stride = last_stride if index == len(layers) - 1 else 1
        height, width = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        padding = (height // 2, width // 2) if stride == 1 else 0
        units.append(ConvUnit(in_channels, out_channels, kernel_size, stride, padding))
        in_channels = out_channels
    return units[0] if len(units) == 1 else nn.Sequential(*units)


class ResidualBlock(nn.Module):
    r"""
    Branches side by side whose sum, weighed by a convolution, is added to the input.

    Args:
        channels (`int`): Of the input and the output.
        branches (`list[list[tuple]]`): For each branch channels and kernel size of its convolutions.
        scale (`float`): Factor of what is added.
        is_last (`bool`): Whether nothing is cut off below 0, as in the network's last block.
    """

    def __init__(self, channels: int, branches: list[list[Layer]], scale: float, is_last: bool = False):
        super().__init__()
        self.names = [f"branch{index}" for index in range(len(branches))]
        for name, layers in zip(self.names, branches):
            self.add_module(name, conv_branch(channels, layers))
        self.conv2d = nn.Conv2d(sum(layers[-1][0] for layers in branches), channels, 1)
        self.scale = scale
        self.is_last = is_last

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        r"""(B, C, H, W) -> (B, C, H, W)."""
        joined = torch.cat([self.get_submodule(name)(features) for name in self.names], dim=1)
        features = features + self.scale * self.conv2d(joined)
        return features if self.is_last else F.relu(features)


class ReductionBlock(nn.Module):
    r"""
    Branches side by side that halve the size, and a pooling beside them.

    Args:
        channels (`int`): Of the input.
        branches (`list[list[tuple]]`): For each branch channels and kernel size of its convolutions.
    """

    def __init__(self, channels: int, branches: list[list[Layer]]):
        super().__init__()
        self.names = [f"branch{index}" for index in range(len(branches))]
        for name, layers in zip(self.names, branches):
            self.add_module(name, conv_branch(channels, layers, last_stride=2))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        r"""(B, C, H, W) -> (B, C', (H - 1) // 2, (W - 1) // 2)."""
        branches = [self.get_submodule(name)(features) for name in self.names]
        return torch.cat([*branches, F.max_pool2d(features, 3, 2)], dim=1)


class InceptionResnetV1(nn.Module):
    r"""
    Frame of a face -> its embedding.

    Its state dict has the keys and shapes of facenet-pytorch's 20180402-114759-vggface2.pt, but for `logits`, the
    classes of its training.
    """

    def __init__(self):
        super().__init__()
        self.conv2d_1a = ConvUnit(3, 32, 3, stride=2)
        self.conv2d_2a = ConvUnit(32, 32, 3)
        self.conv2d_2b = ConvUnit(32, 64, 3, padding=1)
        self.conv2d_3b = ConvUnit(64, 80, 1)
        self.conv2d_4a = ConvUnit(80, 192, 3)
        self.conv2d_4b = ConvUnit(192, 256, 3, stride=2)
        fine = [[(32, 1)], [(32, 1), (32, 3)], [(32, 1), (32, 3), (32, 3)]]
        self.repeat_1 = nn.Sequential(*[ResidualBlock(256, fine, scale=0.17) for _ in range(5)])
        self.mixed_6a = ReductionBlock(256, [[(384, 3)], [(192, 1), (192, 3), (256, 3)]])
        middle = [[(128, 1)], [(128, 1), (128, (1, 7)), (128, (7, 1))]]
        self.repeat_2 = nn.Sequential(*[ResidualBlock(896, middle, scale=0.1) for _ in range(10)])
        self.mixed_7a = ReductionBlock(
            896, [[(256, 1), (384, 3)], [(256, 1), (256, 3)], [(256, 1), (256, 3), (256, 3)]]
        )
        coarse = [[(192, 1)], [(192, 1), (192, (1, 3)), (192, (3, 1))]]
        self.repeat_3 = nn.Sequential(*[ResidualBlock(1792, coarse, scale=0.2) for _ in range(5)])
        self.block8 = ResidualBlock(1792, coarse, scale=1.0, is_last=True)
        self.last_linear = nn.Linear(1792, 512, bias=False)
        self.last_bn = nn.BatchNorm1d(512, eps=1e-3)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        r"""
        Args:
            frames (`torch.Tensor` of shape `(B, 3, H, W)`): RGB in [-1, 1], of 75 pixels or more.

        Returns:
            `torch.Tensor` of shape `(B, 512)`: Embeddings of length 1.
        """
        features = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(frames)))
        features = self.conv2d_3b(F.max_pool2d(features, 3, 2))
        features = self.conv2d_4b(self.conv2d_4a(features))  # (B, 256, H / 8, W / 8)
        features = self.mixed_6a(self.repeat_1(features))  # (B, 896, H / 16, W / 16)
        features = self.mixed_7a(self.repeat_2(features))  # (B, 1792, H / 32, W / 32)
        features = self.block8(self.repeat_3(features))
        embeddings = self.last_bn(self.last_linear(features.mean(dim=(2, 3))))
        return F.normalize(embeddings)
