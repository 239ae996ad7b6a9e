"""Training state on disk: complete or absent, so many and no more, and continued exactly where it stopped."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.logging import get_logger


logger = get_logger(__name__)


def list_checkpoints(output_dir: Path) -> list[Path]:
    r"""The complete checkpoints of a run, oldest first."""
    checkpoints = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(checkpoints, key=checkpoint_step)


def checkpoint_step(checkpoint: Path) -> int:
    r"""The step that a checkpoint's name carries."""
    return int(checkpoint.name.split("-")[1])


def save_checkpoint(accelerator: Accelerator, output_dir: Path, step: int, total_limit: int | None) -> None:
    r"""
    Writes `checkpoint-{step}` with everything that was prepared or registered for checkpointing. It gets its name only
    when it is complete; older ones beyond the limit are removed only then.

    Args:
        accelerator ([`Accelerator`]): Of the run; every process calls this.
        output_dir (`Path`): The run's folder.
        step (`int`): Optimisation steps so far.
        total_limit (`int`, *optional*): Checkpoints to keep.
    """
    partial = output_dir / f".checkpoint-{step}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    complete = output_dir / f"checkpoint-{step}"
    if complete.exists():
        shutil.rmtree(complete)
    os.replace(partial, complete)
    checkpoints = list_checkpoints(output_dir)
    for checkpoint in checkpoints[: len(checkpoints) - total_limit] if total_limit is not None else []:
        shutil.rmtree(checkpoint)
    logger.info(f"Saved {complete}.")


def resume(accelerator: Accelerator, output_dir: Path, checkpoint: str | None) -> int:
    r"""
    Loads a checkpoint into everything that was prepared or registered.

    Args:
        accelerator ([`Accelerator`]): Of the run, after `prepare`.
        output_dir (`Path`): The run's folder.
        checkpoint (`str`, *optional*): A folder, or "latest" for the newest of `output_dir`, where there is one.

    Returns:
        `int`: Optimisation steps so far, 0 without a checkpoint.

    Raises:
        ValueError: Where the named folder is no checkpoint.
    """
    for leftover in output_dir.glob(".checkpoint-*.partial") if accelerator.is_main_process else []:
        shutil.rmtree(leftover)  # of a run that was killed while it wrote
    if checkpoint is None:
        return 0
    if checkpoint == "latest":
        checkpoints = list_checkpoints(output_dir)
        if not checkpoints:
            logger.info("There is no checkpoint yet: starting from the beginning.")
            return 0
        path = checkpoints[-1]
    else:
        path = Path(checkpoint)
        if not path.is_dir() and (output_dir / checkpoint).is_dir():
            path = output_dir / checkpoint
        if not path.is_dir() or not re.fullmatch(r"checkpoint-\d+", path.name):
            raise ValueError(f'--resume_from_checkpoint {checkpoint} is no checkpoint: name a folder, or "latest".')
    accelerator.load_state(str(path))
    logger.info(f"Resumed from {path}.")
    return checkpoint_step(path)


def save_atomically(save: Callable[[str], None], folder: Path) -> None:
    r"""
    Lets `save` write a folder's entries and puts each in place only when all are complete.

    Args:
        save (`Callable`): Writes into the folder whose path it is given.
        folder (`Path`): Made where it is missing; entries that `save` does not write stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    save(str(partial))
    for entry in sorted(partial.iterdir()):
        target, old = folder / entry.name, folder / f".{entry.name}.old"
        if target.is_dir():
            os.replace(target, old)
        os.replace(entry, target)
        shutil.rmtree(old, ignore_errors=True)
    partial.rmdir()
