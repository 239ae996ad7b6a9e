"""Motion codes of a data set: their file format, their statistics, and the sequences that stage 2 learns from."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset

from ..models.lia import LIAModel


STD_FLOOR = 1e-6  # a direction that never moves must not divide by zero
DRAWS_PER_BLOCK = 4096  # windows that are drawn at once


@dataclass
class MotionCodes:
    r"""
    The motion codes of many clips.

    Args:
        codes (`torch.Tensor` of shape `(N, M)`): Codes of all frames, clip after clip, float32.
        offsets (`torch.Tensor` of shape `(num_clips + 1,)`): Where each clip begins; the last is N.
        clip_names (`list[str]`): Names of the clips.
        frames_per_second (`list[float]`): Their frame rates.
        animator_hash (`str`): [`hash_animator`] of the model that made them.
    """

    codes: torch.Tensor
    offsets: torch.Tensor
    clip_names: list[str]
    frames_per_second: list[float]
    animator_hash: str

    @property
    def mean(self) -> torch.Tensor:
        r"""Mean over all frames, (M,)."""
        return self.codes.mean(dim=0)

    @property
    def std(self) -> torch.Tensor:
        r"""Standard deviation over all frames, (M,), never zero."""
        return self.codes.std(dim=0).clamp(min=STD_FLOOR)

    def clips(self) -> list[torch.Tensor]:
        r"""One (F, M) tensor per clip."""
        return list(self.codes.split(self.offsets.diff().tolist()))

    def save(self, folder: str | Path) -> None:
        r"""
        Writes motion_codes.safetensors (`codes`, `offsets`) and motion_codes.json (the rest), each atomically.

        Args:
            folder (`str` or `Path`): Made where it is missing.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        description = {name: value for name, value in asdict(self).items() if name not in ("codes", "offsets")}
        with tempfile.TemporaryDirectory(dir=folder, prefix=".codes-") as temporary:
            tensors, names = Path(temporary) / "codes", Path(temporary) / "names"
            save_file({"codes": self.codes.contiguous(), "offsets": self.offsets.contiguous()}, tensors)
            names.write_text(json.dumps(description, indent=1))
            os.replace(tensors, folder / "motion_codes.safetensors")
            os.replace(names, folder / "motion_codes.json")

    @classmethod
    def load(cls, folder: str | Path) -> "MotionCodes":
        r"""
        Args:
            folder (`str` or `Path`): Where [`~MotionCodes.save`] wrote.

        Raises:
            FileNotFoundError: Where a file is missing.
            ValueError: Where the files cannot be read, do not fit each other, or hold NaN.
        """
        folder = Path(folder)
        paths = folder / "motion_codes.safetensors", folder / "motion_codes.json"
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"There is no {path}: write it with examples/extract_motion_codes.py.")
        try:
            motion_codes = cls(**load_file(paths[0]), **json.loads(paths[1].read_text()))
        except (SafetensorError, json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{folder} does not hold motion codes that can be read: {error}.") from error
        if not torch.isfinite(motion_codes.codes).all():
            raise ValueError(f"The motion codes in {folder} hold NaN or infinite values: extract them again.")
        num_clips = len(motion_codes.offsets) - 1
        counts = {num_clips, len(motion_codes.clip_names), len(motion_codes.frames_per_second)}
        if len(counts) > 1 or motion_codes.offsets[-1] != len(motion_codes.codes):
            raise ValueError(f"The files in {folder} do not belong together: extract the codes again.")
        return motion_codes

    @classmethod
    def load_made_by(cls, animator: LIAModel, folder: str | Path) -> "MotionCodes":
        r"""
        Args:
            animator ([`LIAModel`]): Of the model that the codes are for.
            folder (`str` or `Path`): As of [`~MotionCodes.load`].

        Raises:
            FileNotFoundError: Where a file is missing.
            ValueError: As [`~MotionCodes.load`], and where another animator made them.
        """
        motion_codes = cls.load(folder)
        if motion_codes.animator_hash != hash_animator(animator):
            raise ValueError(
                f"The codes in {folder} were made by another animator than the model's: extract them again, with "
                "examples/extract_motion_codes.py."
            )
        return motion_codes


def hash_animator(animator: LIAModel) -> str:
    r"""
    Identifies an animator's motion codes: a hash of the weights that make them and turn them into paths.

    Args:
        animator ([`LIAModel`]): The model.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    encoder = ("appearance_encoder", "motion_head", "motion_dictionary")
    return hash_tensors({name: tensor for name, tensor in animator.state_dict().items() if name.startswith(encoder)})


def hash_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    r"""A hash of tensors and their names, 16 hexadecimal digits; the same for any order and device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class MotionSequences(Dataset):
    r"""
    Random windows of motion codes. An item is asked for by its position in an endless, seeded sequence.

    Args:
        motion_codes ([`MotionCodes`]): Codes of the data set.
        sequence_length (`int`): Frames per window; shorter clips are left out.
        seed (`int`): Seed of the draws.

    Raises:
        ValueError: Where no clip is long enough.
    """

    def __init__(self, motion_codes: MotionCodes, sequence_length: int, seed: int = 0):
        lengths = motion_codes.offsets.diff()
        if not (lengths >= sequence_length).any():
            raise ValueError(
                f"No clip has the {sequence_length} frames of `sequence_length`; the longest has {lengths.max()}: use "
                "longer clips or a shorter sequence."
            )
        self.codes = motion_codes.codes
        self.sequence_length = sequence_length
        self.seed = seed
        # Every window is as likely as any other, whatever clip it lies in.
        clips = zip(motion_codes.offsets.tolist(), lengths.tolist())
        self._window_starts = np.concatenate(
            [np.arange(start, start + length - sequence_length + 1) for start, length in clips]
        )
        self._drawn_block, self._drawn_starts = None, None

    def __len__(self) -> int:
        r"""Number of different windows."""
        return len(self._window_starts)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor | int]:
        r"""
        Args:
            position (`int`): Place in the endless sequence, 0 or more.

        Returns:
            `dict`: `motion_codes` of shape `(F, M)` and the `position`, which seeds the sample's noise.
        """
        block, place = divmod(position, DRAWS_PER_BLOCK)
        if block != self._drawn_block:
            # Many at once: a random generator of its own would cost each window more than its codes.
            random = np.random.default_rng([self.seed, block])
            self._drawn_starts = random.choice(self._window_starts, size=DRAWS_PER_BLOCK)
            self._drawn_block = block
        start = self._drawn_starts[place]
        return {"motion_codes": self.codes[start : start + self.sequence_length], "position": position}
