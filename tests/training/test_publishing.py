import json
import re
import shlex
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import ModelCard

from leo_diffusers.command_line import OneLineParser
from leo_diffusers.training.publishing import command_line, hub_repository, upload_model, write_training_card


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
            measured="Error: 0.5.",
            usage='model = load("{name}")',
            tags=["toys"],
        )
        return ModelCard.load(tmp_path / "README.md")

    return write


def test_a_training_card_says_how_the_model_was_made_and_how_good_it_is(write_card, tmp_path):
    card = write_card("--num_layers", "2")
    assert "toys" in card.data.tags and card.data.license == "other"
    parts = ["# toy: a model", "It does nothing.", "```bash\naccelerate launch", "```", "Error: 0.5.", "## Use"]
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


# --- the Hub ---


class Hub(ThreadingHTTPServer):
    """As much of the Hub as an upload of small files needs, on this machine."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.created, self.uploaded, self.tokens = [], set(), set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def answer(self, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.answer({"id": "somebody/leo", "modelId": "somebody/leo", "sha": "0" * 40, "siblings": [], "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers["Authorization"])
        if self.path.endswith("/repos/create"):
            name = json.loads(body)["name"]
            self.server.created.append(name)
            self.answer({"url": f"{self.server.url}/somebody/{name}", "id": f"somebody/{name}"})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]})
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            self.server.uploaded |= {line["value"]["path"] for line in lines if line["key"] == "file"}
            self.answer(
                {
                    "commitUrl": f"{self.server.url}/somebody/leo/commit/{'0' * 40}",
                    "commitOid": "0" * 40,
                    "success": True,
                }
            )
        else:
            self.answer({})


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    server = Hub()
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_repository_is_created_on_request(hub, training_args, accelerator, tmp_path):
    assert hub_repository(accelerator, training_args()) is None and hub.created == []
    args = training_args(push_to_hub=True, hub_token="hf_abc", output_dir=tmp_path / "my-lia")
    assert hub_repository(accelerator, args) == "somebody/my-lia"
    args.hub_model_id = "leo"
    assert hub_repository(accelerator, args) == "somebody/leo"
    assert hub.created == ["my-lia", "leo"] and hub.tokens == {"Bearer hf_abc"}


@pytest.mark.parametrize("logging_dir", ["logs", "logs/", "deep/logs"])
def test_training_state_logs_and_hidden_files_stay_at_home(hub, training_args, tmp_path, logging_dir):
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
    args = training_args(output_dir=folder, hub_token="hf_abc", logging_dir=logging_dir)
    upload_model(args, "somebody/leo")
    assert set(published) <= hub.uploaded
    assert not [name for name in hub.uploaded if re.search(r"checkpoint-|(^|/)\.(?!git)|logs/", name)]
