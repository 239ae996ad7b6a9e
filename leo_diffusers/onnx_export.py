"""Export to ONNX: the animator as two files that run without PyTorch, its motion dictionary folded to a matrix."""

import contextlib
import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from torch import nn

from . import __version__
from .data.motion_codes import hash_animator, hash_tensors
from .models.lia import LIAModel
from .pipelines.animator_pipeline import AnimatorPipeline


PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 20  # of the GridSample in force; those before name its modes otherwise
METADATA = "leo_diffusers"  # the key of the files' metadata
TOLERANCE = 1e-3  # largest difference of a frame in [-1, 1] from PyTorch
CHECK_FRAMES = 3
BATCH = "num_frames"  # the name of the size that is left open

MEANINGS = {
    "frame": "RGB in [-1, 1], channels first",
    "latent": "appearance of the reference image; unbounded",
    "motion_code": "step along each motion direction; unbounded, 0 is the reference image",
    "features": "the source's features at one size; unbounded",
    "source_frame": "the source frame as it was given",
    "frames": "RGB in about [-1, 1], not clamped, channels first",
}


class SourceEncoder(nn.Module):
    r"""
    What a frame gives: its appearance and its motion code.

    Args:
        animator ([`LIAModel`]): The model.
    """

    def __init__(self, animator: LIAModel):
        super().__init__()
        self.animator = animator

    def forward(self, frame: torch.Tensor) -> tuple[torch.Tensor, ...]:
        r"""Frames `(B, 3, H, W)` to motion codes `(B, M)`, latents `(B, L)` and the feature pyramid."""
        source = self.animator.encode_source(frame)
        return source.motion_code, source.latent, *source.features


class FoldedDecoder(nn.Module):
    r"""
    [`LIAModel.decode`] with the motion dictionary as a constant matrix: no QR is left.

    Args:
        animator ([`LIAModel`]): The model.
    """

    def __init__(self, animator: LIAModel):
        super().__init__()
        self.flow_generator = animator.flow_generator
        basis = animator.motion_dictionary.basis()
        self.register_buffer("basis", None if basis is None else basis.detach().T.contiguous())  # (M, L)

    def forward(self, motion_code: torch.Tensor, latent: torch.Tensor, features: list[torch.Tensor]) -> torch.Tensor:
        r"""Codes `(n, M)` and a source's latent `(1, L)` and features `(1, C, R, R)` to frames `(n, 3, H, W)`."""
        path = motion_code if self.basis is None else motion_code @ self.basis
        return self.flow_generator(latent + path, tuple(features))[0]


def check_packages() -> None:
    r"""
    Refuses to go on without the packages of the extra `onnx`.

    Raises:
        ValueError: Names what is missing, and what installs it.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'Export to ONNX needs {" and ".join(missing)}: pip install "leo_diffusers[onnx]".')


def feature_names(animator: LIAModel) -> list[str]:
    r"""The names of a source's features, from coarse to fine: "features_8" is the one of 8 pixels."""
    config = animator.config
    names = [f"features_{8 * 2**scale}" for scale in range(len(config.block_out_channels) - 1)]
    return names + ["source_frame"] * config.warp_source_image


@torch.no_grad()
def export_onnx(pipeline: AnimatorPipeline, folder: str | Path, batch_size: int | None = None) -> float:
    r"""
    Writes the animator of a pipeline as `encoder.onnx` and `decoder.onnx`, float32, and compares them with it.

    | file | takes | gives |
    | --- | --- | --- |
    | encoder.onnx | `frame` | `motion_code`, `latent`, `features_8`, `features_16`, ... of the source |
    | decoder.onnx | `motion_code` of n frames, and the rest of one source by the same names | `frames` |

    Motion transfer is arithmetic on codes: `own + driving - driving[:1]` is the relative, `driving` the absolute one.

    Args:
        pipeline ([`LIAPipeline`] or another with an `animator`): The model.
        folder (`str` or `Path`): Made where it is missing.
        batch_size (`int`, *optional*): Fixes the decoder to so many frames per call, and the encoder to one, for
            runtimes that want fixed shapes; any number by default.

    Returns:
        `float`: The largest difference of a frame in [-1, 1] between onnxruntime and PyTorch, of random input.

    Raises:
        TypeError: Where `batch_size` is no integer.
        ValueError: Where it is below 1, or a package of the extra `onnx` is missing.
        RuntimeError: Where the written files do not give the model's frames.
    """
    check_packages()
    if batch_size is not None:
        pipeline.check_counts(batch_size=batch_size)
    animator = copy.deepcopy(pipeline.animator).cpu().float().eval()
    folder, is_fixed = Path(folder), batch_size is not None
    folder.mkdir(parents=True, exist_ok=True)
    frames, codes = random_inputs(animator, batch_size or CHECK_FRAMES)
    source = animator.encode_source(frames[:1])
    names = feature_names(animator)
    metadata = {
        "version": __version__,
        "frame_size": animator.config.frame_size,
        "animator": hash_tensors(animator.state_dict()),
        "motion_codes": hash_animator(animator),  # as the files of `extract_motion_codes.py` name them
        "license": license_of(pipeline),
    }
    write_graph(
        folder / "encoder.onnx",
        SourceEncoder(animator),
        (frames[:1] if is_fixed else frames,),
        {"frame": not is_fixed},
        ["motion_code", "latent", *names],
        metadata,
    )
    write_graph(
        folder / "decoder.onnx",
        FoldedDecoder(animator),
        (codes, source.latent, list(source.features)),
        {"motion_code": not is_fixed, "latent": False, **dict.fromkeys(names, False)},
        ["frames"],
        metadata,
    )
    return compare(animator, folder, frames[:1], codes)


def random_inputs(animator: LIAModel, num_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Frames `(n, 3, H, W)` of noise, and the motion codes `(n, M)` that the animator finds in them."""
    generator = torch.Generator().manual_seed(0)
    size = animator.config.frame_size
    frames = 2 * torch.rand(num_frames, 3, size, size, generator=generator) - 1
    return frames, animator.encode_motion(frames)


def license_of(pipeline: AnimatorPipeline) -> str:
    r"""The licence that the model's card names; "other" where it has none."""
    card = Path(pipeline.name_or_path or ".") / "README.md"
    is_known = pipeline.name_or_path is not None and card.is_file()
    return (ModelCard.load(card).data.license if is_known else None) or "other"


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    r"""Keeps the exporter from telling of its own affairs: packages that it does without, names that it makes up."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write_graph(
    path: Path,
    module: nn.Module,
    inputs: tuple,
    takes: dict[str, bool],
    gives: list[str],
    metadata: dict[str, object],
) -> None:
    r"""
    Writes one file, and has it checked.

    Args:
        path (`Path`): The file.
        module (`torch.nn.Module`): What it computes.
        inputs (`tuple`): Example inputs, the last of which may be a list.
        takes (`dict[str, bool]`): Names of the inputs, and whether each is a batch of any size.
        gives (`list[str]`): Names of the outputs.
        metadata (`dict`): Written into the file, with names, shapes and ranges.
    """
    import onnx

    batch = torch.export.Dim(BATCH, min=1)
    axes = iter({0: batch} if is_dynamic else None for is_dynamic in takes.values())
    shapes = tuple([next(axes) for _ in value] if isinstance(value, list) else next(axes) for value in inputs)
    with without_notes():
        program = torch.onnx.export(
            module.eval(),
            inputs,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=list(takes),
            output_names=gives,
            verbose=False,
        )
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces, with the names of folders of this machine
    del model.graph.value_info[:]  # sizes of what lies between, which runtimes infer
    for value in [*model.graph.input, *model.graph.output]:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:  # a symbol of the exporter's
                size.dim_param = BATCH
    described = {
        kind: [
            {
                "name": value.name,
                "shape": [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim],
                "meaning": MEANINGS[value.name.rstrip("_0123456789")],
            }
            for value in values
        ]
        for kind, values in (("inputs", model.graph.input), ("outputs", model.graph.output))
    }
    onnx.helper.set_model_props(model, {METADATA: json.dumps(metadata | described)})
    model.producer_name, model.producer_version = "leo_diffusers", __version__
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def compare(animator: LIAModel, folder: Path, frame: torch.Tensor, codes: torch.Tensor) -> float:
    r"""
    Runs the written files by onnxruntime.

    Args:
        animator ([`LIAModel`]): What they were made of.
        folder (`Path`): Where they are.
        frame (`torch.Tensor` of shape `(1, 3, H, W)`): A source frame.
        codes (`torch.Tensor` of shape `(n, M)`): Motion codes to render.

    Returns:
        `float`: The largest difference of a frame.

    Raises:
        RuntimeError: Where it is above the tolerance.
    """
    import onnxruntime

    encoder, decoder = (
        onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        for name in ("encoder.onnx", "decoder.onnx")
    )
    outputs = encoder.run(None, {"frame": frame.numpy()})
    source = {output.name: value for output, value in zip(encoder.get_outputs(), outputs)}
    (frames,) = decoder.run(None, source | {"motion_code": codes.numpy()})
    expected = animator.decode(animator.encode_source(frame), codes).sample
    difference = (torch.from_numpy(frames) - expected).abs().max().item()
    if not difference < TOLERANCE:  # true for NaN too
        raise RuntimeError(
            f"The exported animator's frames differ from PyTorch's by {difference:.1e}, above {TOLERANCE:.0e}: the "
            "versions of torch, onnx and onnxruntime do not fit each other."
        )
    return difference
