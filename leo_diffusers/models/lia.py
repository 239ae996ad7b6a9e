"""LIA, the Latent Image Animator: what animates a frame by walking along motion directions in its latent space."""

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook

from .appearance_encoder import AppearanceEncoder, MotionHead
from .flow_generator import FlowGenerator
from .motion_dictionary import MotionDictionary


@dataclass
class LIASource(BaseOutput):
    r"""
    What the animator keeps of a source frame; made once per video.

    Args:
        latent (`torch.Tensor` of shape `(B, L)`): Latent of the reference image, z in the paper.
        features (`tuple[torch.Tensor, ...]`): Feature pyramid from 8 pixels up to the frame's size, each
            `(B, C, R, R)`, float32; with `warp_source_image` the frame itself is its last entry.
        motion_code (`torch.Tensor` of shape `(B, M)`): The source's own motion code.
    """

    latent: torch.Tensor
    features: tuple[torch.Tensor, ...]
    motion_code: torch.Tensor


@dataclass
class LIAModelOutput(BaseOutput):
    r"""
    Args:
        sample (`torch.Tensor` of shape `(B, 3, H, W)`): The frame, RGB, about [-1, 1], not clamped.
        flows (`tuple[torch.Tensor, ...]`): Flow maps, coarse to fine, each `(B, 2, R, R)`, (x, y) in grid units.
        occlusion_masks (`tuple[torch.Tensor, ...]`): Masks, each `(B, 1, R, R)`, 1 = show the warped source.
        motion_code (`torch.Tensor` of shape `(B, M)`): The code that was rendered.
    """

    sample: torch.Tensor
    flows: tuple[torch.Tensor, ...] | None = None
    occlusion_masks: tuple[torch.Tensor, ...] | None = None
    motion_code: torch.Tensor | None = None


class LIAModel(ModelMixin, ConfigMixin):
    r"""
    The image animator of LIA (arXiv 2203.09043 and its journal version) that LEO builds on.

    Args:
        frame_size (`int`): Height and width of a frame, pixels: a power of two from 32 to 1024.
        latent_dim (`int`): Size L of the appearance latent.
        motion_dim (`int`): Number M of motion directions, the size of a motion code.
        block_out_channels (`tuple[int, ...]`): Channels from `frame_size` down to 4 pixels, halving each time.
        motion_head_layers (`int`): Number of linear layers from latent to motion code.
        motion_basis (`str`): "orthogonal" (the paper's), "free" or "none" (its ablations); see [`MotionDictionary`].
        warp_source_image (`bool`): Whether the source frame is warped too, the paper's design for 512 pixels.
        align_corners (`bool`): Whether zero flow is exactly the identity. The released weights need False.
        inpaint_rgb (`bool`): Whether frames also show what the generator fills hidden parts with. Not in the papers;
            it lets eyes and mouths open that are closed in the source.

    Raises:
        ValueError: Where sizes do not fit each other.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["AppearanceEncoder", "FlowGenerator"]
    # Codes and path are small numbers that accumulate over a video: in half precision they would make it jitter.
    _keep_in_fp32_modules = ["motion_head", "motion_dictionary"]

    @register_to_config
    def __init__(
        self,
        frame_size: int = 256,
        latent_dim: int = 512,
        motion_dim: int = 20,
        block_out_channels: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512),
        motion_head_layers: int = 5,
        motion_basis: str = "orthogonal",
        warp_source_image: bool = False,
        align_corners: bool = False,
        inpaint_rgb: bool = False,
    ):
        super().__init__()
        if frame_size not in (32, 64, 128, 256, 512, 1024):
            raise ValueError(f"`frame_size` must be a power of two from 32 to 1024, got {frame_size}.")
        num_scales = frame_size.bit_length() - 2  # from frame_size down to 4 pixels
        if len(block_out_channels) != num_scales:
            raise ValueError(
                f"`block_out_channels` must hold {num_scales} numbers, one for each size from {frame_size} down to 4 "
                f"pixels, got {len(block_out_channels)}: {tuple(block_out_channels)}."
            )
        if motion_head_layers < 1:
            raise ValueError(f"`motion_head_layers` must be at least 1, got {motion_head_layers}.")
        block_out_channels = tuple(block_out_channels)
        self.appearance_encoder = AppearanceEncoder(latent_dim, block_out_channels)
        self.motion_head = MotionHead(latent_dim, motion_dim, motion_head_layers)
        self.motion_dictionary = MotionDictionary(latent_dim, motion_dim, motion_basis)
        self.flow_generator = FlowGenerator(
            latent_dim, block_out_channels, warp_source_image, align_corners, inpaint_rgb
        )

    def _encode(self, frame: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]:
        size = self.config.frame_size
        if frame.ndim != 4 or tuple(frame.shape[1:]) != (3, size, size):
            raise ValueError(f"A frame must have the shape (B, 3, {size}, {size}), got {tuple(frame.shape)}.")
        dtype = self.appearance_encoder.from_rgb.weight.dtype
        frame = frame.to(dtype).contiguous(memory_format=torch.channels_last)
        latent, features = self.appearance_encoder(frame)
        if self.config.warp_source_image:
            features = (*features, frame)
        return latent, features, self.motion_head(latent)

    @apply_forward_hook
    def encode_source(self, source_frame: torch.Tensor) -> LIASource:
        r"""
        Encodes what stays the same over a video.

        Args:
            source_frame (`torch.Tensor` of shape `(B, 3, H, W)`): RGB in [-1, 1], H = W = `frame_size`.

        Returns:
            [`LIASource`]: Latent, feature pyramid and motion code.

        Raises:
            ValueError: Where the frame has another shape.
        """
        latent, features, motion_code = self._encode(source_frame)
        # Half precision has no exact positions, so warping is float32; casting here does it once per video.
        features = tuple(scale_features.float() for scale_features in features)
        return LIASource(latent=latent, features=features, motion_code=motion_code)

    @apply_forward_hook
    def encode_motion(self, frame: torch.Tensor) -> torch.Tensor:
        r"""
        Args:
            frame (`torch.Tensor` of shape `(B, 3, H, W)`): RGB in [-1, 1], H = W = `frame_size`.

        Returns:
            `torch.Tensor` of shape `(B, M)`: The frame's motion code, alpha in the papers. It depends on that frame
            alone.

        Raises:
            ValueError: Where the frame has another shape.
        """
        return self._encode(frame)[2]

    @apply_forward_hook
    def decode(self, source: LIASource, motion_code: torch.Tensor) -> LIAModelOutput:
        r"""
        Renders the source with other motion: z + w(alpha), LIA Eq. 11. The dictionary is linear, so relative transfer
        (Eq. 12) is arithmetic on codes: `source.motion_code + driving_code - start_code`. A zero code gives the
        reference image.

        Args:
            source ([`LIASource`]): From [`~LIAModel.encode_source`]; a batch of one serves any number of codes.
            motion_code (`torch.Tensor` of shape `(B, M)`): Step along each motion direction.

        Returns:
            [`LIAModelOutput`]: Frame, flow maps and occlusion masks.

        Raises:
            ValueError: Where codes have another size, or their number does not fit that of the sources.
        """
        if motion_code.ndim != 2 or motion_code.shape[1] != self.config.motion_dim:
            raise ValueError(
                f"`motion_code` must have the shape (B, {self.config.motion_dim}), got {tuple(motion_code.shape)}."
            )
        if source.latent.shape[0] not in (1, motion_code.shape[0]):
            raise ValueError(
                f"`source` holds {source.latent.shape[0]} frames for {motion_code.shape[0]} motion codes: it must "
                "hold one, or one per code."
            )
        latent = source.latent.float() + self.motion_dictionary(motion_code)  # (B, L), LIA Eq. 1
        frame, flows, occlusion_masks = self.flow_generator(latent.to(source.latent.dtype), source.features)
        return LIAModelOutput(frame, flows, occlusion_masks, motion_code)

    def forward(
        self, source_frame: torch.Tensor, driving_frame: torch.Tensor, return_dict: bool = True
    ) -> LIAModelOutput | tuple:
        r"""
        Reconstructs the driving frame from the source frame by absolute transfer: what stage 1 trains.

        Args:
            source_frame (`torch.Tensor` of shape `(B, 3, H, W)`): RGB in [-1, 1].
            driving_frame (`torch.Tensor` of shape `(B, 3, H, W)`): RGB in [-1, 1].
            return_dict (`bool`): Whether to return an output object instead of a tuple.

        Returns:
            [`LIAModelOutput`] or `tuple`: Frame, flow maps and occlusion masks.
        """
        latent, features, motion_code = self._encode(torch.cat([source_frame, driving_frame]))  # in one pass
        num_sources = source_frame.shape[0]
        source = LIASource(
            latent=latent[:num_sources],
            features=tuple(scale_features[:num_sources].float() for scale_features in features),
            motion_code=motion_code[:num_sources],
        )
        output = self.decode(source, motion_code[num_sources:])
        return output if return_dict else output.to_tuple()
