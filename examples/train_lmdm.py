#!/usr/bin/env python
"""
Stage 2: trains the Latent Motion Diffusion Model (MotionUNet1DModel) on motion codes.

    accelerate launch examples/train_lmdm.py --pretrained_model_name_or_path animator --motion_codes_dir codes \\
        --output_dir leo --use_ema

The default is cLMDM with Linear Motion Condition and the paper's settings (LEO Eq. 4, Sec. 4); the output folder is a
LEOPipeline that turns an image into a video. --condition none is LMDM without it, a LEOPipeline for unconditional
video; --condition start_end is the transition model, which `leo-diffusers assemble` adds to a LEOPipeline.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler

from leo_diffusers import LEOPipeline, LIAModel, LIAPipeline, MotionUNet1DModel, video_io
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.motion_codes import MotionCodes, MotionSequences
from leo_diffusers.model_card import GENERATE_USAGE, TRANSITION_USAGE, UNCONDITIONAL_USAGE
from leo_diffusers.pipelines.denoising import denoise
from leo_diffusers.training.arguments import add_training_arguments, build_accelerator
from leo_diffusers.training.checkpoints import save_atomically
from leo_diffusers.training.curves import draw_motion
from leo_diffusers.training.denoising import (
    VALIDATION_SEED,
    add_denoising_arguments,
    build_schedulers,
    check_denoising_arguments,
    train_denoiser,
)
from leo_diffusers.training.publishing import describe_clips, write_training_card
from leo_diffusers.training.validation import describe, log_validation, motion_statistics, write_clip, write_grid


USAGE = {"none": UNCONDITIONAL_USAGE, "start": GENERATE_USAGE, "start_end": TRANSITION_USAGE}
TAGS = {"none": ["unconditional-video-generation"], "start": ["image-to-video"], "start_end": []}
GRID_COLUMNS = 8  # frames of a validation picture

# ------------------------------------------------------------------------------------------------------------- parse


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="train_lmdm.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_training_arguments(parser, learning_rate=1e-4, train_batch_size=128, max_train_steps=100_000, ema_decay=0.9999)
    add_denoising_arguments(parser)
    add = parser.add_argument
    add(
        "--condition",
        choices=("none", "start", "start_end"),
        default="start",
        help="LMDM, cLMDM with Linear Motion Condition, or transition model (default: %(default)s)",
    )
    add("--sequence_length", type=int, default=64, help="frames per sequence (default: %(default)s)")
    add("--block_out_channels", type=int, nargs="+", default=(128, 256, 384, 512), help="default: %(default)s")
    add("--layers_per_block", type=int, default=2, help="default: %(default)s")
    add("--attention_levels", type=int, nargs="*", default=(2, 3), help="default: %(default)s")
    add("--num_attention_heads", type=int, default=4, help="default: %(default)s")
    add("--dropout", type=float, default=0.0, help="default: %(default)s")
    add("--validation_image", type=Path, default=None, help="start frame of a validation video")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    check_denoising_arguments(args)
    if args.validation_image is not None and args.condition != "start":
        raise ValueError(f"--validation_image needs --condition start: a video cannot begin with {args.condition!r}.")
    if args.validation_image is not None and not args.validation_image.is_file():
        raise FileNotFoundError(f"There is no image {args.validation_image} for --validation_image.")


# ------------------------------------------------------------------------------------------------------------- build


def build_unet(motion_codes: MotionCodes, args: argparse.Namespace) -> MotionUNet1DModel:
    return MotionUNet1DModel(
        motion_dim=motion_codes.codes.shape[1],
        sequence_length=args.sequence_length,
        block_out_channels=tuple(args.block_out_channels),
        layers_per_block=args.layers_per_block,
        attention_levels=tuple(args.attention_levels),
        num_attention_heads=args.num_attention_heads,
        condition=args.condition,
        motion_mean=tuple(motion_codes.mean.tolist()),
        motion_std=tuple(motion_codes.std.tolist()),
        dropout=args.dropout,
    )


# ---------------------------------------------------------------------------------------------------------- validate


class Validation:
    r"""Draws motion for real start codes, compares its statistics with real motion, renders one of the draws."""

    def __init__(
        self, animator: LIAModel, sequences: MotionSequences, scheduler: DDIMScheduler, args: argparse.Namespace
    ):
        self.animator = animator
        self.scheduler = scheduler
        self.args = args
        # Positions beyond those of any run.
        positions = range(2**40, 2**40 + args.num_validation_samples)
        self.real = torch.stack([sequences[position]["motion_codes"] for position in positions])  # (N, L, M)

    def draw(self, unet: MotionUNet1DModel) -> torch.Tensor:
        real = self.real.to(unet.device)
        conditions = unet.conditions_of(real)
        generator = torch.Generator().manual_seed(VALIDATION_SEED)
        noise = torch.randn(unet.standardize(real).shape, generator=generator).to(unet.device)
        samples = denoise(unet, self.scheduler, noise, conditions, self.args.num_inference_steps, generator)
        return unet.unstandardize(samples, **conditions).cpu()

    def __call__(self, accelerator: Accelerator, unet: MotionUNet1DModel, step: int) -> dict[str, float]:
        codes = self.draw(unet)
        metrics = {f"validation/{name}": value for name, value in motion_statistics(codes, self.real).items()}
        log_validation(accelerator, self.args.output_dir, step, metrics)
        shown = {"a clip's motion": self.real[0], "generated motion, from the same start": codes[0]}
        draw_motion(shown, self.args.output_dir / "validation" / f"motion-{step:07d}.png")
        if self.args.validation_image is not None:
            self.render(accelerator, unet, step)
        return metrics

    def render(self, accelerator: Accelerator, unet: MotionUNet1DModel, step: int) -> None:
        pipeline = LEOPipeline(self.animator, unet, self.scheduler)
        pipeline.set_progress_bar_config(disable=True)
        output = pipeline(
            video_io.read_image(self.args.validation_image),
            num_frames=self.args.sequence_length,
            num_inference_steps=self.args.num_inference_steps,
            generator=torch.Generator().manual_seed(VALIDATION_SEED),
            output_type="pt",
        )
        frames = output.frames[0] * 2 - 1
        columns = torch.linspace(0, len(frames) - 1, GRID_COLUMNS).long()
        write_grid(accelerator, self.args.output_dir, "generated", step, [frames[columns]])
        write_clip(accelerator, self.args.output_dir, "generated", step, frames, frames_per_second=25)


def save_model(
    animator: LIAModel,
    unet: MotionUNet1DModel,
    scheduler: DDIMScheduler,
    metrics: dict[str, float],
    args: argparse.Namespace,
    data: str,
) -> None:
    def save(folder: str) -> None:
        if args.condition == "start_end":
            unet.save_pretrained(f"{folder}/transition_unet")
            scheduler.save_pretrained(f"{folder}/transition_scheduler")
        else:
            LEOPipeline(animator, unet, scheduler).save_pretrained(folder)
        name = args.output_dir.resolve().name
        write_training_card(
            folder,
            build_parser(),
            args,
            title=f"{name}: a Latent Motion Diffusion Model, condition {args.condition}",
            description=(
                "Motion codes of a LIA animator, modelled by diffusion (LEO), trained with leo_diffusers. "
                + ("A clip's motion, and a generated one:" if args.validation_image is None else "A generated video:")
            ),
            data=data,
            sample="motion" if args.validation_image is None else "generated",
            measured=f"Ratios of generated to real motion, 1 is equal: {describe(metrics)}.",
            usage=USAGE[args.condition],
            tags=TAGS[args.condition],
        )

    save_atomically(save, args.output_dir)


# -------------------------------------------------------------------------------------------------------------- main


def main(args: argparse.Namespace) -> None:
    check_arguments(args)
    accelerator = build_accelerator(args)
    animator = LIAPipeline.from_pretrained(args.pretrained_model_name_or_path).animator.requires_grad_(False)
    motion_codes = MotionCodes.load_made_by(animator, args.motion_codes_dir)
    sequences = MotionSequences(motion_codes, args.sequence_length, seed=args.seed)
    unet = build_unet(motion_codes, args)
    noise_scheduler, scheduler = build_schedulers(args, clip_sample=False)  # codes are not confined to [-1, 1]
    lengths = motion_codes.offsets.diff().tolist()
    data = describe_clips(args.motion_codes_dir, lengths, motion_codes.frames_per_second)
    validation = Validation(animator.to(accelerator.device), sequences, scheduler, args)

    def prepare_batch(
        unet: MotionUNet1DModel, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return unet.standardize(batch["motion_codes"]), unet.conditions_of(batch["motion_codes"])

    def publish(unet: MotionUNet1DModel, step: int) -> None:
        save_model(animator, unet, scheduler, validation(accelerator, unet, step), args, data)

    train_denoiser(accelerator, args, "train_lmdm", unet, noise_scheduler, sequences, prepare_batch, publish)


if __name__ == "__main__":
    run_script(main, build_parser())
