"""Models that carry the code that runs them, for `trust_remote_code=True`."""

import json
from pathlib import Path


PACKAGE = "leo_diffusers"


def add_code(folder: str | Path, name: str, code: str) -> None:
    r"""
    Lets a saved pipeline run where the package is not installed.

    Args:
        folder (`str` or `Path`): What `save_pretrained` wrote.
        name (`str`): Of the code's file. diffusers puts the files of all models into one folder: two codes need two
            names.
        code (`str`): The code, see [`~code_export.carried_code`].
    """
    folder, library = Path(folder), Path(name).stem
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    index["_class_name"] = [library, index["_class_name"]]
    (folder / name).write_text(code, encoding="utf-8")
    for component, value in index.items():
        if component != "_class_name" and isinstance(value, list) and value[0] in (PACKAGE, library):
            index[component] = [library, value[1]]
            # diffusers loads a component by a file beside its weights, and takes no other along.
            (folder / component / name).write_text(code, encoding="utf-8")
    path.write_text(json.dumps(index, indent=2) + "\n")
