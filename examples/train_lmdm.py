#!/usr/bin/env python
"""
Stage 2: trains the Latent Motion Diffusion Model (MotionUNet1DModel) on motion codes.

    accelerate launch examples/train_lmdm.py --pretrained_model_name_or_path animator --motion_codes_dir codes \\
        --output_dir leo --use_ema

The default is cLMDM with Linear Motion Condition and the paper's settings (LEO Eq. 4, Sec. 4). With
--condition start the output folder is a LEOPipeline that turns an image into a video.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, DDPMScheduler

from leo_diffusers import LEOPipeline, LIAModel, LIAPipeline, MotionUNet1DModel, video_io
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.motion_codes import MotionCodes, MotionSequences, hash_animator
from leo_diffusers.model_card import GENERATE_USAGE, MOTION_UNET_USAGE, write_model_card
from leo_diffusers.pipelines.motion_diffusion import denoise
from leo_diffusers.training.arguments import (
    add_training_arguments,
    build_accelerator,
    build_lr_scheduler,
    check_training_arguments,
)
from leo_diffusers.training.checkpoints import save_atomically
from leo_diffusers.training.losses import motion_denoising_loss, sample_generators
from leo_diffusers.training.publishing import command_line, hub_repository, upload_model
from leo_diffusers.training.run import TrainingRun
from leo_diffusers.training.validation import log_validation, motion_statistics, write_clip, write_grid


VALIDATION_SEED = 0  # the same draws at each validation, so that steps can be compared
GRID_COLUMNS = 8  # frames of a validation picture

# ------------------------------------------------------------------------------------------------------------- parse


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="train_lmdm.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_training_arguments(parser, learning_rate=1e-4, train_batch_size=128, max_train_steps=100_000, ema_decay=0.9999)
    add = parser.add_argument
    add("--pretrained_model_name_or_path", required=True, help="LIAPipeline: the animator that made the codes")
    add("--motion_codes_dir", type=Path, required=True, help="output folder of extract_motion_codes.py")
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
        help="what the network predicts (default: %(default)s, the paper's; v_prediction keeps the spread of codes)",
    )
    add("--snr_gamma", type=float, default=None, help="Min-SNR weighting of timesteps (default: none)")
    add("--adam_weight_decay", type=float, default=0.0, help="default: %(default)s")
    add("--validation_image", type=Path, default=None, help="start frame of a validation video")
    add("--num_validation_samples", type=int, default=64, help="sequences whose statistics are logged (%(default)s)")
    add("--num_inference_steps", type=int, default=50, help="of validation (default: %(default)s)")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    check_training_arguments(args)
    if args.num_validation_samples < 2:
        raise ValueError(f"--num_validation_samples must be at least 2, got {args.num_validation_samples}.")
    if not 1 <= args.num_inference_steps <= args.num_train_timesteps:
        raise ValueError(
            f"--num_inference_steps must be from 1 to {args.num_train_timesteps}, got {args.num_inference_steps}."
        )
    if args.validation_image is not None and args.condition != "start":
        raise ValueError(f"--validation_image needs --condition start: a video cannot begin with {args.condition!r}.")
    if args.validation_image is not None and not args.validation_image.is_file():
        raise FileNotFoundError(f"There is no image {args.validation_image} for --validation_image.")


# ------------------------------------------------------------------------------------------------------------- build


def load_codes(animator: LIAModel, args: argparse.Namespace) -> MotionCodes:
    motion_codes = MotionCodes.load(args.motion_codes_dir)
    if motion_codes.animator_hash != hash_animator(animator):
        raise ValueError(
            f"The codes in {args.motion_codes_dir} were made by another animator than "
            f"{args.pretrained_model_name_or_path}: extract them again."
        )
    return motion_codes


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


def build_noise_scheduler(args: argparse.Namespace) -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=args.num_train_timesteps,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule=args.beta_schedule,
        prediction_type=args.prediction_type,
        clip_sample=False,  # codes are not confined to [-1, 1]
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
) -> None:
    def save(folder: str) -> None:
        if args.condition == "start":
            LEOPipeline(animator, unet, scheduler).save_pretrained(folder)
        else:
            unet.save_pretrained(f"{folder}/motion_unet")
            scheduler.save_pretrained(f"{folder}/scheduler")
        measured = ", ".join(f"{name.split('/')[-1]} {value:.3g}" for name, value in metrics.items())
        defaults = vars(
            build_parser().parse_args(
                ["--pretrained_model_name_or_path", ".", "--motion_codes_dir", ".", "--output_dir", "."]
            )
        )
        name = args.output_dir.resolve().name
        usage = GENERATE_USAGE if args.condition == "start" else MOTION_UNET_USAGE
        write_model_card(
            folder,
            title=f"{name}: a Latent Motion Diffusion Model, condition {args.condition}",
            description=(
                "Motion codes of a LIA animator, modelled by diffusion (LEO), trained with leo_diffusers.\n\n"
                f"```bash\n{command_line('train_lmdm.py', args, defaults)}\n```\n\n"
                f"Ratios of generated to real motion, 1 is equal: {measured}."
            ),
            usage=usage.format(name=args.hub_model_id or name),
            license="other",
            tags=["image-to-video"],
        )

    save_atomically(save, args.output_dir)


# -------------------------------------------------------------------------------------------------------------- main


def main(args: argparse.Namespace) -> None:
    check_arguments(args)
    accelerator = build_accelerator(args)
    animator = LIAPipeline.from_pretrained(args.pretrained_model_name_or_path).animator.requires_grad_(False)
    motion_codes = load_codes(animator, args)
    sequences = MotionSequences(motion_codes, args.sequence_length, seed=args.seed)
    unet = build_unet(motion_codes, args)
    noise_scheduler = build_noise_scheduler(args)
    # The last timestep is the first that sampling visits, or it would start from noise that is not quite pure.
    scheduler = DDIMScheduler.from_config(noise_scheduler.config, timestep_spacing="trailing")
    validation = Validation(animator.to(accelerator.device), sequences, scheduler, args)
    if args.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    repository = hub_repository(accelerator, args)

    # What a checkpoint holds: the network, its optimiser, the schedule, the moving average, the random states.
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.learning_rate, weight_decay=args.adam_weight_decay)
    lr_scheduler = build_lr_scheduler(optimizer, args, accelerator.num_processes)
    unet, optimizer, lr_scheduler = accelerator.prepare(unet, optimizer, lr_scheduler)
    run = TrainingRun(accelerator, args, unet, "train_lmdm")

    for batch in run.dataloader(sequences):
        with accelerator.accumulate(unet):
            generators = sample_generators(args.seed, batch["position"])
            loss = motion_denoising_loss(unet, noise_scheduler, batch["motion_codes"], generators, args.snr_gamma)
            run.record({"loss": loss})
            accelerator.backward(loss)
            if args.max_grad_norm is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(unet.parameters(), args.max_grad_norm)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
        if not accelerator.sync_gradients:
            continue
        run.finish_step(lr=lr_scheduler.get_last_lr()[0])
        if accelerator.is_main_process and (run.is_validation_due or run.is_checkpoint_due):
            with run.published_weights() as model:
                metrics = validation(accelerator, model, run.step)
                save_model(animator, model, scheduler, metrics, args)
        if run.is_checkpoint_due:
            run.save()  # last: a run that is resumed from it has published what led to it
    run.close()
    if repository is not None:
        upload_model(args, repository)


if __name__ == "__main__":
    run_script(main, build_parser())
