"""The motion prior, LEO's simple DM: the denoiser of one motion code."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.utils import BaseOutput
from torch import nn

from .motion_statistics import MotionStatistics


@dataclass
class MotionPriorOutput(BaseOutput):
    r"""
    Output of [`MotionPriorModel`].

    Args:
        sample (`torch.Tensor` of shape `(B, motion_dim)`): The prediction for the noised codes: noise, clean code or
            velocity, as the scheduler was told.
    """

    sample: torch.Tensor


class ResidualLayer(nn.Module):
    r"""
    Two linear layers with a residual connection; the timestep scales and shifts between them. Starts as identity.

    Args:
        hidden_dim (`int`): Size of the features and of the timestep embedding.
        dropout (`float`): Dropout probability before the last layer.
    """

    def __init__(self, hidden_dim: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim)
        self.linear_in = nn.Linear(hidden_dim, hidden_dim)
        self.time_proj = nn.Linear(hidden_dim, 2 * hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear_out = nn.Linear(hidden_dim, hidden_dim)
        nn.init.zeros_(self.linear_out.weight)
        nn.init.zeros_(self.linear_out.bias)

    def forward(self, hidden_states: torch.Tensor, time_embedding: torch.Tensor) -> torch.Tensor:
        r"""Features `(B, hidden_dim)` and embedding `(B or 1, hidden_dim)`, after SiLU, to `(B, hidden_dim)`."""
        scale, shift = self.time_proj(time_embedding).chunk(2, dim=-1)
        residual = self.linear_in(self.norm(hidden_states)) * (1 + scale) + shift
        return hidden_states + self.linear_out(self.dropout(F.silu(residual)))


class MotionPriorModel(ModelMixin, ConfigMixin):
    r"""
    Denoiser of single motion codes, p(alpha): the start of an unconditional video, and the target of a transition
    (LEO Sec. 3.2, "simple DM"). A residual MLP with a timestep embedding; the paper leaves the network open.

    The diffusion process runs on standardised codes, `(code - mean) / std` with the statistics of the training codes;
    [`~MotionPriorModel.standardize`] and [`~MotionPriorModel.unstandardize`] convert.

    Args:
        motion_dim (`int`): Size M of a motion code.
        hidden_dim (`int`): Size of the hidden features, even.
        num_layers (`int`): Number of residual layers.
        motion_mean (`tuple[float, ...]`, *optional*): Mean of the training codes per dimension; `None` for 0.
        motion_std (`tuple[float, ...]`, *optional*): Their standard deviation; `None` for 1.
        dropout (`float`): Dropout probability in the residual layers.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        ```py
        >>> import torch
        >>> from diffusers import DDIMScheduler
        >>> from leo_diffusers import DEMO_MODEL, MotionPriorModel

        >>> prior = MotionPriorModel.from_pretrained(DEMO_MODEL, subfolder="motion_prior")
        >>> scheduler = DDIMScheduler.from_pretrained(DEMO_MODEL, subfolder="prior_scheduler")
        >>> scheduler.set_timesteps(50)
        >>> sample = torch.randn(4, 20)
        >>> with torch.no_grad():
        ...     for timestep in scheduler.timesteps:
        ...         sample = scheduler.step(prior(sample, timestep).sample, timestep, sample).prev_sample
        >>> prior.unstandardize(sample).shape  # four motion codes
        torch.Size([4, 20])
        ```
    """

    _no_split_modules = ("ResidualLayer",)
    _skip_layerwise_casting_patterns = ("norm", "time_embedding")

    @register_to_config
    def __init__(
        self,
        motion_dim: int = 20,
        hidden_dim: int = 512,
        num_layers: int = 4,
        motion_mean: tuple[float, ...] | None = None,
        motion_std: tuple[float, ...] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        for name, value in (("motion_dim", motion_dim), ("num_layers", num_layers)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if hidden_dim < 2 or hidden_dim % 2:
            raise ValueError(f"`hidden_dim` must be even and at least 2, got {hidden_dim}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be at least 0 and below 1, got {dropout}.")
        self.statistics = MotionStatistics(motion_dim, motion_mean, motion_std)
        self.timesteps = Timesteps(hidden_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        # Every layer starts by SiLU of the embedding: computed once, as the embedding's last activation.
        self.time_embedding = TimestepEmbedding(hidden_dim, hidden_dim, post_act_fn="silu")
        self.linear_in = nn.Linear(motion_dim, hidden_dim)
        self.layers = nn.ModuleList(ResidualLayer(hidden_dim, dropout) for _ in range(num_layers))
        self.norm_out = nn.LayerNorm(hidden_dim)
        self.linear_out = nn.Linear(hidden_dim, motion_dim)

    def standardize(self, motion_code: torch.Tensor) -> torch.Tensor:
        r"""Codes `(B, M)`, as the animator gives them, to clean samples `(B, M)` of the diffusion."""
        return self.statistics.standardize(motion_code)

    def unstandardize(self, sample: torch.Tensor) -> torch.Tensor:
        r"""Clean samples `(B, M)` to motion codes `(B, M)`: the inverse of [`~MotionPriorModel.standardize`]."""
        return self.statistics.unstandardize(sample)

    def forward(
        self, sample: torch.Tensor, timestep: int | torch.Tensor, return_dict: bool = True
    ) -> MotionPriorOutput | tuple[torch.Tensor]:
        r"""
        Args:
            sample (`torch.Tensor` of shape `(B, motion_dim)`): Noised standardised codes.
            timestep (`int` or `torch.Tensor` of shape `()`, `(1,)` or `(B,)`): Diffusion timestep.
            return_dict (`bool`): Whether to return a [`MotionPriorOutput`] and not a plain tuple.

        Returns:
            [`MotionPriorOutput`] or `tuple`: The prediction, in the shape and dtype of `sample`.

        Raises:
            ValueError: If a shape is wrong.
        """
        if sample.ndim != 2 or sample.shape[1] != self.config.motion_dim:
            raise ValueError(
                f"`sample` must have shape (B, {self.config.motion_dim}), one code per row, got {tuple(sample.shape)}."
            )
        if not isinstance(timestep, torch.Tensor):
            timestep = torch.tensor([timestep])  # `as_tensor` of a number would be compiled anew for each number
        timestep = timestep.to(sample.device).reshape(-1)
        if timestep.shape[0] not in (1, sample.shape[0]):
            raise ValueError(
                f"`timestep` must be one number or one per sample ({sample.shape[0]}), got {timestep.shape[0]}."
            )
        time_embedding = self.time_embedding(self.timesteps(timestep).to(sample.dtype))  # (B or 1, hidden_dim)
        hidden_states = self.linear_in(sample)
        for layer in self.layers:
            hidden_states = layer(hidden_states, time_embedding)
        prediction = self.linear_out(F.silu(self.norm_out(hidden_states)))  # (B, M)
        return MotionPriorOutput(sample=prediction) if return_dict else (prediction,)
