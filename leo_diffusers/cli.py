"""The `leo-diffusers` command: photos and driving videos in, videos out."""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from . import __version__, video_io
from .command_line import OneLineParser, run_command
from .lia_checkpoint import load_lia_checkpoint
from .model_card import ANIMATE_USAGE, write_model_card
from .pipelines.pipeline_leo import LEOPipeline
from .pipelines.pipeline_lia import LIAPipeline


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

CONVERTED_DESCRIPTION = """\
The image animator of LIA at {frame_size} pixels, converted from a checkpoint in the format that its authors released.
LIA's code and weights are licensed CC BY-NC 4.0: attribution is required and commercial use is not allowed."""


def parse_direction(text: str) -> tuple[int, float]:
    r""" "6=0.3" -> (6, 0.3)."""
    try:
        index, amount = text.split("=")
        return int(index), float(amount)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form INDEX=AMOUNT, for example 6=0.3") from None


def parse_reference_frame(text: str) -> int | str:
    r""" "auto" or the index of a driving frame."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is neither "auto" nor the number of a frame') from None


def build_parser() -> argparse.ArgumentParser:
    r"""The parser of all commands."""
    parser = OneLineParser(prog="leo-diffusers", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=OneLineParser)

    def add_command(name: str, run: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.set_defaults(run=run)
        return command

    def add_model_command(
        name: str, run: Callable[[argparse.Namespace], None], help: str, output: str
    ) -> argparse.ArgumentParser:
        r"""A command that runs a model, with the options that all of these share."""
        command = add_command(name, run, help)
        command.add_argument("--model", required=True, help="folder or Hub id of a model")
        command.add_argument("--output", required=True, type=Path, help=output)
        command.add_argument("--seed", type=int, default=0, help="seed of every random draw (default: %(default)s)")
        command.add_argument("--device", default=None, help="cpu, cuda, mps, ... (default: the fastest there is)")
        command.add_argument(
            "--dtype", choices=DTYPES, default="float32", help="number format of the networks (default: %(default)s)"
        )
        return command

    video_output = "video to write: .mp4, .mov, .mkv, .avi, .webm, .gif, or a folder of PNG files"

    animate = add_model_command("animate", run_animate, "Move a photo like the person in a video.", video_output)
    animate.add_argument("--image", required=True, help="the photo")
    animate.add_argument("--driving-video", required=True, help="the video that gives the motion, and the audio")
    animate.add_argument(
        "--motion-mode",
        choices=("relative", "absolute"),
        default="relative",
        help="keep the photo's pose and add the driving motion, or take the driving pose over (default: %(default)s)",
    )
    animate.add_argument(
        "--reference-frame",
        type=parse_reference_frame,
        default=0,
        help='driving frame whose pose is the photo\'s: an index, or "auto" for the nearest (default: %(default)s)',
    )

    generate = add_model_command("generate", run_generate, "Generate video from a photo.", video_output)
    generate.add_argument("--image", required=True, help="the first frame")
    generate.add_argument("--num-frames", type=int, default=64, help="frames per video (default: %(default)s)")
    generate.add_argument("--num-inference-steps", type=int, default=50, help="denoising steps (default: %(default)s)")
    generate.add_argument(
        "--num-videos", type=int, default=1, help="videos to write; more than one are numbered (default: %(default)s)"
    )
    generate.add_argument("--fps", type=float, default=25.0, help="frames per second (default: %(default)s)")

    manipulate = add_model_command(
        "manipulate", run_manipulate, "Move a photo along single motion directions.", "image, or video of the walk"
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
    manipulate.add_argument("--fps", type=float, default=25.0, help="frames per second (default: %(default)s)")

    convert = add_command("convert", run_convert, "Convert a checkpoint that LIA's authors released.")
    convert.add_argument("checkpoint", help="vox.pt, taichi.pt or ted.pt")
    convert.add_argument("output_dir", type=Path, help="folder to write; must be new or empty")
    convert.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="number format of the weights (default: %(default)s)"
    )
    return parser


def load_pipeline(pipeline_class: type, arguments: argparse.Namespace) -> LIAPipeline | LEOPipeline:
    r"""The model of `--model`, on `--device` in `--dtype`."""
    torch.manual_seed(arguments.seed)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    usable = {"cpu"} if accelerator is None else {"cpu", accelerator.type}
    try:
        device = torch.device(arguments.device or accelerator or "cpu")
    except RuntimeError:
        device = None
    if device is None or device.type not in usable:
        raise ValueError(f"--device {arguments.device} is not there: this machine has {' and '.join(sorted(usable))}.")
    return pipeline_class.from_pretrained(arguments.model, dtype=DTYPES[arguments.dtype]).to(device)


def run_animate(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers animate`: in constant memory, at the driving video's frame rate and with its audio."""
    image = video_io.read_image(arguments.image)
    driving = video_io.VideoReader(arguments.driving_video)
    writer = video_io.VideoWriter(arguments.output, driving.frames_per_second, audio_from=arguments.driving_video)
    pipeline = load_pipeline(LIAPipeline, arguments)
    chunks = pipeline.stream(image, arguments.driving_video, arguments.motion_mode, arguments.reference_frame)
    with writer, tqdm(total=len(driving), unit="frame") as progress_bar:
        for frames in chunks:
            writer.write(frames)
            progress_bar.update(len(frames))


def run_generate(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers generate`: one video, or several numbered ones."""
    if arguments.num_videos < 1:
        raise ValueError(f"--num-videos must be at least 1, got {arguments.num_videos}.")
    image = video_io.read_image(arguments.image)
    outputs = [arguments.output]
    if arguments.num_videos > 1:
        stem, suffix = arguments.output.stem, arguments.output.suffix
        outputs = [arguments.output.with_name(f"{stem}-{i}{suffix}") for i in range(arguments.num_videos)]
    writers = [video_io.VideoWriter(output, arguments.fps) for output in outputs]
    pipeline = load_pipeline(LEOPipeline, arguments)
    # One generator a video: video 3 of 4 is the same as with --seed + 3 alone.
    generators = [torch.Generator().manual_seed(arguments.seed + i) for i in range(arguments.num_videos)]
    for writer, generator in zip(writers, generators):
        output = pipeline(
            image,
            num_frames=arguments.num_frames,
            num_inference_steps=arguments.num_inference_steps,
            generator=generator,
            output_type="pt",
        )
        with writer:
            writer.write(output.frames[0] * 2 - 1)


def run_manipulate(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers manipulate`: an image, or a video of the walk to it."""
    is_image = arguments.output.suffix.lower() in video_io.IMAGE_SUFFIXES
    image = video_io.read_image(arguments.image)
    writer = None if is_image else video_io.VideoWriter(arguments.output, arguments.fps)
    pipeline = load_pipeline(LIAPipeline, arguments)
    num_frames = 1 if is_image else arguments.num_frames
    output = pipeline.manipulate(image, dict(arguments.direction), num_frames=num_frames, output_type="pt")
    frames = output.frames[0] * 2 - 1
    if is_image:
        video_io.write_image(arguments.output, frames[0])
        return
    with writer:
        writer.write(frames)


def run_convert(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers convert`: a released checkpoint to a folder that LIAPipeline loads."""
    output_dir = arguments.output_dir
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{output_dir} exists and is not an empty folder: choose another name.")
    animator = load_lia_checkpoint(arguments.checkpoint)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=".convert-") as folder:
        # The folder appears under its name only when it is complete.
        complete = Path(folder) / "pipeline"
        for name, module in animator.named_children():
            if name not in animator._keep_in_fp32_modules:
                module.to(DTYPES[arguments.dtype])
        LIAPipeline(animator).save_pretrained(str(complete))
        write_model_card(
            complete,
            title=f"LIA animator, {animator.config.frame_size} pixels",
            description=CONVERTED_DESCRIPTION.format(frame_size=animator.config.frame_size),
            usage=ANIMATE_USAGE.format(name=output_dir.name),
            license="cc-by-nc-4.0",
            tags=["image-animation"],
        )
        if output_dir.exists():
            output_dir.rmdir()
        shutil.move(complete, output_dir)
    print(f"Wrote {output_dir}: LIAPipeline at {animator.config.frame_size} pixels.")


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
