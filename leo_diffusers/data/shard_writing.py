"""Clips -> tar shards in the form of webdataset: beside each <key>.mp4 a <key>.json with its record."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import BinaryIO

from .annotations import ClipAnnotation


def assign_shards(annotations: list[ClipAnnotation], clips_per_shard: int) -> dict[ClipAnnotation, str]:
    r"""
    Which shard each clip goes to. That depends on its place in the list alone: a clip that fails leaves its shard
    smaller, and finds its place free when it succeeds later.

    Args:
        annotations (`list[ClipAnnotation]`): The whole list, in its order.
        clips_per_shard (`int`): At most.

    Returns:
        `dict[ClipAnnotation, str]`: File name, `<split>-<number>.tar`.
    """
    counts, shards = {}, {}
    for annotation in annotations:
        index = counts[annotation.split] = counts.get(annotation.split, -1) + 1
        shards[annotation] = f"{annotation.split}-{index // clips_per_shard:06d}.tar"
    return shards


def sample_key(clip_id: str) -> str:
    r"""The key of a sample; webdataset cuts names at their first dot, and takes folders for part of the key."""
    return clip_id.replace(".", "_").replace("/", "_")


def read_keys(path: Path) -> set[str]:
    r"""The keys of the clips in a shard, none where there is no such file."""
    if not path.is_file():
        return set()
    try:
        with tarfile.open(path, "r:") as shard:
            return {name.removesuffix(".mp4") for name in shard.getnames() if name.endswith(".mp4")}
    except tarfile.TarError as error:
        raise ValueError(f"{path} is damaged: delete it, and its clips are prepared again ({error}).") from error


def write_shard(path: Path, samples: list[tuple[dict, Path]]) -> None:
    r"""
    Writes a shard, or adds to it; it appears, or changes, when it is complete. The same clips make the same file.

    Args:
        path (`Path`): The tar file.
        samples (`list[tuple[dict, Path]]`): All clips that are to be in it, in order: the record, and the video. A
            video that is not there any more is taken from the shard as it is.
    """
    partial = path.with_name(f".{path.name}.partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as shard:
        with tarfile.open(path, "r:") if path.is_file() else io.BytesIO() as older:
            for record, video in samples:
                key = sample_key(record["id"])
                if video.is_file():
                    with video.open("rb") as file:
                        _add(shard, f"{key}.mp4", file, video.stat().st_size)
                else:
                    member = older.getmember(f"{key}.mp4")
                    _add(shard, member.name, older.extractfile(member), member.size)
                content = json.dumps(record).encode()
                _add(shard, f"{key}.json", io.BytesIO(content), len(content))
    os.replace(partial, path)


def _add(shard: tarfile.TarFile, name: str, file: BinaryIO, size: int) -> None:
    member = tarfile.TarInfo(name)  # without time and owner: the same clips make the same file
    member.size = size
    shard.addfile(member, file)
