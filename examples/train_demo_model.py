#!/usr/bin/env python
"""
The embedded model from nothing: renders clips of synthetic talking heads and trains every network on them, with the
scripts beside this one.

    python examples/train_demo_model.py --output_dir outputs/demo-model

Hours on two CPU cores, 10 GB of memory for each stage at work, 1 GB of disk. --smoke goes through all stages in
minutes, for a model that shows nothing. A run that was stopped goes on where it was. --package embeds the result.
"""

import argparse
import os
import shutil
from pathlib import Path

import torch
from matplotlib.figure import Figure

from leo_diffusers import assemble_pipeline
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.model_card import EMBEDDED_USAGE, write_model_card
from leo_diffusers.pipelines.components import cast_weights
from leo_diffusers.pipelines.published_pipeline import forget_origins
from leo_diffusers.training.checkpoints import save_atomically
from leo_diffusers.training.curves import plot_losses
from leo_diffusers.training.recipe import Recipe, Stage, add_recipe_arguments, check_recipe_arguments


EXAMPLES = Path(__file__).resolve().parent
PACKAGED = EXAMPLES.parent / "leo_diffusers" / "demo_model"  # of this clone, which may not be what is installed
LARGEST_FILE, LARGEST_MODEL = 16e6, 40e6  # bytes of what may be embedded
SHARED = "--report_to none --checkpoints_total_limit 1 --lr_scheduler cosine"

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
    "--pretrained_model_name_or_path {animator} --motion_codes_dir {codes} --prediction_type sample "
    "--lr_warmup_steps 100 --max_grad_norm 1 --use_ema --ema_decay 0.999 " + SHARED
)
MOTION = (
    "--block_out_channels 64 128 160 --layers_per_block 1 --attention_levels 1 2 --train_batch_size 32 "
    "--learning_rate 1e-3 --beta_schedule squaredcos_cap_v2 --snr_gamma 5 " + DIFFUSION
)
PRIOR = "--hidden_dim 256 --train_batch_size 256 --learning_rate 5e-4 --beta_schedule squaredcos_cap_v2 " + DIFFUSION
FIRST_FRAME = (
    "--train_data_dir {clips} --no_horizontal_flip --patch_size 8 --block_out_channels 128 128 128 "
    "--layers_per_block 1 --attention_size 8 --train_batch_size 16 --learning_rate 8e-4 --snr_gamma 1 "
    "--cache_gigabytes 9 " + DIFFUSION
)


SMOKE_SAMPLES = "--num_validation_samples 2 --num_inference_steps 2"
TRAINING = (
    Stage(
        "clips",
        "render_talking_heads.py",
        "--num_clips 1600 --num_frames 96 --size 128 --people_per_motion 2",
        smoke="--num_clips 6 --num_frames 70",
    ),
    Stage("label-network", "train_label_network.py", LABEL_NETWORK, 2000),
    Stage("animator", "train_lia.py", "--resolution 128 " + ANIMATOR, 10_000),
    Stage(
        "codes",
        "extract_motion_codes.py",
        "--pretrained_model_name_or_path {animator} --train_data_dir {clips} --batch_size 32",
    ),
    Stage("leo", "train_lmdm.py", MOTION, 7000, SMOKE_SAMPLES),
    Stage("transition", "train_lmdm.py", "--condition start_end --sequence_length 32 " + MOTION, 4000, SMOKE_SAMPLES),
    Stage("prior", "train_motion_prior.py", PRIOR, 4000, SMOKE_SAMPLES),
    Stage("first-frame", "train_first_frame.py", FIRST_FRAME, 30_000, f"--train_batch_size 2 {SMOKE_SAMPLES}"),
    # Of another shape, on another seed, and used to softer frames: what judges must not have taught.
    Stage(
        "judge",
        "train_label_network.py",
        "--block_out_channels 24 48 96 160 --layers_per_block 1 --kernel_size 5 --no_keypoints --blur 0.5 "
        f"--motion_weight 5 {LABEL_NETWORK}",
        3000,
        seed=1,
    ),
)
EVALUATION = Stage(
    "evaluation",
    "evaluate_demo_model.py",
    "--model {demo_model} --label_network {label-network} --judge {judge} --motion_codes_dir {codes}",
    smoke="--num_people 2 --num_first_frames 2 --num_endless 1 --endless_frames 96 --num_inference_steps 2",
    needs=("leo", "transition", "prior", "first-frame"),  # the parts of demo_model
)

DESCRIPTION = """\
LEO for synthetic talking heads at 128 pixels: the model that is embedded in leo_diffusers. All of it was trained from
nothing on clips that leo_diffusers renders itself; nobody's face was used.

Videos that it made of pictures of people whom it never saw:

{videos}

People from nothing, the first 64 drawn:

{people}

## Training

In {hours:.1f} hours on {machine}, by

```bash
python examples/train_demo_model.py --seed {seed} --output_dir outputs
```

which runs

```bash
{commands}
```

and casts the networks to half precision. Beyond the papers' recipe, by labels that the renderer knows: the perceptual
loss is the distance in the features of a small network that was trained to read labels off frames
(`--perceptual_loss labels`, in place of VGG19); the flow is pulled to the keypoints', less and less
(`--keypoint_weight`); a linear map must read the motion off the motion code (`--motion_weight`); errors at mouth and
eyes count more (`--region_weight`); half of the pairs are driven by another person in the same motion
(`--cross_identity`). The generator may in-paint colours (`--inpaint_rgb`). There is no discriminator.

{curves}

## Measured

On people and motions that no training saw, by examples/evaluate_demo_model.py:

{table}

## Limits

It animates faces of its own kind only: photos of people come out distorted. The gaze is followed by a third. Where a
picture shows a face turned far away, what it hides is smeared when it turns to the other side.
"""


def assemble(args: argparse.Namespace) -> None:
    r"""Puts the networks together, in half precision."""
    parts = [args.output_dir / name for name in ("transition", "prior", "first-frame")]
    pipeline = assemble_pipeline(args.output_dir / "leo", parts)
    cast_weights(pipeline, torch.float16)

    def save(folder: str) -> None:
        pipeline.save_pretrained(folder)
        forget_origins(folder)

    save_atomically(save, args.output_dir / "demo_model")


def draw_curves(args: argparse.Namespace, path: Path) -> None:
    r"""The losses of every training as one picture."""
    stages = [stage for stage in TRAINING if stage.steps]
    figure = Figure(figsize=(16, 6), layout="constrained")
    axes = figure.subplots(2, -(-len(stages) // 2), squeeze=False)
    for stage, axis in zip(stages, axes.flat):
        plot_losses(axis, args.output_dir / stage.output / "losses.jsonl")
        axis.set_title(stage.output)
        axis.legend(fontsize=7)
    for axis in axes.flat[len(stages) :]:
        axis.remove()
    figure.savefig(path, dpi=60)


def write_card(recipe: Recipe, args: argparse.Namespace) -> None:
    r"""The model card: how the model was made, and how good it is."""
    folder, evaluation = args.output_dir / "demo_model", args.output_dir / "evaluation"
    records = [recipe.records[stage.output] for stage in TRAINING]
    draw_curves(args, folder / "curves.png")
    for name in ("generated.png", "first_frames.png"):
        shutil.copy(evaluation / name, folder / name)
    write_model_card(
        folder,
        title="The embedded model of leo_diffusers",
        description=DESCRIPTION.format(
            videos="![videos that it generated](generated.png)",
            people="![people that it drew](first_frames.png)",
            machine=" and ".join(dict.fromkeys(record["machine"] for record in records)),
            hours=sum(record["minutes"] for record in records) / 60,
            seed=args.seed,
            commands="\n".join(recipe.shown(stage) for stage in recipe.stages),
            curves="![losses](curves.png)",
            table=(evaluation / "table.md").read_text().strip(),
        ),
        usage=EMBEDDED_USAGE,
        license="apache-2.0",
        tags=["unconditional-video-generation", "image-to-video"],
    )


def package(model: Path) -> None:
    r"""Puts a model in the place of the embedded one, whole."""
    sizes = {path: path.stat().st_size for path in model.rglob("*") if path.is_file()}
    too_large = [path.name for path, size in sizes.items() if size > LARGEST_FILE]
    if too_large or sum(sizes.values()) > LARGEST_MODEL:
        raise ValueError(
            f"{model} is too large to be embedded: {sum(sizes.values()):,} bytes, {too_large or 'in all'}."
        )
    new = PACKAGED.with_name(".demo_model.new")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(model, new, copy_function=shutil.copyfile)  # safetensors files are their writer's alone
    shutil.rmtree(PACKAGED, ignore_errors=True)
    new.replace(PACKAGED)
    print(f"Wrote {PACKAGED}.")


def main(args: argparse.Namespace) -> None:
    if args.smoke and args.package:
        raise ValueError("--package cannot go with --smoke: what that trains shows nothing.")
    if args.package and not os.access(PACKAGED.parent, os.W_OK):
        raise PermissionError(f"{PACKAGED.parent} cannot be written to, as --package would.")
    check_recipe_arguments(args)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    recipe = Recipe((*TRAINING, EVALUATION), EXAMPLES, args.output_dir, args.seed, args.smoke, args.mixed_precision)
    recipe.run({stage.output for stage in TRAINING}, args.num_parallel)
    assemble(args)
    recipe.run()
    write_card(recipe, args)
    model = args.output_dir / "demo_model"
    if args.package:
        package(model)
    print(f"\nWrote {model}. Look: leo-diffusers demo --model {model} --output {args.output_dir / 'videos'}")


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="train_demo_model.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_recipe_arguments(parser)
    parser.add_argument("--package", action="store_true", help="replace the embedded model by the result")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser


if __name__ == "__main__":
    run_script(main, build_parser())
