"""Publishing a trained model: to its folder with a model card, and to the Hub."""

import argparse
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
from accelerate import Accelerator
from huggingface_hub import HfApi

from ..model_card import write_model_card
from .curves import draw_training_curves


SAMPLE_SIZE = (1024, 2048)  # pixels of a card's picture, at most


def hub_repository(accelerator: Accelerator, args: argparse.Namespace) -> str | None:
    r"""
    Creates the repository that `--push_to_hub` will fill, before any work is done that its refusal would waste.

    Returns:
        `str` or None: The repository's id.
    """
    if not args.push_to_hub or not accelerator.is_main_process:
        return None
    name = args.hub_model_id or Path(args.output_dir).resolve().name
    return HfApi(token=args.hub_token).create_repo(name, exist_ok=True).repo_id


def upload_model(args: argparse.Namespace, repository: str) -> None:
    r"""Uploads the output folder, without training state and hidden files."""
    HfApi(token=args.hub_token).upload_folder(
        repo_id=repository,
        folder_path=str(args.output_dir),
        commit_message="End of training",
        ignore_patterns=["checkpoint-*", "abandoned-*", ".*", f"{Path(args.logging_dir).as_posix()}/*"],
    )


def command_line(script: str, args: argparse.Namespace, defaults: dict) -> str:
    r"""The command that repeats a run: a script's name and those arguments that differ from their defaults."""
    words = [f"accelerate launch examples/{script}"]
    for name, value in vars(args).items():
        if name in ("hub_token", "resume_from_checkpoint", "push_to_hub") or value == defaults.get(name):
            continue
        if isinstance(value, bool):
            words.append(f"--{name}")
        elif isinstance(value, (list, tuple)):
            words.append(f"--{name} {shlex.join(map(str, value))}")
        else:
            # Files are told by their last part: a card does not tell how a disk is laid out.
            is_path = isinstance(value, Path) or (isinstance(value, str) and Path(value).exists())
            words.append(f"--{name} {shlex.quote(Path(value).name if is_path else str(value))}")
    return " \\\n  ".join(words)


def describe_clips(folder: str | Path, num_frames: Sequence[int], frames_per_second: Sequence[float]) -> str:
    r"""
    What a network was trained on, for its card.

    Args:
        folder (`str` or `Path`): Of the clips, or of their codes, which is told by its last part.
        num_frames (`Sequence[int]`): Of each clip.
        frames_per_second (`Sequence[float]`): Of each clip.

    Returns:
        `str`: One line of markdown.
    """
    seconds = sum(count / rate for count, rate in zip(num_frames, frames_per_second))
    unit, name = next(
        one for one in ((3600, "hours"), (60, "minutes"), (1, "seconds")) if seconds >= one[0] or one[0] == 1
    )
    length = f"{seconds / unit:.1f} {name}"
    return f"`{Path(folder).resolve().name}`: {len(num_frames):,} clips, {sum(num_frames):,} frames, {length}."


def describe_stream(args: argparse.Namespace, num_shards: int) -> str:
    r"""The same of a data set that is streamed, which nobody has counted."""
    name = Path(args.dataset_name).resolve().name if Path(args.dataset_name).exists() else args.dataset_name
    configuration = f", configuration {args.dataset_config_name}" if args.dataset_config_name else ""
    return f"`{name}`, split {args.dataset_split}{configuration}: streamed from {num_shards} shards."


def copy_sample(run: Path, name: str, folder: Path) -> str:
    r"""Puts the newest validation picture of this name, and a clip with it, beside a card. Returns markdown."""
    pictures = sorted((run / "validation").glob(f"{name}-*.png"), key=lambda path: path.stat().st_mtime)
    if not pictures:
        return ""
    with PIL.Image.open(pictures[-1]) as picture:
        picture = picture.convert("RGB")
    picture.thumbnail(SAMPLE_SIZE)
    picture.save(folder / "sample.jpg", quality=90)
    clip = pictures[-1].with_suffix(".mp4")
    if not clip.exists():
        return "![sample](sample.jpg)"
    shutil.copyfile(clip, folder / "sample.mp4")
    return "![sample](sample.jpg)\n\nIn motion: [sample.mp4](sample.mp4)."


def write_training_card(
    folder: str | Path,
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    title: str,
    description: str,
    data: str,
    sample: str,
    measured: str,
    usage: str,
    tags: list[str],
) -> None:
    r"""
    Writes the model card of a trained model: a sample, the command that repeats the training, its curves, its data and
    what was measured. The pictures are written beside the card.

    Args:
        folder (`str` or `Path`): The folder that `save_pretrained` made.
        parser (`argparse.ArgumentParser`): Of the script, which it is named after.
        args (`argparse.Namespace`): Of the run, with [`~training.arguments.add_training_arguments`].
        title (`str`): Heading.
        description (`str`): What the model is, and what the sample shows.
        data (`str`): What it was trained on, see [`describe_clips`].
        sample (`str`): Name of the validation pictures whose newest is shown.
        measured (`str`): What was measured.
        usage (`str`): Python code with `{name}` in place of the model's name.
        tags (`list[str]`): Hub tags beside the package's own.
    """
    folder = Path(folder)
    defaults = {name: parser.get_default(name) for name in vars(args)}
    parts = [
        description,
        copy_sample(args.output_dir, sample, folder),
        f"## Training\n\n```bash\n{command_line(parser.prog, args, defaults)}\n```",
        "![training curves](curves.png)" if draw_training_curves(args.output_dir, folder / "curves.png") else "",
        f"## Data\n\n{data}",
        f"## Measured\n\n{measured}",
    ]
    write_model_card(
        folder,
        title=title,
        description="\n\n".join(part for part in parts if part),
        usage=usage.format(name=args.hub_model_id or args.output_dir.resolve().name),
        license=args.license,
        tags=tags,
    )
