"""Studio: one model, loaded once, for all that the page does with it and all who visit it."""

from collections.abc import Callable, Iterator

import torch
from diffusers import DiffusionPipeline

from .. import DEMO_MODEL
from ..commands import DTYPES, check_model, choose_device
from ..models.lia import LIASource
from ..pipelines.image_editor import call_parameters
from ..pipelines.pipeline_leo import LEOPipeline
from ..pipelines.pipeline_leo_edit import LEOEditPipeline
from ..pipelines.pipeline_leo_infinite import LEOInfinitePipeline
from ..pipelines.pipeline_lia import LIAPipeline
from .settings import AppSettings


REACH = 3  # standard deviations of the training's motion that a slider goes to either side
PLAIN_REACH = 1.0  # the same in units of the code, of an animator whose motion nobody has measured

Report = Callable[[str, int, int, str], None]  # (what is being done, done, total, unit); raises to end it


class StepReports:
    r"""
    Stands in for a progress bar of a pipeline, and reports its steps.

    Args:
        report (`Callable`): Called as `(what, done, total, unit)`.
        what (`str`): Is being done.
        total (`int`): Number of steps.
        unit (`str`): What they are, in the plural.
    """

    def __init__(self, report: Report, what: str, total: int, unit: str):
        self.report, self.what, self.total, self.unit, self.n = report, what, total, unit, 0

    def __enter__(self) -> "StepReports":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, steps: int = 1) -> None:
        r"""`steps` more are done."""
        self.n += steps
        self.report(self.what, self.n, self.total, self.unit)


class WatchedLEOPipeline(LEOPipeline):
    r"""
    [`LEOPipeline`] that reports each denoising step, of the first frame's and of the motion's, and each rendered
    frame. The report may raise an exception to end it.
    """

    report: Report

    def progress_bar(self, iterable: object = None, total: int | None = None) -> StepReports:
        r"""Of the denoising loops."""
        return StepReports(self.report, "Denoising", total, "steps")

    def rendering_bar(self, num_frames: int) -> StepReports:
        r"""As of [`LEOPipeline`]."""
        return StepReports(self.report, "Rendering", num_frames, "frames")


class Studio:
    r"""
    A model and its pipelines, which share the networks.

    Args:
        settings ([`AppSettings`]): Names the model, the editor, the device and the number format.

    Raises:
        FileNotFoundError: Where there is no such model.
        ValueError: Where it has no animator, or the editor's options contradict each other.
    """

    def __init__(self, settings: AppSettings):
        check_model(settings.model)
        device, dtype = choose_device(settings.device), DTYPES[settings.dtype]
        editing = {name: getattr(settings, name) for name in ("editor", "controlnet", "detector")}
        self.edit = LEOEditPipeline.from_pretrained(settings.model, dtype=dtype, **editing).to(device)
        shared = {"animator": self.edit.animator}
        pipeline = DiffusionPipeline.from_pretrained(settings.model, dtype=dtype, **shared).to(device)
        self.lia = LIAPipeline.from_pipe(pipeline)
        self.leo: LEOPipeline | None = None
        self.infinite: LEOInfinitePipeline | None = None
        motion_unet = getattr(pipeline, "motion_unet", None)
        if motion_unet is not None and motion_unet.config.condition == "start":
            self.leo, self.infinite = LEOPipeline.from_pipe(pipeline), LEOInfinitePipeline.from_pipe(pipeline)
            self.infinite.set_progress_bar_config(disable=True)
        self.is_demo_model = settings.model == DEMO_MODEL

    @property
    def frame_size(self) -> int:
        r"""Side of the model's frames."""
        return self.lia.animator.config.frame_size

    @property
    def max_frames(self) -> int:
        r"""Length of a generated video at most."""
        return self.leo.motion_unet.config.sequence_length

    @property
    def makes_people(self) -> bool:
        r"""Whether the model needs no photo."""
        return None not in (self.leo.motion_prior, self.leo.first_frame_unet, self.leo.first_frame_scheduler)

    @property
    def has_transitions(self) -> bool:
        r"""Whether endless motion can be led to fresh poses."""
        return None not in (self.infinite.transition_unet, self.infinite.motion_prior)

    @property
    def editor_takes_strength(self) -> bool:
        r"""Whether there is an editor, and how strongly it edits can be said."""
        return self.edit.editor is not None and "strength" in call_parameters(self.edit.editor.pipeline)

    def direction_reaches(self) -> list[float]:
        r"""How far it is sensible to go along each motion direction."""
        if self.leo is None:
            return [PLAIN_REACH] * self.lia.animator.config.motion_dim
        return [REACH * deviation for deviation in self.leo.motion_unet.config.motion_std]

    def watched(self, report: Report) -> WatchedLEOPipeline:
        r"""A [`LEOPipeline`] for one call."""
        pipeline = WatchedLEOPipeline.from_pipe(self.leo)
        pipeline.report = report
        return pipeline

    @torch.no_grad()
    def encode(self, photo: torch.Tensor) -> LIASource:
        r"""A photo (3, H, W), for any number of calls of [`~Studio.preview`]."""
        return self.lia.animator.encode_source(self.lia.preprocess(photo))

    @torch.no_grad()
    def preview(self, source: LIASource, amounts: list[float]) -> torch.Tensor:
        r"""One frame (3, H, W) of a source, moved along the motion directions."""
        codes = source.motion_code + torch.tensor([amounts], device=source.motion_code.device)
        return next(self.lia.animate(source, [codes]))[0].cpu()

    def walk(self, source: LIASource, amounts: list[float], num_frames: int) -> Iterator[torch.Tensor]:
        r"""Frames (3, H, W) of the way to [`~Studio.preview`] and back, an even number of them."""
        there = torch.arange(1, num_frames // 2 + 1) / (num_frames // 2)
        progress = torch.cat([there, there.flip(0)])[:, None].to(source.motion_code.device)  # (F, 1)
        codes = source.motion_code + progress * torch.tensor(amounts, device=source.motion_code.device)
        for frame in self.lia.stream_frames(source, [codes], decode_chunk_size=4, output_type="pt"):
            yield frame * 2 - 1
