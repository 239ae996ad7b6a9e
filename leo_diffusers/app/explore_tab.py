"""Explore: single motion directions by hand, and one photo with two seeds."""

import gradio as gr

from .. import video_io
from ..models.lia import LIASource
from .components import FRAMES_PER_SECOND, HEIGHT, PageParts, result_video, start_and_stop
from .crops import Cropping, crop_field, crop_photo
from .generate_tab import generate_videos
from .sessions import Job, Session


def explore_tab(parts: PageParts, tab: gr.Tab) -> None:
    r"""Lays the tab out, and connects it."""
    reaches = parts.studio.direction_reaches()
    gr.Markdown(
        "Every motion is a sum of a few directions that the model has found by itself. Move one and see what it does. "
        "The numbers are those of `leo-diffusers manipulate --direction`."
    )
    with gr.Row():
        with gr.Column():
            photo = parts.photo("Photo", value=parts.samples and parts.samples.photos[0], elem_id="explore-photo")
            parts.examples(parts.samples and parts.samples.photos, photo)
            with gr.Accordion("Settings", open=False):
                crop = crop_field("explore")
        with gr.Column(elem_id="explore-preview-column"):
            preview = gr.Image(
                label="Preview",
                height=HEIGHT,
                interactive=False,
                format="png",
                buttons=["download"],
                elem_id="explore-preview",
            )
            reset = gr.Button("Reset", elem_id="explore-reset")
        with gr.Column():
            walk = result_video("Walk there and back", elem_id="explore-walk")
            start, stop = start_and_stop("Render the walk", "explore")
            seconds = gr.Slider(0.4, 10, value=2, step=0.2, label="Seconds of the walk", elem_id="explore-seconds")
    with gr.Row(elem_id="explore-directions"):
        sliders = [direction_slider(index, reach) for index, reach in enumerate(reaches)]
    if parts.studio.leo is not None:
        with gr.Accordion("One photo, two seeds", open=False, elem_id="explore-seeds"):
            two_seeds(parts, photo, crop)

    def show(request: gr.Request, path: str | None, crop: str, *amounts: float) -> str | None:
        if path is None:
            return None
        with parts.sessions.job(request, "preview") as job:
            frame = parts.studio.preview(encoded(parts, job.session, path, crop), list(amounts))
            file = job.session.new_file("preview", ".png")
            video_io.write_image(file, frame)
            return str(file)

    def render_walk(job: Job, path: str | None, crop: str, seconds: float, *amounts: float) -> str:
        num_frames = 2 * round(seconds * FRAMES_PER_SECOND / 2)
        frames = parts.studio.walk(encoded(parts, job.session, path, crop), list(amounts), num_frames)
        return parts.render(job, frames, num_frames, "walk", frames_per_second=FRAMES_PER_SECOND)

    quick = {
        "concurrency_id": "preview",
        "concurrency_limit": 2,
        "trigger_mode": "always_last",
        "show_progress": "hidden",
    }
    triggers = [slider.input for slider in sliders] + [photo.change, crop.change, tab.select]
    gr.on(triggers, show, [photo, crop, *sliders], preview, api_visibility="private", **quick)
    reset.click(
        lambda: [0] * len(sliders), None, sliders, queue=False, show_progress="hidden", api_visibility="private"
    ).then(show, [photo, crop, *sliders], preview, api_visibility="private", **quick)
    parts.connect("explore", start, stop, render_walk, [photo, crop, seconds, *sliders], [walk])


def direction_slider(index: int, reach: float) -> gr.Slider:
    r"""The slider of one motion direction."""
    return gr.Slider(
        -round(reach, 2),
        round(reach, 2),
        value=0,
        step=0.01,
        label=f"Direction {index}",
        min_width=210,
        buttons=[],
        elem_id=f"direction-{index}",
    )


def encoded(parts: PageParts, session: Session, path: str | None, crop: str) -> LIASource:
    r"""The photo of a session, which is encoded when it is new, or cropped anew."""
    found = session.encoded  # which another event of the session may replace
    if found is None or found[0] != (path, crop):
        photo = crop_photo(path, crop, parts.studio.frame_size)
        session.encoded = found = ((path, crop), parts.studio.encode(photo.frame))
    return found[1]


def two_seeds(parts: PageParts, photo: gr.Image, crop: gr.Radio) -> None:
    r"""Two videos of the photo above beside each other."""
    gr.Markdown("The photo above, moved twice: each seed draws a motion of its own.")
    with gr.Row():
        seeds = [
            gr.Number(label=f"Seed {name}", value=value, precision=0, minimum=0) for value, name in enumerate("AB")
        ]
        max_seconds = parts.studio.max_frames / FRAMES_PER_SECOND
        seconds = gr.Slider(
            0.2, max_seconds, value=2, step=1 / FRAMES_PER_SECOND, label="Seconds", elem_id="seeds-seconds"
        )
        steps = gr.Slider(1, 100, value=50, step=1, label="Denoising steps", elem_id="seeds-steps")
    start, stop = start_and_stop("Compare", "seeds")
    with gr.Row():
        results = [result_video(f"Seed {name}", elem_id=f"seeds-result-{name}") for name in "AB"]

    def compare(
        job: Job, path: str | None, crop: str, first: int, second: int, seconds: float, steps: int
    ) -> list[str]:
        return generate_videos(parts, job, path, [first, second], seconds, steps, Cropping(crop))

    parts.connect("two seeds", start, stop, compare, [photo, crop, *seeds, seconds, steps], results)
