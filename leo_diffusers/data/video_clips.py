"""A folder of videos -> the clips that can be trained on, each looked at once, and what is wrong with the others."""

import csv
import hashlib
import json
import logging
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .. import video_io


logger = logging.getLogger(__name__)

SHARPNESS_SIZE = 256  # below this many pixels upscaling cannot be told from softness
UPSCALED_DROP = 0.1  # sharp footage keeps 0.11 and more of the power just above half of the highest frequency


@dataclass(frozen=True)
class VideoClip:
    r"""
    One clip of a data set.

    Args:
        path (`Path`): Video file or folder of frames.
        name (`str`): Its path below the data set's folder.
        num_frames (`int`): Frames that may be used, from `start_frame` on.
        frames_per_second (`float`): Its frame rate.
        start_frame (`int`): The first frame that may be used.
    """

    path: Path
    name: str
    num_frames: int
    frames_per_second: float
    start_frame: int = 0


def identify_clips(clips: Sequence[VideoClip]) -> str:
    r"""
    A hash of which files some clips are, by their names, sizes and times of change, and of which frames are used.

    Args:
        clips (`Sequence[VideoClip]`): The clips.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for clip in clips:
        files = sorted(clip.path.iterdir()) if clip.path.is_dir() else [clip.path]
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        digest.update(repr((clip.name, clip.start_frame, clip.num_frames, stats)).encode())
    return digest.hexdigest()[:16]


@dataclass
class ClipReport:
    r"""
    What a scan found beside good clips, by clip name.

    Args:
        unreadable (`dict[str, str]`): Clips that are skipped since they cannot be read, with the reason.
        too_short (`dict[str, int]`): Clips that are skipped, with their number of frames.
        upscaled (`dict[str, int]`): Clips that are kept although smaller than the training size, with their size.
    """

    unreadable: dict[str, str] = field(default_factory=dict)
    too_short: dict[str, int] = field(default_factory=dict)
    upscaled: dict[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        r"""One line per kind of finding, naming the clips; empty where all is well."""
        parts = []
        if self.unreadable:
            reasons = "; ".join(f"{name} ({reason})" for name, reason in self.unreadable.items())
            parts.append(f"Skipped {len(self.unreadable)} unreadable: {reasons}")
        if self.too_short:
            lengths = ", ".join(f"{name} ({length} frames)" for name, length in self.too_short.items())
            parts.append(f"Skipped {len(self.too_short)} too short: {lengths}")
        if self.upscaled:
            sizes = ", ".join(f"{name} ({size} pixels)" for name, size in self.upscaled.items())
            parts.append(
                f"{len(self.upscaled)} with less detail than the training size, which makes a model soft: {sizes}"
            )
        return "\n".join(parts)


def detail_size(frame: torch.Tensor) -> int:
    r"""
    Estimates at which size a frame was really recorded, from where its spectrum ends.

    Args:
        frame (`torch.Tensor` of shape `(3, H, W)`): In [-1, 1].

    Returns:
        `int`: `min(H, W)`, or half of it where the upper half of the spectrum is empty: upscaled footage.
    """
    size = min(frame.shape[-2:])
    if size < SHARPNESS_SIZE:
        return size
    grey = frame.mean(dim=0)[:size, :size].numpy()
    window = np.hanning(size)
    spectrum = np.abs(np.fft.rfft2((grey - grey.mean()) * np.outer(window, window))) ** 2
    # Of a picture that was doubled the spectrum ends at a quarter of a cycle per pixel, along either axis.
    frequency = np.maximum(np.abs(np.fft.fftfreq(size))[:, None], np.fft.rfftfreq(size)[None])
    above = spectrum[(frequency >= 0.25) & (frequency < 0.27)].mean()
    below = spectrum[(frequency >= 0.125) & (frequency < 0.2)].mean()
    return size // 2 if above < UPSCALED_DROP * below else size


def read_splits(folder: Path) -> dict[str, str]:
    r"""
    The optional metadata.csv of a data set (columns file_name, split).

    Args:
        folder (`Path`): The data set.

    Returns:
        `dict[str, str]`: Split by clip name; empty without the file.

    Raises:
        ValueError: Where the file has other columns.
    """
    path = folder / "metadata.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        if not {"file_name", "split"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path} must have the columns file_name and split, got {rows.fieldnames}.")
        return {row["file_name"]: row["split"] for row in rows}


def inspect_clip(path: Path) -> dict:
    r"""Length, frame rate and [`detail_size`] of a clip, or the `problem` with it, where it cannot be read."""
    try:
        reader = video_io.VideoReader(path)
        found = {"num_frames": len(reader), "frames_per_second": reader.frames_per_second, "problem": None}
        return found | {"detail_size": detail_size(next(iter(reader)))}
    except (ValueError, OSError, RuntimeError, StopIteration) as error:
        return {"problem": str(error) or "it holds no frames"}


def inspect_clips(names: dict[Path, str], cache: Path | None) -> dict[Path, dict]:
    r"""[`inspect_clip`] of many clips, on all cores; what `cache` remembers of an unchanged clip is not done again."""
    remembered = json.loads(cache.read_text()) if cache is not None and cache.is_file() else {}
    versions = {path: [path.stat().st_size, path.stat().st_mtime_ns] for path in names}
    missing = [path for path, name in names.items() if remembered.get(name, {}).get("version") != versions[path]]
    # ffmpeg does the work in processes of its own, so threads are enough to keep all cores busy.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        # A clip that ends early is read as far as it goes; what is left decides.
        warnings.simplefilter("ignore")
        inspected = tqdm(
            pool.map(inspect_clip, missing), total=len(missing), desc="Looking at clips", unit="clip", leave=False
        )
        for path, found in zip(missing, inspected):
            remembered[names[path]] = {"version": versions[path], **found}
    if cache is not None and missing:
        partial = cache.with_suffix(".partial")
        partial.write_text(json.dumps(remembered))
        os.replace(partial, cache)
    return {path: remembered[name] for path, name in names.items()}


def find_clips(
    folder: str | Path,
    min_frames: int = 2,
    min_size: int | None = None,
    split: str | None = "train",
    cache: Path | None = None,
) -> tuple[list[VideoClip], ClipReport]:
    r"""
    Looks at every clip of a folder once, so that training meets no surprise.

    Args:
        folder (`str` or `Path`): Searched recursively for video files and folders of numbered frames; an optional
            metadata.csv assigns clips to splits.
        min_frames (`int`): Shorter clips are skipped.
        min_size (`int`, *optional*): Clips with less detail than this many pixels are reported as upscaled.
        cache (`Path`, *optional*): JSON file that remembers what was seen of a clip, as long as the clip's size and
            time of change stay, so that only new clips are decoded.
        split (`str`, *optional*): Clips of other splits are left out; those that metadata.csv does not name are kept.

    Returns:
        `tuple[list[VideoClip], ClipReport]`: Good clips in the order of their names, and the findings.

    Raises:
        FileNotFoundError: Where there is no such folder.
        ValueError: Where no clip is left.
    """
    folder = Path(folder)
    splits = read_splits(folder) if folder.is_dir() else {}
    names = {path: path.relative_to(folder).as_posix() for path in video_io.find_videos(folder)}
    if split is not None:
        names = {path: name for path, name in names.items() if splits.get(name, split) == split}
    clips, report = [], ClipReport()
    for path, found in inspect_clips(names, cache).items():
        name = names[path]
        if found["problem"] is not None:
            report.unreadable[name] = found["problem"]
        elif found["num_frames"] < min_frames:
            report.too_short[name] = found["num_frames"]
        else:
            clips.append(VideoClip(path, name, found["num_frames"], found["frames_per_second"]))
            if min_size is not None and found["detail_size"] < min_size:
                report.upscaled[name] = found["detail_size"]
    if report.summary():
        logger.warning(report.summary())
    if not clips:
        reason = report.summary() or f"metadata.csv gives none to the split {split!r}."
        raise ValueError(f"No clip in {folder} can be used. {reason}")
    return clips, report


def hold_out_frames(clips: list[VideoClip], fraction: float) -> tuple[list[VideoClip], list[VideoClip]]:
    r"""
    Cuts the end off every clip, for validation on people that were seen in motions that were not.

    Args:
        clips (`list[VideoClip]`): Whole clips.
        fraction (`float`): Share of each clip's frames that is held out, at least two frames.

    Returns:
        `tuple[list[VideoClip], list[VideoClip]]`: Clips to train on and clips to validate on; clips that are too short
        to be cut are only trained on.
    """
    kept, held_out = [], []
    for clip in clips:
        num_held = max(2, round(fraction * clip.num_frames))
        num_kept = clip.num_frames - num_held
        if num_kept < 2:
            kept.append(clip)
            continue
        kept.append(replace(clip, num_frames=num_kept))
        held_out.append(replace(clip, num_frames=num_held, start_frame=clip.start_frame + num_kept))
    return kept, held_out
