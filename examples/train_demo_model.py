#!/usr/bin/env python
"""
The embedded model from nothing: renders clips of synthetic talking heads and trains every network on them, with the
scripts beside this one.

    python examples/train_demo_model.py --output_dir outputs/demo-model

Hours on two CPU cores. --smoke goes through all stages in minutes, for a model that shows nothing. A run that was
stopped goes on where it was. --package puts the result where `pip install` takes it from.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from leo_diffusers import DEMO_MODEL, assemble_pipeline
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.model_card import FROM_NOTHING_USAGE, write_model_card
from leo_diffusers.training.checkpoints import save_atomically


EXAMPLES = Path(__file__).parent
SHARED = "--mixed_precision bf16 --report_to none --checkpoints_total_limit 1 --lr_scheduler cosine"

LABEL_NETWORK = "--train_data_dir {clips} --lr_warmup_steps 100 --max_grad_norm 1 --cache_gigabytes 9 " + SHARED
ANIMATOR = (
    "--train_data_dir {clips} --block_out_channels 16 32 64 128 128 128 --latent_dim 256 --motion_dim 20 "
    "--warp_source_image --align_corners --inpaint_rgb --gan_weight 0 --perceptual_loss labels "
    "--label_network {label-network} --perceptual_weight 0.5 --region_weight 4 --keypoint_weight 10 "
    "--keypoint_steps 30000 --motion_weight 2 --cross_identity 0.5 --no_horizontal_flip --train_batch_size 8 "
    "--learning_rate 8e-3 --adam_beta1 0.9 --max_grad_norm 5 --lr_warmup_steps 100 --use_ema --ema_decay 0.998 "
    "--validation_fraction 0.1 --cache_gigabytes 9 " + SHARED
)
DIFFUSION = (
    "--pretrained_model_name_or_path {animator} --motion_codes_dir {codes} --beta_schedule squaredcos_cap_v2 "
    "--lr_warmup_steps 100 --max_grad_norm 1 --use_ema " + SHARED
)
MOTION = (
    "--block_out_channels 96 128 192 --layers_per_block 1 --attention_levels 1 2 --train_batch_size 32 "
    "--learning_rate 1e-3 --ema_decay 0.999 --prediction_type sample " + DIFFUSION
)
PRIOR = "--train_batch_size 256 --learning_rate 5e-4 --ema_decay 0.999 --prediction_type sample " + DIFFUSION
FIRST_FRAME = (
    "--train_data_dir {clips} --patch_size 8 --block_out_channels 160 256 320 --layers_per_block 1 "
    "--train_batch_size 16 --learning_rate 5e-4 --ema_decay 0.999 --prediction_type sample --cache_gigabytes 9 "
) + DIFFUSION


@dataclass(frozen=True)
class Stage:
    r"""
    One script, and what it writes.

    Args:
        output (`str`): Name of its folder.
        script (`str`): In this folder.
        arguments (`str`): With the folders of earlier stages by name.
        steps (`int`): Optimisation steps; 0 where there are none.
        smoke (`str`): Arguments of a run that only goes through.
        seed (`int`): Added to the run's seed.
    """

    output: str
    script: str
    arguments: str
    steps: int = 0
    smoke: str = ""
    seed: int = 0

    def command(self, folder: Path, is_smoke: bool, seed: int) -> list[str]:
        r"""The words of its command."""
        folders = {name: folder / name for name in (*(stage.output for stage in TRAINING), "demo_model")}
        words = [word.format_map(folders) for word in f"{self.arguments} {self.smoke if is_smoke else ''}".split()]
        if self.steps:
            steps = SMOKE_STEPS if is_smoke else self.steps
            interval = min(steps, 1000)
            words += (
                f"--max_train_steps {steps} --checkpointing_steps {interval} --validation_steps {interval}".split()
            )
            words += f"--resume_from_checkpoint latest --seed {seed + self.seed}".split()
        return [sys.executable, str(EXAMPLES / self.script), *words, "--output_dir", str(folder / self.output)]

    def is_done(self, folder: Path, is_smoke: bool) -> bool:
        r"""Whether its last checkpoint, or the mark of a stage that has none, is there."""
        steps = SMOKE_STEPS if is_smoke else self.steps
        return (folder / self.output / (f"checkpoint-{steps}" if self.steps else ".done")).exists()


SMOKE_STEPS = 4
SMOKE_SAMPLES = "--num_validation_samples 2 --num_inference_steps 2"
TRAINING = (
    Stage(
        "clips",
        "render_talking_heads.py",
        "--num_clips 1600 --num_frames 96 --size 128 --people_per_motion 2",
        smoke="--num_clips 6 --num_frames 70",
    ),
    Stage("label-network", "train_label_network.py", LABEL_NETWORK, 3000),
    Stage("animator", "train_lia.py", "--resolution 128 " + ANIMATOR, 20_000),
    Stage(
        "codes",
        "extract_motion_codes.py",
        "--pretrained_model_name_or_path {animator} --train_data_dir {clips} --batch_size 32",
    ),
    Stage("leo", "train_lmdm.py", MOTION, 10_000, SMOKE_SAMPLES),
    Stage("transition", "train_lmdm.py", "--condition start_end --sequence_length 32 " + MOTION, 6000, SMOKE_SAMPLES),
    Stage("prior", "train_motion_prior.py", PRIOR, 6000, SMOKE_SAMPLES),
    Stage("first-frame", "train_first_frame.py", FIRST_FRAME, 60_000, f"--train_batch_size 2 {SMOKE_SAMPLES}"),
    # Of another shape, on another seed, and used to softer frames: what judges must not have taught.
    Stage(
        "judge",
        "train_label_network.py",
        f"--block_out_channels 24 48 96 160 --layers_per_block 1 --kernel_size 5 --no_keypoints --blur 0.5 "
        f"{LABEL_NETWORK}",
        3000,
        seed=1,
    ),
)
EVALUATION = Stage(
    "evaluation",
    "evaluate_demo_model.py",
    "--model {demo_model} --label_network {label-network} --judge {judge}",
    smoke="--num_people 2 --num_videos 2 --endless_frames 96",
)

DESCRIPTION = """\
LEO for synthetic talking heads at 128 pixels: the model that is embedded in leo_diffusers. All of it was trained from
nothing on clips that leo_diffusers renders itself; nobody's face was used.

{samples}

## Training

On {machine}, in {hours:.1f} hours:

```bash
{commands}
```

Beyond the papers' recipe, by labels that the renderer knows: the perceptual loss is the distance in the features of a
small network that was trained to read labels off frames (`--perceptual_loss labels`, in place of VGG19); the flow is
pulled to the keypoints' at first (`--keypoint_weight`); a linear map must read the motion off the motion code
(`--motion_weight`); errors at mouth and eyes count more (`--region_weight`); half of the pairs are driven by another
person in the same motion (`--cross_identity`). The generator may in-paint colours (`--inpaint_rgb`). There is no
discriminator.

{curves}

## Measured

On people and motions that no training saw, by examples/evaluate_demo_model.py:

{table}

## Limits

It animates faces of its own kind only: photos of people come out distorted. People whose eyes or mouth are closed in
the picture get the colours of others when these open.
"""


def run_stage(stage: Stage, args: argparse.Namespace) -> None:
    r"""Runs a script of this folder to its end; its own message says what went wrong."""
    command = stage.command(args.output_dir, args.smoke, args.seed)
    print(f"\n$ {shlex.join(command)}", flush=True)
    start = time.monotonic()
    if subprocess.run(command).returncode != 0:
        raise ValueError(f"{stage.script} failed; its message is above. Run this command again to go on.")
    if not stage.steps:
        (args.output_dir / stage.output / ".done").touch()
    with (args.output_dir / "minutes.jsonl").open("a") as file:
        file.write(json.dumps({"stage": stage.output, "minutes": (time.monotonic() - start) / 60}) + "\n")


def assemble(args: argparse.Namespace) -> None:
    r"""Puts the networks together, in half precision."""
    parts = [args.output_dir / name for name in ("transition", "prior", "first-frame")]
    pipeline = assemble_pipeline(args.output_dir / "leo", parts).to(torch.float16)

    def save(folder: str) -> None:
        pipeline.save_pretrained(folder)
        # Where the parts lay on this disk is nobody's business.
        for config in Path(folder).rglob("*.json"):
            values = json.loads(config.read_text())
            if isinstance(values, dict) and values.pop("_name_or_path", None) is not None:
                config.write_text(json.dumps(values, indent=2) + "\n")

    save_atomically(save, args.output_dir / "demo_model")


def describe_machine() -> str:
    r"""What the training ran on."""
    if torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores"


def draw_curves(args: argparse.Namespace, path: Path) -> None:
    r"""The losses of every training as one picture."""
    from matplotlib import pyplot

    stages = [stage for stage in TRAINING if stage.steps]
    figure, axes = pyplot.subplots(2, -(-len(stages) // 2), figsize=(16, 6), layout="constrained")
    for stage, axis in zip(stages, axes.flat):
        lines = [json.loads(line) for line in (args.output_dir / stage.output / "losses.jsonl").open()]
        width = max(1, len(lines) // 100)
        for name in lines[-1].keys() - {"step", "lr"}:
            values = [line.get(name, float("nan")) for line in lines]
            means = [sum(values[i : i + width]) / len(values[i : i + width]) for i in range(0, len(values), width)]
            axis.semilogy([lines[i]["step"] for i in range(0, len(lines), width)], means, label=name)
        axis.set_title(stage.output)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=60)


def write_card(args: argparse.Namespace) -> None:
    r"""The model card: how the model was made, and how good it is."""
    folder = args.output_dir / "demo_model"
    commands = [shlex.join(stage.command(Path("outputs"), args.smoke, args.seed)[1:]) for stage in TRAINING]
    commands = [f"python {command.replace(str(EXAMPLES), 'examples')}" for command in commands]
    minutes = [json.loads(line)["minutes"] for line in (args.output_dir / "minutes.jsonl").open()]
    draw_curves(args, folder / "curves.png")
    shutil.copy(args.output_dir / "evaluation" / "generated.png", folder / "generated.png")
    write_model_card(
        folder,
        title="The embedded model of leo_diffusers",
        description=DESCRIPTION.format(
            samples="![videos that it generated](generated.png)",
            machine=describe_machine(),
            hours=sum(minutes) / 60,
            commands="\n".join(commands),
            curves="![losses](curves.png)",
            table=(args.output_dir / "evaluation" / "table.md").read_text(),
        ),
        usage=FROM_NOTHING_USAGE.format(name="demo_model"),
        license="apache-2.0",
        tags=["unconditional-video-generation", "image-to-video"],
    )


def main(args: argparse.Namespace) -> None:
    if args.smoke and args.package:
        raise ValueError("--package cannot go with --smoke: what that trains shows nothing.")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for stage in TRAINING:
        if not stage.is_done(args.output_dir, args.smoke):
            run_stage(stage, args)
    assemble(args)
    run_stage(EVALUATION, args)
    write_card(args)
    folder = args.output_dir / "demo_model"
    if args.package:
        shutil.copytree(folder, DEMO_MODEL, dirs_exist_ok=True)
    print(f"\nWrote {folder}. Look: leo-diffusers demo --model {folder} --output {args.output_dir / 'videos'}")


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="train_demo_model.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="clips, networks and the model are written here")
    add("--smoke", action="store_true", help="a few steps of everything")
    add("--package", action="store_true", help="replace the embedded model by the result")
    add("--seed", type=int, default=0, help="default: %(default)s")
    return parser


if __name__ == "__main__":
    run_script(main, build_parser())
