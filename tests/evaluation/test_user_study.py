import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from leo_diffusers.evaluation.user_study import score_user_study, write_user_study


METHODS = ("Animator", "Rival", "Third")
Z = 1.959964  # of 95 %


@pytest.fixture
def videos(tmp_path) -> dict[str, list[Path]]:
    """Files of different contents: nothing but the browser looks into them."""
    paths = {}
    for method in METHODS:
        (tmp_path / method).mkdir()
        paths[method] = [tmp_path / method / f"video-{index}.mp4" for index in range(4)]
        for path in paths[method]:
            path.write_bytes(f"{method} {path.name}".encode())
    return paths


@pytest.fixture
def study(videos, tmp_path) -> Path:
    write_user_study(videos, tmp_path / "study", seed=0)
    return tmp_path / "study"


def write_answers(folder: Path, rater: str, prefer: dict[str, list[str]]) -> Path:
    """A rater who prefers by question the methods in this order, as the page saves it."""
    key = json.loads((folder / "key.json").read_text())
    answers = {}
    for name, clips in key["pairs"].items():
        methods = [clip["method"] for clip in clips]
        answers[name] = {
            question: 1 + methods.index(min(methods, key=order.index)) for question, order in prefer.items()
        }
    path = folder / f"answers-{rater}.json"
    path.write_text(json.dumps({"study": key["study"], "rater": rater, "answers": answers}))
    return path


def page_data(folder: Path) -> dict:
    page = (folder / "page" / "index.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="study">(.*?)</script>', page, re.DOTALL)[1])


# --- writing ---


def test_every_two_methods_are_compared_clip_by_clip(study, videos):
    key = json.loads((study / "key.json").read_text())
    shown = [tuple(sorted((clip["method"], clip["video"]) for clip in clips)) for clips in key["pairs"].values()]
    expected = [
        ((first, str(videos[first][index])), (second, str(videos[second][index])))
        for first, second in itertools.combinations(METHODS, 2)
        for index in range(4)
    ]
    assert sorted(shown) == sorted(expected) and shown != sorted(shown)
    for first, second in itertools.combinations(METHODS, 2):
        left = [
            clips[0]["method"] for clips in key["pairs"].values() if {c["method"] for c in clips} == {first, second}
        ]
        assert left.count(first) == left.count(second) == 2


def test_the_page_has_the_clips_of_the_key_and_hides_methods(study):
    key = json.loads((study / "key.json").read_text())
    data = page_data(study)
    assert data["study"] == key["study"]
    assert [pair["name"] for pair in data["pairs"]] == list(key["pairs"])
    for pair, clips in zip(data["pairs"], key["pairs"].values()):
        for name, clip in zip(pair["clips"], clips, strict=True):
            assert (study / "page" / name).read_bytes() == Path(clip["video"]).read_bytes()
    assert not (study / "page" / "key.json").exists()
    names = " ".join(str(path.relative_to(study / "page")) for path in (study / "page").rglob("*"))
    text = names + (study / "page" / "index.html").read_text()
    assert not any(method in text for method in METHODS) and "video-0" not in text
    order = {clip["clip"]: clip["method"] for clips in key["pairs"].values() for clip in clips}
    assert [order[name] for name in sorted(order)] != sorted(order.values())  # nor do the numbers tell


def test_a_seed_is_a_study(videos, tmp_path):
    keys = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        page = write_user_study(videos, tmp_path / name, seed)
        assert page == tmp_path / name / "page" / "index.html" and page.is_file()
        keys.append(json.loads((tmp_path / name / "key.json").read_text()))
    assert keys[0] == keys[1] and keys[0]["pairs"] != keys[2]["pairs"] and keys[0]["study"] != keys[2]["study"]
    videos["Rival"][0].write_bytes(b"another")
    write_user_study(videos, tmp_path / "d", seed=3)
    assert json.loads((tmp_path / "d" / "key.json").read_text())["study"] != keys[0]["study"]


class Elements(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_can_be_used_by_keyboard_and_without_a_network(study):
    page = (study / "page" / "index.html").read_text()
    elements = Elements(page).found
    ids = {attributes["id"] for _, attributes in elements if "id" in attributes}
    labelled = {attributes["for"] for tag, attributes in elements if tag == "label"}
    assert {"rater", "progress"} == labelled <= ids
    assert dict(elements)["html"]["lang"] == "en"
    assert all(attributes["aria-label"] and "controls" in attributes for tag, attributes in elements if tag == "video")
    assert set(re.findall(r'byId\("([^"]+)"\)', page)) <= ids
    assert "http" not in page and not any({"src", "href"} & set(attributes) for _, attributes in elements)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is absent")
def test_the_script_is_javascript(study, tmp_path):
    page = (study / "page" / "index.html").read_text()
    (tmp_path / "page.js").write_text(re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0])
    subprocess.run(["node", "--check", tmp_path / "page.js"], check=True)


def test_a_study_that_fails_leaves_nothing(videos, tmp_path, study):
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(FileExistsError, match="study exists, and raters may have answered"):
        write_user_study(videos, study, seed=0)
    with pytest.raises(FileNotFoundError, match="must name files, got .*video-9.mp4"):
        write_user_study(videos | {"Rival": [tmp_path / "video-9.mp4"] * 4}, tmp_path / "other", seed=0)
    with pytest.raises(FileNotFoundError, match="The folder .*nowhere does not exist"):
        write_user_study(videos, tmp_path / "nowhere" / "study", seed=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_videos_that_cannot_be_compared_are_refused(videos, tmp_path):
    folder = tmp_path / "study"
    with pytest.raises(ValueError, match="`videos` must be of two methods or more, got 1"):
        write_user_study({"Rival": videos["Rival"]}, folder, seed=0)
    with pytest.raises(ValueError, match="as many of each method, one or more, got 4 of Animator, 3 of Rival"):
        write_user_study(videos | {"Rival": videos["Rival"][:3]}, folder, seed=0)
    with pytest.raises(ValueError, match="one or more, got 0 of Animator, 0 of Rival"):
        write_user_study({"Animator": [], "Rival": []}, folder, seed=0)
    for suffix, found in ((".webm", ".mp4, .webm"), (".gif", ".gif, .mp4")):
        other = tmp_path / f"other{suffix}"
        other.touch()
        with pytest.raises(ValueError, match=f"must be all .mp4 or all .webm, .* got {found}"):
            write_user_study(videos | {"Rival": [other] * 4}, folder, seed=0)
    assert not folder.exists()


# --- scoring ---


def wilson(share: float, count: int) -> list[float]:
    """The two roots of (share - p)^2 = z^2 p (1 - p) / count."""
    a, b, c = 1 + Z**2 / count, -2 * share - Z**2 / count, share**2
    root = (b * b - 4 * a * c) ** 0.5
    return [(-b - root) / (2 * a), (-b + root) / (2 * a)]


def test_scores(study):
    orders = {
        "Ann": {"quality": ["Animator", "Rival", "Third"], "coherency": ["Rival", "Animator", "Third"]},
        "Bob": {"quality": ["Animator", "Third", "Rival"], "coherency": ["Rival", "Third", "Animator"]},
        "Cy": {"quality": ["Rival", "Animator", "Third"], "coherency": ["Rival", "Animator", "Third"]},
    }
    score = score_user_study(study / "key.json", [write_answers(study, name, order) for name, order in orders.items()])
    assert score["raters"] == ["Ann", "Bob", "Cy"]
    assert [result["methods"] for result in score["comparisons"]] == [
        ["Animator", "Rival"],
        ["Animator", "Third"],
        ["Rival", "Third"],
    ]
    for result in score["comparisons"]:
        first, second = result["methods"]
        assert result["num_raters"] == 3
        for question in ("quality", "coherency"):
            found = result[question]
            prefer_first = [order[question].index(first) < order[question].index(second) for order in orders.values()]
            share = sum(prefer_first) / 3
            assert found["num_answers"] == 12
            assert found["shares"] == pytest.approx({first: share, second: 1 - share})
            assert found["intervals"][first] == pytest.approx(wilson(share, 12), abs=1e-6)
            assert found["intervals"][second] == pytest.approx([1 - end for end in found["intervals"][first][::-1]])
    assert json.loads(json.dumps(score)) == score


ORDER = {"quality": list(METHODS), "coherency": list(METHODS)}


def change_answers(path: Path, change: dict) -> Path:
    content = json.loads(path.read_text())
    content["answers"] = {name: value for name, value in (content["answers"] | change).items() if value is not None}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair-0003": None}, r"answers-Ann.json does not answer pair-0003 \(quality\): let Ann go on"),
        ({"pair-0003": {"quality": 1}}, r"answers-Ann.json does not answer pair-0003 \(coherency\)"),
        ({"pair-0003": [1, 2]}, r"does not answer pair-0003 \(quality\)"),
        ({"pair-0013": {"quality": 1}}, "answers-Ann.json answers pair-0013, which the study does not have"),
        ({"pair-0003": {"quality": 3, "coherency": 1}}, r"must choose 1 or 2 for pair-0003 \(quality\), got 3"),
    ],
)
def test_other_answers_are_refused(study, change, message):
    path = change_answers(write_answers(study, "Ann", ORDER), change)
    with pytest.raises(ValueError, match=message):
        score_user_study(study / "key.json", [path])


def test_other_files_are_refused(study, videos, tmp_path):
    key, path = study / "key.json", write_answers(study, "Ann", ORDER)
    with pytest.raises(ValueError, match="answers-Ann.json and .*answers- ann.json are both of the rater ann"):
        score_user_study(key, [path, write_answers(study, " ann", ORDER)])
    write_user_study(videos, tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="answers-Ann.json answers the study '.*', and the key is of '.*'"):
        score_user_study(tmp_path / "other" / "key.json", [path])
    with pytest.raises(ValueError, match="must hold a `rater` and `answers`, as the page saves them"):
        score_user_study(key, [write_answers(study, " ", ORDER)])
    with pytest.raises(ValueError, match="answers-Ann.json is no key: take key.json"):
        score_user_study(path, [path])
    with pytest.raises(ValueError, match="`answers` must name one file or more, got none"):
        score_user_study(key, [])
    path.write_text("[")
    with pytest.raises(ValueError, match="answers-Ann.json cannot be read as JSON"):
        score_user_study(key, [path])
    path.write_text("[]")
    with pytest.raises(ValueError, match="answers-Ann.json must hold an object with names, got a list"):
        score_user_study(key, [path])
    with pytest.raises(FileNotFoundError):
        score_user_study(key, [tmp_path / "nobody.json"])
