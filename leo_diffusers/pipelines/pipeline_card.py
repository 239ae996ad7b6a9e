"""The model card of a pipeline: what it does, of which networks it is, how it was made, and a sample."""

import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, ModelMixin
from huggingface_hub import ModelCard

from .. import model_card, video_io


SAMPLE_ROWS, SAMPLE_COLUMNS = 2, 8  # videos, and frames of each
SAMPLE_FRAMES = 32  # of a video, at most
SAMPLE_STEPS = 25  # of denoising, at most
SAMPLE_SIZE = 128  # pixels of a frame, at most
SAMPLE_SEED = 0
NOT_TOLD = "Not stated."


@dataclass
class CardContents:
    r"""
    What a model card says that a pipeline does not know of itself.

    Args:
        license (`str`, *optional*): Hub identifier of the weights' licence, for example "cc-by-nc-4.0"; "other" where
            no card said another.
        data (`str`, *optional*): Markdown: what the networks were trained on.
        metrics (`str` or `dict[str, float]`, *optional*): What was measured, as markdown or by name.
        training_curves (`str` or `Path`, *optional*): A picture, which is copied.
        sample_image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`, *optional*): A photo that the sample shows in
            motion. A model that draws people from nothing needs none; another shows no sample without it.
        with_sample (`bool`): Whether to show a sample, which takes seconds to minutes to draw.
    """

    license: str | None = None
    data: str | None = None
    metrics: str | dict[str, float] | None = None
    training_curves: str | Path | None = None
    sample_image: PIL.Image.Image | np.ndarray | torch.Tensor | None = None
    with_sample: bool = True

    def check(self) -> None:
        r"""Refuses what would fail after the work is done."""
        if self.license is not None:
            model_card.check_license(self.license)
        if self.training_curves is not None and not Path(self.training_curves).is_file():
            raise FileNotFoundError(f"There is no picture {self.training_curves} for `training_curves`.")
        if self.sample_image is not None:
            video_io.to_frame(self.sample_image)


def conditions_of(pipeline: DiffusionPipeline) -> tuple[bool, bool, bool]:
    r"""Whether motion starts from a photo, videos come from nothing, and endless ones pass through transitions."""
    networks = {name for name, component in pipeline.components.items() if component is not None}
    from_photo = "motion_unet" in networks and pipeline.motion_unet.config.condition == "start"
    needed = {"motion_unet", "first_frame_unet", "first_frame_scheduler"} | ({"motion_prior"} if from_photo else set())
    return from_photo, needed <= networks, {"transition_unet", "motion_prior"} <= networks


def list_tasks(pipeline: DiffusionPipeline) -> str:
    r"""What a folder of this pipeline serves, as a table."""
    from_photo, from_nothing, has_transitions = conditions_of(pipeline)
    rows = []
    if from_photo:
        rows.append(("a photo", "a video that starts from it", "LEOPipeline", "(photo)"))
    if from_nothing:
        rows.append(("nothing", "a video of a person that nobody filmed", "LEOPipeline", "()"))
    if from_photo:
        options = ', transition="diffusion"' if has_transitions else ""
        rows.append(("a photo", "video without end", "LEOInfinitePipeline", f".stream(photo{options})"))
    rows += [
        ("a photo and a video", "the photo moves like the video", "LIAPipeline", '(photo, "driving.mp4")'),
        (
            "a video and its first frame, edited",
            "the video, edited",
            "LEOEditPipeline",
            '("in.mp4", edited_frame=edited)',
        ),
    ]
    lines = [f"| {have} | {get} | `{by}` | `pipeline{call}` |" for have, get, by, call in rows]
    return "\n".join(["| you have | you get | loaded as | |", "| --- | --- | --- | --- |", *lines])


def list_networks(pipeline: DiffusionPipeline) -> str:
    r"""The networks with their sizes, and the schedulers, as a table."""
    lines, total = [], 0
    for name, component in pipeline.components.items():
        if isinstance(component, ModelMixin):
            total += (count := sum(parameter.numel() for parameter in component.parameters()))
            dtype = str(component.dtype).removeprefix("torch.")
            lines.append(
                f"| {name} | {type(component).__name__} | {describe_network(component)} | {count:,}, {dtype} |"
            )
        elif component is not None:
            lines.append(f"| {name} | {type(component).__name__} | | |")
    lines = ["| component | class | | parameters |", "| --- | --- | --- | --- |", *lines]
    return "\n".join([*lines, f"| all | | | {total:,} |"])


def describe_network(network: ModelMixin) -> str:
    r"""The numbers of a network that its users meet."""
    config = network.config
    if "frame_size" in config:
        return f"{config.frame_size} pixels, {config.motion_dim} motion directions"
    if "sequence_length" in config:
        return f"{config.sequence_length} frames, condition {config.condition}"
    if "in_channels" in config:
        return f"{config.sample_size * math.isqrt(config.in_channels // 3)} pixels"  # drawn in square patches of them
    return ""


def usage_of(pipeline: DiffusionPipeline) -> str:
    r"""Python code with `{name}` in place of the model's name."""
    from_photo, from_nothing, _ = conditions_of(pipeline)
    of_leo = model_card.GENERATE_USAGE if from_photo else model_card.UNCONDITIONAL_USAGE
    usages = {
        "LEOPipeline": model_card.FROM_NOTHING_USAGE if from_nothing else of_leo,
        "LEOInfinitePipeline": model_card.STREAM_FROM_NOTHING_USAGE if from_nothing else model_card.STREAM_USAGE,
        "LEOEditPipeline": model_card.EDIT_USAGE,
        "LIAPipeline": model_card.ANIMATE_USAGE,
    }
    return next(usages[parent.__name__] for parent in type(pipeline).__mro__ if parent.__name__ in usages)


@torch.no_grad()
def draw_sample(pipeline: DiffusionPipeline, image: object = None) -> torch.Tensor | None:
    r"""
    Draws what a model does: videos of `image` or from nothing; of an animator the motion of `image` alone.

    Args:
        pipeline ([`DiffusionPipeline`]): One of the package's.
        image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`, *optional*): A photo.

    Returns:
        `torch.Tensor` of shape `(3, H, W)` or None: Videos as rows of one picture, in [-1, 1]; None where the model
        needs a photo and has none.
    """
    from_photo, from_nothing, _ = conditions_of(pipeline)
    image = image if from_photo or not hasattr(pipeline, "motion_unet") else None
    if image is None and not from_nothing:
        return None
    if hasattr(pipeline, "motion_unet"):
        steps = [
            one.config.num_train_timesteps for name, one in pipeline.components.items() if "scheduler" in name and one
        ]
        videos = pipeline(
            image,
            num_frames=min(SAMPLE_FRAMES, pipeline.motion_unet.config.sequence_length),
            num_inference_steps=min(SAMPLE_STEPS, *steps),
            num_videos_per_prompt=SAMPLE_ROWS,
            generator=torch.Generator().manual_seed(SAMPLE_SEED),
            output_type="pt",
        ).frames
    else:
        source = pipeline.animator.encode_source(pipeline.preprocess(image))
        # From no motion at all, LIA's reference, through the photo's own pose to twice as much.
        codes = torch.linspace(0, 2, SAMPLE_COLUMNS, device=source.motion_code.device)[:, None] * source.motion_code
        videos = pipeline.render(source, codes, None, "pt", True).frames
    columns = torch.linspace(0, videos.shape[1] - 1, SAMPLE_COLUMNS).round().long()
    rows = [video[columns].float().cpu() * 2 - 1 for video in videos]
    if videos.shape[-1] > SAMPLE_SIZE:
        rows = [F.interpolate(row, (SAMPLE_SIZE, SAMPLE_SIZE), mode="bilinear", antialias=True) for row in rows]
    return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)


def write_pipeline_card(
    folder: str | Path,
    pipeline: DiffusionPipeline,
    name: str,
    contents: CardContents,
    introduction: str | None = None,
    training: str | None = None,
) -> None:
    r"""
    Writes a pipeline's model card and its pictures.

    Args:
        folder (`str` or `Path`): The folder that `save_pretrained` made.
        pipeline ([`DiffusionPipeline`]): One of the package's.
        name (`str`): What `from_pretrained` will take.
        contents ([`CardContents`]): What the pipeline does not know of itself.
        introduction (`str`, *optional*): Markdown above the rest.
        training (`str`, *optional*): Markdown about data, training and measurements, instead of what `contents` says.
    """
    folder = Path(folder)
    from_photo, from_nothing, _ = conditions_of(pipeline)
    kind = "LEO" if hasattr(pipeline, "motion_unet") else "LIA animator"
    frame_size = pipeline.animator.config.frame_size
    parts = [introduction or f"{kind} at {frame_size} pixels, saved as a {type(pipeline).__name__} of leo_diffusers."]
    sample = draw_sample(pipeline, contents.sample_image) if contents.with_sample else None
    if sample is not None:
        video_io.write_image(folder / "sample.jpg", sample)
        shown = "the photo's pose, from none at all to twice as strong" if kind == "LIA animator" else "two videos"
        parts.append(f"![{shown}](sample.jpg)\n\nDrawn by this model, seed {SAMPLE_SEED}: {shown}.")
    parts.append(f"## What it does\n\n{list_tasks(pipeline)}\n\n## Networks\n\n{list_networks(pipeline)}")
    parts.append(training or f"## Data\n\n{contents.data or NOT_TOLD}\n\n## Measured\n\n{measured(contents)}")
    if contents.training_curves is not None:
        curves = f"curves{Path(contents.training_curves).suffix}"
        shutil.copyfile(contents.training_curves, folder / curves)
        parts.append(f"## Training curves\n\n![training curves]({curves})")
    model_card.write_model_card(
        folder,
        title=f"{name.split('/')[-1]}: {kind}",
        description="\n\n".join(parts),
        usage=usage_of(pipeline).format(name=name),
        license=contents.license or "other",
        tags=["unconditional-video-generation"] * from_nothing
        + ["image-to-video"] * from_photo
        + ["image-animation"] * (kind == "LIA animator"),
    )


def measured(contents: CardContents) -> str:
    r"""What was measured, as markdown."""
    if not isinstance(contents.metrics, dict):
        return contents.metrics or NOT_TOLD
    lines = [f"| {name} | {value:.4g} |" for name, value in contents.metrics.items()]
    return "\n".join(["| measure | value |", "| --- | --- |", *lines])


def provide_card(folder: str | Path, pipeline: DiffusionPipeline, name: str, contents: CardContents) -> None:
    r"""
    Sees that a saved pipeline has a model card: its own that lies there already, that of the folder it was loaded
    from, or else a new one. In a card that is kept only the licence changes, where one is given.

    Args:
        folder (`str` or `Path`): The folder that `save_pretrained` made.
        pipeline ([`DiffusionPipeline`]): One of the package's.
        name (`str`): What `from_pretrained` will take.
        contents ([`CardContents`]): What the pipeline does not know of itself.
    """
    path, origin = Path(folder) / "README.md", Path(pipeline.name_or_path or ".") / "README.md"
    if not path.is_file() and describes(origin, pipeline):
        for file in ["README.md", *model_card.pictures_of(origin.read_text(encoding="utf-8"))]:
            if (origin.parent / file).is_file():
                (path.parent / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(origin.parent / file, path.parent / file)
    if not path.is_file():
        if contents.license is None and pipeline.name_or_path and origin.is_file():
            contents = replace(contents, license=ModelCard.load(origin).data.license)
        write_pipeline_card(folder, pipeline, name, contents)
    elif contents.license is not None:
        card = ModelCard.load(path)
        card.data.license = contents.license
        card.save(path)


def describes(card: Path, pipeline: DiffusionPipeline) -> bool:
    r"""Whether a model card is of a model with just these components."""
    index = card.with_name("model_index.json")
    if pipeline.name_or_path is None or not card.is_file() or not index.is_file():
        return False
    described = {name for name, value in json.loads(index.read_text()).items() if isinstance(value, list) and value[0]}
    return described - {"_class_name"} == {name for name, one in pipeline.components.items() if one is not None}
