"""What an evaluation reads off frames: pretrained networks, or one that was trained on the renderer's labels."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

from ..data.motion_codes import hash_tensors
from ..models.label_network import LabelNetwork


@dataclass(frozen=True)
class Readers:
    r"""
    The networks, or any callables in their place; what is missing is not measured. All take frames in [-1, 1].

    Args:
        perceptual (`Callable`, *optional*): Two batches of frames (n, 3, H, W) -> distances (n,): LPIPS.
        keypoints (`Callable`, *optional*): Frames (F, 3, H, W) -> (F, K, 2) in pixels, missing ones -1: AKD, MKR.
        identity (`Callable`, *optional*): Frames (F, 3, H, W) -> (F, D), what tells people apart: AED, ACD.
        motion (`Callable`, *optional*): Frames (F, 3, H, W) -> (F, P), comparable between people.
        clip (`Callable`, *optional*): Clips (B, F, 3, H, W) -> features (B, D): FVD, KVD, video FID.
    """

    perceptual: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    keypoints: Callable[[torch.Tensor], torch.Tensor] | None = None
    identity: Callable[[torch.Tensor], torch.Tensor] | None = None
    motion: Callable[[torch.Tensor], torch.Tensor] | None = None
    clip: Callable[[torch.Tensor], torch.Tensor] | None = None

    def read(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        r"""
        Args:
            frames (`torch.Tensor` of shape `(F, 3, H, W)`): In [-1, 1].

        Returns:
            `dict[str, torch.Tensor]`: "keypoints" (F, K, 2), "identity" (F, D) and "motion" (F, P), float32 on the
            CPU; what is missing is left out.
        """
        readers = {"keypoints": self.keypoints, "identity": self.identity, "motion": self.motion}
        return {name: reader(frames).float().cpu() for name, reader in readers.items() if reader is not None}

    def describe(self) -> dict[str, dict[str, str | None]]:
        r"""Who reads what, with the hashes of weights, for the JSON of a result."""
        readers = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: {
                "extractor": getattr(reader, "name", type(reader).__name__),
                "weights": getattr(reader, "weights_hash", None),
            }
            for name, reader in readers.items()
            if reader is not None
        }


class LabelReader:
    r"""
    One of the readings of a network that was trained on the labels of rendered frames.

    Args:
        network ([`LabelNetwork`]): The network.
        reading (`str`): "keypoints", "identity" (the attributes, each of unit spread) or "motion".

    Raises:
        ValueError: For another reading, or one that the network does not give.
    """

    def __init__(self, network: LabelNetwork, reading: str):
        if reading not in ("keypoints", "identity", "motion"):
            raise ValueError(f'`reading` must be "keypoints", "identity" or "motion", got {reading!r}.')
        if reading == "keypoints" and not network.config.num_keypoints:
            raise ValueError("`network` was trained without keypoints: take one of train_label_network.py with them.")
        self.network = network
        self.reading = reading
        self.name = f"LabelNetwork.{reading}"
        columns = {"motion": network.config.motion_names, "identity": network.config.attribute_names}
        self.names = list(columns.get(reading, ()))
        self.weights_hash = hash_tensors(network.state_dict())

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        r"""
        Args:
            frames (`torch.Tensor` of shape `(F, 3, H, W)`): In [-1, 1], of the network's size, on any device.

        Returns:
            `torch.Tensor` of shape `(F, K, 2)`, `(F, A)` or `(F, P)`.
        """
        motion, attributes, keypoints = self.network.read(frames.to(self.network.device))
        if self.reading == "motion":
            return motion
        if self.reading == "identity":
            return attributes / self.network.std[motion.shape[1] :]
        return keypoints * frames.shape[-1]


def label_readers(network: LabelNetwork) -> dict[str, LabelReader]:
    r"""The readings that a network gives, by the names of [`Readers`]."""
    readings = ("keypoints", "identity", "motion") if network.config.num_keypoints else ("identity", "motion")
    return {reading: LabelReader(network, reading) for reading in readings}
