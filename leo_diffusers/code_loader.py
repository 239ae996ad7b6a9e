r"""
The head of the file by which a model carries code of leo_diffusers: what follows it are the package's own files, as
comments. `DiffusionPipeline.from_pretrained(..., trust_remote_code=True)` runs it, also where the package is not
installed. `leo-diffusers export-code` writes such files.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path


FILE_MARK = "#@ "  # before the name of a file
LINE_MARK = "# "  # before each of its lines: diffusers takes any other line that imports for one of this very file


def read_files(path: Path) -> dict[str, str]:
    r"""The files that `path` carries, by name; none in leo_diffusers itself."""
    files: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        if line.startswith(FILE_MARK):
            lines = files.setdefault(line.removeprefix(FILE_MARK), [])
        elif files:
            lines.append(line[len(LINE_MARK) :])
    return {name: "\n".join(lines) + "\n" for name, lines in files.items()}


class CarriedCode(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    r"""
    Imports the modules of a package from texts.

    Args:
        package (`str`): The name that the package gets.
        files (`dict[str, str]`): Its files by name, such as "models/lia.py".
    """

    def __init__(self, package: str, files: dict[str, str]):
        modules = {name: ".".join([package, *Path(name).with_suffix("").parts]) for name in files}
        self.names = {module.removesuffix(".__init__"): name for name, module in modules.items()}
        self.package, self.files = package, files

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        r"""As of any finder: None for what is not carried."""
        return importlib.util.spec_from_loader(fullname, self) if fullname in self.names else None

    def is_package(self, fullname: str) -> bool:
        r"""Whether a module is a folder's."""
        return self.names[fullname].endswith("__init__.py")

    def get_filename(self, fullname: str) -> str:
        r"""The name that tracebacks show."""
        return f"{self.package}/{self.names[fullname]}"

    def get_source(self, fullname: str) -> str:
        r"""The code of a module."""
        return self.files[self.names[fullname]]


CARRIED = read_files(Path(__file__))
if CARRIED:
    # One package for all components of a model, however often diffusers runs this file.
    name = Path(__file__).stem
    if name not in sys.modules:
        sys.meta_path.append(CarriedCode(name, CARRIED))
    package = importlib.import_module(name)
    package.CODE_FILE = Path(__file__)
    globals().update({public: getattr(package, public) for public in package.__all__})
