"""Perceptual distances on a pyramid of resolutions: LIA's VGG19 loss, and a stand-in that needs no weights."""

import logging
import pickle
import struct
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..models.label_network import LabelNetwork


logger = logging.getLogger(__name__)

VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
VGG19_CHANNELS = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512)
VGG19_TAPS = (1, 6, 11, 20, 29)  # the first rectifier after each change of resolution, by torchvision's layer numbers
NUM_SCALES = 4  # 1, 1/2, 1/4, 1/8 of the frame (LIA Sec. III-C)
LABEL_SCALES = (1, 2)  # the frame, and half of it
SSIM_WINDOW = 7  # pixels
SSIM_C1, SSIM_C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # the constants of SSIM for a range of 2, from -1 to 1


def pyramid(frames: torch.Tensor) -> list[torch.Tensor]:
    r"""(B, 3, H, W) -> the frames at 1, 1/2, 1/4 and 1/8 of their size, averaged, as far as SSIM's window fits."""
    scales = [frames]
    while len(scales) < NUM_SCALES and scales[-1].shape[-1] >= 2 * SSIM_WINDOW:
        scales.append(F.avg_pool2d(scales[-1], 2))
    return scales


class VGG19Loss(nn.Module):
    r"""
    L1 distance of VGG19 features at five layers and four resolutions (LIA Eq. 8).

    Its state dict has the keys of torchvision's VGG19, as far as they are needed.
    """

    def __init__(self):
        super().__init__()
        layers, in_channels = [], 3
        for channels in VGG19_CHANNELS:
            if channels == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU()]
                in_channels = channels
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)
        self.requires_grad_(False)

    @classmethod
    def from_weights(cls, path: str | Path | None = None) -> "VGG19Loss":
        r"""
        Args:
            path (`str` or `Path`, *optional*): torchvision's vgg19-dcbb9e9d.pth. Without it the file is downloaded
                into torch's cache, or found there.

        Raises:
            OSError: Where the file is missing or cannot be downloaded.
            ValueError: Where the file does not hold VGG19.
        """
        if path is None:
            state_dict = torch.hub.load_state_dict_from_url(VGG19_URL, map_location="cpu", weights_only=True)
        else:
            try:
                state_dict = torch.load(path, map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError, IndexError, struct.error) as error:
                raise ValueError(f"{path} does not hold VGG19's weights: it is no PyTorch file.") from error
        loss = cls()
        missing = [key for key in loss.state_dict() if key not in state_dict]
        if missing:
            raise ValueError(f"{path} does not hold VGG19's weights: {missing[0]} is missing.")
        loss.load_state_dict({key: state_dict[key] for key in loss.state_dict()})
        return loss

    def tap_features(self, frames: torch.Tensor) -> list[torch.Tensor]:
        r"""(B, 3, H, W) in [-1, 1] -> features at the tapped layers."""
        hidden_states = ((frames + 1) / 2 - self.mean) / self.std
        taps = []
        for index, layer in enumerate(self.features):
            # Ten poolings of a small frame leave nothing: the deepest layers are skipped there.
            if isinstance(layer, nn.MaxPool2d) and hidden_states.shape[-1] < 2:
                break
            hidden_states = layer(hidden_states)
            if index in VGG19_TAPS:
                taps.append(hidden_states)
        return taps

    def forward(self, frame: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        r"""Two batches (B, 3, H, W) in [-1, 1] -> scalar."""
        losses = []
        for frame_scale, target_scale in zip(pyramid(frame), pyramid(target)):
            with torch.no_grad():
                target_taps = self.tap_features(target_scale)
            losses += [F.l1_loss(ours, theirs) for ours, theirs in zip(self.tap_features(frame_scale), target_taps)]
        return torch.stack(losses).sum()


def structural_similarity(frame: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    r"""SSIM of two batches (B, 3, H, W) in [-1, 1] with a flat window: scalar, 1 where they are equal."""
    frame, target = frame.float(), target.float()
    pooled = F.avg_pool2d(
        torch.cat([frame, target, frame * frame, target * target, frame * target]), SSIM_WINDOW, stride=1
    )
    mean_frame, mean_target, square_frame, square_target, product = pooled.chunk(5)
    variance = square_frame - mean_frame**2 + square_target - mean_target**2
    covariance = product - mean_frame * mean_target
    luminance = (2 * mean_frame * mean_target + SSIM_C1) / (mean_frame**2 + mean_target**2 + SSIM_C1)
    return (luminance * (2 * covariance + SSIM_C2) / (variance + SSIM_C2)).mean()


class SSIMPyramidLoss(nn.Module):
    r"""L1 plus 1 - SSIM at four resolutions: stands in for VGG19 where its weights cannot be had."""

    def forward(self, frame: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        r"""Two batches (B, 3, H, W) in [-1, 1] -> scalar."""
        losses = [
            F.l1_loss(ours.float(), theirs.float()) + 1 - structural_similarity(ours, theirs)
            for ours, theirs in zip(pyramid(frame), pyramid(target))
        ]
        return torch.stack(losses).mean()


class LabelNetworkLoss(nn.Module):
    r"""
    L1 distance of a [`LabelNetwork`]'s features at all levels, of the frame and of half of it, in place of VGG19.

    Args:
        network ([`LabelNetwork`]): Trained; it is frozen.
    """

    def __init__(self, network: LabelNetwork):
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "LabelNetworkLoss":
        r"""Stays in evaluation: its statistics are frozen too."""
        return super().train(False)

    def forward(self, frame: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        r"""Two batches (B, 3, H, W) in [-1, 1] -> scalar."""
        losses = []
        for factor in LABEL_SCALES:
            frame, target = F.avg_pool2d(frame, factor), F.avg_pool2d(target, factor)
            with torch.no_grad():
                target_taps = self.network.features(target)
            losses += [F.l1_loss(ours, theirs) for ours, theirs in zip(self.network.features(frame), target_taps)]
        return torch.stack(losses).sum()


def load_label_network(folder: str | Path) -> LabelNetwork:
    r"""
    Args:
        folder (`str` or `Path`): Output of train_label_network.py.

    Returns:
        [`LabelNetwork`]: In evaluation.

    Raises:
        OSError: Where there is no such folder.
        ValueError: Where it holds another network, whose weights would be left out with a warning only.
    """
    found = LabelNetwork.load_config(folder).get("_class_name")
    if found != LabelNetwork.__name__:
        raise ValueError(f"{folder} holds no LabelNetwork but a {found}: train one with train_label_network.py.")
    return LabelNetwork.from_pretrained(folder).eval()


def load_perceptual_loss(
    name: str, vgg19_weights: str | Path | None = None, label_network: str | Path | None = None
) -> tuple[nn.Module | None, str]:
    r"""
    Args:
        name (`str`): "vgg19", "labels", "ssim" or "none".
        vgg19_weights (`str` or `Path`, *optional*): A local file, instead of a download.
        label_network (`str` or `Path`, *optional*): Folder of a trained [`LabelNetwork`], for "labels".

    Returns:
        `tuple[nn.Module | None, str]`: The loss, and the name of what it really is: where no file was named and the
        download fails, "ssim" stands in for "vgg19", with a warning.

    Raises:
        OSError: Where a file or folder that was named is missing.
        ValueError: Where it holds something else.
    """
    if name == "none":
        return None, name
    if name == "labels":
        if label_network is None:
            raise ValueError("`label_network` must name a folder for the loss of labels, got None.")
        return LabelNetworkLoss(load_label_network(label_network)), name
    if name == "ssim":
        return SSIMPyramidLoss(), name
    try:
        return VGG19Loss.from_weights(vgg19_weights), name
    except OSError as error:
        if vgg19_weights is not None:
            raise
        logger.warning(
            f"VGG19's weights cannot be downloaded ({error}); an L1 + SSIM pyramid stands in. For the paper's loss "
            f"get {VGG19_URL} and name it with --vgg19_weights."
        )
        return SSIMPyramidLoss(), "ssim"
