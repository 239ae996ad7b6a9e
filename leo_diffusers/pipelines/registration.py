"""How diffusers learns of this package, without importing anything before it is used."""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

import diffusers


LOADING = "diffusers.pipelines.pipeline_loading_utils"
BASE_CLASSES = ("ModelMixin", "SchedulerMixin", "DiffusionPipeline")


class _WhenImported(importlib.abc.MetaPathFinder):
    # Python asks every finder for a module's spec: this one hands out the true one once, with the action behind it.
    def __init__(self, name: str, action: Callable[[ModuleType], None]):
        self.name, self.action = name, action

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        execute = spec.loader.exec_module

        def execute_then_act(module: ModuleType) -> None:
            execute(module)
            self.action(module)

        spec.loader.exec_module = execute_then_act
        return spec


def when_imported(name: str, action: Callable[[ModuleType], None]) -> None:
    r"""
    Calls `action` with a module as soon as that is imported by anyone; at once where it is already.

    Args:
        name (`str`): The module's full name.
        action (`Callable`): Called once.
    """
    if name in sys.modules:
        action(sys.modules[name])
    else:
        sys.meta_path.insert(0, _WhenImported(name, action))


def register_library(library: str) -> None:
    r"""
    Makes model_index.json say `["leo_diffusers", "LIAModel"]` instead of a module path, and loads it from the Hub too.

    Args:
        library (`str`): The package. Its root has all classes as attributes, and diffusers' base classes.
    """

    def register(loading: ModuleType) -> None:
        loading.LOADABLE_CLASSES[library] = {name: ["save_pretrained", "from_pretrained"] for name in BASE_CLASSES}

    # That module takes a second to import, since transformers comes along.
    when_imported(LOADING, register)


def register_pipelines(library: str, names: tuple[str, ...]) -> None:
    r"""
    Makes pipelines attributes of diffusers, where `DiffusionPipeline.from_pretrained` looks their classes up.

    Args:
        library (`str`): The package that has them.
        names (`tuple[str, ...]`): Their classes.
    """
    inherited = vars(diffusers).get("__getattr__")

    def find(name: str) -> object:
        if name in names:
            return getattr(sys.modules[library], name)
        if inherited is not None:
            return inherited(name)
        raise AttributeError(f"module 'diffusers' has no attribute {name!r}")  # diffusers' own lazy names come next

    diffusers.__getattr__ = find
