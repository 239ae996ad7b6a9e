"""What `import leo_diffusers` costs, and that diffusers knows the package all the same."""

import ast
import json
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import diffusers
import pytest

import leo_diffusers


ROOT = Path(leo_diffusers.__file__)

ADDED = """
import json, sys
import diffusers
before = set(sys.modules)
import leo_diffusers
print(json.dumps(sorted(set(sys.modules) - before)))
"""

# Each in a process that has not imported diffusers' pipelines yet, or imported them first.
FIND = {
    "ours first": "import leo_diffusers; from diffusers import DiffusionPipeline",
    "diffusers' pipelines first": "from diffusers import DiffusionPipeline; import leo_diffusers",
    "a pipeline": "from leo_diffusers import LEOPipeline; from diffusers import DiffusionPipeline",
}
LOAD = """
{imports}
pipeline = DiffusionPipeline.from_pretrained({folder!r})
import diffusers, leo_diffusers
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
assert diffusers.LEOPipeline is leo_diffusers.LEOPipeline is type(pipeline)
assert set(LOADABLE_CLASSES["leo_diffusers"]) == {{"ModelMixin", "SchedulerMixin", "DiffusionPipeline"}}
print(type(pipeline).__name__)
"""


def run(code: str) -> str:
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_nothing_is_imported_before_it_is_used():
    added = json.loads(run(ADDED))
    ours = {"leo_diffusers", "leo_diffusers.pipelines", "leo_diffusers.pipelines.registration"}
    assert set(added) - set(sys.stdlib_module_names) == ours


@pytest.mark.parametrize("imports", FIND.values(), ids=FIND)
def test_diffusers_finds_the_pipelines_in_any_order(leo_folder, imports):
    assert run(LOAD.format(imports=imports, folder=str(leo_folder))).split() == ["LEOPipeline"]


def test_a_network_alone_is_found_by_automodel(leo_folder):
    code = "import leo_diffusers; from diffusers import AutoModel; "
    code += f"print(type(AutoModel.from_pretrained({str(leo_folder)!r}, subfolder='animator')).__name__)"
    assert run(code).split() == ["LIAModel"]


def test_what_type_checkers_see_is_what_there_is():
    tree = ast.parse(ROOT.read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {alias.name: f"{'.' * node.level}{node.module}" for node in block.body for alias in node.names}
    assert seen == leo_diffusers._MODULES
    bases = {"DiffusionPipeline", "ModelMixin", "SchedulerMixin"}
    assert set(leo_diffusers.__all__) == {"DEMO_MODEL", *leo_diffusers._MODULES} - bases
    assert set(leo_diffusers.__all__) | bases | {"__version__"} <= set(dir(leo_diffusers))
    for name in bases:
        assert getattr(leo_diffusers, name) is getattr(diffusers, name)


def test_a_star_import_has_all_public_names():
    names = {}
    exec("from leo_diffusers import *", names)
    assert set(names) - {"__builtins__"} == set(leo_diffusers.__all__)


def test_unknown_names_are_none_of_ours():
    with pytest.raises(AttributeError, match="module 'leo_diffusers' has no attribute 'LEOPipelin'"):
        attrgetter("LEOPipelin")(leo_diffusers)
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from leo_diffusers import nothing  # noqa: F401
    with pytest.raises(AttributeError, match="diffusers has no attribute LEOPipelin"):
        attrgetter("LEOPipelin")(diffusers)
    assert diffusers.DDIMScheduler.__name__ == "DDIMScheduler"
