"""ResNet-50, the network of body embeddings (person re-identification)."""

import torch
import torch.nn as nn
import torch.nn.functional as F


EXPANSION = 4  # output channels of a block for each of its inner ones
NUM_BLOCKS = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    r"""
    Three convolutions beside a shortcut; the one in the middle has the stride.

    Args:
        in_channels (`int`): Channels of the input.
        channels (`int`): Channels inside; four times as many come out.
        stride (`int`): Pixels.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        out_channels = EXPANSION * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        r"""(B, C, H, W) -> (B, C', H / stride, W / stride), rounded up, at least 0."""
        shortcut = features if self.downsample is None else self.downsample(features)
        features = F.relu(self.bn1(self.conv1(features)))
        features = F.relu(self.bn2(self.conv2(features)))
        return F.relu(shortcut + self.bn3(self.conv3(features)))


def bottlenecks(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    r"""Blocks in a row, the first of them with the stride."""
    blocks = [Bottleneck(in_channels, channels, stride)]
    blocks += [Bottleneck(EXPANSION * channels, channels, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(*blocks)


class ResNet50(nn.Module):
    r"""
    Frame -> pooled features. Its state dict has the keys and shapes of torchvision's ResNet-50, but for `fc`.

    Args:
        last_stride (`int`): Of the last stage: 2, or 1 for re-identification networks that were trained so. No key or
            shape depends on it, so that a file cannot tell.

    Raises:
        ValueError: For another stride.
    """

    def __init__(self, last_stride: int = 2):
        super().__init__()
        if last_stride not in (1, 2):
            raise ValueError(f"`last_stride` must be 1 or 2, got {last_stride}.")
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = bottlenecks(64, 64, NUM_BLOCKS[0], stride=1)
        self.layer2 = bottlenecks(256, 128, NUM_BLOCKS[1], stride=2)
        self.layer3 = bottlenecks(512, 256, NUM_BLOCKS[2], stride=2)
        self.layer4 = bottlenecks(1024, 512, NUM_BLOCKS[3], stride=last_stride)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        r"""
        Args:
            frames (`torch.Tensor` of shape `(B, 3, H, W)`): RGB, normalised as in the training.

        Returns:
            `torch.Tensor` of shape `(B, 2048)`: The mean over the frame, not normalised.
        """
        features = F.relu(self.bn1(self.conv1(frames)))
        features = F.max_pool2d(features, 3, stride=2, padding=1)  # (B, 64, H / 4, W / 4)
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        return features.mean(dim=(2, 3))


class BottleneckResNet50(nn.Module):
    r"""
    Frame -> features of a re-identification network's bottleneck: what stands before its classes.

    Its state dict has the keys and shapes of Person_reID_baseline_pytorch's `ft_net`, but for `model.fc` and
    `classifier.classifier`.

    Args:
        last_stride (`int`): As of [`ResNet50`].
    """

    def __init__(self, last_stride: int = 2):
        super().__init__()
        self.model = ResNet50(last_stride)
        bottleneck = nn.Sequential(nn.Linear(2048, 512), nn.BatchNorm1d(512))
        self.classifier = nn.ModuleDict({"add_block": bottleneck})

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        r"""Frames (B, 3, H, W) as of [`ResNet50`] -> (B, 512), not normalised."""
        return self.classifier["add_block"](self.model(frames))
