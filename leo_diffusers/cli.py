"""The `leo-diffusers` command: photos and videos in, videos out."""

import argparse
from collections.abc import Callable
from pathlib import Path

from . import DEMO_MODEL, __version__, commands
from .app import AppSettings, run_app
from .command_line import OneLineParser, parse_direction, parse_reference_frame, parse_seed, run_command
from .demo import LONG_FRAMES, run_demo
from .pipelines.cropping import CROPS


Subparsers = argparse._SubParsersAction
Run = Callable[[argparse.Namespace], None]
VIDEO_OUTPUT = "video to write: .mp4, .mov, .mkv, .avi, .webm, .gif, or a folder of PNG files"


def add_control_options(parser: argparse.ArgumentParser) -> None:
    r"""The options that [`motion_control_of`] reads."""
    group = parser.add_argument_group("motion control")
    group.add_argument(
        "--motion-scale",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="strength of the motion; 0 holds the start still (default: %(default)s)",
    )
    group.add_argument(
        "--direction-scale",
        action="append",
        default=[],
        type=parse_direction,
        metavar="INDEX=FACTOR",
        help="strength along one motion direction, from 0, instead of --motion-scale; 0 freezes it; repeatable",
    )
    group.add_argument(
        "--direction-value",
        action="append",
        default=[],
        type=parse_direction,
        metavar="INDEX=AMOUNT",
        help="move one direction by this amount and hold it there; repeatable",
    )
    group.add_argument(
        "--smoothing",
        type=float,
        default=0.0,
        metavar="FRAMES",
        help="width of a filter against jitter: 1 is light, 3 strong, 0 off (default: %(default)s)",
    )


def add_frame_rate(parser: argparse.ArgumentParser) -> None:
    r"""The frame rate of a video that has no other to follow."""
    parser.add_argument("--fps", type=float, default=25.0, help="frames per second (default: %(default)s)")


def add_first_frame_options(parser: argparse.ArgumentParser) -> None:
    r"""Where the first frame comes from, if not from a photo."""
    parser.add_argument("--prompt", default=None, help="what the first frame shows, for --first-frame-model")
    parser.add_argument(
        "--first-frame-model", default=None, help="folder or Hub id of a diffusers text-to-image pipeline"
    )
    parser.add_argument("--num-inference-steps", type=int, default=50, help="denoising steps (default: %(default)s)")


def add_transfer_options(parser: argparse.ArgumentParser, reference_frame: int | str) -> None:
    r"""How the motion of a video is transferred."""
    parser.add_argument(
        "--motion-mode",
        choices=("relative", "absolute"),
        default="relative",
        help="keep the picture's pose and add the video's motion, or take its pose over (default: %(default)s)",
    )
    parser.add_argument(
        "--reference-frame",
        type=parse_reference_frame,
        default=reference_frame,
        help='frame of the video whose pose is the picture\'s: an index, or "auto" for the nearest '
        "(default: %(default)s)",
    )


def add_crop_options(parser: argparse.ArgumentParser, cropped: str, pasted_into: str) -> None:
    r"""Which square is used of pictures that are not, and whether it goes back into its place."""
    parser.add_argument(
        "--crop",
        choices=CROPS,
        default="center",
        help=f"square to use of {cropped}: auto is around the face, by OpenCV; none refuses what is not square "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--paste-back",
        action="store_true",
        help=f"put the result back into its place in {pasted_into}, at that size",
    )


def add_command(subparsers: Subparsers, name: str, run: Run, help: str) -> argparse.ArgumentParser:
    r"""A command."""
    command = subparsers.add_parser(name, help=help, description=help)
    command.set_defaults(run=run)
    return command


def add_model(command: argparse.ArgumentParser) -> None:
    r"""Which model."""
    command.add_argument(
        "--model", default=DEMO_MODEL, help="folder or Hub id of a model (default: the embedded model)"
    )


def add_model_options(command: argparse.ArgumentParser) -> None:
    r"""Which model runs, and on what."""
    add_model(command)
    command.add_argument("--device", default=None, help="cpu, cuda, mps, ... (default: the fastest there is)")
    command.add_argument(
        "--dtype",
        choices=commands.DTYPES,
        default="float32",
        help="number format of the networks (default: %(default)s)",
    )


def add_editor_options(command: argparse.ArgumentParser) -> None:
    r"""What edits a first frame by a prompt."""
    command.add_argument("--editor", default=None, help="folder or Hub id of a diffusers image pipeline")
    command.add_argument("--controlnet", default=None, help="folder or Hub id of a ControlNet for it")
    command.add_argument("--detector", default=None, help="the ControlNet's: canny, lineart, or one of controlnet-aux")


def add_model_command(subparsers: Subparsers, name: str, run: Run, help: str, output: str) -> argparse.ArgumentParser:
    r"""A command that runs a model, with the options that all of these share."""
    command = add_command(subparsers, name, run, help)
    add_model_options(command)
    command.add_argument("--output", required=True, type=Path, help=output)
    command.add_argument("--seed", type=parse_seed, default=0, help="seed of every random draw (default: %(default)s)")
    return command


def add_demo(subparsers: Subparsers) -> None:
    r"""All that a model does."""
    demo = add_model_command(
        subparsers,
        "demo",
        run_demo,
        "See what a model does: generated, animated, edited and endless videos, and a sheet of all.",
        "folder to write; must be new or empty",
    )
    demo.add_argument("--image", default=None, help="photo to be moved instead of drawn people")
    demo.add_argument(
        "--driving-video",
        default=None,
        help=f"video that animates a picture too, with its first {LONG_FRAMES} frames",
    )


def add_animate(subparsers: Subparsers) -> None:
    r"""A photo moves like a video."""
    animate = add_model_command(
        subparsers, "animate", commands.run_animate, "Move a photo like the person in a video.", VIDEO_OUTPUT
    )
    animate.add_argument("--image", required=True, help="the photo")
    animate.add_argument("--driving-video", required=True, help="the video that gives the motion, and the audio")
    add_crop_options(animate, "photo and video", "the photo")
    # The first frame of just any video may be turned away: motion since then would lead the face beyond its poses.
    add_transfer_options(animate, reference_frame="auto")
    add_control_options(animate)


def add_generate(subparsers: Subparsers) -> None:
    r"""A short video."""
    generate = add_model_command(
        subparsers,
        "generate",
        commands.run_generate,
        "Generate video from photos, from a prompt, or from nothing.",
        VIDEO_OUTPUT,
    )
    generate.add_argument(
        "--image",
        nargs="+",
        action="extend",
        default=[],
        help="the first frame; several give a numbered video each",
    )
    generate.add_argument("--num-frames", type=int, default=64, help="frames per video (default: %(default)s)")
    generate.add_argument(
        "--num-videos",
        type=int,
        default=1,
        help="videos to write, of each photo; more than one are numbered (default: %(default)s)",
    )
    generate.add_argument("--shared-motion", action="store_true", help="show the first photo's motion on all of them")
    add_crop_options(generate, "each first frame", "the photo")
    add_first_frame_options(generate)
    add_frame_rate(generate)
    add_control_options(generate)


def add_stream(subparsers: Subparsers) -> None:
    r"""A long video."""
    stream = add_model_command(
        subparsers,
        "stream",
        commands.run_stream,
        "Generate endless video from a photo, from a prompt, or from nothing.",
        f"{VIDEO_OUTPUT}; - for raw RGB to standard output",
    )
    stream.add_argument("--image", default=None, help="the first frame")
    stream.add_argument(
        "--num-frames", type=int, default=None, help="frames to generate (default: 1024; without end for -)"
    )
    stream.add_argument(
        "--transition",
        choices=("none", "diffusion"),
        default="none",
        help="go on from the last pose, or be led to fresh ones now and then (default: %(default)s)",
    )
    stream.add_argument(
        "--transition-interval",
        type=int,
        default=1,
        help="chunks of motion between two transitions (default: %(default)s)",
    )
    stream.add_argument(
        "--drift-limit",
        type=float,
        default=None,
        help="bend motion back that ends so many standard deviations from the training's mean (default: never)",
    )
    add_crop_options(stream, "the first frame", "the photo")
    add_first_frame_options(stream)
    add_frame_rate(stream)
    add_control_options(stream)


def add_edit(subparsers: Subparsers) -> None:
    r"""A video with another first frame."""
    edit = add_model_command(
        subparsers,
        "edit",
        commands.run_edit,
        "Edit a video by its first frame: the rest follows its motion.",
        VIDEO_OUTPUT,
    )
    edit.add_argument("--video", required=True, help="the video, whose audio is kept")
    edit.add_argument("--edited-frame", default=None, help="its first frame, edited")
    edit.add_argument("--prompt", default=None, help="what --editor shall make of the first frame")
    add_editor_options(edit)
    edit.add_argument("--strength", type=float, default=None, help="of the edit, where the editor has one")
    edit.add_argument("--guidance-scale", type=float, default=None, help="of the prompt, where the editor has one")
    edit.add_argument("--num-inference-steps", type=int, default=None, help="denoising steps of the editor")
    add_crop_options(edit, "the video", "the video")
    add_transfer_options(edit, reference_frame=0)
    add_control_options(edit)


def add_manipulate(subparsers: Subparsers) -> None:
    r"""A photo along single directions."""
    manipulate = add_model_command(
        subparsers,
        "manipulate",
        commands.run_manipulate,
        "Move a photo along single motion directions.",
        "image, or video of the walk",
    )
    manipulate.add_argument("--image", required=True, help="the photo")
    manipulate.add_argument(
        "--direction",
        required=True,
        action="append",
        type=parse_direction,
        metavar="INDEX=AMOUNT",
        help="motion direction, from 0, and the amount to move along it; repeatable",
    )
    manipulate.add_argument(
        "--num-frames",
        type=int,
        default=32,
        help="frames of the walk, where a video is written (default: %(default)s)",
    )
    add_crop_options(manipulate, "the photo", "the photo")
    add_frame_rate(manipulate)


def add_assemble(subparsers: Subparsers) -> None:
    r"""A model of several."""
    assemble = add_command(
        subparsers, "assemble", commands.run_assemble, "Put networks that were trained one by one together."
    )
    assemble.add_argument("--model", required=True, help="output of train_lmdm.py: folder or Hub id")
    assemble.add_argument(
        "--add",
        required=True,
        nargs="+",
        help="outputs of train_motion_prior.py, train_first_frame.py and train_lmdm.py --condition start_end",
    )
    assemble.add_argument("--output", required=True, type=Path, help="folder to write; must be new or empty")
    add_card_options(assemble, license="other")


def add_card_options(parser: argparse.ArgumentParser, license: str | None = None) -> None:
    r"""What a model card cannot know, and may leave out."""
    parser.add_argument(
        "--license",
        default=license,
        help=f"licence of the weights, as the Hub names it (default: {license or 'that of the model'})",
    )
    parser.add_argument("--no-sample", action="store_true", help="write the model card without a picture of a sample")


def add_model_to_export(export: argparse.ArgumentParser) -> None:
    r"""Which model becomes which folder."""
    add_model(export)
    export.add_argument("--output", required=True, type=Path, help="folder to write; must be new or empty")


def add_weights_dtype(command: argparse.ArgumentParser) -> None:
    r"""How weights are written."""
    command.add_argument(
        "--dtype",
        choices=commands.DTYPES,
        default="float32",
        help="number format of the weights (default: %(default)s)",
    )


def add_export_code(subparsers: Subparsers) -> None:
    r"""A model that needs no package."""
    export = add_command(
        subparsers,
        "export-code",
        commands.run_export_code,
        "Write a model with its code: diffusers loads it by trust_remote_code=True, without this package.",
    )
    add_model_to_export(export)
    export.add_argument(
        "--pipeline", choices=commands.PIPELINES, default=None, help="as what it is loaded (default: the model's own)"
    )
    add_weights_dtype(export)
    add_card_options(export)


def add_export(subparsers: Subparsers) -> None:
    r"""An animator that needs no PyTorch."""
    export = add_command(
        subparsers,
        "export",
        commands.run_export,
        "Write a model's animator as ONNX: an encoder and a decoder of frames, which run without PyTorch.",
    )
    add_model_to_export(export)
    export.add_argument(
        "--batch-size",
        type=int,
        default=None,
        metavar="FRAMES",
        help="frames per call, where a runtime wants that number fixed (default: any)",
    )


def add_convert(subparsers: Subparsers) -> None:
    r"""A released checkpoint."""
    convert = add_command(
        subparsers, "convert", commands.run_convert, "Convert a checkpoint that LIA's authors released."
    )
    convert.add_argument("checkpoint", help="vox.pt, taichi.pt or ted.pt")
    convert.add_argument("output_dir", type=Path, help="folder to write; must be new or empty")
    add_weights_dtype(convert)


def add_app(subparsers: Subparsers) -> None:
    r"""All of it in a browser."""
    app = add_command(
        subparsers, "app", run_app, "Open a page that animates, generates, edits and explores in a browser."
    )
    add_model_options(app)
    add_editor_options(app)
    app.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets other machines in (default: %(default)s)",
    )
    app.add_argument("--port", type=int, default=None, help="port (default: the first free one from 7860)")
    for name, unit, what in (
        ("max_upload_megabytes", "MB", "size of an uploaded file"),
        ("max_video_seconds", "SECONDS", "length of an uploaded video"),
        ("max_endless_seconds", "SECONDS", "length of an endless video"),
    ):
        app.add_argument(
            f"--{name.replace('_', '-')}",
            type=int,
            default=getattr(AppSettings, name),
            metavar=unit,
            help=f"{what} at most (default: %(default)s)",
        )


def build_parser() -> argparse.ArgumentParser:
    r"""The parser of all commands."""
    parser = OneLineParser(prog="leo-diffusers", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, parser_class=OneLineParser)
    for add in (
        add_demo,
        add_generate,
        add_animate,
        add_edit,
        add_stream,
        add_manipulate,
        add_app,
        add_assemble,
        add_export_code,
        add_export,
        add_convert,
    ):
        add(subparsers)
    return parser


def main(arguments: list[str] | None = None) -> int:
    r"""
    Runs the command line.

    Args:
        arguments (`list[str]`, *optional*): Words after the program's name; those of the process by default.

    Returns:
        `int`: Exit code: 0, or 2 after one line on standard error where the input was bad.
    """
    parsed = build_parser().parse_args(arguments)
    return run_command("leo-diffusers", parsed.run, parsed)
