#!/usr/bin/env python
"""
Between the stages: writes the motion codes of a folder of videos, or of a stream of them (--dataset_name), for
train_lmdm.py.

    accelerate launch examples/extract_motion_codes.py --pretrained_model_name_or_path animator \\
        --train_data_dir clips --output_dir codes

Clips are split over processes. A run that was stopped goes on where it was.
"""

import argparse
import hashlib
import os
import shutil
from pathlib import Path, PurePosixPath

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from tqdm import tqdm

from leo_diffusers import LIAModel, LIAPipeline
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.clip_streams import StreamedPieces, read_pieces
from leo_diffusers.data.motion_codes import MotionCodes, hash_animator
from leo_diffusers.data.streamed_videos import StreamedVideos
from leo_diffusers.data.video_clips import VideoClip, find_clips
from leo_diffusers.training.arguments import check_processes
from leo_diffusers.training.data_arguments import add_data_arguments, check_data_arguments, open_stream


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="extract_motion_codes.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--pretrained_model_name_or_path", required=True, help="LIAPipeline: the animator of stage 1")
    add_data_arguments(parser)
    add("--output_dir", type=Path, required=True, help="where motion_codes.safetensors and .json are written")
    add("--min_frames", type=int, default=64, help="leave shorter clips out (default: %(default)s)")
    add("--batch_size", type=int, default=16, help="frames that are encoded at a time (default: %(default)s)")
    add("--dataloader_num_workers", type=int, default=0, help="processes that decode a stream (default: %(default)s)")
    add("--horizontal_flip", action="store_true", help="also write the codes of the mirrored clips")
    add("--mixed_precision", choices=("no", "fp16", "bf16"), default="no", help="default: %(default)s")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    check_data_arguments(args)
    for name in ("min_frames", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}.")
    if args.dataset_name is None and args.dataloader_num_workers:
        raise ValueError("--dataloader_num_workers has no effect with --train_data_dir: leave it out.")


@torch.no_grad()
def encode_frames(
    accelerator: Accelerator, animator: LIAModel, frames: torch.Tensor, with_mirrored: bool
) -> torch.Tensor:
    r"""Codes of frames (n, 3, H, W), and of their mirror images, (1 or 2, n, M) on the CPU."""
    frames = frames.to(accelerator.device)
    variants = [frames, frames.flip(-1)] if with_mirrored else [frames]
    with accelerator.autocast():
        codes = animator.encode_motion(torch.cat(variants)).float().cpu()
    return codes.unflatten(0, (len(variants), -1))


def save_clip(path: Path, codes: list[torch.Tensor], name: str, frames_per_second: float) -> None:
    r"""Writes the codes of a clip's pieces, and what the clip is called."""
    partial = path.with_suffix(".partial")
    description = {"name": name, "frames_per_second": repr(frames_per_second)}
    save_file({"codes": torch.cat(codes, dim=1)}, partial, description)
    os.replace(partial, path)


def encode_folder(
    accelerator: Accelerator, animator: LIAModel, clips: list[VideoClip], folder: Path, args: argparse.Namespace
) -> None:
    share = list(enumerate(clips))[accelerator.process_index :: accelerator.num_processes]
    for index, clip in tqdm(share, desc="Clips", unit="clip", disable=not accelerator.is_local_main_process):
        path = folder / f"{index:06d}.safetensors"
        if not path.exists():
            pieces = read_pieces(clip.path, animator.config.frame_size, args.batch_size)
            codes = [encode_frames(accelerator, animator, frames, args.horizontal_flip) for frames in pieces]
            save_clip(path, codes, clip.name, clip.frames_per_second)


def encode_stream(
    accelerator: Accelerator, animator: LIAModel, videos: StreamedVideos, folder: Path, args: argparse.Namespace
) -> None:
    pieces = StreamedPieces(
        videos,
        animator.config.frame_size,
        args.batch_size,
        args.min_frames,
        accelerator.process_index,
        accelerator.num_processes,
        finished={path.stem for path in folder.glob("*.safetensors")},
    )
    codes: dict[str, list[torch.Tensor]] = {}  # of clips that are being read, one for each worker
    progress_bar = tqdm(desc="Clips", unit="clip", disable=not accelerator.is_local_main_process)
    for piece in DataLoader(pieces, batch_size=None, num_workers=args.dataloader_num_workers):
        place = piece["place"]
        piece_codes = encode_frames(accelerator, animator, piece["frames"], args.horizontal_flip)
        codes.setdefault(place, []).append(piece_codes)
        if piece["is_last"]:
            path = folder / f"{place}.safetensors"
            save_clip(path, codes.pop(place), piece["name"], piece["frames_per_second"])
            progress_bar.update()
    progress_bar.close()


def list_streamed(folder: Path) -> list[tuple[Path, str, float]]:
    r"""The finished clips of a stream, in the order of a folder's: files, names, frame rates."""
    clips = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            description = file.metadata()
        clips.append((path, description["name"], float(description["frames_per_second"])))
    return sorted(clips, key=lambda clip: (PurePosixPath(clip[1]).parts, clip[0]))


def merge(clips: list[tuple[Path, str, float]], animator_hash: str) -> MotionCodes:
    codes, names, rates = [], [], []
    for path, name, frames_per_second in clips:
        for clip_codes, suffix in zip(load_file(path)["codes"], ("", " (mirrored)")):
            codes.append(clip_codes)
            names.append(name + suffix)
            rates.append(frames_per_second)
    offsets = torch.tensor([0] + [len(clip_codes) for clip_codes in codes]).cumsum(0)
    return MotionCodes(torch.cat(codes), offsets, names, rates, animator_hash)


def main(args: argparse.Namespace) -> None:
    check_arguments(args)
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    check_processes(accelerator)
    animator = LIAPipeline.from_pretrained(args.pretrained_model_name_or_path).animator.to(accelerator.device)
    animator_hash = hash_animator(animator)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.dataset_name is None:
        # The main process looks at the clips; the others read what it found.
        with accelerator.main_process_first():
            cache = args.output_dir / ".clips.json"
            source, _ = find_clips(args.train_data_dir, min_frames=args.min_frames, cache=cache)
        listing = "\n".join(f"{clip.name} {clip.num_frames}" for clip in source)
    else:
        source = open_stream(args)
        listing = f"{args.dataset_name} {args.dataset_config_name} {args.dataset_split} {args.video_column}"
        listing += f" {source.num_shards} {args.min_frames}"
    # Finished clips lie here until all are; another animator, data set or setting has another folder.
    listing += f"\n{args.horizontal_flip} {args.mixed_precision}"
    folder = args.output_dir / f".clips-{animator_hash}-{hashlib.sha256(listing.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    encode = encode_folder if args.dataset_name is None else encode_stream
    encode(accelerator, animator, source, folder, args)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if args.dataset_name is None:
            paths = [folder / f"{index:06d}.safetensors" for index in range(len(source))]
            finished = [(path, clip.name, clip.frames_per_second) for path, clip in zip(paths, source)]
        else:
            finished = list_streamed(folder)
        if not finished:
            raise ValueError(f"No clip of {args.dataset_name} can be used: none is readable and long enough.")
        motion_codes = merge(finished, animator_hash)
        motion_codes.save(args.output_dir)
        shutil.rmtree(folder)
        print(f"Wrote {len(motion_codes.codes)} codes of {len(motion_codes.clip_names)} clips to {args.output_dir}.")
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main, build_parser())
