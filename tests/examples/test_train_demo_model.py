import json
import os

import pytest
import torch
from safetensors import safe_open

from leo_diffusers import LEOEditPipeline, LEOInfinitePipeline, LEOPipeline, LIAPipeline


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
            assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}


def test_its_card_tells_how_it_was_made_and_how_good_it_is(smoke_folder):
    card = (smoke_folder / "demo_model" / "README.md").read_text()
    for script in ("render_talking_heads", "train_label_network", "train_lia", "train_lmdm", "train_first_frame"):
        assert f"python examples/{script}.py " in card
    assert "PSNR" in card and str(smoke_folder) not in card
    for picture in ("curves.png", "generated.png"):
        assert f"({picture})" in card and (smoke_folder / "demo_model" / picture).is_file()


def test_a_second_run_trains_nothing_again(smoke_folder, run_example):
    animator = smoke_folder / "animator" / "animator" / "diffusion_pytorch_model.safetensors"
    before = os.stat(animator).st_mtime_ns
    said = run_example("train_demo_model.py", "--smoke", "--output_dir", smoke_folder)
    assert os.stat(animator).st_mtime_ns == before and "train_lia.py" not in said
    stages = [json.loads(line)["stage"] for line in (smoke_folder / "minutes.jsonl").read_text().splitlines()]
    assert stages.count("animator") == 1 and stages.count("evaluation") == 2


def test_a_smoke_run_is_not_packaged(tmp_path, run_example):
    said = run_example(
        "train_demo_model.py", "--smoke", "--package", "--output_dir", tmp_path / "demo", is_refused=True
    )
    assert "--package cannot go with --smoke" in said and not (tmp_path / "demo").exists()
