"""Animate: a photo moves like the person in a video."""

from collections.abc import Iterator
from functools import partial

import gradio as gr
import torch

from .. import video_io
from .components import PageParts, result_video, start_and_stop, transfer_fields, transfer_options
from .crops import (
    Cropping,
    crop_field,
    crop_first_frame,
    crop_photo,
    crop_view,
    paste_field,
    show_crop,
    video_square,
)
from .inputs import open_video
from .sessions import Job


def animate_tab(parts: PageParts) -> None:
    r"""Lays the tab out, and connects it."""
    samples = parts.samples
    gr.Markdown("A photo moves like the person in a video. Sound and frame rate of the video are kept.")
    with gr.Row():
        with gr.Column():
            driving = parts.video("Driving video", value=samples and samples.videos[0], elem_id="animate-driving")
            driving_view = crop_view("animate-driving")
            parts.examples(samples and samples.videos, driving)
        with gr.Column():
            photo = parts.photo("Photo", value=samples and samples.photos[0], elem_id="animate-photo")
            photo_view = crop_view("animate-photo")
            parts.examples(samples and samples.photos, photo)
        with gr.Column():
            result = result_video("Result", elem_id="animate-result")
            start, stop = start_and_stop("Animate", "animate")
    comparison = result_video(
        "Driving video, photo and result", height=None, visible=False, elem_id="animate-comparison"
    )
    with gr.Accordion("Settings", open=False, elem_id="animate-settings"), gr.Row():
        fields = transfer_fields("auto", "photo").components()
        crop, paste = crop_field("animate"), paste_field("animate", "photo")
    show_crop(parts, photo_view, photo, crop, crop_photo)
    max_seconds = parts.settings.max_video_seconds
    show_crop(parts, driving_view, driving, crop, partial(crop_first_frame, max_seconds=max_seconds))

    def animate(
        job: Job, photo: str | None, driving: str | None, crop: str, paste_back: bool, *transfer: object
    ) -> list[object]:
        cropping, options = Cropping(crop, paste_back), transfer_options(*transfer)
        path, beside_path = animate_photo(parts, job, photo, driving, cropping, options)
        return [path, gr.Video(beside_path, visible=True)]

    parts.connect("animate", start, stop, animate, [photo, driving, crop, paste, *fields], [result, comparison])


def animate_photo(
    parts: PageParts,
    job: Job,
    photo: str | None,
    driving: str | None,
    cropping: Cropping,
    transfer: dict[str, object],
) -> tuple[str, str]:
    r"""Writes the animated photo, and a video of driving video, photo and result beside each other."""
    frame_size = parts.studio.frame_size
    source = crop_photo(photo, cropping.crop, frame_size)
    video = open_video(driving, parts.settings.max_video_seconds)
    cropped = video_io.VideoReader(driving, frame_size, square=video_square(video, cropping.crop))
    rate = video.frames_per_second
    frames = parts.studio.lia.stream(
        source.frame, read_driving(job, cropped, len(video)), decode_chunk_size=4, output_type="pt", **transfer
    )
    beside_path = job.session.new_file("comparison", ".mp4")
    with video_io.VideoWriter(beside_path, rate) as beside:  # without the sound, which would be heard twice

        def animated() -> Iterator[torch.Tensor]:
            for driving_frame, frame in zip(cropped, frames):
                beside.write(torch.cat([driving_frame, source.frame, frame * 2 - 1], dim=-1))
                yield frame * 2 - 1

        shown = source.paste(animated()) if cropping.paste_back else animated()
        path = parts.render(job, shown, len(video), "animated", frames_per_second=rate, audio_from=driving)
        return path, str(beside_path)


def read_driving(job: Job, video: video_io.VideoReader, num_frames: int) -> Iterator[torch.Tensor]:
    r"""The frames of a driving video. They are all read before the first is rendered, where the pose is looked for."""
    for index, frame in enumerate(video, start=1):
        job.report("Reading the video", index, num_frames, "frames")
        yield frame
