"""What the pipelines that generate motion share: their components, start poses and first frames."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor

from ..models.lia import LIAModel, LIASource
from ..models.motion_prior import MotionPriorModel
from ..models.motion_unet_1d import MotionUNet1DModel
from ..video_io.images import to_pixels
from .animator_pipeline import AnimatorPipeline
from .cropping import Background, Crop, check_crop, find_image_square
from .denoising import denoise, without_clipping
from .image_editor import call_image_pipeline
from .motion_control import MotionControl
from .pipeline_output import LEOPipelineOutput


logger = logging.get_logger(__name__)

Image = PIL.Image.Image | np.ndarray | torch.Tensor
Generators = torch.Generator | list[torch.Generator] | None
FirstFrameSource = DiffusionPipeline | Callable | None
StepCallback = Callable | PipelineCallback | MultiPipelineCallbacks | None


@dataclass
class FirstFrames:
    r"""
    What the videos of a call begin with.

    Args:
        source ([`LIASource`]): The encoded frames.
        num_videos (`int`): Videos that each frame serves.
        own_codes (`torch.Tensor` of shape `(B, M)`): The pose that each video's frame has.
        start_codes (`torch.Tensor` of shape `(B, M)`): The pose alpha_1 that each video's motion starts from.
        backgrounds (`list` of [`Background`], *optional*): The picture that each frame was cut out of.
    """

    source: LIASource
    num_videos: int
    own_codes: torch.Tensor
    start_codes: torch.Tensor
    backgrounds: list[Background] | None = None


def patch_size(first_frame_unet: UNet2DConditionModel) -> int:
    r"""Side of the square of pixels that a first-frame model takes for one, whose colours are its channels."""
    return math.isqrt(first_frame_unet.config.in_channels // 3)


class MotionPipeline(AnimatorPipeline):
    r"""
    Base of the pipelines that generate motion: a first frame, which is given or drawn, and motion codes.

    Args:
        animator ([`LIAModel`]): The image animator, encoder of the first frame and decoder of motion codes.
        motion_unet ([`MotionUNet1DModel`]): Denoises motion codes.
        scheduler ([`SchedulerMixin`]): Any diffusers scheduler for unbounded samples. Where it would clip predicted
            samples, clipping is turned off: motion codes are not confined to [-1, 1].
        motion_prior ([`MotionPriorModel`], *optional*): Draws single motion codes.
        prior_scheduler ([`SchedulerMixin`], *optional*): Its scheduler, `scheduler` by default.
        first_frame_unet ([`UNet2DConditionModel`], *optional*): Draws a frame in pixels given its motion code; with
            3 p² channels in patches of p times p pixels.
        first_frame_scheduler ([`SchedulerMixin`], *optional*): Its scheduler.

    Raises:
        ValueError: Where the networks were not trained together, or `motion_unet` has another condition.
    """

    model_cpu_offload_seq = "motion_prior->first_frame_unet->motion_unet->animator"
    _optional_components = ["motion_prior", "prior_scheduler", "first_frame_unet", "first_frame_scheduler"]
    _callback_tensor_inputs = ["latents"]
    conditions = ("start",)  # that `motion_unet` may have

    _num_timesteps = 0
    _interrupt = False

    def __init__(
        self,
        animator: LIAModel,
        motion_unet: MotionUNet1DModel,
        scheduler: SchedulerMixin,
        motion_prior: MotionPriorModel | None = None,
        prior_scheduler: SchedulerMixin | None = None,
        first_frame_unet: UNet2DConditionModel | None = None,
        first_frame_scheduler: SchedulerMixin | None = None,
    ):
        super().__init__()
        self.check_codes(animator, motion_unet, motion_prior=motion_prior)
        if motion_unet.config.condition not in self.conditions:
            raise ValueError(
                f"`motion_unet` must have the condition {' or '.join(map(repr, self.conditions))}, got "
                f"{motion_unet.config.condition!r}: train one with examples/train_lmdm.py."
            )
        if first_frame_unet is not None:
            self.check_first_frame_unet(animator, first_frame_unet)
        self.register_modules(
            animator=animator,
            motion_unet=motion_unet,
            scheduler=without_clipping(scheduler),
            motion_prior=motion_prior,
            prior_scheduler=prior_scheduler and without_clipping(prior_scheduler),
            first_frame_unet=first_frame_unet,
            first_frame_scheduler=first_frame_scheduler,
        )

    @property
    def num_timesteps(self) -> int:
        r"""Number of timesteps of the last call; 0 before the first."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        r"""Set `pipeline._interrupt` to True in a callback to end the denoising early."""
        return self._interrupt

    def check_callback(self, callback: StepCallback, tensor_inputs: list[str] | None) -> list[str]:
        r"""The names of the tensors that a callback sees; refuses what it cannot see."""
        if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
            tensor_inputs = callback.tensor_inputs
        unknown = set(tensor_inputs or ()) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` can name {self._callback_tensor_inputs}, got {sorted(unknown)}."
            )
        return tensor_inputs or self._callback_tensor_inputs

    def call_back(
        self,
        callback: StepCallback,
        tensor_inputs: list[str],
        step: int,
        timestep: torch.Tensor,
        latents: torch.Tensor,
    ) -> tuple[torch.Tensor, bool]:
        r"""The latents to go on with after a step, and whether to go on."""
        if callback is not None:
            tensors = dict.fromkeys(tensor_inputs, latents)  # "latents" is the only name there is
            latents = callback(self, step, timestep, tensors).pop("latents", latents)
        return latents, not self.interrupt

    @staticmethod
    def check_codes(
        animator: LIAModel, motion_unet: MotionUNet1DModel, **networks: MotionUNet1DModel | MotionPriorModel | None
    ) -> None:
        r"""Refuses networks of other motion codes than the animator's, and warns where they learned others."""
        for name, network in {"motion_unet": motion_unet, **networks}.items():
            if network is None:
                continue
            if network.config.motion_dim != animator.config.motion_dim:
                raise ValueError(
                    f"`animator` has motion codes of {animator.config.motion_dim} numbers, `{name}` of "
                    f"{network.config.motion_dim}: they were not trained together."
                )
            if not torch.equal(network.statistics.mean.cpu(), motion_unet.statistics.mean.cpu()):
                logger.warning(
                    f"`{name}` and `motion_unet` were trained on different motion codes: unless both sets are of this "
                    "animator, what they draw will not fit."
                )

    @staticmethod
    def check_first_frame_unet(animator: LIAModel, first_frame_unet: UNet2DConditionModel) -> None:
        r"""Refuses a 2-D U-Net that does not draw RGB frames given motion codes of the animator's size."""
        config = first_frame_unet.config
        is_conditioned = config.class_embed_type == "projection"
        code_size = config.projection_class_embeddings_input_dim if is_conditioned else None
        channels = 3 * patch_size(first_frame_unet) ** 2
        if (config.in_channels, config.out_channels, code_size) != (channels, channels, animator.config.motion_dim):
            raise ValueError(
                f"`first_frame_unet` must have 3 channels per pixel of a square patch (3, 12, 48, ...) and a class "
                f"embedding that projects motion codes of {animator.config.motion_dim} numbers, got "
                f"{config.in_channels}, {config.out_channels} and {code_size}: train one with "
                "examples/train_first_frame.py."
            )

    def check_schedulers(self, num_inference_steps: int) -> None:
        r"""
        Refuses schedulers of another kind of model, and more steps than they have, and turns clipping off: they may
        have been exchanged.
        """
        for name in ("scheduler", "prior_scheduler", "transition_scheduler", "first_frame_scheduler"):
            scheduler = getattr(self, name, None)
            if scheduler is None:
                continue
            if not hasattr(scheduler, "scale_model_input"):
                raise ValueError(
                    f"`{name}` is a {type(scheduler).__name__}, which needs a model trained for flow matching: use "
                    "one of the DDPM family, such as DDIMScheduler."
                )
            if num_inference_steps > scheduler.config.num_train_timesteps:
                raise ValueError(
                    f"`num_inference_steps` must be at most {scheduler.config.num_train_timesteps}, the timesteps of "
                    f"`{name}`, got {num_inference_steps}."
                )
            if name != "first_frame_scheduler":  # frames are confined to [-1, 1], codes are not
                setattr(self, name, without_clipping(scheduler))

    def check_first_frame(
        self,
        image: Image | list[Image] | None,
        prompt: str | list[str] | None,
        first_frame_source: FirstFrameSource,
        needs_prior: bool,
    ) -> None:
        r"""Refuses what contradicts itself, and names the components that video from nothing needs and lacks."""
        if image is not None and (prompt is not None or first_frame_source is not None):
            raise ValueError("`image` is a first frame already: leave out `prompt` and `first_frame_source`.")
        for name, value in (("image", image), ("prompt", prompt)):
            if isinstance(value, (list, tuple)) and not value:
                raise ValueError(f"`{name}` is an empty list: give at least one {name}, or None.")
        if prompt is not None and first_frame_source is None:
            raise ValueError(
                "`prompt` needs `first_frame_source`, for example a diffusers text-to-image pipeline: LEO's own "
                "first-frame model takes no prompt."
            )
        if first_frame_source is not None and not callable(first_frame_source):
            raise TypeError(
                "`first_frame_source` must be a diffusers pipeline or a function, got "
                f"{type(first_frame_source).__name__}: load it first."
            )
        if image is not None or first_frame_source is not None:
            return
        needed = ["first_frame_unet", "first_frame_scheduler"] + ["motion_prior"] * needs_prior
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(
                f"Video from nothing needs {', '.join(f'`{name}`' for name in missing)}: train with "
                "examples/train_first_frame.py and train_motion_prior.py, and add with `leo-diffusers assemble`; or "
                "pass `image`, or `first_frame_source`."
            )

    def check_crop(self, crop: Crop, paste_back: bool, image: Image | list[Image] | None, output_type: str) -> None:
        r"""Refuses an unknown `crop`, and to put videos back into nothing, or those of several sizes in an array."""
        check_crop(crop, paste_back, output_type)
        if not paste_back:
            return
        if image is None:
            raise ValueError("`paste_back` puts the video back into `image`: give one, or leave it out.")
        sizes = {to_pixels(one).shape[:2] for one in self.list_images(image)}
        if output_type != "pil" and len(sizes) > 1:
            found = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
            raise ValueError(
                f'`paste_back` gives videos of the sizes of `image` ({found}), which only `output_type="pil"` holds.'
            )

    @staticmethod
    def list_images(image: Image | list[Image]) -> list[Image]:
        r"""One image or a batch of them, as a list."""
        is_batch = isinstance(image, (list, tuple)) or getattr(image, "ndim", 0) == 4
        return list(image) if is_batch else [image]

    def encode_source(
        self, images: list[Image], crop: Crop = "center", paste_back: bool = False
    ) -> tuple[LIASource, list[Background] | None]:
        r"""Images to one [`LIASource`] of as many rows, and where asked for, what the videos are put back into."""
        squares = [find_image_square(image, crop) for image in images]
        frames = [self.preprocess(image, square) for image, square in zip(images, squares)]
        backgrounds = [Background.of_image(image, square) for image, square in zip(images, squares) if paste_back]
        return self.animator.encode_source(torch.cat(frames)), backgrounds or None

    def check_generators(self, generator: Generators, batch_size: int) -> None:
        r"""Refuses what is no generator, and a list of another length than the batch."""
        for one in generator if isinstance(generator, list) else [generator]:
            if one is not None and not isinstance(one, torch.Generator):
                raise TypeError(f"`generator` must be a torch.Generator or a list of them, got {type(one).__name__}.")
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(f"`generator` holds {len(generator)} generators for {batch_size} videos.")

    def draw_noise(self, shape: tuple[int, ...], generator: Generators) -> torch.Tensor:
        r"""Noise of unit variance, float32."""
        return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)

    def draw_start_codes(self, batch_size: int, num_inference_steps: int, generator: Generators) -> torch.Tensor:
        r"""
        Draws poses alpha_1 from the motion prior, LEO's simple DM.

        Args:
            batch_size (`int`): How many.
            num_inference_steps (`int`): Denoising steps.
            generator (`torch.Generator` or a list, *optional*): Of all or of each.

        Returns:
            `torch.Tensor` of shape `(B, M)`: Motion codes.
        """
        noise = self.draw_noise((batch_size, self.animator.config.motion_dim), generator)
        scheduler = self.prior_scheduler or self.scheduler
        return self.motion_prior.unstandardize(
            denoise(self.motion_prior, scheduler, noise, {}, num_inference_steps, generator)
        )

    def draw_first_frames(
        self, start_codes: torch.Tensor, num_inference_steps: int, generator: Generators
    ) -> torch.Tensor:
        r"""
        Draws first frames x_1 given their poses, LEO's cDDPM.

        Args:
            start_codes (`torch.Tensor` of shape `(B, M)`): Motion codes.
            num_inference_steps (`int`): Denoising steps.
            generator (`torch.Generator` or a list, *optional*): Of all or of each.

        Returns:
            `torch.Tensor` of shape `(B, 3, H, W)`: In [-1, 1], at the animator's frame size.
        """
        unet, frame_size = self.first_frame_unet, self.animator.config.frame_size
        size = unet.config.sample_size
        noise = self.draw_noise((len(start_codes), unet.config.in_channels, size, size), generator)
        conditions = {"encoder_hidden_states": None, "class_labels": start_codes.to(unet.dtype)}
        with self.progress_bar(total=num_inference_steps) as progress_bar:
            frames = denoise(
                unet,
                self.first_frame_scheduler,
                noise,
                conditions,
                num_inference_steps,
                generator,
                progress_bar=progress_bar,
            )
        frames = F.pixel_shuffle(frames, patch_size(unet))
        if frames.shape[-1] != frame_size:
            frames = F.interpolate(frames, (frame_size, frame_size), mode="bicubic", antialias=True)
        return frames.clamp(-1, 1)

    def call_first_frame_source(
        self,
        first_frame_source: DiffusionPipeline | Callable,
        prompt: str | list[str] | None,
        batch_size: int,
        generator: Generators,
    ) -> list[PIL.Image.Image]:
        r"""One first frame for every video, from outside."""
        prompts = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
        prompts = [one for one in prompts for _ in range(batch_size // len(prompts))]
        generators = generator if isinstance(generator, list) else [generator] * len(prompts)
        return [
            call_image_pipeline(first_frame_source, generator=one, **({} if words is None else {"prompt": words}))
            for words, one in zip(prompts, generators)
        ]

    def count_videos(
        self, image: Image | list[Image] | None, prompt: str | list[str] | None, num_videos_per_prompt: int
    ) -> int:
        r"""The number B of videos that a call makes."""
        given = prompt if image is None else image
        is_batch = isinstance(given, (list, tuple)) or getattr(given, "ndim", 0) == 4
        return num_videos_per_prompt * (len(given) if is_batch else 1)

    def prepare_start_codes(self, start_motion_code: torch.Tensor | None, batch_size: int) -> torch.Tensor | None:
        r"""The given pose alpha_1 for every video, (B, M); None where none is given."""
        if start_motion_code is None:
            return None
        start_motion_code = self.check_motion_codes("start_motion_code", start_motion_code)
        if start_motion_code.ndim > 2 or (
            start_motion_code.ndim == 2 and len(start_motion_code) not in (1, batch_size)
        ):
            raise ValueError(
                f"`start_motion_code` must have the shape (M,) or ({batch_size}, M), one row per video, got "
                f"{tuple(start_motion_code.shape)}."
            )
        return start_motion_code.expand(batch_size, -1)

    def prepare_first_frames(
        self,
        image: Image | list[Image] | None,
        prompt: str | list[str] | None,
        first_frame_source: FirstFrameSource,
        start_codes: torch.Tensor | None,
        batch_size: int,
        num_inference_steps: int,
        generator: Generators,
        crop: Crop,
        paste_back: bool,
    ) -> FirstFrames:
        r"""The first frames of a call, encoded: given, of `first_frame_source`, or drawn for their poses."""
        backgrounds = None
        if image is not None:
            source, backgrounds = self.encode_source(self.list_images(image), crop, paste_back)
        elif first_frame_source is not None:
            images = self.call_first_frame_source(first_frame_source, prompt, batch_size, generator)
            source, _ = self.encode_source(images, crop)
        else:
            if start_codes is None:
                start_codes = self.draw_start_codes(batch_size, num_inference_steps, generator)
            source = self.animator.encode_source(self.draw_first_frames(start_codes, num_inference_steps, generator))
        num_videos = batch_size // source.latent.shape[0]
        own_codes = source.motion_code.float().repeat_interleave(num_videos, dim=0)
        start_codes = own_codes if start_codes is None else start_codes
        return FirstFrames(source, num_videos, own_codes, start_codes, backgrounds)

    def render_videos(
        self,
        first: FirstFrames,
        motion_codes: torch.Tensor,
        motion_control: MotionControl | None,
        decode_chunk_size: int | None,
        output_type: str,
        return_dict: bool,
        latents: torch.Tensor | None = None,
    ) -> LEOPipelineOutput | tuple:
        r"""Motion codes (B, F, M) to a pipeline's output; `latents` or else the codes are what "latent" returns."""
        if motion_control is not None:
            motion_codes = motion_control.apply_batch(motion_codes, first.own_codes)
        frames = motion_codes if latents is None else latents
        if output_type != "latent":
            frames = self.animate_batch(
                first.source, motion_codes, first.num_videos, decode_chunk_size, output_type, first.backgrounds
            )
        self.maybe_free_model_hooks()
        return LEOPipelineOutput(frames, motion_codes) if return_dict else (frames, motion_codes)
