"""Paired forced choice as in LEO Table 3: a page that raters look at, and what their answers come to."""

import hashlib
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..metrics.weights import file_hash
from ..video_io.files import remove, temporary_beside
from .repetition import wilson_interval


# LEO Sec. 4, "User study"
QUESTIONS = {"quality": "Which clip is more realistic?", "coherency": "Which clip is more coherent?"}
SUFFIXES = (".mp4", ".webm")  # what browsers play
TEMPLATE = Path(__file__).with_suffix(".html")

Clip = tuple[str, int]  # a method, and which of its videos


def check_videos(videos: dict[str, Sequence[Path]]) -> str:
    r"""Refuses videos that cannot be compared, and gives the suffix of all."""
    if len(videos) < 2:
        raise ValueError(f"`videos` must be of two methods or more, got {len(videos)}.")
    counts = {method: len(paths) for method, paths in videos.items()}
    if 0 in counts.values() or len(set(counts.values())) > 1:
        found = ", ".join(f"{count} of {method}" for method, count in counts.items())
        raise ValueError(f"`videos` must be as many of each method, one or more, got {found}.")
    paths = [Path(path) for of_method in videos.values() for path in of_method]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"`videos` must name files, got {missing[0]}.")
    suffixes = sorted({path.suffix.lower() for path in paths})
    if len(suffixes) > 1 or suffixes[0] not in SUFFIXES:
        raise ValueError(
            f"`videos` must be all {' or all '.join(SUFFIXES)}, or a rater could tell methods apart or see nothing, "
            f"got {', '.join(suffixes)}."
        )
    return suffixes[0]


def draw_pairs(methods: Sequence[str], num_videos: int, generator: np.random.Generator) -> list[tuple[Clip, Clip]]:
    r"""
    Every two methods' clips of one number, in random order; each method is on either side equally often, or one more
    time on one side.
    """
    pairs = []
    for first, second in itertools.combinations(methods, 2):
        swapped = generator.permutation((np.arange(num_videos) + generator.integers(2)) % 2)
        for index in range(num_videos):
            clips = ((first, index), (second, index))
            pairs.append(clips[::-1] if swapped[index] else clips)
    return [pairs[place] for place in generator.permutation(len(pairs))]


def write_user_study(videos: dict[str, Sequence[Path]], folder: str | Path, seed: int) -> Path:
    r"""
    Writes a study: `folder/page`, which raters are given, and `folder/key.json`, which they are not. The page is
    opened in a browser, needs no network and saves a rater's answers as a file.

    Args:
        videos (`dict[str, Sequence[Path]]`): By method its clips, .mp4 or .webm, as many of each; those of one number
            are compared. Two methods or more: every two are compared. What a file says of itself inside is not hidden.
        folder (`str` or `Path`): Of the study; must not be there yet.
        seed (`int`): Of the order, the sides and the names of clips.

    Returns:
        `Path`: The page to open.

    Raises:
        FileExistsError: Where `folder` exists.
        FileNotFoundError: Where a video or the folder's parent does not.
        ValueError: For videos that cannot be compared.
    """
    folder = Path(folder)
    suffix = check_videos(videos)
    if folder.exists():
        raise FileExistsError(f"{folder} exists, and raters may have answered what it holds: name another folder.")
    generator = np.random.default_rng(seed)
    num_videos = len(next(iter(videos.values())))
    clips = [(method, index) for method in videos for index in range(num_videos)]
    names = {
        clips[place]: f"clips/{number:04d}{suffix}" for number, place in enumerate(generator.permutation(len(clips)))
    }
    key = build_key(videos, draw_pairs(list(videos), num_videos, generator), names)
    temporary = temporary_beside(folder)
    try:
        (temporary / "page" / "clips").mkdir(parents=True)
        for (method, index), name in names.items():
            shutil.copyfile(videos[method][index], temporary / "page" / name)
        (temporary / "page" / "index.html").write_text(build_page(key), encoding="utf-8")
        (temporary / "key.json").write_text(json.dumps(key, indent=1), encoding="utf-8")
        temporary.replace(folder)
    finally:
        remove(temporary)
    return folder / "page" / "index.html"


def build_key(
    videos: dict[str, Sequence[Path]], pairs: list[tuple[Clip, Clip]], names: dict[Clip, str]
) -> dict[str, object]:
    r"""Which clip of which method is on which side of which pair; the study is named by a hash of all that."""
    described = {
        clip: {"method": clip[0], "video": str(videos[clip[0]][clip[1]]), "clip": name} for clip, name in names.items()
    }
    content = {
        "methods": list(videos),
        "questions": QUESTIONS,
        "pairs": {f"pair-{number:04d}": [described[clip] for clip in pair] for number, pair in enumerate(pairs, 1)},
    }
    hashes = [file_hash(path) for paths in videos.values() for path in paths]
    study = hashlib.sha256(json.dumps([content, hashes]).encode()).hexdigest()[:16]
    return {"study": study, **content}


def build_page(key: dict[str, object]) -> str:
    r"""The page of a study: what the key says without the methods."""
    pairs = [{"name": name, "clips": [clip["clip"] for clip in clips]} for name, clips in key["pairs"].items()]
    study = {"study": key["study"], "questions": key["questions"], "pairs": pairs}
    return TEMPLATE.read_text(encoding="utf-8").replace("__STUDY__", json.dumps(study))


def read_json(path: Path) -> dict[str, object]:
    r"""An object of a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the JSON, or of its characters
        raise ValueError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object with names, got a {type(content).__name__}.")
    return content


def read_answers(path: Path, key: dict[str, object]) -> tuple[str, dict[str, dict[str, int]]]:
    r"""The rater of a file, and by pair and question the side that was chosen, all of them there."""
    content = read_json(path)
    if content.get("study") != key["study"]:
        raise ValueError(f"{path} answers the study {content.get('study')!r}, and the key is of {key['study']!r}.")
    rater, answers = content.get("rater"), content.get("answers")
    if not isinstance(rater, str) or not rater.strip() or not isinstance(answers, dict):
        raise ValueError(f"{path} must hold a `rater` and `answers`, as the page saves them.")
    unknown = [name for name in answers if name not in key["pairs"]]
    if unknown:
        raise ValueError(f"{path} answers {unknown[0]}, which the study does not have.")
    for name in key["pairs"]:
        for question in key["questions"]:
            of_pair = answers.get(name)
            side = of_pair.get(question) if isinstance(of_pair, dict) else None
            if side is None:
                raise ValueError(f"{path} does not answer {name} ({question}): let {rater} go on and save again.")
            if side not in (1, 2):
                raise ValueError(f"{path} must choose 1 or 2 for {name} ({question}), got {side!r}.")
    return rater.strip(), answers


def score_user_study(key: str | Path, answers: Sequence[str | Path]) -> dict[str, object]:
    r"""
    Args:
        key (`str` or `Path`): key.json of the study.
        answers (`Sequence[str | Path]`): Files that its page saved, one of each rater.

    Returns:
        `dict[str, object]`: As JSON has it: "study", "raters" and "comparisons". One for every two methods holds
        "methods", "num_raters" and by question "num_answers" and by method its "shares" from 0 to 1 and their
        "intervals", Wilson's of 95 %, which take every answer for one of its own.

    Raises:
        FileNotFoundError: Where a file is missing.
        ValueError: Where there are no answers, two files of one rater, another study's, or answers that are missing or
            of unknown pairs.
    """
    path = Path(key)
    key = read_json(path)
    if not {"study", "methods", "questions", "pairs"} <= set(key):
        raise ValueError(f"{path} is no key: take key.json beside the study's page.")
    if not answers:
        raise ValueError("`answers` must name one file or more, got none.")
    files, chosen = {}, []
    for path in map(Path, answers):
        rater, of_rater = read_answers(path, key)
        same = [other for other in files if other.casefold() == rater.casefold()]
        if same:
            raise ValueError(f"{files[same[0]]} and {path} are both of the rater {rater}: name one of them.")
        files[rater] = path
        chosen.append(of_rater)
    comparisons = [compare(pair, key, chosen) for pair in itertools.combinations(key["methods"], 2)]
    return {"study": key["study"], "raters": list(files), "comparisons": comparisons}


def compare(
    methods: tuple[str, str], key: dict[str, object], chosen: list[dict[str, dict[str, int]]]
) -> dict[str, object]:
    r"""How often each of two methods was preferred."""
    pairs = {
        name: [clip["method"] for clip in clips]
        for name, clips in key["pairs"].items()
        if {clip["method"] for clip in clips} == set(methods)
    }
    result = {"methods": list(methods), "num_raters": len(chosen)}
    for question in key["questions"]:
        preferred = [sides[of_rater[name][question] - 1] for of_rater in chosen for name, sides in pairs.items()]
        shares = {method: preferred.count(method) / len(preferred) for method in methods}
        result[question] = {
            "num_answers": len(preferred),
            "shares": shares,
            "intervals": {method: list(wilson_interval(share, len(preferred))) for method, share in shares.items()},
        }
    return result
