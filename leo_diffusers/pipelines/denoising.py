"""The reverse process of the motion diffusion: noise -> standardised motion codes."""

import inspect
from collections.abc import Callable

import torch
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import logging
from tqdm import tqdm

from ..models.motion_unet_1d import MotionUNet1DModel


logger = logging.get_logger(__name__)


def without_clipping(scheduler: SchedulerMixin) -> SchedulerMixin:
    r"""The scheduler, rebuilt where it would clamp predicted samples: motion codes are not confined to [-1, 1]."""
    clipping = {name: False for name in ("clip_sample", "thresholding") if scheduler.config.get(name)}
    if not clipping:
        return scheduler
    logger.warning(f"Turning {', '.join(clipping)} of the scheduler off: it would clamp motion codes.")
    return type(scheduler).from_config(scheduler.config, **clipping)


@torch.no_grad()
def denoise(
    motion_unet: MotionUNet1DModel,
    scheduler: SchedulerMixin,
    noise: torch.Tensor,
    conditions: dict[str, torch.Tensor],
    num_inference_steps: int,
    generator: torch.Generator | list[torch.Generator] | None = None,
    on_step: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor | None] | None = None,
    progress_bar: tqdm | None = None,
) -> torch.Tensor:
    r"""
    Draws motion (LEO Sec. 3.2): p(a_0 | a_T), or p(m_0 | m_T, alpha_1) with Linear Motion Condition (Eq. 4).

    Args:
        motion_unet ([`MotionUNet1DModel`]): Predicts what `scheduler` was trained on.
        scheduler ([`SchedulerMixin`]): Any diffusers scheduler for unbounded samples.
        noise (`torch.Tensor` of shape `(B, M, L')`): Of unit variance; scaled here as the scheduler wants it.
        conditions (`dict[str, torch.Tensor]`): Clean codes that `motion_unet` takes, by argument, each `(B, M)`.
        num_inference_steps (`int`): Denoising steps.
        generator (`torch.Generator` or a list, *optional*): For schedulers that add noise.
        on_step (`Callable`, *optional*): Called after each step as `(index, timestep, latents)`; what it returns goes
            on, None ends the process.
        progress_bar (`tqdm`, *optional*): Updated once per denoising step.

    Returns:
        `torch.Tensor` of shape `(B, M, L')`: Standardised codes or residuals.
    """
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)  # known only after the timesteps are
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    step_kwargs = {"generator": generator} if takes_generator else {}
    num_timesteps = len(scheduler.timesteps)
    for index, timestep in enumerate(scheduler.timesteps):
        model_input = scheduler.scale_model_input(latents, timestep).to(motion_unet.dtype)
        prediction = motion_unet(model_input, timestep, **conditions).sample.float()
        latents = scheduler.step(prediction, timestep, latents, **step_kwargs).prev_sample
        if progress_bar is not None:
            # Schedulers of higher order visit a step several times.
            progress_bar.update((index + 1) * num_inference_steps // num_timesteps - progress_bar.n)
        if on_step is not None:
            replaced = on_step(index, timestep, latents)
            if replaced is None:
                break
            latents = replaced
    return latents
