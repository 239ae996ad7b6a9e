#!/usr/bin/env python
"""
Measures a model as the papers measure theirs, and writes results.json, table.md and pictures.

    python examples/evaluate.py reconstruction --model animator --test_data_dir data/vox/test --output_dir results
    python examples/evaluate.py generation --model leo --test_data_dir data/ffs/train --protocol stylegan_v \\
        --features i3d --features_weights i3d_pretrained_400.pt --output_dir results

Measurements are kept one by one: a run that was stopped goes on where it was, and `accelerate launch` splits them
over processes. A number is only as good as its protocol: every results.json names it.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from diffusers import DiffusionPipeline

from leo_diffusers import DEMO_MODEL, LEOInfinitePipeline, LIAPipeline, video_io
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.commands import check_model
from leo_diffusers.data.motion_codes import MotionCodes, hash_tensors
from leo_diffusers.data.video_clips import VideoClip, find_clips, identify_clips
from leo_diffusers.evaluation.arguments import add_reader_arguments, build_readers
from leo_diffusers.evaluation.comparison import ABLATION_TABLES, PAPER_TABLES, comparable_rows
from leo_diffusers.evaluation.cross import evaluate_cross
from leo_diffusers.evaluation.generation import (
    evaluate_generation,
    generation_settings,
    real_settings,
    smaller,
)
from leo_diffusers.evaluation.measured_rows import mean_row, measured_row, preference_row
from leo_diffusers.evaluation.paper_tables import METRICS, MeasuredRow, PaperRow, markdown_table
from leo_diffusers.evaluation.parts import EvaluationParts, write_bytes, write_json
from leo_diffusers.evaluation.plots import plot_variants
from leo_diffusers.evaluation.real_clips import count_codecs
from leo_diffusers.evaluation.reconstruction import evaluate_reconstruction
from leo_diffusers.evaluation.repetition import RepetitionSettings, evaluate_repetition, repetition_settings
from leo_diffusers.evaluation.speed import measure_speed
from leo_diffusers.evaluation.user_study import score_user_study, write_user_study
from leo_diffusers.evaluation.video_maker import GenerationSettings, describe_pipeline
from leo_diffusers.metrics.protocols import PROTOCOLS
from leo_diffusers.training.arguments import check_processes


VERSION = version("leo_diffusers")
MEASURES = 2  # raised where what a part holds comes to mean something else: such parts must not mix
LONGEST_WAIT = timedelta(days=7)  # of a process for the others


@dataclass(frozen=True)
class Report:
    r"""
    What was measured of a model.

    Args:
        results (`dict`): For results.json.
        rows (`list[MeasuredRow]`): For table.md, beside the papers' rows; no table without.
    """

    results: dict
    rows: list[MeasuredRow]


# ------------------------------------------------------------------------------------------------------------- parse


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="results.json, table.md, pictures, and what is measured so far"
    )


def add_dataset_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default=None, help="show the papers' rows of it too, such as VoxCeleb")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=DEMO_MODEL, help="folder or Hub id (default: the embedded model)")


def add_clip_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--test_data_dir", type=Path, required=True, help="folder of videos, or of folders of frames")
    add("--split", default="test", help="where its metadata.csv names splits; all of them: all (default: %(default)s)")
    add(
        "--num_videos", type=int, default=None, help="only so many of them, in the order of their names (default: all)"
    )


def add_reconstruction(parser: argparse.ArgumentParser) -> None:
    add_clip_arguments(parser)
    add_reader_arguments(parser, "lpips", "keypoints", "identity")
    parser.add_argument("--num_frames", type=int, default=None, help="of each video, from its start (default: all)")


def add_cross(parser: argparse.ArgumentParser) -> None:
    add_clip_arguments(parser)
    add_reader_arguments(parser, "identity", "video_fid")
    parser.add_argument("--num_frames", type=int, default=100, help="of each video (default: %(default)s, LIA's)")
    parser.add_argument("--num_pairs", type=int, default=None, help="source and driver (default: one per video)")
    parser.add_argument("--seed", type=int, default=0, help="of the pairs (default: %(default)s)")


def add_generation(parser: argparse.ArgumentParser) -> None:
    add_clip_arguments(parser)
    add_reader_arguments(parser, "identity", "fvd")
    add = parser.add_argument
    add("--protocol", choices=PROTOCOLS, required=True, help="which clips are compared with how many, how often")
    add("--num_clips", type=int, default=None, help="fewer than the protocol's: no number of a paper (default: all)")
    add("--repeats", type=int, default=None, help="fewer trials than the protocol's (default: all)")
    add("--num_frames", type=int, default=16, help="that are compared of each video (default: %(default)s)")
    add("--frame_stride", type=int, default=1, help="from one of them to the next; LEO's Taichi: 4 (%(default)s)")
    add("--fake_stride", type=int, default=None, help="the same of generated videos (default: --frame_stride)")
    add("--conditional", action="store_true", help="begin with frames of the real videos (default: from nothing)")
    add("--start_codes_dir", type=Path, default=None, help="begin in poses of these codes (default: the prior's)")
    add("--transition", choices=("none", "diffusion"), default="none", help="of long videos (default: %(default)s)")
    add("--num_inference_steps", type=int, default=50, help="denoising steps (default: %(default)s)")


def add_repetition(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--motion_codes_dir", type=Path, required=True, help="of real clips, by the model's animator")
    add("--images", type=Path, nargs="+", default=None, help="what videos begin with (default: the motion prior)")
    add("--num_videos", type=int, default=256, help="with and without transitions (default: %(default)s)")
    add("--num_frames", type=int, default=512, help="of each (default: %(default)s)")
    add("--window", type=int, default=32, help="frames of a motion that recurs (default: %(default)s)")
    add("--num_inference_steps", type=int, default=50, help="denoising steps (default: %(default)s)")
    add("--seed", type=int, default=0, help="default: %(default)s")


def add_speed(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--lengths", type=int, nargs="+", default=[64, 512], help="frames of the videos (default: %(default)s)")
    add("--num_inference_steps", type=int, default=50, help="denoising steps (default: %(default)s)")
    add("--repeats", type=int, default=3, help="measurements, of which the median counts (default: %(default)s)")


def add_ablation(commands: argparse._SubParsersAction) -> None:
    r"""The tasks that can be ablated, with their own arguments."""
    parser = commands.add_parser("ablation", help="variants of a model, each trained on several seeds, in one table")
    tasks = parser.add_subparsers(dest="ablated", required=True, metavar="TASK", parser_class=OneLineParser)
    for name in ("reconstruction", "generation", "repetition"):
        task = tasks.add_parser(name, help=TASKS[name].title, formatter_class=argparse.RawTextHelpFormatter)
        add_output_argument(task)
        add_dataset_argument(task)
        task.add_argument("--paper_table", choices=ABLATION_TABLES[name], default=None, help="which one of --dataset")
        task.add_argument(
            "--variant",
            nargs="+",
            action="append",
            required=True,
            metavar=("NAME", "MODEL"),
            help='a name, and its models: --variant "20 directions" run-0 run-1 run-2; once for each variant',
        )
        TASKS[name].add_arguments(task)


def add_user_study(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("user_study", help="paired forced choice (LEO, Table 3)")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=OneLineParser)
    write = actions.add_parser("write", help="a page that shows pairs of videos")
    write.add_argument(
        "--videos", nargs=2, action="append", required=True, metavar=("NAME", "FOLDER"), help="a method"
    )
    write.add_argument("--seed", type=int, default=0, help="of the order (default: %(default)s)")
    score = actions.add_parser("score", help="what raters answered")
    score.add_argument("--key", type=Path, required=True, help="key.json of the study")
    score.add_argument("--answers", type=Path, nargs="+", required=True, help="the files that raters sent back")
    add_dataset_argument(score)
    for action in (write, score):
        action.add_argument("--output_dir", type=Path, required=True, help="folder of the study, or of its result")


def build_parser() -> argparse.ArgumentParser:
    formatter = {"formatter_class": argparse.RawTextHelpFormatter}
    parser = OneLineParser(prog="evaluate.py", description=__doc__, **formatter)
    commands = parser.add_subparsers(dest="task", required=True, metavar="TASK", parser_class=OneLineParser)
    for name, task in TASKS.items():
        command = commands.add_parser(name, help=task.title, description=task.title, **formatter)
        add_model_arguments(command)
        add_output_argument(command)
        if name in PAPER_TABLES:
            add_dataset_argument(command)
        task.add_arguments(command)
    add_ablation(commands)
    add_user_study(commands)
    return parser


# ------------------------------------------------------------------------------------------------------------- build


def load_model(args: argparse.Namespace, accelerator: Accelerator) -> DiffusionPipeline:
    r"""The model of `--model`, in float32."""
    check_model(args.model)
    pipeline = DiffusionPipeline.from_pretrained(args.model, dtype=torch.float32).to(accelerator.device)
    args.frame_size = pipeline.animator.config.frame_size
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def find_test_clips(args: argparse.Namespace, accelerator: Accelerator) -> list[VideoClip]:
    r"""The clips of `--test_data_dir`."""
    if args.num_videos is not None and args.num_videos < 1:
        raise ValueError(f"--num_videos must be at least 1, got {args.num_videos}.")
    # The main process looks at the clips; the others read what it found.
    with accelerator.main_process_first():
        split = None if args.split == "all" else args.split
        clips, report = find_clips(args.test_data_dir, split=split, cache=args.shared_dir / ".clips.json")
    args.clips = identify_clips(clips)
    too_short = {name: f"It has {count} frames." for name, count in report.too_short.items()}
    args.left_out = report.unreadable | too_short
    return clips[: args.num_videos]


def describe_clips(args: argparse.Namespace, clips: list[VideoClip]) -> dict[str, object]:
    r"""The data in a result: where they lie, which files they are, how these are coded."""
    return {"test_data_dir": str(args.test_data_dir.resolve()), "clips": args.clips, "codecs": count_codecs(clips)}


def keep_parts(args: argparse.Namespace, accelerator: Accelerator, **settings: object) -> EvaluationParts:
    r"""Where the measurements of a task are kept."""
    settings = {"task": args.task, "version": VERSION, "measures": MEASURES, "frame_size": args.frame_size, **settings}
    return EvaluationParts(args.output_dir, settings, accelerator)


# ----------------------------------------------------------------------------------------------------------- measure


def title_of(args: argparse.Namespace, *measured: str | None) -> str:
    r"""A model's name, and what its numbers depend on; beside the papers' rows its size too, as theirs have it."""
    size = None if args.dataset is None else f"{args.frame_size}px"
    known = ", ".join(filter(None, (size, *measured)))
    return f"{args.model_name} ({known})" if known else args.model_name


def measure_reconstruction(args: argparse.Namespace, accelerator: Accelerator) -> Report:
    pipeline = LIAPipeline.from_pipe(load_model(args, accelerator))
    clips, readers = find_test_clips(args, accelerator), build_readers(args, accelerator.device)
    settings = {"model": describe_pipeline(pipeline), "readers": readers.describe(), "num_frames": args.num_frames}
    parts = keep_parts(args, accelerator, **describe_clips(args, clips), **settings)
    results = evaluate_reconstruction(pipeline, clips, readers, parts, args.num_frames)
    rows = [measured_row("copying the source", results["copy"]), measured_row(title_of(args), results["model"])]
    return Report(results, rows)


def measure_cross(args: argparse.Namespace, accelerator: Accelerator) -> Report:
    pipeline = LIAPipeline.from_pipe(load_model(args, accelerator))
    clips, readers = find_test_clips(args, accelerator), build_readers(args, accelerator.device)
    drawn = {"num_frames": args.num_frames, "num_pairs": args.num_pairs, "seed": args.seed}
    settings = {"model": describe_pipeline(pipeline), "readers": readers.describe(), **drawn}
    parts = keep_parts(args, accelerator, **describe_clips(args, clips), **settings)
    results = evaluate_cross(pipeline, clips, readers, parts, **drawn)
    # Of which scale a video FID is, and whether of random weights, hangs on the features.
    return Report(results, [measured_row(title_of(args, args.features), results["model"])])


def measure_generation(args: argparse.Namespace, accelerator: Accelerator) -> Report:
    pipeline = load_model(args, accelerator)
    clips, readers = find_test_clips(args, accelerator), build_readers(args, accelerator.device)
    protocol = PROTOCOLS[args.protocol]
    num_clips = protocol.num_clips if args.num_clips is None else args.num_clips
    repeats = protocol.repeats if args.repeats is None else args.repeats
    settings = GenerationSettings(
        args.num_frames,
        args.frame_stride,
        args.frame_stride if args.fake_stride is None else args.fake_stride,
        args.conditional,
        args.num_inference_steps,
        args.transition,
    )
    protocol = smaller(protocol, num_clips, repeats)
    start_codes = None
    if args.start_codes_dir is not None:
        start_codes = MotionCodes.load_made_by(pipeline.animator, args.start_codes_dir).codes
    described = generation_settings(pipeline, readers, protocol, settings, start_codes)
    parts = keep_parts(args, accelerator, **describe_clips(args, clips), **described)
    frame_size = pipeline.animator.config.frame_size
    # With what identifies the clips, which variants that are added later must share.
    real = {**describe_clips(args, clips), "num_videos": len(clips), "version": VERSION}
    real |= real_settings(frame_size, readers, protocol, settings)
    real_parts = EvaluationParts(args.shared_dir / f"real-{frame_size}", real, accelerator)
    results = evaluate_generation(pipeline, clips, readers, real_parts, parts, protocol, settings, start_codes)
    names = [name for name in ("fvd", "kvd", "acd") if name in results]
    deviations = {name: results[name]["std"] for name in names if protocol.repeats > 1}
    # So that a trial with few clips or a network of random weights is not taken for a number of the papers.
    counts = f"{results['num_real']} real and {results['num_fake']} generated"
    trials = None if repeats == PROTOCOLS[args.protocol].repeats else f"{repeats} trials"
    begins = "cond" if args.conditional else "from given poses" if args.start_codes_dir is not None else "uncond"
    transitions = None if args.transition == "none" else "transitions"
    title = title_of(args, begins, transitions, args.protocol, trials, counts, args.features)
    return Report(results, [measured_row(title, {name: results[name]["mean"] for name in names}, deviations)])


def measure_repetition(args: argparse.Namespace, accelerator: Accelerator) -> Report:
    pipeline = LEOInfinitePipeline.from_pipe(load_model(args, accelerator))
    transitions = ("none",) if pipeline.transition_unet is None else ("none", "diffusion")
    settings = RepetitionSettings(
        args.num_videos, args.num_frames, args.num_inference_steps, transitions, args.window, seed=args.seed
    )
    reference = MotionCodes.load_made_by(pipeline.animator, args.motion_codes_dir)
    images = None if args.images is None else [video_io.read_image(path) for path in args.images]
    parts = keep_parts(
        args,
        accelerator,
        images=None if images is None else [hash_tensors({"image": image}) for image in images],
        **repetition_settings(pipeline, reference, settings),
    )
    results = evaluate_repetition(pipeline, images, reference, parts, settings)
    titles = {"none": "without transitions, computed", "diffusion": "with transitions, computed"}  # not by raters
    rows = [
        MeasuredRow(f"{args.model_name}, {titles[name]}", {"repeated_motion": found["share"]})
        for name, found in results["transitions"].items()
    ]
    return Report(results, rows)


def measure_speed_of_model(args: argparse.Namespace, accelerator: Accelerator) -> Report:
    if accelerator.num_processes > 1:
        raise ValueError(f"Speed is measured by one process, got {accelerator.num_processes}: run it with python.")
    pipeline = load_model(args, accelerator)
    results = measure_speed(pipeline, args.lengths, args.num_inference_steps, args.repeats)
    measured = {"lengths": args.lengths, "num_inference_steps": args.num_inference_steps, "repeats": args.repeats}
    settings = {"task": args.task, "version": VERSION, "model": describe_pipeline(pipeline), **measured}
    return Report({**results, "settings": settings}, [])


@dataclass(frozen=True)
class Task:
    r"""
    A sub-command.

    Args:
        title (`str`): What it measures.
        add_arguments (`Callable`): Parser -> nothing.
        measure (`Callable`): Arguments and accelerator -> report, the same on every process.
    """

    title: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace, Accelerator], Report]


TASKS = {
    "reconstruction": Task(
        "videos from their first frames (LIA, Table I)", add_reconstruction, measure_reconstruction
    ),
    "cross": Task("people driven by others (LIA, Table III)", add_cross, measure_cross),
    "generation": Task("generated videos (LEO, Tables 1, 2 and 6)", add_generation, measure_generation),
    "repetition": Task("motion that recurs in long videos (LEO, Table 5)", add_repetition, measure_repetition),
    "speed": Task("seconds, frames per second and memory", add_speed, measure_speed_of_model),
}


def measure_model(task: str, args: argparse.Namespace, accelerator: Accelerator) -> Report:
    r"""A task's report, whose results tell the settings that its parts were measured with."""
    report, path = TASKS[task].measure(args, accelerator), args.output_dir / "settings.json"
    # Speed keeps no parts, and a file that lies there is another task's.
    results = {"settings": json.loads(path.read_text())} | report.results if task != "speed" else report.results
    if "left_out" in results:
        results["left_out"] = getattr(args, "left_out", {}) | results["left_out"]
    return replace(report, results=results)


def measure_variants(args: argparse.Namespace, accelerator: Accelerator) -> Report:
    r"""Each variant's models one by one, then means and standard deviations (of N) over them."""
    names = [variant[0] for variant in args.variant]
    if min(map(len, args.variant)) < 2 or len(set(names)) < len(names):
        raise ValueError(f"--variant needs a name of its own and a model, got {' and '.join(map(repr, names))}.")
    for model in (model for _, *models in args.variant for model in models):
        check_model(model)
    results, rows = {}, {}
    for number, (name, *models) in enumerate(args.variant):
        reports = []
        for index, model in enumerate(models):
            folder = args.output_dir / f"variant-{number}-{index}"
            folder.mkdir(exist_ok=True)
            ours = argparse.Namespace(**vars(args) | {"model": model, "model_name": name, "output_dir": folder})
            reports.append(measure_model(args.ablated, ours, accelerator))
        results[name] = [report.results for report in reports]  # each with its settings
        for place in range(max(len(report.rows) for report in reports)):  # some may lack the last: transitions
            row = mean_row([report.rows[place] for report in reports if place < len(report.rows)])
            rows.setdefault(row.method, row)
    return Report({"variants": results}, list(rows.values()))


# -------------------------------------------------------------------------------------------------------------- main


def find_paper_rows(args: argparse.Namespace) -> list[PaperRow]:
    r"""What the papers say of `--dataset`; a ValueError where they do not, or measured otherwise."""
    table = getattr(args, "paper_table", None)
    if getattr(args, "dataset", None) is None:
        if table is not None:
            raise ValueError(f"--paper_table {table} has no effect without --dataset: name both.")
        return []
    tables = ABLATION_TABLES[args.ablated] if args.task == "ablation" else PAPER_TABLES[args.task]
    return comparable_rows(tables if table is None else (table,), args.dataset, vars(args))


def save(report: Report, papers: list[PaperRow], args: argparse.Namespace) -> None:
    r"""Writes what was measured, and says it."""
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_json(args.output_dir / "results.json", report.results)
    if not report.rows:
        print(json.dumps(report.results, indent=1))
        return
    found = {name for row in (*papers, *report.rows) for name in row.values}
    table = markdown_table([name for name in METRICS if name in found], [*papers, *report.rows])
    write_bytes(args.output_dir / "table.md", f"{table}\n".encode())
    print(table)
    if args.task == "ablation":
        plot_variants(report.rows, args.output_dir / "variants.png")


def run_user_study(args: argparse.Namespace) -> None:
    if args.action == "write":
        names = [name for name, _ in args.videos]
        if len(set(names)) < len(names):
            raise ValueError(f"--videos needs a name of its own for each method, got {' and '.join(names)}.")
        videos = {name: video_io.find_videos(Path(folder)) for name, folder in args.videos}
        print(f"Wrote {write_user_study(videos, args.output_dir, args.seed)}: send its folder to raters.")
        return
    papers, scores = find_paper_rows(args), score_user_study(args.key, args.answers)
    save(Report(scores, [preference_row(comparison) for comparison in scores["comparisons"]]), papers, args)


def main(args: argparse.Namespace) -> None:
    if args.task == "user_study":
        run_user_study(args)
        return
    papers = find_paper_rows(args)
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)])
    check_processes(accelerator)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    args.shared_dir = args.output_dir  # of all models of an ablation
    if args.task == "ablation":
        report = measure_variants(args, accelerator)
    else:
        args.model_name = "the embedded model" if args.model == DEMO_MODEL else Path(args.model).name
        report = measure_model(args.task, args, accelerator)
    if accelerator.is_main_process:
        save(report, papers, args)
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main, build_parser())
