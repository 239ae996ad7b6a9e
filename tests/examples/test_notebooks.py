import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leo_diffusers.data.talking_heads import render_clip
from leo_diffusers.video_io import VideoReader, load_face_detector, write_video
from tests.conftest import REPOSITORY
from tests.examples.conftest import ENVIRONMENT


nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOKS = ("quickstart", "train_motion", "edit_video")
ADDRESS = "https://colab.research.google.com/github/leo-diffusers/leo_diffusers/blob/main/examples/notebooks"
LONGEST = 300  # seconds
VIDEO = 'src="data:video/mp4;base64,'


def read(name: str, folder: Path = REPOSITORY / "examples"):
    return nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.fixture
def execute(tmp_path) -> Callable:
    """Runs cells of a notebook from top to bottom in a copy of examples/, with other values of its settings."""
    folder = tmp_path / "examples"
    shutil.copytree(REPOSITORY / "examples", folder, ignore=shutil.ignore_patterns("outputs", "results"))

    def run(name: str, *cell_ids: str, **settings: object):
        notebook = read(name, folder)
        if cell_ids:
            notebook.cells = [cell for cell in notebook.cells if cell.id in cell_ids]
        lines = re.compile(rf"^({'|'.join(settings)}) = .*$", re.MULTILINE)
        for cell in notebook.cells if settings else ():
            cell.source = lines.sub(lambda line: f"{line[1]} = {settings[line[1]]!r}", cell.source)
        client = nbclient.NotebookClient(
            notebook, timeout=LONGEST, resources={"metadata": {"path": str(folder / "notebooks")}}
        )
        client.execute(env=ENVIRONMENT)
        return notebook

    return run


def shown(notebook, cell_id: str | None = None) -> list[str]:
    """What the cells show as pictures and videos."""
    outputs = [output for cell in notebook.cells if cell_id in (None, cell.id) for output in cell.get("outputs", ())]
    kinds = [kind for output in outputs for kind in output.get("data", {}) if kind == "image/png"]
    return kinds + ["video/mp4" for output in outputs if VIDEO in output.get("data", {}).get("text/html", "")]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_is_kept_without_outputs_and_opens_in_colab(name):
    path = REPOSITORY / "examples" / "notebooks" / f"{name}.ipynb"
    notebook, text = read(name), path.read_text()
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert all(cell.outputs == [] and cell.execution_count is None for cell in notebook.cells if "outputs" in cell)
    title, install = notebook.cells[0].source, notebook.cells[1].source
    assert re.match(r"# .+\n\n\[!\[Open in Colab\].+\n\n\S.{100,}$", title)
    assert f"]({ADDRESS}/{name}.ipynb)" in title
    assert 'find_spec("leo_diffusers") is None:\n    %pip install' in install
    assert not re.search(r"(?<![\w:./-])/(home|root|tmp|Users|work|usr|mnt|content)/", text)
    assert "consent" in text
    links = {link.rpartition("/")[2] for link in re.findall(rf"{ADDRESS}/\w+\.ipynb", text)}
    assert links <= {f"{other}.ipynb" for other in NOTEBOOKS}


def test_no_notebook_is_left_out():
    assert {path.stem for path in (REPOSITORY / "examples" / "notebooks").glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize(
    "name, kinds",
    [
        ("quickstart", {"image/png": 1, "video/mp4": 5}),
        pytest.param("train_motion", {"image/png": 3, "video/mp4": 3}, marks=pytest.mark.slow),
        ("edit_video", {"image/png": 1, "video/mp4": 5}),
    ],
)
def test_executes_from_top_to_bottom(execute, name, kinds):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    notebook = execute(name)  # raises where a cell does
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor: seconds of the clock would tell what else the machine does.
    assert 0 < after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < LONGEST
    found = shown(notebook)
    assert {kind: found.count(kind) for kind in found} == kinds
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "Traceback" not in said and ": error: " not in said


@pytest.mark.parametrize("is_guided", [False, True])
def test_an_image_model_edits_the_video(execute, request, stable_diffusion_folder, controlnet_folder, is_guided):
    guide = (None, None)
    if is_guided:
        request.getfixturevalue("detectors")
        guide = (str(controlnet_folder), "canny")
    notebook = execute(
        "edit_video",
        *("settings", "original", "model"),
        NUM_FRAMES=4,
        EDITOR=str(stable_diffusion_folder),
        EDITOR_ARGUMENTS={"strength": 0.7, "num_inference_steps": 2},
        **{"CONTROLNET, DETECTOR": guide},
    )
    assert shown(notebook, "model") == ["video/mp4"]


def test_your_own_photo_and_video(execute, tmp_path):
    try:
        load_face_detector()
    except ImportError as error:
        pytest.skip(str(error))
    border = ((0, 0), (40, 24), (80, 50), (0, 0))
    photo, clip = (np.pad(render_clip(seed, seed, 4, 256).frames, border, "edge") for seed in (1_000_003, 1_000_002))
    Image.fromarray(photo[0]).save(tmp_path / "photo.png")
    Image.fromarray(255 - clip[0]).save(tmp_path / "edited.png")
    write_video(tmp_path / "video.mp4", clip, frames_per_second=24)
    photo, video, edited = (str(tmp_path / name) for name in ("photo.png", "video.mp4", "edited.png"))

    notebook = execute("quickstart", "settings", "load", "own", **{"PHOTO, DRIVING_VIDEO": (photo, video)})
    assert shown(notebook, "own") == ["video/mp4"]
    cells = ("settings", "original", "model", "own")
    notebook = execute("edit_video", *cells, NUM_FRAMES=2, **{"VIDEO, EDITED_FRAME": (video, edited)})
    assert shown(notebook, "own") == ["video/mp4"]
    for name in ("own", "edited"):
        written = VideoReader(tmp_path / "examples" / "notebooks" / "outputs" / f"{name}.mp4")
        assert (written.width, written.height, len(written), written.frames_per_second) == (386, 320, 4, 24)
