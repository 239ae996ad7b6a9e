"""What the pipelines that generate motion share: their components, start poses and first frames."""

from collections.abc import Callable

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from ..models.lia import LIAModel, LIASource
from ..models.motion_prior import MotionPriorModel
from ..models.motion_unet_1d import MotionUNet1DModel
from .animator_pipeline import AnimatorPipeline
from .denoising import denoise, without_clipping
from .image_editor import call_image_pipeline


Image = PIL.Image.Image | np.ndarray | torch.Tensor
Generators = torch.Generator | list[torch.Generator] | None
FirstFrameSource = DiffusionPipeline | Callable | None


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
        first_frame_unet ([`UNet2DConditionModel`], *optional*): Draws a frame in pixels given its motion code.
        first_frame_scheduler ([`SchedulerMixin`], *optional*): Its scheduler.

    Raises:
        ValueError: Where the networks were not trained together, or `motion_unet` has another condition.
    """

    model_cpu_offload_seq = "motion_prior->first_frame_unet->motion_unet->animator"
    _optional_components = ["motion_prior", "prior_scheduler", "first_frame_unet", "first_frame_scheduler"]
    conditions = ("start",)  # that `motion_unet` may have

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
        self.check_motion_dim(animator, motion_unet=motion_unet, motion_prior=motion_prior)
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

    @staticmethod
    def check_motion_dim(animator: LIAModel, **networks: MotionUNet1DModel | MotionPriorModel | None) -> None:
        r"""Refuses networks whose motion codes have another size than the animator's."""
        for name, network in networks.items():
            if network is not None and network.config.motion_dim != animator.config.motion_dim:
                raise ValueError(
                    f"`animator` has motion codes of {animator.config.motion_dim} numbers, `{name}` of "
                    f"{network.config.motion_dim}: they were not trained together."
                )

    @staticmethod
    def check_first_frame_unet(animator: LIAModel, first_frame_unet: UNet2DConditionModel) -> None:
        r"""Refuses a 2-D U-Net that does not draw RGB frames given motion codes of the animator's size."""
        config = first_frame_unet.config
        is_conditioned = config.class_embed_type == "projection"
        code_size = config.projection_class_embeddings_input_dim if is_conditioned else None
        if (config.in_channels, config.out_channels, code_size) != (3, 3, animator.config.motion_dim):
            raise ValueError(
                f"`first_frame_unet` must have 3 channels and a class embedding that projects motion codes of "
                f"{animator.config.motion_dim} numbers, got {config.in_channels}, {config.out_channels} and "
                f"{code_size}: train one with examples/train_first_frame.py."
            )

    def check_counts(self, **counts: int) -> None:
        r"""Refuses what is no positive integer; each is named."""
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"`{name}` must be an integer, got {value!r}.")
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if counts.get("num_frames", 2) < 2:
            raise ValueError(
                f"`num_frames` must be at least 2, got {counts['num_frames']}: one frame holds no motion."
            )

    def check_schedulers(self, num_inference_steps: int) -> None:
        r"""
        Refuses schedulers of another kind of model, and more steps than they have, and turns clipping off: they may
        have been exchanged.
        """
        for name in ("scheduler", "prior_scheduler", "transition_scheduler"):
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

    def encode_source(self, image: Image | list[Image]) -> LIASource:
        r"""One image or a list of them, to one [`LIASource`] of as many rows."""
        is_batch = isinstance(image, (list, tuple)) or (getattr(image, "ndim", 0) == 4)
        return self.animator.encode_source(
            torch.cat([self.preprocess(one) for one in (image if is_batch else [image])])
        )

    def check_generators(self, generator: Generators, batch_size: int) -> None:
        r"""Refuses a list of generators of another length than the batch."""
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
        noise = self.draw_noise((len(start_codes), 3, unet.config.sample_size, unet.config.sample_size), generator)
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
        if unet.config.sample_size != frame_size:
            frames = F.interpolate(frames, (frame_size, frame_size), mode="bicubic", antialias=True)
        return frames.clamp(-1, 1)

    def call_first_frame_source(
        self,
        first_frame_source: DiffusionPipeline | Callable,
        prompt: str | list[str] | None,
        num_videos_per_prompt: int,
        generator: Generators,
    ) -> list[PIL.Image.Image]:
        r"""One first frame for every video, from outside."""
        prompts = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
        prompts = [one for one in prompts for _ in range(num_videos_per_prompt)]
        self.check_generators(generator, len(prompts))
        generators = generator if isinstance(generator, list) else [generator] * len(prompts)
        return [
            call_image_pipeline(first_frame_source, generator=one, **({} if words is None else {"prompt": words}))
            for words, one in zip(prompts, generators)
        ]

    def prepare_start_codes(self, start_motion_code: torch.Tensor, batch_size: int) -> torch.Tensor:
        r"""The given pose alpha_1 for every video, (B, M)."""
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
        num_videos_per_prompt: int,
        num_inference_steps: int,
        generator: Generators,
    ) -> tuple[LIASource, int]:
        r"""
        Encodes the first frames of a call: given, of `first_frame_source`, or drawn for their poses `start_codes`.

        Returns:
            `tuple[LIASource, int]`: The sources, and the number of videos that each serves.
        """
        if image is not None:
            return self.encode_source(image), num_videos_per_prompt
        if first_frame_source is not None:
            frames = self.call_first_frame_source(first_frame_source, prompt, num_videos_per_prompt, generator)
            return self.encode_source(frames), 1
        return self.animator.encode_source(self.draw_first_frames(start_codes, num_inference_steps, generator)), 1
