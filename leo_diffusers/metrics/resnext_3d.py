"""ResNeXt-101 with three-dimensional convolutions, the network of the video FID (Kinetics-400)."""

import torch
import torch.nn as nn
import torch.nn.functional as F


CARDINALITY = 32  # groups of the convolution in the middle of a block
EXPANSION = 2  # output channels of a block for each of its inner ones
NUM_BLOCKS = (3, 4, 23, 3)


class ResNeXtBlock3d(nn.Module):
    r"""
    Three convolutions, that in the middle in groups and with the stride, beside a shortcut (of type B: a convolution
    where the shape changes).

    Args:
        in_channels (`int`): Channels of the input.
        channels (`int`): Channels inside; twice as many come out.
        stride (`int`): The same for time, height and width.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        out_channels = EXPANSION * channels
        self.conv1 = nn.Conv3d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, stride, padding=1, groups=CARDINALITY, bias=False)
        self.bn2 = nn.BatchNorm3d(channels)
        self.conv3 = nn.Conv3d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv3d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(out_channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        r"""(B, C, T, H, W) -> (B, C', T / stride, H / stride, W / stride), rounded up, at least 0."""
        shortcut = features if self.downsample is None else self.downsample(features)
        features = F.relu(self.bn1(self.conv1(features)))
        features = F.relu(self.bn2(self.conv2(features)))
        return F.relu(shortcut + self.bn3(self.conv3(features)))


def resnext_blocks(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    r"""Blocks in a row, the first of them with the stride."""
    blocks = [ResNeXtBlock3d(in_channels, channels, stride)]
    blocks += [ResNeXtBlock3d(EXPANSION * channels, channels, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(*blocks)


class ResNeXt3D(nn.Module):
    r"""
    Clip -> pooled features (Hara et al., Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?).

    Its state dict has the keys and shapes of resnext-101-kinetics.pth, but for that file's `module.` before each of
    them and for `fc`.
    """

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.layer1 = resnext_blocks(64, 128, NUM_BLOCKS[0], stride=1)
        self.layer2 = resnext_blocks(256, 256, NUM_BLOCKS[1], stride=2)
        self.layer3 = resnext_blocks(512, 512, NUM_BLOCKS[2], stride=2)
        self.layer4 = resnext_blocks(1024, 1024, NUM_BLOCKS[3], stride=2)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        r"""
        Args:
            clips (`torch.Tensor` of shape `(B, 3, T, H, W)`): RGB, normalised as in the training, of any length.

        Returns:
            `torch.Tensor` of shape `(B, 2048)`: The mean over time and frame. At 112 pixels it is the original's
            pooling of 4 x 4 cells, followed by the mean over what clips of more than 16 frames leave of time.
        """
        features = F.relu(self.bn1(self.conv1(clips)))
        features = F.max_pool3d(features, 3, stride=2, padding=1)  # (B, 64, T / 2, H / 4, W / 4)
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        return features.mean(dim=(2, 3, 4))
