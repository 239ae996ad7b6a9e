"""Model cards: what a published model is, how it is used, under which licence, and what it may not be used for."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData


ANIMATE_USAGE = """\
from PIL import Image
from leo_diffusers import LIAPipeline
from leo_diffusers.video_io import VideoReader, write_video

pipeline = LIAPipeline.from_pretrained("{name}")
output = pipeline(Image.open("photo.png"), "driving.mp4", motion_mode="relative")
rate = VideoReader("driving.mp4").frames_per_second
write_video("animated.mp4", output.frames[0], rate, audio_from="driving.mp4")"""

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

STREAM_FROM_NOTHING_USAGE = """\
from leo_diffusers import LEOInfinitePipeline

pipeline = LEOInfinitePipeline.from_pretrained("{name}")
for frame in pipeline.stream(num_frames=1000):  # or stream(Image.open("photo.png"))
    ..."""

EDIT_USAGE = """\
from PIL import Image
from leo_diffusers import LEOEditPipeline
from leo_diffusers.video_io import VideoReader, write_video

pipeline = LEOEditPipeline.from_pretrained("{name}")
output = pipeline("video.mp4", edited_frame=Image.open("edited.png"))
rate = VideoReader("video.mp4").frames_per_second
write_video("edited.mp4", output.frames[0], rate, audio_from="video.mp4")"""

REMOTE_CODE_USAGE = """\
from diffusers import DiffusionPipeline

# The folder carries its code: leo_diffusers need not be installed. Read that code before you trust it.
pipeline = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)
output = {call}"""

HUB_TASK = "image-to-video"  # the one that the Hub has a page for

LICENSE = re.compile(r"[a-z0-9]+([.+-]+[a-z0-9]+)*[+]*")

OTHER_LICENSE = """\
The weights inherit the terms of the data that they were trained on; no other licence was named."""

NAMED_LICENSE = """\
The weights are licensed `{license}`, as far as the terms of the data that they were trained on allow."""

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


def check_license(license: str) -> None:
    r"""
    Refuses what the Hub would refuse as the identifier of a licence.

    Raises:
        ValueError: Names the value, and identifiers that there are.
    """
    if not isinstance(license, str) or not LICENSE.fullmatch(license):
        raise ValueError(
            f"The licence of the weights must be an identifier of the Hub, such as apache-2.0, cc-by-nc-4.0 or other, "
            f"got {license!r}."
        )


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

    Raises:
        ValueError: Where `license` is no identifier.
    """
    check_license(license)
    data = ModelCardData(
        license=license,
        library_name="leo_diffusers",
        pipeline_tag=HUB_TASK if HUB_TASK in tags else None,
        tags=["leo", "lia", "video", *tags],
    )
    terms = OTHER_LICENSE if license == "other" else NAMED_LICENSE.format(license=license)
    text = (
        f"# {title}\n\n{description}\n\n## Use\n\n```python\n{usage}\n```\n\n"
        f"## Licence of the weights\n\n{terms}\n\n{MISUSE}\n\n{CREDITS}\n"
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(Path(folder) / "README.md")


def replace_usage(folder: str | Path, usage: str) -> None:
    r"""
    Lets a folder's model card say how the model is used here; the rest of the card stays.

    Args:
        folder (`str` or `Path`): With a model card.
        usage (`str`): Python code.
    """
    path = Path(folder) / "README.md"
    text, section = path.read_text(encoding="utf-8"), f"## Use\n\n```python\n{usage}\n```\n"
    found = re.search(r"^## Use\n\n```python\n.*?^```\n", text, re.MULTILINE | re.DOTALL)
    text = f"{text}\n{section}" if found is None else text[: found.start()] + section + text[found.end() :]
    path.write_text(text, encoding="utf-8")


def pictures_of(card: str) -> list[str]:
    r"""The files beside a model card that its text shows."""
    names = re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", card) + re.findall(
        r"<(?:img|video|source)[^>]* src=\"([^\"]+)\"", card
    )
    return [name for name in dict.fromkeys(names) if ":" not in name and not {"/", ".."} & set(Path(name).parts)]


def take_over_training(models: Iterable[str | Path], folder: str | Path) -> str | None:
    r"""
    What the cards of networks say of their training, for the card of a model that is put together of them.

    Args:
        models (iterable of `str` or `Path`): Folders with a model card; others are left out.
        folder (`str` or `Path`): Where the new card will be; the pictures that are shown are copied there.

    Returns:
        `str` or None: Markdown, a section of each; None where there is no card.
    """
    sections = []
    for card in (Path(model) / "README.md" for model in models):
        if not card.is_file():
            continue
        name, text = card.parent.resolve().name, card.read_text(encoding="utf-8").split("---\n", 2)[-1]
        text = re.sub(r"\A\s*# .*\n", "", text).split("\n## Use\n")[0].strip()
        for picture in pictures_of(text):
            if (card.parent / picture).is_file():
                copy = f"{name}-{Path(picture).name}"
                shutil.copyfile(card.parent / picture, Path(folder) / copy)
                text = text.replace(f"]({picture})", f"]({copy})")
        sections.append(f"## {name}\n\n" + re.sub(r"^(##+) ", r"#\1 ", text, flags=re.MULTILINE))
    return "\n\n".join(sections) or None
