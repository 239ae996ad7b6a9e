"""Edit: a video by its first frame."""

from collections.abc import Callable
from pathlib import Path

import gradio as gr
import PIL.Image
import torch
from gradio.components.image_editor import EditorData

from .. import video_io
from ..video_io.squares import Square
from .components import (
    AT_ONCE,
    HEIGHT,
    PageParts,
    generator_of,
    result_video,
    seed_field,
    start_and_stop,
    transfer_fields,
    transfer_options,
)
from .crops import Cropping, crop_field, crop_first_frame, paste_field, paste_into, shrink, video_square
from .inputs import open_video
from .sessions import Job


CANVAS = 512  # pixels: the side that a first frame is painted at
SHAPE_TOLERANCE = 0.02  # of a picture's sides: the canvas holds whole pixels
EDITOR_HEIGHT = HEIGHT + 56  # pixels: as high as a video and a button


def edit_tab(parts: PageParts) -> None:
    r"""Lays the tab out, and connects it."""
    samples, has_editor = parts.samples, parts.studio.edit.editor is not None
    gr.Markdown(
        "Edit the first frame of a video, and the rest follows. Press First frame, paint on it here, or download it "
        "and upload it again as another program left it."
        + (" Or leave it empty, and write what shall become of it." if has_editor else "")
    )
    with gr.Row():
        with gr.Column():
            video = parts.video("Video", value=samples and samples.videos[0], elem_id="edit-video")
            first = gr.Button("First frame", elem_id="edit-first")
        edited = gr.ImageEditor(
            label="Edit here",
            type="pil",
            image_mode="RGBA",  # or what is empty would be white
            height=EDITOR_HEIGHT,
            canvas_size=(CANVAS, CANVAS),
            fixed_canvas=True,
            layers=False,
            transforms=(),
            sources=["upload", "clipboard"],
            buttons=["download"],
            elem_id="edit-frame",
        )
        edited.preprocess = with_files(edited.preprocess)
        with gr.Column():
            result = result_video("Result", elem_id="edit-result")
            start, stop = start_and_stop("Edit", "edit")
    with gr.Row(visible=has_editor):
        prompt = gr.Textbox(label="Prompt", info="What the first frame shall become.", elem_id="edit-prompt")
        strength = gr.Slider(
            0, 1, value=0.7, step=0.05, label="Strength of the edit", visible=parts.studio.editor_takes_strength
        )
        seed = seed_field("edit-seed")
    with gr.Accordion("Settings", open=False, elem_id="edit-settings"), gr.Row():
        fields = transfer_fields("first", "frame").components()
        crop, paste = crop_field("edit"), paste_field("edit", "video")
    if samples is not None:
        pairs = [[clip, frame] for clip, frame in zip(samples.videos, samples.edited_frames)]
        gr.Examples(pairs, [video, edited], label="Examples", elem_id="edit-examples")

    def show_first(request: gr.Request, video: str | None, crop: str) -> str:
        with parts.sessions.job(request, "first frame") as job:
            seen = crop_first_frame(video, crop, parts.studio.frame_size, parts.settings.max_video_seconds)
            path = job.session.new_file("first-frame", ".png")
            video_io.to_pil(seen.frame).resize((CANVAS, CANVAS), PIL.Image.Resampling.BICUBIC).save(path)
            return str(path)

    first.click(show_first, [video, crop], edited, concurrency_limit=None, api_visibility="private")
    # What was painted on another frame, or another part of it, no longer fits.
    gr.on([video.upload, video.clear, crop.input], lambda: None, None, edited, **AT_ONCE)

    def edit(
        job: Job,
        video: str | None,
        edited: dict | None,
        prompt: str | None,
        strength: float,
        seed: int,
        crop: str,
        paste_back: bool,
        *transfer: object,
    ) -> str:
        # Gradio gives None for a field that nobody touched.
        wish, cropping = ((prompt or "").strip(), strength, seed), Cropping(crop, paste_back)
        frame = read_canvas(parts, job, edited)
        return edit_video(parts, job, video, frame, wish, cropping, transfer_options(*transfer))

    inputs = [video, edited, prompt, strength, seed, crop, paste, *fields]
    parts.connect("edit", start, stop, edit, inputs, [result])


def with_files(preprocess: Callable[[EditorData | None], dict | None]) -> Callable[[EditorData | None], dict | None]:
    r"""What an editor hands on, and beside it the "files" that it came in, to be removed with the session."""

    def preprocess_files(payload: EditorData | None) -> dict | None:
        value = preprocess(payload)
        if value is None:
            return None
        sent = [payload.background, *(payload.layers or []), payload.composite]
        return {**value, "files": [Path(file.path) for file in sent if file is not None]}

    return preprocess_files


def read_canvas(parts: PageParts, job: Job, edited: dict[str, object] | None) -> PIL.Image.Image | None:
    r"""What was painted or uploaded, RGBA, without the empty margins of the canvas; None where it is empty."""
    if edited is None:
        return None
    # Gradio makes the field anew where an example is chosen, and what it hands on then names no files.
    files = [file for file in edited.get("files", ()) if parts.samples is None or not parts.samples.holds(file)]
    job.session.uploads.update(files)
    picture = edited["composite"]
    box = None if picture is None else picture.getchannel("A").getbbox()
    return None if box is None else picture.crop(box)


def fit_canvas(picture: PIL.Image.Image, video: video_io.VideoReader, square: Square, frame_size: int) -> torch.Tensor:
    r"""
    An edited frame as the model takes it.

    Args:
        picture (`PIL.Image.Image`): The square that is used of the video's frames, or all of a frame, at any size.
        video ([`~video_io.VideoReader`]): The video.
        square ([`Square`]): Of its frames.
        frame_size (`int`): Side of what the model sees.

    Returns:
        `torch.Tensor` of shape `(3, S, S)`: In [-1, 1].

    Raises:
        ValueError: Where the picture has neither shape.
    """
    width, height = picture.size
    if abs(width - height) <= SHAPE_TOLERANCE * max(width, height):
        picture = picture.resize((frame_size, frame_size), PIL.Image.Resampling.LANCZOS)
        return video_io.to_frame(picture)
    if abs(width / height * video.height / video.width - 1) <= SHAPE_TOLERANCE:
        picture = picture.resize((video.width, video.height), PIL.Image.Resampling.LANCZOS)
        return video_io.to_frame(picture, frame_size, square)
    raise ValueError(
        "The edited frame is neither square nor of the video's shape: press First frame, and edit that one."
    )


def edit_video(
    parts: PageParts,
    job: Job,
    path: str | None,
    frame: PIL.Image.Image | None,
    wish: tuple[str, float, int],
    cropping: Cropping,
    transfer: dict[str, object],
) -> str:
    r"""Writes the edited video: by the painted frame, or by a wish of prompt, strength and seed."""
    video = open_video(path, parts.settings.max_video_seconds)
    square = video_square(video, cropping.crop)
    pipeline = parts.studio.edit
    if frame is not None and wish[0]:
        raise ValueError("There are an edited frame and a prompt: empty one of them.")
    if frame is not None:
        how = {"edited_frame": fit_canvas(frame, video, square, parts.studio.frame_size)}
    elif pipeline.editor is not None and wish[0]:
        prompt, strength, seed = wish
        arguments = {"strength": strength} if parts.studio.editor_takes_strength else {}
        how = {"prompt": prompt, "generator": generator_of(seed), "editor_arguments": arguments}
        job.report("Editing the first frame", 0, len(video), "frames")
    else:
        raise ValueError("There is no edited frame yet: press First frame and paint on it, or upload one.")
    cropped = video_io.VideoReader(path, square=square)
    stream = pipeline.stream(cropped, decode_chunk_size=4, output_type="pt", **how, **transfer)
    frames = (frame * 2 - 1 for frame in stream)
    if cropping.paste_back:
        pictures = map(shrink, video_io.VideoReader(path))
        frames = paste_into(pictures, (video.height, video.width), square, frames)
    writing = {"frames_per_second": video.frames_per_second, "audio_from": path}
    return parts.render(job, frames, len(video), "edited", **writing)
