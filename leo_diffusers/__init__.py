"""LEO and LIA in diffusers form: human video as one frame and a sequence of motion codes."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from .pipelines.registration import register_library, register_pipelines


if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin  # noqa: F401

    from .models.frame_discriminator import FrameDiscriminator
    from .models.lia import LIAModel, LIAModelOutput, LIASource
    from .models.motion_prior import MotionPriorModel
    from .models.motion_unet_1d import MotionUNet1DModel
    from .pipelines.components import assemble_pipeline, load_components
    from .pipelines.image_editor import ImageEditor
    from .pipelines.motion_control import MotionControl
    from .pipelines.pipeline_leo import LEOPipeline
    from .pipelines.pipeline_leo_edit import LEOEditPipeline
    from .pipelines.pipeline_leo_infinite import LEOInfinitePipeline
    from .pipelines.pipeline_lia import LIAPipeline
    from .pipelines.pipeline_output import LEOPipelineOutput


__version__ = "0.1.0"

DEMO_MODEL = str(Path(__file__).parent / "demo_model")  # the embedded model, which every pipeline loads

__all__ = [
    "DEMO_MODEL",
    "FrameDiscriminator",
    "ImageEditor",
    "LEOEditPipeline",
    "LEOInfinitePipeline",
    "LEOPipeline",
    "LEOPipelineOutput",
    "LIAModel",
    "LIAModelOutput",
    "LIAPipeline",
    "LIASource",
    "MotionControl",
    "MotionPriorModel",
    "MotionUNet1DModel",
    "assemble_pipeline",
    "load_components",
]

# Where the names above come from. They are imported when they are asked for, as those of diffusers: `import
# leo_diffusers` takes no longer than `import diffusers`.
_MODULES = {
    # Attributes of this root by these very names: diffusers looks the base classes up in the library that
    # model_index.json names.
    "DiffusionPipeline": "diffusers",
    "ModelMixin": "diffusers",
    "SchedulerMixin": "diffusers",
    "FrameDiscriminator": ".models.frame_discriminator",
    "ImageEditor": ".pipelines.image_editor",
    "LEOEditPipeline": ".pipelines.pipeline_leo_edit",
    "LEOInfinitePipeline": ".pipelines.pipeline_leo_infinite",
    "LEOPipeline": ".pipelines.pipeline_leo",
    "LEOPipelineOutput": ".pipelines.pipeline_output",
    "LIAModel": ".models.lia",
    "LIAModelOutput": ".models.lia",
    "LIAPipeline": ".pipelines.pipeline_lia",
    "LIASource": ".models.lia",
    "MotionControl": ".pipelines.motion_control",
    "MotionPriorModel": ".models.motion_prior",
    "MotionUNet1DModel": ".models.motion_unet_1d",
    "assemble_pipeline": ".pipelines.components",
    "load_components": ".pipelines.components",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


register_library(__name__)
if __name__ == "leo_diffusers":  # and not a model's own copy of this code, see code_export.py
    register_pipelines(__name__, ("LEOEditPipeline", "LEOInfinitePipeline", "LEOPipeline", "LIAPipeline"))
