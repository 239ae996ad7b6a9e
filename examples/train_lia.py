#!/usr/bin/env python
"""
Stage 1: trains the image animator (LIAModel) on a folder of videos, or on a stream of them (--dataset_name).

    accelerate launch examples/train_lia.py --train_data_dir clips --output_dir animator --resolution 256

Pairs of frames of one clip; the loss is L1 + perceptual + adversarial (LIA Eq. 10). The defaults are the published
recipe (batch 32 on 4 GPUs: --train_batch_size is per process). The output folder is a LIAPipeline.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from leo_diffusers import FrameDiscriminator, LIAModel, LIAPipeline, video_io
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.clip_streams import keep_held_out_clips
from leo_diffusers.data.frame_labels import FrameLabels, load_labels
from leo_diffusers.data.frame_pairs import FramePairs
from leo_diffusers.data.frame_streams import StreamedPairs
from leo_diffusers.data.video_clips import VideoClip, find_clips, hold_out_frames
from leo_diffusers.model_card import ANIMATE_USAGE
from leo_diffusers.models.lia import LIAModelOutput
from leo_diffusers.training.arguments import (
    add_training_arguments,
    build_accelerator,
    build_lr_scheduler,
    check_training_arguments,
)
from leo_diffusers.training.checkpoints import save_atomically
from leo_diffusers.training.data_arguments import add_data_arguments, check_data_arguments, open_stream
from leo_diffusers.training.growing import grow_animator, paper_channels
from leo_diffusers.training.label_losses import keypoint_flow_loss, region_mask
from leo_diffusers.training.losses import discriminator_loss, reconstruction_losses
from leo_diffusers.training.perceptual_loss import load_perceptual_loss
from leo_diffusers.training.publishing import (
    describe_clips,
    describe_stream,
    hub_repository,
    upload_model,
    write_training_card,
)
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
MIN_FRAMES = 4  # of a clip: two to train on and two to validate on

# ------------------------------------------------------------------------------------------------------------- parse


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="train_lia.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_training_arguments(parser, learning_rate=2e-3, train_batch_size=8, max_train_steps=800_000, ema_decay=0.999)
    add_data_arguments(parser)
    add = parser.add_argument
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
    add("--inpaint_rgb", action="store_true", help="let frames also show what fills hidden parts (not in the papers)")
    add("--perceptual_loss", choices=("vgg19", "labels", "ssim", "none"), default="vgg19", help="default: %(default)s")
    add("--vgg19_weights", type=Path, default=None, help="local vgg19-dcbb9e9d.pth (default: download)")
    add("--label_network", type=Path, default=None, help="folder of train_label_network.py, for the loss of labels")
    add("--perceptual_weight", type=float, default=10.0, help="default: %(default)s")
    add("--gan_weight", type=float, default=1.0, help="0 trains without a discriminator (default: %(default)s)")
    add("--adam_beta1", type=float, default=0.0, help="default: %(default)s")
    add("--adam_beta2", type=float, default=0.99, help="default: %(default)s")
    add("--no_horizontal_flip", action="store_true", help="do not mirror half of the pairs")
    add("--color_jitter", type=float, default=0.0, help="largest relative change of colours (default: %(default)s)")
    add("--cache_gigabytes", type=float, default=4.0, help="decoded clips kept per worker (default: %(default)s)")
    add_label_arguments(parser)
    return parser


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    r"""Supervision that the papers do not have, by labels beside the clips (render_talking_heads.py writes them)."""
    add = parser.add_argument_group("supervision by labels (beyond the papers)").add_argument
    add("--keypoint_weight", type=float, default=0.0, help="pull the flow to the keypoints' (default: %(default)s)")
    add("--keypoint_steps", type=int, default=5000, help="steps over which that fades out (default: %(default)s)")
    add(
        "--motion_weight",
        type=float,
        default=0.0,
        help="read the labelled motion off the motion code, linearly (default: %(default)s)",
    )
    add("--region_weight", type=float, default=1.0, help="weight of L1 within --regions (default: %(default)s)")
    add(
        "--regions",
        nargs="+",
        default=["mouth", "left_eye", "right_eye"],
        help="groups of keypoints (default: %(default)s)",
    )
    add(
        "--cross_identity",
        type=float,
        default=0.0,
        help="share of the pairs that another person drives, in the same motion (default: %(default)s)",
    )


def needs_labels(args: argparse.Namespace) -> bool:
    r"""Whether anything asked for is learned from labels."""
    return args.region_weight != 1 or max(args.keypoint_weight, args.motion_weight, args.cross_identity) > 0


def check_arguments(args: argparse.Namespace) -> None:
    check_training_arguments(args)
    check_data_arguments(args)
    # The rest of the architecture can grow.
    fixed = ("latent_dim", "motion_dim", "motion_head_layers", "motion_basis", "align_corners", "inpaint_rgb")
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
    check_label_arguments(args)
    if args.vgg19_weights is not None and args.perceptual_loss != "vgg19":
        raise ValueError(f"--vgg19_weights has no effect with --perceptual_loss {args.perceptual_loss}: leave it out.")
    if args.vgg19_weights is not None and not args.vgg19_weights.is_file():
        raise FileNotFoundError(f"There is no file {args.vgg19_weights} for --vgg19_weights.")


def check_label_arguments(args: argparse.Namespace) -> None:
    if min(args.keypoint_weight, args.motion_weight, args.region_weight) < 0 or args.keypoint_steps < 1:
        raise ValueError(
            "--keypoint_weight, --motion_weight and --region_weight must not be negative, nor may --keypoint_steps be "
            f"below 1, got {args.keypoint_weight}, {args.motion_weight}, {args.region_weight} and "
            f"{args.keypoint_steps}."
        )
    if not 0 <= args.cross_identity <= 1:
        raise ValueError(f"--cross_identity must be between 0 and 1, got {args.cross_identity}.")
    if (args.perceptual_loss == "labels") != (args.label_network is not None):
        raise ValueError("--perceptual_loss labels and --label_network go together: give both or neither.")
    if args.label_network is not None and not args.label_network.is_dir():
        raise FileNotFoundError(f"There is no folder {args.label_network} for --label_network.")
    if args.keypoint_weight == 0 and args.keypoint_steps != build_parser().get_default("keypoint_steps"):
        raise ValueError("--keypoint_steps has no effect at --keypoint_weight 0: raise that too.")
    if args.region_weight == 1 and args.regions != build_parser().get_default("regions"):
        raise ValueError("--regions has no effect at --region_weight 1: raise that too.")
    if needs_labels(args) and args.dataset_name is not None:
        raise ValueError("Supervision by labels needs --train_data_dir: a stream (--dataset_name) brings none along.")
    if needs_labels(args) and not args.no_horizontal_flip:
        raise ValueError("Supervision by labels needs --no_horizontal_flip: labels of mirrored frames are unknown.")


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
        inpaint_rgb=args.inpaint_rgb,
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


def build_data(
    accelerator: Accelerator, frame_size: int, args: argparse.Namespace
) -> tuple[Dataset, list[VideoClip], list[FrameLabels] | None, str]:
    r"""Pairs to train on, clips to validate on, labels where they are needed, and what the card says of the data."""
    options = {
        "horizontal_flip": not args.no_horizontal_flip,
        "color_jitter": args.color_jitter,
        "seed": args.seed,
        "cache_gigabytes": args.cache_gigabytes,
    }
    if args.dataset_name is not None:
        videos = open_stream(args)
        folder = args.output_dir / ".validation_clips"
        clips = keep_held_out_clips(
            videos, args.num_validation_clips, args.validation_fraction, folder, min_frames=MIN_FRAMES
        )
        pairs = StreamedPairs(videos, frame_size, args.validation_fraction, min_frames=MIN_FRAMES, **options)
        return pairs, clips, None, describe_stream(args, videos.num_shards)
    # The main process looks at the clips; the others read what it found.
    with accelerator.main_process_first():
        clips, _ = find_clips(
            args.train_data_dir, min_frames=MIN_FRAMES, min_size=frame_size, cache=args.output_dir / ".clips.json"
        )
    train_clips, validation_clips = hold_out_frames(clips, args.validation_fraction)
    if not validation_clips:
        raise ValueError(f"No clip in {args.train_data_dir} is long enough to hold frames out for validation.")
    labels = load_labels(train_clips) if needs_labels(args) else None
    pairs = FramePairs(train_clips, frame_size, labels=labels, cross_identity=args.cross_identity, **options)
    lengths, rates = [clip.num_frames for clip in clips], [clip.frames_per_second for clip in clips]
    data = describe_clips(args.train_data_dir, lengths, rates)
    return pairs, validation_clips[: args.num_validation_clips], labels, data


def prepare_for_training(
    accelerator: Accelerator, model: torch.nn.Module, args: argparse.Namespace
) -> tuple[torch.nn.Module, torch.optim.Optimizer, LRScheduler]:
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, betas=(args.adam_beta1, args.adam_beta2))
    return accelerator.prepare(model, optimizer, build_lr_scheduler(optimizer, args, accelerator.num_processes))


def build_networks(
    accelerator: Accelerator, animator: LIAModel, labels: list[FrameLabels] | None, args: argparse.Namespace
) -> tuple["Networks", str]:
    perceptual_loss, perceptual_name = load_perceptual_loss(
        args.perceptual_loss, args.vgg19_weights, args.label_network
    )
    if perceptual_loss is not None:
        perceptual_loss = perceptual_loss.to(accelerator.device)
    if args.gradient_checkpointing:
        animator.enable_gradient_checkpointing()
    trained = {"animator": prepare_for_training(accelerator, animator, args)}
    if args.gan_weight > 0:
        discriminator = FrameDiscriminator(animator.config.frame_size, animator.config.block_out_channels)
        trained["discriminator"] = prepare_for_training(accelerator, discriminator, args)
    supervision = None
    if labels is not None:
        supervision = Supervision.of(labels, animator.config.align_corners, args)
        if args.motion_weight > 0:
            reader = torch.nn.Linear(animator.config.motion_dim, len(labels[0].motion_names))
            trained["motion_reader"] = prepare_for_training(accelerator, reader, args)
    return Networks(trained, perceptual_loss, supervision), perceptual_name


@dataclass
class Supervision:
    r"""What the losses of labels need to know of the data and of the animator."""

    regions: list[list[int]]
    motion_mean: torch.Tensor
    motion_std: torch.Tensor
    align_corners: bool

    @classmethod
    def of(cls, labels: list[FrameLabels], align_corners: bool, args: argparse.Namespace) -> "Supervision":
        groups = labels[0].keypoint_groups
        for name in args.regions if args.region_weight != 1 else ():
            if name not in groups:
                raise ValueError(f"--regions {name} is none of the labels' groups: {', '.join(groups)}.")
            if len(groups[name]) < 2:
                raise ValueError(
                    f"--regions {name} has no extent, as it is {len(groups[name])} keypoint: leave it out."
                )
        for name, count in (("keypoint", labels[0].keypoints.shape[1]), ("motion", len(labels[0].motion_names))):
            if getattr(args, f"{name}_weight") > 0 and count == 0:
                raise ValueError(f"--{name}_weight has no effect: the labels hold no {name}.")
        motion = torch.cat([torch.from_numpy(clip_labels.motion) for clip_labels in labels])
        regions = [groups[name] for name in args.regions] if args.region_weight != 1 else []
        return cls(regions, motion.mean(dim=0), motion.std(dim=0).clamp(min=1e-6), align_corners)

    def standardize(self, motion: torch.Tensor) -> torch.Tensor:
        r"""Labelled motion (B, P) -> of zero mean and unit spread."""
        return (motion - self.motion_mean.to(motion)) / self.motion_std.to(motion)


# -------------------------------------------------------------------------------------------------------------- step


@dataclass
class Networks:
    r"""Each network that learns, with its optimiser and schedule, and what judges them."""

    trained: dict[str, tuple[torch.nn.Module, torch.optim.Optimizer, LRScheduler]]
    perceptual_loss: torch.nn.Module | None
    supervision: Supervision | None

    def __getitem__(self, name: str) -> torch.nn.Module | None:
        r"""A network that learns, None where it is not wanted."""
        return self.trained[name][0] if name in self.trained else None


def backward_discriminator(
    accelerator: Accelerator, discriminator: torch.nn.Module, frame: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    discriminator.requires_grad_(True)
    # In one pass real and fake frames would share the minibatch statistics and tell themselves apart by them.
    loss = discriminator_loss(discriminator(target), discriminator(frame.detach()))
    accelerator.backward(loss)
    discriminator.requires_grad_(False)
    return loss


def label_losses(
    networks: Networks, output: LIAModelOutput, batch: dict[str, torch.Tensor], step: int, args: argparse.Namespace
) -> dict[str, torch.Tensor]:
    r"""What labels add to the loss, already weighted."""
    losses = {}
    keypoint_weight = args.keypoint_weight * max(0.0, 1 - step / args.keypoint_steps)
    if keypoint_weight > 0:
        keypoints = batch["source_keypoints"], batch["target_keypoints"]
        loss = keypoint_flow_loss(output.flows, *keypoints, networks.supervision.align_corners)
        losses["keypoints"] = keypoint_weight * loss
    if args.motion_weight > 0:
        motion = networks.supervision.standardize(batch["target_motion"])
        found = networks["motion_reader"](output.motion_code).float()
        losses["motion"] = args.motion_weight * F.mse_loss(found, motion)
    return losses


def train_step(run: TrainingRun, networks: Networks, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    accelerator, args = run.accelerator, run.args
    target = batch["target_frame"]
    output = networks["animator"](batch["source_frame"], batch["driving_frame"])
    frame = output.sample
    values, critic, weight = {}, None, None
    if networks["discriminator"] is not None:
        values["discriminator"] = backward_discriminator(accelerator, networks["discriminator"], frame, target)
        critic = accelerator.unwrap_model(networks["discriminator"])
    if args.region_weight != 1:
        mask = region_mask(batch["target_keypoints"], networks.supervision.regions, target.shape[-1])
        weight = 1 + (args.region_weight - 1) * mask
    losses = reconstruction_losses(frame, target, networks.perceptual_loss, critic, weight)
    weights = {"l1": 1.0, "perceptual": args.perceptual_weight, "adversarial": args.gan_weight}
    total = sum(weights[name] * loss for name, loss in losses.items())  # LIA Eq. 10
    extra = label_losses(networks, output, batch, run.step, args)
    accelerator.backward(sum(extra.values(), total))
    # All after all gradients: in float16 they share one scale, which a step may change.
    run.update(*networks.trained.values())
    return losses | values | extra


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


def save_model(
    animator: LIAModel, metrics: dict[str, float], args: argparse.Namespace, perceptual_name: str, data: str
) -> None:
    def save(folder: str) -> None:
        LIAPipeline(animator).save_pretrained(folder)
        write_training_card(
            folder,
            build_parser(),
            args,
            title=f"{args.output_dir.resolve().name}: a LIA animator at {animator.config.frame_size} pixels",
            description=(
                f"An image animator (LIA) trained with leo_diffusers, perceptual loss: {perceptual_name}. Held-out "
                "frames, and below each row what it makes of its first frame and their motion:"
            ),
            data=data,
            sample="reconstruction",
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
    pairs, validation_clips, labels, data = build_data(accelerator, animator.config.frame_size, args)
    repository = hub_repository(accelerator, args)
    networks, perceptual_name = build_networks(accelerator, animator, labels, args)
    run = TrainingRun(accelerator, args, networks["animator"], "train_lia")

    models = [model for model, _, _ in networks.trained.values()]
    for batch in run.dataloader(pairs):
        with accelerator.accumulate(*models):
            run.record(train_step(run, networks, batch))
        if not accelerator.sync_gradients:
            continue
        run.finish_step(lr=networks.trained["animator"][2].get_last_lr()[0])
        if accelerator.is_main_process and (run.is_validation_due or run.is_checkpoint_due):
            with run.published_weights() as model:
                metrics = validate(accelerator, model, validation_clips, run.step, args)
                save_model(model, metrics, args, perceptual_name, data)
        if run.is_checkpoint_due:
            run.save()  # last: a run that is resumed from it has published what led to it
    run.close()
    if repository is not None:
        upload_model(args, repository)


if __name__ == "__main__":
    run_script(main, build_parser())
