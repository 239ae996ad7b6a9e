#!/usr/bin/env python
"""
Renders clips of synthetic talking heads: free of rights and of real faces, and with labels that no real video has.

    python examples/render_talking_heads.py --output_dir clips --num_clips 1000

Beside each .mp4 lies its .labels.safetensors (keypoints, motion, the person's attributes), which train_lia.py can
learn from too. A run that was stopped goes on where it was.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from leo_diffusers import video_io
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.frame_labels import FrameLabels
from leo_diffusers.data.talking_head_labels import label_clip
from leo_diffusers.data.talking_heads import FIRST_HELD_OUT_SEED, FRAME_RATE, render_clip


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="render_talking_heads.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="folder of the clips")
    add("--num_clips", type=int, default=1000, help="each of another person (default: %(default)s)")
    add("--num_frames", type=int, default=96, help="frames per clip, 25 a second (default: %(default)s)")
    add("--size", type=int, default=128, help="height and width in pixels (default: %(default)s)")
    add(
        "--people_per_motion",
        type=int,
        default=1,
        help="clips that show the same motion, which train_lia.py --cross_identity needs (default: %(default)s)",
    )
    add(
        "--first_seed",
        type=int,
        default=0,
        help=f"seed of the first person and motion; from {FIRST_HELD_OUT_SEED} on for evaluation only (%(default)s)",
    )
    add("--num_workers", type=int, default=os.cpu_count(), help="processes (default: one per core, %(default)s)")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    minimum = {"num_clips": 1, "num_frames": 1, "size": 16, "people_per_motion": 1, "first_seed": 0, "num_workers": 1}
    for name, least in minimum.items():
        if getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(args, name)}.")
    if args.size % 2:
        raise ValueError(f"--size must be even, as players of H.264 expect it, got {args.size}.")
    if args.first_seed < FIRST_HELD_OUT_SEED < args.first_seed + args.num_clips:
        raise ValueError(
            f"--num_clips {args.num_clips} from --first_seed {args.first_seed} on would mix people to train on with "
            f"those from seed {FIRST_HELD_OUT_SEED} on, which are for evaluation: render less, or start there."
        )


def write_clip(path: Path, identity_seed: int, motion_seed: int, num_frames: int, size: int) -> None:
    r"""Renders a clip; its labels first, so that a clip is complete once it is there."""
    torch.set_num_threads(1)
    clip = render_clip(identity_seed, motion_seed, num_frames, size)
    label_clip(clip, motion_id=str(motion_seed)).save(FrameLabels.path_of(path))
    with video_io.VideoWriter(path, FRAME_RATE) as writer:
        for frame in clip.frames:
            writer.write(video_io.to_frame(frame))


def check_settings(path: Path, identity_seed: int, motion_seed: int, num_frames: int, size: int) -> None:
    r"""Refuses a clip that `write_clip` would not write: it would go unnoticed among the others."""
    labels = FrameLabels.load(FrameLabels.path_of(path))
    found = labels.motion_id, len(labels.motion), video_io.VideoReader(path).source_height
    if found != (str(motion_seed), num_frames, size):
        raise ValueError(
            f"{path} was rendered with other settings (motion {found[0]}, {found[1]} frames, {found[2]} pixels): "
            "repeat those, or name another --output_dir."
        )
    keypoints = label_clip(render_clip(identity_seed, motion_seed, 1, size)).keypoints[0]
    if keypoints.shape != labels.keypoints[0].shape or abs(keypoints - labels.keypoints[0]).max() > 1e-3:
        raise ValueError(f"{path} was rendered by another version of leo_diffusers: name another --output_dir.")


def main(args: argparse.Namespace) -> None:
    check_arguments(args)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    clips, tasks = [], []
    for index in range(args.num_clips):
        identity_seed = args.first_seed + index
        motion_seed = args.first_seed + index // args.people_per_motion
        path = args.output_dir / f"{identity_seed:07d}.mp4"
        is_rendered = path.is_file() and FrameLabels.path_of(path).is_file()
        (clips if is_rendered else tasks).append((path, identity_seed, motion_seed, args.num_frames, args.size))
    if clips:
        check_settings(*clips[-1])  # the first would not tell --people_per_motion
    others = set(args.output_dir.glob("*.mp4")) - {task[0] for task in clips + tasks}
    if others:
        raise ValueError(
            f"{min(others)} is none of the {args.num_clips} clips that are asked for, and would be trained on too: "
            "delete it, or name another --output_dir."
        )
    with ProcessPoolExecutor(args.num_workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(write_clip, *task) for task in tasks]
        try:
            for future in tqdm(as_completed(futures), total=len(tasks), desc="Rendering clips", unit="clip"):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # or the others would be rendered before the error is told
            raise


if __name__ == "__main__":
    run_script(main, build_parser())
