"""Generate: a short video from a photo, or from nothing."""

import gradio as gr

from .components import (
    FRAMES_PER_SECOND,
    PageParts,
    generator_of,
    result_video,
    seed_field,
    start_and_stop,
)
from .crops import Cropping, crop_field, crop_photo, crop_view, paste_field, show_crop
from .sessions import Job


def generate_tab(parts: PageParts) -> None:
    r"""Lays the tab out, and connects it."""
    makes_people = parts.studio.makes_people
    gr.Markdown(
        "A photo begins to move by itself. Without a photo, the model draws a person whom nobody ever filmed."
        if makes_people
        else "A photo begins to move by itself."
    )
    max_seconds = parts.studio.max_frames / FRAMES_PER_SECOND
    with gr.Row():
        with gr.Column():
            photo = parts.photo("Photo (optional)" if makes_people else "Photo", elem_id="generate-photo")
            view = crop_view("generate-photo")
            parts.examples(parts.samples and parts.samples.photos, photo)
        with gr.Column():
            seed = seed_field("generate-seed")
            seconds = gr.Slider(
                2 / FRAMES_PER_SECOND,
                max_seconds,
                value=max_seconds,
                step=1 / FRAMES_PER_SECOND,
                label="Seconds",
                elem_id="generate-seconds",
            )
            steps = gr.Slider(
                1,
                100,
                value=50,
                step=1,
                label="Denoising steps",
                info="Fewer are faster, and coarser.",
                elem_id="generate-steps",
            )
            with gr.Accordion("Settings", open=False, elem_id="generate-settings"):
                crop, paste = crop_field("generate"), paste_field("generate", "photo")
        show_crop(parts, view, photo, crop, crop_photo)
        with gr.Column():
            result = result_video("Result", elem_id="generate-result")
            start, stop = start_and_stop("Generate", "generate")

    def generate(
        job: Job, photo: str | None, seed: int, seconds: float, steps: int, crop: str, paste_back: bool
    ) -> str:
        return generate_videos(parts, job, photo, [seed], seconds, steps, Cropping(crop, paste_back))[0]

    parts.connect("generate", start, stop, generate, [photo, seed, seconds, steps, crop, paste], [result])


def generate_videos(
    parts: PageParts,
    job: Job,
    photo: str | None,
    seeds: list[int],
    seconds: float,
    steps: int,
    cropping: Cropping,
) -> list[str]:
    r"""Writes one video for each seed, at once; the same that `leo-diffusers generate --seed --crop` writes."""
    needs_photo = photo is not None or not parts.studio.makes_people
    source = crop_photo(photo, cropping.crop, parts.studio.frame_size) if needs_photo else None
    num_frames = round(seconds * FRAMES_PER_SECOND)
    output = parts.studio.watched(job.report)(
        source and source.frame,
        num_frames=num_frames,
        num_inference_steps=steps,
        num_videos_per_prompt=len(seeds),
        generator=[generator_of(seed) for seed in seeds],
        decode_chunk_size=4,
        output_type="pt",
    )
    clips = [clip * 2 - 1 for clip in output.frames]
    if cropping.paste_back and source is not None:
        clips = [source.paste(clip) for clip in clips]
    return [parts.render(job, clip, num_frames, "generated", frames_per_second=FRAMES_PER_SECOND) for clip in clips]
