"""What the pipelines share: inputs to frames, motion codes to frames, frames to outputs."""

import inspect
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.schedulers import SchedulerMixin

from .. import video_io
from ..models.lia import LIAModel, LIASource
from ..models.motion_unet_1d import MotionUNet1DModel


OUTPUT_TYPES = ("pil", "np", "pt", "latent")
CHUNK_PIXELS = {"cpu": 8 * 256**2, "other": 32 * 256**2}  # frames times pixels that fit the caches, or fill a card
MAX_CHUNK_SIZE = 32  # frames; beyond it small frames gain no speed, and streams lose their immediacy


class AnimatorPipeline(DiffusionPipeline):
    r"""
    Base of the pipelines that render motion codes with a [`LIAModel`] as their component `animator`.
    """

    animator: LIAModel

    @property
    def num_timesteps(self) -> int:
        r"""Number of denoising steps of the last call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        r"""Set `pipeline._interrupt` to True in a callback to end the denoising early."""
        return self._interrupt

    def preprocess(self, image: PIL.Image.Image | np.ndarray | torch.Tensor) -> torch.Tensor:
        r"""
        Args:
            image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): See [`~video_io.to_frame`]. Resized and
                centre-cropped, with a warning where pixels are lost.

        Returns:
            `torch.Tensor` of shape `(1, 3, H, W)`: In [-1, 1], on the device that runs the models.
        """
        return video_io.to_frame(image, self.animator.config.frame_size)[None].to(self._execution_device)

    def check_motion_codes(self, name: str, motion_codes: torch.Tensor) -> torch.Tensor:
        r"""
        Args:
            name (`str`): The argument's name, for the message.
            motion_codes (`torch.Tensor` of shape `(..., M)`): Codes from outside.

        Returns:
            `torch.Tensor` of shape `(..., M)`: float32 on the device that runs the models.
        """
        motion_codes = torch.as_tensor(motion_codes, dtype=torch.float32, device=self._execution_device)
        motion_dim = self.animator.config.motion_dim
        if motion_codes.ndim == 0 or motion_codes.shape[-1] != motion_dim:
            raise ValueError(
                f"`{name}` must have {motion_dim} numbers per frame in its last dimension, got the shape "
                f"{tuple(motion_codes.shape)}."
            )
        if not torch.isfinite(motion_codes).all():
            raise ValueError(f"`{name}` holds NaN or infinite values: no frame can be rendered from them.")
        return motion_codes

    def check_output_type(self, output_type: str) -> None:
        r"""Refuses an unknown `output_type` before anything is computed."""
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` must be one of {OUTPUT_TYPES}, got {output_type!r}.")

    def chunk_size(self, decode_chunk_size: int | None) -> int:
        r"""The number of frames that go through the animator at a time; None picks one for device and frame size."""
        if decode_chunk_size is None:
            budget = CHUNK_PIXELS["cpu" if self._execution_device.type == "cpu" else "other"]
            return min(MAX_CHUNK_SIZE, max(1, budget // self.animator.config.frame_size**2))
        if decode_chunk_size < 1:
            raise ValueError(f"`decode_chunk_size` must be at least 1, got {decode_chunk_size}.")
        return decode_chunk_size

    def denoise(
        self,
        motion_unet: MotionUNet1DModel,
        scheduler: SchedulerMixin,
        latents: torch.Tensor,
        conditions: dict[str, torch.Tensor],
        num_inference_steps: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> torch.Tensor:
        r"""
        The reverse process of the motion diffusion.

        Args:
            motion_unet ([`MotionUNet1DModel`]): Predicts what `scheduler` was trained on.
            scheduler ([`SchedulerMixin`]): Any diffusers scheduler for unbounded samples.
            latents (`torch.Tensor` of shape `(B, M, L')`): Noise, times the scheduler's `init_noise_sigma`.
            conditions (`dict[str, torch.Tensor]`): Clean codes that `motion_unet` takes, each `(B, M)`.
            num_inference_steps (`int`): Denoising steps.
            generator (`torch.Generator` or a list, *optional*): For schedulers that add noise.
            callback_on_step_end (`Callable`, *optional*): See [`LEOPipeline`].
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*): What the callback sees.

        Returns:
            `torch.Tensor` of shape `(B, M, L')`: Standardised codes or residuals.
        """
        scheduler.set_timesteps(num_inference_steps, device=latents.device)
        timesteps = scheduler.timesteps
        self._num_timesteps = len(timesteps)
        self._interrupt = False
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        step_kwargs = {"generator": generator} if takes_generator else {}
        with self.progress_bar(total=num_inference_steps) as progress_bar:
            for i, timestep in enumerate(timesteps):
                if self.interrupt:
                    continue
                model_input = scheduler.scale_model_input(latents, timestep).to(motion_unet.dtype)
                prediction = motion_unet(model_input, timestep, **conditions).sample.float()
                latents = scheduler.step(prediction, timestep, latents, **step_kwargs).prev_sample
                if callback_on_step_end is not None:
                    tensors = {}
                    for name in callback_on_step_end_tensor_inputs:
                        tensors[name] = locals()[name]
                    latents = callback_on_step_end(self, i, timestep, tensors).pop("latents", latents)
                # Schedulers of higher order visit a step several times.
                is_past_warmup = i + 1 > self._num_timesteps - num_inference_steps * scheduler.order
                if i + 1 == self._num_timesteps or (is_past_warmup and (i + 1) % scheduler.order == 0):
                    progress_bar.update()
        return latents

    @torch.no_grad()
    def animate(
        self, source: LIASource, motion_codes: Iterable[torch.Tensor], decode_chunk_size: int | None = None
    ) -> Iterator[torch.Tensor]:
        r"""
        Renders a source with a stream of motion codes, in constant memory.

        Args:
            source ([`LIASource`]): One source frame.
            motion_codes (iterable of `torch.Tensor` of shape `(n, M)`): Codes in order, any number at a time.
            decode_chunk_size (`int`, *optional*): Frames that are rendered at a time.

        Yields:
            `torch.Tensor` of shape `(n, 3, H, W)`: Frames, float32 in about [-1, 1], at most `decode_chunk_size`.
        """
        chunk_size = self.chunk_size(decode_chunk_size)
        for codes in motion_codes:
            for chunk in codes.split(chunk_size):
                yield self.animator.decode(source, chunk).sample.float()

    def postprocess(self, frames: torch.Tensor, output_type: str) -> list | np.ndarray | torch.Tensor:
        r"""(B, F, 3, H, W) in [-1, 1] -> what `output_type` names, by fixed numbers, never stretched."""
        if output_type == "pil":
            return [[video_io.to_pil(frame) for frame in clip] for clip in frames.cpu()]
        frames = video_io.to_unit_range(frames)
        return frames if output_type == "pt" else frames.permute(0, 1, 3, 4, 2).cpu().numpy()
