"""Trained networks from their own folders, for a pipeline that is put together."""

import json
from pathlib import Path

import diffusers
from diffusers import ModelMixin
from diffusers.schedulers import SchedulerMixin
from huggingface_hub import snapshot_download
from huggingface_hub.utils import HfHubHTTPError

from ..models.motion_prior import MotionPriorModel
from ..models.motion_unet_1d import MotionUNet1DModel


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


def _download(repository: str) -> Path:
    try:
        return Path(snapshot_download(repository))
    except (HfHubHTTPError, ValueError, OSError) as error:
        # The Hub's own messages are paragraphs about tokens and networks, and some do not name what was asked for.
        raise FileNotFoundError(
            f"There is no folder {repository}, and the Hub gave no repository of that name: {type(error).__name__}."
        ) from error
