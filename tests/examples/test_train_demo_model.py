import json
import os
import shutil

import pytest
import torch
from safetensors import safe_open

from leo_diffusers import LEOEditPipeline, LEOInfinitePipeline, LEOPipeline, LIAPipeline


pytestmark = pytest.mark.slow  # every stage of the recipe, a script each


@pytest.fixture(scope="module")
def smoke_folder(run_example, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo-model")
    run_example("train_demo_model.py", "--smoke", "--output_dir", folder)
    return folder


def test_every_pipeline_loads_what_it_makes(smoke_folder):
    model = smoke_folder / "demo_model"
    for pipeline in (LIAPipeline, LEOPipeline, LEOInfinitePipeline, LEOEditPipeline):
        assert pipeline.from_pretrained(model).animator.config.frame_size == 128
    leo = LEOPipeline.from_pretrained(model)
    output = leo(num_frames=3, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt")
    assert output.frames.shape == (1, 3, 3, 128, 128) and output.frames.isfinite().all()


def test_its_files_are_small_and_tell_nothing_of_the_disk(smoke_folder):
    model = smoke_folder / "demo_model"
    sizes = [path.stat().st_size for path in model.rglob("*") if path.is_file()]
    assert sum(sizes) <= 40e6 and max(sizes) <= 16e6
    for path in model.rglob("*.json"):
        assert str(smoke_folder.parent) not in path.read_text()
    for path in model.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                kept = name.startswith(("motion_head", "motion_dictionary"))
                assert file.get_tensor(name).dtype == (torch.float32 if kept else torch.float16)


def test_its_card_tells_how_it_was_made_and_how_good_it_is(smoke_folder):
    card = (smoke_folder / "demo_model" / "README.md").read_text()
    for script in ("render_talking_heads", "train_label_network", "train_lia", "train_lmdm", "train_first_frame"):
        assert f"python examples/{script}.py " in card
    assert "PSNR" in card and str(smoke_folder) not in card
    for picture in ("curves.png", "generated.png", "first_frames.png"):
        assert f"({picture})" in card and (smoke_folder / "demo_model" / picture).is_file()


def test_a_second_run_does_nothing_again(smoke_folder, run_example):
    files = [path for path in smoke_folder.rglob("*.safetensors") if "demo_model" not in path.parts]
    before = {path: os.stat(path).st_mtime_ns for path in files}
    said = run_example("train_demo_model.py", "--smoke", "--output_dir", smoke_folder)
    assert {path: os.stat(path).st_mtime_ns for path in files} == before and "$ " not in said
    assert json.loads((smoke_folder / "animator" / "stage.json").read_text())["minutes"] > 0


@pytest.mark.parametrize("options", [["--smoke", "--seed", "1"], []])
def test_what_another_command_made_is_not_gone_on_with(smoke_folder, run_example, options):
    said = run_example("train_demo_model.py", *options, "--output_dir", smoke_folder, is_refused=True)
    assert "was made by another command" in said and "delete it" in said


def test_what_was_made_from_a_stage_that_is_gone_is_not_used(smoke_folder, run_example, tmp_path):
    folder = shutil.copytree(smoke_folder, tmp_path / "demo")
    shutil.rmtree(folder / "label-network")
    said = run_example("train_demo_model.py", "--smoke", "--output_dir", folder, is_refused=True)
    assert "animator was made before label-network is done: delete it" in said


def test_a_smoke_run_is_not_packaged(tmp_path, run_example):
    said = run_example(
        "train_demo_model.py", "--smoke", "--package", "--output_dir", tmp_path / "demo", is_refused=True
    )
    assert "--package cannot go with --smoke" in said and not (tmp_path / "demo").exists()
