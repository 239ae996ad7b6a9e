"""The command-line arguments that name the networks of an evaluation."""

import argparse
import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from .. import metrics
from ..training.perceptual_loss import load_label_network
from .readers import Readers, label_readers


# By argument and name the extractor; each takes `weights` and `download`.
EXTRACTORS = {
    "identity": {
        "face": metrics.FaceEmbeddings,
        "openface": metrics.OpenFaceEmbeddings,
        "body": metrics.BodyEmbeddings,
        "body_compat": partial(metrics.BodyEmbeddings, compat=True),  # as published AED was measured
    },
    "features": {
        "i3d": metrics.I3DFeatures,
        "i3d_torchscript": metrics.I3DTorchscriptFeatures,
        "video_fid": metrics.VideoFIDFeatures,
        "video_fid_unit": partial(metrics.VideoFIDFeatures, input_norm="kinetics_unit"),  # nearer to LIA's scale
    },
}
# What distances are of, and what stands in for them where our own models are compared with each other only.
FVD_FEATURES = ("i3d", "i3d_torchscript")
VIDEO_FID_FEATURES = ("video_fid", "video_fid_unit")
RANDOM_FEATURES = "random_i3d"
KEYPOINTS = {"face": metrics.FaceKeypoints, "body": metrics.BodyKeypoints}


def add_reader_arguments(parser: argparse.ArgumentParser, *names: str) -> None:
    r"""
    Adds networks that read frames; what is not named is not measured.

    Args:
        parser (`argparse.ArgumentParser`): Of the script.
        names (`str`): Of "lpips", "keypoints", "identity", "fvd" and "video_fid", what the task measures.
    """
    add = parser.add_argument_group("networks").add_argument
    add("--label_network", type=Path, default=None, help="of train_label_network.py: reads whatever others do not")
    if "lpips" in names:
        add("--lpips", action="store_true", help="measure LPIPS (AlexNet)")
        add("--lpips_weights", type=Path, default=None, help="alexnet-owt-7be5be79.pth")
    if "keypoints" in names:
        add("--keypoints", choices=KEYPOINTS, default=None, help="measure AKD and MKR")
        add("--keypoints_weights", type=Path, default=None, help="body_pose_model.pth, for body")
    if "identity" in names:
        add("--identity", choices=EXTRACTORS["identity"], default=None, help="measure AED or ACD")
        add("--identity_weights", type=Path, default=None, help="the file that its message names")
    for name, features in {"fvd": FVD_FEATURES, "video_fid": VIDEO_FID_FEATURES}.items():
        if name not in names:
            continue
        measured = "FVD and KVD" if name == "fvd" else "video FID"
        add(
            "--features",
            choices=[*features, RANDOM_FEATURES],
            default=None,
            help=f"measure {measured}; {RANDOM_FEATURES} compares our own models with each other only",
        )
        add("--features_weights", type=Path, default=None, help="the file that its message names")
    add("--download", action="store_true", help="fetch missing weights, where they have an address")


@contextlib.contextmanager
def named_as_arguments(name: str) -> Iterator[None]:
    r"""Lets an extractor's refusal speak of the command line."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        words = str(error).replace("weights=", f"--{name}_weights").replace("download=True", "--download")
        raise ValueError(f"--{name}: {words.replace('`weights`', f'--{name}_weights')}") from error


def build_readers(args: argparse.Namespace, device: torch.device) -> Readers:
    r"""
    The networks that the arguments name.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_reader_arguments`].
        device (`torch.device`): Where they run.

    Raises:
        ValueError: Where one cannot be had; it names the argument and what to fetch.
    """
    for name in ("lpips", "keypoints", "identity", "features"):
        weights, chosen = getattr(args, f"{name}_weights", None), getattr(args, name, None)
        if weights is not None and chosen in (None, False, RANDOM_FEATURES):
            raise ValueError(f"--{name}_weights {weights} has no effect without a --{name} that reads it: name both.")
    if getattr(args, "keypoints", None) == "face" and args.keypoints_weights is not None:
        raise ValueError("--keypoints_weights is for --keypoints body: face-alignment brings its own.")
    readers = {}
    if args.label_network is not None:
        readers |= label_readers(load_label_network(args.label_network).to(device))
    if getattr(args, "keypoints", None) is not None:
        weights = {} if args.keypoints == "face" else {"weights": args.keypoints_weights}
        with named_as_arguments("keypoints"):
            readers["keypoints"] = KEYPOINTS[args.keypoints](download=args.download, device=str(device), **weights)
    for argument, reader in (("identity", "identity"), ("features", "clip")):
        name = getattr(args, argument, None)
        prepared = {"protocol": args.protocol} if "protocol" in args and name in ("i3d", RANDOM_FEATURES) else {}
        if name == RANDOM_FEATURES:
            readers[reader] = metrics.RandomI3DFeatures(**prepared).to(device)
        elif name is not None:
            with named_as_arguments(argument):
                weights = getattr(args, f"{argument}_weights")
                readers[reader] = EXTRACTORS[argument][name](weights, download=args.download, **prepared).to(device)
    if getattr(args, "lpips", False):
        with named_as_arguments("lpips"):
            readers["perceptual"] = metrics.LPIPS(args.lpips_weights, download=args.download).to(device)
    return Readers(**readers)
