"""`leo-diffusers demo`: what a model does, as short videos, and a still and a moving picture of them all."""

import argparse
import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw
from tqdm import tqdm

from . import video_io
from .commands import load_pipeline, new_folder
from .data.talking_heads import (
    FIRST_HELD_OUT_SEED,
    FRAME_RATE,
    MOTION_NAMES,
    TalkingHeadClip,
    render_clip,
    render_frame,
    sample_identity,
)
from .pipelines.pipeline_leo import LEOPipeline
from .pipelines.pipeline_leo_edit import LEOEditPipeline
from .pipelines.pipeline_leo_infinite import LEOInfinitePipeline
from .pipelines.pipeline_lia import LIAPipeline


NUM_FRAMES = 64  # of a video; fewer where the motion model's sequences are shorter
LONG_FRAMES = 256  # of the endless video, and of a given driving video at most
NUM_PEOPLE = 8
NUM_COLUMNS = 10  # of the contact sheet
NUM_MOVING_COLUMNS = 6
MOVING_SIZE = 128  # pixels of a video in the moving sheet
TITLE_HEIGHT = 20  # pixels, of which the letters take most
FONT_SIZE = 13
FROM_NOTHING = ("motion_prior", "first_frame_unet", "first_frame_scheduler")
NEW_LOOKS = {"hair": (190, 60, 120), "cloth": (240, 200, 80), "glasses_color": (34, 30, 32)}

Frames = Iterable[np.ndarray | torch.Tensor]  # as `video_io.to_frame` takes them


@dataclass(frozen=True)
class DemoVideo:
    r"""
    A video to be made, and its row of the contact sheet.

    Args:
        name (`str`): Of its file, without suffix.
        title (`str`): What it shows.
        make (`Callable`): Makes its frames.
        driving_video ([`~video_io.VideoReader`], *optional*): What it takes frame rate and sound from.
        is_recording (`bool`): Whether it is a copy of a given video, which its file must not call synthetic.
    """

    name: str
    title: str
    make: Callable[[], Frames]
    driving_video: video_io.VideoReader | None = None
    is_recording: bool = False


class Demo:
    r"""
    The videos of one model, of drawn people whom nothing was trained on.

    Args:
        pipeline (`DiffusionPipeline`): The model: an `animator`, and what else there is.
        image (`torch.Tensor` of shape `(3, H, W)`, *optional*): A photo that moves instead of drawn people.
        driving_video (`str`, *optional*): A video that animates the picture too.
        seed (`int`): Of the people and of every random draw.

    Raises:
        ValueError: Where the model has no `animator`.
    """

    def __init__(self, pipeline: DiffusionPipeline, image: torch.Tensor | None, driving_video: str | None, seed: int):
        if getattr(pipeline, "animator", None) is None:
            raise ValueError(f"A {type(pipeline).__name__} has no animator: name a LEO or LIA model by --model.")
        self.seed = seed
        self.frame_size = pipeline.animator.config.frame_size
        self.num_frames = NUM_FRAMES
        self.lia, self.edit = LIAPipeline.from_pipe(pipeline), LEOEditPipeline.from_pipe(pipeline)
        self.leo = self.infinite = None
        motion_unet = getattr(pipeline, "motion_unet", None)
        if motion_unet is not None and motion_unet.config.condition == "start":
            self.num_frames = min(NUM_FRAMES, motion_unet.config.sequence_length)
            self.leo, self.infinite = LEOPipeline.from_pipe(pipeline), LEOInfinitePipeline.from_pipe(pipeline)
            self.leo.set_progress_bar_config(disable=True)  # that of the videos is enough

        # Seeds of any sign give seeds that are held out; as a number, -1 would give those of 1.
        seeds = random.Random(str(seed)).sample(range(FIRST_HELD_OUT_SEED, 2 * FIRST_HELD_OUT_SEED), NUM_PEOPLE)
        self.driving_clip, self.original_clip = (self.render(one, self.num_frames) for one in seeds[:2])
        people = [self.render(one, 1).frames[0] for one in seeds[2:]]
        # Relative motion from another pose than the driver's may lead beyond the poses that were ever seen, and what
        # a face turned away hides must be invented.
        motion = self.driving_clip.motion
        most_frontal = motion[np.abs(motion[:, MOTION_NAMES.index("yaw")]).argmin()]
        people[2] = render_frame(sample_identity(seeds[4]), most_frontal, self.frame_size)[0]
        self.pictures, self.others = people[:3], people[3:]
        if image is not None:
            self.pictures = [video_io.to_frame(image, self.frame_size)] * 3
        self.driving_video = None
        if driving_video is not None:
            self.driving_video = video_io.VideoReader(driving_video, self.frame_size, num_frames=LONG_FRAMES)

    def render(self, seed: int, num_frames: int) -> TalkingHeadClip:
        r"""A person with a motion of their own."""
        return render_clip(seed, seed, num_frames, self.frame_size)

    def generator(self, index: int) -> torch.Generator:
        r"""The noise of a video, which depends on none before it; as `leo-diffusers generate` numbers them."""
        return torch.Generator().manual_seed(self.seed + index)

    # ------------------------------------------------------------------------------------------------------- frames

    @cached_property
    def motion_codes(self) -> torch.Tensor:
        r"""Drawn motion (2, F, M) of the first two pictures."""
        generators = [self.generator(index) for index in range(2)]
        options = {"num_frames": self.num_frames, "generator": generators, "output_type": "latent"}
        return self.leo(self.pictures[:2], **options).motion_codes

    def unconditional(self, index: int) -> Frames:
        r"""Video from nothing."""
        return self.leo(num_frames=self.num_frames, generator=self.generator(index), output_type="np").frames[0]

    def generated(self, index: int) -> Frames:
        r"""A picture with its own drawn motion."""
        return self.leo(self.pictures[index], motion_codes=self.motion_codes[index], output_type="np").frames[0]

    def recombined(self, index: int) -> Frames:
        r"""Another person with the motion of the first generated video."""
        transfer = {"motion_codes": self.motion_codes[0], "motion_mode": "relative"}
        return self.leo(self.others[index], **transfer, output_type="np").frames[0]

    def animated(self, driving_video: Frames) -> Frames:
        r"""A picture with the motion of a video, from the frame on in which their poses are most alike."""
        return self.lia.stream(self.pictures[2], driving_video, reference_frame="auto", output_type="np")

    def edited(self) -> Frames:
        r"""The original clip by its first frame, on which the person is drawn with other looks."""
        identity = self.original_clip.identity
        edited = replace(identity, glasses="round" if identity.glasses == "none" else "none", **NEW_LOOKS)
        frame, _ = render_frame(edited, self.original_clip.motion[0], self.frame_size)
        return self.edit.stream(self.original_clip.frames, edited_frame=frame, output_type="np")

    def endless(self) -> Frames:
        r"""The first picture for longer than the motion model's sequences."""
        has_transitions = None not in (self.infinite.transition_unet, self.infinite.motion_prior)
        return self.infinite.stream(
            self.pictures[0],
            num_frames=LONG_FRAMES,
            transition="diffusion" if has_transitions else "none",
            generator=self.generator(0),
            output_type="np",
        )

    # --------------------------------------------------------------------------------------------------------- list

    def missing(self) -> list[str]:
        r"""What the model lacks to generate video from nothing."""
        if self.leo is None:
            return ["motion_unet that goes on from a picture"]
        return [name for name in FROM_NOTHING if getattr(self.leo, name) is None]

    def videos(self) -> Iterator[DemoVideo]:
        r"""What the model can do, in the order of the contact sheet."""
        if not self.missing():
            for i in range(2):
                make = partial(self.unconditional, i)
                yield DemoVideo(f"unconditional-{i + 1}", "person and motion from nothing", make)
        if self.leo is not None:
            for i in range(2):
                yield DemoVideo(f"generated-{i + 1}", "a picture, with drawn motion", partial(self.generated, i))
        drivers = [(self.driving_clip.frames, None)]
        if self.driving_video is not None:
            drivers.append((self.driving_video, self.driving_video))
        for i, (frames, given) in enumerate(drivers, start=1):
            is_recording = given is not None
            yield DemoVideo(f"driving-{i}", "a driving video", partial(iter, frames), given, is_recording)
            title = f"a picture that moves like driving-{i}"
            yield DemoVideo(f"animated-{i}", title, partial(self.animated, frames), given)
        yield DemoVideo("original", "a video to be edited", partial(iter, self.original_clip.frames))
        yield DemoVideo("edited", "original, by a first frame with other hair, clothes and glasses", self.edited)
        if self.leo is not None:
            for i in range(len(self.others)):
                make = partial(self.recombined, i)
                yield DemoVideo(f"recombined-{i + 1}", "the motion of generated-1, on others", make)
            yield DemoVideo("endless", "the picture of generated-1, for as long as one likes", self.endless)


@dataclass
class Preview:
    r"""
    What the sheets show of a video.

    Args:
        stills (`list[PIL.Image.Image]`): `NUM_COLUMNS` frames, spread over all of it.
        moving (`list[PIL.Image.Image]`): Its first `NUM_FRAMES` frames, small.
    """

    stills: list[Image.Image]
    moving: list[Image.Image]


def write_video(folder: Path, video: DemoVideo) -> Preview:
    r"""Writes a video while it is made, and returns what the sheets show of it."""
    given = video.driving_video
    options = {"frames_per_second": FRAME_RATE, "comment": None if video.is_recording else video_io.SYNTHETIC}
    if given is not None:
        options |= {"frames_per_second": given.frames_per_second, "audio_from": given.path}
    pictures = []
    with video_io.VideoWriter(folder / f"{video.name}.mp4", **options) as writer:
        for frame in map(video_io.to_frame, video.make()):
            writer.write(frame)
            pictures.append(video_io.to_pil(frame))
    stills = [pictures[round(index)] for index in np.linspace(0, len(pictures) - 1, NUM_COLUMNS)]
    return Preview(stills, [picture.resize((MOVING_SIZE, MOVING_SIZE)) for picture in pictures[:NUM_FRAMES]])


def draw_contact_sheet(rows: dict[str, list[Image.Image]]) -> Image.Image:
    r"""Rows of pictures, each below its title."""
    size = next(iter(rows.values()))[0].width
    sheet = Image.new("RGB", (NUM_COLUMNS * size, len(rows) * (TITLE_HEIGHT + size)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (title, pictures) in enumerate(rows.items()):
        top = index * (TITLE_HEIGHT + size)
        draw.text((4, top + 2), title, fill="black", font_size=FONT_SIZE)
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (column * size, top + TITLE_HEIGHT))
    return sheet


def draw_moving_sheet(cells: dict[str, list[Image.Image]]) -> list[Image.Image]:
    r"""The frames of one picture in which all videos, each below its name, play; the shorter ones stop."""
    num_rows = -(-len(cells) // NUM_MOVING_COLUMNS)
    height = TITLE_HEIGHT + MOVING_SIZE
    sheet = Image.new("RGB", (NUM_MOVING_COLUMNS * MOVING_SIZE, num_rows * height), "white")
    corners = {
        name: (i % NUM_MOVING_COLUMNS * MOVING_SIZE, i // NUM_MOVING_COLUMNS * height) for i, name in enumerate(cells)
    }
    for name, (left, top) in corners.items():
        ImageDraw.Draw(sheet).text((left + 4, top + 2), name, fill="black", font_size=FONT_SIZE)
    frames = []
    for index in range(max(map(len, cells.values()))):
        for name, (left, top) in corners.items():
            sheet.paste(cells[name][min(index, len(cells[name]) - 1)], (left, top + TITLE_HEIGHT))
        frames.append(sheet.copy())
    return frames


def run_demo(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers demo`: a folder of videos, and a contact sheet."""
    image = None if arguments.image is None else video_io.read_image(arguments.image)
    if arguments.driving_video is not None:
        video_io.VideoReader(arguments.driving_video)  # refused before any model is loaded
    with new_folder(arguments.output) as folder:
        pipeline = load_pipeline(DiffusionPipeline, arguments)
        demo = Demo(pipeline, image, arguments.driving_video, arguments.seed)
        if demo.missing():
            kinds = "unconditional, generated, recombined and endless" if demo.leo is None else "unconditional"
            message = f"The model has no {', '.join(demo.missing())}: the {kinds} videos are left out."
            warnings.warn(message, UserWarning, stacklevel=2)
        folder.mkdir()
        videos = tqdm(list(demo.videos()), unit="video")
        previews = {video: write_video(folder, video) for video in videos}
        rows = {f"{video.name}.mp4: {video.title}": preview.stills for video, preview in previews.items()}
        draw_contact_sheet(rows).save(folder / "contact_sheet.png")
        first, *others = draw_moving_sheet({video.name: preview.moving for video, preview in previews.items()})
        options = {"save_all": True, "append_images": others, "duration": round(1000 / FRAME_RATE), "loop": 0}
        first.save(folder / "moving_sheet.webp", quality=70, **options)
    print(f"Wrote {len(rows)} videos to {arguments.output}: look at contact_sheet.png and moving_sheet.webp.")
