import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from leo_diffusers import DEMO_MODEL, LEOEditPipeline, LEOInfinitePipeline, LEOPipeline, LIAPipeline
from leo_diffusers.model_card import write_model_card
from leo_diffusers.pipelines import pipeline_card
from leo_diffusers.pipelines.pipeline_card import SAMPLE_COLUMNS, draw_sample
from leo_diffusers.pipelines.published_pipeline import forget_origins
from tests.support.loopback_hub import TOKEN, run_client


def card_of(folder: Path) -> ModelCard:
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "leo_diffusers" and "consent" in card.text and "## Credits" in card.text
    return card


# --- a new card ---


@pytest.mark.parametrize(
    ("pipeline_class", "usage"),
    [
        (LIAPipeline, 'LIAPipeline.from_pretrained("model")'),
        (LEOEditPipeline, 'LEOEditPipeline.from_pretrained("model")'),
        (LEOPipeline, "pipeline(num_frames=64)"),
        (LEOInfinitePipeline, "pipeline.stream(num_frames=1000)"),
    ],
)
def test_each_pipeline_tells_how_it_is_used(full_pipeline, infinite_pipeline, tmp_path, pipeline_class, usage):
    whole = infinite_pipeline if pipeline_class is LEOInfinitePipeline else full_pipeline
    pipeline_class.from_pipe(whole).save_pretrained(tmp_path / "model", license="cc-by-4.0", with_sample=False)
    card = card_of(tmp_path / "model")
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    compile(code, "usage", "exec")
    assert usage in code and card.data.license == "cc-by-4.0"
    assert not (tmp_path / "model" / "sample.jpg").exists() and "Not stated." in card.text


def test_a_card_tells_tasks_networks_data_metrics_and_curves(infinite_pipeline, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "drawn.png")
    infinite_pipeline.save_pretrained(
        tmp_path / "model",
        data="800 clips of drawn heads.",
        metrics={"FVD": 123.456, "ACD": 0.5},
        training_curves=tmp_path / "drawn.png",
    )
    card = card_of(tmp_path / "model")
    assert card.data.license == "other" and "inherit the terms of the data" in card.text
    for said in (
        "| a photo | a video that starts from it | `LEOPipeline` |",
        "| nothing | a video of a person that nobody filmed |",
        '`pipeline.stream(photo, transition="diffusion")`',
        "| a photo and a video | the photo moves like the video | `LIAPipeline` |",
        "| animator | LIAModel | 32 pixels, 8 motion directions |",
        "| transition_unet | MotionUNet1DModel | 16 frames, condition start_end |",
        "| first_frame_unet | UNet2DConditionModel | 32 pixels |",
        "800 clips of drawn heads.",
        "| FVD | 123.5 |",
        "![training curves](curves.png)",
        "![two videos](sample.jpg)",
    ):
        assert said in card.text, said
    networks = [one for one in infinite_pipeline.components.values() if isinstance(one, torch.nn.Module)]
    assert f"{sum(p.numel() for network in networks for p in network.parameters()):,}" in card.text
    assert Image.open(tmp_path / "model" / "sample.jpg").size == (32 * SAMPLE_COLUMNS, 32 * 2)
    assert (tmp_path / "model" / "curves.png").read_bytes() == (tmp_path / "drawn.png").read_bytes()
    assert str(tmp_path) not in card.text


def test_a_model_that_starts_from_photos_only_promises_no_more(
    leo_pipeline, make_leo_pipeline, make_motion_unet, tmp_path
):
    leo_pipeline.save_pretrained(tmp_path / "model", license="other")
    card = card_of(tmp_path / "model")
    assert "| nothing |" not in card.text and "transition" not in card.text and "sample.jpg" not in card.text
    assert card.data.tags.count("image-to-video") == 1 and "unconditional-video-generation" not in card.data.tags
    without = LEOPipeline(leo_pipeline.animator, make_motion_unet(condition="none"), leo_pipeline.scheduler)
    without.save_pretrained(tmp_path / "none", license="other")
    assert "| a photo | a video" not in card_of(tmp_path / "none").text


def test_saving_alone_writes_no_card(leo_pipeline, tmp_path):
    leo_pipeline.save_pretrained(tmp_path)
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize(
    ("card", "error", "message"),
    [
        ({"license": "CC BY"}, ValueError, "such as apache-2.0, cc-by-nc-4.0 or other, got 'CC BY'"),
        ({"training_curves": "/nowhere.png"}, FileNotFoundError, "no picture /nowhere.png for `training_curves`"),
        ({"sample_image": "photo.png"}, TypeError, "`image` must be a PIL image"),
    ],
)
def test_what_a_card_cannot_say_is_refused_before_anything_is_written(lia_pipeline, tmp_path, card, error, message):
    for publish in (lia_pipeline.push_to_hub, lia_pipeline.save_pretrained):
        with pytest.raises(error, match=message):
            publish(str(tmp_path / "model"), **card)
    with pytest.raises(TypeError, match="licence"):
        lia_pipeline.push_to_hub("me/model", licence="mit")
    assert not (tmp_path / "model").exists()


# --- samples ---


def test_a_sample_is_the_same_each_time(full_pipeline):
    sample = draw_sample(full_pipeline)
    assert sample.shape == (3, 64, 32 * SAMPLE_COLUMNS) and sample.abs().max() <= 1
    assert torch.equal(draw_sample(full_pipeline), sample)
    first, second = sample.split(32, dim=1)
    assert not torch.equal(first, second)  # two people


def test_a_photo_is_shown_in_motion(leo_pipeline, lia_pipeline, photo):
    assert draw_sample(leo_pipeline) is None and draw_sample(lia_pipeline) is None
    assert draw_sample(leo_pipeline, photo).shape == (3, 64, 32 * SAMPLE_COLUMNS)
    row = draw_sample(lia_pipeline, photo)
    frames = torch.stack(row.split(32, dim=2))
    reference = lia_pipeline.reference(photo, output_type="pt").frames[0, 0] * 2 - 1
    torch.testing.assert_close(frames[0], reference, rtol=0, atol=1e-4)  # no motion
    assert frames.shape == (SAMPLE_COLUMNS, 3, 32, 32) and not torch.equal(frames[0], frames[-1])


def test_large_frames_are_shown_small(lia_pipeline, photo, monkeypatch):
    monkeypatch.setattr(pipeline_card, "SAMPLE_SIZE", 16)
    assert draw_sample(lia_pipeline, photo).shape == (3, 16, 16 * SAMPLE_COLUMNS)


# --- a card that is there already ---


@pytest.fixture
def trained(full_folder, tmp_path) -> Path:
    """A model with the card of its training."""
    folder = tmp_path / "trained"
    LEOInfinitePipeline.from_pretrained(full_folder).save_pretrained(folder)
    description = "Trained by hand. ![curves](pictures/curves.png) ![lost](lost.png)"
    write_model_card(folder, "Mine", description, "pass", "cc-by-nc-4.0", ["mine"])
    (folder / "pictures").mkdir()
    (folder / "pictures" / "curves.png").write_bytes(b"picture")
    return folder


def test_the_card_of_the_folder_that_was_loaded_is_kept(trained, tmp_path):
    pipeline = LEOInfinitePipeline.from_pretrained(trained)
    pipeline.save_pretrained(tmp_path / "copy", license="cc-by-4.0")
    before, after = ModelCard.load(trained / "README.md"), card_of(tmp_path / "copy")
    assert after.text == before.text and after.data.tags == before.data.tags
    assert (before.data.license, after.data.license) == ("cc-by-nc-4.0", "cc-by-4.0")  # as was asked for
    assert (tmp_path / "copy" / "pictures" / "curves.png").read_bytes() == b"picture"


def test_a_card_of_other_networks_is_not_taken_over_but_its_licence_is(trained, tmp_path):
    LIAPipeline.from_pretrained(trained).save_pretrained(tmp_path / "animator", data="Clips.")
    card = card_of(tmp_path / "animator")
    assert "Mine" not in card.text and card.data.license == "cc-by-nc-4.0"


def test_a_card_in_the_folder_that_is_written_is_kept(full_pipeline, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# By hand\n")
    full_pipeline.save_pretrained(tmp_path, data="Clips.")
    assert (tmp_path / "README.md").read_text() == "---\nlicense: mit\n---\n# By hand\n"


def test_origins_are_forgotten(full_folder, tmp_path):
    LEOInfinitePipeline.from_pretrained(full_folder).save_pretrained(tmp_path)
    assert str(full_folder) in (tmp_path / "model_index.json").read_text()
    forget_origins(tmp_path)
    assert not [path for path in tmp_path.rglob("*.json") if str(full_folder) in path.read_text()]
    assert type(LEOInfinitePipeline.from_pretrained(tmp_path)) is LEOInfinitePipeline


# --- the Hub ---


PUBLISH = """
import sys
from leo_diffusers import LEOInfinitePipeline, LEOPipeline, LIAPipeline

leo = LEOPipeline.from_pretrained({full!r}, transition_unet=None, transition_scheduler=None)
leo.set_progress_bar_config(disable=True)
print(leo.push_to_hub("model", license="cc-by-4.0", data="Drawn heads.").oid)
leo.push_to_hub("me/secret", private=True, with_sample=False, commit_message="Mine")
print(leo.push_to_hub("model", variant="fp16", data="Other words.").oid)  # again: the card stays
LIAPipeline.from_pretrained({lia!r}).save_pretrained("saved-lia", push_to_hub=True, repo_id="lia", license="mit")
LEOInfinitePipeline.from_pretrained({trained!r}).push_to_hub("me/trained")
leo.push_to_hub("me/model", subfolder="deep", with_sample=False)
"""

LOAD = """
import torch
import leo_diffusers
from diffusers import DiffusionPipeline
from leo_diffusers import LEOPipeline, LIAModel, LIAPipeline
from safetensors.torch import save_file

def frames(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    options = {{"num_frames": 6, "num_inference_steps": 2, "output_type": "pt"}}
    return pipeline(generator=torch.Generator().manual_seed(3), **options).frames

loaded = {{
    "by class": LEOPipeline.from_pretrained("me/model"),
    "by diffusers": DiffusionPipeline.from_pretrained("me/model"),
    "by commit": LEOPipeline.from_pretrained("me/model", revision={commit!r}),
    "by variant": LEOPipeline.from_pretrained("me/model", variant="fp16"),
}}
assert all(type(one) is LEOPipeline for one in loaded.values())
outputs = {{name: frames(pipeline) for name, pipeline in loaded.items()}}
animator = LIAModel.from_pretrained("me/model", subfolder="animator")
outputs["directions"] = animator.motion_dictionary.directions.data
outputs["lia"] = LIAPipeline.from_pretrained("me/lia").animator.motion_dictionary.directions.data
save_file(outputs, "outputs.safetensors")
"""


@pytest.fixture
def published(loopback_hub, full_folder, lia_folder, trained, tmp_path):
    code = PUBLISH.format(full=str(full_folder), lia=str(lia_folder), trained=str(trained))
    commits = loopback_hub.run(code, tmp_path / "publisher", TOKEN).split()
    return loopback_hub, commits


def test_what_is_pushed_is_what_is_loaded(published, full_folder, lia_folder, tmp_path):
    hub, (first, second) = published
    assert [*hub.repositories["me/model"].commits][:2] == [first, second]
    hub.run(LOAD.format(commit=first), tmp_path / "user")
    outputs = load_file(tmp_path / "user" / "outputs.safetensors")
    pipeline = LEOPipeline.from_pretrained(full_folder)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    expected = pipeline(num_frames=6, num_inference_steps=2, generator=generator, output_type="pt").frames
    for name in ("by class", "by diffusers", "by commit", "by variant"):
        # Another process may have another number of threads, and rounds as they do.
        torch.testing.assert_close(outputs[name], expected, rtol=0, atol=1e-4, msg=name)
    assert torch.equal(outputs["directions"], pipeline.animator.motion_dictionary.directions)
    directions = LIAPipeline.from_pretrained(lia_folder).animator.motion_dictionary.directions
    assert torch.equal(outputs["lia"], directions)

    # --- the cards ---
    first, last = (hub.repositories["me/model"].commits[sha] for sha in (first, second))
    card = ModelCard(first["README.md"].decode())
    assert card.data.library_name == "leo_diffusers" and card.data.license == "cc-by-4.0"
    assert 'LEOPipeline.from_pretrained("me/model")' in card.text and "Drawn heads." in card.text
    assert first["sample.jpg"].startswith(b"\xff\xd8") and "![two videos](sample.jpg)" in card.text
    assert last["README.md"] == first["README.md"]  # what the repository has is kept
    assert "deep/model_index.json" in hub.repositories["me/model"].files
    assert "deep/README.md" not in hub.repositories["me/model"].files
    assert ModelCard(hub.repositories["me/lia"].files["README.md"].decode()).data.license == "mit"
    assert (tmp_path / "publisher" / "saved-lia" / "README.md").exists()
    trained = hub.repositories["me/trained"].files
    assert b"Trained by hand." in trained["README.md"] and trained["pictures/curves.png"] == b"picture"
    for repository in hub.repositories.values():
        index = json.loads(repository.files["model_index.json"])
        assert "_name_or_path" not in index or repository is hub.repositories["me/lia"]

    # --- a private repository ---
    assert hub.repositories["me/secret"].is_private and "sample.jpg" not in hub.repositories["me/secret"].files
    code = "from leo_diffusers import LEOPipeline; LEOPipeline.from_pretrained('me/secret')"
    hub.run(code, tmp_path / "friend", TOKEN)
    assert run_client(code, hub.endpoint, tmp_path / "stranger").returncode != 0


def test_a_copy_of_the_embedded_model_keeps_its_card(loopback_hub, tmp_path):
    code = f"from leo_diffusers import LEOInfinitePipeline; p = LEOInfinitePipeline.from_pretrained({DEMO_MODEL!r})\n"
    loopback_hub.run(code + "p.push_to_hub('me/copy')", tmp_path / "home", TOKEN)
    files = loopback_hub.repositories["me/copy"].files
    for name in ("README.md", "curves.png", "generated.png", "first_frames.png"):
        assert files[name] == Path(DEMO_MODEL, name).read_bytes()
