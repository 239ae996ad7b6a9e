"""What the scripts that train diffusion models share: arguments, schedules, and the loop."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, DDPMScheduler
from torch.utils.data import Dataset

from .arguments import build_lr_scheduler, check_training_arguments
from .losses import denoising_loss, draw_noise
from .publishing import hub_repository, upload_model
from .run import TrainingRun


VALIDATION_SEED = 0  # the same draws at each validation, so that steps can be compared
Batch = dict[str, torch.Tensor]


def add_denoising_arguments(parser: argparse.ArgumentParser) -> None:
    r"""
    Adds the arguments of a diffusion model's training, beside those of [`~training.arguments.add_training_arguments`].

    Args:
        parser (`argparse.ArgumentParser`): Of the script.
    """
    add = parser.add_argument
    add("--pretrained_model_name_or_path", required=True, help="LIAPipeline: the animator that made the codes")
    add("--motion_codes_dir", type=Path, required=True, help="output folder of extract_motion_codes.py")
    add("--num_train_timesteps", type=int, default=1000, help="diffusion steps (default: %(default)s)")
    add(
        "--beta_schedule",
        choices=("linear", "scaled_linear", "squaredcos_cap_v2"),
        default="linear",
        help="noise schedule, 1e-4 to 0.02 (default: %(default)s)",
    )
    add(
        "--prediction_type",
        choices=("epsilon", "v_prediction", "sample"),
        default="epsilon",
        help="what the network predicts (default: %(default)s, the paper's; the others keep the spread of codes)",
    )
    add("--snr_gamma", type=float, default=None, help="Min-SNR weighting of timesteps (default: none)")
    add("--adam_weight_decay", type=float, default=0.0, help="default: %(default)s")
    add("--num_validation_samples", type=int, default=64, help="draws that are measured (default: %(default)s)")
    add("--num_inference_steps", type=int, default=50, help="of validation (default: %(default)s)")


def check_denoising_arguments(args: argparse.Namespace) -> None:
    r"""
    Refuses arguments that cannot be carried out, those that all training scripts share included.

    Raises:
        ValueError: Names the argument, its value and the fix.
    """
    check_training_arguments(args)
    if args.num_validation_samples < 2:
        raise ValueError(f"--num_validation_samples must be at least 2, got {args.num_validation_samples}.")
    if not 1 <= args.num_inference_steps <= args.num_train_timesteps:
        raise ValueError(
            f"--num_inference_steps must be from 1 to {args.num_train_timesteps}, got {args.num_inference_steps}."
        )


def build_schedulers(args: argparse.Namespace, clip_sample: bool) -> tuple[DDPMScheduler, DDIMScheduler]:
    r"""
    Args:
        args (`argparse.Namespace`): Of a parser with [`add_denoising_arguments`].
        clip_sample (`bool`): Whether samples are confined to [-1, 1]: frames are, motion codes are not.

    Returns:
        `tuple[DDPMScheduler, DDIMScheduler]`: The schedule for training, and the same for sampling.
    """
    noise_scheduler = DDPMScheduler(
        num_train_timesteps=args.num_train_timesteps,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule=args.beta_schedule,
        prediction_type=args.prediction_type,
        clip_sample=clip_sample,
    )
    # Sampling begins at the last timestep, or it would start from noise that is not quite pure. But where that is pure
    # (alpha_bar = 2e-9) an error of the predicted noise would move unclipped samples 20,000 times as far.
    is_blind = (args.prediction_type, args.beta_schedule, clip_sample) == ("epsilon", "squaredcos_cap_v2", False)
    spacing = "leading" if is_blind else "trailing"
    return noise_scheduler, DDIMScheduler.from_config(noise_scheduler.config, timestep_spacing=spacing)


def train_denoiser(
    accelerator: Accelerator,
    args: argparse.Namespace,
    name: str,
    model: torch.nn.Module,
    noise_scheduler: DDPMScheduler,
    dataset: Dataset,
    prepare_batch: Callable[[torch.nn.Module, Batch], tuple[torch.Tensor, Batch]],
    publish: Callable[[torch.nn.Module, int], None],
) -> None:
    r"""
    Trains a diffusion model from its data to its publication.

    Args:
        accelerator ([`Accelerator`]): Of the run.
        args (`argparse.Namespace`): Of a parser with [`add_denoising_arguments`].
        name (`str`): The run's name.
        model (`torch.nn.Module`): The network.
        noise_scheduler ([`DDPMScheduler`]): The schedule for training.
        dataset (`Dataset`): What [`~training.run.TrainingRun.dataloader`] takes; its items tell their "position".
        prepare_batch (`Callable`): (network, batch) -> clean samples (B, ...) and the network's conditions.
        publish (`Callable`): (network, step) -> nothing: measures the network and saves it for its users. On the
            main process only.

    Raises:
        ValueError: Where `--gradient_checkpointing` asks for what the network does not support.
    """
    if args.gradient_checkpointing:
        if not model._supports_gradient_checkpointing:
            raise ValueError(
                f"--gradient_checkpointing is nothing that {type(model).__name__} supports: leave it out."
            )
        model.enable_gradient_checkpointing()
    repository = hub_repository(accelerator, args)
    # What a checkpoint holds: the network, its optimiser, the schedule, the moving average, the random states.
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=args.adam_weight_decay)
    lr_scheduler = build_lr_scheduler(optimizer, args, accelerator.num_processes)
    model, optimizer, lr_scheduler = accelerator.prepare(model, optimizer, lr_scheduler)
    run = TrainingRun(accelerator, args, model, name)
    num_timesteps = noise_scheduler.config.num_train_timesteps

    for batch in run.dataloader(dataset):
        with accelerator.accumulate(model):
            sample, conditions = prepare_batch(run.model, batch)
            noise, timesteps = draw_noise(args.seed, batch["position"], sample.shape[1:], num_timesteps)
            noise, timesteps = noise.to(sample.device), timesteps.to(sample.device)
            loss = denoising_loss(model, noise_scheduler, sample, noise, timesteps, conditions, args.snr_gamma)
            run.record({"loss": loss})
            accelerator.backward(loss)
            run.update((model, optimizer, lr_scheduler))
        if not accelerator.sync_gradients:
            continue
        run.finish_step(lr=lr_scheduler.get_last_lr()[0])
        if accelerator.is_main_process and (run.is_validation_due or run.is_checkpoint_due):
            with run.published_weights() as published:
                publish(published, run.step)
        if run.is_checkpoint_due:
            run.save()  # last: a run that is resumed from it has published what led to it
    run.close()
    if repository is not None:
        upload_model(args, repository)
