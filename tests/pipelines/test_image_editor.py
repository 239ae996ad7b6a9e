import inspect
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image

from leo_diffusers.pipelines.image_editor import (
    CONTROL_MAP,
    FRAME,
    UNSTATED_SIZE,
    ImageEditor,
    call_image_pipeline,
    image_inputs,
)
from tests.pipelines.conftest import painted, seeded


FRAME_ONLY = {"image": FRAME}
FRAME_AND_MAP = {"image": FRAME, "control_image": CONTROL_MAP}
MAP_AS_IMAGE = {"image": CONTROL_MAP}
MAP_ONLY = {"control_image": CONTROL_MAP}
ROUTES = {
    "StableDiffusionControlNetImg2ImgPipeline": FRAME_AND_MAP,
    "StableDiffusionXLControlNetImg2ImgPipeline": FRAME_AND_MAP,
    "StableDiffusionXLControlNetUnionImg2ImgPipeline": FRAME_AND_MAP,
    "FluxControlNetImg2ImgPipeline": FRAME_AND_MAP,
    "FluxControlImg2ImgPipeline": FRAME_AND_MAP,
    "StableDiffusionControlNetPipeline": MAP_AS_IMAGE,
    "StableDiffusionXLControlNetPipeline": MAP_AS_IMAGE,
    "StableDiffusionXLAdapterPipeline": MAP_AS_IMAGE,
    "StableDiffusion3ControlNetPipeline": MAP_ONLY,
    "StableDiffusionXLControlNetUnionPipeline": MAP_ONLY,
    "FluxControlNetPipeline": MAP_ONLY,
    "FluxControlPipeline": MAP_ONLY,
    "QwenImageControlNetPipeline": MAP_ONLY,
    "StableDiffusionImg2ImgPipeline": FRAME_ONLY,
    "StableDiffusionXLImg2ImgPipeline": FRAME_ONLY,
    "StableDiffusion3Img2ImgPipeline": FRAME_ONLY,
    "FluxImg2ImgPipeline": FRAME_ONLY,
    "ZImageImg2ImgPipeline": FRAME_ONLY,
    "StableDiffusionInstructPix2PixPipeline": FRAME_ONLY,
    "StableDiffusionXLInstructPix2PixPipeline": FRAME_ONLY,
    "FluxKontextPipeline": FRAME_ONLY,
    "Flux2Pipeline": FRAME_ONLY,
    "Flux2KleinPipeline": FRAME_ONLY,
    "QwenImageEditPipeline": FRAME_ONLY,
    "QwenImageEditPlusPipeline": FRAME_ONLY,
    "LongCatImageEditPipeline": FRAME_ONLY,
    "StableDiffusionPipeline": {},
    "StableDiffusionXLPipeline": {},
    "FluxPipeline": {},
    "QwenImagePipeline": {},
}
# At full strength a flow-matching pipeline begins with nothing but noise.
FLUX = {"image_size": 32, "max_sequence_length": 16}
TINY_EDITORS = {
    "StableDiffusionControlNetImg2ImgPipeline": {"strength": 1.0},
    "StableDiffusionControlNetPipeline": {},
    "StableDiffusionImg2ImgPipeline": {"strength": 1.0},
    "StableDiffusionInstructPix2PixPipeline": {"image_guidance_scale": 1.5},
    "StableDiffusionXLControlNetImg2ImgPipeline": {"strength": 1.0},
    "StableDiffusionXLControlNetPipeline": {},
    "StableDiffusionXLImg2ImgPipeline": {"strength": 1.0},
    "FluxControlNetImg2ImgPipeline": {**FLUX, "strength": 0.5},
    "FluxControlNetPipeline": FLUX,
    "FluxImg2ImgPipeline": {**FLUX, "strength": 0.5},
    "FluxKontextPipeline": {**FLUX, "max_area": 32**2, "_auto_resize": False},
}


def stand_in(name: str) -> DiffusionPipeline:
    """Takes exactly what a pipeline of diffusers takes, and shows what it was given: for networks too large here."""
    signature = inspect.signature(getattr(diffusers, name).__call__)

    class StandIn(DiffusionPipeline):
        default_sample_size, vae_scale_factor = 4, 8

        def __init__(self):
            super().__init__()
            self.given = {}

        def __call__(self, *args, **kwargs):
            self.given.clear()
            self.given.update(signature.bind(self, *args, **kwargs).arguments)
            return SimpleNamespace(images=[self.given["image"]])

    StandIn.__name__, StandIn.__call__.__signature__ = name, signature
    return StandIn()


# --- how pipelines are adapted ---


@pytest.mark.parametrize("name", ROUTES)
def test_image_arguments_of_diffusers(name):
    assert image_inputs(getattr(diffusers, name)) == ROUTES[name]


@pytest.mark.parametrize("name", TINY_EDITORS)
def test_real_pipelines(make_image_pipeline, picture, edges, name):
    pipeline, arguments = make_image_pipeline(name), TINY_EDITORS[name]
    is_guided = CONTROL_MAP in ROUTES[name].values()
    editor = ImageEditor(pipeline, edges if is_guided else None, num_inference_steps=2, **arguments)
    edited = editor(picture, "an old man", seeded())
    size = 32 if "Flux" in name else 64
    assert edited.size == (size, size) and edited.mode == "RGB" and np.asarray(edited).std() > 0

    frame = picture.resize((size, size), Image.Resampling.LANCZOS)
    pictures = {FRAME: frame, CONTROL_MAP: edges(frame).convert("RGB")}
    by_hand = {argument: pictures[kind] for argument, kind in ROUTES[name].items()}
    by_hand |= {key: value for key, value in arguments.items() if key != "image_size"}
    if "height" in inspect.signature(pipeline.__call__).parameters:
        by_hand |= {"height": size, "width": size}
    expected = pipeline(prompt="an old man", num_inference_steps=2, generator=seeded(), **by_hand).images[0]
    assert np.array_equal(np.asarray(edited), np.asarray(expected))

    for kind in set(ROUTES[name].values()):  # it looks at what it is given
        other = {key: painted("white", (size, size)) for key, meant in ROUTES[name].items() if meant == kind}
        ignoring = pipeline(
            prompt="an old man", num_inference_steps=2, generator=seeded(), **{**by_hand, **other}
        ).images[0]
        assert not np.array_equal(np.asarray(edited), np.asarray(ignoring)), kind


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("QwenImageEditPipeline", {"true_cfg_scale": 4.0}),
        ("QwenImageEditPlusPipeline", {"true_cfg_scale": 4.0}),
        ("Flux2Pipeline", {"guidance_scale": 4.0}),
        ("LongCatImageEditPipeline", {"guidance_scale": 4.5}),
        ("ZImageImg2ImgPipeline", {"strength": 0.6}),
        ("StableDiffusion3Img2ImgPipeline", {"strength": 0.6}),
    ],
)
def test_signatures_of_larger_editors(picture, name, arguments):
    pipeline, generator = stand_in(name), seeded()
    edited = ImageEditor(pipeline, **arguments)(picture, "make him smile", generator)
    assert edited.size == pipeline.given["image"].size == (32, 32)
    expected = {"prompt": "make him smile", "generator": generator, "num_images_per_prompt": 1, "output_type": "pil"}
    given = {key: value for key, value in pipeline.given.items() if key not in ("self", "image", "height", "width")}
    assert given == {**expected, **arguments}
    assert pipeline.given.get("height", 32) == pipeline.given.get("width", 32) == 32


def test_overrides_come_before_defaults(picture):
    pipeline = stand_in("QwenImageEditPipeline")
    editor = ImageEditor(pipeline, true_cfg_scale=4.0, num_inference_steps=50)
    editor(picture, "smile", num_inference_steps=8, height=64)
    assert pipeline.given["true_cfg_scale"] == 4.0 and pipeline.given["num_inference_steps"] == 8
    assert pipeline.given["height"] == 64 and pipeline.given["generator"] is None
    editor(picture, "smile")
    assert pipeline.given["num_inference_steps"] == 50


def test_seeds(make_image_pipeline, picture):
    editor = ImageEditor(make_image_pipeline("StableDiffusionImg2ImgPipeline"), strength=1.0, num_inference_steps=2)
    first, again = (np.asarray(editor(picture, "a man", seeded())) for _ in range(2))
    other = np.asarray(editor(picture, "a man", torch.Generator().manual_seed(1)))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_sizes(make_image_pipeline, picture):
    assert ImageEditor(make_image_pipeline("StableDiffusionImg2ImgPipeline")).native_size() == 64
    assert ImageEditor(make_image_pipeline("FluxKontextPipeline")).native_size() == 256  # of its 128 at a scale of 2
    pipeline = stand_in("ZImageImg2ImgPipeline")
    assert ImageEditor(pipeline).native_size() == 32
    assert ImageEditor(pipeline, image_size=96)(picture, "a man").size == (96, 96)
    assert ImageEditor(pipeline, image_size=96).resize(painted(size=(90, 40))).size == (224, 96)
    type(pipeline).default_sample_size = None
    assert ImageEditor(pipeline).native_size() == UNSTATED_SIZE


# --- functions ---


def test_functions(picture, edges):
    given = []

    def by_position(first, second):
        given.append((first, second))
        return first.rotate(90)

    edited = ImageEditor(by_position)(picture, "turn", seeded())
    assert given == [(picture, "turn")] and edited == picture.rotate(90)

    def with_more(image, text, generator=None, control_image=None, amount=1):
        given.append((generator, control_image.size, amount))
        return image

    generator = seeded()
    ImageEditor(with_more, edges, amount=2)(picture, "turn", generator)
    ImageEditor(with_more, edges, amount=2)(picture, "turn", amount=3)
    assert given[1:] == [(generator, (40, 40), 2), (None, (40, 40), 3)]

    def with_anything(image, text, **options):
        given.append(options)
        return image

    ImageEditor(with_anything, amount=2)(picture, "turn", other=3)
    assert given[-1] == {"amount": 2, "other": 3}


@pytest.mark.parametrize(
    "output",
    [
        painted(),
        [painted(), painted("blue")],
        [[painted()]],
        SimpleNamespace(images=[painted()]),
        SimpleNamespace(images=(painted(),), nsfw_content_detected=[False]),
        SimpleNamespace(images=[painted()], nsfw_content_detected=[None]),
        np.asarray(painted()),
        np.asarray(painted())[None],
        np.asarray(painted(), dtype=np.float32) / 255,
        torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 20, 20),
        torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(2, 3, 20, 20),
        painted().convert("RGBA"),
        painted().convert("P"),
    ],
)
def test_kinds_of_results(picture, output):
    edited = ImageEditor(lambda image, prompt: output)(picture, "red")
    assert edited.mode == "RGB" and np.array_equal(np.asarray(edited), np.asarray(painted()))


@pytest.mark.parametrize(
    "output",
    [
        None,
        [],
        [[]],
        [None],
        "red.png",
        SimpleNamespace(images=None),
        SimpleNamespace(images=[]),
        SimpleNamespace(frames=[painted()]),
        np.zeros((0, 20, 20, 3)),
    ],
)
def test_refuses_results_without_an_image(picture, output):
    def forgetful(image, prompt):
        return output

    with pytest.raises(ValueError, match="forgetful returned no image, but "):
        ImageEditor(forgetful)(picture, "red")


def test_refuses_what_the_safety_checker_blacked_out(make_image_pipeline, picture):
    checker = StableDiffusionSafetyChecker(transformers.CLIPConfig(projection_dim=32))
    checker.concept_embeds_weights.data.fill_(-10.0)  # everything is beyond such thresholds
    pipeline = make_image_pipeline("StableDiffusionImg2ImgPipeline")
    pipeline.register_modules(safety_checker=checker, feature_extractor=transformers.CLIPImageProcessor())
    editor = ImageEditor(pipeline, strength=1.0, num_inference_steps=2)
    with pytest.raises(ValueError, match="StableDiffusionImg2ImgPipeline returned a black image: its safety checker"):
        editor(picture, "an old man", seeded())


# --- refusals ---


def test_refuses_pipelines_that_cannot_edit(make_image_pipeline, edges):
    text_to_image = make_image_pipeline("StableDiffusionPipeline")
    with pytest.raises(ValueError, match=r"StableDiffusionPipeline takes no image. Pass `AutoPipelineForImage2Image"):
        ImageEditor(text_to_image)
    with pytest.raises(ValueError, match="StableDiffusionImageVariationPipeline takes no prompt"):
        ImageEditor(stand_in("StableDiffusionImageVariationPipeline"))
    with pytest.raises(TypeError, match="`editor` must be a diffusers pipeline or a function, got str"):
        ImageEditor("stable-diffusion")


def test_refuses_a_detector_missing_or_in_vain(make_image_pipeline, edges):
    guided = make_image_pipeline("StableDiffusionControlNetPipeline")
    with pytest.raises(ValueError, match="ControlNetPipeline is guided by a control image: pass a `detector`"):
        ImageEditor(guided)
    with pytest.raises(ValueError, match="StableDiffusionImg2ImgPipeline takes no control image, so `detector`"):
        ImageEditor(make_image_pipeline("StableDiffusionImg2ImgPipeline"), edges)
    with pytest.raises(ValueError, match="takes no control image"):
        ImageEditor(lambda image, prompt: image, edges)
    with pytest.raises(TypeError, match="`detector` must be a name or a function, got int"):
        ImageEditor(guided, 3)
    with pytest.raises(ValueError, match="`detector` returned no image, but NoneType"):
        ImageEditor(guided, lambda image: None)(painted(), "a man")


def test_refuses_unknown_arguments(make_image_pipeline, picture):
    pipeline = make_image_pipeline("StableDiffusionInstructPix2PixPipeline")  # its `**kwargs` would swallow them
    with pytest.raises(
        ValueError, match="InstructPix2PixPipeline takes no strength. It takes prompt, image, .*_scale"
    ):
        ImageEditor(pipeline, strength=0.5)
    with pytest.raises(ValueError, match="takes no streng, streng2"):
        ImageEditor(pipeline)(picture, "smile", streng=0.5, streng2=0.5)
    with pytest.raises(ValueError, match="takes no strength. It takes image, prompt."):
        ImageEditor(lambda image, prompt: image, strength=0.5)
    with pytest.raises(ValueError, match="`image_size` must be a positive integer, got 0"):
        ImageEditor(pipeline, image_size=0)
    with pytest.raises(ValueError, match="image, num_images_per_prompt cannot be set for an editor"):
        ImageEditor(pipeline, num_images_per_prompt=4, image=picture)
    with pytest.raises(ValueError, match="output_type cannot be set for an editor"):
        ImageEditor(pipeline)(picture, "smile", output_type="np")


# --- one image from any pipeline ---


def test_call_image_pipeline(make_image_pipeline):
    pipeline = make_image_pipeline("StableDiffusionPipeline")
    image = call_image_pipeline(pipeline, prompt="an old man", num_inference_steps=2, generator=seeded())
    expected = pipeline("an old man", num_inference_steps=2, generator=seeded()).images[0]
    assert image.size == (64, 64) and np.array_equal(np.asarray(image), np.asarray(expected))
    with pytest.raises(ValueError, match="StableDiffusionPipeline takes no step. It takes prompt, "):
        call_image_pipeline(pipeline, prompt="an old man", step=2)


def test_call_image_pipeline_with_functions():
    assert call_image_pipeline(painted, "blue") == painted("blue")
    assert call_image_pipeline(painted, color="blue", generator=seeded()) == painted("blue")
    assert call_image_pipeline(
        lambda generator: painted("blue" if generator else "red"), generator=seeded()
    ) == painted("blue")
    with pytest.raises(ValueError, match="painted takes no prompt. It takes color, size."):
        call_image_pipeline(painted, prompt="blue")
    with pytest.raises(ValueError, match="returned no image"):
        call_image_pipeline(lambda prompt: [], "blue")
