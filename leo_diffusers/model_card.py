"""Model cards: what a published model is, how it is used, under which licence, and what it may not be used for."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData


ANIMATE_USAGE = """\
from PIL import Image
from leo_diffusers import LIAPipeline
from leo_diffusers.video_io import write_video

pipeline = LIAPipeline.from_pretrained("{name}")
output = pipeline(Image.open("photo.png"), "driving.mp4", motion_mode="relative")
write_video("animated.mp4", output.frames[0], frames_per_second=25, audio_from="driving.mp4")"""

GENERATE_USAGE = """\
from PIL import Image
from leo_diffusers import LEOPipeline
from leo_diffusers.video_io import write_video

pipeline = LEOPipeline.from_pretrained("{name}")
output = pipeline(Image.open("photo.png"))
write_video("video.mp4", output.frames[0], frames_per_second=25)"""

FROM_NOTHING_USAGE = """\
from leo_diffusers import LEOPipeline

pipeline = LEOPipeline.from_pretrained("{name}")
output = pipeline(num_frames=64)"""

EMBEDDED_USAGE = """\
from leo_diffusers import DEMO_MODEL, LEOPipeline

pipeline = LEOPipeline.from_pretrained(DEMO_MODEL)
output = pipeline(num_frames=64)"""

UNCONDITIONAL_USAGE = """\
from leo_diffusers import LEOPipeline, load_components

# With a first-frame model, which examples/train_first_frame.py trains.
pipeline = LEOPipeline.from_pretrained("{name}", **load_components("first-frame"))
output = pipeline(num_frames=64)"""

PRIOR_USAGE = """\
from leo_diffusers import LEOPipeline, load_components

# With a motion model and a first-frame model, of examples/train_lmdm.py and train_first_frame.py.
components = load_components("{name}") | load_components("first-frame")
pipeline = LEOPipeline.from_pretrained("leo", **components)
output = pipeline(num_frames=64)"""

FIRST_FRAME_USAGE = """\
from leo_diffusers import LEOPipeline, load_components

# With a motion model and a motion prior, of examples/train_lmdm.py and train_motion_prior.py.
components = load_components("{name}") | load_components("prior")
pipeline = LEOPipeline.from_pretrained("leo", **components)
output = pipeline(num_frames=64)"""

TRANSITION_USAGE = """\
from PIL import Image
from leo_diffusers import LEOInfinitePipeline, load_components

# With a motion model and a motion prior, of examples/train_lmdm.py and train_motion_prior.py.
components = load_components("{name}") | load_components("prior")
pipeline = LEOInfinitePipeline.from_pretrained("leo", **components)
for frame in pipeline.stream(Image.open("photo.png"), transition="diffusion"):
    ..."""

STREAM_USAGE = """\
from PIL import Image
from leo_diffusers import LEOInfinitePipeline

pipeline = LEOInfinitePipeline.from_pretrained("{name}")
for frame in pipeline.stream(Image.open("photo.png"), num_frames=1000):
    ..."""

MISUSE = """\
## What it may not be used for

Do not animate or generate the face or body of a real person without that person's consent, do not pass generated video
off as a recording, and do not use it to deceive, harass, defame or impersonate anyone. Say that a video was generated
wherever you show it."""

CREDITS = """\
## Credits

- LEO: Y. Wang, X. Ma, X. Chen, C. Chen, A. Dantcheva, B. Dai, Y. Qiao. *LEO: Generative Latent Image Animator for
  Human Video Synthesis*, IJCV 2024.
- LIA: Y. Wang, D. Yang, F. Bremond, A. Dantcheva. *Latent Image Animator: Learning to Animate Images via Latent Space
  Navigation*, ICLR 2022, and its journal version."""


def write_model_card(
    folder: str | Path, title: str, description: str, usage: str, license: str, tags: list[str]
) -> None:
    r"""
    Writes README.md, the model card, into a model's folder.

    Args:
        folder (`str` or `Path`): The folder that `save_pretrained` made.
        title (`str`): Heading.
        description (`str`): Markdown: what the model is, what it was trained on and how, what was measured.
        usage (`str`): Python code that uses it.
        license (`str`): Hub identifier of the weights' licence, for example "cc-by-nc-4.0".
        tags (`list[str]`): Hub tags beside the package's own.
    """
    data = ModelCardData(license=license, library_name="leo_diffusers", tags=["leo", "lia", "video", *tags])
    text = f"# {title}\n\n{description}\n\n## Use\n\n```python\n{usage}\n```\n\n{MISUSE}\n\n{CREDITS}\n"
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(Path(folder) / "README.md")
