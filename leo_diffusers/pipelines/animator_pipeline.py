"""What the pipelines share: inputs to frames, motion codes to frames, frames to outputs."""

import inspect
from collections.abc import Iterable, Iterator
from numbers import Integral

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from tqdm import tqdm

from .. import video_io
from ..models.lia import LIAModel, LIASource
from ..video_io.squares import Square
from .cropping import Background
from .motion_control import MotionControl
from .published_pipeline import PublishedPipeline


OUTPUT_TYPES = ("pil", "np", "pt", "latent")
CHUNK_PIXELS = {"cpu": 8 * 256**2, "other": 32 * 256**2}  # frames times pixels that fit the caches, or fill a card
MAX_CHUNK_SIZE = 32  # frames; beyond it small frames gain no speed, and streams lose their immediacy


class AnimatorPipeline(PublishedPipeline):
    r"""
    Base of the pipelines that render motion codes with a [`LIAModel`] as their component `animator`.
    """

    animator: LIAModel

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: object) -> "AnimatorPipeline":
        r"""
        Another pipeline on the same networks, as of `DiffusionPipeline.from_pipe`, which however casts all of them, in
        place, to float32 unless it is told a `dtype`: here they stay as they are.
        """
        parameters = inspect.signature(cls.__init__).parameters
        found = {name: getattr(pipeline, name) for name in parameters if getattr(pipeline, name, None) is not None}
        components = found | kwargs
        required = {name for name, one in parameters.items() if one.default is one.empty and name != "self"}
        if set(components) <= set(parameters) and required <= set(components):
            return cls(**components)
        return super().from_pipe(pipeline, **kwargs)  # casts as it is told, or says what is missing

    def preprocess(
        self, image: PIL.Image.Image | np.ndarray | torch.Tensor, square: Square | None = None
    ) -> torch.Tensor:
        r"""
        Args:
            image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): See [`~video_io.to_frame`]. Resized and
                centre-cropped, with a warning where pixels are lost.
            square ([`~video_io.Square`], *optional*): Part of the image to cut out instead of the central one.

        Returns:
            `torch.Tensor` of shape `(1, 3, H, W)`: In [-1, 1], on the device that runs the models.
        """
        return video_io.to_frame(image, self.animator.config.frame_size, square)[None].to(self._execution_device)

    def check_motion_codes(self, name: str, motion_codes: torch.Tensor) -> torch.Tensor:
        r"""
        Args:
            name (`str`): The argument's name, for the message.
            motion_codes (`torch.Tensor` of shape `(..., M)`): Codes from outside.

        Returns:
            `torch.Tensor` of shape `(..., M)`: float32 on the device that runs the models.

        Raises:
            ValueError: Where they have another size, or hold NaN or infinite values.
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

    def check_counts(self, **counts: int) -> None:
        r"""Refuses what is no positive integer, or in `num_frames` a video without motion; each is named."""
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise TypeError(f"`{name}` must be an integer, got {value!r}.")
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
            if name == "num_frames" and value < 2:
                raise ValueError(f"`num_frames` must be at least 2, got {value}: one frame holds no motion.")

    def check_motion_control(self, motion_control: MotionControl | None, num_frames: int | None = None) -> None:
        r"""
        Refuses what is no [`MotionControl`], or one of directions that the animator does not have, or with a curve
        that is shorter than the video, where `num_frames` is known.
        """
        if motion_control is None:
            return
        if not isinstance(motion_control, MotionControl):
            raise TypeError(f"`motion_control` must be a MotionControl, got {type(motion_control).__name__}.")
        motion_control.check(self.animator.config.motion_dim, num_frames)

    def chunk_size(self, decode_chunk_size: int | None) -> int:
        r"""The number of frames that go through the animator at a time; None picks one for device and frame size."""
        if decode_chunk_size is None:
            budget = CHUNK_PIXELS["cpu" if self._execution_device.type == "cpu" else "other"]
            return min(MAX_CHUNK_SIZE, max(1, budget // self.animator.config.frame_size**2))
        self.check_counts(decode_chunk_size=decode_chunk_size)
        return decode_chunk_size

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

    @torch.no_grad()
    def stream_frames(
        self,
        source: LIASource,
        motion_codes: Iterable[torch.Tensor],
        decode_chunk_size: int | None = None,
        output_type: str = "pil",
        background: Background | None = None,
    ) -> Iterator[PIL.Image.Image | np.ndarray | torch.Tensor]:
        r"""
        Renders a source with a stream of motion codes frame by frame, in constant memory. The end of a pipeline's run:
        offloaded models are put away when the stream ends, fails or is closed.

        Args:
            source ([`LIASource`]): One source frame.
            motion_codes (iterable of `torch.Tensor` of shape `(n, M)`): Codes in order, any number at a time.
            decode_chunk_size (`int`, *optional*): Frames that are rendered at a time.
            output_type (`str`): "pil", "np", "pt", or "latent" to render nothing.
            background ([`Background`], *optional*): Pictures that the frames are put back into.

        Yields:
            `PIL.Image.Image`, `np.ndarray` of shape `(H, W, 3)` in [0, 1], `torch.Tensor` of shape `(3, H, W)` in
            [0, 1], or for "latent" the motion code, a `torch.Tensor` of shape `(M,)`: One frame, float32, on the CPU.
        """
        try:
            if output_type == "latent":
                for codes in motion_codes:
                    yield from codes.float().cpu()
                return
            yield from self.finished_frames(source, motion_codes, decode_chunk_size, output_type, background)
        finally:
            self.maybe_free_model_hooks()

    def finished_frames(
        self,
        source: LIASource,
        motion_codes: Iterable[torch.Tensor],
        decode_chunk_size: int | None,
        output_type: str,
        background: Background | None,
    ) -> Iterator[PIL.Image.Image | np.ndarray | torch.Tensor]:
        r"""Single frames as [`~AnimatorPipeline.stream_frames`] yields them, for it and for whole clips."""
        for chunk in self.animate(source, motion_codes, decode_chunk_size):
            for frame in chunk.cpu() if background is None else background.paste(chunk.cpu()):
                yield self.postprocess(frame[None, None], output_type)[0][0]

    def animate_batch(
        self,
        source: LIASource,
        motion_codes: torch.Tensor,
        num_videos_per_image: int,
        decode_chunk_size: int | None,
        output_type: str,
        backgrounds: list[Background] | None = None,
    ) -> list | np.ndarray | torch.Tensor:
        r"""Renders motion codes (B, F, M) of as many videos of each source as is said, to what `output_type` names."""
        clips = []
        with self.rendering_bar(motion_codes.shape[0] * motion_codes.shape[1]) as progress_bar:
            for index, codes in enumerate(motion_codes):
                row = index // num_videos_per_image
                row_source = LIASource(
                    latent=source.latent[row : row + 1],
                    features=tuple(features[row : row + 1] for features in source.features),
                    motion_code=source.motion_code[row : row + 1],
                )
                background = backgrounds[row] if backgrounds else None
                clip = []
                for frame in self.finished_frames(row_source, [codes], decode_chunk_size, output_type, background):
                    clip.append(frame)
                    progress_bar.update()
                clips.append(self.join(clip, output_type))
        return self.join(clips, output_type)

    def rendering_bar(self, num_frames: int) -> tqdm:
        r"""The progress bar of the frames that a call renders."""
        return self.progress_bar(total=num_frames)

    def join(self, parts: list, output_type: str) -> list | np.ndarray | torch.Tensor:
        r"""Frames to a clip, or clips to a batch."""
        return {"pil": list, "np": np.stack, "pt": torch.stack}[output_type](parts)

    def postprocess(self, frames: torch.Tensor, output_type: str) -> list | np.ndarray | torch.Tensor:
        r"""(B, F, 3, H, W) in [-1, 1] -> what `output_type` names, by fixed numbers, never stretched."""
        if output_type == "pil":
            return [[video_io.to_pil(frame) for frame in clip] for clip in frames.cpu()]
        frames = video_io.to_unit_range(frames)
        return frames if output_type == "pt" else frames.permute(0, 1, 3, 4, 2).cpu().numpy()
