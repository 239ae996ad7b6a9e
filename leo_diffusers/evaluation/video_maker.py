"""The videos that an evaluation is of: how many frames, from what, by which pipeline; and the model in its results."""

from dataclasses import dataclass

import numpy as np
import torch

from ..data.motion_codes import hash_tensors
from ..pipelines.motion_pipeline import MotionPipeline
from ..pipelines.pipeline_leo import LEOPipeline
from ..pipelines.pipeline_leo_infinite import LEOInfinitePipeline


@dataclass(frozen=True)
class GenerationSettings:
    r"""
    Which videos are made, and which of their frames are compared.

    Args:
        num_frames (`int`): Frames that are compared of each video.
        frame_stride (`int`): Frames of a real video from one of them to the next.
        fake_stride (`int`): The same of a generated one, of which so many times `num_frames` are made: LEO's 64 frames
            at stride 4 are 16.
        conditional (`bool`): Whether videos begin with frames of the real clips; else they are made from nothing.
        num_inference_steps (`int`): Denoising steps, of each network that draws.
        transition (`str`): "none" or "diffusion", of videos that are longer than what `motion_unet` draws at once.

    Raises:
        ValueError: Where a number is too small.
    """

    num_frames: int
    frame_stride: int
    fake_stride: int
    conditional: bool
    num_inference_steps: int
    transition: str = "none"

    def __post_init__(self) -> None:
        for name, least in {"num_frames": 2, "frame_stride": 1, "fake_stride": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")

    @property
    def num_generated(self) -> int:
        r"""Frames that are made of each video."""
        return self.num_frames * self.fake_stride


class VideoMaker:
    r"""
    Makes the videos of [`GenerationSettings`]: with [`LEOPipeline`] what its `motion_unet` draws at once, with
    [`LEOInfinitePipeline`] what is longer.

    Args:
        pipeline ([`MotionPipeline`]): The model.
        settings ([`GenerationSettings`]): What is made.
        start_codes (`torch.Tensor` of shape `(N, M)`, *optional*): Poses that videos from nothing begin in, one drawn
            for each, in place of those of the model's motion prior.

    Raises:
        ValueError: Where the model lacks what it takes, or a setting cannot be carried out.
    """

    def __init__(
        self, pipeline: MotionPipeline, settings: GenerationSettings, start_codes: torch.Tensor | None = None
    ):
        sequence_length = pipeline.motion_unet.config.sequence_length
        is_long = settings.num_generated > sequence_length
        if settings.transition != "none" and not is_long:
            raise ValueError(
                f"`transition` is for videos of more than the {sequence_length} frames that `motion_unet` draws at "
                f'once, got {settings.transition!r} for {settings.num_generated}: take "none".'
            )
        self.settings, self.start_codes = settings, start_codes
        self.pipeline = (LEOInfinitePipeline if is_long else LEOPipeline).from_pipe(pipeline)
        self.renderer = LEOPipeline.from_pipe(pipeline)
        self.pipeline.set_progress_bar_config(disable=True)
        self.options = {
            "num_frames": settings.num_generated,
            "num_inference_steps": settings.num_inference_steps,
            **({"transition": settings.transition} if is_long else {}),
        }
        self.check(is_long)

    @property
    def frame_size(self) -> int:
        r"""Side of the videos' frames, pixels."""
        return self.pipeline.animator.config.frame_size

    def check(self, is_long: bool) -> None:
        r"""Refuses what the pipeline would refuse, before anything is made."""
        if is_long:
            # The stream's own checks come before its first frame, which is none that anything is made of.
            blank, code = torch.zeros(3, self.frame_size, self.frame_size), self.pipeline.motion_unet.statistics.mean
            self.pipeline.stream(blank, start_motion_code=code, **self.options).close()
        else:
            self.pipeline.check_inputs(
                **self.options, num_videos_per_prompt=1, decode_chunk_size=None, output_type="pt"
            )
            self.pipeline.check_motion(self.settings.conditional, False, self.start_codes is not None, "absolute")
        if self.start_codes is not None:
            if self.settings.conditional:
                raise ValueError("`start_codes` are for videos from nothing: `conditional` ones begin with frames.")
            self.pipeline.prepare_start_codes(self.start_codes, len(self.start_codes))
        if not self.settings.conditional:
            needs_prior = self.pipeline.motion_unet.config.condition == "start" and self.start_codes is None
            self.pipeline.check_first_frame(None, None, None, needs_prior)

    def __call__(self, image: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
        r"""
        Args:
            image (`torch.Tensor` of shape `(3, H, W)`, *optional*): First frame, in [-1, 1].
            generator (`torch.Generator`): Of all that is drawn.

        Returns:
            `torch.Tensor` of shape `(F, 3, H, W)`: The frames that are compared, in [-1, 1].

        Raises:
            ValueError: Where the model has diverged.
        """
        stride, options = self.settings.fake_stride, self.options
        if self.start_codes is not None:
            index = torch.randint(len(self.start_codes), (), generator=generator)
            options = options | {"start_motion_code": self.start_codes[index]}
        if image is None or stride == 1:
            frames = self.pipeline(image, generator=generator, output_type="pt", **options).frames[0, ::stride]
        else:  # no frame is rendered that is not compared
            codes = self.pipeline(image, generator=generator, output_type="latent", **options).motion_codes
            check_finite(codes)
            frames = self.renderer(image, motion_codes=codes[:, ::stride], output_type="pt").frames[0]
        check_finite(frames)  # 8 bits would hide it
        return frames * 2 - 1


def check_finite(values: torch.Tensor) -> None:
    r"""Refuses what a diverged model makes."""
    if not values.isfinite().all():
        raise ValueError("The generated video holds NaN or infinite values: the model has diverged.")


def seeded(*numbers: int) -> torch.Generator:
    r"""A generator whose draws are those of these numbers alone."""
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed))


def describe_pipeline(pipeline: MotionPipeline) -> dict[str, object]:
    r"""The model in a result's JSON: hashes of its networks, and its schedulers' settings."""
    networks, schedulers = {}, {}
    for name, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            networks[name] = hash_tensors(component.state_dict())
        elif component is not None:
            config = {key: value for key, value in component.config.items() if not key.startswith("_")}
            schedulers[name] = {"class": type(component).__name__, **config}
    return {"dtype": str(pipeline.dtype).removeprefix("torch."), "networks": networks, "schedulers": schedulers}
