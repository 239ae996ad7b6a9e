"""Files of pretrained weights: where to get them, whether they are the right ones, and how they are read."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn


COUNTER = "num_batches_tracked"  # of BatchNorm; files older than PyTorch 0.4.1 have none, and no output depends on it


def file_hash(path: str | Path) -> str:
    r"""The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def network_hash(network: nn.Module) -> str:
    r"""A SHA-256 of a network's weights, for where their file is not at hand; the same once it is compiled."""
    digest = hashlib.sha256()
    tensors = {name.replace("_orig_mod.", ""): tensor for name, tensor in network.state_dict().items()}
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class WeightsFile:
    r"""
    A file of weights that an extractor needs, and that its user must get.

    Args:
        name (`str`): Of the file, in its project and in the cache.
        contents (`str`): What it holds, for messages.
        used_for (`str`): What cannot be measured without it, for messages.
        origin (`str`): Where to get it by hand.
        url (`str`, *optional*): Where it is downloaded from on request.
        sha256 (`str`, *optional*): Of the file that is downloaded.
        nested_in (`str`, *optional*): The key of the checkpoint under which its tensors are.
        prefix (`str`): What the file puts before the names of the network's tensors.
        ignored (`tuple[str, ...]`): How names begin, behind `prefix` or without it, that the network has no use for.
    """

    name: str
    contents: str
    used_for: str
    origin: str
    url: str | None = None
    sha256: str | None = None
    nested_in: str | None = None
    prefix: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def advice(self) -> str:
        r"""How to get the file and what to do with it, for messages."""
        advice = f"Get {self.name} from {self.origin} and name it with `weights=`"
        return f"{advice}." if self.url is None else f"{advice}, or pass `download=True`."

    def find(self, weights: str | Path | None = None, download: bool = False) -> Path:
        r"""
        Args:
            weights (`str` or `Path`, *optional*): The file, where the user has it.
            download (`bool`): Whether it may be fetched into torch's hub cache where `weights` is not given.

        Returns:
            `Path`: Of a file that exists.

        Raises:
            FileNotFoundError: Where there is no file of the name.
            OSError: Where the download fails.
            ValueError: Where the file is needed and may not or cannot be fetched, or a fetched one is damaged.
        """
        if weights is not None:
            if not Path(weights).is_file():
                raise FileNotFoundError(f"`weights` must name a file, got {weights}. {self.advice}")
            return Path(weights)
        if not download or self.url is None:
            raise ValueError(f"{self.used_for} cannot be measured without {self.contents}. {self.advice}")
        return self.fetch()

    def fetch(self) -> Path:
        r"""The file in torch's hub cache, downloaded where it is not there yet."""
        path = Path(torch.hub.get_dir()) / "checkpoints" / self.name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(self.url, str(path), progress=False)
            except OSError as error:
                raise OSError(f"{self.url} cannot be downloaded ({error}). {self.advice}") from error
        found = file_hash(path)
        if self.sha256 not in (None, found):
            raise ValueError(
                f"{path} is damaged or another file: its SHA-256 is {found} and must be {self.sha256}. Delete it and "
                "try again."
            )
        return path

    def load(
        self, build: Callable[[], nn.Module], weights: str | Path | None = None, download: bool = False
    ) -> tuple[nn.Module, str]:
        r"""
        Args:
            build (`Callable`): Makes the network.
            weights (`str` or `Path`, *optional*): As in `find`.
            download (`bool`): As in `find`.

        Returns:
            `tuple[nn.Module, str]`: The network with the file's weights, and the SHA-256 of the file.

        Raises:
            OSError: As in `find`.
            ValueError: As in `find`, and where the file holds another network's weights: the first tensor that is
                missing, unexpected or of another shape is named.
        """
        path = self.find(weights, download)
        found = self.read(path)
        network = build()
        expected = {self.prefix + key: tensor for key, tensor in network.state_dict().items()}
        self.check(path, found, expected)
        network.load_state_dict({key.removeprefix(self.prefix): found[key] for key in expected if key in found})
        return network, file_hash(path)

    def read(self, path: Path) -> dict[str, torch.Tensor]:
        r"""Reads the tensors of the file without running any code that it may hold, those to ignore left out."""
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what torch raises on foreign bytes has no common base
            raise ValueError(
                f"{path} does not hold {self.contents}: it cannot be read as a PyTorch file of plain tensors."
            ) from error
        tensors = checkpoint
        if self.nested_in is not None and isinstance(checkpoint, dict):
            tensors = checkpoint.get(self.nested_in)
        if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
            where = "" if self.nested_in is None else f' below "{self.nested_in}"'
            raise ValueError(f"{path} does not hold {self.contents}: no tensors by name are{where or ' in it'}.")
        return {key: value for key, value in tensors.items() if not self.is_ignored(key)}

    def is_ignored(self, key: str) -> bool:
        r"""Whether the network has no use for a tensor of the file."""
        return key.removeprefix(self.prefix).startswith(self.ignored)

    def check(self, path: Path, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
        r"""Refuses tensors that are not those of the network."""
        problem = None
        missing = [key for key in expected if key not in found and not key.endswith(COUNTER)]
        unexpected = [key for key in found if key not in expected]
        misshapen = [key for key in expected if key in found and found[key].shape != expected[key].shape]
        if missing:
            problem = f"{missing[0]} is missing"
        elif unexpected:
            problem = f"{unexpected[0]} is unexpected"
        elif misshapen:
            key = misshapen[0]
            problem = f"{key} must have the shape {tuple(expected[key].shape)}, got {tuple(found[key].shape)}"
        if problem is not None:
            raise ValueError(f"{path} does not hold {self.contents}: {problem}. {self.advice}")
