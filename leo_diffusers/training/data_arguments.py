"""The command-line arguments that say where videos come from, for all scripts that read them."""

import argparse
import hashlib
from pathlib import Path

from ..data.streamed_videos import StreamedVideos


STREAM_DEFAULTS = {"dataset_config_name": None, "dataset_split": "train", "video_column": None}


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    r"""
    Adds a folder, and what stands in its place where the data are streamed.

    Args:
        parser (`argparse.ArgumentParser`): Of the script.
    """
    add = parser.add_argument
    add("--train_data_dir", type=Path, default=None, help="folder of videos, searched recursively")
    add(
        "--dataset_name",
        default=None,
        help="in its place a data set to stream, by `datasets`: of the Hub, or a folder of tar shards,\n"
        "parquet files or videos",
    )
    add("--dataset_config_name", default=None, help="which of its configurations")
    add("--dataset_split", default="train", help="which of its splits (default: %(default)s)")
    add("--video_column", default=None, help="where its clips are (default: its only column of videos)")


def check_data_arguments(args: argparse.Namespace) -> None:
    r"""
    Refuses arguments that name no source of videos, or two.

    Raises:
        ValueError: Names the argument and the fix.
    """
    if (args.train_data_dir is None) == (args.dataset_name is None):
        number = "neither" if args.dataset_name is None else "both"
        raise ValueError(f"Give one of --train_data_dir and --dataset_name, got {number}.")
    for name, default in STREAM_DEFAULTS.items():
        if args.dataset_name is None and getattr(args, name) != default:
            raise ValueError(f"--{name} has no effect with --train_data_dir: leave it out, or give --dataset_name.")


def open_stream(args: argparse.Namespace) -> StreamedVideos:
    r"""
    The data set of `--dataset_name`. What is learned of its shards is remembered in a hidden folder of `--output_dir`.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_data_arguments`] and `--output_dir`.

    Raises:
        OSError: Where there is no such data set, or it cannot be reached.
        ValueError: Where split, configuration or column are not in it.
    """
    options = args.dataset_name, args.dataset_config_name, args.dataset_split, args.video_column
    digest = hashlib.sha256(repr(options).encode()).hexdigest()[:16]
    return StreamedVideos(*options, cache=args.output_dir / f".shards-{digest}")
