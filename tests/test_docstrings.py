"""Every public name has a docstring with an example that runs, as it stands there."""

import doctest
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageOps

import leo_diffusers
from leo_diffusers import DEMO_MODEL, metrics, video_io
from leo_diffusers.data import talking_heads
from leo_diffusers.metrics import extractors, lpips, openface
from leo_diffusers.video_io import write_video


MODULES = {  # by module the names that are public
    leo_diffusers: leo_diffusers.__all__,
    video_io: video_io.__all__,
    metrics: metrics.__all__,
    talking_heads: ["render_clip"],
}
CONSTANTS = {"DEMO_MODEL", "IMAGE_SUFFIXES", "SYNTHETIC", "VIDEO_SUFFIXES"}  # strings and tuples carry no docstring
METHODS = {  # by class what it is used by
    "LEOEditPipeline": ["__call__", "edit_first_frame", "stream"],
    "LEOInfinitePipeline": ["__call__", "stream"],
    "LEOPipeline": ["__call__"],
    "LIAModel": ["encode_source", "encode_motion", "decode"],
    "LIAPipeline": ["__call__", "stream", "manipulate", "reference"],
}
PACKAGES = {"LPIPS": "lpips", "find_face_square": "cv2", "load_face_detector": "cv2"}  # that examples need


def small_weights(network: torch.nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """One number for each tensor of a network, so that a file of them stays small; activations keep their size."""
    weights = {}
    for key, tensor in network.state_dict().items():
        is_factor = key.endswith(("weight", "running_var"))
        value = 1 / tensor[0].numel() if tensor.ndim > 1 else float(is_factor)
        weights[prefix + key] = torch.tensor(value).to(tensor.dtype).expand(tensor.shape)
    return weights


class Script(torch.nn.Module):
    """What StyleGAN-V's TorchScript file of I3D is from outside."""

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        return x.float().mean(dim=[1, 2, 3, 4])[:, None].expand(x.shape[0], 400)


# Files of weights that examples of extractors name: they cannot be downloaded here, so these are of the right networks
# with weights that say nothing.
WEIGHTS: dict[str, Callable[[Path], None]] = {
    "i3d_pretrained_400.pt": lambda path: torch.save(small_weights(extractors.I3D()), path),
    "i3d_torchscript.pt": lambda path: torch.jit.script(Script()).save(path),
    "20180402-114759-vggface2.pt": lambda path: torch.save(small_weights(extractors.InceptionResnetV1()), path),
    "net_last.pth": lambda path: torch.save(small_weights(extractors.ResNet50(), "model."), path),
    "resnext-101-kinetics.pth": lambda path: torch.save(
        {"state_dict": small_weights(extractors.ResNeXt3D(), "module.")}, path
    ),
    "openface.pth": lambda path: torch.save(small_weights(openface.OpenFace()), path),
    "alexnet-owt-7be5be79.pth": lambda path: torch.save(small_weights(lpips.AlexNetTrunk()), path),
}


class FencedParser(doctest.DocTestParser):
    """Takes the fences of Markdown around an example for empty lines, not for what it prints."""

    def parse(self, string: str, name: str = "<string>") -> list[str | doctest.Example]:
        lines = ["" if line.strip().startswith("```") else line for line in string.splitlines()]
        return super().parse("\n".join(lines), name)


def documented() -> dict[str, object]:
    """What must have a docstring, by its name."""
    found = {}
    for module, names in MODULES.items():
        for name in set(names) - CONSTANTS:
            value = found[f"{module.__name__}.{name}"] = getattr(module, name)
            for method in METHODS.get(name, []):
                found[f"{module.__name__}.{name}.{method}"] = getattr(value, method)
    return dict(sorted(found.items()))


DOCUMENTED = documented()
# A pipeline's examples are those of its methods, as in diffusers.
WITH_EXAMPLE = [
    name
    for name, value in DOCUMENTED.items()
    if not (isinstance(value, type) and issubclass(value, DiffusionPipeline))
]


def find_examples(name: str) -> doctest.DocTest:
    finder = doctest.DocTestFinder(parser=FencedParser(), recurse=False, exclude_empty=False)
    (test,) = finder.find(DOCUMENTED[name], name, globs={"__name__": "__main__"})
    return test


@pytest.fixture(scope="module")
def user_files(tmp_path_factory) -> Path:
    """A folder with the files that examples mention."""
    folder = tmp_path_factory.mktemp("files")
    # Of the first people that the renderer draws, those in whom OpenCV sees a face.
    person, other = (talking_heads.render_clip(seed, seed, num_frames=16) for seed in (1, 6))
    Image.fromarray(person.frames[0]).save(folder / "photo.png")
    ImageOps.posterize(Image.fromarray(other.frames[0]), bits=3).save(folder / "edited.png")
    write_video(folder / "driving.mp4", other.frames, frames_per_second=25)
    room = ((0, 0), (40, 12), (150, 42), (0, 0))
    write_video(folder / "interview.mp4", np.pad(person.frames, room, constant_values=128), frames_per_second=25)
    (folder / "clips").mkdir()
    for name in ("video.mp4", "clips/first.mp4", "clips/second.mp4"):
        shutil.copy(folder / "driving.mp4", folder / name)
    for part, names in {
        "prior": ("motion_prior", "prior_scheduler"),
        "transition": ("transition_unet", "transition_scheduler"),
    }.items():
        (folder / part).mkdir()
        for name in names:
            (folder / part / name).symlink_to(Path(DEMO_MODEL, name).resolve())
    return folder


def test_constants_are_the_only_names_without_a_docstring():
    values = {name: getattr(module, name) for module, names in MODULES.items() for name in names}
    assert {name for name, value in values.items() if not callable(value)} == CONSTANTS
    assert all((value.__doc__ or "").strip() for value in DOCUMENTED.values())


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_there_is_an_example_and_nothing_of_it_is_left_out(name):
    examples = find_examples(name).examples
    assert examples
    assert not any(doctest.SKIP in example.options for example in examples)


@pytest.mark.filterwarnings("error::UserWarning")  # an example to copy has nothing that its reader is warned of
@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_the_example_runs(name, user_files, tmp_path, monkeypatch):
    package = PACKAGES.get(name.rpartition(".")[2])
    if package is not None and find_spec(package) is None:
        pytest.skip(f"needs {package}")
    shutil.copytree(user_files, tmp_path, symlinks=True, dirs_exist_ok=True)
    examples = find_examples(name)
    for file, write in WEIGHTS.items():
        if file in examples.docstring:
            write(tmp_path / file)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    report = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    results = runner.run(examples, out=report.append)
    assert results.failed == 0, "".join(report)
