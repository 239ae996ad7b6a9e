import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

import leo_diffusers
from leo_diffusers import LEOPipeline, LIAModel, LIAPipeline, MotionUNet1DModel
from tests.support.loopback_hub import TOKEN, LoopbackHub, run_client


@pytest.fixture
def hub(loopback_hub, leo_folder, lia_folder) -> LoopbackHub:
    loopback_hub.add("someone/tiny-leo", leo_folder)
    loopback_hub.add("someone/tiny-lia", lia_folder)
    return loopback_hub


# --- what is written ---


def test_model_index_names_the_package(leo_folder, lia_folder):
    index = json.loads((leo_folder / "model_index.json").read_text())
    assert index["_class_name"] == "LEOPipeline"
    assert index["animator"] == ["leo_diffusers", "LIAModel"]
    assert index["motion_unet"] == ["leo_diffusers", "MotionUNet1DModel"]
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    index = json.loads((lia_folder / "model_index.json").read_text())
    assert index["_class_name"] == "LIAPipeline"
    assert index["animator"] == ["leo_diffusers", "LIAModel"]


def test_weights_are_safetensors(leo_folder):
    weights = sorted(str(path.relative_to(leo_folder)) for path in leo_folder.rglob("diffusion_pytorch_model*"))
    assert weights == [f"{name}/diffusion_pytorch_model.safetensors" for name in ("animator", "motion_unet")]


@pytest.mark.parametrize("name", [name for name in leo_diffusers.__all__ if name != "DEMO_MODEL"])
def test_public_names_are_there(name):
    assert getattr(leo_diffusers, name).__module__.startswith("leo_diffusers.")


# --- what is read from a folder ---


@pytest.mark.parametrize("loader", [LEOPipeline, DiffusionPipeline])
def test_a_folder_of_leo(leo_folder, make_leo_pipeline, photo, loader):
    pipeline = loader.from_pretrained(leo_folder)
    assert type(pipeline) is LEOPipeline
    assert type(pipeline.animator) is LIAModel and type(pipeline.motion_unet) is MotionUNet1DModel
    assert type(pipeline.scheduler) is DDIMScheduler
    latents = torch.randn(1, 8, 15, generator=torch.Generator().manual_seed(0))
    arguments = {"num_frames": 16, "num_inference_steps": 2, "latents": latents, "output_type": "pt"}
    expected, output = make_leo_pipeline()(photo, **arguments), pipeline(photo, **arguments)
    torch.testing.assert_close(output.motion_codes, expected.motion_codes)
    torch.testing.assert_close(output.frames, expected.frames, rtol=0, atol=1e-4)


@pytest.mark.parametrize("loader", [LIAPipeline, DiffusionPipeline])
def test_a_folder_of_lia(lia_folder, loader):
    pipeline = loader.from_pretrained(str(lia_folder))
    assert type(pipeline) is LIAPipeline and type(pipeline.animator) is LIAModel
    assert not pipeline.animator.training


def test_the_animator_of_a_leo_folder(leo_folder, animator):
    loaded = LIAPipeline.from_pretrained(leo_folder).animator
    assert torch.equal(loaded.motion_dictionary.directions, animator.motion_dictionary.directions)
    alone = LIAModel.from_pretrained(leo_folder, subfolder="animator")
    assert torch.equal(alone.motion_dictionary.directions, animator.motion_dictionary.directions)


def test_a_component_may_be_passed(leo_folder, make_animator):
    other = make_animator(seed=3)
    pipeline = LEOPipeline.from_pretrained(leo_folder, animator=other)
    assert pipeline.animator is other


def test_components_move_between_pipelines(leo_pipeline):
    pipeline = LIAPipeline(leo_pipeline.components["animator"])
    assert pipeline.animator is leo_pipeline.animator
    assert {"animator", "motion_unet", "scheduler"} <= set(leo_pipeline.components)
    assert type(LIAPipeline.from_pipe(leo_pipeline)) is LIAPipeline


def test_a_folder_may_be_moved(tmp_path, leo_folder):
    shutil.copytree(leo_folder, tmp_path / "pipelines" / "controlnet")  # names that diffusers has modules for
    assert type(LEOPipeline.from_pretrained(tmp_path / "pipelines" / "controlnet")) is LEOPipeline


def test_a_lia_folder_is_no_leo_pipeline(lia_folder):
    with pytest.raises(ValueError, match="motion_unet"):
        LEOPipeline.from_pretrained(lia_folder)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_saved_again_it_stays_the_same(tmp_path, leo_folder, variant):
    LEOPipeline.from_pretrained(leo_folder).save_pretrained(tmp_path, variant=variant)
    before, after = (json.loads((folder / "model_index.json").read_text()) for folder in (leo_folder, tmp_path))
    assert after == {**before, "_name_or_path": str(leo_folder)}
    assert type(LEOPipeline.from_pretrained(tmp_path, variant=variant)) is LEOPipeline


# --- what is read from the Hub ---


LOAD_FROM_HUB = """
import json, sys
import leo_diffusers
from diffusers import DiffusionPipeline
from leo_diffusers import LEOPipeline, LIAModel, LIAPipeline

loaded = [
    LEOPipeline.from_pretrained("someone/tiny-leo"),
    DiffusionPipeline.from_pretrained("someone/tiny-leo"),
    LIAPipeline.from_pretrained("someone/tiny-lia"),
    DiffusionPipeline.from_pretrained("someone/tiny-lia"),
    LIAModel.from_pretrained("someone/tiny-leo", subfolder="animator"),
]
animators = [getattr(one, "animator", one) for one in loaded]
names = [type(one).__name__ for one in loaded]
sums = [float(animator.motion_dictionary.directions.sum()) for animator in animators]
print(json.dumps({"names": names, "sums": sums}))
"""


def test_hub_ids(hub, tmp_path, animator):
    loaded = json.loads(hub.run(LOAD_FROM_HUB, tmp_path).splitlines()[-1])
    assert loaded["names"] == ["LEOPipeline", "LEOPipeline", "LIAPipeline", "LIAPipeline", "LIAModel"]
    assert loaded["sums"] == pytest.approx([float(animator.motion_dictionary.directions.sum())] * 5)
    (commit,) = hub.repositories["someone/tiny-leo"].commits
    assert (tmp_path / "hub" / "models--someone--tiny-leo" / "snapshots" / commit / "model_index.json").exists()
    # Every file was downloaded once: the second pipeline came from the cache.
    downloads = [request for request in hub.requests if request.startswith("GET someone/")]
    assert downloads and len(downloads) == len(set(downloads))


MANIPULATE = """
from leo_diffusers.cli import main
for model, output in {models}:
    words = ["--image", "photo.png", "--direction", "0=1", "--output", output]
    print(main(["manipulate", "--model", model, *words]))
"""
NOT_THERE = (
    "leo-diffusers: error: There is no model {name}, no folder and nothing public on the Hub: name its folder or Hub "
    "id by --model. A private one needs `hf auth login`."
)


def test_the_command_line_takes_a_hub_id_and_names_what_is_missing(hub, tmp_path, photo, lia_folder):
    hub.add("me/private", lia_folder, is_private=True)
    hub.add("me/empty", Path(__file__).parents[1] / "support")
    photo.save(tmp_path / "photo.png")
    names = ["someone/tiny-lia", "nobody/nothing", "me/private", "me/empty", "a/b/c", "no id!"]
    models = [(name, f"moved-{index}.png") for index, name in enumerate(names)]
    result = run_client(MANIPULATE.format(models=models), hub.endpoint, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["Wrote moved-0.png.", "0", *"22222"]
    assert [path.name for path in tmp_path.glob("moved-*")] == ["moved-0.png"]
    said = [line for line in result.stderr.splitlines() if line and "it/s]" not in line and "?it" not in line]
    expected = [NOT_THERE.format(name=name) for name in ("nobody/nothing", "me/private")]
    assert said[:2] == expected and len(said) == 5, result.stderr  # one line each, and nothing beside
    assert "me/empty on the Hub holds no model (model_index.json): name" in said[2]
    assert "There is no model in a/b/c: name" in said[3]
    assert "There is no folder no id!, and no Hub id looks so: name" in said[4]


def test_the_owner_of_a_private_model_may_use_it(hub, tmp_path, photo, lia_folder):
    hub.add("me/private", lia_folder, is_private=True)
    photo.save(tmp_path / "photo.png")
    code = MANIPULATE.format(models=[("me/private", "moved.png")])
    assert hub.run(code, tmp_path, token=TOKEN).splitlines() == ["Wrote moved.png.", "0"]


def test_the_command_line_says_so_where_no_hub_answers(tmp_path, photo):
    photo.save(tmp_path / "photo.png")
    code = MANIPULATE.format(models=[("someone/tiny-lia", "none.png")])
    result = run_client(code, "http://127.0.0.1:9", tmp_path)  # the discard port: connections are refused
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["2"]
    assert result.stderr.splitlines() == [
        "leo-diffusers: error: There is no folder someone/tiny-lia, and the Hub did not answer (ConnectError): name "
        "its folder or Hub id by --model."
    ]
