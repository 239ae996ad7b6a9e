"""Export for `trust_remote_code=True`: a model with the code that runs it, where the package is not installed."""

import hashlib
from pathlib import Path

from . import __version__
from .code_loader import FILE_MARK, LINE_MARK
from .model_card import REMOTE_CODE_USAGE, replace_usage
from .pipelines.animator_pipeline import AnimatorPipeline
from .pipelines.carried_code import add_code
from .pipelines.pipeline_card import CardContents, provide_card
from .pipelines.published_pipeline import forget_origins


PACKAGE = Path(__file__).parent
PARTS = ("__init__.py", "model_card.py", "models", "pipelines", "video_io")  # what the package's root imports
HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# Code of leo_diffusers {version}. Weights that lie beside it have a licence of their own.
"""
CALLS = {
    "LIAPipeline": 'pipeline(photo, "driving.mp4")  # files need imageio-ffmpeg, a list of images does not',
    "LEOEditPipeline": 'pipeline("video.mp4", edited_frame=edited)  # files need imageio-ffmpeg',
    "LEOPipeline": "pipeline({photo}num_frames=64)",
    "LEOInfinitePipeline": "pipeline({photo}num_frames=1024)",
}


def carried_code() -> str:
    r"""One file from which diffusers loads every pipeline and network of the package: the loader, then its sources."""
    lines = [HEADER.format(version=__version__) + (PACKAGE / "code_loader.py").read_text(encoding="utf-8")]
    paths = [path for part in PARTS for path in [PACKAGE / part, *sorted((PACKAGE / part).rglob("*.py"))]]
    for path in paths:
        if path.is_file():
            lines.append(FILE_MARK + path.relative_to(PACKAGE).as_posix())
            source = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
            lines += [(LINE_MARK + line) if line else LINE_MARK.rstrip() for line in source]
    return "\n".join(lines) + "\n"


def export_code(pipeline: AnimatorPipeline, folder: str | Path, name: str | None = None, **card: object) -> Path:
    r"""
    Saves a pipeline with the code that runs it: `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`
    needs torch, diffusers, numpy and PIL only, and imageio-ffmpeg for video files. The folder can be uploaded as it
    is.

    Args:
        pipeline ([`LIAPipeline`], [`LEOPipeline`], [`LEOInfinitePipeline`] or [`LEOEditPipeline`]): As what the folder
            will be loaded.
        folder (`str` or `Path`): Made where it is missing.
        name (`str`, *optional*): What the model card calls it; the folder's name by default.
        card: Fields of [`~pipelines.pipeline_card.CardContents`], `license` among them.

    Returns:
        `Path`: The code: one file, a copy of which lies beside the weights of each network of the package.

    Raises:
        TypeError: Where `pipeline` is none of the package's.
    """
    if not isinstance(pipeline, AnimatorPipeline):
        raise TypeError(f"`pipeline` must be one of leo_diffusers, got {type(pipeline).__name__}.")
    contents = CardContents(**card)
    contents.check()
    pipeline.save_pretrained(folder)
    forget_origins(folder)
    name = name or Path(folder).resolve().name
    provide_card(folder, pipeline, name, contents)
    takes_photo = getattr(pipeline, "first_frame_unet", None) is None
    call = CALLS[type(pipeline).__name__].format(photo="photo, " if takes_photo else "")
    replace_usage(folder, REMOTE_CODE_USAGE.format(name=name, call=call))
    code = carried_code()
    # Its name tells versions apart: diffusers keeps the code of all models in one folder.
    file_name = f"leo_code_{hashlib.sha256(code.encode()).hexdigest()[:12]}.py"
    add_code(folder, file_name, code)
    return Path(folder) / file_name
