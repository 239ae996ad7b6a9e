"""What is minimised: (networks, batch) -> scalar."""

import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr


BLOCK_NUMBERS = 2**14  # random numbers that are drawn from one generator


def generator_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    r"""Non-saturating loss of the animator, -log D(x) (LIA Eq. 9): logits (B,) -> scalar."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    r"""-log D(real) - log(1 - D(fake)): logits (B,) -> scalar."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def reconstruction_losses(
    frame: torch.Tensor,
    target: torch.Tensor,
    perceptual_loss: nn.Module | None,
    discriminator: nn.Module | None,
    weight: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    r"""
    The terms of LIA Eq. 10, before their weights.

    Args:
        frame (`torch.Tensor` of shape `(B, 3, H, W)`): Rendered, about [-1, 1].
        target (`torch.Tensor` of shape `(B, 3, H, W)`): The driving frame, [-1, 1].
        perceptual_loss (`nn.Module`, *optional*): From [`~training.perceptual_loss.load_perceptual_loss`].
        discriminator (`nn.Module`, *optional*): A [`FrameDiscriminator`].
        weight (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*): Of each pixel's L1; 1 in the paper.

    Returns:
        `dict[str, torch.Tensor]`: Scalars "l1", "perceptual" and "adversarial", as far as there is a network for them.
    """
    errors = (frame.float() - target.float()).abs()
    losses = {"l1": (errors if weight is None else errors * weight).mean()}  # LIA Eq. 7
    if perceptual_loss is not None:
        losses["perceptual"] = perceptual_loss(frame, target)  # LIA Eq. 8
    if discriminator is not None:
        losses["adversarial"] = generator_loss(discriminator(frame))
    return losses


def draw_noise(
    seed: int, positions: torch.Tensor, shape: tuple[int, ...], num_train_timesteps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    Noise and timesteps of samples, decided by the run's seed and by each sample's place in the data: they depend
    neither on how samples are spread over processes nor on where a run was resumed.

    Args:
        seed (`int`): The run's seed.
        positions (`torch.Tensor` of shape `(B,)`): Places of the samples in the endless sequence.
        shape (`tuple[int, ...]`): Of one sample.
        num_train_timesteps (`int`): Timesteps of the diffusion.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Noise `(B, *shape)` of unit variance and timesteps `(B,)`, on the CPU.
    """
    # Neighbours share a generator: one for each would cost more time than a step of a small network.
    block_size = max(1, BLOCK_NUMBERS // math.prod(shape))
    positions = positions.cpu()
    noise = torch.empty(len(positions), *shape)
    timesteps = torch.empty(len(positions), dtype=torch.long)
    blocks = positions // block_size
    for block in blocks.unique().tolist():
        # A CPU generator keeps 32 bits of its seed, so both numbers are mixed into these.
        mixed_seed = np.random.SeedSequence([seed, block]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(mixed_seed))
        rows = blocks == block
        places = positions[rows] % block_size
        timesteps[rows] = torch.randint(num_train_timesteps, (block_size,), generator=generator)[places]
        noise[rows] = torch.randn(block_size, *shape, generator=generator)[places]
    return noise, timesteps


def denoising_loss(
    model: nn.Module,
    noise_scheduler: DDPMScheduler,
    sample: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    conditions: dict[str, torch.Tensor] | None = None,
    snr_gamma: float | None = None,
) -> torch.Tensor:
    r"""
    Mean-squared error of what a diffusion model predicts: LEO Eq. 1 without a condition, Eq. 4 with one.

    Args:
        model (`nn.Module`): Any network with diffusers' `forward(sample, timestep, **conditions, return_dict)`,
            possibly wrapped for several processes.
        noise_scheduler ([`DDPMScheduler`]): Its prediction type decides what is predicted.
        sample (`torch.Tensor` of shape `(B, ...)`): Clean samples.
        noise (`torch.Tensor` of shape `(B, ...)`): Of unit variance.
        timesteps (`torch.Tensor` of shape `(B,)`): Where in the diffusion each sample is.
        conditions (`dict[str, torch.Tensor]`, *optional*): Further arguments of the network.
        snr_gamma (`float`, *optional*): Weights timesteps by min(SNR, gamma), "Min-SNR" (arXiv 2303.09556).

    Returns:
        `torch.Tensor`: Scalar.
    """
    noisy_sample = noise_scheduler.add_noise(sample, noise, timesteps)
    prediction = model(noisy_sample, timesteps, **(conditions or {}), return_dict=False)[0]
    prediction_type = noise_scheduler.config.prediction_type
    targets = {"epsilon": noise, "sample": sample}
    if prediction_type == "v_prediction":
        target = noise_scheduler.get_velocity(sample, noise, timesteps)
    else:
        target = targets[prediction_type]
    errors = (prediction.float() - target).square().flatten(1).mean(dim=1)
    if snr_gamma is not None:
        snr = compute_snr(noise_scheduler, timesteps)
        divisor = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[prediction_type]
        # A schedule that ends in pure noise has SNR 0, where noise prediction is weighted 1, the limit of min(s,g)/s.
        weights = torch.where(divisor > 0, snr.clamp(max=snr_gamma) / divisor.clamp(min=1e-12), 1.0)
        errors = errors * weights
    return errors.mean()
