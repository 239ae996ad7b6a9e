"""OpenFace nn4.small2, the network of face embeddings that AED is measured with, and its extractor."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from .feature_extractor import FeatureExtractor, to_8bit
from .weights import WeightsFile


OPENFACE_WEIGHTS = WeightsFile(
    name="openface.pth",
    contents="OpenFace nn4.small2",
    used_for="Identities of faces (AED)",
    origin="https://github.com/thnkim/OpenFacePytorch, beside loadOpenFace.py",
)

FRAME_SIZE = 96  # pixels
EPS = 1e-6  # of OpenFacePytorch: under the root of an embedding's length


def conv_units(units: list[tuple[nn.Module, int]], first: int = 1) -> list[tuple[str, nn.Module]]:
    r"""Convolutions with their channels -> each with its normalisation and rectifier, named by places from `first`."""
    layers = []
    for conv, channels in units:
        place = first + len(layers)
        layers += [
            (f"{place}_conv", conv),
            (f"{place + 1}_bn", nn.BatchNorm2d(channels)),
            (f"{place + 2}_relu", nn.ReLU()),
        ]
    return layers


class InceptionBlock(nn.Module):
    r"""
    Branches side by side: convolutions, a pooling, and a convolution of single pixels.

    Args:
        in_channels (`int`): Of the input.
        convs (`dict[int, tuple[int, int]]`): By kernel size the channels before and after that convolution.
        stride (`int`): Of those convolutions, pixels.
        pool (`nn.Module`): The pooling. What it makes smaller than the other branches is put amid zeros.
        pool_channels (`int`, *optional*): Of a convolution behind the pooling.
        pixel_channels (`int`, *optional*): Of the convolution of single pixels.
    """

    def __init__(
        self,
        in_channels: int,
        convs: dict[int, tuple[int, int]],
        stride: int,
        pool: nn.Module,
        pool_channels: int | None = None,
        pixel_channels: int | None = None,
    ):
        super().__init__()
        branches = []
        for size, (reduced, channels) in convs.items():
            conv = nn.Conv2d(reduced, channels, size, stride, padding=size // 2)
            branches.append(conv_units([(nn.Conv2d(in_channels, reduced, 1), reduced), (conv, channels)]))
        branches.append([("1_pool", pool)])
        if pool_channels is not None:
            branches[-1] += conv_units([(nn.Conv2d(in_channels, pool_channels, 1), pool_channels)], first=2)
        if pixel_channels is not None:
            branches.append(conv_units([(nn.Conv2d(in_channels, pixel_channels, 1), pixel_channels)]))
        self.seq_list = nn.ModuleList(nn.Sequential(OrderedDict(branch)) for branch in branches)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        r"""(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        branches = [branch(features) for branch in self.seq_list]
        height, width = (max(branch.shape[dim] for branch in branches) for dim in (2, 3))
        padded = []
        for branch in branches:
            rows, columns = height - branch.shape[2], width - branch.shape[3]
            padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
            padded.append(F.pad(branch, padding))
        return torch.cat(padded, dim=1)


class OpenFace(nn.Module):
    r"""Frame of a face -> its embedding. Its state dict has the keys and shapes of OpenFacePytorch's openface.pth."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.layer2 = nn.BatchNorm2d(64)
        self.layer6 = nn.Conv2d(64, 64, 1)
        self.layer7 = nn.BatchNorm2d(64)
        self.layer9 = nn.Conv2d(64, 192, 3, padding=1)
        self.layer10 = nn.BatchNorm2d(192)
        # Not F.local_response_norm: this one never lets go of channel 0, as in the code that published AED comes from.
        self.cross_norm = nn.CrossMapLRN2d(5, alpha=1e-4, beta=0.75, k=1)
        highest, root_of_squares = nn.MaxPool2d(3, stride=2), nn.LPPool2d(2, 3, stride=3)
        self.layer14 = InceptionBlock(192, {3: (96, 128), 5: (16, 32)}, 1, highest, 32, 64)
        self.layer15 = InceptionBlock(256, {3: (96, 128), 5: (32, 64)}, 1, root_of_squares, 64, 64)
        self.layer16 = InceptionBlock(320, {3: (128, 256), 5: (32, 64)}, 2, highest)
        self.layer17 = InceptionBlock(640, {3: (96, 192), 5: (32, 64)}, 1, root_of_squares, 128, 256)
        self.layer18 = InceptionBlock(640, {3: (160, 256), 5: (64, 128)}, 2, highest)
        self.layer19 = InceptionBlock(1024, {3: (96, 384)}, 1, root_of_squares, 96, 256)
        self.layer21 = InceptionBlock(736, {3: (96, 384)}, 1, highest, 96, 256)
        self.layer25 = nn.Linear(736, 128)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        r"""
        Args:
            frames (`torch.Tensor` of shape `(B, 3, 96, 96)`): BGR in [0, 1].

        Returns:
            `torch.Tensor` of shape `(B, 128)`: Embeddings of length 1.
        """
        features = F.relu(self.layer2(self.layer1(frames)))  # (B, 64, 48, 48)
        features = self.cross_norm(F.max_pool2d(features, 3, stride=2, padding=1))
        features = F.relu(self.layer7(self.layer6(features)))
        features = F.relu(self.layer10(self.layer9(features)))
        features = F.max_pool2d(self.cross_norm(features), 3, stride=2, padding=1)  # (B, 192, 12, 12)
        features = self.layer16(self.layer15(self.layer14(features)))  # (B, 640, 6, 6)
        features = self.layer18(self.layer17(features))  # (B, 1024, 3, 3)
        features = self.layer21(self.layer19(features)).mean(dim=(2, 3))
        embeddings = self.layer25(features)
        return embeddings / (embeddings.square().sum(dim=1, keepdim=True) + EPS).sqrt()


class OpenFaceEmbeddings(FeatureExtractor):
    r"""
    Frames (F, 3, H, W) -> embeddings (F, 128) of length 1 for AED: whole frames, no face is looked for
    (pose-evaluation).

    Args:
        weights (`str` or `Path`, *optional*): openface.pth of OpenFacePytorch.
        download (`bool`): There is no address to fetch it from: the error says where to get it.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where no weights are given, or another network's.

    Examples:
        ```py
        >>> from leo_diffusers.metrics import OpenFaceEmbeddings
        >>> from leo_diffusers.video_io import read_video

        >>> extractor = OpenFaceEmbeddings(weights="openface.pth")
        >>> extractor(read_video("video.mp4", num_frames=4)).shape
        torch.Size([4, 128])
        ```
    """

    def __init__(self, weights: str | Path | None = None, download: bool = False):
        super().__init__(*OPENFACE_WEIGHTS.load(OpenFace, weights, download))

    @torch.no_grad()
    def forward(self, frames: torch.Tensor | np.ndarray) -> torch.Tensor:
        r"""
        Args:
            frames (`torch.Tensor` or `np.ndarray` of shape `(F, 3, H, W)`): RGB, 8-bit or floats in [-1, 1], of 96
                pixels or more.

        Returns:
            `torch.Tensor` of shape `(F, 128)`.

        Raises:
            ValueError: For another shape, size, type or range, or NaN.
        """
        frames = to_8bit(self.read("frames", frames, "(F, 3, H, W)"))
        if min(frames.shape[-2:]) < FRAME_SIZE:
            raise ValueError(
                f"`frames` must be of {FRAME_SIZE} pixels or more, got {frames.shape[-2]} x {frames.shape[-1]}."
            )
        # Not anti-aliased: pose-evaluation pins scikit-image 0.14.0, whose resize is not by itself.
        size = (FRAME_SIZE, FRAME_SIZE)
        pixels = F.interpolate(frames.float() / 255, size, mode="bilinear", align_corners=False)
        return self.network(pixels.flip(1))
