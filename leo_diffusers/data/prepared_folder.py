"""The folder of a data set that is being prepared: names of its files, what is done already, and what completes it."""

import csv
import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from .annotations import ClipAnnotation
from .manifest import COMPLETE, DROPPED, FAILED, Manifest, write_atomically
from .preparation import PreparationSettings, make_record
from .shard_writing import assign_shards, read_keys, sample_key, write_shard


class PreparedFolder:
    r"""
    A folder with `<split>/<id>/0000000.png`, `<split>/<id>.mp4` or `<split>-000000.tar`, manifest.jsonl, settings.json
    and, but for tar files, metadata.csv, which [`~data.video_clips.find_clips`] takes splits from.

    Args:
        root (`Path`): The folder; a new or empty one, or one that was begun with the same settings.
        name (`str`): Of the data set.
        listed (`list[ClipAnnotation]`): All its clips in the list's order, also those that are not prepared now.
        settings ([`PreparationSettings`]): How they are prepared.
        clips_per_shard (`int`): Of the format "webdataset".

    Raises:
        ValueError: Where the folder holds something else, or two clips would get one file.
    """

    def __init__(
        self, root: Path, name: str, listed: list[ClipAnnotation], settings: PreparationSettings, clips_per_shard: int
    ):
        self.root, self.settings = root, settings
        self.is_sharded = settings.format == "webdataset"
        self._check_names(listed)
        description = {"data_set": name, **asdict(settings)}
        if self.is_sharded:
            # A clip's shard is known from its place in the list, so the list may not change either.
            names = "\n".join(f"{annotation.split}/{annotation.id}" for annotation in listed)
            description |= {"clips_per_shard": clips_per_shard, "list": hashlib.sha256(names.encode()).hexdigest()}
        self._description = description
        self._check_settings()
        self._shards = assign_shards(listed, clips_per_shard) if self.is_sharded else {}
        self._members: dict[str, list[ClipAnnotation]] = {}
        for annotation, shard in self._shards.items():
            self._members.setdefault(shard, []).append(annotation)
        self._pending: Counter[str] = Counter()

    def open(self) -> None:
        r"""Creates the folder, or reads what an earlier run left in it."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_atomically(self.root / "settings.json", json.dumps(self._description, indent=2) + "\n")
        self.manifest = Manifest(self.root / "manifest.jsonl")
        self._keys = {shard: read_keys(self.root / shard) for shard in self._members}

    def remaining(self, annotations: Iterable[ClipAnnotation]) -> list[ClipAnnotation]:
        r"""Those of the clips that are to be prepared: neither complete nor dropped. What failed is tried again."""
        remaining = [annotation for annotation in annotations if not self._is_done(annotation)]
        self._pending = Counter(self._shards[annotation] for annotation in remaining if self.is_sharded)
        return remaining

    def output_of(self, annotation: ClipAnnotation) -> Path:
        r"""Where a clip is written to; clips for a shard wait there until all of them are done."""
        suffix = "" if self.settings.format in ("png", "jpg") else ".mp4"
        folder = self.root / ".staged" if self.is_sharded else self.root
        return folder / annotation.split / f"{annotation.id}{suffix}"

    def work_folder_of(self, annotation: ClipAnnotation) -> Path:
        r"""Where a clip lies until it is complete."""
        return self.root / ".partial" / hashlib.sha256(f"{annotation.split}/{annotation.id}".encode()).hexdigest()

    def add(self, annotation: ClipAnnotation, record: dict) -> None:
        r"""Notes what became of a clip."""
        if record["status"] == COMPLETE:
            shard = self._shards.get(annotation)
            record["file"] = shard or self.output_of(annotation).relative_to(self.root).as_posix()
        self.manifest.add(record)
        if self.is_sharded:
            shard = self._shards[annotation]
            self._pending[shard] -= 1
            if not self._pending[shard]:
                self._write_shard(shard)

    def add_failure(self, annotation: ClipAnnotation, reason: str) -> None:
        r"""Notes that a clip could not be prepared."""
        self.add(annotation, make_record(annotation, self.settings) | {"status": FAILED, "failure": reason})

    def close(self) -> None:
        r"""Completes the folder: shards that a stopped run left unwritten, metadata.csv, the manifest's order."""
        for shard in self._members:
            self._write_shard(shard)
        self.manifest.close()
        if not self.is_sharded:
            table = io.StringIO()
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(["file_name", "split"])
            complete = (record for record in self.manifest.records.values() if record["status"] == COMPLETE)
            writer.writerows(sorted((record["file"], record["split"]) for record in complete))
            write_atomically(self.root / "metadata.csv", table.getvalue())
        for name in (".partial", ".staged"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def _is_done(self, annotation: ClipAnnotation) -> bool:
        record = self.manifest.of(annotation)
        if record is None or record["status"] not in (COMPLETE, DROPPED):
            return False
        if record["status"] == DROPPED or self.output_of(annotation).exists():
            return True
        return self.is_sharded and sample_key(annotation.id) in self._keys[self._shards[annotation]]

    def _write_shard(self, shard: str) -> None:
        samples, is_changed = [], False
        for annotation in self._members[shard]:
            if (self.manifest.of(annotation) or {}).get("status") == COMPLETE:
                video = self.output_of(annotation)
                if video.is_file() or sample_key(annotation.id) in self._keys[shard]:
                    samples.append((self.manifest.of(annotation), video))
                    is_changed |= video.is_file()
        if is_changed:
            write_shard(self.root / shard, samples)
            self._keys[shard] = {sample_key(record["id"]) for record, _ in samples}
            for _, video in samples:
                video.unlink(missing_ok=True)

    def _check_names(self, listed: list[ClipAnnotation]) -> None:
        names = {(annotation.split, annotation.id) for annotation in listed}
        if self.is_sharded:
            keys = Counter((split, sample_key(clip_id)) for split, clip_id in names)
            twice = [key for (_, key), count in keys.items() if count > 1]
            if twice:
                raise ValueError(f"Several clips would get the key {min(twice)} in a shard: rename them.")
        elif self.settings.format in ("png", "jpg"):
            for split, clip_id in sorted(names):
                parents = [parent.as_posix() for parent in Path(clip_id).parents]
                if any((split, parent) in names for parent in parents):
                    raise ValueError(f"The frames of {clip_id} would lie between those of another clip: rename one.")

    def _check_settings(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"--output_dir {self.root} is a file: name a folder.")
        path = self.root / "settings.json"
        if not path.is_file():
            if self.root.is_dir() and any(self.root.iterdir()):
                raise ValueError(f"--output_dir {self.root} holds other files already: name a new folder.")
            return
        found = json.loads(path.read_text())
        for key, value in self._description.items():
            if found.get(key) != value:
                raise ValueError(
                    f"--output_dir {self.root} was begun with {key} {found.get(key)}, not {value}: repeat that, or "
                    "name another folder."
                )
