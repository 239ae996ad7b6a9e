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

    Examples:
        ```py
        >>> from leo_diffusers import DEMO_MODEL, LIAModel
        >>> from leo_diffusers.video_io import read_image

        >>> animator = LIAModel.from_pretrained(DEMO_MODEL, subfolder="animator")
        >>> source = animator.encode_source(read_image("photo.png", frame_size=128)[None])
        >>> source.latent.shape, source.motion_code.shape
        (torch.Size([1, 256]), torch.Size([1, 20]))
        >>> [features.shape[-1] for features in source.features]  # the last one is the photo itself
        [8, 16, 32, 64, 128, 128]
        ```
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

    Examples:
        ```py
        >>> from leo_diffusers import DEMO_MODEL, LIAModel
        >>> from leo_diffusers.video_io import read_image

        >>> animator = LIAModel.from_pretrained(DEMO_MODEL, subfolder="animator")
        >>> source = animator.encode_source(read_image("photo.png", frame_size=128)[None])
        >>> output = animator.decode(source, source.motion_code + 0.3)
        >>> output.sample.shape
        torch.Size([1, 3, 128, 128])
        >>> [flow.shape[-1] for flow in output.flows]
        [8, 16, 32, 64, 128, 128]
        >>> shown = output.occlusion_masks[-1].mean()  # share of the frame that shows the warped source
        ```
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

    Examples:
        ```py
        >>> import torch
        >>> from leo_diffusers import DEMO_MODEL, LIAModel
        >>> from leo_diffusers.video_io import read_image, read_video, write_video

        >>> animator = LIAModel.from_pretrained(DEMO_MODEL, subfolder="animator")
        >>> driving_frames = read_video("driving.mp4", frame_size=128)  # (F, 3, H, W)
        >>> with torch.no_grad():
        ...     source = animator.encode_source(read_image("photo.png", frame_size=128)[None])  # once
        ...     driving_codes = animator.encode_motion(driving_frames)
        ...     motion_codes = source.motion_code + driving_codes - driving_codes[:1]  # relative transfer
        ...     frames = animator.decode(source, motion_codes).sample
        >>> write_video("animated.mp4", frames.clamp(-1, 1), frames_per_second=25)
        ```
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["AppearanceEncoder", "FlowGenerator"]
    # Group offloading fetches weights when a module's forward is called: not that of the root, in `decode`.
    _group_offload_block_modules = ["appearance_encoder", "motion_head", "motion_dictionary", "flow_generator"]
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
        frame = frame.to(self.dtype).contiguous(memory_format=torch.channels_last)
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

        Examples:
            ```py
            >>> from leo_diffusers import DEMO_MODEL, LIAModel
            >>> from leo_diffusers.video_io import read_image

            >>> animator = LIAModel.from_pretrained(DEMO_MODEL, subfolder="animator")
            >>> source = animator.encode_source(read_image("photo.png", frame_size=128)[None])
            >>> source.motion_code.shape
            torch.Size([1, 20])
            ```
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

        Examples:
            ```py
            >>> import torch
            >>> from leo_diffusers import DEMO_MODEL, LIAModel
            >>> from leo_diffusers.video_io import read_video

            >>> animator = LIAModel.from_pretrained(DEMO_MODEL, subfolder="animator")
            >>> with torch.no_grad():
            ...     motion_codes = animator.encode_motion(read_video("driving.mp4", frame_size=128, num_frames=8))
            >>> motion_codes.shape
            torch.Size([8, 20])
            ```
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

        Examples:
            ```py
            >>> import torch
            >>> from leo_diffusers import DEMO_MODEL, LIAModel
            >>> from leo_diffusers.video_io import read_image, to_pil

            >>> animator = LIAModel.from_pretrained(DEMO_MODEL, subfolder="animator")
            >>> with torch.no_grad():
            ...     source = animator.encode_source(read_image("photo.png", frame_size=128)[None])
            ...     reference = animator.decode(source, torch.zeros_like(source.motion_code)).sample
            >>> to_pil(reference[0]).save("reference.png")
            ```
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
