"""Growing an animator to larger frames: new layers around trained ones, which at first change nothing."""

import math

import torch

from ..models.appearance_encoder import AppearanceEncoder
from ..models.flow_generator import FlowGenerator
from ..models.lia import LIAModel
from ..models.style_blocks import LEAKY_SLOPE, EqualConv2d


PAPER_CHANNELS = {1024: 16, 512: 32, 256: 64, 128: 128, 64: 256, 32: 512, 16: 512, 8: 512, 4: 512}
# Both signs of each colour pass a leaky rectifier together: lrelu(x) - lrelu(-x) = (1 + slope) x.
TO_PAIRS = torch.cat([torch.eye(3), -torch.eye(3)])  # (6, 3)
FROM_PAIRS = TO_PAIRS.T / (1 + LEAKY_SLOPE)  # (3, 6)
# Choice: added to the logits of the features' mask, it lets little of the source show but the gradient through. Masks
# of a trained 64-pixel model came to 0.04 on average, its frames moved by 0.001 of pixels in [0, 1].
INPAINT_LOGIT = -4.0


def paper_channels(frame_size: int) -> tuple[int, ...]:
    r"""
    Args:
        frame_size (`int`): Height and width of a frame, pixels.

    Returns:
        `tuple[int, ...]`: The paper's channels from that size down to 4 pixels.
    """
    return tuple(channels for size, channels in PAPER_CHANNELS.items() if size <= frame_size)


@torch.no_grad()
def grow_animator(
    animator: LIAModel,
    frame_size: int,
    warp_source_image: bool,
    block_out_channels: tuple[int, ...] | None = None,
) -> LIAModel:
    r"""
    An animator for larger frames with the same latent space and motion directions, to be trained further.

    At first it does what the smaller one does, up to rounding. Of a frame it makes the latent, the motion code and the
    features that `animator` makes of the frame halved by `Blur(padding=1, stride=2)`, once per doubling. What it
    renders is `animator`'s frame doubled by `BlurUpsample()`; with `warp_source_image` a little of the source shows
    through, see `INPAINT_LOGIT`.

    Args:
        animator ([`LIAModel`]): The trained model; it stays as it is.
        frame_size (`int`): New height and width of a frame, pixels: one or more doublings, or none where
            `warp_source_image` is new.
        warp_source_image (`bool`): Whether the source frame is warped too, the paper's design for 512 pixels.
        block_out_channels (`tuple[int, ...]`, *optional*): Channels from `frame_size` down to 4 pixels, ending in the
            animator's; by default the paper's for the new sizes, each at least 6.

    Returns:
        [`LIAModel`]: float32, on the animator's device. What is new is drawn from torch's global generator.

    Raises:
        ValueError: Where the animator cannot grow to this.
    """
    old_size, old_channels = animator.config.frame_size, tuple(animator.config.block_out_channels)
    if animator.config.warp_source_image:
        raise ValueError(
            f"`animator` warps its source image at {old_size} pixels, by a layer that fits no other size: grow the "
            "weights that were trained without `warp_source_image`."
        )
    if block_out_channels is None:
        block_out_channels = (*paper_channels(frame_size)[: -len(old_channels)], *old_channels)
    block_out_channels = tuple(block_out_channels)
    if block_out_channels[-len(old_channels) :] != old_channels:
        raise ValueError(f"`block_out_channels` must end in the animator's {old_channels}, got {block_out_channels}.")
    if frame_size < old_size or (frame_size == old_size and not warp_source_image):
        raise ValueError(
            f"`frame_size` must be above the animator's {old_size}, got {frame_size}: choose a larger power of two, "
            f"or add `warp_source_image` at {old_size}."
        )
    new_channels = block_out_channels[: -len(old_channels)]
    if min(new_channels, default=len(TO_PAIRS)) < len(TO_PAIRS):
        raise ValueError(
            f"`block_out_channels` must be at least {len(TO_PAIRS)} at new sizes, got {new_channels}: the frame "
            "passes the new layers in so many."
        )
    grown = LIAModel.from_config(
        animator.config,
        frame_size=frame_size,
        block_out_channels=block_out_channels,
        warp_source_image=warp_source_image,
    )
    grown.motion_head.load_state_dict(animator.motion_head.state_dict())
    grown.motion_dictionary.load_state_dict(animator.motion_dictionary.state_dict())
    grow_encoder(grown.appearance_encoder, animator.appearance_encoder)
    grow_generator(grown.flow_generator, animator.flow_generator)
    return grown.to(animator.device)


def grow_encoder(grown: AppearanceEncoder, encoder: AppearanceEncoder) -> None:
    r"""Lets the new blocks of `grown` halve the frame for the trained ones, beside channels that are drawn."""
    num_new = len(grown.blocks) - len(encoder.blocks)
    grown.blocks[num_new:].load_state_dict(encoder.blocks.state_dict())
    grown.to_latent.load_state_dict(encoder.to_latent.state_dict())
    if num_new == 0:
        grown.from_rgb.load_state_dict(encoder.from_rgb.state_dict())
        return
    # From block to block the frame goes as pairs; the last one also does the work of the old first layer.
    from_rgb = encoder.from_rgb
    colours = (from_rgb.weight * from_rgb.weight_gain).flatten(1).to("cpu", torch.float32)  # (C, 3)
    set_first_outputs(grown.from_rgb, TO_PAIRS)
    for index, block in enumerate(grown.blocks[:num_new]):
        outputs = colours if index == num_new - 1 else TO_PAIRS
        set_first_outputs(block.conv1, TO_PAIRS @ FROM_PAIRS)
        # The centre of this kernel meets the pixels that the shortcut's blur would keep. A block ends in 1 / sqrt(2).
        set_first_outputs(block.conv2, math.sqrt(2) * outputs @ FROM_PAIRS)
        block.skip.weight[: len(outputs)] = 0
    grown.blocks[num_new - 1].conv2.bias.copy_(math.sqrt(2) * from_rgb.bias)


def set_first_outputs(conv: EqualConv2d, matrix: torch.Tensor) -> None:
    r"""Makes the first outputs of `conv` the `matrix` (out, in) times its first inputs, pixel by pixel."""
    num_outputs, num_inputs = matrix.shape
    centre = conv.kernel_size[0] // 2
    conv.weight[:num_outputs] = 0
    conv.weight[:num_outputs, :num_inputs, centre, centre] = matrix / conv.weight_gain


def grow_generator(grown: FlowGenerator, generator: FlowGenerator) -> None:
    r"""Lets the new blocks of `grown` hand the trained frame up, doubled. Other heads start from zero as they are."""
    num_old = len(generator.blocks)
    grown.load_state_dict(generator.state_dict(), strict=False)  # all of it: blocks count from 8 pixels up
    for block in grown.blocks[num_old:]:
        block.rgb_head.conv.weight.zero_()
    if grown.image_flow_head is not None:
        grown.image_flow_head.bias[2] = INPAINT_LOGIT
