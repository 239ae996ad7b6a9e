"""Training state on disk: complete or absent, so many and no more, and continued exactly where it stopped."""

import os
import re
import shutil
import tempfile
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
    for checkpoint in list_checkpoints(output_dir)[:-total_limit] if total_limit is not None else []:
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
    path = find_checkpoint(output_dir, checkpoint)
    step = 0 if path is None else checkpoint_step(path)
    if path is None:
        logger.info("Starting from the beginning.")
    else:
        accelerator.load_state(str(path))
        logger.info(f"Resumed from {path}.")
    # Later checkpoints belong to the run that is left behind here: as "latest" they would bring it back.
    for later in list_checkpoints(output_dir) if accelerator.is_main_process else []:
        if checkpoint_step(later) > step:
            abandoned = Path(tempfile.mkdtemp(dir=output_dir, prefix=f"abandoned-{later.name}-"))
            later.rename(abandoned)
            logger.warning(f"{later} is of another run from here on: it is now {abandoned.name}.")
    accelerator.wait_for_everyone()
    return step


def find_checkpoint(output_dir: Path, checkpoint: str | None) -> Path | None:
    r"""The folder that `--resume_from_checkpoint` means; None for a new run."""
    if checkpoint is None:
        return None
    if checkpoint == "latest":
        checkpoints = list_checkpoints(output_dir)
        return checkpoints[-1] if checkpoints else None
    path = Path(checkpoint) if Path(checkpoint).is_dir() else output_dir / checkpoint
    if not path.is_dir() or not re.fullmatch(r"checkpoint-\d+", path.name):
        raise ValueError(f'--resume_from_checkpoint {checkpoint} is no checkpoint: name a folder, or "latest".')
    return path


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
        shutil.rmtree(old, ignore_errors=True)  # of a run that was killed here
        if target.is_dir():
            os.replace(target, old)
        os.replace(entry, target)
        shutil.rmtree(old, ignore_errors=True)
    partial.rmdir()
