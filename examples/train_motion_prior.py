#!/usr/bin/env python
"""
The motion prior, LEO's simple DM (Sec. 3.2): trains MotionPriorModel on single motion codes. It gives unconditional
video its start code, and endless video the targets of its transitions.

    accelerate launch examples/train_motion_prior.py --pretrained_model_name_or_path animator \\
        --motion_codes_dir codes --output_dir prior --use_ema

`leo-diffusers assemble` adds the output to a LEOPipeline.
"""

import argparse

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler

from leo_diffusers import LIAPipeline, MotionPriorModel
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.motion_codes import MotionCodes, MotionSequences
from leo_diffusers.model_card import PRIOR_USAGE
from leo_diffusers.pipelines.denoising import denoise
from leo_diffusers.training.arguments import add_training_arguments, build_accelerator
from leo_diffusers.training.checkpoints import save_atomically
from leo_diffusers.training.curves import draw_spread
from leo_diffusers.training.denoising import (
    VALIDATION_SEED,
    add_denoising_arguments,
    build_schedulers,
    check_denoising_arguments,
    train_denoiser,
)
from leo_diffusers.training.publishing import describe_clips, write_training_card
from leo_diffusers.training.validation import code_statistics, describe, log_validation


# ------------------------------------------------------------------------------------------------------------- parse


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="train_motion_prior.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_training_arguments(parser, learning_rate=1e-4, train_batch_size=1024, max_train_steps=50_000, ema_decay=0.9999)
    add_denoising_arguments(parser)
    add = parser.add_argument
    add("--hidden_dim", type=int, default=512, help="size of the hidden features (default: %(default)s)")
    add("--num_layers", type=int, default=4, help="residual layers (default: %(default)s)")
    add("--dropout", type=float, default=0.0, help="default: %(default)s")
    parser.set_defaults(num_validation_samples=1024)
    return parser


# ------------------------------------------------------------------------------------------------------------- build


def build_prior(motion_codes: MotionCodes, args: argparse.Namespace) -> MotionPriorModel:
    return MotionPriorModel(
        motion_dim=motion_codes.codes.shape[1],
        hidden_dim=args.hidden_dim,
        num_layers=args.num_layers,
        motion_mean=tuple(motion_codes.mean.tolist()),
        motion_std=tuple(motion_codes.std.tolist()),
        dropout=args.dropout,
    )


# ---------------------------------------------------------------------------------------------------------- validate


def validate(
    accelerator: Accelerator,
    prior: MotionPriorModel,
    scheduler: DDIMScheduler,
    codes: torch.Tensor,
    step: int,
    args: argparse.Namespace,
) -> dict[str, float]:
    r"""Draws codes and compares their statistics with those of the data, `codes` (N, M)."""
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    noise = torch.randn(args.num_validation_samples, codes.shape[1], generator=generator).to(prior.device)
    samples = denoise(prior, scheduler, noise, {}, args.num_inference_steps, generator)
    samples = prior.unstandardize(samples).cpu()
    statistics = code_statistics(samples, codes)
    metrics = {f"validation/{name}": value for name, value in statistics.items()}
    log_validation(accelerator, args.output_dir, step, metrics)
    picture = args.output_dir / "validation" / f"codes-{step:07d}.png"
    draw_spread({"data": codes, "generated": samples}, picture)
    return metrics


def save_model(
    prior: MotionPriorModel,
    scheduler: DDIMScheduler,
    metrics: dict[str, float],
    args: argparse.Namespace,
    data: str,
) -> None:
    def save(folder: str) -> None:
        prior.save_pretrained(f"{folder}/motion_prior")
        scheduler.save_pretrained(f"{folder}/prior_scheduler")
        write_training_card(
            folder,
            build_parser(),
            args,
            title=f"{args.output_dir.resolve().name}: a motion prior",
            description=(
                "Motion codes of a LIA animator, one at a time, modelled by diffusion (LEO). How they spread, by "
                "motion direction:"
            ),
            data=data,
            sample="codes",
            measured=(
                "Generated against real codes (offset and correlation: 0 is equal, spread: 1 is equal): "
                f"{describe(metrics)}."
            ),
            usage=PRIOR_USAGE,
            tags=["unconditional-video-generation"],
        )

    save_atomically(save, args.output_dir)


# -------------------------------------------------------------------------------------------------------------- main


def main(args: argparse.Namespace) -> None:
    check_denoising_arguments(args)
    accelerator = build_accelerator(args)
    animator = LIAPipeline.from_pretrained(args.pretrained_model_name_or_path).animator
    motion_codes = MotionCodes.load_made_by(animator, args.motion_codes_dir)
    single_codes = MotionSequences(motion_codes, sequence_length=1, seed=args.seed)
    prior = build_prior(motion_codes, args)
    lengths = motion_codes.offsets.diff().tolist()
    data = describe_clips(args.motion_codes_dir, lengths, motion_codes.frames_per_second)
    noise_scheduler, scheduler = build_schedulers(args, clip_sample=False)  # codes are not confined to [-1, 1]

    def prepare_batch(
        prior: MotionPriorModel, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return prior.standardize(batch["motion_codes"][:, 0]), {}

    def publish(prior: MotionPriorModel, step: int) -> None:
        metrics = validate(accelerator, prior, scheduler, motion_codes.codes, step, args)
        save_model(prior, scheduler, metrics, args, data)

    train_denoiser(
        accelerator, args, "train_motion_prior", prior, noise_scheduler, single_codes, prepare_batch, publish
    )


if __name__ == "__main__":
    run_script(main, build_parser())
