"""The denoiser of LEO's Latent Motion Diffusion Model, with Linear Motion Condition inside."""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import AttentionMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from .motion_statistics import MotionStatistics
from .motion_unet_1d_blocks import DownBlock1D, UNetLayer1D, UpBlock1D, group_norm, zero_init


@dataclass
class MotionUNet1DOutput(BaseOutput):
    r"""
    Output of [`MotionUNet1DModel`].

    Args:
        sample (`torch.Tensor` of shape `(batch_size, motion_dim, num_sample_frames)`): The prediction for the noised
            sample: noise, clean sample or velocity, as the scheduler was told.
    """

    sample: torch.Tensor


# Frames that the network is given clean, (at the start, at the end) of the sequence.
_GIVEN_FRAMES = {"none": (0, 0), "start": (1, 0), "start_end": (1, 1)}


class MotionUNet1DModel(ModelMixin, AttentionMixin, ConfigMixin):
    r"""
    1-D U-Net of the Latent Motion Diffusion Model: predicts the noise in a sequence of motion codes (LEO Sec. 3.2).
    The architecture is that of guided diffusion with one dimension, time.

    The diffusion process runs on a standardised sample of shape `(B, motion_dim, num_sample_frames)`. What it holds
    depends on `condition`, where mean and standard deviation are those of the training codes, per dimension:

    | `condition` | given | sample, for the frames not given |
    | --- | --- | --- |
    | `"none"` | nothing | `(code - mean) / std` |
    | `"start"` | the first code | `(code - first code) / std`: Linear Motion Condition (LMC) |
    | `"start_end"` | the first and the last code | as `"start"`, and the last frame is given as well |

    A residual is divided by the deviation but not shifted by the mean, so standardised first code + residual =
    standardised code: the condition stays linear. Motion codes given to the model are never standardised by the
    caller; [`~MotionUNet1DModel.standardize`] and [`~MotionUNet1DModel.unstandardize`] convert whole sequences.

    Args:
        motion_dim (`int`): Size M of a motion code.
        sequence_length (`int`): Frames L of a sequence, those given included.
        block_out_channels (`tuple[int, ...]`): Channels per level; the length halves from one level to the next.
        layers_per_block (`int`): Residual blocks per level on the way down; one more on the way up.
        attention_levels (`tuple[int, ...]`): Indices of the levels with attention. The middle always has it.
        num_attention_heads (`int`): Number of attention heads.
        condition (`str`): Which codes are given: `"none"`, `"start"` or `"start_end"`.
        motion_mean (`tuple[float, ...]`, *optional*): Mean of the training codes per dimension; `None` for 0.
        motion_std (`tuple[float, ...]`, *optional*): Their standard deviation; `None` for 1.
        dropout (`float`): Dropout probability in the residual blocks.

    Raises:
        ValueError: If an argument is out of range, or if two do not fit each other.

    Examples:
        ```py
        >>> import torch
        >>> from leo_diffusers import DEMO_MODEL, MotionUNet1DModel

        >>> motion_unet = MotionUNet1DModel.from_pretrained(DEMO_MODEL, subfolder="motion_unet")
        >>> motion_codes = torch.randn(2, 64, 20)  # two clips of 64 frames
        >>> sample = motion_unet.standardize(motion_codes)
        >>> sample.shape  # with `condition="start"` the first frame is given
        torch.Size([2, 20, 63])
        >>> noise = motion_unet(sample, timestep=500, start_motion_code=motion_codes[:, 0]).sample
        >>> noise.shape
        torch.Size([2, 20, 63])
        ```
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("DownBlock1D", "UNetLayer1D", "UpBlock1D")
    _skip_layerwise_casting_patterns = ("norm", "time_embedding")
    # Group offloading fetches weights when a module's forward is called: not that of the root, in `embed_timesteps`.
    _group_offload_block_modules = ("time_embedding", "time_projection")

    @register_to_config
    def __init__(
        self,
        motion_dim: int = 20,
        sequence_length: int = 64,
        block_out_channels: tuple[int, ...] = (128, 256, 384, 512),
        layers_per_block: int = 2,
        attention_levels: tuple[int, ...] = (2, 3),
        num_attention_heads: int = 4,
        condition: str = "start",
        motion_mean: tuple[float, ...] | None = None,
        motion_std: tuple[float, ...] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        _check_architecture(
            motion_dim, sequence_length, block_out_channels, layers_per_block, attention_levels, num_attention_heads
        )
        if condition not in _GIVEN_FRAMES:
            raise ValueError(f"`condition` must be one of {list(_GIVEN_FRAMES)}, got {condition!r}.")
        if sequence_length <= sum(_GIVEN_FRAMES[condition]):
            raise ValueError(
                f"`sequence_length` must be above {sum(_GIVEN_FRAMES[condition])}, the frames that are given with "
                f"`condition={condition!r}`, got {sequence_length}."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be at least 0 and below 1, got {dropout}.")

        self.statistics = MotionStatistics(motion_dim, motion_mean, motion_std)

        first_channels, last_channels = block_out_channels[0], block_out_channels[-1]
        time_dim = 4 * first_channels
        self.timesteps = Timesteps(first_channels, flip_sin_to_cos=True, downscale_freq_shift=0)
        # Every layer starts by SiLU of the embedding: computed once, as the embedding's last activation.
        self.time_embedding = TimestepEmbedding(first_channels, time_dim, post_act_fn="silu")

        def make_layer(level: int, in_channels: int) -> UNetLayer1D:
            num_heads = num_attention_heads if level in attention_levels else None
            return UNetLayer1D(in_channels, block_out_channels[level], num_heads, dropout)

        self.conv_in = nn.Conv1d(motion_dim, first_channels, kernel_size=3, padding=1)
        skip_channels = [first_channels]
        last_level = len(block_out_channels) - 1

        self.down_blocks = nn.ModuleList()
        for level, channels in enumerate(block_out_channels):
            in_channels = [skip_channels[-1]] + [channels] * (layers_per_block - 1)
            layers = [make_layer(level, channels_in) for channels_in in in_channels]
            downsample = level < last_level
            self.down_blocks.append(DownBlock1D(layers, channels, downsample))
            skip_channels += [channels] * (layers_per_block + downsample)

        self.mid_layers = nn.ModuleList(
            UNetLayer1D(last_channels, last_channels, num_heads, dropout) for num_heads in (num_attention_heads, None)
        )

        self.up_blocks = nn.ModuleList()
        previous_channels = last_channels
        for level, channels in reversed(list(enumerate(block_out_channels))):
            in_channels = [previous_channels] + [channels] * layers_per_block
            layers = [make_layer(level, channels_in + skip_channels.pop()) for channels_in in in_channels]
            self.up_blocks.append(UpBlock1D(layers, channels, upsample=level > 0))
            previous_channels = channels

        # The scales and shifts of all layers at once: a sixth of the weights, which sampling reads once for all steps.
        layers = [module for module in self.modules() if isinstance(module, UNetLayer1D)]
        self.scale_shift_sizes = [2 * layer.out_channels for layer in layers]
        self.time_projection = nn.Linear(time_dim, sum(self.scale_shift_sizes))

        self.norm_out = group_norm(first_channels)
        self.conv_out = zero_init(nn.Conv1d(first_channels, motion_dim, kernel_size=3, padding=1))

    @property
    def num_sample_frames(self) -> int:
        r"""`int`: Length of a sample along time: the frames of a sequence that are not given."""
        return self.config.sequence_length - sum(_GIVEN_FRAMES[self.config.condition])

    def standardize(self, motion_codes: torch.Tensor) -> torch.Tensor:
        r"""
        Turn sequences of motion codes into the samples that the diffusion process runs on.

        Args:
            motion_codes (`torch.Tensor` of shape `(B, sequence_length, motion_dim)`): Codes as the animator gives
                them, unbounded, the frames that serve as condition included.

        Returns:
            `torch.Tensor` of shape `(B, motion_dim, num_sample_frames)`: Clean samples in the dtype of the codes.

        Raises:
            ValueError: If the shape is wrong.
        """
        sequence_length, motion_dim = self.config.sequence_length, self.config.motion_dim
        if motion_codes.ndim != 3 or motion_codes.shape[1:] != (sequence_length, motion_dim):
            raise ValueError(
                f"`motion_codes` must have shape (B, {sequence_length}, {motion_dim}), got "
                f"{tuple(motion_codes.shape)}: cut or pad the sequences to the model's `sequence_length`."
            )
        codes = motion_codes.to(torch.promote_types(motion_codes.dtype, torch.float32))
        num_before, _ = _GIVEN_FRAMES[self.config.condition]
        origin = codes[:, :1] if num_before else self.statistics.mean.to(codes.device)
        sampled_codes = codes[:, num_before : num_before + self.num_sample_frames]
        sample = (sampled_codes - origin) / self.statistics.std.to(codes.device)  # m_i = alpha_i - alpha_1, LEO Eq. 2
        return sample.transpose(1, 2).to(motion_codes.dtype)

    def conditions_of(self, motion_codes: torch.Tensor) -> dict[str, torch.Tensor]:
        r"""
        The codes that [`~MotionUNet1DModel.forward`] wants beside the sample.

        Args:
            motion_codes (`torch.Tensor` of shape `(B, F, motion_dim)`): Whole sequences.

        Returns:
            `dict[str, torch.Tensor]`: By argument, each `(B, motion_dim)`; empty without a condition.
        """
        num_before, num_after = _GIVEN_FRAMES[self.config.condition]
        given = {"start_motion_code": motion_codes[:, 0]} if num_before else {}
        return given | ({"end_motion_code": motion_codes[:, -1]} if num_after else {})

    def unstandardize(
        self,
        sample: torch.Tensor,
        start_motion_code: torch.Tensor | None = None,
        end_motion_code: torch.Tensor | None = None,
    ) -> torch.Tensor:
        r"""
        Turn clean samples back into sequences of motion codes: the inverse of [`~MotionUNet1DModel.standardize`].

        Args:
            sample (`torch.Tensor` of shape `(B, motion_dim, num_sample_frames)`): Clean standardised samples.
            start_motion_code (`torch.Tensor` of shape `(B, motion_dim)`, *optional*): The code of the first frame, as
                the animator gives it; comes back unchanged as the first frame. With a condition only.
            end_motion_code (`torch.Tensor` of shape `(B, motion_dim)`, *optional*): The same for the last frame. With
                `condition="start_end"` only.

        Returns:
            `torch.Tensor` of shape `(B, sequence_length, motion_dim)`: Motion codes, unbounded, in the widest dtype
            of the inputs.

        Raises:
            ValueError: If a shape is wrong, a condition is missing or one is given that the model does not take.
        """
        self._check_inputs(sample, start_motion_code, end_motion_code)
        residuals = sample.transpose(1, 2) * self.statistics.std.to(sample.device)  # (B, F, M)
        if start_motion_code is None:
            return (residuals + self.statistics.mean.to(sample.device)).to(sample.dtype)
        start = start_motion_code[:, None]
        end = [] if end_motion_code is None else [end_motion_code[:, None]]
        motion_codes = torch.cat([start, start + residuals, *end], dim=1)  # LEO Eq. 3
        dtypes = [tensor.dtype for tensor in (sample, start, *end)]
        return motion_codes.to(functools.reduce(torch.promote_types, dtypes))

    @apply_forward_hook
    def embed_timesteps(self, timesteps: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        r"""
        Args:
            timesteps (`torch.Tensor` of shape `(T,)`): Diffusion timesteps.
            dtype (`torch.dtype`, *optional*): That of the weights by default.

        Returns:
            `torch.Tensor` of shape `(T, E)`: What [`~MotionUNet1DModel.forward`] makes of each timestep. To sample,
            embed all timesteps at once: one at a time that takes a sixth of the time of a step on CPU.
        """
        return self.time_projection(self.time_embedding(self.timesteps(timesteps).to(dtype or self.dtype)))

    def forward(
        self,
        sample: torch.Tensor,
        timestep: int | torch.Tensor,
        start_motion_code: torch.Tensor | None = None,
        end_motion_code: torch.Tensor | None = None,
        return_dict: bool = True,
        timestep_embedding: torch.Tensor | None = None,
    ) -> MotionUNet1DOutput | tuple[torch.Tensor]:
        r"""
        Args:
            sample (`torch.Tensor` of shape `(B, motion_dim, num_sample_frames)`): Noised standardised samples.
            timestep (`int` or `torch.Tensor` of shape `()`, `(1,)` or `(B,)`): Diffusion timestep.
            start_motion_code (`torch.Tensor` of shape `(B, motion_dim)`, *optional*): The code of the first frame, as
                the animator gives it. With a condition only.
            end_motion_code (`torch.Tensor` of shape `(B, motion_dim)`, *optional*): The same for the last frame. With
                `condition="start_end"` only.
            return_dict (`bool`): Whether to return a [`MotionUNet1DOutput`] and not a plain tuple.
            timestep_embedding (`torch.Tensor` of shape `(1, E)` or `(B, E)`, *optional*): That of `timestep`, from
                [`~MotionUNet1DModel.embed_timesteps`], where it was computed before.

        Returns:
            [`MotionUNet1DOutput`] or `tuple`: The prediction, in the shape and dtype of `sample`.

        Raises:
            ValueError: If a shape is wrong, a condition is missing or one is given that the model does not take.
        """
        self._check_inputs(sample, start_motion_code, end_motion_code)
        if not isinstance(timestep, torch.Tensor):
            timestep = torch.tensor([timestep])  # `as_tensor` of a number would be compiled anew for each number
        timestep = timestep.to(sample.device).reshape(-1)
        if timestep.shape[0] not in (1, sample.shape[0]):
            raise ValueError(
                f"`timestep` must be one number or one per sample ({sample.shape[0]}), got {timestep.shape[0]}."
            )
        if timestep_embedding is None:
            timestep_embedding = self.embed_timesteps(timestep, sample.dtype)
        scale_shifts = list(timestep_embedding.split(self.scale_shift_sizes, dim=1))[::-1]  # popped from the end

        hidden_states = self.conv_in(self._add_given_frames(sample, start_motion_code, end_motion_code))  # (B, C, L)
        skips = [hidden_states]
        for down_block in self.down_blocks:
            skips += down_block(skips[-1], [scale_shifts.pop() for _ in down_block.layers])
        hidden_states = skips[-1]
        for layer in self.mid_layers:
            hidden_states = layer(hidden_states, scale_shifts.pop())
        for up_block in self.up_blocks:
            level_skips = [skips.pop() for _ in up_block.layers]
            hidden_states = up_block(hidden_states, level_skips, [scale_shifts.pop() for _ in up_block.layers])
        prediction = self.conv_out(F.silu(self.norm_out(hidden_states)))  # (B, M, L)

        # Given frames carry no noise, so what the network says of them is dropped.
        num_before, _ = _GIVEN_FRAMES[self.config.condition]
        prediction = prediction[..., num_before : num_before + self.num_sample_frames]
        if not return_dict:
            return (prediction,)
        return MotionUNet1DOutput(sample=prediction)

    def _add_given_frames(
        self, sample: torch.Tensor, start_motion_code: torch.Tensor | None, end_motion_code: torch.Tensor | None
    ) -> torch.Tensor:
        """LMC: alpha_1 is added to m_t, then put before it along time (LEO Sec. 3.2, below Eq. 4)."""
        if start_motion_code is None:
            return sample
        # Codes are standardised in their own precision, which may be finer than that of the sample.
        given = [code for code in (start_motion_code, end_motion_code) if code is not None]
        given = [self.statistics.standardize(code).to(sample.dtype)[..., None] for code in given]
        start, *end = given  # each (B, M, 1)
        return torch.cat([start, start + sample, *end], dim=-1)  # (B, M, L)

    def _check_inputs(
        self, sample: torch.Tensor, start_motion_code: torch.Tensor | None, end_motion_code: torch.Tensor | None
    ) -> None:
        motion_dim, condition = self.config.motion_dim, self.config.condition
        if sample.ndim != 3 or sample.shape[1:] != (motion_dim, self.num_sample_frames):
            raise ValueError(
                f"`sample` must have shape (B, {motion_dim}, {self.num_sample_frames}) with `condition={condition!r}`,"
                f" got {tuple(sample.shape)}: time comes last, and given frames are no part of the sample."
            )
        codes = {"start_motion_code": start_motion_code, "end_motion_code": end_motion_code}
        for (name, code), is_given in zip(codes.items(), _GIVEN_FRAMES[condition]):
            if is_given and code is None:
                raise ValueError(f"A model with `condition={condition!r}` needs `{name}`, got None.")
            if not is_given and code is not None:
                raise ValueError(f"A model with `condition={condition!r}` takes no `{name}`: leave it out.")
            if is_given and code.shape != (sample.shape[0], motion_dim):
                raise ValueError(
                    f"`{name}` must have shape ({sample.shape[0]}, {motion_dim}), one code per sample, got"
                    f" {tuple(code.shape)}."
                )


def _check_architecture(
    motion_dim: int,
    sequence_length: int,
    block_out_channels: tuple[int, ...],
    layers_per_block: int,
    attention_levels: tuple[int, ...],
    num_attention_heads: int,
) -> None:
    if motion_dim < 1:
        raise ValueError(f"`motion_dim` must be at least 1, got {motion_dim}.")
    num_levels = len(block_out_channels)
    if num_levels < 1 or min(block_out_channels) < 1:
        raise ValueError(f"`block_out_channels` must hold a positive number per level, got {block_out_channels}.")
    if layers_per_block < 1:
        raise ValueError(f"`layers_per_block` must be at least 1, got {layers_per_block}.")
    length_divisor = 2 ** (num_levels - 1)
    if sequence_length < 1 or sequence_length % length_divisor != 0:
        raise ValueError(
            f"`sequence_length` must be a positive multiple of {length_divisor}, as {num_levels} levels halve it"
            f" {num_levels - 1} times, got {sequence_length}."
        )
    for level in attention_levels:
        if not 0 <= level < num_levels:
            raise ValueError(f"`attention_levels` must lie between 0 and {num_levels - 1}, got {attention_levels}.")
    if num_attention_heads < 1:
        raise ValueError(f"`num_attention_heads` must be at least 1, got {num_attention_heads}.")
    for level in (*attention_levels, num_levels - 1):  # the middle has attention in the last level's channels
        if block_out_channels[level] % num_attention_heads != 0:
            raise ValueError(
                f"`num_attention_heads` ({num_attention_heads}) must divide the {block_out_channels[level]} channels"
                f" of level {level} in `block_out_channels`."
            )
