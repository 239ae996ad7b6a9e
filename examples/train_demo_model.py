#!/usr/bin/env python
"""
The whole method in under five minutes on two CPU cores, from nothing: renders clips of synthetic talking heads, trains
the animator and the motion diffusion on them with the scripts beside this one, and generates videos.

    python examples/train_demo_model.py --output_dir outputs/demo

The result is small and soft: it shows that everything works. --scale 10 trains ten times as long, and so on.
A run that was stopped goes on where it was.
"""

import argparse
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from leo_diffusers import LEOPipeline, LIAPipeline, video_io
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.talking_heads import FIRST_HELD_OUT_SEED, FRAME_RATE, render_clip
from leo_diffusers.training.validation import frame_grid


EXAMPLES = Path(__file__).parent
NUM_CLIPS = 80
NUM_FRAMES = 64
FRAME_SIZE = 64
NUM_SHOWN = 4  # people on the contact sheet

ANIMATOR_ARGUMENTS = (
    "--resolution 64 --block_out_channels 16 32 64 96 96 --latent_dim 128 --motion_dim 20 --gan_weight 0 "
    "--perceptual_loss ssim --perceptual_weight 1 --train_batch_size 8 --learning_rate 8e-3 --adam_beta1 0.9 "
    "--max_grad_norm 5 --lr_scheduler cosine --lr_warmup_steps 50 --use_ema --ema_decay 0.99 "
    "--mixed_precision bf16 --report_to none --checkpoints_total_limit 1"
)
MOTION_ARGUMENTS = (
    "--block_out_channels 64 96 128 --layers_per_block 1 --attention_levels 2 --train_batch_size 32 "
    "--learning_rate 1e-3 --max_grad_norm 1 --lr_scheduler cosine --lr_warmup_steps 50 --use_ema --ema_decay 0.99 "
    "--prediction_type sample --beta_schedule squaredcos_cap_v2 --report_to none --checkpoints_total_limit 1"
)


def render(index: int, path: Path) -> None:
    r"""Writes one clip: a person and a motion of their own."""
    torch.set_num_threads(1)
    write_frames(path, torch.from_numpy(render_clip(index, index, NUM_FRAMES, FRAME_SIZE).frames))


def write_frames(path: Path, pixels: torch.Tensor) -> None:
    with video_io.VideoWriter(path, FRAME_RATE) as writer:
        for frame in pixels.numpy():
            writer.write(video_io.to_frame(frame))


def render_clips(folder: Path) -> None:
    r"""Renders what is not there yet, on all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(index, path) for index in range(NUM_CLIPS) if not (path := folder / f"{index:04d}.mp4").exists()]
    with ProcessPoolExecutor() as pool:
        tasks = [pool.submit(render, *task) for task in missing]
        for task in tqdm(tasks, desc="Rendering clips", unit="clip"):
            task.result()


def launch(script: str, arguments: str, **paths: Path) -> None:
    r"""Runs a script of this folder; its own message says what went wrong."""
    words = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    command = [sys.executable, str(EXAMPLES / script), *arguments.split(), *words]
    print(f"\n$ {' '.join(command)}", flush=True)
    if subprocess.run(command).returncode != 0:
        raise ValueError(f"{script} failed; its message is above. Run this command again to go on.")


def generate(model: Path, output_dir: Path) -> None:
    r"""Image to video, and animation by a driving video, for people that were never trained on; one contact sheet."""
    leo = LEOPipeline.from_pretrained(model)
    leo.set_progress_bar_config(disable=True)
    lia = LIAPipeline(leo.animator)
    driving = render_clip(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED, NUM_FRAMES, FRAME_SIZE).frames
    columns = torch.linspace(0, NUM_FRAMES - 1, 10).long()
    rows = [torch.stack([video_io.to_frame(driving[i]) for i in columns])]
    for index in range(1, NUM_SHOWN + 1):
        seed = FIRST_HELD_OUT_SEED + index
        image = render_clip(seed, seed, 1, FRAME_SIZE).frames[0]
        generated = leo(image, generator=torch.Generator().manual_seed(index), output_type="pt").frames[0] * 2 - 1
        animated = lia(image, driving, motion_mode="absolute", output_type="pt").frames[0] * 2 - 1
        for name, frames in (("generated", generated), ("animated", animated)):
            with video_io.VideoWriter(output_dir / f"{name}-{index}.mp4", FRAME_RATE) as writer:
                writer.write(frames)
            rows.append(torch.cat([video_io.to_frame(image)[None], frames[columns[1:]]]))
    video_io.write_image(output_dir / "contact_sheet.png", frame_grid(rows))
    print(
        f"\nWrote videos and contact_sheet.png to {output_dir} (first row: the driving video), the model to {model}."
    )


def main(args: argparse.Namespace) -> None:
    if args.scale <= 0:
        raise ValueError(f"--scale must be above 0, got {args.scale}.")
    clips, animator, codes, model = (args.output_dir / name for name in ("clips", "animator", "codes", "leo"))
    if args.restart:
        for folder in (clips, animator, codes, model):
            shutil.rmtree(folder, ignore_errors=True)
    render_clips(clips)
    animator_steps, motion_steps = (max(2, round(steps * args.scale)) for steps in (750, 550))

    def schedule(steps: int) -> str:
        interval = max(1, min(steps, 1000))
        return (
            f" --max_train_steps {steps} --checkpointing_steps {interval} --validation_steps {interval} "
            f"--resume_from_checkpoint latest --seed {args.seed}"
        )

    launch("train_lia.py", ANIMATOR_ARGUMENTS + schedule(animator_steps), train_data_dir=clips, output_dir=animator)
    launch(
        "extract_motion_codes.py",
        "--horizontal_flip --batch_size 64",
        pretrained_model_name_or_path=animator,
        train_data_dir=clips,
        output_dir=codes,
    )
    launch(
        "train_lmdm.py",
        MOTION_ARGUMENTS + schedule(motion_steps),
        pretrained_model_name_or_path=animator,
        motion_codes_dir=codes,
        output_dir=model,
    )
    generate(model, args.output_dir)


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="train_demo_model.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="clips, models and videos are written here")
    add("--scale", type=float, default=1.0, help="length of the training (default: %(default)s)")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--restart", action="store_true", help="begin again instead of going on")
    return parser


if __name__ == "__main__":
    run_script(main, build_parser())
