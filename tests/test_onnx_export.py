"""The animator without PyTorch."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from leo_diffusers import DEMO_MODEL, LIAModel, LIAPipeline
from leo_diffusers.cli import main
from leo_diffusers.data.motion_codes import hash_animator
from leo_diffusers.data.talking_heads import render_clip
from leo_diffusers.onnx_export import METADATA, check_packages, export_onnx


onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

FILES = {"encoder.onnx", "decoder.onnx"}


class OnnxAnimator:
    """What a program without PyTorch does: numbers in, numbers out."""

    def __init__(self, folder):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            for name in ("encoder.onnx", "decoder.onnx")
        )

    def encode(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        names = [output.name for output in self.encoder.get_outputs()]
        return dict(zip(names, self.encoder.run(names, {"frame": frame})))

    def decode(self, source: dict[str, np.ndarray], motion_code: np.ndarray) -> np.ndarray:
        return self.decoder.run(["frames"], source | {"motion_code": motion_code})[0]


def as_network_input(frames: np.ndarray) -> np.ndarray:
    """(F, H, W, 3) uint8 to (F, 3, H, W) in [-1, 1]."""
    return (frames.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)


def relative_motion(animator: OnnxAnimator, photo: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """A photo (H, W, 3) moved by a clip (F, H, W, 3), in [0, 1]."""
    source = animator.encode(as_network_input(photo[None]))
    driving = animator.encode(as_network_input(clip))["motion_code"]
    frames = animator.decode(source, source["motion_code"] + driving - driving[:1])
    return np.clip((frames.transpose(0, 2, 3, 1) + 1) / 2, 0, 1)


def open_metadata(path) -> dict:
    (entry,) = onnx.load(path).metadata_props
    assert entry.key == METADATA
    return json.loads(entry.value)


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "demo"
    assert main(["export", "--output", str(folder)]) == 0
    return folder


# --- what is written ---


def test_what_the_command_writes(demo_folder):
    assert {path.name for path in demo_folder.iterdir()} == FILES
    animator = LIAPipeline.from_pretrained(DEMO_MODEL).animator
    for path in demo_folder.iterdir():
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert not {"Qr", "QR", "If", "Loop"} & {node.op_type for node in model.graph.node}
        assert all(node.domain == "" for node in model.graph.node)  # of ONNX itself: any runtime knows them
        metadata = open_metadata(path)
        assert metadata["frame_size"] == 128 and metadata["license"] == "apache-2.0"
        assert metadata["motion_codes"] == hash_animator(animator)
    assert metadata["animator"] == open_metadata(demo_folder / "encoder.onnx")["animator"]


def test_metadata_describes_inputs_and_outputs(demo_folder):
    for path in demo_folder.iterdir():
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        metadata = open_metadata(path)
        for kind, values in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            assert [(one["name"], one["shape"]) for one in metadata[kind]] == [(one.name, one.shape) for one in values]
    inputs = {one["name"]: one for one in open_metadata(demo_folder / "decoder.onnx")["inputs"]}
    assert inputs["motion_code"]["shape"] == ["num_frames", 20] and inputs["latent"]["shape"] == [1, 256]
    assert inputs["features_8"]["shape"] == [1, 128, 8, 8] and inputs["source_frame"]["shape"] == [1, 3, 128, 128]
    (output,) = open_metadata(demo_folder / "decoder.onnx")["outputs"]
    assert output["name"] == "frames" and "about [-1, 1]" in output["meaning"]


def test_files_name_no_folder_of_this_machine(demo_folder):
    for path in demo_folder.iterdir():
        assert b".py" not in path.read_bytes()
        assert str(demo_folder).encode() not in path.read_bytes()


def test_the_model_stays_as_it_was(animator, tmp_path):
    half = LIAPipeline(animator.to(torch.bfloat16).train())
    export_onnx(half, tmp_path)
    assert half.animator.dtype == torch.bfloat16 and half.animator.training
    assert open_metadata(tmp_path / "encoder.onnx")["license"] == "other"


# --- what it computes ---


def test_a_photo_is_animated_without_pytorch(demo_folder):
    photo = render_clip(identity_seed=1_000_001, motion_seed=1_000_001, num_frames=1, size=128).frames[0]
    clip = render_clip(identity_seed=1_000_002, motion_seed=1_000_002, num_frames=6, size=128).frames
    frames = relative_motion(OnnxAnimator(demo_folder), photo, clip)
    expected = LIAPipeline.from_pretrained(DEMO_MODEL)(photo, clip, output_type="np").frames[0]
    assert np.abs(2 * frames - 2 * expected).max() < 1e-3
    assert np.abs(frames[1:] - frames[:1]).max() > 0.05  # they move


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"align_corners": False}, marks=pytest.mark.slow),
        {"align_corners": True, "warp_source_image": True, "inpaint_rgb": True},
        pytest.param({"align_corners": True, "motion_basis": "free", "inpaint_rgb": True}, marks=pytest.mark.slow),
        {"align_corners": False, "motion_basis": "none", "motion_dim": 32, "warp_source_image": True},
    ],
)
def test_every_kind_of_animator(make_animator, make_frames, tmp_path, config):
    model = make_animator(**config)
    with torch.no_grad():
        for block in model.flow_generator.blocks:
            block.flow_head.bias[:2] += 0.5  # far out of the frame: padding and corners are those of PyTorch
    assert export_onnx(LIAPipeline(model), tmp_path) < 1e-3
    exported = OnnxAnimator(tmp_path)
    driving = make_frames(4)  # encoded at once
    with torch.no_grad():
        expected = model.encode_motion(driving)
    codes = exported.encoder.run(["motion_code"], {"frame": driving.numpy()})[0]
    np.testing.assert_allclose(codes, expected.numpy(), rtol=0, atol=1e-4)
    frame = make_frames()
    source = exported.encode(frame.numpy())
    for num_frames in (1, 5):
        codes = 3 * torch.randn(
            num_frames, model.config.motion_dim, generator=torch.Generator().manual_seed(num_frames)
        )
        with torch.no_grad():
            output = model.decode(model.encode_source(frame), codes)
        assert max(flow.abs().max() for flow in output.flows) > 0.5
        np.testing.assert_allclose(exported.decode(source, codes.numpy()), output.sample.numpy(), rtol=0, atol=1e-3)


def test_a_fixed_number_of_frames(lia_folder, tmp_path, make_frames, capsys):
    arguments = ["export", "--model", lia_folder, "--output", tmp_path / "onnx", "--batch-size", 3]
    assert main(list(map(str, arguments))) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"Wrote {tmp_path / 'onnx'}: encoder.onnx and decoder.onnx, 32 pixels, ")
    assert [line for line in said.err.splitlines() if line and "pipeline components" not in line] == []
    exported = OnnxAnimator(tmp_path / "onnx")
    source = exported.encode(make_frames().numpy())
    assert exported.decode(source, np.zeros((3, 8), np.float32)).shape == (3, 3, 32, 32)
    with pytest.raises(Exception, match="motion_code"):
        exported.decode(source, np.zeros((2, 8), np.float32))
    with pytest.raises(Exception, match="frame"):
        exported.encode(make_frames(2).numpy())


# --- refusals ---


def refused(capsys, *words: object) -> str:
    assert main(["export", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_refuses_before_anything_is_loaded(monkeypatch, capsys, lia_folder, tmp_path):
    monkeypatch.setattr(LIAModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    output = tmp_path / "onnx"
    line = refused(capsys, "--model", lia_folder, "--output", output, "--batch-size", 0)
    assert line.endswith("--batch-size must be at least 1, got 0.")
    assert "holds no model" in refused(capsys, "--model", tmp_path, "--output", output)
    other = tmp_path / "ddpm"
    unet = UNet2DModel(
        block_out_channels=(32,), layers_per_block=1, down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"]
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(other)
    line = refused(capsys, "--model", other, "--output", output)
    assert f"{other} is a DDPMPipeline and has no animator: name a model of LIA or LEO" in line
    output.mkdir()
    (output / "mine.txt").write_text("")
    assert "exists and is not an empty folder" in refused(capsys, "--model", lia_folder, "--output", output)


def test_names_the_packages_that_are_missing(monkeypatch, capsys, tmp_path):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else found(name, *rest)
    )
    with pytest.raises(ValueError, match=r'Export to ONNX needs onnxscript: pip install "leo_diffusers\[onnx\]"'):
        check_packages()
    assert "needs onnxscript" in refused(capsys, "--output", tmp_path / "onnx")


def test_a_failure_leaves_nothing_behind(monkeypatch, lia_folder, tmp_path):
    shutil.copytree(lia_folder, tmp_path / "lia")
    monkeypatch.setattr("leo_diffusers.onnx_export.TOLERANCE", 0.0)
    with pytest.raises(RuntimeError, match="frames differ from PyTorch's by"):
        main(["export", "--model", str(tmp_path / "lia"), "--output", str(tmp_path / "onnx")])
    assert {path.name for path in tmp_path.iterdir()} == {"lia"}


def test_refuses_a_number_of_frames_that_is_none(lia_pipeline, tmp_path):
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        export_onnx(lia_pipeline, tmp_path, batch_size=0)
    with pytest.raises(TypeError, match="`batch_size` must be an integer, got 2.5"):
        export_onnx(lia_pipeline, tmp_path, batch_size=2.5)
