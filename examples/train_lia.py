#!/usr/bin/env python
"""
Stage 1: trains the image animator (LIAModel) on a folder of videos.

    accelerate launch examples/train_lia.py --train_data_dir clips --output_dir animator --resolution 256

Pairs of frames of one clip; the loss is L1 + perceptual + adversarial (LIA Eq. 10). The defaults are the published
recipe (batch 32 on 4 GPUs: --train_batch_size is per process). The output folder is a LIAPipeline.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LRScheduler

from leo_diffusers import FrameDiscriminator, LIAModel, LIAPipeline, video_io
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.frame_pairs import FramePairs
from leo_diffusers.data.video_clips import VideoClip, find_clips, hold_out_frames
from leo_diffusers.model_card import ANIMATE_USAGE
from leo_diffusers.training.arguments import (
    add_training_arguments,
    build_accelerator,
    build_lr_scheduler,
    check_training_arguments,
)
from leo_diffusers.training.checkpoints import save_atomically
from leo_diffusers.training.growing import grow_animator, paper_channels
from leo_diffusers.training.losses import discriminator_loss, reconstruction_losses
from leo_diffusers.training.perceptual_loss import load_perceptual_loss
from leo_diffusers.training.publishing import hub_repository, upload_model, write_training_card
from leo_diffusers.training.run import TrainingRun
from leo_diffusers.training.validation import (
    describe,
    log_validation,
    reconstruction_metrics,
    write_clip,
    write_grid,
)


GRID_COLUMNS = 8  # frames of a validation picture
CLIP_FRAMES = 64  # frames of a validation video

# ------------------------------------------------------------------------------------------------------------- parse


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="train_lia.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_training_arguments(parser, learning_rate=2e-3, train_batch_size=8, max_train_steps=800_000, ema_decay=0.999)
    add = parser.add_argument
    add("--train_data_dir", type=Path, required=True, help="folder of videos, searched recursively")
    add("--validation_fraction", type=float, default=0.05, help="end of every clip that is held out (%(default)s)")
    add("--num_validation_clips", type=int, default=8, help="clips whose ends are looked at (default: %(default)s)")
    add("--resolution", type=int, default=None, help="height and width of a frame (default: the model's; 256 for new)")
    add(
        "--pretrained_model_name_or_path",
        default=None,
        help="LIAPipeline to start from, instead of new weights;\n"
        "it grows to a larger --resolution, and by --warp_source_image",
    )
    add("--latent_dim", type=int, default=512, help="size of the appearance latent (default: %(default)s)")
    add("--motion_dim", type=int, default=20, help="number of motion directions (default: %(default)s)")
    add("--block_out_channels", type=int, nargs="+", help="from --resolution down to 4 pixels (default: the paper's)")
    add("--motion_head_layers", type=int, default=5, help="default: %(default)s")
    add("--motion_basis", choices=("orthogonal", "free", "none"), default="orthogonal", help="default: %(default)s")
    add(
        "--warp_source_image", action="store_true", help="warp the source frame too: the paper's design for 512 pixels"
    )
    add("--align_corners", action="store_true", help="make zero flow exactly the identity")
    add("--perceptual_loss", choices=("vgg19", "ssim", "none"), default="vgg19", help="default: %(default)s")
    add("--vgg19_weights", type=Path, default=None, help="local vgg19-dcbb9e9d.pth (default: download)")
    add("--perceptual_weight", type=float, default=10.0, help="default: %(default)s")
    add("--gan_weight", type=float, default=1.0, help="0 trains without a discriminator (default: %(default)s)")
    add("--adam_beta1", type=float, default=0.0, help="default: %(default)s")
    add("--adam_beta2", type=float, default=0.99, help="default: %(default)s")
    add("--no_horizontal_flip", action="store_true", help="do not mirror half of the pairs")
    add("--color_jitter", type=float, default=0.0, help="largest relative change of colours (default: %(default)s)")
    add("--cache_gigabytes", type=float, default=4.0, help="decoded clips kept per worker (default: %(default)s)")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    check_training_arguments(args)
    # The rest of the architecture can grow.
    fixed = ("latent_dim", "motion_dim", "motion_head_layers", "motion_basis", "align_corners")
    for name in fixed if args.pretrained_model_name_or_path else ():
        if getattr(args, name) != build_parser().get_default(name):
            raise ValueError(
                f"--{name} cannot be changed with --pretrained_model_name_or_path, whose architecture is trained on: "
                "leave it out, or begin with new weights."
            )
    if not 0 < args.validation_fraction < 0.9:
        raise ValueError(f"--validation_fraction must be between 0 and 0.9, got {args.validation_fraction}.")
    if args.num_validation_clips < 1:
        raise ValueError(f"--num_validation_clips must be at least 1, got {args.num_validation_clips}.")
    if not 0 <= args.color_jitter < 1:
        raise ValueError(f"--color_jitter must be at least 0 and below 1, got {args.color_jitter}.")
    if args.gan_weight < 0 or args.perceptual_weight < 0:
        raise ValueError("--gan_weight and --perceptual_weight must not be negative.")
    if args.vgg19_weights is not None and not args.vgg19_weights.is_file():
        raise FileNotFoundError(f"There is no file {args.vgg19_weights} for --vgg19_weights.")


# ------------------------------------------------------------------------------------------------------------- build


def build_animator(args: argparse.Namespace) -> LIAModel:
    if args.pretrained_model_name_or_path:
        return grow_as_asked(LIAPipeline.from_pretrained(args.pretrained_model_name_or_path).animator, args)
    frame_size = 256 if args.resolution is None else args.resolution
    return LIAModel(
        frame_size=frame_size,
        latent_dim=args.latent_dim,
        motion_dim=args.motion_dim,
        block_out_channels=tuple(args.block_out_channels or paper_channels(frame_size)),
        motion_head_layers=args.motion_head_layers,
        motion_basis=args.motion_basis,
        warp_source_image=args.warp_source_image,
        align_corners=args.align_corners,
    )


def grow_as_asked(animator: LIAModel, args: argparse.Namespace) -> LIAModel:
    r"""The model itself, unless the arguments ask for more than it has."""
    config = animator.config
    frame_size = config.frame_size if args.resolution is None else args.resolution
    warp_source_image = args.warp_source_image or config.warp_source_image
    is_same = (frame_size, warp_source_image) == (config.frame_size, config.warp_source_image)
    if is_same and args.block_out_channels in (None, list(config.block_out_channels)):
        return animator
    return grow_animator(animator, frame_size, warp_source_image, args.block_out_channels)


def prepare_for_training(
    accelerator: Accelerator, model: torch.nn.Module, args: argparse.Namespace
) -> tuple[torch.nn.Module, torch.optim.Optimizer, LRScheduler]:
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, betas=(args.adam_beta1, args.adam_beta2))
    return accelerator.prepare(model, optimizer, build_lr_scheduler(optimizer, args, accelerator.num_processes))


def build_networks(accelerator: Accelerator, animator: LIAModel, args: argparse.Namespace) -> tuple["Networks", str]:
    perceptual_loss, perceptual_name = load_perceptual_loss(args.perceptual_loss, args.vgg19_weights)
    if perceptual_loss is not None:
        perceptual_loss = perceptual_loss.to(accelerator.device)
    if args.gradient_checkpointing:
        animator.enable_gradient_checkpointing()
    discriminator = (None, None, None)
    if args.gan_weight > 0:
        discriminator = FrameDiscriminator(animator.config.frame_size, animator.config.block_out_channels)
        discriminator = prepare_for_training(accelerator, discriminator, args)
    networks = Networks(*prepare_for_training(accelerator, animator, args), *discriminator, perceptual_loss)
    return networks, perceptual_name


# -------------------------------------------------------------------------------------------------------------- step


@dataclass
class Networks:
    r"""What a checkpoint holds, beside the moving average and the random states: each network with its optimiser."""

    animator: torch.nn.Module
    optimizer: torch.optim.Optimizer
    lr_scheduler: LRScheduler
    discriminator: torch.nn.Module | None
    discriminator_optimizer: torch.optim.Optimizer | None
    discriminator_lr_scheduler: LRScheduler | None
    perceptual_loss: torch.nn.Module | None

    def trained(self) -> list[tuple[torch.nn.Module, torch.optim.Optimizer, LRScheduler]]:
        r"""The networks that learn, with optimiser and schedule."""
        trained = [(self.animator, self.optimizer, self.lr_scheduler)]
        if self.discriminator is not None:
            trained.append((self.discriminator, self.discriminator_optimizer, self.discriminator_lr_scheduler))
        return trained


def backward_discriminator(
    accelerator: Accelerator, discriminator: torch.nn.Module, frame: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    discriminator.requires_grad_(True)
    # In one pass real and fake frames would share the minibatch statistics and tell themselves apart by them.
    loss = discriminator_loss(discriminator(target), discriminator(frame.detach()))
    accelerator.backward(loss)
    discriminator.requires_grad_(False)
    return loss


def train_step(
    accelerator: Accelerator, networks: Networks, batch: dict[str, torch.Tensor], args: argparse.Namespace
) -> dict[str, torch.Tensor]:
    target = batch["driving_frame"]
    frame = networks.animator(batch["source_frame"], target).sample
    values, critic = {}, None
    if networks.discriminator is not None:
        values["discriminator"] = backward_discriminator(accelerator, networks.discriminator, frame, target)
        critic = accelerator.unwrap_model(networks.discriminator)
    losses = reconstruction_losses(frame, target, networks.perceptual_loss, critic)
    weights = {"l1": 1.0, "perceptual": args.perceptual_weight, "adversarial": args.gan_weight}
    accelerator.backward(sum(weights[name] * loss for name, loss in losses.items()))  # LIA Eq. 10
    # Both after both gradients: in float16 they share one scale, which a step may change.
    for model, optimizer, lr_scheduler in networks.trained():
        if args.max_grad_norm is not None and accelerator.sync_gradients:
            accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
    return losses | values


# ---------------------------------------------------------------------------------------------------------- validate


def read_evenly(clip: VideoClip, frame_size: int, num_frames: int) -> torch.Tensor:
    r"""At most so many frames, spread over the clip, (F, 3, H, W); only they are kept in memory."""
    wanted = set(torch.linspace(0, clip.num_frames - 1, min(clip.num_frames, num_frames)).long().tolist())
    reader = video_io.VideoReader(clip.path, frame_size, clip.start_frame, clip.num_frames)
    return torch.stack([frame for index, frame in enumerate(reader) if index in wanted])


@torch.no_grad()
def validate(
    accelerator: Accelerator, animator: LIAModel, clips: list[VideoClip], step: int, args: argparse.Namespace
) -> dict[str, float]:
    r"""Reconstructs held-out frames from the first of them, and compares with copies of that frame."""
    values, rows = [], []
    for clip in clips:
        frames = read_evenly(clip, animator.config.frame_size, CLIP_FRAMES).to(accelerator.device)
        source = animator.encode_source(frames[:1])
        with accelerator.autocast():
            output = torch.cat(
                [animator.decode(source, animator.encode_motion(part)).sample for part in frames.split(8)]
            )
        # The source itself is left out: its copy would be perfect.
        copied = reconstruction_metrics(frames[:1].expand_as(frames)[1:], frames[1:])
        ours = reconstruction_metrics(output[1:], frames[1:])
        values.append({**ours, **{f"copy_{name}": value for name, value in copied.items()}})
        if len(rows) < 8:
            columns = torch.linspace(0, len(frames) - 1, GRID_COLUMNS).long()
            rows += [frames[columns], output.float()[columns]]
    write_grid(accelerator, args.output_dir, "reconstruction", step, rows)
    clip = torch.cat([frames[:1].expand_as(frames), frames, output.float()], dim=-1)
    write_clip(accelerator, args.output_dir, "reconstruction", step, clip, clips[-1].frames_per_second)
    metrics = {f"validation/{name}": sum(v[name] for v in values) / len(values) for name in values[0]}
    log_validation(accelerator, args.output_dir, step, metrics)
    return metrics


def save_model(animator: LIAModel, metrics: dict[str, float], args: argparse.Namespace, perceptual_name: str) -> None:
    def save(folder: str) -> None:
        LIAPipeline(animator).save_pretrained(folder)
        write_training_card(
            folder,
            build_parser(),
            args,
            title=f"{args.output_dir.resolve().name}: a LIA animator at {animator.config.frame_size} pixels",
            description=(f"An image animator (LIA) trained with leo_diffusers, perceptual loss: {perceptual_name}."),
            measured=(
                "Measured on held-out frames (L1 of pixels in [0, 1]; copy: the source frame itself): "
                f"{describe(metrics)}."
            ),
            usage=ANIMATE_USAGE,
            tags=["image-animation"],
        )

    save_atomically(save, args.output_dir)


# -------------------------------------------------------------------------------------------------------------- main


def main(args: argparse.Namespace) -> None:
    check_arguments(args)
    accelerator = build_accelerator(args)
    animator = build_animator(args)
    # The main process looks at the clips; the others read what it found.
    with accelerator.main_process_first():
        clips, _ = find_clips(
            args.train_data_dir,
            min_frames=4,
            min_size=animator.config.frame_size,
            cache=args.output_dir / ".clips.json",
        )
    train_clips, validation_clips = hold_out_frames(clips, args.validation_fraction)
    validation_clips = validation_clips[: args.num_validation_clips]
    if not validation_clips:
        raise ValueError(f"No clip in {args.train_data_dir} is long enough to hold frames out for validation.")
    repository = hub_repository(accelerator, args)
    networks, perceptual_name = build_networks(accelerator, animator, args)
    run = TrainingRun(accelerator, args, networks.animator, "train_lia")
    pairs = FramePairs(
        train_clips,
        animator.config.frame_size,
        horizontal_flip=not args.no_horizontal_flip,
        color_jitter=args.color_jitter,
        seed=args.seed,
        cache_gigabytes=args.cache_gigabytes,
    )

    models = [model for model, _, _ in networks.trained()]
    for batch in run.dataloader(pairs):
        with accelerator.accumulate(*models):
            run.record(train_step(accelerator, networks, batch, args))
        if not accelerator.sync_gradients:
            continue
        run.finish_step(lr=networks.lr_scheduler.get_last_lr()[0])
        if accelerator.is_main_process and (run.is_validation_due or run.is_checkpoint_due):
            with run.published_weights() as model:
                metrics = validate(accelerator, model, validation_clips, run.step, args)
                save_model(model, metrics, args, perceptual_name)
        if run.is_checkpoint_due:
            run.save()  # last: a run that is resumed from it has published what led to it
    run.close()
    if repository is not None:
        upload_model(args, repository)


if __name__ == "__main__":
    run_script(main, build_parser())
