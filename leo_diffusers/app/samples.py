"""Sample photos and videos of drawn people, whom the embedded model knows, rendered when the page is built."""

import filecmp
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .. import video_io
from ..data.talking_heads import (
    FIRST_HELD_OUT_SEED,
    FRAME_RATE,
    MOTION_NAMES,
    TalkingHeadIdentity,
    render_clip,
    render_frame,
    sample_identity,
    sample_motion,
)


PERSON_SEEDS = (3, 1, 9, 26)  # added to FIRST_HELD_OUT_SEED
DRIVER_SEEDS = (20, 41)  # they turn and nod, but hide no half of the face
NUM_FRAMES = 75
NEW_LOOKS = {"hair": (190, 60, 120), "cloth": (240, 200, 80), "glasses": "round"}


@dataclass
class Samples:
    r"""
    Files to try the page with.

    Args:
        photos (`list[str]`): People who look at the camera.
        videos (`list[str]`): Others, who move.
        edited_frames (`list[str]`): The first frame of each of these, with other hair, clothes and glasses.
    """

    photos: list[str]
    videos: list[str]
    edited_frames: list[str]

    def holds(self, path: str | Path) -> bool:
        r"""Whether a file is one of them, or what Gradio copied of one: it is everybody's, and stays."""
        paths = [*self.photos, *self.videos, *self.edited_frames]
        return any(Path(path).name == Path(one).name and filecmp.cmp(path, one, shallow=False) for one in paths)


def most_frontal(motion: np.ndarray) -> int:
    r"""Index of the frame of a motion (F, P) in which the head is turned least."""
    return int(np.abs(motion[:, MOTION_NAMES.index("yaw")]).argmin())


def render_samples(folder: Path, frame_size: int) -> Samples:
    r"""
    Args:
        folder (`Path`): Where they are written; made.
        frame_size (`int`): Side of the frames.

    Returns:
        [`Samples`]: People and motions that no training saw.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = Samples([], [], [])

    def add_picture(paths: list[str], name: str, identity: TalkingHeadIdentity, pose: np.ndarray) -> None:
        paths.append(str(folder / name))
        video_io.write_image(paths[-1], video_io.to_frame(render_frame(identity, pose, frame_size)[0]))

    for index, seed in enumerate(PERSON_SEEDS, start=1):
        motion = sample_motion(FIRST_HELD_OUT_SEED + seed, NUM_FRAMES)
        identity = sample_identity(FIRST_HELD_OUT_SEED + seed)
        add_picture(samples.photos, f"person-{index}.png", identity, motion[most_frontal(motion)])
    for index, seed in enumerate(DRIVER_SEEDS, start=1):
        clip = render_clip(FIRST_HELD_OUT_SEED + seed, FIRST_HELD_OUT_SEED + seed, NUM_FRAMES, frame_size)
        samples.videos.append(str(folder / f"motion-{index}.mp4"))
        video_io.write_video(samples.videos[-1], clip.frames, FRAME_RATE)
        edited = replace(clip.identity, **NEW_LOOKS)
        add_picture(samples.edited_frames, f"edited-{index}.png", edited, clip.motion[0])
    return samples
