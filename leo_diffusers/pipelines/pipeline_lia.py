"""LIAPipeline: a photo moves like the person in a driving video."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from diffusers.utils import replace_example_docstring

from .. import video_io
from ..models.lia import LIAModel, LIASource
from ..video_io.squares import Square
from .animator_pipeline import AnimatorPipeline
from .cropping import Background, Crop, DrivingVideo, check_crop, find_image_square, find_video_square
from .motion_control import MotionControl, check_direction, check_number
from .pipeline_output import LEOPipelineOutput


EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> from PIL import Image
        >>> from leo_diffusers import DEMO_MODEL, LIAPipeline
        >>> from leo_diffusers.video_io import VideoReader, write_video

        >>> pipeline = LIAPipeline.from_pretrained(DEMO_MODEL)  # or a folder, or a Hub id
        >>> output = pipeline(Image.open("photo.png"), "driving.mp4", motion_mode="relative", reference_frame="auto")
        >>> rate = VideoReader("driving.mp4").frames_per_second
        >>> write_video("animated.mp4", output.frames[0], rate, audio_from="driving.mp4")
        >>> output.motion_codes.shape  # clips, frames, motion directions
        torch.Size([1, 16, 20])
        ```
"""


def batches(items: Iterable[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    r"""Stacks a stream of equally shaped tensors, `size` at a time; the last may be smaller."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)


class LIAPipeline(AnimatorPipeline):
    r"""
    Animation of a still image by a driving video, and by hand along single motion directions (LIA).

    Args:
        animator ([`LIAModel`]): The image animator.
    """

    model_cpu_offload_seq = "animator"

    def __init__(self, animator: LIAModel):
        super().__init__()
        self.register_modules(animator=animator)

    def check_inputs(
        self,
        motion_mode: str,
        reference_frame: int | str,
        motion_control: MotionControl | None,
        decode_chunk_size: int | None,
        output_type: str,
        crop: Crop,
        paste_back: bool,
    ) -> None:
        r"""Refuses what cannot be carried out before anything is read."""
        if motion_mode not in ("relative", "absolute"):
            raise ValueError(f'`motion_mode` must be "relative" or "absolute", got {motion_mode!r}.')
        is_index = isinstance(reference_frame, int) and not isinstance(reference_frame, bool) and reference_frame >= 0
        if reference_frame != "auto" and not is_index:
            raise ValueError(
                f'`reference_frame` must be the index of a driving frame, from 0, or "auto", got {reference_frame!r}.'
            )
        self.check_motion_control(motion_control)
        self.chunk_size(decode_chunk_size)
        self.check_output_type(output_type)
        check_crop(crop, paste_back, output_type)

    def encode_driving(
        self, driving_video: DrivingVideo, chunk_size: int | None = None, square: Square | None = None
    ) -> Iterator[torch.Tensor]:
        r"""
        Opens a driving video at once, and encodes it as it is read.

        Args:
            driving_video (`str`, `Path`, [`~video_io.VideoReader`] or iterable): A file, or frames as
                [`~video_io.to_frame`] takes them.
            chunk_size (`int`, *optional*): Frames that are encoded at a time.
            square ([`~video_io.Square`], *optional*): Part of every frame to cut out instead of the central one.

        Returns:
            Iterator of `torch.Tensor` of shape `(n, M)`: Motion codes in order.

        Raises:
            FileNotFoundError: Where there is no such file.
            ValueError: Where the video cannot be read; while it is read, where it holds no frames.
        """
        frame_size = self.animator.config.frame_size
        if isinstance(driving_video, (str, Path)):
            frames = video_io.VideoReader(driving_video, frame_size=frame_size, square=square)
        else:
            frames = (video_io.to_frame(frame, frame_size, square) for frame in driving_video)
        return self._encode_frames(frames, self.chunk_size(chunk_size))

    @torch.no_grad()
    def _encode_frames(self, frames: Iterable[torch.Tensor], chunk_size: int) -> Iterator[torch.Tensor]:
        num_frames = 0
        for batch in batches(frames, chunk_size):
            num_frames += len(batch)
            yield self.animator.encode_motion(batch.to(self._execution_device))
        if num_frames == 0:
            raise ValueError("`driving_video` holds no frames.")

    def transfer_motion(
        self,
        source: LIASource,
        driving_codes: Iterable[torch.Tensor],
        motion_mode: str = "relative",
        reference_frame: int | str = 0,
    ) -> Iterator[torch.Tensor]:
        r"""
        Turns the motion codes of a driving video into those of the source: LIA Eq. 11 (absolute) or 12 (relative).

        Args:
            source ([`LIASource`]): The source frame.
            driving_codes (iterable of `torch.Tensor` of shape `(n, M)`): Codes of the driving frames in order. They
                are held back until the reference frame is known: with "auto", to the end.
            motion_mode (`str`): "relative" adds the driving motion since the reference frame to the source's pose;
                "absolute" takes the driving pose over.
            reference_frame (`int` or `str`): Driving frame that corresponds to the source's pose; "auto" is the one
                whose code is nearest to the source's.

        Yields:
            `torch.Tensor` of shape `(n, M)`: Codes to render.

        Raises:
            ValueError: Where the driving video ends before `reference_frame`.
        """
        if motion_mode == "absolute":
            yield from driving_codes
            return
        held_back = []
        offset = None
        for codes in driving_codes:
            if offset is None:
                held_back.append(codes)
                num_held = sum(len(held) for held in held_back)
                if reference_frame == "auto" or num_held <= reference_frame:
                    continue
                codes = torch.cat(held_back)
                offset = source.motion_code - codes[reference_frame]
            yield codes + offset
        if offset is not None:
            return
        codes = torch.cat(held_back)
        if reference_frame != "auto":
            raise ValueError(
                f"`reference_frame` is {reference_frame}, but the driving video has {len(codes)} frames: choose one "
                f"from 0 to {len(codes) - 1}."
            )
        nearest = (codes - source.motion_code).square().sum(dim=1).argmin()
        yield codes + (source.motion_code - codes[nearest])

    def driven_motion(
        self,
        source: LIASource,
        driving_video: DrivingVideo,
        motion_mode: str,
        reference_frame: int | str,
        motion_control: MotionControl | None,
        chunk_size: int | None,
        square: Square | None = None,
    ) -> Iterator[torch.Tensor]:
        r"""The codes (n, M) to render, as the driving video is read."""
        driving_codes = self.encode_driving(driving_video, chunk_size, square)
        motion_codes = self.transfer_motion(source, driving_codes, motion_mode, reference_frame)
        return motion_codes if motion_control is None else motion_control.apply(motion_codes, source.motion_code)

    def prepare_animation(
        self,
        image: PIL.Image.Image | np.ndarray | torch.Tensor,
        driving_video: DrivingVideo,
        motion_mode: str,
        reference_frame: int | str,
        motion_control: MotionControl | None,
        decode_chunk_size: int | None,
        output_type: str,
        crop: Crop,
        paste_back: bool,
    ) -> tuple[LIASource, Iterator[torch.Tensor], Background | None]:
        r"""What [`~AnimatorPipeline.stream_frames`] renders: the source, the codes to come, and what is around it."""
        self.check_inputs(
            motion_mode, reference_frame, motion_control, decode_chunk_size, output_type, crop, paste_back
        )
        square = find_image_square(image, crop)
        driving_video, driving_square = find_video_square(driving_video, crop)
        source = self.animator.encode_source(self.preprocess(image, square))
        motion_codes = self.driven_motion(
            source, driving_video, motion_mode, reference_frame, motion_control, decode_chunk_size, driving_square
        )
        return source, motion_codes, Background.of_image(image, square) if paste_back else None

    @torch.no_grad()
    def stream(
        self,
        image: PIL.Image.Image | np.ndarray | torch.Tensor,
        driving_video: DrivingVideo,
        motion_mode: str = "relative",
        reference_frame: int | str = 0,
        motion_control: MotionControl | None = None,
        decode_chunk_size: int | None = None,
        output_type: str = "pil",
        crop: Crop = "center",
        paste_back: bool = False,
    ) -> Iterator[PIL.Image.Image | np.ndarray | torch.Tensor]:
        r"""
        Animates while the driving video is read, frame by frame: memory does not grow with its length.

        Args: as [`~LIAPipeline.__call__`].

        Returns:
            Iterator of `PIL.Image.Image`, `np.ndarray` of shape `(H, W, 3)` in [0, 1], `torch.Tensor` of shape
            `(3, H, W)` in [0, 1], or for "latent" of motion codes, `torch.Tensor` of shape `(M,)`: single frames,
            float32, on the CPU.

        Raises: as [`~LIAPipeline.__call__`], at once; only that a video turns out too short for `reference_frame` or
            a curve of `motion_control` shows when its end is reached.

        Examples:
            ```py
            >>> from PIL import Image
            >>> from leo_diffusers import DEMO_MODEL, LIAPipeline
            >>> from leo_diffusers.video_io import VideoReader, VideoWriter, to_frame

            >>> pipeline = LIAPipeline.from_pretrained(DEMO_MODEL)
            >>> rate = VideoReader("driving.mp4").frames_per_second
            >>> with VideoWriter("animated.mp4", rate, audio_from="driving.mp4") as writer:
            ...     for frame in pipeline.stream(Image.open("photo.png"), "driving.mp4"):
            ...         writer.write(to_frame(frame))
            ```
        """
        source, motion_codes, background = self.prepare_animation(
            image,
            driving_video,
            motion_mode,
            reference_frame,
            motion_control,
            decode_chunk_size,
            output_type,
            crop,
            paste_back,
        )
        return self.stream_frames(source, motion_codes, decode_chunk_size, output_type, background)

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        image: PIL.Image.Image | np.ndarray | torch.Tensor,
        driving_video: DrivingVideo,
        motion_mode: str = "relative",
        reference_frame: int | str = 0,
        motion_control: MotionControl | None = None,
        decode_chunk_size: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        crop: Crop = "center",
        paste_back: bool = False,
    ) -> LEOPipelineOutput | tuple:
        r"""
        Animates `image` with the motion of `driving_video`. All frames are returned at once; [`~LIAPipeline.stream`]
        serves long videos.

        Args:
            image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): The source; cropped as `crop` says and resized.
            driving_video (`str`, `Path`, [`~video_io.VideoReader`] or iterable): A file, or frames.
            motion_mode (`str`): "relative" (the source keeps its pose and adds the driving motion) or "absolute".
            reference_frame (`int` or `str`): For relative motion, the driving frame that corresponds to the source's
                pose; "auto" is the one whose motion code is nearest to the source's.
            motion_control ([`MotionControl`], *optional*): Smooths, scales or replaces the motion, counted from the
                source's own code.
            decode_chunk_size (`int`, *optional*): Frames that go through the animator at a time.
            output_type (`str`): "pil", "np", "pt", or "latent" for the motion codes alone.
            return_dict (`bool`): Whether to return an output object instead of a tuple.
            crop (`str` or `Callable`): What the animator sees of a picture that is not square or larger than a head:
                "center", the central square, with a warning; "auto", a square around the face, found by OpenCV; or
                "none", which refuses what is not square. A function from a picture `(H, W, 3)`, uint8, to boxes
                (left, top, right, bottom) of faces does what "auto" does, with another detector. Source and driving
                video have a square each, the same for all frames.
            paste_back (`bool`): Whether to return `image` at its own size, with the animated square put back into its
                place, instead of that square alone. What is around the square stays still: where the head, shoulders
                or background move across its border, they are cut off there, and the border, which fades, shows.

        Examples:

        Returns:
            [`LEOPipelineOutput`] or `tuple`: One clip and the motion codes it was rendered from.

        Raises:
            FileNotFoundError: Where there is no such driving video.
            TypeError: Where `image` or `motion_control` is of another type.
            ValueError: Where an argument is none of those named here, or image or video cannot be read.
        """
        source, motion_codes, background = self.prepare_animation(
            image,
            driving_video,
            motion_mode,
            reference_frame,
            motion_control,
            decode_chunk_size,
            output_type,
            crop,
            paste_back,
        )
        motion_codes = torch.cat(list(motion_codes))
        return self.render(source, motion_codes, decode_chunk_size, output_type, return_dict, background)

    @torch.no_grad()
    def manipulate(
        self,
        image: PIL.Image.Image | np.ndarray | torch.Tensor,
        directions: dict[int, float],
        num_frames: int = 1,
        output_type: str = "pil",
        return_dict: bool = True,
        crop: Crop = "center",
        paste_back: bool = False,
    ) -> LEOPipelineOutput | tuple:
        r"""
        Moves `image` along single motion directions (LIA Fig. 11).

        Args:
            image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): The source.
            directions (`dict[int, float]`): Direction index, from 0, to the amount added to the source's code.
            num_frames (`int`): Frames of an even walk that ends at the full amounts.
            output_type (`str`): "pil", "np", "pt" or "latent".
            return_dict (`bool`): Whether to return an output object instead of a tuple.
            crop (`str` or `Callable`): As of [`~LIAPipeline.__call__`].
            paste_back (`bool`): As of [`~LIAPipeline.__call__`].

        Returns:
            [`LEOPipelineOutput`] or `tuple`: One clip of `num_frames` frames and its motion codes.

        Raises:
            TypeError: Where an amount is no number.
            ValueError: Where the model has no such direction, or an amount is not finite.

        Examples:
            ```py
            >>> from PIL import Image
            >>> from leo_diffusers import DEMO_MODEL, LIAPipeline

            >>> pipeline = LIAPipeline.from_pretrained(DEMO_MODEL)
            >>> output = pipeline.manipulate(Image.open("photo.png"), {6: 0.3, 2: -0.5}, num_frames=8)
            >>> len(output.frames[0])
            8
            >>> output.frames[0][-1].save("moved.png")
            ```
        """
        self.check_output_type(output_type)
        check_crop(crop, paste_back, output_type)
        if num_frames < 1:
            raise ValueError(f"`num_frames` must be at least 1, got {num_frames}.")
        motion_dim = self.animator.config.motion_dim
        step = torch.zeros(motion_dim)
        for direction, amount in directions.items():
            check_direction("directions", direction, motion_dim)
            check_number("directions", amount)
            step[direction] = amount
        square = find_image_square(image, crop)
        source = self.animator.encode_source(self.preprocess(image, square))
        background = Background.of_image(image, square) if paste_back else None
        progress = torch.arange(1, num_frames + 1)[:, None] / num_frames  # (F, 1)
        motion_codes = source.motion_code + (progress * step).to(source.motion_code.device)
        return self.render(source, motion_codes, None, output_type, return_dict, background)

    @torch.no_grad()
    def reference(
        self,
        image: PIL.Image.Image | np.ndarray | torch.Tensor,
        output_type: str = "pil",
        return_dict: bool = True,
        crop: Crop = "center",
    ) -> LEOPipelineOutput | tuple:
        r"""
        The reference image x_r of `image`: its appearance without any motion (LIA Sec. V).

        Args:
            image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): The source.
            output_type (`str`): "pil", "np", "pt" or "latent".
            return_dict (`bool`): Whether to return an output object instead of a tuple.
            crop (`str` or `Callable`): As of [`~LIAPipeline.__call__`].

        Returns:
            [`LEOPipelineOutput`] or `tuple`: One clip of one frame and its zero motion code.

        Examples:
            ```py
            >>> from PIL import Image
            >>> from leo_diffusers import DEMO_MODEL, LIAPipeline

            >>> pipeline = LIAPipeline.from_pretrained(DEMO_MODEL)
            >>> pipeline.reference(Image.open("photo.png")).frames[0][0].save("reference.png")
            ```
        """
        self.check_output_type(output_type)
        check_crop(crop, False, output_type)
        source = self.animator.encode_source(self.preprocess(image, find_image_square(image, crop)))
        return self.render(source, torch.zeros_like(source.motion_code), None, output_type, return_dict)

    def render(
        self,
        source: LIASource,
        motion_codes: torch.Tensor,
        decode_chunk_size: int | None,
        output_type: str,
        return_dict: bool,
        background: Background | None = None,
    ) -> LEOPipelineOutput | tuple:
        r"""Motion codes (F, M) of one clip to the pipeline's output."""
        frames = motion_codes = motion_codes.float()[None]
        if output_type != "latent":
            backgrounds = None if background is None else [background]
            frames = self.animate_batch(source, motion_codes, 1, decode_chunk_size, output_type, backgrounds)
        self.maybe_free_model_hooks()
        return LEOPipelineOutput(frames, motion_codes) if return_dict else (frames, motion_codes)
