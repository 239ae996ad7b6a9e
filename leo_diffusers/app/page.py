"""The page: its heading, its tabs, how it looks and how it is served."""

from pathlib import Path

import gradio as gr

from .animate_tab import animate_tab
from .components import PageParts
from .edit_tab import edit_tab
from .endless_tab import endless_tab
from .explore_tab import explore_tab
from .generate_tab import generate_tab
from .samples import render_samples
from .sessions import Sessions
from .settings import AppSettings
from .studio import Studio


HEADING = """\
# LEO: human video from one image
One frame gives appearance, a few numbers per frame give motion: the networks of
LEO (*Generative Latent Image Animator for Human Video Synthesis*) and LIA, in `leo_diffusers`."""

DEMO_NOTE = """
The model on this page is the one embedded in the package. **It knows drawn people only**, such as those of the
examples: real photos need another one, which `leo-diffusers app --model` takes."""

RESPONSIBLE_USE = """\
**Do not animate or generate the face or body of a real person without that person's consent**, do not pass generated
video off as a recording, and do not use it to deceive, harass, defame or impersonate anyone. Say that a video was
generated wherever you show it."""

CLEANING = (600, 6 * 3600)  # seconds: how often Gradio looks for old files, and how old; sessions clean up themselves

# Of the visitor's own system: nothing is loaded from elsewhere.
SANS = [gr.themes.Font(name) for name in ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Ubuntu", "sans-serif")]
MONO = [gr.themes.Font(name) for name in ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")]

THEME = gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", font=SANS, font_mono=MONO).set(
    block_border_width="1px",
    block_title_background_fill="none",
    block_title_background_fill_dark="none",
    block_title_padding="0",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
)
CSS = """
.gradio-container { max-width: 1280px !important; margin: 0 auto; }
#heading h1 { margin-bottom: 0.2em; }
footer .divider { display: none; }
/* Small frames fill their fields. */
.image-frame img { width: 100%; height: 100%; object-fit: contain; }
/* Or the buttons below a video would be cut off. */
.video-container:has(> .source-selection) > .wrap { height: calc(100% - 40px); }
/* The preview stays in sight of all sliders. */
@media (max-width: 700px) {
  .row:has(> #explore-preview-column) { display: contents; }
  #explore-preview-column { position: sticky; top: 0; z-index: 100; background: var(--body-background-fill); }
  #explore-preview { height: 200px !important; }
}
"""

# Gradio confines what is in CSS to what the container holds. Nothing sticks in one that hides what overflows.
HEAD = "<style>@media (max-width: 700px) { .gradio-container { overflow: clip !important; } }</style>"


def build_page(studio: Studio, settings: AppSettings, folder: Path) -> gr.Blocks:
    r"""
    Lays the page out.

    Args:
        studio ([`Studio`]): The model.
        settings ([`AppSettings`]): The limits.
        folder (`Path`): For all of its files.

    Returns:
        `gradio.Blocks`: To be launched with [`serving_options`].
    """
    samples = render_samples(folder / "samples", studio.frame_size) if studio.is_demo_model else None
    parts = PageParts(studio, settings, Sessions(folder), samples)
    with gr.Blocks(title="LEO: human video from one image", analytics_enabled=False, delete_cache=CLEANING) as page:
        gr.Markdown(HEADING + (DEMO_NOTE if studio.is_demo_model else ""), elem_id="heading")
        with gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab("Animate", id="animate"):
                animate_tab(parts)
            if studio.leo is not None:
                with gr.Tab("Generate", id="generate"):
                    generate_tab(parts)
                with gr.Tab("Endless", id="endless"):
                    endless_tab(parts)
            with gr.Tab("Edit", id="edit"):
                edit_tab(parts)
            with gr.Tab("Explore", id="explore") as explore:
                explore_tab(parts, explore)
        gr.Markdown(RESPONSIBLE_USE, elem_id="responsible-use")
        page.unload(parts.sessions.close)
    page.queue(default_concurrency_limit=1, max_size=32, api_open=False)
    return page


def serving_options(settings: AppSettings) -> dict[str, object]:
    r"""How a page is served: `page.launch(**serving_options(settings))`."""
    return {
        "server_name": settings.host,
        "server_port": settings.port,
        "max_file_size": f"{settings.max_upload_megabytes}mb",
        "theme": THEME,
        "css": CSS,
        "head": HEAD,
        "footer_links": ["settings"],
        "run_history": False,
        "ssr_mode": False,
        "share": False,
        "quiet": True,
    }
