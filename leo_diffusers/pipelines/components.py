"""Trained networks from their own folders, for a pipeline that is put together."""

import json
from collections.abc import Iterable
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.schedulers import SchedulerMixin
from huggingface_hub import snapshot_download
from huggingface_hub.utils import HfHubHTTPError

from ..models.motion_prior import MotionPriorModel
from ..models.motion_unet_1d import MotionUNet1DModel
from .pipeline_leo import LEOPipeline
from .pipeline_leo_infinite import LEOInfinitePipeline


NETWORKS = {
    "motion_unet": MotionUNet1DModel,
    "motion_prior": MotionPriorModel,
    "first_frame_unet": diffusers.UNet2DConditionModel,
    "transition_unet": MotionUNet1DModel,
}
SCHEDULERS = ("scheduler", "prior_scheduler", "first_frame_scheduler", "transition_scheduler")


def load_components(folder: str | Path) -> dict[str, ModelMixin | SchedulerMixin]:
    r"""
    Loads what a training script wrote: `LEOPipeline.from_pretrained("leo", **load_components("prior"))`.

    Args:
        folder (`str` or `Path`): Output folder of train_lmdm.py, train_motion_prior.py or train_first_frame.py, or the
            Hub id of one.

    Returns:
        `dict`: Networks and schedulers by their names in the pipelines.

    Raises:
        FileNotFoundError: Where there is no such folder, and the Hub has no repository of this name either.
        ValueError: Where it holds no network or scheduler.

    Examples:
        ```py
        >>> from leo_diffusers import DEMO_MODEL, LEOPipeline, load_components

        >>> components = load_components("prior")  # an output of train_motion_prior.py
        >>> sorted(components)
        ['motion_prior', 'prior_scheduler']
        >>> pipeline = LEOPipeline.from_pretrained(DEMO_MODEL, **components)
        ```
    """
    path = Path(folder) if Path(folder).is_dir() else _download(str(folder))
    components = {
        name: network.from_pretrained(path / name)
        for name, network in NETWORKS.items()
        if (path / name / "config.json").is_file()
    }
    for name in SCHEDULERS:
        config = path / name / "scheduler_config.json"
        if config.is_file():
            scheduler = getattr(diffusers, json.loads(config.read_text())["_class_name"])
            components[name] = scheduler.from_pretrained(path / name)
    if not components:
        raise ValueError(f"{folder} holds none of {', '.join((*NETWORKS, *SCHEDULERS))}: train one with the examples.")
    return components


def assemble_pipeline(model: str | Path, parts: Iterable[str | Path]) -> LEOPipeline | LEOInfinitePipeline:
    r"""
    Puts networks that were trained one by one together.

    Args:
        model (`str` or `Path`): Folder or Hub id of a pipeline, whose own components stay.
        parts (iterable of `str` or `Path`): What [`load_components`] takes; later ones replace earlier ones.

    Returns:
        [`LEOInfinitePipeline`] with a transition model, else [`LEOPipeline`].

    Raises:
        FileNotFoundError: Where there is no such folder or repository.
        ValueError: Where a motion model is missing, or networks do not fit each other.

    Examples:
        ```py
        >>> from leo_diffusers import DEMO_MODEL, assemble_pipeline

        >>> pipeline = assemble_pipeline(DEMO_MODEL, ["prior", "transition"])  # outputs of the training scripts
        >>> pipeline.save_pretrained("leo-full")
        ```
    """
    added = {name: component for part in parts for name, component in load_components(part).items()}
    components = DiffusionPipeline.from_pretrained(model).components | added
    components = {name: component for name, component in components.items() if component is not None}
    if "motion_unet" not in components:
        raise ValueError(f"{model} has no motion_unet: name an output of train_lmdm.py.")
    return (LEOInfinitePipeline if "transition_unet" in components else LEOPipeline)(**components)


def cast_weights(pipeline: DiffusionPipeline, dtype: torch.dtype) -> None:
    r"""
    Casts a pipeline's networks, except for the parts that they keep in float32, to be saved so.

    Args:
        pipeline ([`DiffusionPipeline`]): Changed in place.
        dtype (`torch.dtype`): Of the weights.
    """
    for network in pipeline.components.values():
        for name, module in network.named_children() if isinstance(network, ModelMixin) else ():
            if name not in (network._keep_in_fp32_modules or ()):
                module.to(dtype)


def _download(repository: str) -> Path:
    try:
        return Path(snapshot_download(repository))
    except (HfHubHTTPError, ValueError, OSError) as error:
        # The Hub's own messages are paragraphs about tokens and networks, and some do not name what was asked for.
        raise FileNotFoundError(
            f"There is no folder {repository}, and the Hub gave no repository of that name: {type(error).__name__}."
        ) from error
