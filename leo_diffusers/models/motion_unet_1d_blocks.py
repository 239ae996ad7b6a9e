"""The blocks of the motion U-Net: residual convolutions and attention over time (improved-diffusion with dims=1)."""

import math

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn


MAX_NORM_GROUPS = 32

# Where a weight is multiplied by few columns, MKL reads it 1.4 times faster in products of so few rows each.
ROWS_PER_PRODUCT = 16
# With more columns arithmetic takes longer than reading the weight, and oneDNN's convolution is as fast.
MAX_COLUMNS = 256


def group_norm(channels: int) -> nn.GroupNorm:
    r"""32 groups, or as many of them as divide the channels of a small network."""
    return nn.GroupNorm(math.gcd(MAX_NORM_GROUPS, channels), channels)


def zero_init(module: nn.Module) -> nn.Module:
    r"""The module with all parameters set to zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class FrameConv1d(nn.Conv1d):
    r"""
    [`torch.nn.Conv1d`] that samples faster on CPU. The weights of the lower levels exceed the caches and meet 8 or 16
    frames per sample, so what takes time is to read them once. A convolution of 512 channels and 8 frames takes 480 us
    on one core, as products of few rows 380 us; for 2 samples, where PyTorch changes to oneDNN, 700 us and 400 us.

    Takes an odd kernel and a stride, but neither groups nor dilation nor another padding than half the kernel.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        r"""Features `(B, in_channels, F)` to `(B, out_channels, F / stride)`."""
        batch_size, _, num_frames = hidden_states.shape
        if (
            torch.is_grad_enabled()  # the gradient of the columns would be one per product
            or not hidden_states.is_cpu
            or hidden_states.dtype != torch.float32
            or batch_size * num_frames > MAX_COLUMNS
            or self.out_channels % ROWS_PER_PRODUCT
        ):
            return super().forward(hidden_states)
        if self.padding[0]:
            hidden_states = F.pad(hidden_states, 2 * self.padding)
        windows = hidden_states.unfold(2, *self.kernel_size, *self.stride)  # (B, C, F, taps)
        columns = windows.permute(1, 3, 0, 2).reshape(self.in_channels * self.kernel_size[0], -1)  # (C taps, B F)
        rows = self.weight.reshape(-1, ROWS_PER_PRODUCT, columns.shape[0])  # (products, rows, C taps)
        bias = self.bias.reshape(-1, ROWS_PER_PRODUCT, 1)
        output = torch.baddbmm(bias, rows, columns.expand(rows.shape[0], -1, -1))  # (products, rows, B F)
        return output.view(self.out_channels, batch_size, -1).transpose(0, 1)


class ResidualBlock1D(nn.Module):
    r"""
    Two convolutions over time; the diffusion timestep scales and shifts the second normalisation. Starts as identity
    (or as its 1x1 skip) since the last convolution is zero.

    Args:
        in_channels (`int`): Channels in.
        out_channels (`int`): Channels out.
        dropout (`float`): Dropout probability before the last convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float):
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = FrameConv1d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(FrameConv1d(out_channels, out_channels, kernel_size=3, padding=1))
        same_channels = in_channels == out_channels
        self.skip = nn.Identity() if same_channels else FrameConv1d(in_channels, out_channels, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor, scale_shift: torch.Tensor) -> torch.Tensor:
        r"""Features `(B, in_channels, F)`, scale and shift `(B or 1, 2 * out_channels)`, to `(B, out_channels, F)`."""
        scale, shift = scale_shift[..., None].chunk(2, dim=1)  # each (B, out_channels, 1)
        residual = self.conv1(F.silu(self.norm1(hidden_states)))
        residual = self.norm2(residual) * (1 + scale) + shift
        residual = self.conv2(self.dropout(F.silu(residual)))
        return self.skip(hidden_states) + residual


class SelfAttention1DProcessor:
    r"""Attention of [`SelfAttention1D`] through diffusers' attention backends."""

    _attention_backend = None
    _parallel_config = None

    def __call__(self, attention: "SelfAttention1D", hidden_states: torch.Tensor) -> torch.Tensor:
        query_key_value = attention.to_qkv(attention.norm(hidden_states).transpose(1, 2))  # (B, F, 3 C)
        query, key, value = query_key_value.unflatten(-1, (3, attention.num_heads, -1)).unbind(2)  # (B, F, heads, D)
        mixed = dispatch_attention_fn(
            query, key, value, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        return hidden_states + attention.to_out(mixed.flatten(2)).transpose(1, 2)


class SelfAttention1D(nn.Module, AttentionModuleMixin):
    r"""
    Multi-head attention of every frame to every frame, with a residual connection. Starts as identity.

    Args:
        channels (`int`): Channels in and out, a multiple of `num_heads`.
        num_heads (`int`): Number of attention heads.
    """

    _default_processor_cls = SelfAttention1DProcessor
    _supports_qkv_fusion = False  # one projection for all three from the start

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = group_norm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = zero_init(nn.Linear(channels, channels))
        self.set_processor(self._default_processor_cls())

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        r"""Features `(B, channels, F)` to the same shape."""
        return self.processor(self, hidden_states)


class UNetLayer1D(nn.Module):
    r"""
    A residual block and, on some levels, attention; each is recomputed in the backward pass under checkpointing.

    Args:
        in_channels (`int`): Channels in.
        out_channels (`int`): Channels out.
        num_heads (`int` or `None`): Number of attention heads; `None` for a layer without attention.
        dropout (`float`): Dropout probability in the residual block.
    """

    def __init__(self, in_channels: int, out_channels: int, num_heads: int | None, dropout: float):
        super().__init__()
        self.out_channels = out_channels
        self.residual_block = ResidualBlock1D(in_channels, out_channels, dropout)
        self.attention = nn.Identity() if num_heads is None else SelfAttention1D(out_channels, num_heads)
        self.gradient_checkpointing = False

    def forward(self, hidden_states: torch.Tensor, scale_shift: torch.Tensor) -> torch.Tensor:
        r"""Features `(B, in_channels, F)`, scale and shift `(B or 1, 2 * out_channels)`, to `(B, out_channels, F)`."""
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            # Modules, not a method of ours: torch.compile cannot trace a checkpointed bound method.
            hidden_states = self._gradient_checkpointing_func(self.residual_block, hidden_states, scale_shift)
            return self._gradient_checkpointing_func(self.attention, hidden_states)
        return self.attention(self.residual_block(hidden_states, scale_shift))


class DownBlock1D(nn.Module):
    r"""
    One level on the way down: layers, then, if another level follows, a convolution that halves the length.

    Args:
        layers (`list[UNetLayer1D]`): The layers, in order.
        channels (`int`): Channels that the last layer puts out.
        downsample (`bool`): Whether another level follows.
    """

    def __init__(self, layers: list[UNetLayer1D], channels: int, downsample: bool):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.downsample = FrameConv1d(channels, channels, kernel_size=3, stride=2, padding=1) if downsample else None

    def forward(self, hidden_states: torch.Tensor, scale_shifts: list[torch.Tensor]) -> list[torch.Tensor]:
        r"""
        Args:
            hidden_states (`torch.Tensor` of shape `(B, C, F)`): Features from the level above.
            scale_shifts (`list[torch.Tensor]`): For each layer, of shape `(B or 1, 2 * channels)`.

        Returns:
            `list[torch.Tensor]`: The output `(B, channels, F)` of every layer, and of the downsampling: the skip
            connections. The last one is the input of the next level.
        """
        skips = []
        for layer, scale_shift in zip(self.layers, scale_shifts, strict=True):
            hidden_states = layer(hidden_states, scale_shift)
            skips.append(hidden_states)
        if self.downsample is not None:
            skips.append(self.downsample(hidden_states))  # (B, C, F / 2)
        return skips


class UpBlock1D(nn.Module):
    r"""
    One level on the way up: layers that each take one skip connection, then, if another level follows, nearest
    upsampling and a convolution that double the length.

    Args:
        layers (`list[UNetLayer1D]`): The layers, in order.
        channels (`int`): Channels that the last layer puts out.
        upsample (`bool`): Whether another level follows.
    """

    def __init__(self, layers: list[UNetLayer1D], channels: int, upsample: bool):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.upsample = FrameConv1d(channels, channels, kernel_size=3, padding=1) if upsample else None

    def forward(
        self, hidden_states: torch.Tensor, skips: list[torch.Tensor], scale_shifts: list[torch.Tensor]
    ) -> torch.Tensor:
        r"""
        Args:
            hidden_states (`torch.Tensor` of shape `(B, C, F)`): Features from the level below.
            skips (`list[torch.Tensor]`): As many skip connections as layers, in the order of the layers.
            scale_shifts (`list[torch.Tensor]`): For each layer, of shape `(B or 1, 2 * channels)`.

        Returns:
            `torch.Tensor` of shape `(B, channels, 2 F)`, or `(B, channels, F)` on the last level.
        """
        for layer, skip, scale_shift in zip(self.layers, skips, scale_shifts, strict=True):
            hidden_states = layer(torch.cat([hidden_states, skip], dim=1), scale_shift)
        if self.upsample is not None:
            hidden_states = self.upsample(F.interpolate(hidden_states, scale_factor=2, mode="nearest"))
        return hidden_states
