import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from leo_diffusers import LIAPipeline
from leo_diffusers.cli import main
from leo_diffusers.lia_checkpoint import load_lia_checkpoint


SCRIPT = Path(__file__).resolve().parents[2] / "conversion" / "convert_lia_checkpoint.py"


def convert(*words: object) -> int:
    return main(["convert", *map(str, words)])


def assert_refused(capsys, folder: Path, message: str, *words: object) -> None:
    """Exit code 2, one line, and nothing new in `folder`."""
    before = sorted(folder.rglob("*"))
    assert convert(*words) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("leo-diffusers: error: "), captured.err
    assert message in lines[0]
    assert captured.out == ""
    assert sorted(folder.rglob("*")) == before


def test_a_checkpoint_becomes_a_pipeline_folder(tmp_path, released_checkpoint, capsys):
    output_dir = tmp_path / "converted"
    assert convert(released_checkpoint, output_dir) == 0
    assert str(output_dir) in capsys.readouterr().out
    files = sorted(str(path.relative_to(output_dir)) for path in output_dir.rglob("*") if path.is_file())
    assert files == [
        "README.md",
        "animator/config.json",
        "animator/diffusion_pytorch_model.safetensors",
        "model_index.json",
    ]
    expected = load_lia_checkpoint(released_checkpoint)
    for loader in (LIAPipeline, DiffusionPipeline):
        animator = loader.from_pretrained(output_dir).animator
        assert dict(animator.config)["block_out_channels"] == [6, 8, 10, 12]
        for key, tensor in expected.state_dict().items():
            assert torch.equal(animator.state_dict()[key], tensor), key
    assert json.loads((output_dir / "model_index.json").read_text())["animator"] == ["leo_diffusers", "LIAModel"]


def test_nothing_is_left_beside_the_output(tmp_path, released_checkpoint):
    parent = tmp_path / "new" / "parents"
    assert convert(released_checkpoint, parent / "converted") == 0
    assert [path.name for path in parent.iterdir()] == ["converted"]
    mode = (parent / "converted").stat().st_mode
    plain = tmp_path / "plain"
    plain.mkdir()
    assert mode == plain.stat().st_mode  # others may read it, as any folder


def test_the_model_card(tmp_path, released_checkpoint):
    convert(released_checkpoint, tmp_path / "converted")
    card = ModelCard.load(tmp_path / "converted" / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.library_name == "leo_diffusers"
    assert "CC BY-NC 4.0" in card.text and "32 pixels" in card.text
    assert "consent" in card.text and "LIAPipeline.from_pretrained" in card.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_number_formats(tmp_path, released_checkpoint, dtype):
    assert convert(released_checkpoint, tmp_path / "half", "--dtype", str(dtype).removeprefix("torch.")) == 0
    weights = load_file(tmp_path / "half" / "animator" / "diffusion_pytorch_model.safetensors")
    exact = load_lia_checkpoint(released_checkpoint).state_dict()
    assert set(weights) == set(exact)
    for key, tensor in weights.items():
        is_kept = key.startswith(("motion_head.", "motion_dictionary."))
        assert tensor.dtype == (torch.float32 if is_kept else dtype), key
        torch.testing.assert_close(tensor.float(), exact[key], rtol=0.01, atol=1e-5)
    pipeline = LIAPipeline.from_pretrained(tmp_path / "half", dtype=dtype)
    assert pipeline.animator.flow_generator.constant.dtype == dtype
    assert torch.isfinite(pipeline.reference(torch.zeros(3, 32, 32), output_type="pt").frames).all()


def test_an_empty_folder_may_be_there(tmp_path, released_checkpoint):
    (tmp_path / "empty").mkdir()
    assert convert(released_checkpoint, tmp_path / "empty") == 0
    assert (tmp_path / "empty" / "model_index.json").exists()


def test_an_output_that_holds_something_is_refused(tmp_path, released_checkpoint, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    message = "exists and is not an empty folder: choose another name"
    assert_refused(capsys, tmp_path, message, released_checkpoint, tmp_path / "full")
    assert_refused(capsys, tmp_path, message, released_checkpoint, tmp_path / "full" / "notes.txt")
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_an_output_below_a_file_is_refused(tmp_path, released_checkpoint, capsys):
    (tmp_path / "file").write_text("mine")
    assert_refused(capsys, tmp_path, "file", released_checkpoint, tmp_path / "file" / "converted")


def test_bad_checkpoints_leave_nothing(tmp_path, make_released_state_dict, capsys):
    bad = tmp_path / "bad.pt"
    bad.write_text("this is no checkpoint")
    assert_refused(capsys, tmp_path, "is not a LIA checkpoint", bad, tmp_path / "new" / "converted")
    bad.write_text("and neither is this")  # a letter that means something to pickle
    assert_refused(capsys, tmp_path, "is not a LIA checkpoint", bad, tmp_path / "new" / "converted")
    state_dict = make_released_state_dict()
    state_dict["extra.weight"] = state_dict.pop("dec.to_flows.0.bias")
    torch.save({"gen": state_dict}, bad)
    message = "keys 1 unknown: extra.weight; 1 missing: dec.to_flows.0.bias."
    assert_refused(capsys, tmp_path, message, bad, tmp_path / "new" / "converted")
    message = "There is no checkpoint file"
    assert_refused(capsys, tmp_path, message, tmp_path / "nowhere.pt", tmp_path / "converted")


def test_a_conversion_that_fails_midway_leaves_nothing(tmp_path, released_checkpoint, monkeypatch, capsys):
    def no_space_left(self, folder, **kwargs):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "model_index.json").write_text("{")
        raise OSError("No space left on device")

    monkeypatch.setattr(LIAPipeline, "save_pretrained", no_space_left)
    assert_refused(capsys, tmp_path, "No space left on device", released_checkpoint, tmp_path / "converted")


def test_the_script(tmp_path, released_checkpoint):
    command = [sys.executable, str(SCRIPT), str(released_checkpoint), str(tmp_path / "script"), "--dtype", "float16"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert convert(released_checkpoint, tmp_path / "command", "--dtype", "float16") == 0
    files = [path.relative_to(tmp_path / "script") for path in (tmp_path / "script").rglob("*") if path.is_file()]
    assert len(files) == 4
    for file in files:
        script, command = ((tmp_path / name / file).read_text("latin-1") for name in ("script", "command"))
        # The card names the folder.
        assert script.replace('"script"', '"command"').replace("# script:", "# command:") == command, file


def test_recorded_images_at_64(tmp_path, shared_dir, reference_checkpoint):
    recorded = load_file(shared_dir / "reference" / "lia_64.safetensors")
    assert convert(reference_checkpoint(64), tmp_path / "converted") == 0
    pipeline = LIAPipeline.from_pretrained(tmp_path / "converted")
    expected = {
        "image_absolute": pipeline(recorded["source"], recorded["driving"], motion_mode="absolute", output_type="pt"),
        "image_relative": pipeline(
            recorded["source"], [recorded["start"], recorded["driving"]], motion_mode="relative", output_type="pt"
        ),
        "image_reference": pipeline.reference(recorded["source"], output_type="pt"),
    }
    for name, output in expected.items():
        recorded_frame = ((recorded[name] + 1) / 2).clamp(0, 1)
        torch.testing.assert_close(output.frames[0, -1:], recorded_frame, rtol=0, atol=2.5e-4)
