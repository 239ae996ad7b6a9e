#!/usr/bin/env python
"""
Measures a model of synthetic talking heads on people and motions that no training saw.

    python examples/evaluate_demo_model.py --label_network label-network --judge judge --output_dir evaluation

The renderer knows the truth: what the source's person looks like in the motion of the driver. What faces do is read
off rendered and true frames by a second network (--judge) that no training used. Writes results.json and pictures.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from tqdm import tqdm

from leo_diffusers import DEMO_MODEL, LEOInfinitePipeline, LEOPipeline, LIAModel, LIAPipeline, video_io
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.commands import check_model
from leo_diffusers.data.motion_codes import MotionCodes
from leo_diffusers.data.talking_heads import (
    FIRST_HELD_OUT_SEED,
    KEYPOINT_GROUPS,
    render_motion,
    sample_identity,
    sample_motion,
)
from leo_diffusers.metrics.readings import agreement, same_kinds
from leo_diffusers.models.label_network import LabelNetwork
from leo_diffusers.training.label_losses import region_mask
from leo_diffusers.training.perceptual_loss import LabelNetworkLoss, load_label_network
from leo_diffusers.training.validation import code_statistics, frame_grid, motion_statistics, reconstruction_metrics


CLIP_FRAMES = 64
REGIONS = {"mouth": ("mouth",), "eyes": ("left_eye", "right_eye")}
GRID_COLUMNS = 12
NUM_SHOWN = 6  # people on a picture


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="evaluate_demo_model.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=DEMO_MODEL, help="folder or Hub id (default: the embedded model)")
    add("--label_network", type=Path, required=True, help="the network whose features the training used")
    add("--judge", type=Path, required=True, help="another of train_label_network.py, of other shape and seed")
    add("--motion_codes_dir", type=Path, default=None, help="codes of the training, whose range is not to be left")
    add("--output_dir", type=Path, required=True, help="results.json, table.md and pictures are written here")
    add("--num_people", type=int, default=32, help="people, each in a motion of their own (default: %(default)s)")
    add("--num_first_frames", type=int, default=64, help="people from nothing (default: %(default)s)")
    add("--num_endless", type=int, default=16, help="of these people in endless videos (default: %(default)s)")
    add("--endless_frames", type=int, default=1024, help="of each endless video (default: %(default)s)")
    add("--num_inference_steps", type=int, default=50, help="denoising steps (default: %(default)s)")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    minimum = {
        "num_people": 2,
        "num_first_frames": 2,
        "num_endless": 1,
        "endless_frames": 2,
        "num_inference_steps": 1,
    }
    for name, least in minimum.items():
        if getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(args, name)}.")
    check_model(args.model)


# -------------------------------------------------------------------------------------------------------------- read


def render(identity_seed: int, motion: np.ndarray, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Frames (F, 3, H, W) in [-1, 1] and keypoints (F, K, 2) as shares of the frame."""
    frames, keypoints = render_motion(sample_identity(identity_seed), motion, size)
    return torch.stack([video_io.to_frame(frame) for frame in frames]), torch.from_numpy(keypoints / size)


def read(judge: LabelNetwork, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Motion (F, P) and attributes (F, A) that the judge sees in frames (F, 3, H, W)."""
    motion, attributes, _ = zip(*(judge.read(part) for part in frames.split(32)))
    return torch.cat(motion), torch.cat(attributes)


@torch.no_grad()
def measure(
    frames: torch.Tensor, truth: torch.Tensor, keypoints: torch.Tensor, distance: LabelNetworkLoss
) -> dict[str, float]:
    r"""Errors of a clip (F, 3, H, W); regions: mean L1 within boxes around their keypoints, pixels in [0, 1]."""
    values = {"psnr": reconstruction_metrics(frames, truth)["psnr"], "distance": distance(frames, truth).item()}
    for region, names in REGIONS.items():
        mask = region_mask(keypoints, [KEYPOINT_GROUPS[name] for name in names], frames.shape[-1])
        values[region] = ((frames - truth).abs() / 2 * mask).sum().item() / (3 * mask.sum().item())
    return values


class Person:
    r"""Someone whom no training saw, in a motion that none saw, and what the model makes of them."""

    def __init__(self, pipeline: LIAPipeline, index: int, num_people: int):
        seed, size = FIRST_HELD_OUT_SEED + index, pipeline.animator.config.frame_size
        motion = sample_motion(seed, CLIP_FRAMES)
        self.motion = torch.from_numpy(motion)
        self.truth, self.keypoints = render(seed, motion, size)
        self.driving = render(seed + num_people, motion, size)[0]  # somebody else
        self.source = self.truth[0]
        output = pipeline(self.source, self.truth, output_type="pt")
        self.codes = output.motion_codes[0]  # of the truth, since the source is its first frame
        self.videos = {
            "copy": self.truth[:1].expand_as(self.truth),
            "reconstruction": output.frames[0] * 2 - 1,
            "transfer": pipeline(self.source, self.driving, output_type="pt").frames[0] * 2 - 1,
        }

    def rows(self) -> list[torch.Tensor]:
        r"""Rows of a picture: the truth, its reconstruction, the driver, the transfer."""
        columns = torch.linspace(0, CLIP_FRAMES - 1, GRID_COLUMNS).long()
        shown = (self.truth, self.videos["reconstruction"], self.driving, self.videos["transfer"])
        return [video[columns] for video in shown]


# --------------------------------------------------------------------------------------------------------- animation


def evaluate_animation(
    pipeline: LIAPipeline, network: LabelNetwork, judge: LabelNetwork, args: argparse.Namespace
) -> tuple[dict, list[Person], torch.Tensor]:
    r"""Reconstruction and transfer to another person, the people, and a picture of both."""
    people = [
        Person(pipeline, index, args.num_people) for index in tqdm(range(args.num_people), "Animating", unit="clip")
    ]
    distance, names = LabelNetworkLoss(network), judge.config.motion_names
    # The source itself is left out: its copy is perfect.
    true_readings = torch.stack([read(judge, person.truth)[0][1:] for person in people])  # (V, F, P)
    true_motion = torch.stack([person.motion[1:] for person in people])
    results = {"judge": {name: agreement(true_readings[..., i], true_motion[..., i]) for i, name in enumerate(names)}}
    for task in people[0].videos:
        values, readings = [], []
        for person in people:
            frames = person.videos[task][1:]
            values.append(measure(frames, person.truth[1:], person.keypoints[1:], distance))
            readings.append(read(judge, frames)[0])
        results[task] = {name: float(np.mean([value[name] for value in values])) for name in values[0]}
        found = torch.stack(readings)
        results[task]["motion"] = {
            name: agreement(found[..., i], true_readings[..., i]) for i, name in enumerate(names)
        }
    return results, people, frame_grid([row for person in people[:NUM_SHOWN] for row in person.rows()])


# -------------------------------------------------------------------------------------------------------- generation


def seconds_of_command(model: str, source: torch.Tensor) -> float:
    r"""How long a user waits for 64 frames from a picture, imports and loading included, on two threads."""
    with tempfile.TemporaryDirectory() as folder:
        image, video = Path(folder) / "photo.png", Path(folder) / "video.mp4"
        video_io.write_image(image, source)
        words = ["generate", "--model", model, "--image", str(image), "--output", str(video)]
        start = time.perf_counter()
        command = [sys.executable, "-m", "leo_diffusers", *words, "--num-frames", str(CLIP_FRAMES)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"}, capture_output=True)
        return time.perf_counter() - start


def share_outside(codes: torch.Tensor, motion_codes: MotionCodes) -> float:
    r"""Share of the numbers in codes (..., M) that lie outside the range of the training's."""
    low, high = motion_codes.codes.amin(dim=0), motion_codes.codes.amax(dim=0)
    return ((codes < low) | (codes > high)).float().mean().item()


def generate(
    leo: LEOPipeline, people: list[Person], args: argparse.Namespace
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Image to video of everyone: codes (V, F, M), first and last frames (V, 3, H, W), and a picture."""
    codes, first, last, rows = [], [], [], []
    for index, person in enumerate(tqdm(people, "Generating", unit="video")):
        generator = torch.Generator().manual_seed(index)
        options = {"num_frames": CLIP_FRAMES, "num_inference_steps": args.num_inference_steps}
        output = leo(person.source, generator=generator, output_type="pt", **options)
        frames = output.frames[0] * 2 - 1
        codes.append(output.motion_codes[0])
        first.append(frames[0])
        last.append(frames[-1])
        if index < NUM_SHOWN:
            rows.append(frames[torch.linspace(0, CLIP_FRAMES - 1, GRID_COLUMNS).long()])
    return torch.stack(codes), torch.stack(first), torch.stack(last), frame_grid(rows)


def generate_endless(
    infinite: LEOInfinitePipeline, leo: LEOPipeline, people: list[Person], args: argparse.Namespace
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Endless video of everyone: codes (V, F, M), and the last frame of each (V, 3, H, W)."""
    codes, last = [], []
    transition = "none" if infinite.transition_unet is None else "diffusion"
    for index, person in enumerate(tqdm(people, "Endless", unit="video")):
        generator = torch.Generator().manual_seed(index)
        stream = infinite.stream(
            person.source,
            args.endless_frames,
            args.num_inference_steps,
            transition,
            generator=generator,
            output_type="latent",
        )
        codes.append(torch.stack(list(stream)))
        last.append(leo(person.source, motion_codes=codes[-1][-1:], output_type="pt").frames[0, 0] * 2 - 1)
    return torch.stack(codes), torch.stack(last)


def draw_people(leo: LEOPipeline, args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    r"""People from nothing: frames (N, 3, H, W), and the codes (N, M) that they were drawn for."""
    options = {"num_frames": 2, "num_inference_steps": args.num_inference_steps, "output_type": "pt"}
    outputs = [
        leo(**options, generator=torch.Generator().manual_seed(index))
        for index in tqdm(range(args.num_first_frames), "People from nothing", unit="frame")
    ]
    frames = torch.cat([output.frames[:, 0] for output in outputs]) * 2 - 1
    return frames, torch.cat([output.motion_codes[:, 0] for output in outputs])


@torch.no_grad()
def pose_errors(animator: LIAModel, frames: torch.Tensor, asked: torch.Tensor, data: torch.Tensor) -> dict[str, float]:
    r"""Distance of the drawn codes from those asked for, and from those of others, in deviations of `data` (N, M)."""
    found = torch.cat([animator.encode_motion(part) for part in frames.split(32)])
    errors = [((found - codes) / data.std(dim=0)).abs().mean().item() for codes in (asked, asked.roll(1, dims=0))]
    return dict(zip(("asked", "others"), errors))


def evaluate_generation(
    infinite: LEOInfinitePipeline, people: list[Person], judge: LabelNetwork, args: argparse.Namespace
) -> tuple[dict, dict[str, torch.Tensor]]:
    r"""Image to video, endless video and people from nothing; and pictures of them."""
    leo = LEOPipeline.from_pipe(infinite)
    for pipeline in (leo, infinite):
        pipeline.set_progress_bar_config(disable=True)
    names = judge.config.attribute_names
    results = {"seconds": seconds_of_command(args.model, people[0].source)}
    codes, first, last, picture = generate(leo, people, args)
    pictures = {"generated": picture}
    data = torch.stack([person.codes for person in people])
    true_last = torch.stack([person.truth[-1] for person in people])
    seen = read(judge, first)[1]
    results["identity"] = same_kinds(seen, read(judge, last)[1], names)
    results["identity_of_true_clips"] = same_kinds(seen, read(judge, true_last)[1], names)
    # What the source's own code brings is no merit of the motion model.
    results["motion"] = motion_statistics(codes - codes[:, :1], data - data[:, :1])
    results["velocity"] = motion_statistics(codes.diff(dim=1), data.diff(dim=1))

    endless_codes, endless_last = generate_endless(infinite, leo, people[: args.num_endless], args)
    results["endless"] = {
        "frames": args.endless_frames,
        "transitions": infinite.transition_unet is not None,
        "identity": same_kinds(seen[: args.num_endless], read(judge, endless_last)[1], names),
    }
    if args.motion_codes_dir is not None:
        motion_codes = MotionCodes.load(args.motion_codes_dir)
        results["endless"]["outside"] = share_outside(endless_codes, motion_codes)
        results["endless"]["outside_of_true_clips"] = share_outside(data, motion_codes)

    if leo.motion_prior is not None and leo.first_frame_unet is not None:
        frames, asked = draw_people(leo, args)
        columns = min(16, args.num_first_frames)
        pictures["first_frames"] = frame_grid([row for row in frames.split(columns) if len(row) == columns])
        results["start_codes"] = code_statistics(asked, data.flatten(0, 1))
        results["pose"] = pose_errors(leo.animator, frames, asked, data.flatten(0, 1))
    return results, pictures


# ------------------------------------------------------------------------------------------------------------- table


def table_rows(results: dict) -> list[tuple[str, str]]:
    r"""Measure and value of each row, from what was measured."""
    rows, copy = [], results["copy"]
    titles = {"reconstruction": "in their own motion", "transfer": "driven by another person"}
    for task, title in titles.items():
        values = results[task]
        rows.append((f"{title}: PSNR", f"{values['psnr']:.1f} dB (the source, copied: {copy['psnr']:.1f})"))
        shares = ", ".join(f"{name} {values[name] / copy[name]:.2f}" for name in ("distance", *REGIONS))
        rows.append((f"{title}: perceptual distance, L1 at mouth and eyes, as shares of the copy's", shares))
        rows.append((f"{title}: motion, correlation with the truth (slope)", motion_text(values["motion"])))
    rows.append(("the judge on true frames, against the renderer's numbers", motion_text(results["judge"])))
    if "identity" not in results:
        return rows
    for title, key in (("motion", "motion"), ("velocities", "velocity")):
        value = results[key]
        text = f"{value['spread']:.2f} (by direction {value['spread_min']:.2f} to {value['spread_max']:.2f})"
        rows.append((f"generated {title}: spread against true clips of the same people", text))
    endless, true_share = results["endless"], results["identity_of_true_clips"]["mean"]
    same = f"{results['identity']['mean']:.1%} (true clips: {true_share:.1%})"
    rows.append((f"same attributes in the first and the {CLIP_FRAMES}th frame", same))
    rows.append((f"same attributes after {endless['frames']} frames", f"{endless['identity']['mean']:.1%}"))
    if "outside" in endless:
        outside = f"{endless['outside']:.2%} (true clips: {endless['outside_of_true_clips']:.2%})"
        rows.append((f"codes outside the training's range over {endless['frames']} frames", outside))
    if "pose" in results:
        pose = results["pose"]
        value = f"{pose['asked']:.2f} deviations (from that of another: {pose['others']:.2f})"
        rows.append(("people from nothing: pose against that asked for", value))
    rows.append(("`leo-diffusers generate`, 64 frames, two threads", f"{results['seconds']:.1f} s"))
    return rows


def motion_text(motion: dict[str, dict[str, float]]) -> str:
    return ", ".join(f"{name} {value['correlation']:.2f} ({value['slope']:.2f})" for name, value in motion.items())


# -------------------------------------------------------------------------------------------------------------- main


def save(folder: Path, results: dict, pictures: dict[str, torch.Tensor]) -> None:
    r"""Writes what is measured so far."""
    for name, picture in pictures.items():
        video_io.write_image(folder / f"{name}.png", picture)
    lines = ["| measure | value |\n| --- | --- |\n", *(f"| {name} | {text} |\n" for name, text in table_rows(results))]
    for name, text in {"results.json": json.dumps(results, indent=1), "table.md": "".join(lines)}.items():
        partial = folder / f".{name}.partial"
        partial.write_text(text)
        partial.replace(folder / name)


def main(args: argparse.Namespace) -> None:
    check_arguments(args)
    network, judge = load_label_network(args.label_network), load_label_network(args.judge)
    pipeline = DiffusionPipeline.from_pretrained(args.model, dtype=torch.float32)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    lia = LIAPipeline.from_pipe(pipeline)
    lia.set_progress_bar_config(disable=True)
    results, people, picture = evaluate_animation(lia, network, judge, args)
    save(args.output_dir, results, {"animated": picture})
    if getattr(pipeline, "motion_unet", None) is None:
        print(f"{args.model} has no motion_unet: only its animator was measured.")
    else:
        generated, pictures = evaluate_generation(LEOInfinitePipeline.from_pipe(pipeline), people, judge, args)
        results |= generated
        save(args.output_dir, results, pictures)
    print((args.output_dir / "table.md").read_text())


if __name__ == "__main__":
    run_script(main, build_parser())
