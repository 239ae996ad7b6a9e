"""Endless: a video that plays while it goes on."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import torch

from .. import video_io
from .components import (
    AT_ONCE,
    FRAMES_PER_SECOND,
    HEIGHT,
    PROGRESS,
    PageParts,
    generator_of,
    result_video,
    seed_field,
    start_and_stop,
)
from .crops import Cropping, crop_field, crop_photo, crop_view, paste_field, show_crop
from .live_video import encode_piece, live_video
from .sessions import Job


FIRST_PIECES = (1, 8)  # frames: something to see at once, while the motion is being drawn
PIECE = 25  # frames, of all others
STOP_SECONDS = 20  # the longest that a stopped video is waited for


def endless_tab(parts: PageParts) -> None:
    r"""Lays the tab out, and connects it."""
    makes_people, has_transitions = parts.studio.makes_people, parts.studio.has_transitions
    gr.Markdown(
        "A video that begins to play at once and goes on for as long as you like. What was made until Stop is pressed "
        "can be downloaded."
    )
    max_seconds = parts.settings.max_endless_seconds
    with gr.Row():
        with gr.Column():
            photo = parts.photo("Photo (optional)" if makes_people else "Photo", elem_id="endless-photo")
            view = crop_view("endless-photo")
            parts.examples(parts.samples and parts.samples.photos, photo)
        with gr.Column():
            seed = seed_field("endless-seed")
            seconds = gr.Slider(
                1, max_seconds, value=min(20, max_seconds), step=1, label="Seconds at most", elem_id="endless-seconds"
            )
            transition = gr.Radio(
                [("Go on from the last pose", "none")] + [("Lead to fresh poses", "diffusion")] * has_transitions,
                value="diffusion" if has_transitions else "none",
                label="Motion",
            )
            with gr.Accordion("Settings", open=False, elem_id="endless-settings"):
                crop, paste = crop_field("endless"), paste_field("endless", "photo")
            show_crop(parts, view, photo, crop, crop_photo)
        with gr.Column():
            live = live_video("Live", HEIGHT, elem_id="endless-live")
            finished = result_video("Finished video", visible=False, elem_id="endless-finished")
            status = gr.Markdown(elem_id="endless-status", min_height=64)  # a line, or the place in the queue
            start, stop = start_and_stop("Start", "endless")
    outputs = [live, finished, status]

    def run(
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
        *values: object,
    ) -> Iterator[list[object]]:
        with parts.sessions.job(request, "endless", progress) as job:
            *drawing, crop, paste_back = values
            yield from go_on(parts, job, *drawing, Cropping(crop, paste_back))

    def end(request: gr.Request) -> list[object]:
        jobs = parts.sessions.of(request).stop("endless")
        for job in jobs:
            job.finished.wait(STOP_SECONDS)
        results = [job.result for job in jobs if job.result is not None]
        return show_finished(results[0], "Stopped.") if results else [gr.skip(), gr.skip(), "Stopped."]

    running = start.click(
        run,
        [photo, seed, seconds, transition, crop, paste],
        outputs,
        show_progress_on=status,
        api_visibility="private",
    )
    stop.click(end, None, outputs, cancels=[running], **AT_ONCE)


def show_finished(path: Path, message: str) -> list[object]:
    r"""The outputs where it was stopped: the whole video in the live one's place."""
    return [gr.Video(visible=False), gr.Video(str(path), visible=True, autoplay=True), message]


def go_on(
    parts: PageParts,
    job: Job,
    photo: str | None,
    seed: int,
    seconds: float,
    transition: str,
    cropping: Cropping,
) -> Iterator[list[object]]:
    r"""Yields the outputs of the tab: piece after piece, then the finished video, even where it is stopped."""
    needs_photo = photo is not None or not parts.studio.makes_people
    source = crop_photo(photo, cropping.crop, parts.studio.frame_size) if needs_photo else None
    num_frames = round(seconds * FRAMES_PER_SECOND)
    yield [gr.Video(None, visible=True), gr.Video(visible=False), "Drawing the first frame ..."]
    frames = parts.studio.infinite.stream(
        source and source.frame,
        num_frames=num_frames,
        transition=transition,
        generator=generator_of(seed),
        decode_chunk_size=FIRST_PIECES[-1],
        output_type="pt",
    )
    shown = (frame * 2 - 1 for frame in frames)
    if cropping.paste_back and source is not None:
        shown = source.paste(shown)
    path = job.session.new_file("endless", ".mp4")
    done = 0
    with video_io.VideoWriter(path, FRAMES_PER_SECOND) as writer, contextlib.closing(frames):
        for pictures in in_pieces(shown):
            piece = encode_piece(pictures, FRAMES_PER_SECOND, done / FRAMES_PER_SECOND)
            writer.write(torch.stack(pictures))
            done += len(pictures)
            if job.is_stopped:
                break
            yield [piece, gr.skip(), f"{done / FRAMES_PER_SECOND:.1f} of {seconds:g} seconds are made."]
    job.result = path
    message = f"Finished: {done / FRAMES_PER_SECOND:.1f} seconds."
    if job.is_stopped:
        yield show_finished(path, message)
    else:  # what was made faster than it plays goes on playing
        yield [gr.skip(), gr.Video(str(path), visible=True, autoplay=False), message]


def in_pieces(frames: Iterator[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    r"""Groups frames: few at first, then more."""
    for size in itertools.chain(FIRST_PIECES, itertools.repeat(PIECE)):
        pictures = list(itertools.islice(frames, size))
        if not pictures:
            return
        yield pictures
