"""The parts that the tabs are made of: upload fields, video fields, motion settings."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import torch

from .. import video_io
from ..pipelines.motion_control import MotionControl
from .inputs import open_video, read_photo
from .samples import Samples
from .sessions import REFUSALS, Job, Sessions, StoppedError, to_message
from .settings import AppSettings
from .studio import Studio


FRAMES_PER_SECOND = 25  # of what no video gives the rate
HEIGHT = 330  # of pictures and videos, in pixels
PROGRESS = gr.Progress()  # as the default of an argument: that is how Gradio knows where to show progress

# Of events that wait for no other: not `queue=False`, with which Gradio shows no messages.
AT_ONCE = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}


@dataclass
class PageParts:
    r"""
    What every tab works with.

    Args:
        studio ([`Studio`]): The model.
        settings ([`AppSettings`]): The limits.
        sessions ([`Sessions`]): Who is there.
        samples ([`Samples`], *optional*): Files to try it with, for the embedded model.
    """

    studio: Studio
    settings: AppSettings
    sessions: Sessions
    samples: Samples | None

    def photo(self, label: str, **options: object) -> gr.Image:
        r"""An upload field for a photo. The functions get the path of the file as it was uploaded."""
        component = gr.Image(
            label=label, type="filepath", height=HEIGHT, sources=["upload", "webcam", "clipboard"], **options
        )
        # Gradio's own would open the file, and fail without a message where that is no image. Not by a subclass, for
        # which Gradio would write a .pyi file beside this one.
        component.preprocess = lambda payload: None if payload is None else payload.path
        self.check_upload(component, read_photo)
        return component

    def video(self, label: str, **options: object) -> gr.Video:
        r"""An upload field for a video."""
        component = gr.Video(label=label, height=HEIGHT, sources=["upload", "webcam"], **options)
        self.check_upload(component, lambda path: open_video(path, self.settings.max_video_seconds))
        return component

    def examples(self, paths: list[str] | None, component: gr.Image | gr.Video) -> None:
        r"""Files to choose from, below the field that takes them; nothing where there are none."""
        if paths is not None:
            gr.Examples([[path] for path in paths], [component], label="Examples")

    def check_upload(self, component: gr.Image | gr.Video, read: Callable[[str], object]) -> None:
        r"""
        Refuses a bad file as soon as it is uploaded, and notes every one, recorded and cut ones too, to be removed
        with its session.
        """

        def check(path: str | None, request: gr.Request) -> object:
            r"""The new value of the field: none where the file is refused."""
            if path is None:
                return gr.skip()
            try:
                read(path)
            except REFUSALS as error:
                gr.Warning(to_message(error))
                return None
            return gr.skip()

        def note(path: str | None, request: gr.Request) -> None:
            if path is not None and (self.samples is None or not self.samples.holds(path)):
                self.sessions.of(request).uploads.add(Path(path))

        component.upload(check, component, component, **AT_ONCE)
        # Without output: Gradio would make the field anew, without its own way to take a file.
        gr.on([component.upload, component.change], note, component, None, **AT_ONCE)

    def connect(
        self,
        kind: str,
        start: gr.Button,
        stop: gr.Button,
        work: Callable[..., object],
        inputs: Sequence[gr.components.Component],
        outputs: Sequence[gr.components.Component],
    ) -> None:
        r"""
        Makes one button begin costly work, and another one end it.

        Args:
            kind (`str`): Name of the work, one of a kind.
            start, stop (`gradio.Button`): The buttons.
            work (`Callable`): Takes a [`Job`] and the values of `inputs`, returns those of `outputs`.
            inputs, outputs (sequence of `gradio.Component`): Progress is shown on the first output.
        """

        def run(request: gr.Request, progress: gr.Progress = PROGRESS, *values: object) -> object:
            try:
                with self.sessions.job(request, kind, progress) as job:
                    return work(job, *values)
            except StoppedError:
                return gr.skip() if len(outputs) == 1 else [gr.skip() for _ in outputs]

        def end(request: gr.Request) -> None:
            if self.sessions.of(request).stop(kind):
                gr.Info("Stopped: nothing of it was kept.", duration=5)

        running = start.click(run, inputs, outputs, show_progress_on=outputs[0], api_visibility="private")
        stop.click(end, cancels=[running], **AT_ONCE)

    def render(self, job: Job, frames: Iterable[torch.Tensor], total: int, stem: str, **writing: object) -> str:
        r"""Writes a stream of frames (3, H, W) in [-1, 1] to a file of the job's session, frame by frame."""
        path = job.session.new_file(stem, ".mp4")
        with video_io.VideoWriter(path, **writing) as writer:
            for index, frame in enumerate(frames, start=1):
                writer.write(frame)
                job.report("Rendering", index, total, "frames")
        return str(path)


def result_video(label: str, **options: object) -> gr.Video:
    r"""A field that shows and plays a finished video, with a button to download it."""
    options = {"height": HEIGHT, "autoplay": True, "loop": True, "interactive": False, **options}
    return gr.Video(label=label, buttons=["download"], **options)


def start_and_stop(label: str, name: str) -> tuple[gr.Button, gr.Button]:
    r"""A button that begins something, and one that ends it."""
    with gr.Row():
        start = gr.Button(label, variant="primary", min_width=90, scale=2, elem_id=f"{name}-start")
        stop = gr.Button("Stop", min_width=60, scale=1, elem_id=f"{name}-stop")
    return start, stop


def seed_field(name: str) -> gr.Number:
    r"""The seed of all random draws, and a button that draws another one."""
    dice = gr.Button("Another", size="sm", render=False)
    seed = gr.Number(
        label="Seed",
        info="The same seed gives the same video.",
        value=0,
        precision=0,
        minimum=0,
        buttons=[dice],
        elem_id=name,
    )
    dice.click(None, outputs=seed, js="() => Math.floor(Math.random() * 1e6)", api_visibility="private")
    return seed


def generator_of(seed: int | None) -> torch.Generator:
    r"""Random draws of a seed."""
    if seed is None or not 0 <= seed < 2**63:
        raise ValueError("The seed must be a whole number from 0: write one into its field.")
    return torch.Generator().manual_seed(int(seed))


@dataclass
class TransferFields:
    r"""
    How the motion of a video is taken over.

    Args:
        mode, reference, scale, smoothing (`gradio.Component`): One field each.
    """

    mode: gr.Radio
    reference: gr.Radio
    scale: gr.Slider
    smoothing: gr.Slider

    def components(self) -> list[gr.components.Component]:
        r"""In the order that [`transfer_options`] takes their values in."""
        return [self.mode, self.reference, self.scale, self.smoothing]


def transfer_fields(reference: str, picture: str) -> TransferFields:
    r"""The fields, with `reference` chosen for the reference frame; the `picture` is what moves."""
    mode = gr.Radio(
        [(f"Relative: add it to the {picture}'s pose", "relative"), ("Absolute: take the pose over", "absolute")],
        value="relative",
        label="Motion",
    )
    reference_frame = gr.Radio(
        [("The most alike", "auto"), ("The first", "first")],
        value=reference,
        label="Reference frame",
        info=f"Of the video: its pose counts as that of the {picture}.",
    )
    scale = gr.Slider(0, 2, value=1, step=0.05, label="Strength of the motion", info="1 is as in the video.")
    smoothing = gr.Slider(0, 5, value=0, step=0.25, label="Smoothing", info="Against jitter, in frames; 0 is off.")
    return TransferFields(mode, reference_frame, scale, smoothing)


def transfer_options(mode: str, reference: str, scale: float, smoothing: float) -> dict[str, object]:
    r"""The values of [`TransferFields`] as arguments of the pipelines."""
    return {
        "motion_mode": mode,
        "reference_frame": "auto" if reference == "auto" else 0,
        "motion_control": None if (scale, smoothing) == (1, 0) else MotionControl(scale, smoothing=smoothing),
    }
