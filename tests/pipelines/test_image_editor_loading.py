import sys

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers.pipelines.image_editor import (
    ImageEditor,
    call_image_pipeline,
    load_detector,
    load_image_pipeline,
)
from tests.pipelines.conftest import painted, seeded


# --- detectors ---


def test_canny_and_line_art(detectors, picture):
    from controlnet_aux import CannyDetector, LineartStandardDetector

    large = picture.resize((128, 128), Image.Resampling.NEAREST)
    canny = CannyDetector()(large, detect_resolution=128, image_resolution=128)
    assert np.array_equal(np.asarray(load_detector("canny")(large)), np.asarray(canny))
    assert set(np.unique(canny)) == {0, 255}
    line_art = LineartStandardDetector()(large, detect_resolution=128)
    for name in ("lineart", "lineart_standard"):
        assert np.array_equal(np.asarray(load_detector(name)(large)), np.asarray(line_art))
    assert not np.array_equal(np.asarray(line_art), np.asarray(canny)) and np.asarray(line_art).std() > 1


@pytest.mark.parametrize("name", ["canny", "lineart", "shuffle"])
@pytest.mark.parametrize("size", [(40, 40), (72, 72), (100, 60)])
def test_maps_have_the_size_of_their_image(detectors, make_image_pipeline, picture, name, size):
    editor = ImageEditor(make_image_pipeline("StableDiffusionControlNetPipeline"), name)
    control_map = editor.detect(picture.convert("RGBA").resize(size))
    assert control_map.size == size and control_map.mode == "RGB"


@pytest.mark.parametrize("detector", ["canny", "lineart"])
@pytest.mark.parametrize("name", ["StableDiffusionControlNetImg2ImgPipeline", "StableDiffusionControlNetPipeline"])
def test_detectors_guide_a_controlnet(detectors, make_image_pipeline, picture, name, detector):
    pipeline = make_image_pipeline(name)
    editor = ImageEditor(pipeline, detector, num_inference_steps=2)
    by_hand = ImageEditor(pipeline, load_detector(detector), num_inference_steps=2)
    blind = ImageEditor(pipeline, lambda image: painted("black"), num_inference_steps=2)
    edited, expected, unguided = (np.asarray(one(picture, "an old man", seeded())) for one in (editor, by_hand, blind))
    assert np.array_equal(edited, expected) and not np.array_equal(edited, unguided)


def test_refuses_unknown_detectors(detectors):
    with pytest.raises(ValueError, match="`detector` must be one of canny, .*lineart_realistic.*, got 'cany'"):
        load_detector("cany")
    with pytest.raises(ValueError, match='`detector="dwpose"` needs the package mmpose'):
        load_detector("dwpose")


def test_says_how_to_install_detectors(monkeypatch):
    monkeypatch.setitem(sys.modules, "controlnet_aux", None)  # what Python itself sets for a package that is not there
    with pytest.raises(
        ValueError, match=r'`detector="canny"` needs controlnet-aux: `pip install "leo_diffusers\[edit'
    ):
        load_detector("canny")


# --- loading ---


def test_load_image_pipeline(stable_diffusion_folder, controlnet_folder, instruct_pix2pix_folder, make_image_pipeline):
    loaded = load_image_pipeline(stable_diffusion_folder)
    assert type(loaded).__name__ == "StableDiffusionImg2ImgPipeline"
    assert type(load_image_pipeline(str(instruct_pix2pix_folder))).__name__ == "StableDiffusionInstructPix2PixPipeline"
    guided = load_image_pipeline(stable_diffusion_folder, controlnet_folder, dtype=torch.bfloat16)
    assert type(guided).__name__ == "StableDiffusionControlNetImg2ImgPipeline"
    networks = [network for network in guided.components.values() if isinstance(network, torch.nn.Module)]
    assert len(networks) == 4 and {network.dtype for network in networks} == {torch.bfloat16}

    network = diffusers.ControlNetModel.from_pretrained(controlnet_folder)
    joined = load_image_pipeline(loaded, network)
    assert type(joined).__name__ == "StableDiffusionControlNetImg2ImgPipeline"
    assert joined.controlnet is network and joined.unet is loaded.unet
    assert load_image_pipeline(loaded) is loaded
    text_to_image = make_image_pipeline("StableDiffusionPipeline")
    assert load_image_pipeline(text_to_image).unet is text_to_image.unet
    assert load_image_pipeline(painted) is painted
    with pytest.raises(ValueError, match="`controlnet` can only join a diffusers pipeline"):
        load_image_pipeline(painted, network)


def test_a_family_without_a_guided_image_to_image_pipeline(make_image_pipeline, tmp_path, picture, edges):
    whole = make_image_pipeline("StableDiffusion3ControlNetPipeline")
    whole.controlnet.save_pretrained(tmp_path / "controlnet")
    components = {name: part for name, part in whole.components.items() if name != "controlnet"}
    diffusers.StableDiffusion3Pipeline(**components).save_pretrained(tmp_path / "sd3")
    loaded = load_image_pipeline(tmp_path / "sd3", tmp_path / "controlnet")
    assert type(loaded).__name__ == "StableDiffusion3ControlNetPipeline"
    edited, expected = (
        ImageEditor(pipeline, edges, num_inference_steps=2)(picture, "an old man", seeded())
        for pipeline in (loaded, whole)
    )
    assert edited == expected and edited.size == (64, 64)


def test_devices(make_image_pipeline):
    pipeline = make_image_pipeline("StableDiffusionImg2ImgPipeline").to(torch.bfloat16)
    editor = ImageEditor(pipeline).to("meta")
    assert pipeline.device.type == "meta" and pipeline.dtype == torch.bfloat16 and editor.pipeline is pipeline
    ImageEditor(lambda image, prompt: image).to("meta")
    network = torch.nn.Linear(2, 2)
    network.forward = lambda image, prompt: image
    ImageEditor(network).to("meta")
    assert network.weight.device.type == "meta"
    managed = make_image_pipeline("StableDiffusionImg2ImgPipeline")
    managed.unet._hf_hook = object()  # what accelerate leaves where it has offloaded a network
    ImageEditor(managed).to("meta")
    assert managed.device.type == "cpu"


def test_a_function_gets_the_generator_that_it_names_whatever_it_is():
    given = []

    def source(prompt, generator):
        given.append(generator)
        return Image.new("RGB", (8, 8))

    generator = torch.Generator()
    for one in (None, generator):
        call_image_pipeline(source, prompt="a", generator=one)
    assert given == [None, generator]
