"""The generator of LIA: latent + feature pyramid -> flow maps, occlusion masks and the frame."""

import math

import torch
import torch.nn as nn

from .style_blocks import BlurUpsample, EqualLinear, EqualPointwise, ModulatedConv2d, scale
from .warping import warp


CACHE_BYTES = 24 * 2**20  # larger tensors miss the caches, and the C library gives their memory back each time


class FlowHead(nn.Module):
    r"""
    Modulated 1x1 convolution without demodulation to a flow map and an occlusion mask, plus those of the scale below.

    Args:
        in_channels (`int`): Channels of the input.
        latent_dim (`int`): Size L of the latent.
        upsample (`bool`): Whether the scale below is half as large.
    """

    def __init__(self, in_channels: int, latent_dim: int, upsample: bool = True):
        super().__init__()
        # Choice: from zero, so that training starts by showing the source unmoved instead of scattered pixels.
        self.weight = nn.Parameter(torch.zeros(3, in_channels))
        self.bias = nn.Parameter(torch.zeros(3))
        self.modulation = EqualLinear(latent_dim, in_channels, bias_init=1.0)
        self.upsample = BlurUpsample() if upsample else nn.Identity()
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, hidden_states: torch.Tensor, latent: torch.Tensor, logits: torch.Tensor | None) -> torch.Tensor:
        r"""
        Args:
            hidden_states (`torch.Tensor` of shape `(B, C, H, W)`): What the styled convolutions made.
            latent (`torch.Tensor` of shape `(B, L)`): The style.
            logits (`torch.Tensor`, *optional*): The result of the scale below; None at the first.

        Returns:
            `torch.Tensor` of shape `(B, 3, H, W)` in float32: flow x, flow y and mask before tanh and sigmoid.
        """
        style = self.modulation(latent) * self.weight_gain  # (B, C)
        # Three outputs: one small weight per sample costs less than scaling the whole input.
        weight = self.weight.T * style[:, :, None]  # (B, C, 3)
        pixels = hidden_states.flatten(2).transpose(1, 2)  # (B, H * W, C), as it lies in memory
        new_logits = torch.bmm(pixels, weight).float() + self.bias.float()
        new_logits = new_logits.transpose(1, 2).unflatten(2, hidden_states.shape[2:])
        return new_logits if logits is None else new_logits + self.upsample(logits)


class RGBHead(nn.Module):
    r"""
    1x1 convolution of the warped features to RGB, plus the upsampled frame of the scale below (LIA Eq. 6).

    Args:
        in_channels (`int`): Channels of the input.
    """

    def __init__(self, in_channels: int):
        super().__init__()
        self.conv = EqualPointwise(in_channels, 3, activation=True)
        self.bias = nn.Parameter(torch.zeros(3))
        self.upsample = BlurUpsample()

    def forward(self, warped_features: torch.Tensor, frame: torch.Tensor | None) -> torch.Tensor:
        r"""(B, C, H, W) and the frame of the scale below, (B, 3, H/2, W/2) or None -> (B, 3, H, W)."""
        new_frame = self.conv(warped_features) + self.bias[:, None, None]
        return new_frame if frame is None else new_frame + self.upsample(frame)


class InpaintingHead(nn.Module):
    r"""
    1x1 convolution to RGB of what fills the parts that the mask hides. Not in the papers, whose frames are made of
    warped features alone: without it a mouth that is closed in the source shows no teeth when it opens.

    Args:
        in_channels (`int`): Channels of the input.
    """

    def __init__(self, in_channels: int):
        super().__init__()
        # From zero, so that training first learns to move what is there.
        self.weight = nn.Parameter(torch.zeros(3, in_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, hidden_states: torch.Tensor, occlusion_mask: torch.Tensor) -> torch.Tensor:
        r"""(B, C, H, W) and a mask (B, 1, H, W), 1 = show the source -> (B, 3, H, W)."""
        pixels = hidden_states.flatten(2).transpose(1, 2)  # (B, H * W, C), as it lies in memory
        color = (pixels @ (self.weight.T * self.weight_gain)).transpose(1, 2).unflatten(2, hidden_states.shape[2:])
        return color * (1 - occlusion_mask)


class GeneratorBlock(nn.Module):
    r"""
    One scale of the generator (LIA Fig. 5): two styled convolutions, flow and mask, warp, RGB.

    Args:
        in_channels (`int`): Channels of the scale below.
        out_channels (`int`): Channels of this scale.
        latent_dim (`int`): Size L of the latent.
        align_corners (`bool`): See [`~models.warping.warp`].
        inpaint_rgb (`bool`): Whether the frame also shows what fills hidden parts, see [`InpaintingHead`].
    """

    def __init__(self, in_channels: int, out_channels: int, latent_dim: int, align_corners: bool, inpaint_rgb: bool):
        super().__init__()
        self.upsample_conv = ModulatedConv2d(in_channels, out_channels, latent_dim, upsample=True)
        self.conv = ModulatedConv2d(out_channels, out_channels, latent_dim)
        self.flow_head = FlowHead(out_channels, latent_dim)
        self.rgb_head = RGBHead(out_channels)
        self.inpainting_head = InpaintingHead(out_channels) if inpaint_rgb else None
        self.align_corners = align_corners

    def forward(
        self,
        hidden_states: torch.Tensor,
        latent: torch.Tensor,
        features: torch.Tensor,
        logits: torch.Tensor | None,
        frame: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        r"""
        Returns:
            The styled features `(B, C, H, W)`, the warped and masked source features `(B, C, H, W)`, the flow head's
            logits `(B, 3, H, W)`, their flow `(B, 2, H, W)` and mask `(B, 1, H, W)`, and the frame `(B, 3, H, W)` of
            this scale.
        """
        hidden_states = self.upsample_conv(hidden_states, latent)
        hidden_states = self.conv(hidden_states, latent)
        logits = self.flow_head(hidden_states, latent, logits)
        flow, occlusion_mask = split_logits(logits)
        warped_features = scale(warp(features, flow, self.align_corners), occlusion_mask)  # LIA Eq. 5
        warped_features = warped_features.to(hidden_states.dtype)
        frame = self.rgb_head(warped_features, frame)
        if self.inpainting_head is not None:
            frame = frame + self.inpainting_head(hidden_states, occlusion_mask).to(frame.dtype)
        return hidden_states, warped_features, logits, flow, occlusion_mask, frame


def split_logits(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""(B, 3, H, W) -> flow (B, 2, H, W) in (-1, 1) and occlusion mask (B, 1, H, W) in (0, 1), 1 = show the source."""
    return logits[:, :2].tanh(), logits[:, 2:].sigmoid()


def refine(hidden_states: torch.Tensor, warped_features: torch.Tensor, occlusion_mask: torch.Tensor) -> torch.Tensor:
    r"""Fills what the mask hides: `warped_features + hidden_states * (1 - occlusion_mask)`, all at one scale."""
    # What is sampled comes channels first; adding across two layouts costs several times the copy.
    warped_features = warped_features.contiguous(memory_format=torch.channels_last)
    return scale(hidden_states, 1 - occlusion_mask.to(hidden_states.dtype)).add_(warped_features)


class FlowGenerator(nn.Module):
    r"""
    The generator G (LIA Sec. III-B, Fig. 5): a flow field generator and a refinement network in one.

    Args:
        latent_dim (`int`): Size L of the latent.
        block_out_channels (`tuple[int, ...]`): Channels from the frame's size down to 4 pixels.
        warp_source_image (`bool`): Whether the source frame itself is warped and in-painted as one more feature map
            (LIA Sec. III-E, high resolution).
        align_corners (`bool`): See [`~models.warping.warp`].
        inpaint_rgb (`bool`): Whether frames also show what fills hidden parts, see [`InpaintingHead`].
    """

    def __init__(
        self,
        latent_dim: int,
        block_out_channels: tuple[int, ...],
        warp_source_image: bool,
        align_corners: bool,
        inpaint_rgb: bool,
    ):
        super().__init__()
        channels = tuple(reversed(block_out_channels))  # from 4 pixels up
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.conv_in = ModulatedConv2d(channels[0], channels[0], latent_dim)
        self.blocks = nn.ModuleList(
            GeneratorBlock(in_channels, out_channels, latent_dim, align_corners, inpaint_rgb)
            for in_channels, out_channels in zip(channels[:-1], channels[1:])
        )
        self.image_flow_head = FlowHead(channels[-1], latent_dim, upsample=False) if warp_source_image else None
        self.align_corners = align_corners
        self.gradient_checkpointing = False

    def forward(
        self, latent: torch.Tensor, features: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        r"""
        Args:
            latent (`torch.Tensor` of shape `(B, L)`): Source latent plus path.
            features (`tuple[torch.Tensor, ...]`): The source's pyramid from 8 pixels up, each `(B or 1, C, R, R)`,
                float32; with `warp_source_image` the source frame is its last entry.

        Returns:
            The frame `(B, 3, H, W)`, the flow maps `(B, 2, R, R)` and the occlusion masks `(B, 1, R, R)`, coarse to
            fine.
        """
        constant = self.constant.repeat(latent.shape[0], 1, 1, 1).contiguous(memory_format=torch.channels_last)
        hidden_states = self.conv_in(constant, latent)
        return self._render(0, latent, features, hidden_states, None, None)

    def _render(
        self,
        scale_index: int,
        latent: torch.Tensor,
        features: tuple[torch.Tensor, ...],
        hidden_states: torch.Tensor,
        logits: torch.Tensor | None,
        frame: torch.Tensor | None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        r"""The scales from `scale_index` up: the frame, and the flow maps and occlusion masks of these scales."""
        block = self.blocks[scale_index]
        num_slices = self._num_slices(block, hidden_states)
        if num_slices > 1:
            parts = zip(
                latent.chunk(num_slices),
                slice_features(features, num_slices, latent.shape[0]),
                hidden_states.chunk(num_slices),
                [None] * num_slices if logits is None else logits.chunk(num_slices),
                [None] * num_slices if frame is None else frame.chunk(num_slices),
            )
            frames, flows, occlusion_masks = zip(*(self._render(scale_index, *part) for part in parts))
            return torch.cat(frames), tuple(map(torch.cat, zip(*flows))), tuple(map(torch.cat, zip(*occlusion_masks)))
        inputs = (hidden_states, latent, features[scale_index], logits, frame)
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            outputs = self._gradient_checkpointing_func(block, *inputs)
        else:
            outputs = block(*inputs)
        hidden_states, warped_features, logits, flow, occlusion_mask, frame = outputs
        if scale_index + 1 < len(self.blocks):
            hidden_states = refine(hidden_states, warped_features, occlusion_mask)
            frame, flows, masks = self._render(scale_index + 1, latent, features, hidden_states, logits, frame)
        elif self.image_flow_head is not None:
            hidden_states = refine(hidden_states, warped_features, occlusion_mask)
            frame, flows, masks = self._render_image(latent, features[-1], hidden_states, logits, frame)
        else:
            flows = masks = ()
        return frame, (flow, *flows), (occlusion_mask, *masks)

    def _render_image(
        self,
        latent: torch.Tensor,
        source_frame: torch.Tensor,
        hidden_states: torch.Tensor,
        logits: torch.Tensor,
        frame: torch.Tensor,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor], tuple[torch.Tensor]]:
        r"""Warps the source frame, and in-paints it with the frame that was made from features."""
        flow, occlusion_mask = split_logits(self.image_flow_head(hidden_states, latent, logits))
        warped_frame = scale(warp(source_frame, flow, self.align_corners), occlusion_mask)
        return refine(frame, warped_frame.to(frame.dtype), occlusion_mask), (flow,), (occlusion_mask,)

    def _num_slices(self, block: GeneratorBlock, hidden_states: torch.Tensor) -> int:
        r"""How many parts a batch is rendered in from this scale on: on CPU, so many that a part fits the caches."""
        # An exported graph serves any batch, so that nothing in it may depend on the batch of the export.
        if hidden_states.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_exporting():
            return 1
        batch_size, _, height, width = hidden_states.shape
        num_bytes = 4 * height * width * block.conv.weight.shape[0] * 4  # of one frame's warped features, float32
        slice_size = max(1, CACHE_BYTES // num_bytes)
        return -(-batch_size // slice_size)


def slice_features(
    features: tuple[torch.Tensor, ...], num_slices: int, batch_size: int
) -> list[tuple[torch.Tensor, ...]]:
    r"""The pyramid of each part of a batch; a pyramid of one frame serves them all."""
    if features[0].shape[0] == 1:
        return [features] * num_slices
    return list(zip(*(scale_features.chunk(num_slices) for scale_features in features)))
