import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

import leo_diffusers
from leo_diffusers import LEOPipeline, LIAModel, LIAPipeline, MotionUNet1DModel


COMMIT = "1f2e3d4c5b6a79881726354453627180f0e1d2c3"


class FakeHub(http.server.ThreadingHTTPServer):
    """What the Hub's client asks for when it downloads a repository, from folders on disk, on the loopback."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, Path]):
        super().__init__(("127.0.0.1", 0), FakeHubHandler)
        self.repositories = repositories
        self.requests: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class FakeHubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body: bool):
        parts = urlsplit(self.path)
        path = unquote(parts.path).strip("/")
        self.server.requests.append(f"{self.command} {path}")
        for name, folder in self.server.repositories.items():
            if path == f"api/models/{name}" or path.startswith(f"api/models/{name}/revision/"):
                return self.send_json(self.model_info(name, folder), with_body)
            if path.startswith(f"api/models/{name}/tree/"):
                return self.send_json(self.tree(folder, parse_qs(parts.query)), with_body)
            if path.startswith(f"{name}/resolve/"):
                file = folder / path.removeprefix(f"{name}/resolve/").split("/", 1)[1]
                if file.is_file():
                    return self.send_file(file, with_body)
                return self.send_error_code(404, "EntryNotFound")
        return self.send_error_code(404, "RepoNotFound")

    def files(self, folder: Path) -> list[Path]:
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def model_info(self, name: str, folder: Path) -> dict:
        siblings = [{"rfilename": str(path.relative_to(folder))} for path in self.files(folder)]
        return {"_id": "0", "id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": []}

    def tree(self, folder: Path, query: dict) -> list[dict]:
        assert query.get("recursive", ["true"])[0].lower() == "true"
        return [
            {
                "type": "file",
                "path": str(path.relative_to(folder)),
                "size": path.stat().st_size,
                "oid": self.etag(path),
            }
            for path in self.files(folder)
        ]

    def etag(self, path: Path) -> str:
        return hashlib.sha1(path.read_bytes()).hexdigest()

    def send_json(self, content: dict | list, with_body: bool):
        self.send_body(200, {"Content-Type": "application/json"}, json.dumps(content).encode(), with_body)

    def send_file(self, file: Path, with_body: bool):
        headers = {"ETag": f'"{self.etag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        self.send_body(200, headers, file.read_bytes(), with_body)

    def send_error_code(self, status: int, code: str):
        self.send_body(status, {"X-Error-Code": code, "X-Error-Message": code}, b"", False)

    def send_body(self, status: int, headers: dict[str, str], body: bytes, with_body: bool):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def hub(leo_folder, lia_folder):
    server = FakeHub({"someone/tiny-leo": leo_folder, "someone/tiny-lia": lia_folder})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def run_client(code: str, endpoint: str, home: Path) -> subprocess.CompletedProcess:
    """A process of its own: the client reads its endpoint and its cache's place once, when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=home, capture_output=True, text=True, timeout=120
    )


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
    result = run_client(LOAD_FROM_HUB, hub.endpoint, tmp_path)
    assert result.returncode == 0, result.stderr
    loaded = json.loads(result.stdout.splitlines()[-1])
    assert loaded["names"] == ["LEOPipeline", "LEOPipeline", "LIAPipeline", "LIAPipeline", "LIAModel"]
    assert loaded["sums"] == pytest.approx([float(animator.motion_dictionary.directions.sum())] * 5)
    assert any(request.startswith("GET someone/tiny-leo/resolve/") for request in hub.requests)
    assert (tmp_path / "hub" / "models--someone--tiny-leo" / "snapshots" / COMMIT / "model_index.json").exists()
    # Every file was downloaded once: the second pipeline came from the cache.
    downloads = [request for request in hub.requests if request.startswith("GET someone/")]
    assert len(downloads) == len(set(downloads))


def test_the_command_line_takes_a_hub_id_and_names_what_is_missing(hub, tmp_path, photo):
    photo.save(tmp_path / "photo.png")
    code = """
from leo_diffusers.cli import main
words = ["--image", "photo.png", "--direction", "0=1"]
print(main(["manipulate", "--model", "someone/tiny-lia", "--output", "moved.png", *words]))
print(main(["manipulate", "--model", "nobody/nothing", "--output", "none.png", *words]))
"""
    result = run_client(code, hub.endpoint, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["0", "2"]
    assert (tmp_path / "moved.png").exists() and not (tmp_path / "none.png").exists()
    last = result.stderr.splitlines()[-1]
    assert last.startswith("leo-diffusers: error:") and "nobody/nothing" in last
    assert "Traceback" not in result.stderr


def test_the_command_line_says_so_where_no_hub_answers(tmp_path, photo):
    photo.save(tmp_path / "photo.png")
    code = """
from leo_diffusers.cli import main
words = ["--image", "photo.png", "--direction", "0=1", "--output", "none.png"]
print(main(["manipulate", "--model", "someone/tiny-lia", *words]))
"""
    result = run_client(code, "http://127.0.0.1:9", tmp_path)  # the discard port: connections are refused
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["2"]
    assert result.stderr.splitlines()[-1].startswith("leo-diffusers: error:")
    assert "Traceback" not in result.stderr
