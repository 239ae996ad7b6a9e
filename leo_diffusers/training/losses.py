"""What is minimised: (networks, batch) -> scalar."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from diffusers.utils.torch_utils import randn_tensor


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
) -> dict[str, torch.Tensor]:
    r"""
    The terms of LIA Eq. 10, before their weights.

    Args:
        frame (`torch.Tensor` of shape `(B, 3, H, W)`): Rendered, about [-1, 1].
        target (`torch.Tensor` of shape `(B, 3, H, W)`): The driving frame, [-1, 1].
        perceptual_loss (`nn.Module`, *optional*): From [`~training.perceptual_loss.load_perceptual_loss`].
        discriminator (`nn.Module`, *optional*): A [`FrameDiscriminator`].

    Returns:
        `dict[str, torch.Tensor]`: Scalars "l1", "perceptual" and "adversarial", as far as there is a network for them.
    """
    losses = {"l1": F.l1_loss(frame.float(), target.float())}  # LIA Eq. 7
    if perceptual_loss is not None:
        losses["perceptual"] = perceptual_loss(frame, target)  # LIA Eq. 8
    if discriminator is not None:
        losses["adversarial"] = generator_loss(discriminator(frame))
    return losses


def sample_generators(seed: int, positions: torch.Tensor) -> list[torch.Generator]:
    r"""
    One generator per sample, seeded by its place in the data: the noise does not depend on how samples were spread
    over processes, nor on where a run was resumed.

    Args:
        seed (`int`): The run's seed.
        positions (`torch.Tensor` of shape `(B,)`): Places of the samples in the endless sequence.

    Returns:
        `list[torch.Generator]`: On the CPU.
    """
    # A CPU generator keeps 32 bits of its seed, so both numbers are mixed into these.
    seeds = (np.random.SeedSequence([seed, position]).generate_state(1)[0] for position in positions.tolist())
    return [torch.Generator().manual_seed(int(one)) for one in seeds]


def motion_denoising_loss(
    unet: nn.Module,
    noise_scheduler: DDPMScheduler,
    motion_codes: torch.Tensor,
    generator: torch.Generator | list[torch.Generator] | None = None,
    snr_gamma: float | None = None,
) -> torch.Tensor:
    r"""
    Mean-squared error of the denoised motion: LEO Eq. 1 without a condition, Eq. 4 with Linear Motion Condition.

    Args:
        unet (`nn.Module`): A [`MotionUNet1DModel`], possibly wrapped for several processes.
        noise_scheduler ([`DDPMScheduler`]): Its prediction type decides what is predicted.
        motion_codes (`torch.Tensor` of shape `(B, L, M)`): Codes of whole sequences, raw.
        generator (`torch.Generator` or a list, *optional*): Draws noise and timesteps; a list has one per sample.
        snr_gamma (`float`, *optional*): Weights timesteps by min(SNR, gamma), "Min-SNR" (arXiv 2303.09556).

    Returns:
        `torch.Tensor`: Scalar.
    """
    model = getattr(unet, "module", unet)
    sample = model.standardize(motion_codes)  # (B, M, L'), the part of the sequence that is noised
    noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
    generators = generator if isinstance(generator, list) else [generator] * len(sample)
    num_steps = noise_scheduler.config.num_train_timesteps
    timesteps = torch.cat([torch.randint(num_steps, (1,), generator=one) for one in generators]).to(sample.device)
    noisy_sample = noise_scheduler.add_noise(sample, noise, timesteps)
    prediction = unet(noisy_sample, timesteps, **model.conditions_of(motion_codes), return_dict=False)[0]
    prediction_type = noise_scheduler.config.prediction_type
    targets = {"epsilon": noise, "sample": sample}
    if prediction_type == "v_prediction":
        target = noise_scheduler.get_velocity(sample, noise, timesteps)
    else:
        target = targets[prediction_type]
    errors = (prediction.float() - target).square().mean(dim=(1, 2))
    if snr_gamma is not None:
        snr = compute_snr(noise_scheduler, timesteps)
        divisor = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[prediction_type]
        # A schedule that ends in pure noise has SNR 0, where noise prediction is weighted 1, the limit of min(s,g)/s.
        weights = torch.where(divisor > 0, snr.clamp(max=snr_gamma) / divisor.clamp(min=1e-12), 1.0)
        errors = errors * weights
    return errors.mean()
