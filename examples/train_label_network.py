#!/usr/bin/env python
"""
Trains a small network that reads the labels of frames: keypoints, motion and attributes of the person.

    accelerate launch examples/train_label_network.py --train_data_dir clips --output_dir label-network

Clips need labels beside them, as render_talking_heads.py writes. Frozen, the network is a perceptual loss for
train_lia.py (--perceptual_loss labels) where VGG19 is out of place or out of reach, and evaluate_demo_model.py reads
off generated frames what they show.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.frame_labels import FrameLabels, load_labels
from leo_diffusers.data.frame_pairs import RandomFrames
from leo_diffusers.data.video_clips import find_clips
from leo_diffusers.models.label_network import LabelNetwork
from leo_diffusers.training.arguments import (
    add_training_arguments,
    build_accelerator,
    build_lr_scheduler,
    check_training_arguments,
)
from leo_diffusers.training.checkpoints import save_atomically
from leo_diffusers.training.curves import new_figure, save_figure
from leo_diffusers.training.publishing import describe_clips, hub_repository, upload_model, write_training_card
from leo_diffusers.training.run import TrainingRun
from leo_diffusers.training.validation import describe, log_validation


KEYPOINT_WEIGHT = 20.0  # positions are shares of the frame: their errors are hundredths where labels' are tenths

USAGE = """\
import torch
from leo_diffusers.models.label_network import LabelNetwork

network = LabelNetwork.from_pretrained("{name}").eval()
size = network.config.frame_size
motion, attributes, keypoints = network.read(torch.zeros(1, 3, size, size))  # frames in [-1, 1]"""


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="train_label_network.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_training_arguments(parser, learning_rate=2e-3, train_batch_size=32, max_train_steps=3000, ema_decay=0.99)
    add = parser.add_argument
    add("--train_data_dir", type=Path, default=None, help="folder of videos with labels, searched recursively")
    add("--dataset_name", default=None, help=argparse.SUPPRESS)  # what the other scripts take is refused with a reason
    add("--validation_fraction", type=float, default=0.05, help="share of the clips that is held out (%(default)s)")
    add("--resolution", type=int, default=128, help="height and width of a frame (default: %(default)s)")
    add("--block_out_channels", type=int, nargs="+", default=(32, 64, 96, 128), help="default: %(default)s")
    add("--layers_per_block", type=int, default=2, help="default: %(default)s")
    add("--kernel_size", type=int, default=3, help="of convolutions, odd (default: %(default)s)")
    add("--no_keypoints", action="store_true", help="learn motion and attributes only")
    add("--motion_weight", type=float, default=1.0, help="of a motion against an attribute (default: %(default)s)")
    add("--blur", type=float, default=0.0, help="share of the frames that are softened, by up to 3 (%(default)s)")
    add("--cache_gigabytes", type=float, default=4.0, help="decoded clips kept per worker (default: %(default)s)")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    check_training_arguments(args)
    if args.dataset_name is not None or args.train_data_dir is None:
        raise ValueError("--train_data_dir is needed: labels lie beside clips, a stream (--dataset_name) has none.")
    if not 0 < args.validation_fraction < 0.9:
        raise ValueError(f"--validation_fraction must be between 0 and 0.9, got {args.validation_fraction}.")
    if args.train_batch_size < 2:
        raise ValueError(
            f"--train_batch_size must be at least 2, for batch normalisation, got {args.train_batch_size}."
        )
    if args.motion_weight <= 0:
        raise ValueError(f"--motion_weight must be above 0, got {args.motion_weight}.")
    if not 0 <= args.blur <= 1:
        raise ValueError(f"--blur must be between 0 and 1, got {args.blur}.")
    if args.blur > 0 and num_blurred(args.train_batch_size, args.blur) == 0:
        raise ValueError(
            f"--blur {args.blur} of --train_batch_size {args.train_batch_size} is not one frame: raise one of them."
        )
    if args.gradient_checkpointing:
        raise ValueError("--gradient_checkpointing is nothing that LabelNetwork supports: leave it out.")


def build_network(labels: list[FrameLabels], args: argparse.Namespace) -> LabelNetwork:
    if not labels[0].motion_names + labels[0].attribute_names:
        raise ValueError(f"The labels in {args.train_data_dir} hold neither motion nor attributes to be learned.")
    numbers = torch.cat([all_labels(clip_labels) for clip_labels in labels])
    return LabelNetwork(
        frame_size=args.resolution,
        num_keypoints=0 if args.no_keypoints else labels[0].keypoints.shape[1],
        motion_names=labels[0].motion_names,
        attribute_names=labels[0].attribute_names,
        label_mean=numbers.mean(dim=0).tolist(),
        label_std=numbers.std(dim=0).clamp(min=1e-3).tolist(),
        block_out_channels=list(args.block_out_channels),
        layers_per_block=args.layers_per_block,
        kernel_size=args.kernel_size,
    )


def all_labels(labels: FrameLabels) -> torch.Tensor:
    r"""Motion and attributes of every frame of a clip, (F, P + A)."""
    motion = torch.from_numpy(labels.motion)
    return torch.cat([motion, torch.from_numpy(labels.attributes).expand(len(motion), -1)], dim=1)


def num_blurred(batch_size: int, share: float) -> int:
    r"""How many frames of a batch are softened."""
    return round(share * batch_size)


def soften(frames: torch.Tensor, share: float) -> torch.Tensor:
    r"""Makes so many of the frames smaller by 1 to 3 and large again: what is rendered is softer than what is real."""
    size, count = frames.shape[-1], num_blurred(len(frames), share)
    if count == 0:
        return frames
    smaller = round(size / float(torch.empty(()).uniform_(1, 3)))
    soft = F.interpolate(frames[:count], (smaller, smaller), mode="bilinear", antialias=True)
    return torch.cat([F.interpolate(soft, (size, size), mode="bicubic").clamp(-1, 1), frames[count:]])


def label_losses(
    network: torch.nn.Module, batch: dict[str, torch.Tensor], motion_weight: float
) -> dict[str, torch.Tensor]:
    r"""Smooth L1 of the standardised labels, motion weighted, and L1 of the keypoints."""
    labels, keypoints = network(batch["frame"])
    weights = torch.ones_like(labels[0])
    weights[: batch["motion"].shape[1]] = motion_weight
    errors = F.smooth_l1_loss(labels, batch["labels"], reduction="none").mean(dim=0)
    losses = {"labels": (errors * weights).sum() / weights.sum()}
    if keypoints is not None:
        losses["keypoints"] = F.l1_loss(keypoints, batch["keypoints"])
    return losses


@torch.no_grad()
def validate(
    accelerator: Accelerator, network: LabelNetwork, frames: RandomFrames, step: int, args: argparse.Namespace
) -> dict[str, float]:
    r"""Share of each motion's variance that is explained on people who were not trained on, and errors."""
    items = [frames[position] for position in range(256)]
    batch = {name: torch.stack([item[name] for item in items]) for name in ("frame", "motion", "attributes")}
    found = [network.read(part.to(accelerator.device)) for part in batch["frame"].split(32)]
    motion, attributes = (torch.cat([part[i] for part in found]).cpu() for i in range(2))
    explained = 1 - (motion - batch["motion"]).square().mean(0) / batch["motion"].var(0).clamp(min=1e-8)
    metrics = {f"validation/{name}": value for name, value in zip(network.config.motion_names, explained.tolist())}
    metrics["validation/attribute_error"] = (attributes - batch["attributes"]).abs().mean().item()
    if found[0][2] is not None:
        keypoints = torch.cat([part[2] for part in found]).cpu()
        errors = (keypoints - torch.stack([item["keypoints"] for item in items])).norm(dim=-1)
        metrics["validation/keypoint_pixels"] = errors.mean().item() * network.config.frame_size
    log_validation(accelerator, args.output_dir, step, metrics)
    picture = args.output_dir / "validation" / f"motion-{step:07d}.png"
    draw_readings(dict(zip(network.config.motion_names, zip(batch["motion"].T, motion.T))), picture)
    return metrics


def draw_readings(readings: dict[str, tuple[torch.Tensor, torch.Tensor]], path: Path) -> None:
    r"""True numbers and those that were read, by the motion's name, as points; nothing where matplotlib is missing."""
    columns = min(6, len(readings))
    figure = new_figure(2 * columns, 2 * -(-len(readings) // columns)) if readings else None
    if figure is None:
        return
    axes = figure.subplots(-(-len(readings) // columns), columns, squeeze=False)
    for axis in axes.flat[len(readings) :]:
        axis.remove()
    for axis, (name, (true, found)) in zip(axes.flat, readings.items()):
        axis.plot(true, found, ".", markersize=3)
        axis.set_title(name)
    figure.supxlabel("true")
    figure.supylabel("read")
    save_figure(figure, path)


def save_model(network: LabelNetwork, metrics: dict[str, float], args: argparse.Namespace, data: str) -> None:
    def save(folder: str) -> None:
        network.save_pretrained(folder)
        write_training_card(
            folder,
            build_parser(),
            args,
            title=f"{args.output_dir.resolve().name}: a network that reads labels off frames",
            description=(
                "Reads keypoints, motion and attributes off a frame; trained with leo_diffusers. Motion of unseen "
                "people, true and as it is read:"
            ),
            data=data,
            sample="motion",
            measured=f"Share of each motion's variance explained on unseen people, and errors: {describe(metrics)}.",
            usage=USAGE,
            tags=["keypoint-detection"],
        )

    save_atomically(save, args.output_dir)


def main(args: argparse.Namespace) -> None:
    check_arguments(args)
    accelerator = build_accelerator(args)
    with accelerator.main_process_first():
        clips, _ = find_clips(args.train_data_dir, min_size=args.resolution, cache=args.output_dir / ".clips.json")
    if len(clips) == 1:
        raise ValueError(f"{args.train_data_dir} holds one clip only: one more is needed, for validation.")
    num_held = min(max(1, round(args.validation_fraction * len(clips))), len(clips) - 1)
    train_clips, held_clips = clips[num_held:], clips[:num_held]
    labels = load_labels(clips)
    options = {"horizontal_flip": False, "cache_gigabytes": args.cache_gigabytes}
    frames = RandomFrames(train_clips, args.resolution, seed=args.seed, labels=labels[num_held:], **options)
    validation_frames = RandomFrames(held_clips, args.resolution, labels=labels[:num_held], **options)
    data = describe_clips(
        args.train_data_dir, [clip.num_frames for clip in clips], [clip.frames_per_second for clip in clips]
    )
    repository = hub_repository(accelerator, args)
    network = build_network(labels[num_held:], args)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.learning_rate)
    lr_scheduler = build_lr_scheduler(optimizer, args, accelerator.num_processes)
    network, optimizer, lr_scheduler = accelerator.prepare(network, optimizer, lr_scheduler)
    run = TrainingRun(accelerator, args, network, "train_label_network")

    for batch in run.dataloader(frames):
        with accelerator.accumulate(network):
            batch["labels"] = run.model.standardize(torch.cat([batch["motion"], batch["attributes"]], dim=1))
            batch["frame"] = soften(batch["frame"], args.blur)
            losses = label_losses(network, batch, args.motion_weight)
            run.record(losses)
            accelerator.backward(losses["labels"] + KEYPOINT_WEIGHT * losses.get("keypoints", 0))
            run.update((network, optimizer, lr_scheduler))
        if not accelerator.sync_gradients:
            continue
        run.finish_step(lr=lr_scheduler.get_last_lr()[0])
        if accelerator.is_main_process and (run.is_validation_due or run.is_checkpoint_due):
            with run.published_weights() as model:
                save_model(model, validate(accelerator, model, validation_frames, run.step, args), args, data)
        if run.is_checkpoint_due:
            run.save()
    run.close()
    if repository is not None:
        upload_model(args, repository)


if __name__ == "__main__":
    run_script(main, build_parser())
