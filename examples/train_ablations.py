#!/usr/bin/env python
"""
The papers' ablations in miniature: trains every variant of the networks on three seeds, on synthetic talking heads at
64 pixels, and measures them on people and motions that no training saw.

    python examples/train_ablations.py --output_dir outputs/ablations --num_parallel 2

Hours on two CPU cores. --embedded measures the embedded model instead, at its 128 pixels, and trains nothing but a
judge. --smoke goes through all stages in minutes, for numbers that mean nothing. A run that was stopped goes on where
it was. Tables and plots are in the folders of the tables, and lengths.png beside them.
"""

import argparse
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np

from leo_diffusers import DEMO_MODEL, assemble_pipeline
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.talking_heads import FIRST_HELD_OUT_SEED
from leo_diffusers.evaluation.plots import plot_curves
from leo_diffusers.training.checkpoints import save_atomically
from leo_diffusers.training.recipe import Recipe, Stage, add_recipe_arguments, check_recipe_arguments


EXAMPLES = Path(__file__).resolve().parent
EMBEDDED = shlex.quote(DEMO_MODEL)
SEEDS = (0, 1, 2)
SHARED = "--report_to none --checkpoints_total_limit 1 --lr_scheduler cosine --lr_warmup_steps 100"
LABEL_NETWORK = "--train_data_dir {clips} --max_grad_norm 1 " + SHARED
ANIMATOR = (
    "--train_data_dir {clips} --resolution 64 --block_out_channels 16 32 64 128 128 --latent_dim 256 "
    "--warp_source_image --align_corners --inpaint_rgb --gan_weight 0 --perceptual_loss labels "
    "--label_network {label-network} --perceptual_weight 0.5 --region_weight 12 --keypoint_weight 10 "
    "--keypoint_steps 4000 --motion_weight 2 --no_horizontal_flip --train_batch_size 8 --learning_rate 8e-3 "
    "--adam_beta1 0.9 --max_grad_norm 5 --use_ema --ema_decay 0.998 " + SHARED
)
DIFFUSION = (
    "--motion_codes_dir {codes} --prediction_type sample --max_grad_norm 1 --use_ema --ema_decay 0.999 " + SHARED
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
DRAWN = f"--protocol stylegan_v --features random_i3d {JUDGED}"
FEW_CLIPS, FEW_VIDEOS = "--num_clips 3 --num_inference_steps 2", "--num_videos 2"
SMOKE_SAMPLES = "--num_validation_samples 2 --num_inference_steps 2"
SMOKE_CLIPS = "--num_clips 4 --num_frames 70"
FEW_FRAMES = "--num_frames 96 --num_inference_steps 2"

# LIA, Tables VII and VIII, by the name of the variant in stages and in tables
ANIMATORS = {
    "5": ("5 directions", "--motion_dim 5"),
    "10": ("10 directions", "--motion_dim 10"),
    "20": ("20 directions", "--motion_dim 20"),
    "40": ("40 directions", "--motion_dim 40"),
    "free": ("20 directions, free basis", "--motion_dim 20 --motion_basis free"),
}
FIRST_ANIMATOR = "{animator-20-0}"  # whose codes motion is made of
# LEO, Tables 4 and 5: networks of motion
MOTION_NETWORKS = {
    "lmc": "--condition start",
    "no-lmc": "--condition none",
    "transition": "--condition start_end --sequence_length 32",
}
MODELS = {f"model-{name}-{seed}" for name in ("lmc", "no-lmc") for seed in SEEDS}  # put together of all networks
LENGTHS = {16: 1, 128: 8, 512: 32}  # frames of a video, and from one that is compared to the next: always 16 are


def data_stages(size: int) -> list[Stage]:
    r"""Clips of this size in pixels to train on, those that are held out, and the network that reads them."""
    held_out = f"--size {size} --first_seed {FIRST_HELD_OUT_SEED}"
    return [
        Stage(
            "clips",
            "render_talking_heads.py",
            f"--num_clips 800 --num_frames 96 --size {size} --people_per_motion 2",
            smoke=SMOKE_CLIPS,
        ),
        Stage("test", "render_talking_heads.py", f"--num_clips 128 --num_frames 128 {held_out}", smoke=SMOKE_CLIPS),
        Stage(
            "test-long",
            "render_talking_heads.py",
            f"--num_clips 64 --num_frames 512 {held_out}",
            smoke="--num_clips 4",
        ),
        # Of another shape than the network that teaches, on another seed, and used to softer frames.
        Stage(
            "judge",
            "train_label_network.py",
            "--block_out_channels 24 48 96 160 --layers_per_block 1 --kernel_size 5 --blur 0.5 --motion_weight 5 "
            f"--resolution {size} {LABEL_NETWORK}",
            3000,
            seed=10,
        ),
    ]


def animator_stages() -> list[Stage]:
    r"""What teaches animators, and every variant of them on every seed."""
    teacher = Stage("label-network", "train_label_network.py", f"--resolution 64 {LABEL_NETWORK}", 2000)
    return [
        teacher,
        *(
            Stage(f"animator-{name}-{seed}", "train_lia.py", f"{options} {ANIMATOR}", 4000, seed=seed)
            for seed in SEEDS
            for name, (_, options) in ANIMATORS.items()
        ),
    ]


def extraction(output: str, animator: str, clips: str) -> Stage:
    r"""The codes of some clips."""
    return Stage(
        output,
        "extract_motion_codes.py",
        f"--pretrained_model_name_or_path {animator} --train_data_dir {clips} --batch_size 32",
    )


def motion_stages() -> list[Stage]:
    r"""What draws codes and first frames for one animator; what is compared on every seed."""
    pretrained = f"--pretrained_model_name_or_path {FIRST_ANIMATOR}"
    few_frames = f"--train_batch_size 2 {SMOKE_SAMPLES}"
    return [
        extraction("codes", FIRST_ANIMATOR, "{clips}"),
        Stage("prior", "train_motion_prior.py", f"{pretrained} {PRIOR}", 4000, SMOKE_SAMPLES),
        Stage("first-frame", "train_first_frame.py", f"{pretrained} {FIRST_FRAME}", 6000, few_frames),
        *(
            Stage(f"{name}-{seed}", "train_lmdm.py", f"{options} {pretrained} {MOTION}", 2500, SMOKE_SAMPLES, seed)
            for seed in SEEDS
            for name, options in MOTION_NETWORKS.items()
        ),
    ]


def variants(names: dict[str, str], seeds: tuple[int, ...] = SEEDS) -> str:
    r"""By the beginning of the folders' names the title: arguments of evaluate.py ablation."""
    models = {title: " ".join(f"{{{name}-{seed}}}" for seed in seeds) for name, title in names.items()}
    return " ".join(f"--variant '{title}' {folders}" for title, folders in models.items())


def table(output: str, task: str, arguments: str, smoke: str, needs: tuple[str, ...] = ()) -> Stage:
    r"""A table of evaluate.py."""
    return Stage(f"table-{output}", "evaluate.py", f"{task} {arguments}", smoke=smoke, needs=needs)


def length_tables(task: str, compared: Callable[[int], str], needs: tuple[str, ...] = ()) -> list[Stage]:
    r"""Longer and longer videos that begin with frames of real ones, with and without transitions."""
    return [
        table(
            f"{length}-{transition}",
            task,
            f"--test_data_dir {{test-long}} --num_clips 64 --conditional {DRAWN} --frame_stride {stride} "
            f"--transition {transition} {compared(length)}",
            FEW_CLIPS,
            needs,
        )
        for length, stride in LENGTHS.items()
        for transition in (("none", "diffusion") if length > 64 else ("none",))
    ]


def animator_table() -> Stage:
    r"""The table of animators."""
    titles = {f"animator-{name}": title for name, (title, _) in ANIMATORS.items()}
    reconstruction = f"--test_data_dir {{test}} --num_frames 64 {JUDGED} {variants(titles)}"
    return table("animators", "ablation reconstruction", reconstruction, FEW_VIDEOS)


def motion_tables() -> list[Stage]:
    r"""The tables of the networks of motion."""
    networks = tuple(stage.output for stage in motion_stages())
    from_nothing = f"--test_data_dir {{test}} --num_clips 128 {DRAWN}"
    conditions = variants({"model-lmc": "with LMC", "model-no-lmc": "without LMC"})
    # What of the error comes from the poses that the motion prior draws for LMC to start from.
    poses = f"--start_codes_dir {{test-codes}} {variants({'model-lmc': 'with LMC, real poses'})}"
    repetition = f"--motion_codes_dir {{test-codes}} --num_videos 100 {variants({'model-lmc': 'LEO'})}"
    return [
        # No two clips of the test show the same motion; of the training's, two each do.
        extraction("test-codes", FIRST_ANIMATOR, "{test}"),
        table("lmc", "ablation generation", f"{from_nothing} {conditions}", FEW_CLIPS, networks),
        table("lmc-poses", "ablation generation", f"{from_nothing} {poses}", FEW_CLIPS, networks),
        table("repetition", "ablation repetition", repetition, f"{FEW_VIDEOS} {FEW_FRAMES}", networks),
        *length_tables("ablation generation", lambda length: variants({"model-lmc": f"{length} frames"}), networks),
    ]


def embedded_stages() -> tuple[Stage, ...]:
    r"""Those of the embedded model, evaluate.py's default."""
    reconstruction = f"--test_data_dir {{test}} --num_frames 64 {JUDGED}"
    from_nothing = f"--test_data_dir {{test}} --num_clips 128 {DRAWN}"
    repetition = "--motion_codes_dir {test-codes} --num_videos 100"
    return (
        *data_stages(size=128),
        extraction("test-codes", EMBEDDED, "{test}"),
        table("reconstruction", "reconstruction", reconstruction, FEW_VIDEOS),
        table("nothing", "generation", from_nothing, FEW_CLIPS),
        # What of the error comes from the poses that the motion prior draws.
        table("nothing-poses", "generation", f"{from_nothing} --start_codes_dir {{test-codes}}", FEW_CLIPS),
        *length_tables("generation", lambda length: ""),
        table("repetition", "repetition", repetition, f"{FEW_VIDEOS} {FEW_FRAMES}"),
    )


def all_stages() -> tuple[Stage, ...]:
    r"""Those of the ablations."""
    return (*data_stages(size=64), *motion_stages(), *animator_stages(), animator_table(), *motion_tables())


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
            results = json.loads(path.read_text()) if path.is_file() else {"variants": {}}
            # Of several models or, where there are no variants, of one; 16 frames have no transition.
            runs = results["variants"].get(f"{length} frames", []) if "variants" in results else [results]
            distances = [run["fvd"]["mean"] for run in runs] or [np.nan]
            means[title].append(float(np.mean(distances)))
            deviations[title].append(float(np.std(distances)))
    lengths = list(map(str, LENGTHS))
    plot_curves(means, lengths, "frames of a video", "FVD (random I3D)", output_dir / "lengths.png", deviations)


def main(args: argparse.Namespace) -> None:
    check_recipe_arguments(args)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    stages = embedded_stages() if args.embedded else all_stages()
    recipe = Recipe(stages, EXAMPLES, args.output_dir, smoke=args.smoke, mixed_precision=args.mixed_precision)
    if not args.embedded:
        recipe.run({stage.output for stage in stages if not stage.inputs & MODELS}, args.num_parallel)
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
    parser.add_argument("--embedded", action="store_true", help="measure the embedded model")
    return parser


if __name__ == "__main__":
    run_script(main, build_parser())
