#!/usr/bin/env python
"""
The papers' ablations in miniature: trains every variant of the networks on three seeds, on synthetic talking heads at
64 pixels, and measures them on people and motions that no training saw.

    python examples/train_ablations.py --output_dir outputs/ablations --num_parallel 2

Hours on two CPU cores. --smoke goes through all stages in minutes, for numbers that mean nothing. A run that was
stopped goes on where it was. Tables and plots are in the folders of the tables, and lengths.png beside them.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from leo_diffusers import assemble_pipeline
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.talking_heads import FIRST_HELD_OUT_SEED
from leo_diffusers.evaluation.plots import plot_curves
from leo_diffusers.training.checkpoints import save_atomically
from leo_diffusers.training.recipe import Recipe, Stage, add_recipe_arguments, check_recipe_arguments


EXAMPLES = Path(__file__).resolve().parent
SEEDS = (0, 1, 2)
SHARED = "--report_to none --checkpoints_total_limit 1 --lr_scheduler cosine --lr_warmup_steps 100"
HELD_OUT = f"--size 64 --first_seed {FIRST_HELD_OUT_SEED}"
LABEL_NETWORK = "--train_data_dir {clips} --resolution 64 --max_grad_norm 1 " + SHARED
ANIMATOR = (
    "--train_data_dir {clips} --resolution 64 --block_out_channels 16 32 64 128 128 --latent_dim 256 "
    "--warp_source_image --align_corners --inpaint_rgb --gan_weight 0 --perceptual_loss labels "
    "--label_network {label-network} --perceptual_weight 0.5 --region_weight 12 --keypoint_weight 10 "
    "--keypoint_steps 4000 --motion_weight 2 --no_horizontal_flip --train_batch_size 8 --learning_rate 8e-3 "
    "--adam_beta1 0.9 --max_grad_norm 5 --use_ema --ema_decay 0.998 " + SHARED
)
DIFFUSION = (
    "--pretrained_model_name_or_path {animator-20-0} --motion_codes_dir {codes} --prediction_type sample "
    "--max_grad_norm 1 --use_ema --ema_decay 0.999 " + SHARED
)
MOTION = (
    "--block_out_channels 64 128 160 --layers_per_block 1 --attention_levels 1 2 --train_batch_size 32 "
    "--learning_rate 1e-3 --beta_schedule squaredcos_cap_v2 --snr_gamma 5 " + DIFFUSION
)
PRIOR = "--hidden_dim 256 --train_batch_size 256 --learning_rate 5e-4 --beta_schedule squaredcos_cap_v2 " + DIFFUSION
FIRST_FRAME = (
    "--train_data_dir {clips} --no_horizontal_flip --patch_size 4 --block_out_channels 96 96 96 --layers_per_block 1 "
    "--attention_size 8 --train_batch_size 16 --learning_rate 8e-4 --snr_gamma 1 " + DIFFUSION
)
JUDGED = "--label_network {judge}"
SMOKE_SAMPLES = "--num_validation_samples 2 --num_inference_steps 2"
SMOKE_CLIPS = "--num_clips 4 --num_frames 70"

# LIA, Tables VII and VIII, by the name of the variant in stages and in tables
ANIMATORS = {
    "5": ("5 directions", "--motion_dim 5"),
    "10": ("10 directions", "--motion_dim 10"),
    "20": ("20 directions", "--motion_dim 20"),
    "40": ("40 directions", "--motion_dim 40"),
    "free": ("20 directions, free basis", "--motion_dim 20 --motion_basis free"),
}
# LEO, Tables 4 and 5: the networks of motion
CONDITIONS = {"lmc": "start", "no-lmc": "none"}
LENGTHS = {16: 1, 128: 8, 512: 32}  # frames of a video, and from one that is compared to the next: always 16 are

DATA = (
    Stage(
        "clips",
        "render_talking_heads.py",
        "--num_clips 800 --num_frames 96 --size 64 --people_per_motion 2",
        smoke=SMOKE_CLIPS,
    ),
    Stage("test", "render_talking_heads.py", f"--num_clips 128 --num_frames 128 {HELD_OUT}", smoke=SMOKE_CLIPS),
    Stage(
        "test-long",
        "render_talking_heads.py",
        f"--num_clips 64 --num_frames 512 {HELD_OUT}",
        smoke="--num_clips 4",
    ),
    Stage("label-network", "train_label_network.py", LABEL_NETWORK, 2000),
    # Of another shape, on another seed, and used to softer frames: what judges must not have taught.
    Stage(
        "judge",
        "train_label_network.py",
        "--block_out_channels 24 48 96 160 --layers_per_block 1 --kernel_size 5 --blur 0.5 --motion_weight 5 "
        + LABEL_NETWORK,
        3000,
        seed=10,
    ),
)


def animator_stages() -> list[Stage]:
    r"""Every variant of the animator on every seed."""
    return [
        Stage(f"animator-{name}-{seed}", "train_lia.py", f"{options} {ANIMATOR}", 4000, seed=seed)
        for seed in SEEDS
        for name, (_, options) in ANIMATORS.items()
    ]


def motion_stages() -> list[Stage]:
    r"""What draws codes and first frames for one animator; what is compared on every seed."""
    stages = [
        Stage(
            "codes",
            "extract_motion_codes.py",
            "--pretrained_model_name_or_path {animator-20-0} --train_data_dir {clips} --batch_size 32",
        ),
        Stage("prior", "train_motion_prior.py", PRIOR, 4000, SMOKE_SAMPLES),
        Stage("first-frame", "train_first_frame.py", FIRST_FRAME, 6000, f"--train_batch_size 2 {SMOKE_SAMPLES}"),
    ]
    for seed in SEEDS:
        stages += [
            Stage(f"{name}-{seed}", "train_lmdm.py", f"--condition {condition} {MOTION}", 2500, SMOKE_SAMPLES, seed)
            for name, condition in CONDITIONS.items()
        ]
        transition = f"--condition start_end --sequence_length 32 {MOTION}"
        stages.append(Stage(f"transition-{seed}", "train_lmdm.py", transition, 2500, SMOKE_SAMPLES, seed))
    return stages


def variants(names: dict[str, str], seeds: tuple[int, ...] = SEEDS) -> str:
    r"""By the beginning of the folders' names the title: arguments of evaluate.py ablation."""
    models = {title: " ".join(f"{{{name}-{seed}}}" for seed in seeds) for name, title in names.items()}
    return " ".join(f"--variant '{title}' {folders}" for title, folders in models.items())


def animator_table() -> Stage:
    r"""The table of animators."""
    titles = {f"animator-{name}": title for name, (title, _) in ANIMATORS.items()}
    return Stage(
        "table-animators",
        "evaluate.py",
        f"ablation reconstruction --test_data_dir {{test}} --num_frames 64 {JUDGED} {variants(titles)}",
        smoke="--num_videos 2",
    )


def motion_tables() -> list[Stage]:
    r"""The tables of the networks of motion."""
    networks = tuple(stage.output for stage in motion_stages())
    drawn = f"--protocol stylegan_v --features random_i3d {JUDGED}"
    smoke = "--num_clips 3 --num_inference_steps 2"
    compared = variants({"model-lmc": "with LMC", "model-no-lmc": "without LMC"})
    stages = [
        *(
            Stage(
                name,
                "evaluate.py",
                f"ablation generation --test_data_dir {{test}} --num_clips 128 {drawn} {stride}{compared}",
                smoke=smoke,
                needs=networks,
            )
            for name, stride in (("table-lmc", ""), ("table-lmc-64", "--frame_stride 4 "))
        ),
        # No two clips of the test show the same motion; of the training's, two each do.
        Stage(
            "test-codes",
            "extract_motion_codes.py",
            "--pretrained_model_name_or_path {animator-20-0} --train_data_dir {test} --batch_size 32",
        ),
        Stage(
            "table-repetition",
            "evaluate.py",
            f"ablation repetition --motion_codes_dir {{test-codes}} --num_videos 100 {variants({'model-lmc': 'LEO'})}",
            smoke="--num_videos 2 --num_frames 96 --num_inference_steps 2",
            needs=networks,
        ),
    ]
    for length, stride in LENGTHS.items():
        for transition in ("none", "diffusion") if length > 64 else ("none",):
            stages.append(
                Stage(
                    f"table-{length}-{transition}",
                    "evaluate.py",
                    f"ablation generation --test_data_dir {{test-long}} --num_clips 64 --conditional {drawn} "
                    f"--frame_stride {stride} --transition {transition} {variants({'model-lmc': f'{length} frames'})}",
                    smoke=smoke,
                    needs=networks,
                )
            )
    return stages


def all_stages() -> tuple[Stage, ...]:
    r"""Motion first, whose networks are assembled for its tables before the other animators are trained."""
    return (*DATA, *motion_stages(), *motion_tables(), *animator_stages(), animator_table())


def assemble(output_dir: Path) -> None:
    r"""A model of each motion network, with the other networks of its seed."""
    for seed in SEEDS:
        parts = {"lmc": (f"transition-{seed}", "prior", "first-frame"), "no-lmc": ("first-frame",)}
        for name, names in parts.items():
            pipeline = assemble_pipeline(output_dir / f"{name}-{seed}", [output_dir / part for part in names])
            save_atomically(pipeline.save_pretrained, output_dir / f"model-{name}-{seed}")


def draw_lengths(output_dir: Path) -> None:
    r"""FVD of longer and longer videos with and without transitions, over seeds: lengths.png."""
    means, deviations = {}, {}
    for transition, title in (("none", "without transitions"), ("diffusion", "with transitions")):
        means[title], deviations[title] = [], []
        for length in LENGTHS:
            path = output_dir / f"table-{length}-{transition}" / "results.json"
            runs = json.loads(path.read_text())["variants"][f"{length} frames"] if path.is_file() else []
            distances = [run["fvd"]["mean"] for run in runs] or [np.nan]  # 16 frames have no transition
            means[title].append(float(np.mean(distances)))
            deviations[title].append(float(np.std(distances)))
    lengths = list(map(str, LENGTHS))
    plot_curves(means, lengths, "frames of a video", "FVD (random I3D)", output_dir / "lengths.png", deviations)


def main(args: argparse.Namespace) -> None:
    check_recipe_arguments(args)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(all_stages(), EXAMPLES, args.output_dir, smoke=args.smoke, mixed_precision=args.mixed_precision)
    recipe.run({"animator-20-0", *(stage.output for stage in (*DATA, *motion_stages()))}, args.num_parallel)
    assemble(args.output_dir)
    recipe.run(num_parallel=args.num_parallel)
    for stage in (stage for stage in recipe.stages if stage.output.startswith("table-")):
        print(f"\n{stage.output}\n\n{(args.output_dir / stage.output / 'table.md').read_text()}")
    draw_lengths(args.output_dir)
    minutes = sum(record["minutes"] for record in recipe.records.values())
    print(f"All of it took {minutes / 60:.1f} hours of stages, {args.num_parallel} side by side.")


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="train_ablations.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_recipe_arguments(parser)
    return parser


if __name__ == "__main__":
    run_script(main, build_parser())
