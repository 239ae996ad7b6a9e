"""LEOInfinitePipeline: video without end, chunk after chunk of motion, in constant memory."""

import copy
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Real

import numpy as np
import PIL.Image
import torch
from diffusers import UNet2DConditionModel
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import replace_example_docstring

from ..models.lia import LIAModel
from ..models.motion_prior import MotionPriorModel
from ..models.motion_unet_1d import MotionUNet1DModel
from .cropping import Crop
from .denoising import PendingMotion, denoising_steps, without_clipping
from .motion_control import MotionControl
from .motion_pipeline import FirstFrameSource, Generators, Image, MotionPipeline, StepCallback
from .pipeline_output import LEOPipelineOutput
from .seams import ease_in, pull_back


TRANSITIONS = ("none", "diffusion")
ENDLESS = sys.maxsize  # frames: what no curve of a motion control is long enough for

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> from PIL import Image
        >>> from leo_diffusers import DEMO_MODEL, LEOInfinitePipeline
        >>> from leo_diffusers.video_io import write_video

        >>> pipeline = LEOInfinitePipeline.from_pretrained(DEMO_MODEL)
        >>> output = pipeline(Image.open("photo.png"), num_frames=150, transition="diffusion", num_inference_steps=5)
        >>> write_video("long.mp4", output.frames[0], frames_per_second=25)
        >>> len(output.frames[0])
        150
        ```
"""


@dataclass
class MotionSettings:
    r"""
    How endless motion is drawn.

    Args:
        num_inference_steps (`int`): Denoising steps of each chunk.
        generator (`torch.Generator` or a list, *optional*): Of all videos or of each.
        transition (`str`): "none" or "diffusion".
        transition_interval (`int`): Chunks of motion between two transitions.
        drift_limit (`float`, *optional*): Standard deviations from the mean training code.
        seam_frames (`int`): Frames over which a jump at a seam is eased out.
        on_step (`Callable`, *optional*): Called after each denoising step, see [`~denoising.denoise`].
    """

    num_inference_steps: int
    generator: Generators
    transition: str
    transition_interval: int
    drift_limit: float | None
    seam_frames: int
    on_step: Callable[[int, torch.Tensor, torch.Tensor], tuple[torch.Tensor, bool]] | None = None

    def is_transition(self, chunk: int) -> bool:
        r"""Whether the chunk of this index, from 0, leads to a fresh pose."""
        is_last_of_cycle = chunk % (self.transition_interval + 1) == self.transition_interval
        return self.transition == "diffusion" and is_last_of_cycle


class LEOInfinitePipeline(MotionPipeline):
    r"""
    Endless video from one image, or from nothing (LEO Sec. 4.4): each chunk of motion starts from the last code of the
    chunk before, so that the motion goes on without a jump. The components are those of [`MotionPipeline`], and two.

    The motion of one image repeats itself sooner or later. `transition="diffusion"` leads it elsewhere: after every
    `transition_interval` chunks the motion prior draws a new code, and the Transition DM draws the way there.

    Args:
        transition_unet ([`MotionUNet1DModel`], *optional*): Draws the motion between two codes
            (`condition="start_end"`).
        transition_scheduler ([`SchedulerMixin`], *optional*): Its scheduler, `scheduler` by default.

    Raises:
        ValueError: Where the networks were not trained together, or one has another condition.
    """

    model_cpu_offload_seq = "motion_prior->first_frame_unet->transition_unet->motion_unet->animator"
    _optional_components = [*MotionPipeline._optional_components, "transition_unet", "transition_scheduler"]

    def __init__(
        self,
        animator: LIAModel,
        motion_unet: MotionUNet1DModel,
        scheduler: SchedulerMixin,
        motion_prior: MotionPriorModel | None = None,
        prior_scheduler: SchedulerMixin | None = None,
        first_frame_unet: UNet2DConditionModel | None = None,
        first_frame_scheduler: SchedulerMixin | None = None,
        transition_unet: MotionUNet1DModel | None = None,
        transition_scheduler: SchedulerMixin | None = None,
    ):
        super().__init__(
            animator,
            motion_unet,
            scheduler,
            motion_prior,
            prior_scheduler,
            first_frame_unet,
            first_frame_scheduler,
        )
        self.check_codes(animator, motion_unet, transition_unet=transition_unet)
        if transition_unet is not None and transition_unet.config.condition != "start_end":
            raise ValueError(
                f'`transition_unet` must have the condition "start_end", got {transition_unet.config.condition!r}: '
                "train one with examples/train_lmdm.py --condition start_end."
            )
        self.register_modules(
            transition_unet=transition_unet,
            transition_scheduler=transition_scheduler and without_clipping(transition_scheduler),
        )

    def check_inputs(
        self,
        num_frames: int | None,
        num_videos_per_prompt: int,
        settings: MotionSettings,
        motion_control: MotionControl | None,
        decode_chunk_size: int | None,
        output_type: str,
    ) -> None:
        r"""Refuses what cannot be carried out before anything is computed; `num_frames` is None for no end."""
        counts = {} if num_frames is None else {"num_frames": num_frames}
        self.check_counts(
            num_inference_steps=settings.num_inference_steps,
            num_videos_per_prompt=num_videos_per_prompt,
            transition_interval=settings.transition_interval,
            **counts,
        )
        if settings.transition not in TRANSITIONS:
            raise ValueError(f"`transition` must be one of {TRANSITIONS}, got {settings.transition!r}.")
        if settings.transition == "diffusion":
            missing = [name for name in ("transition_unet", "motion_prior") if getattr(self, name) is None]
            if missing:
                raise ValueError(
                    f'`transition="diffusion"` needs {" and ".join(f"`{name}`" for name in missing)}: train with '
                    "examples/train_lmdm.py --condition start_end and train_motion_prior.py, and add with "
                    "`leo-diffusers assemble`."
                )
        if settings.drift_limit is not None:
            if isinstance(settings.drift_limit, bool) or not isinstance(settings.drift_limit, Real):
                raise TypeError(f"`drift_limit` must be a number, got {settings.drift_limit!r}.")
            if not settings.drift_limit > 0:  # true for NaN too
                raise ValueError(
                    f"`drift_limit` must be above 0 standard deviations, got {settings.drift_limit}: None is off."
                )
        if isinstance(settings.seam_frames, bool) or not isinstance(settings.seam_frames, int):
            raise TypeError(f"`seam_frames` must be an integer, got {settings.seam_frames!r}.")
        if settings.seam_frames < 0:
            raise ValueError(f"`seam_frames` must be at least 0, which is off, got {settings.seam_frames}.")
        self.check_motion_control(motion_control, ENDLESS if num_frames is None else num_frames)
        self.check_schedulers(settings.num_inference_steps)
        self.chunk_size(decode_chunk_size)
        self.check_output_type(output_type)

    # ------------------------------------------------------------------------------------------------------- motion

    def begin_chunk(self, past: torch.Tensor, settings: MotionSettings) -> PendingMotion:
        r"""Motion that goes on from past codes (B, n, M): LEO Eq. 4."""
        conditions = {"start_motion_code": past[:, -1]}

        def finish(codes: torch.Tensor) -> torch.Tensor:
            if settings.drift_limit is not None:
                codes = pull_back(codes, self.motion_unet, settings.drift_limit)
            return ease_in(codes, past, settings.seam_frames)

        return self.begin_motion(self.motion_unet, self.scheduler, conditions, settings, finish)

    def begin_transition(self, past: torch.Tensor, settings: MotionSettings) -> PendingMotion:
        r"""Motion from the last of past codes (B, n, M) to a new one of the motion prior: LEO Fig. 8."""
        targets = self.draw_start_codes(len(past), settings.num_inference_steps, settings.generator)
        if settings.drift_limit is not None:
            targets = self.motion_unet.statistics.clamp(targets, settings.drift_limit)
        conditions = {"start_motion_code": past[:, -1], "end_motion_code": targets}

        def finish(codes: torch.Tensor) -> torch.Tensor:
            codes = ease_in(codes, past, settings.seam_frames)
            return ease_in(codes.flip(1), targets[:, None], settings.seam_frames).flip(1)

        scheduler = self.transition_scheduler or self.scheduler
        return self.begin_motion(self.transition_unet, scheduler, conditions, settings, finish)

    def begin_motion(
        self,
        unet: MotionUNet1DModel,
        scheduler: SchedulerMixin,
        conditions: dict[str, torch.Tensor],
        settings: MotionSettings,
        finish: Callable[[torch.Tensor], torch.Tensor],
    ) -> PendingMotion:
        r"""Draws the noise of a chunk; its result will be the codes (B, n, M) after the start code."""
        start_codes = conditions["start_motion_code"]
        noise = self.draw_noise((*start_codes.shape, unet.num_sample_frames), settings.generator)
        # A scheduler of its own: it keeps a state between steps, and streams of one pipeline may run side by side.
        scheduler = copy.deepcopy(scheduler)
        scheduler.set_timesteps(settings.num_inference_steps, device=noise.device)
        num_steps = len(scheduler.timesteps)  # schedulers of higher order visit a step several times
        steps = denoising_steps(unet, scheduler, noise, conditions, settings.num_inference_steps, settings.generator)

        def to_codes(latents: torch.Tensor) -> torch.Tensor:
            return finish(unet.unstandardize(latents, **conditions))[:, 1:]  # the first is known from the past

        return PendingMotion(steps, num_steps, to_codes, settings.on_step)

    def count_timesteps(self, num_frames: int, settings: MotionSettings) -> int:
        r"""The denoising steps of all chunks of a video: those that a callback sees."""
        kinds = {False: (self.motion_unet, self.scheduler)}
        if settings.transition == "diffusion":
            kinds[True] = (self.transition_unet, self.transition_scheduler or self.scheduler)
        num_steps = {}
        for is_transition, (_, scheduler) in kinds.items():
            scheduler = copy.deepcopy(scheduler)
            scheduler.set_timesteps(settings.num_inference_steps)
            num_steps[is_transition] = len(scheduler.timesteps)
        total, num_ready = 0, 1
        for chunk in itertools.count():
            if num_ready >= num_frames:
                return total
            is_transition = settings.is_transition(chunk)
            total += num_steps[is_transition]
            num_ready += kinds[is_transition][0].config.sequence_length - 1  # the first is the last of the past

    @torch.no_grad()
    def draw_motion(
        self, start_codes: torch.Tensor, num_frames: int | None, piece_size: int | None, settings: MotionSettings
    ) -> Iterator[torch.Tensor]:
        r"""
        Draws motion piece by piece. The next chunk is denoised between the pieces of this one, as fast as they are
        asked for: whoever renders them never waits for a whole chunk, but for the first. A chunk that a callback
        interrupts is left out, and the motion ends.

        Args:
            start_codes (`torch.Tensor` of shape `(B, M)`): The first codes.
            num_frames (`int`, *optional*): Length; None for no end.
            piece_size (`int`, *optional*): Largest number of codes in a piece; None for whole chunks.
            settings ([`MotionSettings`]): How.

        Yields:
            `torch.Tensor` of shape `(B, n, M)`: Codes, in order.
        """
        codes = start_codes[:, None]  # (B, n, M), what is ready
        num_ready = 1
        for chunk in itertools.count():
            upcoming = None
            if num_frames is None or num_ready < num_frames:
                if settings.is_transition(chunk):
                    upcoming = self.begin_transition(codes, settings)
                else:
                    upcoming = self.begin_chunk(codes, settings)
            pieces = codes.split(piece_size or codes.shape[1], dim=1)
            for index, piece in enumerate(pieces, start=1):
                yield piece
                if upcoming is not None:
                    upcoming.advance(index / len(pieces))
            if upcoming is None:
                return
            codes = upcoming.result()
            if settings.on_step is not None and self.interrupt:
                return
            codes = codes if num_frames is None else codes[:, : num_frames - num_ready]
            num_ready += codes.shape[1]

    # -------------------------------------------------------------------------------------------------------- calls

    @torch.no_grad()
    def stream(
        self,
        image: Image | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 50,
        transition: str = "none",
        transition_interval: int = 1,
        drift_limit: float | None = None,
        seam_frames: int = 8,
        start_motion_code: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        decode_chunk_size: int | None = None,
        output_type: str = "pil",
        prompt: str | None = None,
        first_frame_source: FirstFrameSource = None,
        motion_control: MotionControl | None = None,
        crop: Crop = "center",
        paste_back: bool = False,
    ) -> Iterator[PIL.Image.Image | np.ndarray | torch.Tensor]:
        r"""
        Generates one video frame by frame, for ever by default, in constant memory. The first frame is encoded, or
        drawn, at once; the motion of the next chunk is denoised between the frames of this one. Close the iterator,
        or leave its loop, to end it.

        Args:
            num_frames (`int`, *optional*): Frames until the stream ends; None for never.
            generator (`torch.Generator`, *optional*): Makes the stream reproducible.
            output_type (`str`): "pil", "np", "pt", or "latent" for the motion codes alone.

        The other arguments are those of [`~LEOInfinitePipeline.__call__`], for one video.

        Yields:
            `PIL.Image.Image`, `np.ndarray` of shape `(H, W, 3)` in [0, 1], `torch.Tensor` of shape `(3, H, W)` in
            [0, 1], or for "latent" the motion code, a `torch.Tensor` of shape `(M,)`: One frame, float32, on the CPU.

        Raises:
            TypeError, ValueError: As of [`~LEOInfinitePipeline.__call__`], at once.

        Examples:
            ```py
            >>> from itertools import islice
            >>> from PIL import Image
            >>> from leo_diffusers import DEMO_MODEL, LEOInfinitePipeline
            >>> from leo_diffusers.video_io import VideoWriter, to_frame

            >>> pipeline = LEOInfinitePipeline.from_pretrained(DEMO_MODEL)
            >>> frames = pipeline.stream(Image.open("photo.png"), transition="diffusion")
            >>> with VideoWriter("stream.mp4", frames_per_second=25) as writer:
            ...     for frame in islice(frames, 100):  # there would be no end
            ...         writer.write(to_frame(frame))
            ```
        """
        has_list = any(isinstance(value, (list, tuple)) for value in (image, prompt, generator))
        if has_list or (getattr(image, "ndim", 0) == 4 and len(image) != 1):
            raise ValueError("A stream is one video: give one `image`, `prompt` and `generator`, not a list.")
        settings = MotionSettings(
            num_inference_steps, generator, transition, transition_interval, drift_limit, seam_frames
        )
        self.check_inputs(num_frames, 1, settings, motion_control, decode_chunk_size, output_type)
        self.check_first_frame(image, prompt, first_frame_source, needs_prior=start_motion_code is None)
        self.check_crop(crop, paste_back, image, output_type)
        start_codes = self.prepare_start_codes(start_motion_code, 1)
        first = self.prepare_first_frames(
            image, prompt, first_frame_source, start_codes, 1, num_inference_steps, generator, crop, paste_back
        )
        pieces = self.draw_motion(first.start_codes, num_frames, self.chunk_size(decode_chunk_size), settings)
        codes = (piece[0] for piece in pieces)  # (n, M)
        if motion_control is not None:
            codes = motion_control.apply(codes, first.own_codes)
        background = first.backgrounds[0] if first.backgrounds else None
        return self.stream_frames(first.source, codes, decode_chunk_size, output_type, background)

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        image: Image | list[Image] | None = None,
        num_frames: int = 1024,
        num_inference_steps: int = 50,
        transition: str = "none",
        transition_interval: int = 1,
        drift_limit: float | None = None,
        seam_frames: int = 8,
        num_videos_per_prompt: int = 1,
        start_motion_code: torch.Tensor | None = None,
        generator: Generators = None,
        decode_chunk_size: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        prompt: str | list[str] | None = None,
        first_frame_source: FirstFrameSource = None,
        motion_control: MotionControl | None = None,
        crop: Crop = "center",
        paste_back: bool = False,
        callback_on_step_end: StepCallback = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> LEOPipelineOutput | tuple:
        r"""
        Generates long videos, whole; [`~LEOInfinitePipeline.stream`] generates them frame by frame.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them, *optional*): Start frames x_1;
                cropped as `crop` says and resized. None generates from nothing.
            num_frames (`int`): Frames per video, at least 2.
            num_inference_steps (`int`): Denoising steps of each chunk, and of each other network that draws.
            transition (`str`): "none": every chunk goes on from the last. "diffusion": after every
                `transition_interval` chunks the motion is led to a fresh pose.
            transition_interval (`int`): Chunks of motion between two transitions.
            drift_limit (`float`, *optional*): Guard against drift: how many standard deviations from the mean of the
                training codes a chunk may end. Where it would end farther off, in any direction, it is bent back over
                its whole length, which adds no jump. None, the default, leaves the motion as it was drawn.
            seam_frames (`int`): A drawn chunk does not quite begin where the last one ended. What is too much in its
                first step is eased out over so many frames, or fewer in a shorter chunk; 0 leaves the motion as drawn.
            num_videos_per_prompt (`int`): Videos per image or prompt, or from nothing.
            start_motion_code (`torch.Tensor` of shape `(M,)` or `(B, M)`, *optional*): The pose alpha_1 that the
                motion starts from; by default the frame's own, or from nothing one that `motion_prior` draws.
            generator (`torch.Generator` or a list, *optional*): Makes the result reproducible; one per video makes
                each independent of the rest of its batch.
            decode_chunk_size (`int`, *optional*): Frames that go through the animator at a time.
            output_type (`str`): "pil", "np", "pt", or "latent" for the motion codes alone.
            return_dict (`bool`): Whether to return an output object instead of a tuple.
            prompt (`str` or `list[str]`, *optional*): Given to `first_frame_source`.
            first_frame_source (`DiffusionPipeline` or `Callable`, *optional*): As of [`LEOPipeline`].
            motion_control ([`MotionControl`], *optional*): Smooths, scales or replaces the motion, counted from the
                frame's own code.
            crop (`str` or `Callable`): As of [`~LEOPipeline.__call__`].
            paste_back (`bool`): As of [`~LEOPipeline.__call__`].
            callback_on_step_end (`Callable`, *optional*): Called after each step of the motion's denoising as
                `(pipeline, step, timestep, tensors)`, where steps are counted through all chunks, up to
                `pipeline.num_timesteps`; returns a dict of tensors to replace. Where it sets `pipeline._interrupt`,
                the video ends with the last chunk that is complete.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*): Names of the tensors that the callback sees.

        Examples:

        Returns:
            [`LEOPipelineOutput`] or `tuple`: The videos and the motion codes (B, F, M) that they were rendered from.

        Raises:
            TypeError: Where a number is not an integer.
            ValueError: Where an argument cannot be carried out, or does not fit the others; where a component is
                missing, it is named.
        """
        tensor_inputs = self.check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        steps = itertools.count()

        def on_step(index: int, timestep: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, bool]:
            return self.call_back(callback_on_step_end, tensor_inputs, next(steps), timestep, latents)

        settings = MotionSettings(
            num_inference_steps, generator, transition, transition_interval, drift_limit, seam_frames, on_step
        )
        self.check_inputs(num_frames, num_videos_per_prompt, settings, motion_control, decode_chunk_size, output_type)
        self.check_first_frame(image, prompt, first_frame_source, needs_prior=start_motion_code is None)
        self.check_crop(crop, paste_back, image, output_type)
        batch_size = self.count_videos(image, prompt, num_videos_per_prompt)
        self.check_generators(generator, batch_size)
        first = self.prepare_first_frames(
            image,
            prompt,
            first_frame_source,
            self.prepare_start_codes(start_motion_code, batch_size),
            batch_size,
            num_inference_steps,
            generator,
            crop,
            paste_back,
        )
        self._num_timesteps, self._interrupt = self.count_timesteps(num_frames, settings), False
        chunks = []
        with self.progress_bar(total=num_frames) as progress_bar:
            for codes in self.draw_motion(first.start_codes, num_frames, None, settings):
                chunks.append(codes)
                progress_bar.update(codes.shape[1])
        return self.render_videos(
            first, torch.cat(chunks, dim=1), motion_control, decode_chunk_size, output_type, return_dict
        )
