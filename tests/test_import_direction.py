"""The arrows between the parts of the package, as they are written in its imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "leo_diffusers"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted([*(REPOSITORY / "examples").rglob("*.py"), *(REPOSITORY / "conversion").rglob("*.py")])

# What each part may import of ours. What is not listed, the root's own modules and the scripts, may import everything.
ALLOWED = {
    "models": {"models"},
    "video_io": {"video_io"},
    "data": {"data", "models", "video_io"},
    "metrics": {"metrics"},
    "evaluation": {"evaluation", "metrics", "pipelines", "models", "data", "training", "video_io"},
    "training": {"training", "models", "data", "video_io", "model_card"},
    "pipelines": {"pipelines", "models", "video_io", "model_card"},
    "code_loader": set(),
    "app": {"app", "pipelines", "models", "data", "video_io", "commands", "command_line", "DEMO_MODEL"},
    "model_card": set(),
    "lia_checkpoint": {"models"},
}


def part_of(dotted_name: str) -> str:
    """ "leo_diffusers.models.lia" -> "models"; "" for the root itself."""
    return [*dotted_name.split("."), ""][1]


def part_of_file(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py").removeprefix("__init__")


def imports(path: Path, top_level_only: bool = False) -> Iterator[str]:
    """Full names of what a file imports, relative imports resolved; of `from a import b` both a and a.b."""
    tree = ast.parse(path.read_text())
    if top_level_only:
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda)]
        late = {id(node) for function in functions for node in ast.walk(function)}
    else:
        late = set()
    package = path.relative_to(REPOSITORY).with_suffix("").parts[:-1]
    for node in ast.walk(tree):
        if id(node) in late:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def identifier(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def test_the_walk_finds_the_package():
    names = {identifier(path) for path in MODULES}
    assert {"leo_diffusers/models/lia.py", "leo_diffusers/pipelines/pipeline_leo.py"} <= names
    assert "leo_diffusers.models.lia" in set(imports(PACKAGE / "pipelines" / "pipeline_lia.py"))
    assert "leo_diffusers.video_io" in set(imports(PACKAGE / "pipelines" / "pipeline_lia.py"))
    assert "leo_diffusers.models.lia" in set(imports(PACKAGE / "lia_checkpoint.py"))
    assert part_of_file(PACKAGE / "models" / "lia.py") == part_of("leo_diffusers.models.lia.LIAModel") == "models"
    assert part_of_file(PACKAGE / "video_io.py") == "video_io"
    assert part_of_file(PACKAGE / "__init__.py") == ""


@pytest.mark.parametrize("path", MODULES, ids=identifier)
def test_arrows_run_one_way(path):
    part = part_of_file(path)
    if part not in ALLOWED:
        return
    ours = {name for name in imports(path) if name.split(".")[0] == "leo_diffusers"}
    # A name of the root, as in `from .. import LIAModel`, would pull everything in.
    parts = {part_of(name) for name in ours if name != "leo_diffusers"}
    assert parts <= ALLOWED[part], f"{part} may import {sorted(ALLOWED[part])}, found {sorted(ours)}"


@pytest.mark.parametrize("path", MODULES, ids=identifier)
def test_optional_packages_are_imported_late(path):
    optional = {"torchvision", "controlnet_aux", "cv2", "peft", "yt_dlp", "datasets", "gradio"}
    optional |= {"onnx", "onnxscript", "onnxruntime"}
    if part_of_file(path) == "app" and path.stem not in ("__init__", "launching", "settings"):
        optional -= {"gradio"}  # these are imported late themselves
    found = {name.split(".")[0] for name in imports(path, top_level_only=True)} & optional
    assert not found, f"{found} must be imported in the function that needs it"


@pytest.mark.parametrize("path", MODULES, ids=identifier)
def test_sampling_and_devices(path):
    tree = ast.parse(path.read_text())
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {name.rsplit(".", 1)[-1] for name in imports(path)}
    if path != PACKAGE / "models" / "warping.py":
        assert "grid_sample" not in attributes | names
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not any(isinstance(call, ast.Attribute) and call.attr == "cuda" for call in calls), "use .to(device)"
    if part_of_file(path) == "models":
        assert not attributes & {"float64", "double"}  # Apple's GPUs have none


def test_the_app_serves_the_command_line_only():
    users = {identifier(path) for path in MODULES if any(part_of(name) == "app" for name in imports(path))}
    assert {path for path in users if not path.startswith("leo_diffusers/app/")} == {"leo_diffusers/cli.py"}
    late = {"page", "studio"}
    for name in ("__init__", "launching", "settings"):  # what is imported where Gradio is absent
        early = imports(PACKAGE / "app" / f"{name}.py", top_level_only=True)
        assert not late & {module.rsplit(".", 1)[-1] for module in early}


def test_warping_is_where_sampling_happens():
    assert "grid_sample" in (PACKAGE / "models" / "warping.py").read_text()


@pytest.mark.parametrize("path", SCRIPTS, ids=identifier)
def test_scripts_import_no_private_names(path):
    ours = [name for name in imports(path) if name.startswith("leo_diffusers")]
    assert not [name for name in ours if any(word.startswith("_") for word in name.split("."))]
