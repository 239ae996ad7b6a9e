import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel

from leo_diffusers import LEOInfinitePipeline, LEOPipeline, MotionPriorModel, MotionUNet1DModel, load_components


COMMIT = "1f2e3d4c5b6a79881726354453627180f0e1d2c3"
PARTS = {
    "prior": {"motion_prior": MotionPriorModel, "prior_scheduler": EulerDiscreteScheduler},
    "first-frame": {"first_frame_unet": UNet2DConditionModel, "first_frame_scheduler": DDIMScheduler},
    "transition": {"transition_unet": MotionUNet1DModel, "transition_scheduler": EulerDiscreteScheduler},
}


@pytest.fixture
def networks(make_motion_prior, make_first_frame_unet, make_motion_unet) -> dict[str, torch.nn.Module]:
    return {
        "motion_prior": make_motion_prior(),
        "first_frame_unet": make_first_frame_unet(),
        "transition_unet": make_motion_unet(seed=1, condition="start_end"),
    }


@pytest.fixture
def parts(tmp_path, networks) -> Path:
    """A folder of folders as the training scripts leave them, with what else lies there."""
    folder = tmp_path / "parts"
    for part, kinds in PARTS.items():
        for name, kind in kinds.items():
            component = networks[name] if name in networks else kind(num_train_timesteps=100)
            component.save_pretrained(folder / part / name)
        (folder / part / "README.md").write_text("A model.")
        (folder / part / "checkpoint-2").mkdir()
    return folder


def equal_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    return all(map(torch.equal, ours.parameters(), theirs.parameters()))


@pytest.mark.parametrize("part", PARTS)
def test_what_a_training_script_wrote(parts, networks, part):
    for folder in (parts / part, str(parts / part)):
        components = load_components(folder)
        assert {name: type(component) for name, component in components.items()} == PARTS[part]
        network, scheduler = components.values()
        assert equal_weights(network, networks[next(iter(components))]) and not network.training
        assert scheduler.config.num_train_timesteps == 100


def test_what_a_pipeline_holds_beside_its_animator(full_folder, leo_folder, lia_folder):
    names = set(LEOInfinitePipeline.from_pretrained(full_folder).components) - {"animator"}
    assert set(load_components(full_folder)) == names and len(names) == 8
    assert set(load_components(leo_folder)) == {"motion_unet", "scheduler"}
    with pytest.raises(ValueError, match="holds none of motion_unet, "):
        load_components(lia_folder)


def test_they_make_a_pipeline_whole(parts, leo_folder):
    loaded = load_components(parts / "prior") | load_components(parts / "first-frame")
    pipeline = LEOPipeline.from_pretrained(leo_folder, **loaded)
    assert all(getattr(pipeline, name) is component for name, component in loaded.items())
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_frames=2, num_inference_steps=2, output_type="pt").frames.shape == (1, 2, 3, 32, 32)

    loaded |= load_components(parts / "transition")
    pipeline = LEOInfinitePipeline.from_pretrained(leo_folder, **loaded)
    assert all(getattr(pipeline, name) is component for name, component in loaded.items())


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """A cache of the Hub's client, which is not to ask the Hub itself."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_id(parts, networks, hub_cache):
    repository = hub_cache / "models--someone--prior"
    shutil.copytree(parts / "prior", repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    components = load_components("someone/prior")
    assert set(components) == set(PARTS["prior"])
    assert equal_weights(components["motion_prior"], networks["motion_prior"])


@pytest.fixture
def empty_hub(hub_cache, monkeypatch) -> Iterator[None]:
    """A server that has nothing, in place of the Hub."""
    hub_cache.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=hub_cache)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("hub", ["hub_cache", "empty_hub"])
@pytest.mark.parametrize("name", ["priorr", "runs/priorr", "/runs/priorr", "deep/in/runs/priorr"])
def test_a_name_that_nothing_has_is_told_in_few_words(request, hub, name):
    request.getfixturevalue(hub)
    with pytest.raises(FileNotFoundError) as refused:
        load_components(name)
    message = str(refused.value)
    assert message.startswith(f"There is no folder {name}, and the Hub gave no repository of that name: ")
    assert len(message) < 150


def test_a_folder_with_nothing_in_it(tmp_path):
    (tmp_path / "motion_prior").mkdir()  # where a run was killed
    with pytest.raises(ValueError, match=f"{tmp_path} holds none of motion_unet, motion_prior, .*: train one"):
        load_components(tmp_path)
