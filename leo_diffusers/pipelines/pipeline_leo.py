"""LEOPipeline: a still image becomes a video by motion codes that a diffusion model draws."""

from collections.abc import Callable

import numpy as np
import PIL.Image
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import replace_example_docstring
from diffusers.utils.torch_utils import randn_tensor

from ..models.lia import LIAModel, LIASource
from ..models.motion_unet_1d import MotionUNet1DModel
from .animator_pipeline import AnimatorPipeline
from .motion_diffusion import denoise, without_clipping
from .pipeline_output import LEOPipelineOutput


Image = PIL.Image.Image | np.ndarray | torch.Tensor

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> from PIL import Image
        >>> from leo_diffusers import LEOPipeline
        >>> from leo_diffusers.video_io import write_video

        >>> pipeline = LEOPipeline.from_pretrained("my-leo")
        >>> output = pipeline(Image.open("photo.png"), num_frames=64)
        >>> write_video("video.mp4", output.frames[0], frames_per_second=25)
        ```
"""


class LEOPipeline(AnimatorPipeline):
    r"""
    Video from one image: the image gives appearance, a Latent Motion Diffusion Model gives motion (LEO Fig. 2).

    Args:
        animator ([`LIAModel`]): The image animator, encoder of the image and decoder of motion codes.
        motion_unet ([`MotionUNet1DModel`]): Denoises motion codes, with Linear Motion Condition (`condition="start"`).
        scheduler ([`SchedulerMixin`]): Any diffusers scheduler for unbounded samples. Where it would clip predicted
            samples, clipping is turned off: motion codes are not confined to [-1, 1].

    Raises:
        ValueError: Where the networks were not trained together, or `motion_unet` has another condition.
    """

    model_cpu_offload_seq = "motion_unet->animator"
    _callback_tensor_inputs = ["latents"]

    def __init__(self, animator: LIAModel, motion_unet: MotionUNet1DModel, scheduler: SchedulerMixin):
        super().__init__()
        if animator.config.motion_dim != motion_unet.config.motion_dim:
            raise ValueError(
                f"`animator` has motion codes of {animator.config.motion_dim} numbers, `motion_unet` of "
                f"{motion_unet.config.motion_dim}: they were not trained together."
            )
        if motion_unet.config.condition != "start":
            raise ValueError(
                f'`motion_unet` must have `condition="start"`, Linear Motion Condition, got '
                f"{motion_unet.config.condition!r}: from an image only residuals of its own motion code continue."
            )
        scheduler = without_clipping(scheduler)
        self.register_modules(animator=animator, motion_unet=motion_unet, scheduler=scheduler)
        self._num_timesteps = 0
        self._interrupt = False

    @property
    def num_timesteps(self) -> int:
        r"""Number of timesteps of the last call; 0 before the first."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        r"""Set `pipeline._interrupt` to True in a callback to end the denoising early."""
        return self._interrupt

    def check_inputs(
        self,
        image: Image | list[Image] | None,
        num_frames: int | None,
        num_inference_steps: int,
        num_videos_per_prompt: int,
        decode_chunk_size: int | None,
        output_type: str,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> None:
        r"""Refuses what cannot be carried out before anything is computed; `num_frames` is None for given codes."""
        if image is None or (isinstance(image, (list, tuple)) and not image):
            raise ValueError("`image` is missing: this pipeline generates a video from a start image.")
        sequence_length = self.motion_unet.config.sequence_length
        counts = {"num_inference_steps": num_inference_steps, "num_videos_per_prompt": num_videos_per_prompt}
        if num_frames is not None:
            counts["num_frames"] = num_frames
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"`{name}` must be an integer, got {value!r}.")
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if num_frames is not None and num_frames < 2:
            raise ValueError(f"`num_frames` must be at least 2, got {num_frames}: one frame holds no motion.")
        if num_frames is not None and num_frames > sequence_length:
            raise ValueError(
                f"`num_frames` must be at most {sequence_length}, the sequence length that `motion_unet` was trained "
                f"on, got {num_frames}."
            )
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` can name {self._callback_tensor_inputs}, got {sorted(unknown)}."
            )
        if not hasattr(self.scheduler, "scale_model_input"):
            raise ValueError(
                f"`scheduler` is a {type(self.scheduler).__name__}, which needs a model trained for flow matching: "
                "use one of the DDPM family, such as DDIMScheduler."
            )
        self.chunk_size(decode_chunk_size)
        self.check_output_type(output_type)

    def encode_source(self, image: Image | list[Image]) -> LIASource:
        r"""One image or a list of them, to one [`LIASource`] of as many rows."""
        is_batch = isinstance(image, (list, tuple)) or (getattr(image, "ndim", 0) == 4)
        return self.animator.encode_source(
            torch.cat([self.preprocess(one) for one in (image if is_batch else [image])])
        )

    def prepare_start_codes(
        self, source: LIASource, start_motion_code: torch.Tensor | None, num_videos_per_image: int
    ) -> torch.Tensor:
        r"""The pose alpha_1 of every video: the given one, else the image's own, (B, M)."""
        batch_size = source.latent.shape[0] * num_videos_per_image
        if start_motion_code is None:
            return source.motion_code.float().repeat_interleave(num_videos_per_image, dim=0)
        start_motion_code = self.check_motion_codes("start_motion_code", start_motion_code)
        if start_motion_code.ndim > 2 or (
            start_motion_code.ndim == 2 and len(start_motion_code) not in (1, batch_size)
        ):
            raise ValueError(
                f"`start_motion_code` must have the shape (M,) or ({batch_size}, M), one row per video, got "
                f"{tuple(start_motion_code.shape)}."
            )
        return start_motion_code.expand(batch_size, -1)

    def prepare_motion_codes(self, motion_codes: torch.Tensor, batch_size: int) -> torch.Tensor:
        r"""The codes to re-render for every video, (B, F, M)."""
        motion_codes = self.check_motion_codes("motion_codes", motion_codes)
        motion_codes = motion_codes[None] if motion_codes.ndim == 2 else motion_codes
        if motion_codes.ndim != 3 or len(motion_codes) not in (1, batch_size) or motion_codes.shape[1] == 0:
            raise ValueError(
                f"`motion_codes` must have the shape (F, M) or ({batch_size}, F, M), one sequence per video, got "
                f"{tuple(motion_codes.shape)}."
            )
        return motion_codes.expand(batch_size, -1, -1)

    def animate_batch(
        self, source: LIASource, motion_codes: torch.Tensor, num_videos_per_image: int, decode_chunk_size: int | None
    ) -> torch.Tensor:
        r"""Renders motion codes (B, F, M) to frames (B, F, 3, H, W) on the CPU, about [-1, 1]."""
        clips = []
        for index, codes in enumerate(motion_codes):
            row = index // num_videos_per_image
            row_source = LIASource(
                latent=source.latent[row : row + 1],
                features=tuple(features[row : row + 1] for features in source.features),
                motion_code=source.motion_code[row : row + 1],
            )
            clips.append(torch.cat([chunk.cpu() for chunk in self.animate(row_source, [codes], decode_chunk_size)]))
        return torch.stack(clips)

    def prepare_latents(
        self,
        batch_size: int,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: torch.Tensor | None,
    ) -> torch.Tensor:
        r"""
        Noise for the diffusion, or the given `latents`: (B, M, L - 1), float32, of unit variance.
        """
        config = self.motion_unet.config
        shape = (batch_size, config.motion_dim, self.motion_unet.num_sample_frames)
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(f"`generator` holds {len(generator)} generators for {batch_size} videos.")
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"`latents` must have the shape {shape}, got {tuple(latents.shape)}.")
        elif not torch.isfinite(latents).all():
            raise ValueError("`latents` holds NaN or infinite values: no motion can be drawn from them.")
        return latents.to(self._execution_device, torch.float32)

    def draw_motion(
        self,
        noise: torch.Tensor,
        start_codes: torch.Tensor,
        num_inference_steps: int,
        generator: torch.Generator | list[torch.Generator] | None,
        callback_on_step_end: Callable | None,
        callback_tensor_inputs: list[str],
    ) -> torch.Tensor:
        r"""Noise (B, M, L - 1) and start codes (B, M) -> standardised residuals (B, M, L - 1), with the callbacks."""
        self._interrupt = False

        def on_step(index: int, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor | None:
            self._num_timesteps = len(self.scheduler.timesteps)
            if callback_on_step_end is not None:
                tensors = dict.fromkeys(callback_tensor_inputs, latents)  # "latents" is the only name there is
                latents = callback_on_step_end(self, index, timestep, tensors).pop("latents", latents)
            return None if self.interrupt else latents

        with self.progress_bar(total=num_inference_steps) as progress_bar:
            conditions = {"start_motion_code": start_codes}  # LEO Eq. 4
            residuals = denoise(
                self.motion_unet,
                self.scheduler,
                noise,
                conditions,
                num_inference_steps,
                generator,
                on_step,
                progress_bar,
            )
        return residuals

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
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        decode_chunk_size: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> LEOPipelineOutput | tuple:
        r"""
        Generates videos that start from `image`.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them): Start frames x_1; cropped and
                resized where needed.
            num_frames (`int`): Frames per video, from 2 to the `sequence_length` of `motion_unet`.
            num_inference_steps (`int`): Denoising steps.
            num_videos_per_prompt (`int`): Videos per image.
            start_motion_code (`torch.Tensor` of shape `(M,)` or `(B, M)`, *optional*): The pose alpha_1 that the
                motion starts from; by default the image's own.
            motion_codes (`torch.Tensor` of shape `(F, M)` or `(B, F, M)`, *optional*): Renders these codes, for
                example of an earlier output, instead of generating new ones; `num_frames` is then theirs. One
                sequence serves all images.
            generator (`torch.Generator` or a list, *optional*): Makes the result reproducible; one per video makes
                each independent of the rest of its batch.
            latents (`torch.Tensor` of shape `(B, M, L - 1)`, *optional*): The noise to start from.
            decode_chunk_size (`int`, *optional*): Frames that go through the animator at a time.
            output_type (`str`): "pil", "np", "pt", or "latent" for the standardised residuals (B, M, L - 1) that the
                denoising loop ends with, or the given `motion_codes`.
            return_dict (`bool`): Whether to return an output object instead of a tuple.
            callback_on_step_end (`Callable`, *optional*): Called after each step as `(pipeline, step, timestep,
                tensors)`, returns a dict of tensors to replace.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*): Names of the tensors that the callback sees.

        Examples:

        Returns:
            [`LEOPipelineOutput`] or `tuple`: The videos and their motion codes (B, F, M).

        Raises:
            TypeError: Where a number is not an integer.
            ValueError: Where an argument cannot be carried out by the model, or does not fit the others.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        tensor_inputs = callback_on_step_end_tensor_inputs or ["latents"]
        num_frames = num_frames if motion_codes is None else None
        self.check_inputs(
            image,
            num_frames,
            num_inference_steps,
            num_videos_per_prompt,
            decode_chunk_size,
            output_type,
            tensor_inputs,
        )
        self.scheduler = without_clipping(self.scheduler)  # it may have been exchanged
        source = self.encode_source(image)
        batch_size = source.latent.shape[0] * num_videos_per_prompt
        if motion_codes is None:
            start_codes = self.prepare_start_codes(source, start_motion_code, num_videos_per_prompt)
            latents = self.prepare_latents(batch_size, generator, latents)
            latents = self.draw_motion(
                latents, start_codes, num_inference_steps, generator, callback_on_step_end, tensor_inputs
            )
            motion_codes = self.motion_unet.unstandardize(latents, start_codes)[:, :num_frames]  # LEO Eq. 3
        else:
            motion_codes = latents = self.prepare_motion_codes(motion_codes, batch_size)
        frames = latents
        if output_type != "latent":
            frames = self.animate_batch(source, motion_codes, num_videos_per_prompt, decode_chunk_size)
            frames = self.postprocess(frames, output_type)
        self.maybe_free_model_hooks()
        return LEOPipelineOutput(frames, motion_codes) if return_dict else (frames, motion_codes)
