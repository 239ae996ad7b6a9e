"""The embedded model: what every pipeline loads without a download."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open

from leo_diffusers import DEMO_MODEL, LEOEditPipeline, LEOInfinitePipeline, LEOPipeline, LIAModel, LIAPipeline


FOLDER = Path(DEMO_MODEL)
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())
PIPELINES = (LIAPipeline, LEOEditPipeline, LEOPipeline, LEOInfinitePipeline)
MEGABYTE = 2**20

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the embedded model has not been added yet")


@pytest.mark.parametrize("pipeline_class", PIPELINES)
def test_every_pipeline_loads_it_whole(pipeline_class):
    pipeline = pipeline_class.from_pretrained(DEMO_MODEL)
    missing = [name for name, component in pipeline.components.items() if component is None]
    assert missing in ([], ["editor"])
    networks = [component for component in pipeline.components.values() if isinstance(component, torch.nn.Module)]
    assert {parameter.dtype for network in networks for parameter in network.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for network in networks for parameter in network.parameters())


def test_it_is_an_infinite_pipeline():
    assert isinstance(DiffusionPipeline.from_pretrained(DEMO_MODEL), LEOInfinitePipeline)


def test_it_generates_from_nothing():
    pipeline = LEOPipeline.from_pretrained(DEMO_MODEL)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(num_frames=3, num_inference_steps=2, output_type="pt").frames
    size = pipeline.animator.config.frame_size
    assert frames.shape == (1, 3, 3, size, size) and frames.isfinite().all()


def test_it_is_small():
    assert sum(path.stat().st_size for path in FILES) <= 40 * MEGABYTE
    assert max(path.stat().st_size for path in FILES) <= 16 * MEGABYTE


def test_it_holds_weights_settings_and_a_card_with_its_pictures_only():
    assert {path.suffix for path in FILES} == {".safetensors", ".json", ".md", ".png"}
    assert [path for path in FILES if path.suffix == ".md"] == [FOLDER / "README.md"]
    card = (FOLDER / "README.md").read_text()
    assert all(f"({path.name})" in card for path in FILES if path.suffix == ".png")
    for name in json.loads((FOLDER / "model_index.json").read_text()):
        assert name.startswith("_") or (FOLDER / name).is_dir()
    weights = [path for path in FILES if path.suffix == ".safetensors"]
    assert {path.name for path in weights} == {"diffusion_pytorch_model.safetensors"}  # no variant


def test_weights_are_in_half_precision():
    for path in FILES:
        if path.suffix != ".safetensors":
            continue
        kept = set(LIAModel._keep_in_fp32_modules if path.parent.name == "animator" else ())
        with safe_open(path, framework="pt") as weights:
            wide = {name for name in weights.keys() if weights.get_slice(name).get_dtype() in ("F32", "F64")}  # noqa: SIM118
        assert {name.split(".")[0] for name in wide} <= kept, path
