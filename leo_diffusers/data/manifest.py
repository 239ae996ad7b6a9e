"""manifest.jsonl of a prepared data set: what became of each clip."""

import json
import os
from pathlib import Path

from .annotations import ClipAnnotation


COMPLETE, DROPPED, FAILED = "complete", "dropped", "failed"


def write_atomically(path: Path, text: str) -> None:
    r"""Writes a small text file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


class Manifest:
    r"""
    The records of a data set that is being prepared. Each is appended to the file as soon as its clip is done, so a
    run that is stopped loses none; [`Manifest.close`] sorts them, whatever the order in which clips finished.

    Args:
        path (`Path`): manifest.jsonl; what is in it is kept. A last line that was cut off is not.
    """

    def __init__(self, path: Path):
        self.path = path
        self.records: dict[tuple[str, str], dict] = {}
        lines = path.read_text().splitlines() if path.is_file() else []
        for index, line in enumerate(lines):
            try:
                record = json.loads(line)
                self.records[record["split"], record["id"]] = record
            except (ValueError, KeyError, TypeError) as error:
                if index < len(lines) - 1:
                    raise ValueError(
                        f"{path}, line {index + 1} is damaged: delete the line, or start anew."
                    ) from error
        if lines:
            self._write()  # a line that was cut off would take the next one with it

    def of(self, annotation: ClipAnnotation) -> dict | None:
        r"""The record of a clip, None where there is none yet."""
        return self.records.get((annotation.split, annotation.id))

    def add(self, record: dict) -> None:
        r"""Adds or replaces the record of a clip, at once on disk."""
        self.records[record["split"], record["id"]] = record
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        r"""Sorts the file by split and id, one line per clip."""
        self._write()

    def _write(self) -> None:
        records = [self.records[key] for key in sorted(self.records)]
        write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in records))
