"""The reverse process of diffusion: noise -> standardised motion codes, or a first frame."""

import inspect
from collections.abc import Callable, Generator

import torch
from diffusers import ModelMixin
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import logging
from tqdm import tqdm


logger = logging.get_logger(__name__)


def without_clipping(scheduler: SchedulerMixin) -> SchedulerMixin:
    r"""The scheduler, rebuilt where it would clamp predicted samples: motion codes are not confined to [-1, 1]."""
    clipping = {name: False for name in ("clip_sample", "thresholding") if scheduler.config.get(name)}
    if not clipping:
        return scheduler
    logger.warning(f"Turning {', '.join(clipping)} of the scheduler off: it would clamp motion codes.")
    return type(scheduler).from_config(scheduler.config, **clipping)


@torch.no_grad()
def denoising_steps(
    model: ModelMixin,
    scheduler: SchedulerMixin,
    noise: torch.Tensor,
    conditions: dict[str, torch.Tensor | None],
    num_inference_steps: int,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> Generator[tuple[int, torch.Tensor, torch.Tensor], torch.Tensor | None, None]:
    r"""
    Denoises step by step (LEO Sec. 3.2): p(a_0 | a_T), p(m_0 | m_T, alpha_1) with Linear Motion Condition (Eq. 4), or
    of a first frame p(x_1 | alpha_1). Between two steps the scheduler must not be used for anything else.

    Args:
        model ([`ModelMixin`]): Predicts what `scheduler` was trained on.
        scheduler ([`SchedulerMixin`]): Any diffusers scheduler that suits the samples.
        noise (`torch.Tensor` of shape `(B, ...)`): Of unit variance; scaled here as the scheduler wants it.
        conditions (`dict[str, torch.Tensor]`): Further arguments of `model`, by name.
        num_inference_steps (`int`): Denoising steps.
        generator (`torch.Generator` or a list, *optional*): For schedulers that add noise.

    Yields:
        `tuple`: After every step its index, its timestep and the latents `(B, ...)`; latents that are sent back go on.
    """
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)  # known only after the timesteps are
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    step_kwargs = {"generator": generator} if takes_generator else {}
    # Of a network that can, all timesteps at once: its embedding is a sixth of its weights.
    embeddings = model.embed_timesteps(scheduler.timesteps) if hasattr(model, "embed_timesteps") else None
    for index, timestep in enumerate(scheduler.timesteps):
        model_input = scheduler.scale_model_input(latents, timestep).to(model.dtype)
        embedding = {} if embeddings is None else {"timestep_embedding": embeddings[index : index + 1]}
        prediction = model(model_input, timestep, **conditions, **embedding).sample.float()
        latents = scheduler.step(prediction, timestep, latents, **step_kwargs).prev_sample
        replaced = yield index, timestep, latents
        latents = latents if replaced is None else replaced


def denoise(
    model: ModelMixin,
    scheduler: SchedulerMixin,
    noise: torch.Tensor,
    conditions: dict[str, torch.Tensor | None],
    num_inference_steps: int,
    generator: torch.Generator | list[torch.Generator] | None = None,
    on_step: Callable[[int, torch.Tensor, torch.Tensor], tuple[torch.Tensor, bool]] | None = None,
    progress_bar: tqdm | None = None,
) -> torch.Tensor:
    r"""
    Runs [`denoising_steps`] to the end; the arguments not named here are its own.

    Args:
        on_step (`Callable`, *optional*): Called after each step as `(index, timestep, latents)`; returns the latents
            to go on with, and whether to go on.
        progress_bar (`tqdm`, *optional*): Updated once per denoising step.

    Returns:
        `torch.Tensor` of shape `(B, ...)`: Standardised codes or residuals, or frames in [-1, 1].
    """
    steps = denoising_steps(model, scheduler, noise, conditions, num_inference_steps, generator)
    latents = replaced = None
    while True:
        try:
            index, timestep, latents = steps.send(replaced)
        except StopIteration:
            return latents
        if progress_bar is not None:
            # Schedulers of higher order visit a step several times.
            progress_bar.update((index + 1) * num_inference_steps // len(scheduler.timesteps) - progress_bar.n)
        if on_step is not None:
            latents, goes_on = on_step(index, timestep, latents)
            if not goes_on:
                return latents
            replaced = latents


class PendingMotion:
    r"""
    Motion codes in the making, denoised a few steps at a time between other work.

    Args:
        steps (generator): From [`denoising_steps`], with a scheduler of its own.
        num_steps (`int`): How many there will be.
        finish (`Callable`): Turns the last latents into what [`~PendingMotion.result`] returns.
        on_step (`Callable`, *optional*): As of [`denoise`].
    """

    def __init__(
        self,
        steps: Generator[tuple[int, torch.Tensor, torch.Tensor], torch.Tensor | None, None],
        num_steps: int,
        finish: Callable[[torch.Tensor], torch.Tensor],
        on_step: Callable[[int, torch.Tensor, torch.Tensor], tuple[torch.Tensor, bool]] | None = None,
    ):
        self._steps = steps
        self._num_steps = num_steps
        self._finish = finish
        self._on_step = on_step
        self._latents: torch.Tensor | None = None
        self._num_done = 0

    def advance(self, share: float) -> None:
        r"""Denoises until this share of all steps is done, from 0 to 1."""
        while self._num_done < share * self._num_steps and self._step():
            pass

    def result(self) -> torch.Tensor:
        r"""Denoises to the end."""
        while self._step():
            pass
        return self._finish(self._latents)

    def _step(self) -> bool:
        try:
            # The first time there is nothing to send.
            index, timestep, self._latents = self._steps.send(self._latents)
        except StopIteration:
            return False
        self._num_done += 1
        if self._on_step is not None:
            self._latents, goes_on = self._on_step(index, timestep, self._latents)
            if not goes_on:
                self._steps.close()
        return True
