import json
import logging
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from huggingface_hub import ModelCard

from leo_diffusers import LEOEditPipeline, LEOInfinitePipeline, LEOPipeline, LIAPipeline
from leo_diffusers.cli import main
from leo_diffusers.model_card import write_model_card


PARTS = {
    "prior": ("motion_prior", "prior_scheduler"),
    "first-frame": ("first_frame_unet", "first_frame_scheduler"),
    "transition": ("transition_unet", "transition_scheduler"),
}


@pytest.fixture
def make_part(tmp_path, make_motion_prior, make_first_frame_unet, make_motion_unet):
    """Writes the output of a training script."""

    def make(part: str, motion_dim: int = 8, seed: int = 0) -> Path:
        network = {
            "prior": lambda: make_motion_prior(seed, motion_dim=motion_dim),
            "first-frame": lambda: make_first_frame_unet(seed, projection_class_embeddings_input_dim=motion_dim),
            "transition": lambda: make_motion_unet(seed, motion_dim=motion_dim, condition="start_end"),
        }[part]()
        folder = tmp_path / "parts" / f"{part}-{motion_dim}-{seed}"
        for name, component in zip(PARTS[part], (network, DDIMScheduler(clip_sample=False))):
            component.save_pretrained(folder / name)
        return folder

    return make


@pytest.fixture
def assemble(tmp_path, leo_folder):
    def run(*parts: Path, model: Path = leo_folder, output: str = "full") -> int:
        words = ["assemble", "--model", model, "--add", *parts, "--output", tmp_path / output]
        return main([str(word) for word in words])

    return run


@pytest.fixture
def full(assemble, make_part, tmp_path) -> Path:
    """A LEO model with everything."""
    assert assemble(*map(make_part, PARTS)) == 0
    return tmp_path / "full"


def weights_of(pipeline: DiffusionPipeline, name: str) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in getattr(pipeline, name).parameters()])


# --- what is written ---


def test_a_model_with_everything(full, leo_folder, make_part):
    pipeline = LEOInfinitePipeline.from_pretrained(full)
    original = LEOPipeline.from_pretrained(leo_folder)
    for name in ("animator", "motion_unet"):
        assert torch.equal(weights_of(pipeline, name), weights_of(original, name))
    for part, (name, scheduler) in PARTS.items():
        alone = type(getattr(pipeline, name)).from_pretrained(make_part(part), subfolder=name)
        assert torch.equal(torch.cat([one.flatten() for one in alone.parameters()]), weights_of(pipeline, name))
        assert isinstance(getattr(pipeline, scheduler), DDIMScheduler)
    pipeline.set_progress_bar_config(disable=True)
    options = {"transition": "diffusion", "num_frames": 40, "num_inference_steps": 2, "output_type": "latent"}
    assert len(list(pipeline.stream(**options))) == 40  # from nothing, through a transition


def test_what_is_said_of_it(capsys, full, leo_folder, tmp_path):
    assert capsys.readouterr().out == (
        f"Wrote {full}: LEOInfinitePipeline with motion_unet, motion_prior, first_frame_unet, transition_unet.\n"
    )
    card = ModelCard.load(full / "README.md")
    assert (
        card.text.lstrip().startswith("# full: LEO\n") and 'LEOInfinitePipeline.from_pretrained("full")' in card.text
    )
    assert "motion_unet, motion_prior, first_frame_unet, transition_unet" in card.text
    assert (full / "sample.jpg").is_file() and "![two videos](sample.jpg)" in card.text  # from nothing
    assert {"image-to-video", "unconditional-video-generation"} <= set(card.data.tags)
    assert str(tmp_path) not in card.text and str(leo_folder) not in card.text
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        (LEOInfinitePipeline, LEOInfinitePipeline),
        (LEOPipeline, LEOPipeline),
        (LIAPipeline, LIAPipeline),
        (LEOEditPipeline, LEOEditPipeline),
        (DiffusionPipeline, LEOInfinitePipeline),
    ],
)
def test_it_serves_every_pipeline_without_a_warning(full, caplog, loader, expected):
    logging.getLogger("diffusers").addHandler(caplog.handler)  # its messages do not reach the root
    try:
        pipeline = loader.from_pretrained(full)
        assert type(pipeline) is expected and not caplog.messages
        LEOPipeline.from_pretrained(full, transition_unet=None)  # but what is passed in vain is told
        assert any("are not expected by LEOPipeline" in message for message in caplog.messages)
    finally:
        logging.getLogger("diffusers").removeHandler(caplog.handler)


@pytest.mark.parametrize(
    ("parts", "pipeline_class"),
    [
        (["prior"], LEOPipeline),
        (["prior", "first-frame"], LEOPipeline),
        (["transition"], LEOInfinitePipeline),
    ],
)
def test_a_model_with_some_of_it(assemble, make_part, tmp_path, parts, pipeline_class):
    assert assemble(*map(make_part, parts)) == 0
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "full")
    assert type(pipeline) is pipeline_class
    for part, names in PARTS.items():
        assert all((getattr(pipeline, name, None) is not None) == (part in parts) for name in names)


def test_a_later_network_takes_the_place_of_an_earlier_one(assemble, make_part, full, tmp_path):
    assert assemble(make_part("prior", seed=1), make_part("prior", seed=2), model=full, output="newer") == 0
    newer, older = (DiffusionPipeline.from_pretrained(tmp_path / name) for name in ("newer", "full"))
    expected = type(newer.motion_prior).from_pretrained(make_part("prior", seed=2), subfolder="motion_prior")
    assert all(map(torch.equal, newer.motion_prior.parameters(), expected.parameters()))
    # What the model had already stays.
    for name in ("first_frame_unet", "transition_unet"):
        assert torch.equal(weights_of(newer, name), weights_of(older, name))


def test_a_model_without_condition_is_told_as_what_it_is(assemble, make_part, make_motion_unet, lia_folder, tmp_path):
    make_motion_unet(condition="none").save_pretrained(tmp_path / "lmdm" / "motion_unet")
    DDIMScheduler(clip_sample=False).save_pretrained(tmp_path / "lmdm" / "scheduler")
    assert assemble(tmp_path / "lmdm", make_part("first-frame"), model=lia_folder) == 0
    pipeline = LEOPipeline.from_pretrained(tmp_path / "full")
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_frames": 4, "num_inference_steps": 2, "output_type": "pt"}
    assert pipeline(**options).frames.shape == (1, 4, 3, 32, 32)
    card = ModelCard.load(tmp_path / "full" / "README.md")
    assert "LEOInfinitePipeline" not in card.text and "image-to-video" not in card.data.tags


def test_an_empty_folder_is_filled(assemble, make_part, tmp_path):
    (tmp_path / "full").mkdir()
    assert assemble(make_part("prior")) == 0
    index = json.loads((tmp_path / "full" / "model_index.json").read_text())
    assert index["_class_name"] == "LEOPipeline" and index["motion_prior"] == ["leo_diffusers", "MotionPriorModel"]


def test_its_card_takes_over_what_the_networks_cards_say(assemble, make_part, tmp_path):
    part = make_part("prior")
    write_model_card(part, "prior: a motion prior", "![sample](s.png)\n\n## Data\n\nNine clips.", "pass", "other", [])
    (part / "s.png").write_bytes(b"picture")
    assert assemble(part, "--license", "cc-by-4.0") == 0
    card = ModelCard.load(tmp_path / "full" / "README.md")
    assert f"## {part.name}\n\n![sample]({part.name}-s.png)\n\n### Data\n\nNine clips." in card.text
    assert (tmp_path / "full" / f"{part.name}-s.png").read_bytes() == b"picture"
    assert card.data.license == "cc-by-4.0" and card.text.count("## Use") == 1


# --- what is refused ---


def assert_refused(code: int, capsys, message: str) -> None:
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert code == 2 and len(lines) == 1
    assert lines[0].startswith("leo-diffusers: error: ") and message in lines[0]


def test_no_licence(assemble, make_part, capsys):
    assert_refused(assemble(make_part("prior"), "--license", "CC BY"), capsys, "such as apache-2.0, cc-by-nc-4.0 or")


def test_a_part_and_another_folder_are_no_models(make_part, tmp_path, capsys):
    words = ["generate", "--output", str(tmp_path / "video.mp4"), "--model"]
    message = "holds no model (model_index.json), only motion_prior, which `leo-diffusers assemble` adds to one: name"
    assert_refused(main([*words, str(make_part("prior"))]), capsys, message)
    assert_refused(main([*words, str(tmp_path)]), capsys, f"The folder {tmp_path} holds no model (model_index.json): ")


@pytest.mark.parametrize("is_folder", [True, False])
def test_an_output_that_exists_is_left_alone(assemble, make_part, tmp_path, capsys, is_folder):
    taken = tmp_path / "full" / "notes.txt" if is_folder else tmp_path / "full"
    taken.parent.mkdir(exist_ok=True)
    taken.write_text("older")
    assert_refused(assemble(make_part("prior")), capsys, "full exists and is not an empty folder")
    assert taken.read_text() == "older"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("prior", "`animator` has motion codes of 8 numbers, `motion_prior` of 5: they were not trained together"),
        ("transition", "`animator` has motion codes of 8 numbers, `transition_unet` of 5"),
        ("first-frame", "projects motion codes of 8 numbers, got 3, 3 and 5"),
    ],
)
@pytest.mark.parametrize("output", ["full", "new/deep/full"])
def test_networks_of_other_codes_are_refused_and_leave_nothing(
    assemble, make_part, tmp_path, capsys, part, message, output
):
    folder = make_part(part, motion_dim=5)
    before = sorted(tmp_path.rglob("*"))
    assert_refused(assemble(folder, output=output), capsys, message)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_output_outlives_a_failure(assemble, make_part, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    assert_refused(assemble(make_part("prior", motion_dim=5)), capsys, "not trained together")
    assert list((tmp_path / "full").iterdir()) == []


def test_names_of_nothing_are_refused(assemble, make_part, lia_folder, tmp_path, capsys):
    prior = make_part("prior")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for parts, model, message in (
        ([tmp_path / "priorr"], {}, f"There is no folder {tmp_path}/priorr, and the Hub gave no repository"),
        ([prior, tmp_path / "empty"], {}, f"{tmp_path}/empty holds none of motion_unet, motion_prior"),
        ([prior], {"model": tmp_path / "leoo"}, "leoo"),
        ([prior], {"model": lia_folder}, f"{lia_folder} has no motion_unet: name an output of train_lmdm.py"),
    ):
        assert_refused(assemble(*parts, **model), capsys, message)
    assert sorted(tmp_path.rglob("*")) == before
