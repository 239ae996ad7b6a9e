import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from leo_diffusers import ImageEditor, LEOEditPipeline, LIAPipeline
from leo_diffusers.video_io import to_frame, to_pil
from tests.pipelines.conftest import seeded


NUM_FRAMES = 7
FEW_STEPS = {"num_inference_steps": 2, "strength": 1.0}


@pytest.mark.parametrize("name", ["canny", "lineart"])
def test_loads_all_in_one_call(
    detectors, lia_folder, stable_diffusion_folder, controlnet_folder, clip_frames, edges, name
):
    pipeline = LEOEditPipeline.from_pretrained(
        lia_folder, editor=stable_diffusion_folder, controlnet=str(controlnet_folder), detector=name
    )
    editor = pipeline.editor.pipeline
    assert type(pipeline) is LEOEditPipeline and type(editor).__name__ == "StableDiffusionControlNetImg2ImgPipeline"
    editor.set_progress_bar_config(disable=True)
    arguments = {"editor_arguments": FEW_STEPS, "output_type": "pt"}
    output = pipeline(clip_frames, "an old man", generator=seeded(), **arguments)
    assert output.frames.shape == (1, NUM_FRAMES, 3, 32, 32) and output.edited_frame.size == (32, 32)

    frame = Image.fromarray(clip_frames[0]).resize((64, 64), Image.Resampling.LANCZOS)
    by_hand = editor(
        prompt="an old man",
        image=frame,
        control_image=pipeline.editor.detector(frame),
        generator=seeded(),
        **FEW_STEPS,
    ).images[0]
    assert output.edited_frame == to_pil(to_frame(by_hand, 32))
    again = pipeline(clip_frames, "an old man", generator=seeded(), **arguments)
    other = pipeline(clip_frames, "an old man", generator=torch.Generator().manual_seed(1), **arguments)
    assert torch.equal(output.frames, again.frames) and not torch.equal(output.frames, other.frames)
    outlined = ImageEditor(editor, edges)
    other = pipeline(clip_frames, "an old man", editor=outlined, generator=seeded(), **arguments)
    assert not torch.equal(output.frames, other.frames)


def hub_cache(folder: Path, **repositories: Path) -> Path:
    """What the Hub's client leaves behind when it has downloaded repositories."""
    commit = "1f2e3d4c5b6a79881726354453627180f0e1d2c3"
    for name, source in repositories.items():
        repository = folder / f"models--someone--{name}"
        shutil.copytree(source, repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
    return folder


def test_hub_ids(tmp_path, lia_folder, stable_diffusion_folder, controlnet_folder, clip_frames, edges):
    cache = hub_cache(tmp_path, leo=lia_folder, sd=stable_diffusion_folder, canny=controlnet_folder)
    pipeline = LEOEditPipeline.from_pretrained(
        "someone/leo",
        editor="someone/sd",
        controlnet="someone/canny",
        detector=edges,
        cache_dir=cache,
        local_files_only=True,
    )
    expected = LEOEditPipeline.from_pretrained(
        lia_folder, editor=stable_diffusion_folder, controlnet=controlnet_folder, detector=edges
    )
    arguments = {"editor_arguments": FEW_STEPS, "output_type": "pt"}
    output, expected = (
        one(clip_frames, "a man", generator=seeded(), **arguments).frames for one in (pipeline, expected)
    )
    assert torch.equal(output, expected)


@pytest.mark.parametrize(
    ("folder", "expected", "arguments"),
    [
        ("stable_diffusion_folder", "StableDiffusionImg2ImgPipeline", FEW_STEPS),
        ("instruct_pix2pix_folder", "StableDiffusionInstructPix2PixPipeline", {"num_inference_steps": 2}),
    ],
)
def test_editors_without_a_controlnet(lia_folder, clip_frames, request, folder, expected, arguments):
    pipeline = LEOEditPipeline.from_pretrained(lia_folder, editor=request.getfixturevalue(folder))
    assert type(pipeline.editor.pipeline).__name__ == expected
    output = pipeline(clip_frames, "make him old", generator=seeded(), editor_arguments=arguments)
    assert len(output.frames[0]) == NUM_FRAMES


@pytest.mark.parametrize("name", ["StableDiffusionControlNetPipeline", "FluxKontextPipeline"])
def test_an_editor_for_one_call(animator, make_image_pipeline, edges, clip_frames, name):
    image_pipeline = make_image_pipeline(name)
    flux = {"image_size": 32, "max_sequence_length": 16, "max_area": 32**2, "_auto_resize": False}
    editor = ImageEditor(image_pipeline, edges) if "ControlNet" in name else ImageEditor(image_pipeline, **flux)
    pipeline = LEOEditPipeline(animator)
    first = pipeline.edit_first_frame(clip_frames, "a man", editor, {"num_inference_steps": 2}, seeded())
    output = pipeline(
        clip_frames, "a man", editor=editor, editor_arguments={"num_inference_steps": 2}, generator=seeded()
    )
    assert output.edited_frame == first and pipeline.editor is None


@pytest.mark.parametrize("argument", ["dtype", "torch_dtype"])
def test_the_editor_shares_the_dtype(lia_folder, stable_diffusion_folder, controlnet_folder, edges, argument):
    pipeline = LEOEditPipeline.from_pretrained(
        lia_folder,
        editor=stable_diffusion_folder,
        controlnet=controlnet_folder,
        detector=edges,
        **{argument: torch.bfloat16},
    )
    editor = pipeline.editor.pipeline
    dtypes = {network.dtype for network in (editor.unet, editor.vae, editor.text_encoder, editor.controlnet)}
    assert pipeline.animator.dtype == torch.bfloat16 and dtypes == {torch.bfloat16}


def test_the_editor_follows_to_a_device_and_keeps_its_dtype(animator, make_image_pipeline):
    image_pipeline = make_image_pipeline("StableDiffusionImg2ImgPipeline")
    pipeline = LEOEditPipeline(animator, image_pipeline)
    assert pipeline.to(torch.bfloat16) is pipeline
    assert pipeline.animator.dtype == torch.bfloat16 and image_pipeline.dtype == torch.float32
    pipeline.to(device="meta")
    assert pipeline.device.type == image_pipeline.device.type == "meta"
    assert LEOEditPipeline(animator).to("meta", torch.float32).editor is None


def test_loads_whatever_edits(lia_folder, leo_folder, make_image_pipeline, controlnet_folder, inverter, edges):
    assert LEOEditPipeline.from_pretrained(leo_folder).editor is None
    assert LEOEditPipeline.from_pretrained(lia_folder, editor=inverter).editor.pipeline is inverter
    editor = ImageEditor(inverter)
    assert LEOEditPipeline.from_pretrained(lia_folder, editor=editor).editor is editor
    image_pipeline = make_image_pipeline("StableDiffusionPipeline")
    pipeline = LEOEditPipeline.from_pretrained(
        lia_folder, editor=image_pipeline, controlnet=controlnet_folder, detector=edges
    )
    assert pipeline.editor.pipeline.unet is image_pipeline.unet
    assert DiffusionPipeline.from_pretrained(lia_folder).__class__ is LIAPipeline


def test_the_editor_is_no_component(tmp_path, lia_folder, stable_diffusion_folder):
    pipeline = LEOEditPipeline.from_pretrained(lia_folder, editor=stable_diffusion_folder)
    assert set(pipeline.components) == {"animator"}
    pipeline.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model_index.json", "animator"}
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "LEOEditPipeline" and index["animator"] == ["leo_diffusers", "LIAModel"]
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is LEOEditPipeline
    assert diffusers.LEOEditPipeline is LEOEditPipeline


def test_components_move_between_pipelines(leo_pipeline, make_image_pipeline):
    image_pipeline = make_image_pipeline("StableDiffusionImg2ImgPipeline").to(torch.bfloat16)
    pipeline = LEOEditPipeline.from_pipe(leo_pipeline, editor=image_pipeline)
    assert pipeline.animator is leo_pipeline.animator and pipeline.editor.pipeline is image_pipeline
    assert image_pipeline.dtype == torch.bfloat16  # `from_pipe` casts what it makes to float32
    assert LEOEditPipeline(**pipeline.components).editor is None
    assert type(LIAPipeline.from_pipe(pipeline)) is LIAPipeline
