"""LPIPS of AlexNet, v0.1: how different two pictures look, by features that are weighed as people judged."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from .arrays import check_same
from .feature_extractor import FeatureExtractor, normalize, to_signed
from .weights import WeightsFile


TRUNK_WEIGHTS = WeightsFile(
    name="alexnet-owt-7be5be79.pth",
    contents="AlexNet of ImageNet",
    used_for="LPIPS",
    origin="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ignored=("classifier.",),
)
HEAD_WEIGHTS = WeightsFile(
    name="alex.pth",
    contents="LPIPS' weights of AlexNet's features",
    used_for="LPIPS",
    origin="the package lpips, folder weights/v0.1",
)

CHANNELS = (64, 192, 384, 256, 256)  # of the features that are compared
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet's colours in [-1, 1], as lpips rounds them
MIN_SIZE = 31  # pixels; of less the second pooling leaves nothing
EPS = 1e-10  # of lpips: features may be 0 everywhere


class AlexNetTrunk(nn.Module):
    r"""Frame -> features. Its state dict has the keys and shapes of torchvision's AlexNet, but for `classifier`."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, CHANNELS[0], 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(CHANNELS[0], CHANNELS[1], 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(CHANNELS[1], CHANNELS[2], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(CHANNELS[2], CHANNELS[3], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(CHANNELS[3], CHANNELS[4], 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        r"""Frames (B, 3, H, W), standardised -> the five rectified features (B, C, h, w), each of length 1 in C."""
        taps = []
        for layer in self.features:
            frames = layer(frames)
            if isinstance(layer, nn.ReLU):
                taps.append(frames / (frames.square().sum(dim=1, keepdim=True).sqrt() + EPS))
        return taps


class PerceptualHeads(nn.Module):
    r"""Squared differences of features -> distances. Its state dict has the keys and shapes of lpips' alex.pth."""

    def __init__(self):
        super().__init__()
        for index, channels in enumerate(CHANNELS):
            weigh = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))  # dropout stood at 0
            self.add_module(f"lin{index}", nn.ModuleDict({"model": weigh}))

    def forward(self, differences: list[torch.Tensor]) -> torch.Tensor:
        r"""Of each layer (B, C, h, w) -> (B,): weighed, averaged over the frame, and summed over layers."""
        heads = [head["model"] for head in self.children()]
        return sum(head(difference).mean(dim=(1, 2, 3)) for head, difference in zip(heads, differences))


class PerceptualNetwork(nn.Module):
    r"""
    Two batches of frames -> their distances.

    Args:
        trunk ([`AlexNetTrunk`]): Gives the features.
        heads ([`PerceptualHeads`]): Weighs their differences.
    """

    def __init__(self, trunk: AlexNetTrunk, heads: PerceptualHeads):
        super().__init__()
        self.trunk = trunk
        self.heads = heads

    def forward(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        r"""(B, 3, H, W) each, RGB in [-1, 1] -> (B,), at least 0."""
        features = [self.trunk(normalize(frames, MEAN, STD)) for frames in (real, fake)]
        return self.heads([(ours - theirs).square() for ours, theirs in zip(*features)])


def find_heads() -> Path:
    r"""The weights that the package lpips brings along; it is not imported, for that needs torchvision."""
    package = find_spec("lpips")
    if package is None:
        raise ValueError(
            f"LPIPS cannot be measured without {HEAD_WEIGHTS.contents}, which the package lpips brings along: "
            "pip install --no-deps lpips"
        )
    return Path(package.origin).parent / "weights" / "v0.1" / HEAD_WEIGHTS.name


class LPIPS(FeatureExtractor):
    r"""
    Two batches of frames (F, 3, H, W) -> distances (F,), for [`average_perceptual_distance`]. They are those of
    `lpips.LPIPS(net="alex")`, without torchvision.

    Args:
        weights (`str` or `Path`, *optional*): torchvision's alexnet-owt-7be5be79.pth.
        download (`bool`): Whether it may be fetched into torch's hub cache.

    Raises:
        OSError: Where there is no such file or the download fails.
        ValueError: Where no weights are given, or another network's, and where the package lpips is missing.

    Examples:
        ```py
        >>> from leo_diffusers.metrics import LPIPS, average_perceptual_distance
        >>> from leo_diffusers.video_io import read_video

        >>> network = LPIPS(weights="alexnet-owt-7be5be79.pth")
        >>> real = read_video("video.mp4")
        >>> average_perceptual_distance(real, real, network)
        0.0
        ```
    """

    def __init__(self, weights: str | Path | None = None, download: bool = False):
        trunk, trunk_hash = TRUNK_WEIGHTS.load(AlexNetTrunk, weights, download)
        heads, heads_hash = HEAD_WEIGHTS.load(PerceptualHeads, find_heads())
        super().__init__(PerceptualNetwork(trunk, heads), f"{trunk_hash}+{heads_hash}")

    @torch.no_grad()
    def forward(self, real: torch.Tensor | np.ndarray, fake: torch.Tensor | np.ndarray) -> torch.Tensor:
        r"""
        Args:
            real (`torch.Tensor` or `np.ndarray` of shape `(F, 3, H, W)`): RGB, 8-bit or floats in [-1, 1], of 31
                pixels or more.
            fake (`torch.Tensor` or `np.ndarray` of shape `(F, 3, H, W)`): What they are compared with.

        Returns:
            `torch.Tensor` of shape `(F,)`: At least 0, 0 for equal frames.

        Raises:
            ValueError: For other or different shapes, another size, type or range, or NaN.
        """
        real, fake = (self.read(name, frames, "(F, 3, H, W)") for name, frames in (("real", real), ("fake", fake)))
        check_same("frames", real, fake)
        if min(real.shape[-2:]) < MIN_SIZE:
            raise ValueError(f"`real` must be of {MIN_SIZE} pixels or more, got {real.shape[-2]} x {real.shape[-1]}.")
        return self.network(to_signed(real), to_signed(fake))
