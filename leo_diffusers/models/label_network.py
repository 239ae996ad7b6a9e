"""A small network that reads labels off frames: our own stand-in for VGG19, and a judge of what was rendered."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin


def conv_block(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Sequential:
    r"""Convolution, batch normalisation, activation."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.SiLU())


class LabelNetwork(ModelMixin, ConfigMixin):
    r"""
    Frame -> keypoints, motion and attributes, as in [`~data.frame_labels.FrameLabels`].

    Args:
        frame_size (`int`): Height and width of a frame, pixels.
        num_keypoints (`int`): Number K of keypoints; 0 for none.
        motion_names (`list[str]`): Names of the P numbers of a motion.
        attribute_names (`list[str]`): Names of the A attributes.
        label_mean (`list[float]`): Means of motion and attributes, (P + A) numbers.
        label_std (`list[float]`): Their standard deviations.
        block_out_channels (`list[int]`): Channels of the levels, each half as large as the one before; the first is
            half of the frame.
        layers_per_block (`int`): Convolutions per level.
        kernel_size (`int`): Odd, pixels.

    Raises:
        ValueError: Where sizes do not fit each other, or a spread is not above 0.
    """

    @register_to_config
    def __init__(
        self,
        frame_size: int = 128,
        num_keypoints: int = 0,
        motion_names: list[str] = (),
        attribute_names: list[str] = (),
        label_mean: list[float] = (),
        label_std: list[float] = (),
        block_out_channels: list[int] = (32, 64, 96, 128),
        layers_per_block: int = 2,
        kernel_size: int = 3,
    ):
        super().__init__()
        smallest = 2 ** len(block_out_channels)
        if len(block_out_channels) < 2 or min(block_out_channels) < 1:
            raise ValueError(
                f"`block_out_channels` must hold at least two numbers above 0, got {tuple(block_out_channels)}."
            )
        if frame_size < smallest or frame_size % smallest:
            raise ValueError(
                f"`frame_size` must be a multiple of {smallest}, as {len(block_out_channels)} levels halve it, got "
                f"{frame_size}."
            )
        if layers_per_block < 1:
            raise ValueError(f"`layers_per_block` must be at least 1, got {layers_per_block}.")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` must be odd, got {kernel_size}.")
        num_labels = len(motion_names) + len(attribute_names)
        if not len(label_mean) == len(label_std) == num_labels:
            raise ValueError(
                f"`label_mean` and `label_std` must hold {num_labels} numbers, one for each name, got "
                f"{len(label_mean)} and {len(label_std)}."
            )
        if label_std and min(label_std) <= 0:
            raise ValueError(f"`label_std` must be above 0, got {min(label_std)}.")
        levels, in_channels = [], 3
        for channels in block_out_channels:
            layers = [conv_block(in_channels, channels, kernel_size, stride=2)]
            layers += [conv_block(channels, channels, kernel_size, stride=1) for _ in range(layers_per_block - 1)]
            levels.append(nn.Sequential(*layers))
            in_channels = channels
        self.levels = nn.ModuleList(levels)
        final_size = frame_size // smallest
        self.label_head = nn.Sequential(
            conv_block(in_channels, in_channels, kernel_size, stride=2),
            nn.Flatten(),
            nn.Linear(in_channels * (-(-final_size // 2)) ** 2, 256),
            nn.SiLU(),
            nn.Linear(256, num_labels),
        )
        # Keypoints are where their heat lies, seen on the second level together with what the last one knows.
        self.keypoint_head = None
        if num_keypoints:
            self.keypoint_head = nn.Conv2d(block_out_channels[1] + block_out_channels[-1], num_keypoints, 1)
        self.register_buffer("mean", torch.tensor(label_mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(label_std, dtype=torch.float32), persistent=False)

    def features(self, frames: torch.Tensor) -> list[torch.Tensor]:
        r"""(B, 3, H, W) in [-1, 1] -> one map per level, fine to coarse; any H and W."""
        taps = []
        for level in self.levels:
            frames = level(frames)
            taps.append(frames)
        return taps

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        r"""
        Args:
            frames (`torch.Tensor` of shape `(B, 3, H, W)`): RGB in [-1, 1], H = W = `frame_size`.

        Returns:
            Standardised labels `(B, P + A)`, and keypoints `(B, K, 2)` as shares of the frame, or None.

        Raises:
            ValueError: Where the frames have another shape.
        """
        size = self.config.frame_size
        if frames.ndim != 4 or tuple(frames.shape[1:]) != (3, size, size):
            raise ValueError(f"Frames must have the shape (B, 3, {size}, {size}), got {tuple(frames.shape)}.")
        taps = self.features(frames)
        labels = self.label_head(taps[-1]).float()
        if self.keypoint_head is None:
            return labels, None
        coarse = F.interpolate(taps[-1], taps[1].shape[-2:], mode="bilinear")
        heat = self.keypoint_head(torch.cat([taps[1], coarse], dim=1)).float()
        return labels, soft_argmax(heat)

    def standardize(self, labels: torch.Tensor) -> torch.Tensor:
        r"""Labels (B, P + A) in their own units -> of zero mean and unit spread."""
        return (labels - self.mean) / self.std

    @torch.no_grad()
    def read(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        r"""Frames (B, 3, H, W) in [-1, 1] -> motion (B, P), attributes (B, A), keypoints (B, K, 2) or None."""
        labels, keypoints = self(frames)
        labels = labels * self.std + self.mean
        num_motion = len(self.config.motion_names)
        return labels[:, :num_motion], labels[:, num_motion:], keypoints


def soft_argmax(heat: torch.Tensor) -> torch.Tensor:
    r"""Maps (B, K, H, W) -> the mean position (B, K, 2) under their softmax, as shares of width and height."""
    height, width = heat.shape[-2:]
    weights = heat.flatten(2).softmax(dim=-1).unflatten(2, (height, width))
    x = (torch.arange(width, device=heat.device) + 0.5) / width
    y = (torch.arange(height, device=heat.device) + 0.5) / height
    return torch.stack([(weights.sum(dim=2) * x).sum(-1), (weights.sum(dim=3) * y).sum(-1)], dim=-1)
