"""LEO and LIA in diffusers form: human video as one frame and a sequence of motion codes."""

from pathlib import Path

import diffusers

# Attributes of this root by these very names: diffusers looks the base classes up in the library that model_index.json
# names.
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin  # noqa: F401
from diffusers.pipelines import pipeline_loading_utils

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

# Makes model_index.json say ["leo_diffusers", "LIAModel"] instead of a module path, and loads it from the Hub too.
pipeline_loading_utils.LOADABLE_CLASSES["leo_diffusers"] = {
    name: ["save_pretrained", "from_pretrained"] for name in ("ModelMixin", "SchedulerMixin", "DiffusionPipeline")
}
# `DiffusionPipeline.from_pretrained` looks the pipeline's class up in diffusers itself.
diffusers.LEOEditPipeline = LEOEditPipeline
diffusers.LEOInfinitePipeline = LEOInfinitePipeline
diffusers.LEOPipeline = LEOPipeline
diffusers.LIAPipeline = LIAPipeline
