#!/usr/bin/env python
"""
Measures a model of synthetic talking heads on people and motions that no training saw.

    python examples/evaluate_demo_model.py --label_network label-network --judge judge --output_dir evaluation

The renderer knows the truth: what the source's person looks like in the motion of the driver. What faces do is read
off rendered and true frames by a second network (--judge) that no training used. Writes results.json and pictures.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from leo_diffusers import DEMO_MODEL, LEOInfinitePipeline, LEOPipeline, LIAModel, LIAPipeline, video_io
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.talking_heads import (
    FIRST_HELD_OUT_SEED,
    KEYPOINT_GROUPS,
    render_motion,
    sample_identity,
    sample_motion,
)
from leo_diffusers.models.label_network import LabelNetwork
from leo_diffusers.training.label_losses import region_mask
from leo_diffusers.training.perceptual_loss import LabelNetworkLoss
from leo_diffusers.training.validation import code_statistics, frame_grid


CLIP_FRAMES = 64
REGIONS = {"mouth": ("mouth",), "eyes": ("left_eye", "right_eye")}
GRID_COLUMNS = 12
NUM_ENDLESS = 4


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="evaluate_demo_model.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=DEMO_MODEL, help="folder or Hub id (default: the embedded model)")
    add("--label_network", required=True, help="the network whose features the training used")
    add("--judge", required=True, help="another network of train_label_network.py, of other shape and seed")
    add("--output_dir", type=Path, required=True, help="results.json, table and pictures are written here")
    add("--num_people", type=int, default=32, help="people, each in a motion of their own (default: %(default)s)")
    add("--num_videos", type=int, default=32, help="generated videos (default: %(default)s)")
    add("--endless_frames", type=int, default=1024, help="of each endless video (default: %(default)s)")
    add("--animator_only", action="store_true", help="leave out what the diffusion models make")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    for name, least in (("num_people", 2), ("num_videos", 2), ("endless_frames", 64)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(args, name)}.")


# --------------------------------------------------------------------------------------------------------- animation


def render(identity_seed: int, motion: np.ndarray, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Frames (F, 3, H, W) in [-1, 1] and keypoints (F, K, 2) as shares of the frame."""
    frames, keypoints = render_motion(sample_identity(identity_seed), motion, size)
    return torch.stack([video_io.to_frame(frame) for frame in frames]), torch.from_numpy(keypoints / size)


@torch.no_grad()
def animate(animator: LIAModel, source_frame: torch.Tensor, driving: torch.Tensor) -> torch.Tensor:
    r"""The source's person in the driver's motion, relative to the driver's first frame, (F, 3, H, W)."""
    source = animator.encode_source(source_frame[None])
    codes = torch.cat([animator.encode_motion(part) for part in driving.split(8)])
    codes = source.motion_code + codes - codes[:1]
    return torch.cat([animator.decode(source, part).sample for part in codes.split(8)]).clamp(-1, 1)


def psnr(frames: torch.Tensor, truth: torch.Tensor) -> float:
    errors = ((frames - truth) / 2).square().mean(dim=(1, 2, 3))
    return (-10 * errors.clamp(min=1e-10).log10()).mean().item()


def region_error(frames: torch.Tensor, truth: torch.Tensor, keypoints: torch.Tensor, names: tuple[str, ...]) -> float:
    r"""Mean L1 within boxes around groups of keypoints, pixels in [0, 1]."""
    mask = region_mask(keypoints, [KEYPOINT_GROUPS[name] for name in names], frames.shape[-1])
    return ((frames - truth).abs() / 2 * mask).sum().item() / (3 * mask.sum().item())


def agreement(found: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    r"""Correlation of two series of readings (N,), and the slope of the line from the truth's to what was found."""
    found, truth = found - found.mean(), truth - truth.mean()
    covariance = (found * truth).mean()
    return {
        "correlation": (covariance / (found.std() * truth.std()).clamp(min=1e-8)).item(),
        "slope": (covariance / truth.square().mean().clamp(min=1e-8)).item(),
    }


def read(network: LabelNetwork, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Motion (F, P) and attributes (F, A) that a network sees."""
    parts = [network.read(part) for part in frames.split(32)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def evaluate_animation(
    animator: LIAModel, network: LabelNetwork, judge: LabelNetwork, args: argparse.Namespace
) -> tuple[dict, torch.Tensor]:
    r"""Reconstruction, and transfer to another person, of unseen people and motions; and a picture of both."""
    size, distance = animator.config.frame_size, LabelNetworkLoss(network)
    results: dict[str, dict] = {}
    readings: dict[str, list] = {"reconstruction": [], "transfer": []}
    rows = []
    for index in tqdm(range(args.num_people), desc="Animating", unit="clip"):
        seed = FIRST_HELD_OUT_SEED + index
        motion = sample_motion(seed, CLIP_FRAMES)
        truth, keypoints = render(seed, motion, size)
        other = render(FIRST_HELD_OUT_SEED + args.num_people + index, motion, size)[0]
        copy = truth[:1].expand_as(truth)
        shown = [truth]
        for task, driving in (("reconstruction", truth), ("transfer", other)):
            frames = animate(animator, truth[0], driving)
            shown.append(frames)
            readings[task].append((read(judge, frames)[0][1:], read(judge, truth)[0][1:]))
            # The source itself is left out: its copy is perfect.
            for name, candidate in ((task, frames), ("copy", copy)):
                if name == "copy" and task == "transfer":
                    continue
                values = results.setdefault(name, {})
                with torch.no_grad():
                    measured = {"psnr": psnr(candidate[1:], truth[1:])}
                    measured["distance"] = distance(candidate[1:], truth[1:]).item()
                for region, groups in REGIONS.items():
                    measured[region] = region_error(candidate[1:], truth[1:], keypoints[1:], groups)
                for key, value in measured.items():
                    values.setdefault(key, []).append(value)
        if index < 4:
            columns = torch.linspace(0, CLIP_FRAMES - 1, GRID_COLUMNS).long()
            rows += [video[columns] for video in (shown[0], shown[1], other, shown[2])]
    summary = {task: {key: float(np.mean(value)) for key, value in values.items()} for task, values in results.items()}
    for task, pairs in readings.items():
        found, truth = (torch.cat(part) for part in zip(*pairs))
        summary[task]["motion"] = {
            name: agreement(found[:, i], truth[:, i]) for i, name in enumerate(judge.config.motion_names)
        }
        for key in ("distance", *REGIONS):
            summary[task][f"{key}_of_copy"] = summary[task][key] / summary["copy"][key]
    return summary, frame_grid(rows)


# -------------------------------------------------------------------------------------------------------- generation


def kinds(attributes: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    r"""Which of several kinds a person is, such as the hair style, (F,) by name."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        if "=" in name:
            groups.setdefault(name.split("=")[0], []).append(index)
    return {name: attributes[:, indices].argmax(dim=1) for name, indices in groups.items()}


def same_person(judge: LabelNetwork, first: torch.Tensor, last: torch.Tensor) -> dict[str, float]:
    r"""Share of people (N, 3, H, W) that look the same in two frames: kinds, and colours within 0.1 of [0, 1]."""
    names = judge.config.attribute_names
    before, after = read(judge, first)[1], read(judge, last)[1]
    same = {name: (value == kinds(after, names)[name]).float() for name, value in kinds(before, names).items()}
    for part in ("skin", "hair", "cloth"):
        channels = [index for index, name in enumerate(names) if name.startswith(f"{part}.")]
        same[part] = ((before - after)[:, channels].abs().amax(dim=1) < 0.1).float()
    result = {name: value.mean().item() for name, value in same.items()}
    return {"mean": float(np.mean(list(result.values()))), **result}


def data_codes(animator: LIAModel, args: argparse.Namespace) -> torch.Tensor:
    r"""Codes of unseen people in unseen motions, (N, F, M)."""
    codes = []
    for index in tqdm(range(4 * args.num_videos), desc="Encoding", unit="clip"):
        seed = FIRST_HELD_OUT_SEED + 10_000 + index
        frames = render(seed, sample_motion(seed, CLIP_FRAMES), animator.config.frame_size)[0]
        with torch.no_grad():
            codes.append(torch.cat([animator.encode_motion(part) for part in frames.split(8)]))
    return torch.stack(codes)


def spread(samples: torch.Tensor, data: torch.Tensor) -> dict[str, float]:
    r"""Ratios of standard deviations per direction, of codes or of velocities (N, F, M): mean, lowest, highest."""
    ratios = samples.flatten(0, 1).std(dim=0) / data.flatten(0, 1).std(dim=0).clamp(min=1e-8)
    return {"mean": ratios.mean().item(), "lowest": ratios.min().item(), "highest": ratios.max().item()}


def evaluate_generation(
    model: str, judge: LabelNetwork, args: argparse.Namespace
) -> tuple[dict, dict[str, torch.Tensor]]:
    r"""Image to video, endless video and video from nothing; and pictures of them."""
    results, pictures = {}, {}
    start = time.perf_counter()
    leo = LEOPipeline.from_pretrained(model, dtype=torch.float32)
    leo.set_progress_bar_config(disable=True)
    size = leo.animator.config.frame_size
    sources = [
        render(FIRST_HELD_OUT_SEED + i, sample_motion(FIRST_HELD_OUT_SEED + i, 1), size)[0][0]
        for i in range(args.num_videos)
    ]
    leo(sources[0], num_frames=CLIP_FRAMES, generator=torch.Generator().manual_seed(0))
    results["seconds"] = time.perf_counter() - start

    data = data_codes(leo.animator, args)
    first, last, codes = [], [], []
    for index, source in enumerate(tqdm(sources, desc="Image to video", unit="video")):
        generator = torch.Generator().manual_seed(index)
        output = leo(source, num_frames=CLIP_FRAMES, generator=generator, output_type="pt")
        frames = output.frames[0] * 2 - 1
        first.append(frames[0])
        last.append(frames[-1])
        codes.append(output.motion_codes[0])
        if index < 6:
            columns = torch.linspace(0, CLIP_FRAMES - 1, GRID_COLUMNS).long()
            pictures.setdefault("generated", []).append(frames[columns])
    pictures["generated"] = frame_grid(pictures["generated"])
    codes = torch.stack(codes)
    results["identity"] = same_person(judge, torch.stack(first), torch.stack(last))
    results["code_spread"] = spread(codes, data)
    results["velocity_spread"] = spread(codes.diff(dim=1), data.diff(dim=1))

    if leo.motion_prior is not None and leo.first_frame_unet is not None:
        output = leo(
            num_videos_per_prompt=64, num_frames=2, generator=torch.Generator().manual_seed(0), output_type="pt"
        )
        frames = output.frames[:, 0] * 2 - 1
        pictures["first_frames"] = frame_grid(list(frames.split(16)))
        results["start_codes"] = code_statistics(output.motion_codes[:, 0], data.flatten(0, 1))
    infinite = LEOInfinitePipeline.from_pipe(leo)
    infinite.set_progress_bar_config(disable=True)
    low, high = data.flatten(0, 1).amin(dim=0), data.flatten(0, 1).amax(dim=0)
    outside, ends = [], []
    for index in tqdm(range(min(NUM_ENDLESS, args.num_videos)), desc="Endless", unit="video"):
        output = infinite(
            sources[index],
            num_frames=args.endless_frames,
            transition="diffusion" if infinite.transition_unet is not None else "none",
            generator=torch.Generator().manual_seed(index),
            output_type="pt",
        )
        found = output.motion_codes[0]
        outside.append(((found < low) | (found > high)).float().mean().item())
        ends.append((output.frames[0][0] * 2 - 1, output.frames[0][-1] * 2 - 1))
    results["endless"] = {"codes_outside_of_the_data": float(np.mean(outside))}
    results["endless"]["identity"] = same_person(judge, *(torch.stack(part) for part in zip(*ends)))
    return results, pictures


# ------------------------------------------------------------------------------------------------------------- table


def table_rows(results: dict) -> list[tuple[str, str]]:
    r"""Measure and value of each row, from what was measured."""
    rows = []
    copy = results["copy"]
    for task in ("reconstruction", "transfer"):
        values = results[task]
        title = "the same person" if task == "reconstruction" else "driven by another person"
        rows.append((f"{title}: PSNR", f"{values['psnr']:.1f} dB (copying the source: {copy['psnr']:.1f})"))
        parts = ", ".join(f"{name} {values[f'{name}_of_copy']:.2f}" for name in ("distance", *REGIONS))
        rows.append((f"{title}: perceptual distance, errors at mouth and eyes, as shares of copying", parts))
        motion = ", ".join(
            f"{name} {value['correlation']:.2f} ({value['slope']:.2f})" for name, value in values["motion"].items()
        )
        rows.append((f"{title}: motion read off, correlation with the truth (slope)", motion))
    if "identity" not in results:
        return rows
    endless = results["endless"]
    for title, key in (("codes", "code_spread"), ("velocities", "velocity_spread")):
        value = results[key]
        text = f"{value['mean']:.2f}, by direction {value['lowest']:.2f} to {value['highest']:.2f}"
        rows.append((f"generated {title}: spread against the data", text))
    rows.append(("the same person in the first and the 64th frame", f"{results['identity']['mean']:.1%}"))
    rows.append(("the same person in the first and the last endless frame", f"{endless['identity']['mean']:.1%}"))
    rows.append(("endless video: codes outside the range of the data", f"{endless['codes_outside_of_the_data']:.2%}"))
    rows.append(("64 frames from a picture, model load included", f"{results['seconds']:.1f} s"))
    return rows


# -------------------------------------------------------------------------------------------------------------- main


def main(args: argparse.Namespace) -> None:
    check_arguments(args)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    network, judge = (LabelNetwork.from_pretrained(name).eval() for name in (args.label_network, args.judge))
    animator = LIAPipeline.from_pretrained(args.model, dtype=torch.float32).animator
    results, picture = evaluate_animation(animator, network, judge, args)
    video_io.write_image(args.output_dir / "animated.png", picture)
    if not args.animator_only:
        generated, pictures = evaluate_generation(args.model, judge, args)
        results |= generated
        for name, picture in pictures.items():
            video_io.write_image(args.output_dir / f"{name}.png", picture)
    (args.output_dir / "results.json").write_text(json.dumps(results, indent=1))
    lines = [f"| {name} | {value} |\n" for name, value in table_rows(results)]
    (args.output_dir / "table.md").write_text("".join(["| measure | value |\n| --- | --- |\n", *lines]))
    print("".join(lines))


if __name__ == "__main__":
    run_script(main, build_parser())
