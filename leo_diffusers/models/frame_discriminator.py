"""The discriminator that trains the animator: StyleGAN2's residual one."""

import math

import torch
import torch.nn as nn
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from .style_blocks import EqualConv2d, EqualLinear, ResidualBlock


STDDEV_GROUP = 4  # samples whose spread is shown to the discriminator together
STDDEV_EPS = 1e-8  # the square root has no finite slope at zero


def minibatch_stddev(hidden_states: torch.Tensor) -> torch.Tensor:
    r"""
    Appends the mean standard deviation over groups of neighbouring samples as one more channel.

    Args:
        hidden_states (`torch.Tensor` of shape `(B, C, H, W)`): Features of a batch.

    Returns:
        `torch.Tensor` of shape `(B, C + 1, H, W)`.
    """
    batch_size, _, height, width = hidden_states.shape
    group_size = math.gcd(batch_size, STDDEV_GROUP)
    groups = hidden_states.float().view(-1, group_size, *hidden_states.shape[1:])
    stddev = (groups.var(dim=1, unbiased=False) + STDDEV_EPS).sqrt().mean(dim=(1, 2, 3))  # (B / group,)
    stddev = stddev.repeat_interleave(group_size).to(hidden_states.dtype)
    return torch.cat([hidden_states, stddev.view(batch_size, 1, 1, 1).expand(-1, -1, height, width)], dim=1)


class FrameDiscriminator(ModelMixin, ConfigMixin):
    r"""
    Tells real frames from rendered ones (LIA Eq. 9); used in training only.

    Args:
        frame_size (`int`): Height and width of a frame, pixels.
        block_out_channels (`tuple[int, ...]`): Channels from `frame_size` down to 4 pixels.

    Raises:
        ValueError: Where their number does not fit the size.

    Examples:
        ```py
        >>> import torch
        >>> from leo_diffusers import FrameDiscriminator

        >>> discriminator = FrameDiscriminator(frame_size=64, block_out_channels=(16, 32, 64, 64, 64))
        >>> frames = 2 * torch.rand(4, 3, 64, 64) - 1
        >>> discriminator(frames).shape
        torch.Size([4])
        ```
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self, frame_size: int = 256, block_out_channels: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512)
    ):
        super().__init__()
        if frame_size != 4 * 2 ** (len(block_out_channels) - 1):
            raise ValueError(
                f"`block_out_channels` must hold a number for each size from {frame_size} down to 4 pixels, got "
                f"{len(block_out_channels)}: {tuple(block_out_channels)}."
            )
        channels = block_out_channels[-1]
        self.from_rgb = EqualConv2d(3, block_out_channels[0], 1, activation=True)
        self.blocks = nn.ModuleList(
            ResidualBlock(in_channels, out_channels)
            for in_channels, out_channels in zip(block_out_channels[:-1], block_out_channels[1:])
        )
        self.conv_out = EqualConv2d(channels + 1, channels, 3, padding=1, activation=True)
        self.hidden = EqualLinear(channels * 16, channels, activation=True)
        self.to_logit = EqualLinear(channels, 1)

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        r"""
        Args:
            frame (`torch.Tensor` of shape `(B, 3, H, W)`): RGB in [-1, 1]. Groups of four neighbours see each other.

        Returns:
            `torch.Tensor` of shape `(B,)`: Logits, positive for real.
        """
        hidden_states = self.from_rgb(frame.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            hidden_states = block(hidden_states)
        hidden_states = self.conv_out(minibatch_stddev(hidden_states))
        return self.to_logit(self.hidden(hidden_states.flatten(1))).squeeze(1)
