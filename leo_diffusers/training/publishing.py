"""Publishing a trained model: to its folder with a model card, and to the Hub."""

import argparse
import shlex
from pathlib import Path

from accelerate import Accelerator
from huggingface_hub import HfApi

from ..model_card import write_model_card


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


def write_training_card(
    folder: str | Path,
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    title: str,
    description: str,
    measured: str,
    usage: str,
    tags: list[str],
) -> None:
    r"""
    Writes the model card of a trained model, with the command that repeats its training.

    Args:
        folder (`str` or `Path`): The folder that `save_pretrained` made.
        parser (`argparse.ArgumentParser`): Of the script, which it is named after.
        args (`argparse.Namespace`): Of the run.
        title (`str`): Heading.
        description (`str`): What the model is.
        measured (`str`): What was measured.
        usage (`str`): Python code with `{name}` in place of the model's name.
        tags (`list[str]`): Hub tags beside the package's own.
    """
    defaults = {name: parser.get_default(name) for name in vars(args)}
    command = command_line(parser.prog, args, defaults)
    write_model_card(
        folder,
        title=title,
        description=f"{description}\n\n```bash\n{command}\n```\n\n{measured}",
        usage=usage.format(name=args.hub_model_id or args.output_dir.resolve().name),
        license="other",
        tags=tags,
    )
