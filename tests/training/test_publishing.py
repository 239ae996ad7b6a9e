import argparse
import json
import os
import shlex
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from leo_diffusers.command_line import OneLineParser
from leo_diffusers.training.publishing import (
    command_line,
    describe_clips,
    describe_stream,
    hub_repository,
    upload_model,
    write_training_card,
)
from tests.support.loopback_hub import PROXIES, TOKEN, LoopbackHub


DEFAULTS = {
    "output_dir": Path("."),
    "train_data_dir": Path("."),
    "pretrained_model_name_or_path": None,
    "learning_rate": 1e-3,
    "block_out_channels": None,
    "attention_levels": (2, 3),
    "use_ema": False,
    "hub_token": None,
    "hub_model_id": None,
    "push_to_hub": False,
    "resume_from_checkpoint": None,
}


# --- command line ---


def words_of(command: str) -> list[str]:
    return shlex.split(command.replace("\\\n", ""))


@pytest.fixture
def make_args(training_args):
    def make(**values):
        args = training_args()
        vars(args).clear()
        vars(args).update(DEFAULTS | values)
        return args

    return make


def test_the_command_repeats_what_differs_from_the_defaults(make_args):
    args = make_args(
        train_data_dir=Path("clips"),
        learning_rate=5e-4,
        block_out_channels=[16, 32],
        attention_levels=(2, 3),
        use_ema=True,
    )
    words = words_of(command_line("train_lia.py", args, DEFAULTS))
    assert words[:3] == ["accelerate", "launch", "examples/train_lia.py"]
    rest = " ".join(words[3:])
    assert rest == "--train_data_dir clips --learning_rate 0.0005 --block_out_channels 16 32 --use_ema"


def test_the_command_tells_no_secret_and_no_place(make_args, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    args = make_args(
        output_dir=tmp_path / "out",
        train_data_dir=tmp_path / "deep" / "clips",
        pretrained_model_name_or_path=str(model),
        hub_token="hf_secret",
        push_to_hub=True,
        hub_model_id="somebody/leo",
        resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"),
    )
    command = command_line("train_lmdm.py", args, DEFAULTS)
    assert "hf_secret" not in command and "/tmp" not in command and str(tmp_path) not in command
    assert "--resume_from_checkpoint" not in command and "--push_to_hub" not in command
    words = words_of(command)
    for name, value in {
        "--output_dir": "out",
        "--train_data_dir": "clips",
        "--pretrained_model_name_or_path": "model",
        "--hub_model_id": "somebody/leo",
    }.items():
        assert words[words.index(name) + 1] == value


def test_a_hub_id_is_no_path(make_args):
    command = command_line("train_lmdm.py", make_args(pretrained_model_name_or_path="somebody/lia"), DEFAULTS)
    assert "--pretrained_model_name_or_path somebody/lia" in command


def test_names_with_spaces_stay_one_word(make_args):
    command = command_line("train_lia.py", make_args(train_data_dir=Path("my clips")), DEFAULTS)
    assert words_of(command)[-2:] == ["--train_data_dir", "my clips"]


# --- model card ---


@pytest.fixture
def write_card(tmp_path):
    parser = OneLineParser(prog="train_toy.py")
    parser.add_argument("--output_dir", type=Path)
    parser.add_argument("--num_layers", type=int, default=4)
    parser.add_argument("--hub_model_id")
    parser.add_argument("--license", default="other")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.set_defaults(learning_rate=1e-3)

    def write(*words: str) -> ModelCard:
        args = parser.parse_args(["--output_dir", str(tmp_path / "toy"), *words])
        write_training_card(
            tmp_path,
            parser,
            args,
            title="toy: a model",
            description="It does nothing.",
            data=describe_clips("clips", [500] * 3, [25.0] * 3),
            sample="toys",
            measured="Error: 0.5.",
            usage='model = load("{name}")',
            tags=["toys"],
        )
        return ModelCard.load(tmp_path / "README.md")

    return write


def test_a_training_card_says_how_the_model_was_made_and_how_good_it_is(write_card, tmp_path):
    card = write_card("--num_layers", "2")
    assert "toys" in card.data.tags and card.data.license == "other"
    parts = ["# toy: a model", "It does nothing.", "```bash\naccelerate launch", "```", "## Data", "## Measured"]
    parts += ["Error: 0.5.", "## Use"]
    assert "![" not in card.text  # of a run that has shown and logged nothing yet
    places = [card.text.index(part) for part in parts]
    assert places == sorted(places)
    command = card.text.split("```bash\n")[1].split("```")[0]
    assert words_of(command)[2:] == ["examples/train_toy.py", "--output_dir", "toy", "--num_layers", "2"]
    assert str(tmp_path) not in card.text
    assert 'load("toy")' in card.text


def test_a_training_card_uses_the_name_on_the_hub(write_card):
    card = write_card("--hub_model_id", "somebody/toy", "--learning_rate", "0.0001")
    assert 'load("somebody/toy")' in card.text
    assert "--learning_rate 0.0001" in card.text  # the script's own default is another


def test_a_training_card_shows_a_sample_curves_and_data(write_card, tmp_path):
    pytest.importorskip("matplotlib", reason="curves need matplotlib")
    run = tmp_path / "toy"
    (run / "validation").mkdir(parents=True)
    lines = [{"step": step, "loss": 1 / step, "lr": 1e-3} for step in range(1, 251)]
    (run / "losses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "validation.jsonl").write_text('{"step": 100, "validation/l1": 0.2}\n{"step": 200, "validation/l1": 0.1}\n')
    for age, colour in enumerate(("red", "blue")):
        Image.new("RGB", (4000, 500), colour).save(run / "validation" / f"toys-{200 - 100 * age:07d}.png")
        os.utime(run / "validation" / f"toys-{200 - 100 * age:07d}.png", (age, age))
    (run / "validation" / "toys-0000100.mp4").write_bytes(b"a clip")
    card = write_card("--license", "cc-by-4.0")
    assert card.data.license == "cc-by-4.0" and "licensed `cc-by-4.0`" in card.text
    assert "![sample](sample.jpg)" in card.text and "![training curves](curves.png)" in card.text
    sample = Image.open(tmp_path / "sample.jpg")
    assert sample.size == (1024, 128) and sample.getpixel((9, 9))[2] > 200  # the newest, not that of the last step
    assert (tmp_path / "sample.mp4").read_bytes() == b"a clip" and "(sample.mp4)" in card.text
    assert Image.open(tmp_path / "curves.png").size[0] > 500
    assert "`clips`: 3 clips, 1,500 frames, 1.0 minutes." in card.text


def test_data_are_told_by_name_and_length(training_args, tmp_path):
    assert (
        describe_clips(tmp_path / "deep" / "clips", [90_000] * 2, [25, 25])
        == "`clips`: 2 clips, 180,000 frames, 2.0 hours."
    )
    stream = argparse.Namespace(dataset_name="somebody/heads", dataset_split="train", dataset_config_name=None)
    assert describe_stream(stream, 12) == "`somebody/heads`, split train: streamed from 12 shards."
    stream = argparse.Namespace(dataset_name=str(tmp_path), dataset_split="test", dataset_config_name="small")
    assert describe_stream(stream, 1) == f"`{tmp_path.name}`, split test, configuration small: streamed from 1 shards."


# --- the Hub ---


@pytest.fixture
def hub(loopback_hub, monkeypatch) -> LoopbackHub:
    """The Hub of this process."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", loopback_hub.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    for name in [*PROXIES, *map(str.upper, PROXIES)]:
        monkeypatch.delenv(name, raising=False)
    return loopback_hub


def test_the_repository_is_created_on_request(hub, training_args, accelerator, tmp_path):
    assert hub_repository(accelerator, training_args()) is None and not hub.repositories
    args = training_args(push_to_hub=True, hub_token=TOKEN, output_dir=tmp_path / "my-lia")
    assert hub_repository(accelerator, args) == "me/my-lia"
    args.hub_model_id = "leo"
    assert hub_repository(accelerator, args) == "me/leo"
    assert list(hub.repositories) == ["me/my-lia", "me/leo"] and hub.tokens == {TOKEN}


@pytest.mark.parametrize("logging_dir", ["logs", "logs/", "deep/logs"])
def test_training_state_logs_and_hidden_files_stay_at_home(hub, training_args, accelerator, tmp_path, logging_dir):
    folder = tmp_path / "run"
    published = ["README.md", "model_index.json", "animator/config.json", "validation/reconstruction-0000002.png"]
    private = [
        "checkpoint-2/model.safetensors",
        "checkpoint-10/deep/random_states_0.pkl",
        ".checkpoint-12.partial/optimizer.bin",
        ".animator.old/config.json",
        ".env",
        f"{logging_dir}/train_lia/1234/hparams.yml",
    ]
    for name in published + private:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    args = training_args(output_dir=folder, hub_token=TOKEN, logging_dir=logging_dir, push_to_hub=True)
    upload_model(args, hub_repository(accelerator, args))
    uploaded = hub.repositories["me/run"].files
    assert {name: uploaded[name].decode() for name in published} == {n: f"content of {n}" for n in published}
    assert set(uploaded) - {".gitattributes"} == set(published)
