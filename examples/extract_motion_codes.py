#!/usr/bin/env python
"""
Between the stages: writes the motion codes of a folder of videos, for train_lmdm.py.

    accelerate launch examples/extract_motion_codes.py --pretrained_model_name_or_path animator \\
        --train_data_dir clips --output_dir codes

Clips are split over processes. A run that was stopped goes on where it was.
"""

import argparse
import hashlib
import os
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from leo_diffusers import LIAModel, LIAPipeline, video_io
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.motion_codes import MotionCodes, hash_animator
from leo_diffusers.data.video_clips import VideoClip, find_clips
from leo_diffusers.training.arguments import check_processes


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="extract_motion_codes.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--pretrained_model_name_or_path", required=True, help="LIAPipeline: the animator of stage 1")
    add("--train_data_dir", type=Path, required=True, help="folder of videos, searched recursively")
    add("--output_dir", type=Path, required=True, help="where motion_codes.safetensors and .json are written")
    add("--min_frames", type=int, default=64, help="leave shorter clips out (default: %(default)s)")
    add("--batch_size", type=int, default=16, help="frames that are encoded at a time (default: %(default)s)")
    add("--horizontal_flip", action="store_true", help="also write the codes of the mirrored clips")
    add("--mixed_precision", choices=("no", "fp16", "bf16"), default="no", help="default: %(default)s")
    return parser


@torch.no_grad()
def encode_clip(
    accelerator: Accelerator, animator: LIAModel, clip: VideoClip, batch_size: int, with_mirrored: bool
) -> torch.Tensor:
    r"""Codes of a clip, and of its mirror image, (1 or 2, F, M) on the CPU."""
    codes, batch = [], []

    def encode() -> None:
        frames = torch.stack(batch).to(accelerator.device)
        with accelerator.autocast():
            variants = [frames, frames.flip(-1)] if with_mirrored else [frames]
            batch_codes = animator.encode_motion(torch.cat(variants)).float().cpu()
        codes.append(batch_codes.unflatten(0, (len(variants), -1)))
        batch.clear()

    for frame in video_io.VideoReader(clip.path, animator.config.frame_size):
        batch.append(frame)
        if len(batch) == batch_size:
            encode()
    if batch:
        encode()
    return torch.cat(codes, dim=1)


def save_clip(path: Path, codes: torch.Tensor) -> None:
    partial = path.with_suffix(".partial")
    save_file({"codes": codes.contiguous()}, partial)
    os.replace(partial, path)


def merge(clips: list[VideoClip], folder: Path, animator_hash: str) -> MotionCodes:
    codes, names, rates = [], [], []
    for index, clip in enumerate(clips):
        variants = load_file(folder / f"{index:06d}.safetensors")["codes"]
        for clip_codes, suffix in zip(variants, ("", " (mirrored)")):
            codes.append(clip_codes)
            names.append(clip.name + suffix)
            rates.append(clip.frames_per_second)
    offsets = torch.tensor([0] + [len(clip_codes) for clip_codes in codes]).cumsum(0)
    return MotionCodes(torch.cat(codes), offsets, names, rates, animator_hash)


def main(args: argparse.Namespace) -> None:
    for name in ("min_frames", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}.")
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    check_processes(accelerator)
    animator = LIAPipeline.from_pretrained(args.pretrained_model_name_or_path).animator.to(accelerator.device)
    animator_hash = hash_animator(animator)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    # The main process looks at the clips; the others read what it found.
    with accelerator.main_process_first():
        clips, _ = find_clips(args.train_data_dir, min_frames=args.min_frames, cache=args.output_dir / ".clips.json")
    # Finished clips lie here until all are; another animator, data set or setting has another folder.
    listing = "\n".join(f"{clip.name} {clip.num_frames}" for clip in clips)
    listing += f"\n{args.horizontal_flip} {args.mixed_precision}"
    folder = args.output_dir / f".clips-{animator_hash}-{hashlib.sha256(listing.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    share = list(enumerate(clips))[accelerator.process_index :: accelerator.num_processes]
    for index, clip in tqdm(share, desc="Clips", unit="clip", disable=not accelerator.is_local_main_process):
        path = folder / f"{index:06d}.safetensors"
        if not path.exists():
            save_clip(path, encode_clip(accelerator, animator, clip, args.batch_size, args.horizontal_flip))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        motion_codes = merge(clips, folder, animator_hash)
        motion_codes.save(args.output_dir)
        shutil.rmtree(folder)
        print(f"Wrote {len(motion_codes.codes)} codes of {len(motion_codes.clip_names)} clips to {args.output_dir}.")
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main, build_parser())
