"""The encoder of LIA: frame -> appearance latent and feature pyramid, latent -> motion code."""

import torch
import torch.nn as nn

from .style_blocks import EqualConv2d, EqualLinear, ResidualBlock, full_precision


class AppearanceEncoder(nn.Module):
    r"""
    Residual encoder E (LIA Fig. 4): the latent z of a frame's reference image and its multi-scale features.

    Args:
        latent_dim (`int`): Size L of the latent.
        block_out_channels (`tuple[int, ...]`): Channels from the frame's size down to 4 pixels, halving each time.
    """

    def __init__(self, latent_dim: int, block_out_channels: tuple[int, ...]):
        super().__init__()
        self.from_rgb = EqualConv2d(3, block_out_channels[0], 1, activation=True)
        self.blocks = nn.ModuleList(
            ResidualBlock(in_channels, out_channels)
            for in_channels, out_channels in zip(block_out_channels[:-1], block_out_channels[1:])
        )
        self.to_latent = EqualConv2d(block_out_channels[-1], latent_dim, 4, bias=False)
        self.gradient_checkpointing = False

    def forward(self, frame: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        r"""
        Args:
            frame (`torch.Tensor` of shape `(B, 3, H, W)`): RGB in [-1, 1].

        Returns:
            The latent, `(B, L)`, and the features from 8 pixels up to the frame's size, each `(B, C, R, R)`.
        """
        hidden_states = self.from_rgb(frame)
        features = []
        for block in self.blocks:
            features.append(hidden_states)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden_states = self._gradient_checkpointing_func(block, hidden_states)
            else:
                hidden_states = block(hidden_states)
        latent = self.to_latent(hidden_states).flatten(1)  # 4x4 -> 1x1
        return latent, tuple(reversed(features))


class MotionHead(nn.Module):
    r"""
    Linear layers without activations between them: the magnitudes A of LIA's linear motion decomposition.

    Args:
        latent_dim (`int`): Size L of the latent.
        motion_dim (`int`): Size M of a motion code.
        num_layers (`int`): Number of layers.
    """

    def __init__(self, latent_dim: int, motion_dim: int, num_layers: int):
        super().__init__()
        sizes = [latent_dim] * num_layers + [motion_dim]
        self.layers = nn.ModuleList(EqualLinear(before, after) for before, after in zip(sizes[:-1], sizes[1:]))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        r"""(B, L) -> (B, M)."""
        # As the dictionary, exempt from mixed precision.
        with full_precision(latent):
            hidden_states = latent.to(self.layers[0].weight.dtype)
            for layer in self.layers:
                hidden_states = layer(hidden_states)
            return hidden_states
