"""The official lists of public video data sets -> one row per clip: its video, its time, its part of the picture."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import video_io
from .video_clips import read_splits


CSV_COLUMNS = ("video_id", "start", "end", "bbox", "fps", "width", "height", "partition")
WRONG_TED_LIST = (
    "in {path} start and end are all 0, as in the ted-metadata.csv of the articulated-animation repository: use "
    "ted384-metadata.csv, which is attached to issue #12 of that repository."
)


@dataclass(frozen=True)
class ClipAnnotation:
    r"""
    One clip as its data set's list describes it.

    Args:
        id (`str`): Its name, unique within its split; slashes make folders.
        split (`str`): "train", "test" or another part of the data set.
        source (`str`): A YouTube id, or the path of a video below the folder of videos.
        start (`float`, *optional*): Where the clip begins: a frame number, or seconds where `fps` is None.
        end (`float`, *optional*): The first frame or second that is no part of it any more.
        fps (`float`, *optional*): Frames per second at which `start` and `end` count.
        bbox (`tuple[float, float, float, float]`, *optional*): Left, top, right, bottom.
        picture_size (`tuple[float, float]`, *optional*): Width and height of the picture that `bbox` is measured in.
        mask (`str`, *optional*): Path of the video that shows where the face is, below the folder of videos.
    """

    id: str
    split: str
    source: str
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    bbox: tuple[float, float, float, float] | None = None
    picture_size: tuple[float, float] | None = None
    mask: str | None = None

    def __post_init__(self):
        # What comes out of a downloaded file becomes the name of a file here.
        for part in (*self.id.split("/"), self.split, *self.source.split("/")):
            if not part or part.startswith(".") or re.search(r"[\\/\0\n]", part):
                raise ValueError(f"{self.id!r} ({self.split!r}, {self.source!r}) cannot name a file: rename it.")
        if self.start is not None and not 0 <= self.start < self.end:
            raise ValueError(f"{self.id}: end ({self.end:g}) must come after start ({self.start:g}, at least 0).")
        if self.bbox is not None:
            left, top, right, bottom = self.bbox
            if not (0 <= left < right and 0 <= top < bottom):
                raise ValueError(
                    f"{self.id}: bbox must be left, top, right, bottom with room between, got {self.bbox}."
                )


def read_list(path: str | Path) -> str:
    r"""The text of a data set's list; a FileNotFoundError or ValueError where the path names none."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the list in it.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file: {error}.") from error


def read_csv_annotations(path: str | Path) -> list[ClipAnnotation]:
    r"""
    The csv files of TaichiHD, VoxCeleb and TED-talks, in the format of the first-order motion model.

    Args:
        path (`str` or `Path`): A file with the columns video_id, start, end, bbox (left-top-right-bottom), fps, width,
            height, partition and, for VoxCeleb, person_id.

    Returns:
        `list[ClipAnnotation]`: In the file's order, named `<video>#<start>#<end>` as the reference scripts name clips,
        with `<person>#` before it. Of two rows with one name the later counts, as there.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where columns are missing or a row makes no sense; it names the line.
    """
    rows = csv.DictReader(io.StringIO(read_list(path), newline=""))
    try:
        columns, lines = rows.fieldnames or (), [(rows.line_num, row) for row in rows]
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: {error}.") from error
    missing = [name for name in CSV_COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"{path} must have the columns {', '.join(CSV_COLUMNS)}; {', '.join(missing)} are missing.")
    if not lines:
        raise ValueError(f"{path} holds no rows.")
    if all(row["start"] == row["end"] == "0" for _, row in lines):
        raise ValueError(WRONG_TED_LIST.format(path=path))
    annotations = {}
    for line, row in lines:
        try:
            annotation = _csv_row(row)
        except (ValueError, TypeError, AttributeError) as error:  # too few fields are None
            raise ValueError(f"{path}, line {line}: {error}") from error
        annotations[annotation.split, annotation.id] = annotation
    return list(annotations.values())


def _csv_row(row: dict[str, str]) -> ClipAnnotation:
    start, end = int(row["start"]), int(row["end"])
    video, *others = row["video_id"].split("#")
    _check_video_id(video)
    # The reference scripts reverse an id of several parts, so that the person comes before the video.
    parts = [row["person_id"]] if row.get("person_id") else []
    parts += [*reversed(others), video, f"{start:06d}", f"{end:06d}"]
    bbox = tuple(map(int, row["bbox"].split("-")))
    fps, size = float(row["fps"]), (int(row["width"]), int(row["height"]))
    if len(bbox) != 4 or not 0 < fps < math.inf or min(size) < 1:
        raise ValueError(f"bbox, fps, width or height is out of range: {row}")
    return ClipAnnotation("#".join(parts), row["partition"], video, start, end, fps, bbox, size)


def read_celebvhq_annotations(path: str | Path) -> list[ClipAnnotation]:
    r"""
    celebvhq_info.json. CelebV-HQ has no official split, so all of it is "train".

    Args:
        path (`str` or `Path`): JSON: clips -> name -> ytb_id, duration (start_sec, end_sec), bbox (top, bottom, left,
            right, from 0 to 1).

    Returns:
        `list[ClipAnnotation]`: In the file's order.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where it has another format; it names the clip.
    """
    text = read_list(path)
    try:
        clips = json.loads(text)["clips"]
        entries = list(clips.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path} is not CelebV-HQ\'s celebvhq_info.json (JSON with "clips" by name): {error}'
        ) from error
    if not entries:
        raise ValueError(f"{path} holds no clips.")
    annotations = []
    for name, clip in entries:
        try:
            _check_video_id(clip["ytb_id"])
            seconds = [float(clip["duration"][key]) for key in ("start_sec", "end_sec")]
            # A box a little outside of the picture is cut at its border, as the official script does.
            bbox = tuple(min(max(float(clip["bbox"][key]), 0), 1) for key in ("left", "top", "right", "bottom"))
            row = ClipAnnotation(name, "train", clip["ytb_id"], *seconds, bbox=bbox, picture_size=(1, 1))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, clip {name!r} has another format: {error}") from error
        annotations.append(row)
    return annotations


def read_ucf101_annotations(folder: str | Path, fold: int) -> list[ClipAnnotation]:
    r"""
    trainlist0N.txt and testlist0N.txt of UCF101.

    Args:
        folder (`str` or `Path`): ucfTrainTestlist.
        fold (`int`): 1, 2 or 3.

    Returns:
        `list[ClipAnnotation]`: First the training clips, each list in its order; `source` is `<class>/v_<...>.avi`.

    Raises:
        FileNotFoundError: Where a list is missing.
        ValueError: Where a line is no path of a clip.
    """
    annotations = []
    for split in ("train", "test"):
        path = Path(folder) / f"{split}list{fold:02d}.txt"
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}: unpack UCF101TrainTestSplits-RecognitionTask.zip there.")
        for line, text in enumerate(read_list(path).splitlines(), start=1):
            source = text.split(" ")[0]  # the training lists end each line with the number of the class
            if not text.strip():
                continue
            if not re.fullmatch(r"[\w-]+/[\w-]+\.avi", source):
                raise ValueError(f"{path}, line {line} must be <class>/<video>.avi, got {text!r}.")
            annotations.append(ClipAnnotation(source.removesuffix(".avi"), split, source))
    return annotations


def find_faceforensics(folder: str | Path) -> list[ClipAnnotation]:
    r"""
    The original videos of FaceForensics (version 1) and their masks.

    Args:
        folder (`str` or `Path`): FaceForensics_compressed, with {train,val,test}/{original,mask}.

    Returns:
        `list[ClipAnnotation]`: Sorted by name within train, val and test.

    Raises:
        FileNotFoundError: Where there is no such folder.
        ValueError: Where none of the splits is in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    annotations = []
    for split in ("train", "val", "test"):
        for path in sorted((folder / split / "original").glob("*.avi")):
            if not path.name.startswith("."):
                source, mask = f"{split}/original/{path.name}", f"{split}/mask/{path.name}"
                annotations.append(ClipAnnotation(path.stem, split, source, mask=mask))
    if not annotations:
        raise ValueError(f"{folder} is not FaceForensics_compressed: it holds no {{train,val,test}}/original/*.avi.")
    return annotations


def find_folder(folder: str | Path, split: str) -> list[ClipAnnotation]:
    r"""
    All videos below a folder, whatever they show.

    Args:
        folder (`str` or `Path`): Searched recursively; an optional metadata.csv (file_name, split) assigns splits.
        split (`str`): Of the videos that metadata.csv does not name.

    Returns:
        `list[ClipAnnotation]`: Sorted by path.

    Raises:
        FileNotFoundError: Where there is no such folder.
        ValueError: Where it holds no video, or two whose names differ in the suffix only.
    """
    folder = Path(folder)
    sources, annotations = {}, []
    for path in video_io.find_videos(folder):
        if path == folder:
            raise ValueError(f"{folder} is itself a video, frame by frame: pass the folder that holds it.")
        source = path.relative_to(folder).as_posix()
        name = source if path.is_dir() else source.removesuffix(path.suffix)
        if name in sources:
            raise ValueError(f"{sources[name]} and {source} would get one name, {name}: rename one of them.")
        sources[name] = source
    splits = read_splits(folder)
    for name, source in sources.items():
        annotations.append(ClipAnnotation(name, splits.get(source, split), source))
    return annotations


def index_downloads(folder: str | Path, video_ids: Iterable[str]) -> dict[str, Path]:
    r"""
    Which of the videos lie in a folder, at any depth, under their ids (`<id>.mp4`, or another suffix of videos).

    Args:
        folder (`str` or `Path`): Searched recursively.
        video_ids (`Iterable[str]`): The ids that are looked for.

    Returns:
        `dict[str, Path]`: Path by id, for those that are there.
    """
    wanted, found = set(video_ids), {}
    for path in sorted(Path(folder).rglob("*")):
        if path.stem in wanted and path.suffix.lower() in video_io.VIDEO_SUFFIXES and path.is_file():
            found.setdefault(path.stem, path)
    return found


def _check_video_id(video_id: str) -> None:
    if not re.fullmatch(r"[\w-]+", video_id, re.ASCII):
        raise ValueError(f"{video_id!r} is no YouTube id.")
