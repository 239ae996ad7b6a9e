#!/usr/bin/env python
"""
Makes the papers' data sets, or any folder of videos, ready for training: cut, cropped, resized, checked.

    python examples/prepare_dataset.py taichi --metadata taichi-metadata.csv --videos downloads --output_dir taichi-256
    python examples/prepare_dataset.py folder --videos recordings --output_dir clips --format mp4 --fps 25

Writes <split>/<id>/0000000.png (--format png, jpg), <split>/<id>.mp4 or <split>-000000.tar (webdataset), and
manifest.jsonl, which says of every clip what became of it. Videos that are missing or broken never stop the others. A
run that was stopped goes on where it was; clips that failed are tried again.

The data sets show people who were not asked. Their terms, which --help of each repeats, bind whoever uses them:
research only, no redistribution; honour requests to take videos down, and tell nobody who is shown.
"""

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.data.annotations import (
    ClipAnnotation,
    find_faceforensics,
    find_folder,
    index_downloads,
    read_celebvhq_annotations,
    read_csv_annotations,
    read_ucf101_annotations,
)
from leo_diffusers.data.downloading import download_videos, require_downloader
from leo_diffusers.data.manifest import COMPLETE, DROPPED, FAILED
from leo_diffusers.data.preparation import FORMATS, RESAMPLINGS, PreparationSettings, prepare_clip
from leo_diffusers.data.prepared_folder import PreparedFolder


ALL_SPLITS = "all"
NUM_NAMED = 3  # failures that the last line names; the manifest has them all


@dataclass(frozen=True)
class DataSet:
    """What is particular to a data set; the defaults are those of its official script."""

    title: str
    terms: str
    read: Callable[[argparse.Namespace], list[ClipAnnotation]]
    crop: str
    videos: str = "folder of the downloaded videos, <id>.mp4, at any depth"
    resampling: str = "lanczos"
    size: int = 256
    split: str = ALL_SPLITS
    is_on_youtube: bool = False


# The reference resizes these with scikit-image's antialiasing, which bicubic comes closest to.
FROM_CSV = {
    "read": lambda args: read_csv_annotations(args.metadata),
    "crop": "scaled_box",
    "resampling": "bicubic",
    "is_on_youtube": True,
}
DATA_SETS = {
    "taichi": DataSet("TaichiHD", "YouTube's terms of service; the list names no licence.", **FROM_CSV),
    "voxceleb": DataSet(
        "VoxCeleb, in the list of the first-order motion model",
        "YouTube's terms of service; non-commercial research.",
        **FROM_CSV,
    ),
    "ted": DataSet(
        "TED-talks",
        "YouTube's terms of service and those of TED, CC BY-NC-ND: no commercial use, no changed copies passed on.",
        **FROM_CSV,
        size=384,
    ),
    "celebvhq": DataSet(
        "CelebV-HQ",
        "YouTube's terms of service and the CelebV-HQ agreement: non-commercial research, no redistribution.",
        lambda args: read_celebvhq_annotations(args.info),
        crop="square_box",
        is_on_youtube=True,
    ),
    "faceforensics": DataSet(
        "FaceForensics, version 1",
        "The FaceForensics Terms of Use, which whoever asks for the videos signs: research only.",
        lambda args: find_faceforensics(args.videos),
        crop="mask",
        videos="FaceForensics_compressed, with {train,val,test}/{original,mask}",
        split="train",
    ),
    "ucf101": DataSet(
        "UCF101",
        "Videos of YouTube, for research; no licence is stated.",
        lambda args: read_ucf101_annotations(args.lists, args.fold),
        crop="centre",
        videos="UCF-101, with <class>/v_<...>.avi",
    ),
    "folder": DataSet(
        "any folder of videos: the central square, resized",
        "Those of whoever shot the videos, and is shown in them.",
        lambda args: find_folder(args.videos, args.split),
        crop="centre",
        videos="folder of videos or frames, at any depth; metadata.csv (file_name, split) may assign splits",
        split="train",
    ),
}


def build_parser() -> argparse.ArgumentParser:
    formatter = {"formatter_class": argparse.RawTextHelpFormatter}
    parser = OneLineParser(prog="prepare_dataset.py", description=__doc__, **formatter)
    commands = parser.add_subparsers(dest="data_set", required=True, metavar="DATA_SET")
    for name, data_set in DATA_SETS.items():
        description = f"{data_set.title}.\n\nTerms: {data_set.terms}"
        command = commands.add_parser(name, help=data_set.title, description=description, **formatter)
        add_data_set_arguments(command, name, data_set)
        add_arguments(command, data_set)
    return parser


def add_data_set_arguments(parser: argparse.ArgumentParser, name: str, data_set: DataSet) -> None:
    add = parser.add_argument
    if name in ("taichi", "voxceleb", "ted"):
        add("--metadata", type=Path, required=True, help="the official csv (TED: ted384-metadata.csv)")
    if name == "celebvhq":
        add("--info", type=Path, required=True, help="celebvhq_info.json")
    if name == "ucf101":
        add("--lists", type=Path, required=True, help="ucfTrainTestlist, with trainlist01.txt and so on")
        add("--fold", type=int, choices=(1, 2, 3), default=1, help="default: %(default)s")
    if name == "faceforensics":
        add(
            "--crop",
            choices=("per_frame", "wide"),
            default="per_frame",
            help="around the face of each frame, as for published numbers, or around all of them,\n"
            "which is steadier (default: %(default)s)",
        )
    if name == "folder":
        add("--fps", type=float, default=None, help="frame rate; frames are dropped or repeated (default: as it is)")
        add("--split", default=data_set.split, help="of videos that metadata.csv does not name (default: %(default)s)")
    else:
        add("--split", default=data_set.split, help=f"one split, or {ALL_SPLITS} (default: %(default)s)")
    if data_set.is_on_youtube:
        add("--download", action="store_true", help="first download what is missing in --videos, by yt-dlp")
        add("--accept_licence", action="store_true", help="you accept the terms above; --download needs it")


def add_arguments(parser: argparse.ArgumentParser, data_set: DataSet) -> None:
    add = parser.add_argument
    add("--videos", type=Path, required=True, help=data_set.videos)
    add("--output_dir", type=Path, required=True, help="folder of the prepared clips")
    add("--size", type=int, default=data_set.size, help="height and width in pixels (default: %(default)s)")
    add("--format", choices=FORMATS, default="png", help="default: %(default)s")
    add("--jpeg_quality", type=int, default=75, help="of jpg; 75 is that of published numbers (%(default)s)")
    add("--clips_per_shard", type=int, default=100, help="of webdataset (default: %(default)s)")
    add("--resampling", choices=sorted(RESAMPLINGS), default=data_set.resampling, help="default: %(default)s")
    add("--min_frames", type=int, default=64, help="drop shorter clips (default: %(default)s)")
    add("--drop_scene_cuts", action="store_true", help="drop clips of several shots; the manifest marks them anyway")
    add("--drop_upscaled", action="store_true", help="drop clips with less detail than --size; likewise")
    add("--limit", type=int, default=None, help="only the first clips of the list (default: all)")
    add("--num_workers", type=int, default=os.cpu_count(), help="processes (default: one per core, %(default)s)")
    add("--dry_run", action="store_true", help="say what would be done, and write nothing")


def check_arguments(args: argparse.Namespace) -> None:
    minimum = {"size": 16, "jpeg_quality": 1, "clips_per_shard": 1, "min_frames": 1, "limit": 1, "num_workers": 1}
    for name, least in minimum.items():
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(args, name)}.")
    if args.jpeg_quality > 95:
        raise ValueError(f"--jpeg_quality must be at most 95, got {args.jpeg_quality}: png loses nothing.")
    if args.size % 2 and args.format in ("mp4", "webdataset"):
        raise ValueError(f"--size must be even, as players of H.264 expect it, got {args.size}.")
    if getattr(args, "fps", None) is not None and not 0.01 <= args.fps <= 1000:
        raise ValueError(f"--fps must be from 0.01 to 1000, got {args.fps:g}.")
    if getattr(args, "download", False):
        if not args.accept_licence:
            terms = DATA_SETS[args.data_set].terms
            raise ValueError(f"--download needs --accept_licence, by which you accept the terms: {terms}")
        require_downloader()
    elif not args.videos.is_dir():
        raise FileNotFoundError(f"There is no folder --videos {args.videos}.")
    videos, output = args.videos.resolve(), args.output_dir.resolve()
    if output == videos or videos in output.parents:
        raise ValueError(f"--output_dir {args.output_dir} lies in --videos {args.videos}: name a folder beside it.")


def build_settings(args: argparse.Namespace) -> PreparationSettings:
    crop = DATA_SETS[args.data_set].crop
    return PreparationSettings(
        size=args.size,
        crop="wide_mask" if getattr(args, "crop", None) == "wide" else crop,
        resampling=args.resampling,
        format=args.format,
        jpeg_quality=args.jpeg_quality,
        min_frames=args.min_frames,
        fps=getattr(args, "fps", None),
        drop_scene_cuts=args.drop_scene_cuts,
        drop_upscaled=args.drop_upscaled,
    )


def select(listed: list[ClipAnnotation], args: argparse.Namespace) -> list[ClipAnnotation]:
    r"""The clips that are asked for."""
    selected = listed
    if args.data_set != "folder" and args.split != ALL_SPLITS:
        selected = [annotation for annotation in listed if annotation.split == args.split]
        if not selected:
            splits = ", ".join(sorted({annotation.split for annotation in listed}))
            raise ValueError(f"--split {args.split!r} has no clips: choose {ALL_SPLITS} or one of {splits}.")
    return selected[: args.limit]


def find_sources(annotations: list[ClipAnnotation], args: argparse.Namespace) -> dict[str, Path]:
    r"""The videos and masks that are there, by the names that the list gives them."""
    if DATA_SETS[args.data_set].is_on_youtube:
        return index_downloads(args.videos, (annotation.source for annotation in annotations))
    names = [annotation.source for annotation in annotations]
    names += [annotation.mask for annotation in annotations if annotation.mask]
    return {name: args.videos / name for name in names if (args.videos / name).exists()}


def print_plan(annotations: list[ClipAnnotation], sources: dict[str, Path], args: argparse.Namespace) -> None:
    splits = Counter(annotation.split for annotation in annotations)
    counts = ", ".join(f"{count} {split}" for split, count in sorted(splits.items()))
    videos = dict.fromkeys(annotation.source for annotation in annotations)
    missing = [name for name in videos if name not in sources]
    print(f"{len(annotations)} clips ({counts}) of {len(videos)} videos, as {args.format} in {args.output_dir}.")
    fate = "would be downloaded" if getattr(args, "download", False) else "are missing"
    print(f"{len(missing)} videos {fate}{': ' if missing else ''}{', '.join(missing[:10])}")


def run_tasks(tasks: list[tuple], num_workers: int) -> Iterator[dict]:
    r"""The records of `prepare_clip`, as they come."""
    if num_workers == 1:
        yield from (prepare_clip(*task) for task in tasks)
        return
    spawn = get_context("spawn")
    with ProcessPoolExecutor(num_workers, spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(prepare_clip, *task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise OSError(
                "A process was killed, perhaps for want of memory: run this again with fewer --num_workers, and it "
                "goes on where it was."
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)  # or the others would be prepared before the error is told
            raise


def prepare(annotations: list[ClipAnnotation], folder: PreparedFolder, args: argparse.Namespace) -> None:
    remaining = folder.remaining(annotations)
    sources, problems = find_sources(remaining, args), {}
    if getattr(args, "download", False):
        missing = [name for name in dict.fromkeys(row.source for row in remaining) if name not in sources]
        args.videos.mkdir(parents=True, exist_ok=True)
        problems = download_videos(missing, args.videos, args.num_workers)
        sources = find_sources(remaining, args)
    tasks, progress = [], tqdm(total=len(annotations), initial=len(annotations) - len(remaining), unit="clip")
    for annotation in remaining:
        lacking = [name for name in (annotation.source, annotation.mask) if name and name not in sources]
        if lacking:
            folder.add_failure(annotation, problems.get(lacking[0], f"there is no video {lacking[0]} in --videos"))
            progress.update()
            continue
        mask = sources.get(annotation.mask)
        output, work_folder = folder.output_of(annotation), folder.work_folder_of(annotation)
        tasks.append((annotation, sources[annotation.source], mask, folder.settings, output, work_folder))
    by_name = {(annotation.split, annotation.id): annotation for annotation in remaining}
    with progress:
        for record in run_tasks(tasks, args.num_workers):
            folder.add(by_name[record["split"], record["id"]], record)
            progress.update()


def summarise(annotations: list[ClipAnnotation], folder: PreparedFolder) -> str:
    r"""One line; ValueError where nothing was prepared."""
    records = [folder.manifest.of(annotation) for annotation in annotations]
    counts = Counter(record["status"] for record in records)
    named = [f"{record['id']} ({record['failure']})" for record in records if record["status"] == FAILED]
    named += [f"{record['id']} ({record['failure']})" for record in records if record["status"] == DROPPED]
    reasons = f": {'; '.join(named[:NUM_NAMED])}{', ...' if len(named) > NUM_NAMED else ''}" if named else ""
    outcome = f"{counts[DROPPED]} dropped, {counts[FAILED]} failed{reasons}"
    if not counts[COMPLETE]:
        raise ValueError(f"None of {len(records)} clips could be prepared; {outcome}")
    complete = [record for record in records if record["status"] == COMPLETE]
    num_cut, num_upscaled = (sum(bool(record[key]) for record in complete) for key in ("scene_cuts", "upscaled"))
    return (
        f"{folder.root} holds {len(complete)} of {len(records)} clips ({num_cut} with scene cuts, {num_upscaled} "
        f"upscaled); {outcome}"
    )


def main(args: argparse.Namespace) -> None:
    check_arguments(args)
    listed = DATA_SETS[args.data_set].read(args)
    folder = PreparedFolder(args.output_dir, args.data_set, listed, build_settings(args), args.clips_per_shard)
    annotations = select(listed, args)
    sources = find_sources(annotations, args)
    if args.dry_run:
        print_plan(annotations, sources, args)
        return
    if not sources and not getattr(args, "download", False):
        raise ValueError(
            f"--videos {args.videos} holds none of the videos of the list, such as {annotations[0].source}: name "
            "the folder that they lie in."
        )
    folder.open()
    prepare(annotations, folder, args)
    folder.close()
    print(summarise(annotations, folder))


if __name__ == "__main__":
    run_script(main, build_parser())
