"""LEOPipeline: video from one image, or from nothing, by motion codes that a diffusion model draws."""

import torch
from diffusers.utils import replace_example_docstring

from .cropping import Crop
from .denoising import denoise
from .motion_control import MotionControl
from .motion_pipeline import FirstFrameSource, Generators, Image, MotionPipeline, StepCallback
from .pipeline_output import LEOPipelineOutput


EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> import torch
        >>> from PIL import Image
        >>> from leo_diffusers import DEMO_MODEL, LEOPipeline
        >>> from leo_diffusers.video_io import write_video

        >>> pipeline = LEOPipeline.from_pretrained(DEMO_MODEL)  # or a folder, or a Hub id
        >>> output = pipeline(Image.open("photo.png"), generator=torch.manual_seed(0))
        >>> write_video("video.mp4", output.frames[0], frames_per_second=25)
        >>> len(output.frames[0])
        64

        >>> # From nothing, with few steps, and the motion of it on the photo.
        >>> person = pipeline(num_frames=8, num_inference_steps=5)
        >>> output = pipeline(Image.open("photo.png"), motion_codes=person.motion_codes, motion_mode="relative")
        >>> output.motion_codes.shape  # clips, frames, motion directions
        torch.Size([1, 8, 20])
        ```
"""


class LEOPipeline(MotionPipeline):
    r"""
    Video from one image, or from nothing: a first frame gives appearance, a Latent Motion Diffusion Model gives motion
    (LEO Fig. 2). The components are those of [`MotionPipeline`].

    | task | needs, beside `animator`, `motion_unet` and `scheduler` |
    | --- | --- |
    | image to video | nothing |
    | video from nothing | `motion_prior`, `first_frame_unet`, `first_frame_scheduler` |
    | video from a prompt | `first_frame_source` in the call |
    | given codes on other frames | nothing |

    A `motion_unet` with `condition="start"`, Linear Motion Condition, serves all of them. One with `condition="none"`,
    the paper's ablation, makes video from nothing only, and without a `motion_prior`.
    """

    conditions = ("start", "none")

    def check_inputs(
        self,
        num_frames: int | None,
        num_inference_steps: int,
        num_videos_per_prompt: int,
        decode_chunk_size: int | None,
        output_type: str,
    ) -> None:
        r"""Refuses numbers and names that mean nothing; `num_frames` is None for given codes."""
        counts = {} if num_frames is None else {"num_frames": num_frames}
        self.check_counts(
            num_inference_steps=num_inference_steps, num_videos_per_prompt=num_videos_per_prompt, **counts
        )
        sequence_length = self.motion_unet.config.sequence_length
        if num_frames is not None and num_frames > sequence_length:
            raise ValueError(
                f"`num_frames` must be at most {sequence_length}, the sequence length that `motion_unet` was trained "
                f"on, got {num_frames}: LEOInfinitePipeline (leo-diffusers stream) makes longer ones."
            )
        self.check_schedulers(num_inference_steps)
        self.chunk_size(decode_chunk_size)
        self.check_output_type(output_type)

    def check_motion(self, has_frame: bool, has_codes: bool, has_start: bool, motion_mode: str) -> None:
        r"""Refuses motion that cannot be made of what is given."""
        if motion_mode not in ("absolute", "relative"):
            raise ValueError(f'`motion_mode` must be "absolute" or "relative", got {motion_mode!r}.')
        if motion_mode == "relative" and not has_codes:
            raise ValueError('`motion_mode="relative"` needs `motion_codes`, whose motion is to be transferred.')
        if has_start and (has_codes or self.motion_unet.config.condition != "start"):
            raise ValueError(
                "`start_motion_code` is where `motion_unet` starts from if it has a condition: leave it out with "
                '`motion_codes`, and with `condition="none"`.'
            )
        if has_frame and not has_codes and self.motion_unet.config.condition != "start":
            raise ValueError(
                'Motion that goes on from a given frame needs a `motion_unet` with `condition="start"`, this one has '
                f"{self.motion_unet.config.condition!r}: leave the frame out, or give `motion_codes`."
            )

    def prepare_motion_codes(self, motion_codes: torch.Tensor | None, batch_size: int) -> torch.Tensor | None:
        r"""The codes to re-render for every video, (B, F, M); None where none are given."""
        if motion_codes is None:
            return None
        motion_codes = self.check_motion_codes("motion_codes", motion_codes)
        motion_codes = motion_codes[None] if motion_codes.ndim == 2 else motion_codes
        if motion_codes.ndim != 3 or len(motion_codes) not in (1, batch_size) or motion_codes.shape[1] == 0:
            raise ValueError(
                f"`motion_codes` must have the shape (F, M) or ({batch_size}, F, M), one sequence per video, got "
                f"{tuple(motion_codes.shape)}."
            )
        return motion_codes.expand(batch_size, -1, -1)

    def check_latents(self, latents: torch.Tensor | None, batch_size: int, has_codes: bool) -> None:
        r"""Refuses `latents` of another shape than (B, M, L'), or that are no numbers, or with given codes."""
        if latents is None:
            return
        if has_codes:
            raise ValueError("`latents` are what motion is drawn from: leave them out with `motion_codes`.")
        shape = (batch_size, self.motion_unet.config.motion_dim, self.motion_unet.num_sample_frames)
        if tuple(latents.shape) != shape:
            raise ValueError(f"`latents` must have the shape {shape}, got {tuple(latents.shape)}.")
        if not torch.isfinite(latents).all():
            raise ValueError("`latents` holds NaN or infinite values: no motion can be drawn from them.")

    def draw_motion(
        self,
        noise: torch.Tensor,
        conditions: dict[str, torch.Tensor],
        num_inference_steps: int,
        generator: Generators,
        callback_on_step_end: StepCallback,
        callback_tensor_inputs: list[str],
    ) -> torch.Tensor:
        r"""Noise (B, M, L') and start codes (B, M) -> standardised samples (B, M, L'), with the callbacks."""
        self._interrupt = False

        def on_step(index: int, timestep: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, bool]:
            self._num_timesteps = len(self.scheduler.timesteps)
            return self.call_back(callback_on_step_end, callback_tensor_inputs, index, timestep, latents)

        with self.progress_bar(total=num_inference_steps) as progress_bar:
            return denoise(
                self.motion_unet,
                self.scheduler,
                noise,
                conditions,
                num_inference_steps,
                generator,
                on_step,
                progress_bar,
            )

    def draw_codes(
        self,
        start_codes: torch.Tensor | None,
        batch_size: int,
        num_inference_steps: int,
        generator: Generators,
        latents: torch.Tensor | None,
        callback_on_step_end: StepCallback,
        callback_tensor_inputs: list[str],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""
        Draws motion: LEO Eq. 1 without a condition, Eq. 4 with start codes (B, M).

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Motion codes (B, F, M), and the samples (B, M, L') they are made of.
        """
        conditions = {} if self.motion_unet.config.condition == "none" else {"start_motion_code": start_codes}
        if latents is None:
            shape = (batch_size, self.motion_unet.config.motion_dim, self.motion_unet.num_sample_frames)
            latents = self.draw_noise(shape, generator)
        latents = latents.to(self._execution_device, torch.float32)
        latents = self.draw_motion(
            latents, conditions, num_inference_steps, generator, callback_on_step_end, callback_tensor_inputs
        )
        return self.motion_unet.unstandardize(latents, **conditions), latents  # LEO Eq. 3

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        image: Image | list[Image] | None = None,
        num_frames: int = 64,
        num_inference_steps: int = 50,
        num_videos_per_prompt: int = 1,
        start_motion_code: torch.Tensor | None = None,
        motion_codes: torch.Tensor | None = None,
        generator: Generators = None,
        latents: torch.Tensor | None = None,
        decode_chunk_size: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        prompt: str | list[str] | None = None,
        first_frame_source: FirstFrameSource = None,
        motion_mode: str = "absolute",
        motion_control: MotionControl | None = None,
        crop: Crop = "center",
        paste_back: bool = False,
    ) -> LEOPipelineOutput | tuple:
        r"""
        Generates videos: from `image`, or without one from nothing (start code, then first frame, then motion), or
        from the frames of `first_frame_source`.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them, *optional*): Start frames x_1;
                cropped as `crop` says and resized.
            num_frames (`int`): Frames per video, from 2 to the `sequence_length` of `motion_unet`.
            num_inference_steps (`int`): Denoising steps, of each network that draws.
            num_videos_per_prompt (`int`): Videos per image or prompt, or from nothing. Without `image` each has a
                first frame of its own.
            start_motion_code (`torch.Tensor` of shape `(M,)` or `(B, M)`, *optional*): The pose alpha_1 that the
                motion starts from; by default the frame's own, or from nothing one that `motion_prior` draws.
            motion_codes (`torch.Tensor` of shape `(F, M)` or `(B, F, M)`, *optional*): Renders these codes, for
                example of an earlier output, instead of generating new ones; `num_frames` is then theirs. One
                sequence serves all images.
            generator (`torch.Generator` or a list, *optional*): Makes the result reproducible; one per video makes
                each independent of the rest of its batch.
            latents (`torch.Tensor` of shape `(B, M, L - 1)`, *optional*): The noise that the motion starts from.
            decode_chunk_size (`int`, *optional*): Frames that go through the animator at a time.
            output_type (`str`): "pil", "np", "pt", or "latent" for the standardised residuals (B, M, L - 1) that the
                denoising loop ends with, or the given `motion_codes`.
            return_dict (`bool`): Whether to return an output object instead of a tuple.
            callback_on_step_end (`Callable`, *optional*): Called after each step of the motion's denoising as
                `(pipeline, step, timestep, tensors)`, returns a dict of tensors to replace.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*): Names of the tensors that the callback sees.
            prompt (`str` or `list[str]`, *optional*): Given to `first_frame_source`.
            first_frame_source (`DiffusionPipeline` or `Callable`, *optional*): What draws first frames instead of
                `first_frame_unet`: any diffusers text-to-image pipeline, or a function `(prompt, generator)` -> image,
                of which it may take either.
            motion_mode (`str`): How `motion_codes` are used: "absolute", or "relative": the motion since their first
                code is added to the frame's own pose.
            motion_control ([`MotionControl`], *optional*): Smooths, scales or replaces the motion, counted from the
                frame's own code.
            crop (`str` or `Callable`): What is used of an `image`, or frame of `first_frame_source`: "center", its
                central square, with a warning where that is not all; "auto", a square around the face, found by
                OpenCV; or "none", which refuses what is not square. A function from a picture `(H, W, 3)`, uint8, to
                boxes (left, top, right, bottom) of faces does what "auto" does, with another detector.
            paste_back (`bool`): Whether to return `image` at its own size, with the generated square put back into its
                place, instead of that square alone. What is around the square stays still: where the head, shoulders
                or background move across its border, they are cut off there, and the border, which fades, shows.

        Examples:

        Returns:
            [`LEOPipelineOutput`] or `tuple`: The videos and the motion codes (B, F, M) that they were rendered from.

        Raises:
            TypeError: Where a number is not an integer.
            ValueError: Where an argument cannot be carried out by the model, or does not fit the others; where a
                component is missing, it is named.
        """
        tensor_inputs = self.check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        has_codes, has_frame = motion_codes is not None, image is not None or first_frame_source is not None
        num_frames = None if has_codes else num_frames
        self.check_inputs(num_frames, num_inference_steps, num_videos_per_prompt, decode_chunk_size, output_type)
        is_conditional = self.motion_unet.config.condition == "start"
        self.check_motion(has_frame, has_codes, start_motion_code is not None, motion_mode)
        needs_prior = is_conditional and not has_codes and start_motion_code is None
        self.check_first_frame(image, prompt, first_frame_source, needs_prior)
        self.check_crop(crop, paste_back, image, output_type)
        batch_size = self.count_videos(image, prompt, num_videos_per_prompt)
        self.check_generators(generator, batch_size)
        self.check_latents(latents, batch_size, has_codes)
        motion_codes = self.prepare_motion_codes(motion_codes, batch_size)
        start_codes = self.prepare_start_codes(start_motion_code, batch_size)
        self.check_motion_control(motion_control, motion_codes.shape[1] if has_codes else num_frames)

        drawing = (num_inference_steps, generator)
        callback = (callback_on_step_end, tensor_inputs)
        if not has_codes and not is_conditional:
            motion_codes, latents = self.draw_codes(None, batch_size, *drawing, latents, *callback)
        if motion_codes is not None and not has_frame:
            start_codes = motion_codes[:, 0]
        first = self.prepare_first_frames(
            image, prompt, first_frame_source, start_codes, batch_size, *drawing, crop, paste_back
        )
        if motion_codes is None:
            motion_codes, latents = self.draw_codes(first.start_codes, batch_size, *drawing, latents, *callback)
        elif motion_mode == "relative":
            motion_codes = first.own_codes[:, None] + motion_codes - motion_codes[:, :1]  # LIA Eq. 12
        latents = motion_codes if has_codes else latents
        return self.render_videos(
            first, motion_codes[:, :num_frames], motion_control, decode_chunk_size, output_type, return_dict, latents
        )
