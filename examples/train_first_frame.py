#!/usr/bin/env python
"""
The first-frame model, LEO's cDDPM (Sec. 3.3, option 2): trains diffusers' own 2-D U-Net to draw a frame given its
motion code. With the motion prior it makes video from nothing.

    accelerate launch examples/train_first_frame.py --pretrained_model_name_or_path animator \\
        --motion_codes_dir codes --train_data_dir clips --output_dir first-frame --use_ema

`leo-diffusers assemble` adds the output to a LEOPipeline.
"""

import argparse

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch.utils.data import Dataset

from leo_diffusers import LIAModel, LIAPipeline
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.clip_streams import keep_held_out_clips
from leo_diffusers.data.frame_pairs import RandomFrames
from leo_diffusers.data.frame_streams import StreamedFrames
from leo_diffusers.data.motion_codes import MotionCodes
from leo_diffusers.data.video_clips import VideoClip, find_clips, hold_out_frames
from leo_diffusers.model_card import FIRST_FRAME_USAGE
from leo_diffusers.pipelines.denoising import denoise
from leo_diffusers.training.arguments import add_training_arguments, build_accelerator
from leo_diffusers.training.checkpoints import save_atomically
from leo_diffusers.training.data_arguments import add_data_arguments, check_data_arguments, open_stream
from leo_diffusers.training.denoising import (
    VALIDATION_SEED,
    add_denoising_arguments,
    build_schedulers,
    check_denoising_arguments,
    train_denoiser,
)
from leo_diffusers.training.publishing import describe_clips, describe_stream, write_training_card
from leo_diffusers.training.validation import describe, log_validation, write_grid


CHANNELS = {64: (128, 256, 384, 512), 128: (128, 128, 256, 384, 512), 256: (128, 128, 256, 256, 512, 512)}
NORM_GROUPS = 32
GRID_COLUMNS = 8  # frames of a validation picture

# ------------------------------------------------------------------------------------------------------------- parse


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="train_first_frame.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_training_arguments(parser, learning_rate=1e-4, train_batch_size=32, max_train_steps=300_000, ema_decay=0.9999)
    add_denoising_arguments(parser)
    add_data_arguments(parser)
    add = parser.add_argument
    add("--validation_fraction", type=float, default=0.05, help="end of every clip that is held out (%(default)s)")
    add("--resolution", type=int, default=None, help="size of the frames, 64 to 256 (default: the animator's)")
    add("--block_out_channels", type=int, nargs="+", help="per level, each half as large (default: by resolution)")
    add(
        "--patch_size",
        type=int,
        default=1,
        help="draw squares of so many pixels as one: cheaper by its square, for few training hours (%(default)s)",
    )
    add("--layers_per_block", type=int, default=2, help="default: %(default)s")
    add(
        "--attention_size",
        type=int,
        default=16,
        help="levels of more pixels a side go without attention (%(default)s)",
    )
    add("--attention_head_dim", type=int, default=32, help="default: %(default)s")
    add("--dropout", type=float, default=0.0, help="default: %(default)s")
    add(
        "--no_horizontal_flip",
        action="store_true",
        help="do not mirror half of the frames: their codes need not be encoded again",
    )
    add("--cache_gigabytes", type=float, default=4.0, help="decoded clips kept per worker (default: %(default)s)")
    parser.set_defaults(num_validation_samples=16)
    return parser


def check_architecture(resolution: int, args: argparse.Namespace) -> None:
    if args.block_out_channels is None and resolution not in CHANNELS:
        raise ValueError(
            f"--resolution must be one of {list(CHANNELS)}, got {resolution}: for another, give --block_out_channels "
            "too."
        )
    channels = args.block_out_channels or CHANNELS[resolution]
    if any(count < 1 or count % NORM_GROUPS for count in channels):
        raise ValueError(
            f"--block_out_channels must be multiples of {NORM_GROUPS}, the groups of its normalisation, got "
            f"{channels}."
        )
    if args.patch_size < 1:
        raise ValueError(f"--patch_size must be at least 1, got {args.patch_size}.")
    num_halvings = len(channels) - 1
    multiple = args.patch_size * 2**num_halvings
    if resolution < 1 or resolution % multiple:
        raise ValueError(
            f"--resolution must be a multiple of {multiple}, as patches of {args.patch_size} are halved "
            f"{num_halvings} times, got {resolution}."
        )
    if args.attention_size < 0:
        raise ValueError(f"--attention_size must be at least 0, for no attention, got {args.attention_size}.")
    if args.layers_per_block < 1:
        raise ValueError(f"--layers_per_block must be at least 1, got {args.layers_per_block}.")
    if not 1 <= args.attention_head_dim <= min(channels):
        raise ValueError(
            f"--attention_head_dim must be from 1 to {min(channels)}, the fewest channels of a level, got "
            f"{args.attention_head_dim}."
        )


# ------------------------------------------------------------------------------------------------------------- build


def build_unet(motion_codes: MotionCodes, resolution: int, args: argparse.Namespace) -> UNet2DConditionModel:
    channels = tuple(args.block_out_channels or CHANNELS[resolution])
    size = resolution // args.patch_size
    has_attention = [size >> level <= args.attention_size for level in range(len(channels))]
    unet = UNet2DConditionModel(
        sample_size=size,
        in_channels=3 * args.patch_size**2,
        out_channels=3 * args.patch_size**2,
        block_out_channels=channels,
        layers_per_block=args.layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if has else "DownBlock2D" for has in has_attention),
        mid_block_type="UNetMidBlock2D",
        up_block_types=tuple("AttnUpBlock2D" if has else "UpBlock2D" for has in reversed(has_attention)),
        attention_head_dim=args.attention_head_dim,
        norm_num_groups=NORM_GROUPS,
        resnet_time_scale_shift="scale_shift",
        dropout=args.dropout,
        # The motion code is projected and added to the timestep's embedding.
        class_embed_type="projection",
        projection_class_embeddings_input_dim=motion_codes.codes.shape[1],
    )
    standardize_input(unet.class_embedding.linear_1, motion_codes)
    return unet


@torch.no_grad()
def standardize_input(linear: torch.nn.Linear, motion_codes: MotionCodes) -> None:
    r"""Lets a layer begin as if its codes were standardised: the network takes them as the animator gives them."""
    linear.weight /= motion_codes.std
    linear.bias -= linear.weight @ motion_codes.mean


def build_data(
    accelerator: Accelerator, motion_codes: MotionCodes, resolution: int, args: argparse.Namespace
) -> tuple[Dataset, RandomFrames, str]:
    r"""Frames to train on, and to validate on, and what the card says of the data."""
    options = {"horizontal_flip": not args.no_horizontal_flip, "cache_gigabytes": args.cache_gigabytes}
    if args.dataset_name is not None:
        videos = open_stream(args)
        folder = args.output_dir / ".validation_clips"
        held_out = keep_held_out_clips(videos, args.num_validation_samples, args.validation_fraction, folder)
        frames = StreamedFrames(videos, resolution, args.validation_fraction, seed=args.seed, **options)
        held_out_frames = RandomFrames(held_out, resolution, seed=VALIDATION_SEED, **options)
        return frames, held_out_frames, describe_stream(args, videos.num_shards)
    # The main process looks at the clips; the others read what it found.
    with accelerator.main_process_first():
        clips, _ = find_clips(args.train_data_dir, min_size=resolution, cache=args.output_dir / ".clips.json")
    train_clips, validation_clips = hold_out_frames(clips, args.validation_fraction)
    if not validation_clips:
        raise ValueError(f"No clip in {args.train_data_dir} is long enough to hold frames out for validation.")
    extracted = find_codes(train_clips, motion_codes, args)
    frames = RandomFrames(train_clips, resolution, seed=args.seed, motion_codes=extracted, **options)
    lengths, rates = [clip.num_frames for clip in clips], [clip.frames_per_second for clip in clips]
    data = describe_clips(args.train_data_dir, lengths, rates)
    return frames, RandomFrames(validation_clips, resolution, seed=VALIDATION_SEED, **options), data


def find_codes(
    clips: list[VideoClip], motion_codes: MotionCodes, args: argparse.Namespace
) -> list[torch.Tensor] | None:
    r"""The extracted codes (F, M) of each clip, or None where its frames must be encoded: the mirrored, or unknown."""
    codes = dict(zip(motion_codes.clip_names, motion_codes.clips()))
    if not args.no_horizontal_flip or not all(clip.name in codes for clip in clips):
        return None
    return [codes[clip.name] for clip in clips]


def encode_motion(animator: LIAModel, frames: torch.Tensor) -> torch.Tensor:
    r"""Motion codes (B, M) of frames (B, 3, H, W) of any size."""
    size = (animator.config.frame_size,) * 2
    if frames.shape[-2:] != size:
        frames = F.interpolate(frames, size, mode="bicubic", antialias=True).clamp(-1, 1)
    with torch.no_grad():
        return animator.encode_motion(frames).float()


def conditions_of(motion_codes: torch.Tensor) -> dict[str, torch.Tensor | None]:
    r"""What the 2-D U-Net is given beside the noisy frame."""
    return {"encoder_hidden_states": None, "class_labels": motion_codes}


# ---------------------------------------------------------------------------------------------------------- validate


class Validation:
    r"""Draws frames for the codes of held-out ones, shows both, and measures whether the pose is that asked for."""

    def __init__(self, animator: LIAModel, frames: RandomFrames, scheduler: DDIMScheduler, args: argparse.Namespace):
        self.animator = animator
        self.scheduler = scheduler
        self.args = args
        self.real = torch.stack([frames[position]["frame"] for position in range(args.num_validation_samples)])

    def __call__(self, accelerator: Accelerator, unet: UNet2DConditionModel, step: int) -> dict[str, float]:
        codes = encode_motion(self.animator, self.real.to(unet.device))
        generator = torch.Generator().manual_seed(VALIDATION_SEED)
        patches = F.pixel_unshuffle(self.real, self.args.patch_size)
        noise = torch.randn(patches.shape, generator=generator).to(unet.device)
        drawn = denoise(unet, self.scheduler, noise, conditions_of(codes), self.args.num_inference_steps, generator)
        drawn = F.pixel_shuffle(drawn, self.args.patch_size)
        found = encode_motion(self.animator, drawn.clamp(-1, 1))
        spread = codes.std(dim=0).clamp(min=1e-8)
        metrics = {
            # In standard deviations of the codes; against frames of a pose that was not asked for.
            "validation/pose_error": ((found - codes) / spread).abs().mean().item(),
            "validation/other_pose_error": ((found - codes.roll(1, dims=0)) / spread).abs().mean().item(),
        }
        log_validation(accelerator, self.args.output_dir, step, metrics)
        rows = [row for pair in zip(self.real.split(GRID_COLUMNS), drawn.cpu().split(GRID_COLUMNS)) for row in pair]
        complete = [row for row in rows if len(row) == len(rows[0])]
        write_grid(accelerator, self.args.output_dir, "first_frames", step, complete[:4])
        return metrics


def save_model(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    metrics: dict[str, float],
    args: argparse.Namespace,
    data: str,
) -> None:
    resolution = unet.config.sample_size * args.patch_size

    def save(folder: str) -> None:
        unet.save_pretrained(f"{folder}/first_frame_unet")
        scheduler.save_pretrained(f"{folder}/first_frame_scheduler")
        write_training_card(
            folder,
            build_parser(),
            args,
            title=f"{args.output_dir.resolve().name}: a first-frame model at {resolution} pixels",
            description=(
                "Frames given their motion codes, modelled by diffusion (LEO), trained with leo_diffusers. Held-out "
                "frames, and below each row people drawn in their poses:"
            ),
            data=data,
            sample="first_frames",
            measured=(
                "Distance of the pose drawn from the pose asked for, and from another, in standard deviations of the "
                f"codes, for poses of held-out frames: {describe(metrics)}."
            ),
            usage=FIRST_FRAME_USAGE,
            tags=["unconditional-image-generation"],
        )

    save_atomically(save, args.output_dir)


# -------------------------------------------------------------------------------------------------------------- main


def main(args: argparse.Namespace) -> None:
    check_denoising_arguments(args)
    check_data_arguments(args)
    if not 0 < args.validation_fraction < 0.9:
        raise ValueError(f"--validation_fraction must be between 0 and 0.9, got {args.validation_fraction}.")
    accelerator = build_accelerator(args)
    animator = LIAPipeline.from_pretrained(args.pretrained_model_name_or_path).animator.requires_grad_(False)
    motion_codes = MotionCodes.load_made_by(animator, args.motion_codes_dir)
    resolution = animator.config.frame_size if args.resolution is None else args.resolution
    check_architecture(resolution, args)
    frames, validation_frames, data = build_data(accelerator, motion_codes, resolution, args)
    unet = build_unet(motion_codes, resolution, args)
    noise_scheduler, scheduler = build_schedulers(args, clip_sample=True)
    validation = Validation(animator.to(accelerator.device), validation_frames, scheduler, args)

    def prepare_batch(
        unet: UNet2DConditionModel, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
        codes = batch["motion_code"] if "motion_code" in batch else encode_motion(animator, batch["frame"])
        return F.pixel_unshuffle(batch["frame"], args.patch_size), conditions_of(codes)

    def publish(unet: UNet2DConditionModel, step: int) -> None:
        save_model(unet, scheduler, validation(accelerator, unet, step), args, data)

    train_denoiser(accelerator, args, "train_first_frame", unet, noise_scheduler, frames, prepare_batch, publish)


if __name__ == "__main__":
    run_script(main, build_parser())
