"""An evaluation in parts: each is measured once, split over processes, and kept, so that a stopped one goes on."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save
from tqdm import tqdm

from ..video_io.files import remove, temporary_beside


LONGEST_NAME = 200  # of a file, which may have 255 bytes
Part = dict[str, torch.Tensor]  # what was measured of one video: numbers and features by name


def write_json(path: Path, values: object) -> None:
    r"""Writes a JSON file, whole or not at all; numbers that are not finite become null, which JSON has."""
    write_bytes(path, json.dumps(finite(values), indent=1, allow_nan=False).encode())


def finite(values: object) -> object:
    r"""The same values, with None in place of numbers that are not finite."""
    if isinstance(values, dict):
        return {name: finite(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def write_bytes(path: Path, content: bytes) -> None:
    r"""Writes a file, whole or not at all."""
    temporary = temporary_beside(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        remove(temporary)


class EvaluationParts:
    r"""
    The parts of an evaluation, below `parts` of its folder. What a part holds depends on its name and the settings
    alone, never on who measured it: any number of processes gives the same numbers.

    Args:
        folder (`Path`): Of the evaluation.
        settings (`dict[str, object]`): Everything that its numbers depend on, as JSON has it.
        accelerator ([`Accelerator`]): Of the run.

    Raises:
        ValueError: Where the folder holds parts that were measured with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, object], accelerator: Accelerator):
        self.folder = folder / "parts"
        self.accelerator = accelerator
        path = folder / "settings.json"
        settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
        with accelerator.main_process_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            is_begun = path.is_file() and any(self.folder.iterdir())  # what was refused has measured nothing
            found = json.loads(path.read_text()) if is_begun else settings
            others = [name for name in {**found, **settings} if found.get(name) != settings.get(name)]
            if others:
                name = others[0]
                raise ValueError(
                    f"{folder} was measured with another `{name}`, {found.get(name)!r} and not "
                    f"{settings.get(name)!r}: repeat that, or name another --output_dir."
                )
            if accelerator.is_main_process:
                write_json(path, settings)

    def path_of(self, name: str) -> Path:
        r"""The file of a part; its name may have slashes, as a clip's below its folder, and any length."""
        quoted = quote(name, safe=" #+()")
        if len(quoted) > LONGEST_NAME:
            quoted = hashlib.sha256(name.encode()).hexdigest()
        return self.folder / f"{quoted}.safetensors"

    def measure(
        self, names: Sequence[str], work: Callable[[int], Part], title: str
    ) -> tuple[dict[str, Part], dict[str, str]]:
        r"""
        Measures what is missing, this process's share of it, and waits for the other processes.

        Args:
            names (`Sequence[str]`): Of the parts, no two alike.
            work (`Callable`): Number of a part -> what it holds. A ValueError or OSError of it, of a video that cannot
                be read say, leaves the part out.
            title (`str`): Of the progress bar.

        Returns:
            `tuple[dict[str, Part], dict[str, str]]`: The parts by name, on every process in the order of `names`, and
            why others are left out.

        Raises:
            ValueError: Where every part is left out.
        """
        missing = [index for index, name in enumerate(names) if not self.path_of(name).is_file()]
        self.accelerator.wait_for_everyone()  # all must see the same parts missing, to share them
        share = missing[self.accelerator.process_index :: self.accelerator.num_processes]
        for index in tqdm(share, title, unit="part", disable=not self.accelerator.is_local_main_process):
            self.keep(names[index], index, work)
        self.accelerator.wait_for_everyone()
        parts = {name: load_file(self.path_of(name)) for name in names if self.path_of(name).is_file()}
        left_out = {name: self.reason_of(name) for name in names if name not in parts}
        if not parts:
            reasons = "; ".join(dict.fromkeys(left_out.values()))
            raise ValueError(f"None of {len(names)} videos could be measured: {reasons}")
        return parts, left_out

    def keep(self, name: str, index: int, work: Callable[[int], Part]) -> None:
        r"""Measures a part and writes it, or why it is left out."""
        reason = self.path_of(name).with_suffix(".json")
        try:
            part = {key: value.detach().cpu().contiguous() for key, value in work(index).items()}
        except (ValueError, OSError) as error:
            write_json(reason, str(error))
            return
        write_bytes(self.path_of(name), save(part))
        remove(reason)

    def reason_of(self, name: str) -> str:
        r"""Why a part is left out."""
        return json.loads(self.path_of(name).with_suffix(".json").read_text())
