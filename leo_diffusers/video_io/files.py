"""Names of files: what can be read, where it is, and what is written beside its target before it is complete."""

import os
import re
import shutil
import uuid
from pathlib import Path


VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".webm", ".mkv", ".gif")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

PathLike = str | os.PathLike


def find_videos(folder: PathLike) -> list[Path]:
    r"""
    Find the videos below a folder, at any depth: video files, and folders that hold numbered images but no video file.

    Hidden files and folders are skipped. Each of the sorted paths suits [`VideoReader`].

    Raises:
        FileNotFoundError: If `folder` does not exist.
        ValueError: If `folder` is a file or holds no video.

    Examples:
        ```py
        >>> from leo_diffusers.video_io import find_videos

        >>> [path.name for path in find_videos("clips")]
        ['first.mp4', 'second.mp4']
        ```
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: pass the folder that holds the videos.")
    videos = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        files = [Path(parent, name) for name in names if not name.startswith(".")]
        here = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
        videos += here or [Path(parent)] * any(frame_number(path) for path in files)
    if not videos:
        suffixes = ", ".join(VIDEO_SUFFIXES)
        raise ValueError(f"{folder} holds no videos: looked for {suffixes} and folders of numbered images.")
    return sorted(videos)


def frame_number(path: Path) -> tuple[str, int] | None:
    r"""Name and number of a numbered image ("frame", 12), None for other files."""
    match = re.fullmatch(r"(.*?)(\d+)", path.stem)
    if match is None or path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
        return None
    return match[1], int(match[2])


def temporary_beside(path: Path) -> Path:
    r"""Checks that the folder can be written to. tempfile's own files would leave the output unreadable to others."""
    folder = path.parent
    if not folder.exists():
        raise FileNotFoundError(f"The folder {folder} does not exist: create it first.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, so nothing can be written into it.")
    temporary = folder / f".{uuid.uuid4().hex}{path.suffix}"
    try:
        temporary.touch()
    except OSError as error:
        raise PermissionError(f"The folder {folder} cannot be written to: {error.strerror}.") from error
    temporary.unlink()
    return temporary


def remove(path: Path) -> None:
    r"""Removes a file or folder, where there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
