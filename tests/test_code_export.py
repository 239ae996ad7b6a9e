import json
import re
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from leo_diffusers import LEOEditPipeline, LEOInfinitePipeline, LEOPipeline, LIAPipeline
from leo_diffusers.cli import main
from leo_diffusers.code_export import carried_code, export_code
from tests.support.loopback_hub import run_client


NOWHERE = "http://127.0.0.1:9"  # the discard port: connections are refused

LOAD = """
import importlib.util, sys
assert importlib.util.find_spec("leo_diffusers") is None and importlib.util.find_spec("imageio_ffmpeg") is None
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

def seeded():
    return torch.Generator().manual_seed(3)

pipeline = DiffusionPipeline.from_pretrained({source!r}, trust_remote_code=True)
pipeline.set_progress_bar_config(disable=True)
photo = Image.open({photo!r})
"""
FROM_NOTHING = (
    LOAD
    + """
options = {{"num_frames": 6, "num_inference_steps": 2, "output_type": "pt"}}
outputs = {{"photo": pipeline(photo, generator=seeded(), **options).frames}}
outputs["nothing"] = pipeline(generator=seeded(), **options).frames
assert isinstance(pipeline(photo, num_frames=2, num_inference_steps=2).frames[0][0], Image.Image)
save_file(outputs, {output!r})
pipeline.save_pretrained({again!r})
print(type(pipeline).__name__, type(pipeline.animator).__name__, type(pipeline.first_frame_unet).__name__)
assert not [name for name in sys.modules if name == "leo_diffusers" or name.startswith("leo_diffusers.")]
"""
)
ANIMATED = (
    LOAD
    + """
frames = [photo, photo.rotate(8), photo.rotate(20)]
save_file({{"frames": pipeline(photo, frames, output_type="pt").frames}}, {output!r})
print(type(pipeline).__name__)
"""
)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory) -> list[str]:
    """A Python that has all packages but this one, and ffmpeg neither: links to them in a folder of their own."""
    folder = tmp_path_factory.mktemp("site-packages")
    for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(site).iterdir():
            is_left_out = re.search(r"leo_diffusers|imageio_ffmpeg", path.name) or path.suffix == ".pth"
            if not is_left_out and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    start = tmp_path_factory.mktemp("start") / "start.py"
    start.write_text(f"import sys\nsys.path.append({str(folder)!r})\nexec(sys.argv[2])  # after -c\n")
    return [sys.executable, "-I", "-S", str(start)]


@pytest.fixture
def load_elsewhere(bare_python, tmp_path, photo):
    """Runs code where the package is not installed; returns what it printed last and the tensors that it saved."""
    photo.save(tmp_path / "photo.png")

    def load(code: str, source: str | Path, endpoint: str = NOWHERE) -> tuple[str, dict[str, torch.Tensor]]:
        names = {
            "photo": str(tmp_path / "photo.png"),
            "output": str(tmp_path / "output"),
            "again": str(tmp_path / "again"),
        }
        code = code.format(source=str(source), **names)
        result = run_client(code, endpoint, tmp_path / "home", python=bare_python)
        assert result.returncode == 0, result.stderr
        assert "might require" not in result.stderr and "Expected types" not in result.stderr
        return result.stdout.splitlines()[-1], load_file(tmp_path / "output")

    return load


@pytest.fixture
def expected(full_folder, tmp_path, photo) -> dict[str, torch.Tensor]:
    """What the package itself makes."""
    pipeline = LEOPipeline.from_pretrained(full_folder)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_frames": 6, "num_inference_steps": 2, "output_type": "pt"}
    return {
        name: pipeline(image, generator=torch.Generator().manual_seed(3), **options).frames
        for name, image in (("photo", photo), ("nothing", None))
    }


@pytest.fixture
def exported(full_folder, tmp_path) -> Path:
    export_code(LEOPipeline.from_pretrained(full_folder), tmp_path / "leo", with_sample=False)
    return tmp_path / "leo"


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Up to how another process, which may have another number of threads, rounds."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_folder_runs_where_the_package_is_not_installed(exported, load_elsewhere, expected, tmp_path):
    said, frames = load_elsewhere(FROM_NOTHING, exported)
    assert said == "LEOPipeline LIAModel UNet2DConditionModel"
    assert_equal(frames, expected)
    # What was saved there carries the code too.
    said, frames = load_elsewhere(FROM_NOTHING, tmp_path / "again")
    assert_equal(frames, expected)


def test_a_hub_id_runs_where_the_package_is_not_installed(exported, loopback_hub, load_elsewhere, expected):
    loopback_hub.add("me/leo", exported)
    said, frames = load_elsewhere(FROM_NOTHING, "me/leo", loopback_hub.endpoint)
    assert said == "LEOPipeline LIAModel UNet2DConditionModel"
    assert_equal(frames, expected)


def test_an_animator_runs_where_the_package_is_not_installed(lia_folder, load_elsewhere, tmp_path, photo):
    words = ["export-code", "--model", lia_folder, "--output", tmp_path / "lia", "--no-sample"]
    assert main([str(word) for word in words]) == 0
    said, frames = load_elsewhere(ANIMATED, tmp_path / "lia")
    driving = [photo, photo.rotate(8), photo.rotate(20)]
    assert said == "LIAPipeline"
    expected = LIAPipeline.from_pretrained(lia_folder)(photo, driving, output_type="pt").frames
    assert_equal(frames, {"frames": expected})


def test_nothing_runs_unless_it_is_trusted(exported):
    for loader in (DiffusionPipeline, LEOPipeline):
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            loader.from_pretrained(exported)


def test_it_loads_beside_the_package(exported, photo, expected):
    pipeline = DiffusionPipeline.from_pretrained(exported, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline).__name__ == "LEOPipeline" and not isinstance(pipeline, LEOPipeline)
    generator = torch.Generator().manual_seed(3)
    output = pipeline(photo, num_frames=6, num_inference_steps=2, generator=generator, output_type="pt")
    assert torch.equal(output.frames, expected["photo"])
    with pytest.raises(TypeError, match="`pipeline` must be one of leo_diffusers, got LEOPipeline"):
        export_code(pipeline, exported / "again")


def test_the_folder_names_its_code(exported):
    (code,) = exported.glob("*.py")
    index = json.loads((exported / "model_index.json").read_text())
    assert index["_class_name"] == [code.stem, "LEOPipeline"] and "_name_or_path" not in index
    for name in ("animator", "motion_unet", "motion_prior"):
        assert index[name][0] == code.stem
        assert (exported / name / code.name).read_text() == code.read_text() == carried_code()
    assert index["first_frame_unet"][0] == index["scheduler"][0] == "diffusers"
    assert not list((exported / "first_frame_unet").glob("*.py"))


def test_its_card_says_how_it_is_loaded(exported):
    card = ModelCard.load(exported / "README.md")
    assert 'DiffusionPipeline.from_pretrained("leo", trust_remote_code=True)' in card.text
    assert card.text.count("## Use") == 1 and "from leo_diffusers" not in card.text
    assert card.data.library_name == "leo_diffusers" and card.data.license == "other"


@pytest.mark.parametrize("pipeline_class", [LEOInfinitePipeline, LEOEditPipeline])
def test_the_command_exports_any_pipeline(full_folder, tmp_path, capsys, pipeline_class):
    folder, name = tmp_path / "model", pipeline_class.__name__
    words = ["--model", full_folder, "--output", folder, "--pipeline", name, "--license", "cc-by-4.0", "--no-sample"]
    assert main(["export-code", *map(str, words)]) == 0
    assert f"Wrote {folder}: {name} with its code" in capsys.readouterr().out
    assert json.loads((folder / "model_index.json").read_text())["_class_name"][1] == name
    assert ModelCard.load(folder / "README.md").data.license == "cc-by-4.0"
    assert type(DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)).__name__ == name


def test_the_command_refuses_what_cannot_be(lia_folder, tmp_path, capsys):
    def refused(*words: object) -> str:
        assert main(["export-code", *map(str, words)]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "motion_unet" in refused("--model", lia_folder, "--output", tmp_path / "a", "--pipeline", "LEOPipeline")
    assert "got 'CC BY'" in refused("--model", lia_folder, "--output", tmp_path / "a", "--license", "CC BY")
    (tmp_path / "note.txt").write_text("older")
    assert "is not an empty folder" in refused("--model", lia_folder, "--output", tmp_path)
    assert not (tmp_path / "a").exists()


def test_sources_are_carried_as_they_are(exported):
    (code,) = exported.glob("*.py")
    text = code.read_text()
    assert not re.findall(r"^\s*(?:from|import)\s+\.", text, re.MULTILINE)  # which diffusers would look for beside it
    package = Path(main.__code__.co_filename).parent
    for name in ("models/lia.py", "pipelines/pipeline_leo.py", "video_io/images.py"):
        body = text.split(f"#@ {name}\n")[1].split("#@ ")[0]
        assert "".join(line[2:] + "\n" for line in body.splitlines()).strip() == (package / name).read_text().strip()
